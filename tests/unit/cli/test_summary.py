"""What a sync says at its end: exact counts, what went wrong, and what repairs it."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from dsync.app.status import DeadLetterGroup
from dsync.app.sync import SyncOutcome
from dsync.cli.summary import sync_answer
from dsync.coordinator.result import NamespaceResult, RunResult, StepFailure
from dsync.state import NamespaceState, Phase, RunRow
from dsync.verify import Difference, Kind, Method, NamespaceReport, VerifyReport

ENDED = datetime(2025, 11, 21, 8, 12, 3, tzinfo=UTC)


def _namespace(name: str, **changes: Any) -> NamespaceResult:
    facts: dict[str, Any] = {"rows": 1000, "size_bytes": 50_000, "state": NamespaceState.COPIED, "reason": ""}
    return NamespaceResult(namespace=name, target=name, **facts | changes)


def _result(*namespaces: NamespaceResult, **changes: Any) -> RunResult:
    rows = sum(item.rows for item in namespaces)
    facts: dict[str, Any] = {"consistent": True, "elapsed_s": 2.0, "moved_rows": rows, "moved_bytes": 100_000}
    return RunResult(flow="f00d", run="r1", namespaces=namespaces, **facts | changes)


def _outcome(result: RunResult | None, *, summary: Any = None, verify: VerifyReport | None = None) -> SyncOutcome:
    run = RunRow(
        flow="f00d",
        run="r1",
        number=1,
        mode="copy",
        spec={},
        spec_revision=1,
        phase=Phase.DONE,
        started_at=ENDED,
        finished_at=ENDED,
        consistent=True,
        summary=summary,
    )
    return SyncOutcome(flow="f00d", flow_name="", run=run, result=result, verify=verify)


def test_a_copy_that_went_well_is_one_line() -> None:
    """Tables, rows, bytes, how long, how quick; the object has the same counts."""
    answer = sync_answer(_outcome(_result(_namespace("a"), _namespace("b"))))

    assert answer.summary == "copied 2 tables, 2,000 rows, 100,000 bytes in 2.0 s: 1,000 rows/s, 0.1 MB/s"
    assert answer.exit_code == 0
    assert (answer.result["rows"], answer.result["bytes"], answer.result["consistent"]) == (2000, 100_000, True)
    assert [item["namespace"] for item in answer.result["namespaces"]] == ["a", "b"]
    assert answer.result["flow"] == "f00d"


def test_a_run_that_went_on_says_how_much_of_it_was_now() -> None:
    """The total is of all its lives, the speed of this one."""
    answer = sync_answer(_outcome(_result(_namespace("a"), moved_rows=400, moved_bytes=20_000)))

    assert answer.summary.startswith("copied 1 table, 1,000 rows, 50,000 bytes in 2.0 s: 200 rows/s")
    assert answer.summary.endswith("; 400 rows of them now")
    assert answer.result["moved_rows"] == 400


def test_a_finished_copy_says_when_and_moves_nothing() -> None:
    """And how to start another run."""
    stored = _result(_namespace("a")).as_json()
    answer = sync_answer(_outcome(None, summary=stored))

    assert answer.summary == (
        "flow f00d finished at 2025-11-21 08:12:03 UTC: 1 table, 1,000 rows, 50,000 bytes; nothing moved"
        " (--again reads again what may have changed)"
    )
    assert answer.exit_code == 0
    assert (answer.result["moved_nothing"], answer.result["moved_rows"]) == (True, 0)
    assert answer.result["rows"] == 1000


def test_what_did_not_arrive_is_named_with_what_repairs_it() -> None:
    """A table that stopped, one that changed, a step that failed: exit 6."""
    answer = sync_answer(
        _outcome(
            _result(
                _namespace("a"),
                _namespace("b", state=NamespaceState.STOPPED, reason="b was dropped"),
                _namespace("c", state=NamespaceState.CHANGED, reason="rows were written"),
                consistent=False,
                failed_steps=(StepFailure(step="c_idx", namespace="c", reason="duplicate key"),),
            )
        )
    )

    assert answer.exit_code == 6
    assert answer.summary.splitlines()[1:] == [
        "stopped: b: b was dropped",
        "changed while it was copied: c: rows were written",
        "not done: c_idx: duplicate key",
        "→ the same command with --again repairs it, reading again what may have changed",
    ]
    assert answer.problem


def test_dead_letters_are_listed_by_reason() -> None:
    """Exit 5; the first reasons are named, and how many more there are."""
    groups = [DeadLetterGroup(namespace="a", reason=f"reason {n}", records=2) for n in range(25)]
    answer = sync_answer(_outcome(_result(_namespace("a", dead_letters=50))), groups)
    lines = answer.summary.splitlines()

    assert answer.exit_code == 5
    assert lines[1] == "dead letters: 50 records refused (`dsync dead-letters list f00d` lists them)"
    elsewhere = sync_answer(
        replace(_outcome(_result(_namespace("a", dead_letters=50))), flow_name="my flow", state="s.db")
    )
    assert "(`dsync dead-letters list 'my flow' --state s.db` lists them)" in elsewhere.summary
    assert lines[2] == "  a: 2 records: reason 0"
    assert lines[-1] == "  … and 5 more reasons"
    assert len(answer.result["dead_letter_reasons"]) == 25


@pytest.mark.parametrize(("is_equal", "exit_code"), [(True, 0), (False, 4)])
def test_a_verification_has_the_last_word(is_equal: bool, exit_code: int) -> None:
    """What differs is printed before the summary, the verdict in it."""
    differences = () if is_equal else (Difference(kind=Kind.COUNT, rows=0, detail="10 rows here, 9 there"),)
    report = VerifyReport(
        namespaces=(NamespaceReport(source="a", target="a", method=Method.QUICK, differences=differences),),
        live=False,
        elapsed_s=0.5,
    )
    answer = sync_answer(_outcome(_result(_namespace("a")), verify=report))

    assert answer.exit_code == exit_code
    assert answer.summary.splitlines()[-1].startswith("verify: 1 ")
    assert ("count: 10 rows here, 9 there" in answer.details) is not is_equal
    assert answer.result["verify"]["equal"] is is_equal
