"""Progress is learnt from events: sums, rates, what is left; as a table, or as few log lines."""

from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console

from dsync.app.sync import LeaseAwaited
from dsync.cli.bar import render
from dsync.cli.lines import Lines
from dsync.cli.progress import Progress
from dsync.cli.settings import Settings
from dsync.cli.showing import showing_progress
from dsync.coordinator.events import (
    CallRetried,
    ConsistencyReached,
    DeadLetterAdded,
    FindingReported,
    NamespaceCopied,
    NamespacePlanned,
    NamespaceRestarted,
    NamespaceStopped,
    PageCopied,
    PhaseChanged,
    RunPaused,
    SnapshotLost,
    StepFinished,
    StreamMoved,
)
from dsync.protocol.types import Finding, Severity
from dsync.verify.events import NamespaceCompared, RowsCompared


class Clock:
    """Moves when it is told to."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def _planned(name: str, *, rows: int, size_bytes: int, copied_rows: int = 0) -> NamespacePlanned:
    return NamespacePlanned(
        namespace=name,
        target=name,
        page_type="BSON",
        reason="",
        partitions=1,
        estimated_rows=rows,
        size_bytes=size_bytes,
        copied_rows=copied_rows,
        copied_bytes=copied_rows * 10,
    )


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def progress(clock: Clock) -> Progress:
    return Progress(clock)


def _copy(progress: Progress, clock: Clock, name: str, *, pages: int, rows: int = 100) -> None:
    """One page a second."""
    for _ in range(pages):
        clock.now_s += 1
        progress(PageCopied(namespace=name, rows=rows, size_bytes=rows * 10))


def test_sums_rate_and_what_is_left(progress: Progress, clock: Clock) -> None:
    """A table of 1,000 rows at 100 rows a second has six seconds to go after four."""
    progress(_planned("a", rows=1000, size_bytes=100_000))
    _copy(progress, clock, "a", pages=4)
    stage = progress.stage

    assert (stage.rows, stage.size_bytes) == (400, 4000)
    assert stage.share == pytest.approx(0.4)
    assert stage.rate.per_second(clock())[:2] == pytest.approx((100, 1000))
    assert stage.eta_s(clock()) == pytest.approx(6)


def test_a_rate_falls_while_nothing_happens(progress: Progress, clock: Clock) -> None:
    """A sink that hangs is seen."""
    progress(_planned("a", rows=1000, size_bytes=100_000))
    _copy(progress, clock, "a", pages=4)
    clock.now_s += 4

    assert progress.stage.rate.per_second(clock())[0] == pytest.approx(50)


def test_large_tables_weigh_more(progress: Progress, clock: Clock) -> None:
    """Half of the tables is not half of the work."""
    progress(_planned("large", rows=1000, size_bytes=1_000_000))
    progress(_planned("small", rows=10, size_bytes=8192))
    _copy(progress, clock, "small", pages=1, rows=10)
    progress(NamespaceCopied(namespace="small", rows=10, size_bytes=100))

    assert progress.stage.namespaces_done == 1
    assert progress.stage.share < 0.01


def test_an_estimate_that_was_too_low_never_gives_more_than_all(progress: Progress, clock: Clock) -> None:
    """Catalogues are behind; only the end of a table is its end."""
    progress(_planned("a", rows=10, size_bytes=8192))
    _copy(progress, clock, "a", pages=3)
    assert progress.stage.share == pytest.approx(0.99)

    progress(NamespaceCopied(namespace="a", rows=300, size_bytes=3000))
    assert progress.stage.share == 1.0
    assert progress.stage.rows == 300


def test_what_was_there_before_counts_as_done_and_not_as_speed(progress: Progress, clock: Clock) -> None:
    """A run that goes on does not seem to copy half the database in its first second."""
    progress(_planned("a", rows=1_000_000, size_bytes=1_000_000, copied_rows=500_000))
    progress(_planned("b", rows=1_000_000, size_bytes=1_000_000, copied_rows=500_000))
    _copy(progress, clock, "a", pages=3)

    assert progress.stage.rows == 1_000_300
    assert progress.stage.share == pytest.approx(0.5, abs=0.01)
    assert progress.stage.rate.per_second(clock())[0] == pytest.approx(100)


def test_a_table_that_is_read_again_starts_at_nothing(progress: Progress, clock: Clock) -> None:
    """Its rows leave the sums, and no speed is negative."""
    progress(_planned("a", rows=1000, size_bytes=100_000))
    _copy(progress, clock, "a", pages=4)
    progress(DeadLetterAdded(namespace="a", reason="check"))
    progress(NamespaceRestarted(namespace="a", reason="changed"))
    _copy(progress, clock, "a", pages=2)

    assert (progress.stage.rows, progress.stage.dead_letters) == (200, 0)
    assert progress.stage.rate.per_second(clock())[0] == pytest.approx(100)


def test_comparing_is_a_stage_of_its_own(progress: Progress, clock: Clock) -> None:
    """After a copy, or alone."""
    progress(_planned("a", rows=100, size_bytes=8192))
    progress(NamespaceCopied(namespace="a", rows=100, size_bytes=10))
    for rows in (100, 100):
        clock.now_s += 1
        progress(RowsCompared(namespace="a", rows=rows, estimated_rows=400))

    assert (progress.stage.verb, progress.phase, progress.stage.rows) == ("compared", "verifying", 200)
    assert progress.stage.share == pytest.approx(0.5)
    progress(NamespaceCompared(namespace="a", is_equal=True, source_rows=400, target_rows=400, elapsed_s=1))
    assert progress.stage.share == 1.0


# --------------------------------------------------------------------- table


def _drawn(progress: Progress, *, height: int = 24) -> list[str]:
    console = Console(width=120, height=height, force_terminal=False, no_color=True)
    with console.capture() as captured:
        console.print(render(progress, height=height))
    return captured.get().splitlines()


def test_the_table_shows_what_is_busy_and_the_sum(progress: Progress, clock: Clock) -> None:
    """Rows, bytes, rates, what is left, refused records; tables that are done or have not begun take no line."""
    progress(PhaseChanged(phase="copying"))
    for name in ("done", "slow", "quick", "waiting"):
        progress(_planned(name, rows=1000, size_bytes=100_000))
    progress(NamespaceCopied(namespace="done", rows=1000, size_bytes=5))
    for _ in range(3):
        _copy(progress, clock, "slow", pages=1, rows=10)
        _copy(progress, clock, "quick", pages=1, rows=200)
    progress(DeadLetterAdded(namespace="slow", reason="check"))
    heading, first, second, total = _drawn(progress)

    assert heading.split() == ["table", "rows", "bytes", "rows/s", "MB/s", "left", "refused"]
    assert first.startswith("quick")
    assert "600 / 1,000" in first
    assert second.startswith("slow")
    assert second.split()[-1] == "1"
    assert total.startswith("copying: 1 of 4 tables")
    assert "1,630" in total


def test_no_more_lines_than_the_screen_has(progress: Progress, clock: Clock) -> None:
    """The busiest first, and how many are not shown."""
    for number in range(100):
        progress(_planned(f"t{number}", rows=1000, size_bytes=100_000))
        _copy(progress, clock, f"t{number}", pages=1, rows=1 + number)
    lines = _drawn(progress, height=10)

    assert len(lines) <= 10
    assert any("… and 95 more" in line for line in lines)


def test_the_finish_is_counted_in_steps(progress: Progress) -> None:
    """Indexes have no rows."""
    progress(PhaseChanged(phase="finishing"))
    progress(StepFinished(step="a_pkey", kind="constraint", elapsed_s=1.0, done=3, total=12))

    assert _drawn(progress)[-1].startswith("finishing: 3 of 12 steps")


def test_before_anything_is_known_the_phase_is_shown(progress: Progress) -> None:
    """Rather than nothing of nothing."""
    assert _drawn(progress)[-1].startswith("starting ")
    progress(PhaseChanged(phase="checking"))
    assert _drawn(progress)[-1].startswith("checking ")


# --------------------------------------------------------------------- lines


class Log:
    """Takes note of log lines."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, dict[str, Any]]] = []

    def __getattr__(self, level: str) -> Any:
        return lambda event, **fields: self.lines.append((level, event, fields))

    def named(self, event: str) -> list[tuple[str, dict[str, Any]]]:
        return [(level, fields) for level, name, fields in self.lines if name == event]


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def lines(log: Log, progress: Progress) -> Lines:
    return Lines(log, progress)


