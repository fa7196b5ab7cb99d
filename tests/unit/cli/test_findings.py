"""Findings are grouped by what they are, the gravest first, each with what to do."""

from dsync.cli.findings import render_findings, summarize, unique
from dsync.protocol.types import Finding, Severity


def _finding(code: str, severity: Severity, thing: str, remedy: str = "do something") -> Finding:
    return Finding(code=code, severity=severity, object=thing, message="is wrong", remedy=remedy)


def test_objects_with_the_same_finding_share_a_block() -> None:
    """And its remedy, which is said once."""
    findings = unique(
        [
            _finding("page-type", Severity.INFO, "shop.c"),
            _finding("row-security", Severity.STOP, "shop.a"),
            _finding("row-security", Severity.STOP, "shop.b"),
            _finding("no-pg-dump", Severity.WARNING, ""),
            _finding("row-security", Severity.STOP, "shop.a"),
        ]
    )

    assert render_findings(findings).splitlines() == [
        "stops a flow: row-security",
        "  shop.a: is wrong",
        "  shop.b: is wrong",
        "  → do something",
        "warning: no-pg-dump",
        "  is wrong",
        "  → do something",
        "to know: page-type",
        "  shop.c: is wrong",
        "  → do something",
    ]
    assert summarize(findings) == "2 findings that stop a flow, 1 warning, 1 note"


def test_a_long_list_is_cut_unless_all_is_asked_for() -> None:
    """A thousand tables with the same fate are one finding to a reader."""
    findings = [_finding("text-copy", Severity.INFO, f"t{number}") for number in range(100)]

    assert len(render_findings(findings).splitlines()) == 23
    assert "… and 80 more (-v lists them)" in render_findings(findings)
    assert len(render_findings(findings, verbose=True).splitlines()) == 102


def test_nothing_is_said_plainly() -> None:
    """An empty answer would look like a failure."""
    assert summarize([]) == "nothing found"
    assert render_findings([]) == ""
