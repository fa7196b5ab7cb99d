"""Comparing ends that hash where the data is."""

from __future__ import annotations

import asyncio
import copy

import pytest

from dsync.coordinator.events import SnapshotLost
from dsync.protocol.errors import (
    CapacityError,
    HiddenRowsError,
    PermanentError,
    ServerUnavailableError,
    SnapshotLostError,
    UnsupportedError,
)
from dsync.protocol.types import RowsRequest, TextRow
from dsync.verify import (
    Kind,
    Method,
    NamespaceCompared,
    RowsCompared,
    VerifyOptions,
    VerifyReport,
    verify,
)
from tests.unit.verify.fakes import ChecksumEnd, MemoryProgress, Table

STILL = VerifyOptions(live=False, retry_for_s=5)
SPACE = {"s.t": "s.t"}


def ends(table: Table, target: Table | None = None) -> tuple[ChecksumEnd, ChecksumEnd]:
    other = copy.deepcopy(table) if target is None else target
    return ChecksumEnd({"s.t": table}), ChecksumEnd({"s.t": other}, name="two")


def kinds(report: VerifyReport) -> dict[tuple[str, ...], Kind]:
    (namespace,) = report.namespaces
    return {d.key: d.kind for d in namespace.differences}


async def test_equal_tables_cost_one_checksum_a_range() -> None:
    """No row leaves its server."""
    source, target = ends(Table.of(1000))
    report = await verify(source, target, SPACE, VerifyOptions(live=False, rows_per_range=250))
    assert report.exit_code == 0
    assert (report.source_rows, report.target_rows, report.methods) == (1000, 1000, (Method.PUSHED_DOWN,))
    for end in (source, target):
        assert len(end.calls_of("get_checksum")) == 4
        assert end.streamed_rows == 0
    assert target.calls_of("plan_ranges") == []


async def test_narrowing_looks_only_at_what_differs() -> None:
    """One wrong row among many: the sums of ever smaller buckets lead to it."""
    table = Table.of(20_000)
    source, target = ends(table)
    target.tables["s.t"].rows[12_345]["note"] = "wrong"
    report = await verify(source, target, SPACE, VerifyOptions(live=False, rows_per_range=5_000, pulled_rows=50))
    assert kinds(report) == {("012345",): Kind.DIFFERENT}
    assert target.streamed_rows < 100
    ranges = {request.range for request in target.calls_of("get_checksum")}
    assert len(target.calls_of("get_checksum")) <= len(ranges) + 2


async def test_a_table_that_cannot_be_cut_is_divided_in_its_first_scan() -> None:
    """Keys that order unlike at both ends, or that an index misses, are told apart by hash alone."""
    table = Table.of(8_000)
    table.orders_everywhere = False
    source, target = ends(table)
    del target.tables["s.t"].rows[77]
    report = await verify(source, target, SPACE, VerifyOptions(live=False, pulled_rows=1000))
    assert kinds(report) == {("000077",): Kind.MISSING}
    assert source.calls_of("plan_ranges") == []
    assert len(source.calls_of("get_checksum")) == 1
    assert source.calls_of("get_checksum")[0].buckets >= 8
    assert source.streamed_rows < 2_000


@pytest.mark.parametrize("change", ["type", "key", "nullable"])
async def test_ranges_need_the_same_kind_of_key_at_both_ends(change: str) -> None:
    """Another type may order differently, no index would make each range a scan, and a NULL is in no range."""
    table = Table.of(2_000)
    other = copy.deepcopy(table)
    if change == "type":
        other.types = {"id": "varchar"}
    elif change == "key":
        other.key = ()
    else:
        table.columns = other.columns = ("id", "note")
        other.key = ("note",)
    source, target = ends(table, other)
    await verify(source, target, SPACE, VerifyOptions(live=False, rows_per_range=100))
    assert source.calls_of("plan_ranges") == []


async def test_equal_pairs_do_not_cancel_out() -> None:
    """Under XOR two equal rows would be as good as none."""
    table = Table(key=(), rows=[{"id": "1", "note": "x"}])
    more = Table(key=(), rows=[*table.rows, {"id": "2", "note": "y"}, {"id": "2", "note": "y"}])
    source, target = ends(table, more)
    report = await verify(source, target, SPACE, STILL)
    (namespace,) = report.namespaces
    assert namespace.counts.extra == 2
    assert namespace.differences[0].rows == 2