def test_a_line_every_five_seconds_says_how_far_it_is(lines: Lines, log: Log, clock: Clock) -> None:
    """However many pages there are; the first one not before there is something to say."""
    lines(_planned("a", rows=2000, size_bytes=100_000))
    for _ in range(160):
        clock.now_s += 0.125
        lines(PageCopied(namespace="a", rows=10, size_bytes=100))

    said = log.named("rows_copied")
    assert len(said) == 4
    level, fields = said[-1]
    assert level == "info"
    assert (fields["rows"], fields["bytes"], fields["tables"], fields["percent"]) == (1600, 16_000, "0/1", 80)
    assert fields["rows_per_s"] == pytest.approx(80, abs=8)
    assert fields["left"]


def test_repeated_events_are_counted_rather_than_repeated(lines: Lines, log: Log, clock: Clock) -> None:
    """A server that is away for a minute gives a dozen lines, not a thousand."""
    for _ in range(80):
        clock.now_s += 0.125
        lines(CallRetried(namespace="a", operation="write a page", error="ServerUnavailableError", reason="gone"))

    said = log.named("call_retried")
    assert len(said) == 2
    assert said[0][1]["reason"] == "gone"
    assert "and_before" not in said[0][1]
    assert said[1][1]["and_before"] == 39


@pytest.mark.parametrize(("tables", "level"), [(3, "info"), (300, "debug")])
def test_many_tables_are_named_only_under_v(lines: Lines, log: Log, tables: int, level: str) -> None:
    """Hundreds of lines say nothing."""
    for number in range(tables):
        lines(_planned(f"t{number}", rows=1, size_bytes=1))
    for number in range(tables):
        lines(NamespaceCopied(namespace=f"t{number}", rows=1, size_bytes=1))

    assert {said for said, _ in log.named("namespace_copied")} == {level}
    assert {said for said, _ in log.named("namespace_planned")} == {"debug"}


