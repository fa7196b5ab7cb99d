"""What an examination has found, for people and for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dsync.conformance.check import Check
from dsync.conformance.outcomes import Outcome
from dsync.protocol.types import Extensions, Info, PageType

DIFFERENCES_EXIT_CODE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """One check and what became of it."""

    check: Check
    outcome: Outcome
    expected: str = ""
    seen: str = ""
    note: str = ""
    """Why it was not tried, or a remark on how the promise is kept."""
    elapsed_s: float = 0.0

    def as_json(self) -> dict[str, Any]:
        return {
            "id": self.check.id,
            "outcome": self.outcome.value,
            "what": self.check.what,
            "why": self.check.why,
            "stands_on": self.check.stands_on,
            "expected": self.expected,
            "seen": self.seen,
            "note": self.note,
            "elapsed_s": round(self.elapsed_s, 3),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a connector declares, and what it does."""

    info: Info
    extensions: Extensions
    results: tuple[CheckResult, ...]
    left_over: int = 0
    """Records that may have stayed in the scratch namespace."""

    def of(self, outcome: Outcome) -> tuple[CheckResult, ...]:
        return tuple(result for result in self.results if result.outcome is outcome)

    def result(self, check_id: str) -> CheckResult:
        """What became of one check.

        Raises:
            KeyError: it was not asked for.
        """
        return {result.check.id: result for result in self.results}[check_id]

    @property
    def exit_code(self) -> int:
        return DIFFERENCES_EXIT_CODE if self.of(Outcome.FAILED) else 0

    @property
    def summary(self) -> str:
        passed, failed, skipped = (len(self.of(outcome)) for outcome in Outcome)
        return f"{passed} passed, {failed} failed, {skipped} not tried"

    def as_json(self) -> dict[str, Any]:
        return {
            "declares": declared(self.info, self.extensions),
            "passed": len(self.of(Outcome.PASSED)),
            "failed": len(self.of(Outcome.FAILED)),
            "skipped": len(self.of(Outcome.SKIPPED)),
            "left_over": self.left_over,
            "checks": [result.as_json() for result in self.results],
        }


def declared(info: Info, extensions: Extensions) -> dict[str, Any]:
    """What the connector says of itself."""
    source, sink = info.source, info.sink
    return {
        "id": info.id,
        "db_type": info.db_type,
        "version": info.version,
        "source": None
        if source is None
        else {
            "data_types": _names(source.data_types),
            "lsn_stream": source.lsn_stream,
            "multi_namespace_plan": source.multi_namespace_plan,
            "default_plan": source.default_plan,
            "get_by_ids": source.get_by_ids,
        },
        "sink": None if sink is None else {"data_types": _names(sink.data_types)},
        "services": sorted(extensions.services),
        "max_message_bytes": extensions.max_message_bytes,
        "read_types": _names(extensions.read_types),
        "write_types": _names(extensions.write_types),
        "transactional": extensions.transactional,
    }


def render(report: Report) -> str:
    """The report as text: what it declares, what passed, what failed and why it matters, what was not tried and why."""
    blocks = [_declared_lines(report)]
    if passed := report.of(Outcome.PASSED):
        blocks.append(["passed", *(line for result in passed for line in _passed(result))])
    if skipped := report.of(Outcome.SKIPPED):
        blocks.append(["not tried", *_skipped(skipped)])
    if failed := report.of(Outcome.FAILED):
        blocks.append(["failed", *(line for result in failed for line in _failed(result))])
    if report.left_over:
        blocks.append([f"up to {report.left_over} records were left in the scratch namespace: it takes no deletes"])
    return "\n\n".join("\n".join(block) for block in blocks)


def _declared_lines(report: Report) -> list[str]:
    info, extensions = report.info, report.extensions
    lines = [f"{info.db_type or 'unnamed'} {info.version}".rstrip() + (f", id {info.id}" if info.id else ", no id")]
    if info.source is not None:
        can = [
            name
            for name in ("multi_namespace_plan", "default_plan", "get_by_ids", "lsn_stream")
            if getattr(info.source, name)
        ]
        lines.append(f"source  {', '.join([*_names(info.source.data_types), *can]) or 'of no type'}")
    if info.sink is not None:
        lines.append(f"sink    {', '.join(_names(info.sink.data_types)) or 'of no type'}")
    lines.append(f"dsync.v1  {', '.join(sorted(extensions.services)) or 'nothing'}")
    return lines


def _passed(result: CheckResult) -> list[str]:
    return [f"  {result.check.id}  {result.check.what}", *([f"      {result.note}"] if result.note else [])]


def _skipped(results: Sequence[CheckResult]) -> list[str]:
    by_reason: dict[str, list[str]] = {}
    for result in results:
        by_reason.setdefault(result.note, []).append(result.check.id)
    return [f"  {', '.join(ids)}\n      {reason}" for reason, ids in by_reason.items()]


def _failed(result: CheckResult) -> list[str]:
    return [
        f"  {result.check.id}  {result.check.what}",
        f"      expected   {result.expected}",
        f"      seen       {result.seen}",
        f"      why        {result.check.why}",
        f"      stands on  {result.check.stands_on}",
    ]


def _names(types: Sequence[PageType]) -> list[str]:
    return [kind.name for kind in types]