async def test_counts_are_exact_beyond_what_is_listed() -> None:
    """All rows differ: each is counted in its class, the first are listed, and every one was looked at once."""
    table = Table.of(3_000)
    source, target = ends(table)
    rows = target.tables["s.t"].rows
    for row in rows:
        row["note"] = "wrong"
    del rows[:10]
    rows.extend({"id": f"x{n}", "note": ""} for n in range(20))
    report = await verify(source, target, SPACE, VerifyOptions(live=False, max_diffs=5, pulled_rows=100))
    (namespace,) = report.namespaces
    assert (namespace.counts.missing, namespace.counts.extra, namespace.counts.different) == (10, 20, 2_990)
    assert len(namespace.differences) == 5
    assert namespace.unlisted == 3_015
    assert target.streamed_rows == 3_010


async def test_an_empty_target_is_not_read_row_by_row() -> None:
    """What one end has nothing of is counted by the other; only what is listed is asked for."""
    source, target = ends(Table.of(30_000), Table())
    report = await verify(source, target, SPACE, VerifyOptions(live=False, max_diffs=10))
    (namespace,) = report.namespaces
    assert namespace.counts.missing == 30_000
    assert len(namespace.differences) == 10
    assert source.streamed_rows <= 100
    assert source.open_streams == 0


async def test_columns_are_compared_by_name_and_in_common() -> None:
    """Their order does not matter; what one end lacks cannot be compared, and is said."""
    table = Table(columns=("id", "note", "lost"), rows=[{"id": "1", "note": "x", "lost": "y"}])
    other = Table(columns=("extra", "note", "id"), rows=[{"id": "1", "note": "x", "extra": "z"}])
    source, target = ends(table, other)
    report = await verify(source, target, SPACE, STILL)
    (namespace,) = report.namespaces
    assert [(d.kind, d.detail) for d in namespace.differences] == [(Kind.TYPE, "the target has no column lost (text)")]
    assert namespace.notes == ("only the target has the column extra: not compared",)
    assert target.calls_of("get_checksum")[0].columns == ("id", "note")


async def test_a_key_that_the_target_lacks_is_no_key() -> None:
    """Rows then compare by what both have, as a multiset."""
    table = Table(columns=("id", "note"), rows=[{"id": "1", "note": "x"}, {"id": "2", "note": "x"}])
    source, target = ends(table, Table(columns=("note",), key=(), rows=[{"note": "x"}]))
    report = await verify(source, target, SPACE, STILL)
    assert report.namespaces[0].counts.missing == 1
    assert report.namespaces[0].key == ()


async def test_namespaces_go_by_their_mapping() -> None:
    """Each to its counterpart; one that either end lacks is a difference, one without rows of its own is none."""
    source = ChecksumEnd({"a.x": Table.of(3), "a.y": Table.of(3), "a.p": Table(rowless=True)})
    target = ChecksumEnd({"b.x": Table.of(3), "b.p": Table(rowless=True)}, name="two")
    names = {"a.y": "b.y", "a.x": "b.x", "a.p": "b.p", "a.z": "b.z"}
    report = await verify(source, target, names, STILL)
    assert [(n.source, n.target, n.is_equal, n.method) for n in report.namespaces] == [
        ("a.y", "b.y", False, Method.NONE),
        ("a.x", "b.x", True, Method.PUSHED_DOWN),
        ("a.p", "b.p", True, Method.NONE),
        ("a.z", "b.z", False, Method.NONE),
    ]
    assert [d.detail for d in report.namespaces[3].differences] == ["the source has no a.z", "the target has no b.z"]
    assert report.namespaces[2].notes == ("a partitioned table has no rows of its own: not compared",)


async def test_quick_counts_and_nothing_else() -> None:
    """Two numbers a namespace; that they are equal says no more than that."""
    table = Table.of(50)
    source, target = ends(table)
    target.tables["s.t"].rows[3]["note"] = "wrong"
    report = await verify(source, target, SPACE, VerifyOptions(quick=True))
    assert (report.exit_code, report.methods) == (0, (Method.QUICK,))
    target.tables["s.t"].rows.pop()
    report = await verify(source, target, SPACE, VerifyOptions(quick=True))
    assert report.exit_code == 4
    assert report.namespaces[0].differences[0].detail == "50 rows at the source, 49 at the target"
    assert target.calls_of("get_checksum") == []