def test_what_a_person_has_to_know_is_said_at_once(lines: Lines, log: Log) -> None:
    """Each time, as a warning."""
    for number in range(3):
        lines(NamespaceStopped(namespace=f"t{number}", reason="it was dropped"))
    lines(SnapshotLost(reason="the holder is gone"))
    lines(LeaseAwaited(host="other", pid=7, remaining_s=20.0))

    assert [(level, event) for level, event, _ in log.lines] == [
        *[("warning", "namespace_stopped")] * 3,
        ("warning", "snapshot_lost"),
        ("warning", "lease_awaited"),
    ]


@pytest.mark.parametrize(
    ("severity", "level"), [(Severity.STOP, "error"), (Severity.WARNING, "warning"), (Severity.INFO, "debug")]
)
def test_findings_are_as_loud_as_they_are_grave(lines: Lines, log: Log, severity: Severity, level: str) -> None:
    """With what to do."""
    finding = Finding(code="no-pg-dump", severity=severity, object="pg_dump", message="missing", remedy="install it")
    lines(FindingReported(finding=finding))

    assert log.named("finding_reported") == [
        (level, {"code": "no-pg-dump", "object": "pg_dump", "message": "missing", "remedy": "install it"})
    ]


def test_a_finding_of_a_thousand_tables_takes_five_lines(lines: Lines, log: Log) -> None:
    """`dsync doctor` lists all of them."""
    for number in range(1000):
        finding = Finding(code="no-select", severity=Severity.STOP, object=f"t{number}", message="may not read it")
        lines(FindingReported(finding=finding))

    assert [fields["object"] for _, fields in log.named("finding_reported")] == ["t0", "t1", "t2", "t3", "t4"]


