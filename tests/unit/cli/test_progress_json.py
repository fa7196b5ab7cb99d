"""`--progress json` is read by programs: one object a line, with the fields that are documented."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dsync.cli.progress import Progress
from dsync.cli.progress_json import FIELDS, NAMESPACE_FIELDS, STREAM_FIELDS, VERSION, JsonLines, showing_json
from dsync.cli.settings import Settings
from dsync.coordinator.events import (
    CallRetried,
    ConsistencyReached,
    DeadLetterAdded,
    FindingReported,
    NamespaceCopied,
    NamespacePlanned,
    NamespaceStopped,
    PageCopied,
    PartitionCopied,
    PhaseChanged,
    StepFinished,
    StreamMoved,
)
from dsync.protocol.types import Finding, Severity
from dsync.verify.events import NamespaceCompared, RowsCompared

_CANARY = "canary-51c2"


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def shown(clock: Clock) -> JsonLines:
    settings = Settings()
    settings.hide([_CANARY])
    return JsonLines(settings, Progress(clock))


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Any:
    """What has been printed since the last look, as objects."""

    def read() -> list[dict[str, Any]]:
        printed = capsys.readouterr()
        assert printed.out == ""
        return [json.loads(line) for line in printed.err.splitlines()]

    return read


def _planned(name: str, *, rows: int, copied_rows: int = 0) -> NamespacePlanned:
    return NamespacePlanned(
        namespace=name,
        target=name,
        page_type="BSON",
        reason="",
        partitions=1,
        estimated_rows=rows,
        size_bytes=rows * 100,
        copied_rows=copied_rows,
    )


def test_a_line_has_the_fields_that_are_documented(shown: JsonLines, lines: Any, clock: Clock) -> None:
    """In their order, each a number where it is one: rows, bytes, rates, what is left, refused records."""
    shown(PhaseChanged(phase="copying"))
    shown(_planned("a", rows=1000))
    shown(_planned("b", rows=10))
    for _ in range(4):
        clock.now_s += 1
        shown(PageCopied(namespace="a", rows=100, size_bytes=5000))
    shown(DeadLetterAdded(namespace="a", reason="check"))
    shown(StepFinished(step="a_pkey", kind="index", elapsed_s=1, done=1, total=3))
    shown.say()
    line = lines()[-1]

    assert list(line) == list(FIELDS)
    assert [list(one) for one in line["namespaces"]] == [list(NAMESPACE_FIELDS)] * 2
    assert (line["type"], line["version"], line["phase"], line["is_last"]) == ("progress", VERSION, "copying", False)
    assert line["at"].endswith("Z")
    assert (line["rows"], line["estimated_rows"], line["bytes"], line["estimated_bytes"]) == (400, 1010, 20000, 101000)
    assert (line["rows_per_s"], line["bytes_per_s"], line["elapsed_s"]) == (100, 5000, 4)
    assert line["eta_s"] == pytest.approx(6.8, abs=0.2)
    assert (line["dead_letters"], line["namespaces_done"], line["namespaces_total"]) == (1, 0, 2)
    assert (line["steps_done"], line["steps_total"]) == (1, 3)
    assert line["namespaces"][0] == {
        "namespace": "a",
        "state": "running",
        "rows": 400,
        "estimated_rows": 1000,
        "bytes": 20000,
        "estimated_bytes": 100000,
        "rows_per_s": 100,
        "bytes_per_s": 5000,
        "eta_s": 6,
        "dead_letters": 1,
        "reason": "",
    }
    assert (line["namespaces"][1]["state"], line["namespaces"][1]["eta_s"]) == ("waiting", None)


def test_only_what_has_changed_is_repeated(shown: JsonLines, lines: Any, clock: Clock) -> None:
    """A thousand tables take no hundred kilobytes a second; the last line has them all."""
    for number in range(5):
        shown(_planned(f"t{number}", rows=10))
    shown.say()
    shown(PageCopied(namespace="t3", rows=5, size_bytes=50))
    clock.now_s += 1
    shown.say()
    shown(NamespaceCopied(namespace="t3", rows=10, size_bytes=100))
    shown(NamespaceStopped(namespace="t4", reason="it was dropped"))
    shown.say(is_last=True)
    first, second, event, last = lines()

    assert len(first["namespaces"]) == 5
    assert [one["namespace"] for one in second["namespaces"]] == ["t3"]
    assert event["event"] == "namespace_stopped"
    assert {one["namespace"]: one["state"] for one in last["namespaces"]} == {
        "t0": "waiting",
        "t1": "waiting",
        "t2": "waiting",
        "t3": "done",
        "t4": "stopped",
    }
    assert last["namespaces"][4]["reason"] == "it was dropped"
    assert last["is_last"]


def test_what_numbers_do_not_tell_has_a_line_of_its_own(shown: JsonLines, lines: Any) -> None:
    """With the event's name and values; what is too frequent to be told has none."""
    shown(FindingReported(finding=Finding(code="c", severity=Severity.STOP, object="o", message="m", remedy="r")))
    shown(CallRetried(namespace="a", operation="write a page", error="ServerUnavailableError", reason="gone"))
    shown(PartitionCopied(namespace="a", unit="u", rows=1, size_bytes=1, elapsed_s=1))
    shown(DeadLetterAdded(namespace="a", reason="r"))
    finding, retried = lines()

    assert {key: finding[key] for key in ("type", "version", "event")} == {
        "type": "event",
        "version": VERSION,
        "event": "finding_reported",
    }
    assert (finding["severity"], finding["remedy"]) == ("stop", "r")
    assert (retried["event"], retried["namespace"], retried["reason"]) == ("call_retried", "a", "gone")