async def test_the_fastest_algorithm_that_both_ends_have() -> None:
    """What one refuses neither uses; where nothing is left that is an error."""
    table = Table.of(10)
    source, target = ends(table)
    source, target = (ChecksumEnd(end.tables, name=end._name, dialect="postgres") for end in (source, target))
    await verify(source, target, SPACE, STILL)
    assert {request.algorithm for request in source.calls_of("get_checksum")} == {"hashtextextended"}

    target.refused_algorithms = {"hashtextextended"}
    assert (await verify(source, target, SPACE, STILL)).exit_code == 0
    assert target.calls_of("get_checksum")[-1].algorithm == ""

    target.refused_algorithms.add("")
    with pytest.raises(UnsupportedError):
        await verify(source, target, SPACE, STILL)


async def test_a_call_that_fails_for_now_is_repeated() -> None:
    """A range whose rows were half read is read again, and nothing is counted twice."""
    source, target = ends(Table.of(500))
    for row in target.tables["s.t"].rows[:7]:
        row["note"] = "wrong"
    failures = iter(["get_checksum", "get_row_hashes", "get_rows"])
    failing = [next(failures)]

    def fail(method: str) -> None:
        if failing and method == failing[0]:
            failing[:] = [following] if (following := next(failures, "")) else []
            raise ServerUnavailableError("the connection was lost")

    target.before = fail
    report = await verify(source, target, SPACE, STILL)
    assert failing == []
    assert report.namespaces[0].counts.different == 7
    assert len(kinds(report)) == 7


async def test_an_error_that_nothing_helps_ends_it() -> None:
    """With its own class, so that the caller knows what to do."""
    source, target = ends(Table.of(500))

    def fail(method: str) -> None:
        if method == "get_checksum":
            raise HiddenRowsError("row security")

    source.before = fail
    with pytest.raises(HiddenRowsError):
        await verify(source, target, SPACE, STILL)


async def test_a_snapshot_that_is_lost_meanwhile_is_gone_on_without() -> None:
    """The rest is compared live; what cannot be proved without the snapshot is told apart."""
    source, target = ends(Table.of(500))
    target.tables["s.t"].rows[5]["note"] = "wrong"
    lost = iter([SnapshotLostError("the holder has ended")])

    def lose(method: str) -> None:
        if method == "get_row_hashes" and (error := next(lost, None)):
            raise error

    source.before = lose
    events: list[object] = []
    options = VerifyOptions(live=False, generations=1, settle_delay_s=0)
    report = await verify(source, target, SPACE, options, emit=events.append)
    assert [event.reason for event in events if isinstance(event, SnapshotLost)] == ["the holder has ended"]
    assert (report.live, report.exit_code, report.counts.changed_since) == (True, 0, 1)


async def test_cancelling_closes_what_is_open() -> None:
    """No stream of row hashes outlives the verification."""
    source, target = ends(Table.of(500))
    for row in target.tables["s.t"].rows:
        row["note"] = "wrong"
    reached = asyncio.Event()

    async def stall(request: RowsRequest) -> list[TextRow]:
        reached.set()
        await asyncio.Event().wait()
        return []

    target.get_rows = stall  # type: ignore[method-assign] # one that never answers
    running = asyncio.create_task(verify(source, target, SPACE, STILL))
    await reached.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert source.open_streams == target.open_streams == 0


async def test_no_more_at_a_time_than_asked_for() -> None:
    """Over all namespaces and ranges together."""
    now = most = 0

    class Counting(ChecksumEnd):
        async def get_checksum(self, request):  # type: ignore[no-untyped-def] # as its base
            nonlocal now, most
            now += 1
            most = max(most, now)
            await asyncio.sleep(0)
            now -= 1
            return await super().get_checksum(request)

    tables = {f"s.t{n}": Table.of(1000) for n in range(6)}
    options = VerifyOptions(live=False, rows_per_range=100, parallel=3)
    report = await verify(Counting(tables), ChecksumEnd(tables, name="two"), {name: name for name in tables}, options)
    assert report.exit_code == 0
    assert most == 3