def test_a_difference_is_a_warning(lines: Lines, log: Log) -> None:
    """A table that agrees is none."""
    for name, is_equal in (("a", True), ("b", False)):
        lines(NamespaceCompared(namespace=name, is_equal=is_equal, source_rows=1, target_rows=1, elapsed_s=0.1234))

    assert [(level, fields["namespace"]) for level, fields in log.named("namespace_compared")] == [
        ("debug", "a"),
        ("warning", "b"),
    ]


@pytest.mark.parametrize(
    ("settings", "choice", "shown"),
    [
        (Settings(), "auto", True),
        (Settings(), "plain", True),
        (Settings(), "json", False),
        (Settings(), "none", False),
        (Settings(is_quiet=True), "auto", False),
    ],
)
def test_which_form_progress_takes(
    settings: Settings, choice: Any, shown: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a terminal: lines, unless nothing is wanted."""
    with showing_progress(settings, choice) as emit:
        emit(PhaseChanged(phase="copying"))

    printed = capsys.readouterr()
    assert ("phase_changed" in printed.err) is shown
    assert printed.out == ""


def _moved(changes: int, *, lag_bytes: int = 0, safe_bytes: int | None = None) -> StreamMoved:
    return StreamMoved(
        changes=changes,
        lag_s=lag_bytes / 1000,
        lag_bytes=lag_bytes,
        spool_bytes=3_000_000,
        retained_bytes=7_000_000,
        safe_bytes=safe_bytes,
    )


def test_a_stream_takes_the_place_of_the_tables_once_they_are_copied(progress: Progress, clock: Clock) -> None:
    """Lag, changes a second, the spool, what the source keeps, and until when."""
    progress(PhaseChanged(phase="copying"))
    progress(_planned("a", rows=1000, size_bytes=100_000))
    progress(_moved(0))
    assert "wait in the spool: 3.0 MB" in "\n".join(_drawn(progress))
    assert "copying" in "\n".join(_drawn(progress))

    progress(PhaseChanged(phase="streaming"))
    for second in range(31):
        clock.now_s += 1
        progress(_moved(second * 40, lag_bytes=2000, safe_bytes=90_000_000 - second * 1_000_000))
    drawn = "\n".join(_drawn(progress))

    assert "2.0 s and 2.0 kB behind" in drawn
    assert "1,200 changes applied, 40/s" in drawn
    assert "7.0 MB; gives it up after another 60.0 MB, in 1 min 0 s at this rate" in drawn
    assert "wait in the spool" not in drawn
    progress(_moved(1200))
    progress(RunPaused(reason=""))
    drawn = "\n".join(_drawn(progress))
    assert "paused (streaming)" in drawn
    assert "nothing behind" in drawn
    assert "without a limit but its disk" in drawn


def test_a_stream_has_a_line_a_minute_and_consistency_one_of_its_own(clock: Clock) -> None:
    """While the copy goes on its own lines are enough."""
    said: list[tuple[str, dict[str, Any]]] = []

    class Log:
        def info(self, event: str, **fields: Any) -> None:
            said.append((event, fields))

        debug = warning = info

    lines = Lines(Log(), Progress(clock))
    lines(PhaseChanged(phase="copying"))
    lines(_moved(0))
    lines(PhaseChanged(phase="streaming"))
    lines(ConsistencyReached(position=77))
    for second in range(130):
        clock.now_s += 1
        lines(_moved(second))

    assert [event for event, _ in said] == [
        "phase_changed",
        "phase_changed",
        "consistency_reached",
        *["changes_applied"] * 3,
    ]
    assert said[2][1] == {"position": 77}
    assert (said[-1][1]["changes"], said[-1][1]["changes_per_s"]) == (120, 1.0)
    assert "safe_bytes" not in said[-1][1]