def test_comparing_counts_compared_rows(shown: JsonLines, lines: Any) -> None:
    """Under the phase `verifying`."""
    shown(RowsCompared(namespace="a", rows=50, estimated_rows=100))
    shown(NamespaceCompared(namespace="b", is_equal=True, source_rows=7, target_rows=7, elapsed_s=0.1))
    shown.say()
    (line,) = lines()

    assert (line["phase"], line["rows"], line["bytes"], line["namespaces_done"]) == ("verifying", 57, 0, 1)


def test_no_secret_is_shown(shown: JsonLines, lines: Any) -> None:
    """In a name or a reason."""
    shown(NamespaceStopped(namespace=f"t {_CANARY}", reason=f"connecting as {_CANARY}"))
    shown.say()

    assert _CANARY not in json.dumps(lines())


def test_lines_come_while_nothing_happens_and_a_last_one_when_it_fails(lines: Any) -> None:
    """A reader sees that it lives, and knows the end without knowing the process."""
    ticked = threading.Event()

    class Watched(Settings):
        def shown_values(self, value: Any) -> Any:
            ticked.set()
            return super().shown_values(value)

    def fail() -> None:
        with showing_json(Watched(), interval_s=0.01):
            assert ticked.wait(30)
            raise ValueError("the copy failed")

    with pytest.raises(ValueError, match="the copy failed"):
        fail()
    *ticks, last = lines()

    assert len(ticks) >= 1
    assert last["is_last"]
    assert not any(line["is_last"] for line in ticks)
    assert not [thread for thread in threading.enumerate() if thread.name == "dsync-progress"]


def _documented(heading: str, text: str) -> Iterator[str]:
    table = text.split(heading)[1].split("\n\n")[1]
    yield from (row.split("|")[1].strip().strip("`") for row in table.splitlines()[2:])


def test_every_field_is_in_the_manual() -> None:
    """In the tables of the reference."""
    text = (Path(__file__).resolve().parents[3] / "docs/reference.md").read_text(encoding="utf-8")

    assert list(_documented("### A line of progress, version 1", text)) == list(FIELDS)
    assert list(_documented("### Its namespaces", text)) == list(NAMESPACE_FIELDS)


def test_a_stream_is_told_with_its_figures(shown: JsonLines, lines: Any, clock: Clock) -> None:
    """Null until there is one; the consistency is an event too."""
    shown(PhaseChanged(phase="streaming"))
    for changes in (0, 50):
        clock.now_s += 1
        shown(StreamMoved(changes=changes, lag_s=1.5, lag_bytes=7, spool_bytes=8, retained_bytes=9, safe_bytes=None))
    shown(ConsistencyReached(position=77))
    shown.say()
    first, event, last = lines()

    assert (first["stream"], first["consistent_at"]) == (None, None)
    assert (event["event"], event["position"]) == ("consistency_reached", 77)
    assert list(last["stream"]) == list(STREAM_FIELDS)
    assert last["stream"] == {
        "changes": 50,
        "changes_per_s": 50,
        "lag_s": 1.5,
        "lag_bytes": 7,
        "spool_bytes": 8,
        "retained_bytes": 9,
        "safe_bytes": None,
        "lost_in_s": None,
    }
    assert last["consistent_at"] == 77