async def test_events_tell_how_far_it_is() -> None:
    """Rows add up to the namespace's; what fails to add up is never more than there is."""
    source, target = ends(Table.of(1000))
    target.tables["s.t"].rows[1]["note"] = "wrong"
    events: list[object] = []
    options = VerifyOptions(rows_per_range=300, settle_delay_s=0)
    await verify(source, target, SPACE, options, emit=events.append)
    rows = [event for event in events if isinstance(event, RowsCompared)]
    assert sum(event.rows for event in rows) == 1000
    assert {event.estimated_rows for event in rows} == {1000}
    assert [event.is_equal for event in events if isinstance(event, NamespaceCompared)] == [False]


# ----------------------------------------------------------------- large rows


async def test_rows_that_do_not_travel_together_are_asked_for_apart() -> None:
    """And one that does not travel at all is still named, without its columns."""
    source, target = ends(Table.of(40))
    for row in target.tables["s.t"].rows:
        row["note"] = "wrong"
    whole = target.get_rows
    asked: list[int] = []

    async def heavy(request: RowsRequest) -> list[TextRow]:
        asked.append(len(request.keys))
        if len(request.keys) > 3 or ("000007",) in request.keys:
            raise CapacityError("too large")
        return await whole(request)

    target.get_rows = heavy  # type: ignore[method-assign] # as an end with a small message limit
    report = await verify(source, target, SPACE, STILL)
    (namespace,) = report.namespaces
    assert namespace.counts.different == 40
    unnamed = [d for d in namespace.differences if not d.columns]
    assert [(d.key, d.detail) for d in unnamed] == [(("000007",), "the row is too large to be shown")]
    assert min(asked) == 1


# ------------------------------------------------------------------- progress


async def test_finished_ranges_are_not_compared_again() -> None:
    """What an interrupted verification has found is part of the next one's report."""
    source, target = ends(Table.of(1000))
    target.tables["s.t"].rows[5]["note"] = "wrong"
    target.tables["s.t"].rows[950]["note"] = "wrong"
    store = MemoryProgress()
    options = VerifyOptions(live=False, rows_per_range=100, parallel=1)
    asked = 0

    def fail(method: str) -> None:
        nonlocal asked
        asked += method == "get_checksum"
        if asked == 5:
            raise PermanentError("killed")

    source.before = fail
    with pytest.raises(PermanentError):
        await verify(source, target, SPACE, options, progress=store)
    assert sorted(store.saved["s.t"]) == [-1, 0, 1, 2, 3]

    source.before = lambda method: None
    source.calls.clear()
    report = await verify(source, target, SPACE, options, progress=store)
    assert len(source.calls_of("get_checksum")) == 6
    assert source.calls_of("plan_ranges") == []
    assert set(kinds(report)) == {("000005",), ("000950",)}
    assert report.source_rows == 1000
    assert store.saved == {}


@pytest.mark.parametrize("change", ["end", "columns", "types", "unknown end"])
async def test_other_ends_or_columns_begin_anew(change: str) -> None:
    """What was found of one pair says nothing about another."""
    source, target = ends(Table.of(300))
    store = MemoryProgress()
    options = VerifyOptions(live=False, rows_per_range=100, parallel=1)

    def fail(method: str) -> None:
        if len(source.calls_of("get_checksum")) == 3:
            raise PermanentError("killed")

    source.before = fail
    with pytest.raises(PermanentError):
        await verify(source, target, SPACE, options, progress=store)
    source.before = lambda method: None
    source.calls.clear()
    for end in (source, target):
        if change == "columns":
            end.tables["s.t"].columns = ("id",)
        if change == "types":
            end.tables["s.t"].types = {"note": "varchar"}
    if change == "end":
        target._name = "three"
    if change == "unknown end":
        target._name = ""
    await verify(source, target, SPACE, options, progress=store)
    assert len(source.calls_of("get_checksum")) == 3


async def test_a_range_that_differs_live_is_looked_at_again() -> None:
    """Whether it still does is only known once its rows have settled."""
    source, target = ends(Table.of(300))
    target.tables["s.t"].rows[5]["note"] = "wrong"
    store = MemoryProgress()
    options = VerifyOptions(rows_per_range=100, parallel=1, settle_delay_s=0)

    def fail(method: str) -> None:
        if method == "get_rows":
            raise PermanentError("killed")

    source.before = fail
    with pytest.raises(PermanentError):
        await verify(source, target, SPACE, options, progress=store)
    assert sorted(store.saved["s.t"]) == [-1, 1, 2]
