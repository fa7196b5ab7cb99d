"""Findings as text and as JSON: grouped by how grave they are, each with what to do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from dsync.cli.text import counted

if TYPE_CHECKING:
    from dsync.protocol.types import Finding

_HEADINGS = (("STOP", "stops a flow"), ("WARNING", "warning"), ("INFO", "to know"))
_LISTED = 20


def finding_json(finding: Finding) -> dict[str, Any]:
    return {
        "code": finding.code,
        "severity": finding.severity.name.lower(),
        "object": finding.object,
        "message": finding.message,
        "remedy": finding.remedy,
    }


def unique(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Each once, the gravest first."""
    return tuple(sorted(dict.fromkeys(findings), key=lambda finding: -finding.severity))


def render_findings(findings: Sequence[Finding], *, verbose: bool = False) -> str:
    """One block a kind of finding: what it is, then the objects it concerns."""
    blocks = []
    for severity, heading in _HEADINGS:
        groups: dict[tuple[str, str], list[Finding]] = {}
        for finding in findings:
            if finding.severity.name == severity:
                groups.setdefault((finding.code, finding.remedy), []).append(finding)
        for (code, remedy), members in groups.items():
            blocks.append(_block(heading, code, remedy, members, verbose=verbose))
    return "\n".join(blocks)


def _block(heading: str, code: str, remedy: str, members: Sequence[Finding], *, verbose: bool) -> str:
    shown = members if verbose else members[:_LISTED]
    lines = [f"{heading}: {code}"]
    lines += [f"  {f'{finding.object}: ' if finding.object else ''}{finding.message}" for finding in shown]
    if len(members) > len(shown):
        lines.append(f"  … and {len(members) - len(shown):,} more (-v lists them)")
    if remedy:
        lines.append(f"  → {remedy}")
    return "\n".join(lines)


def summarize(findings: Sequence[Finding]) -> str:
    """`1 finding stops a flow, 2 warnings`."""
    found = {severity: sum(finding.severity.name == severity for finding in findings) for severity, _ in _HEADINGS}
    if not findings:
        return "nothing found"
    parts = []
    if found["STOP"]:
        parts.append(counted(found["STOP"], "finding that stops a flow", "findings that stop a flow"))
    if found["WARNING"]:
        parts.append(counted(found["WARNING"], "warning"))
    if found["INFO"]:
        parts.append(counted(found["INFO"], "note"))
    return ", ".join(parts)
