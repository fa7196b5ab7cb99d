"""A copy's promises, on connectors without a server: nothing lost, nothing twice, whatever goes wrong."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsync.coordinator.cursor import UnitCursor
from dsync.coordinator.deliver import UnitProgress
from dsync.coordinator.events import (
    CallRetried,
    DeadLetterAdded,
    Event,
    NamespaceCopied,
    PageCopied,
    SinkPutBack,
    SnapshotLost,
)
from dsync.coordinator.journal import Journal
from dsync.coordinator.tasks import StoppedError
from dsync.coordinator.tolerance import Tolerance
from dsync.protocol.errors import (
    CapacityError,
    DsyncError,
    FencedError,
    PermanentError,
    PluginBugError,
    RequestError,
    ServerUnavailableError,
    UnitLostError,
)
from dsync.protocol.types import UnitRef, WriteRequest
from dsync.sdk.testing.memory import MemoryConnector
from dsync.state import CheckpointRow, NamespaceState, Store
from tests.support.waiting import wait_for_async
from tests.unit.coordinator.harness import Harness

ROWS = 3000


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with Store.open(tmp_path_factory.mktemp("state") / "state.db") as opened:
        yield opened


@pytest.fixture
def flow(store: Store) -> Harness:
    harness = Harness(store)
    harness.source.serve("shop.orders", ROWS)
    return harness


async def test_a_copy_brings_every_record_once(flow: Harness) -> None:
    result = await flow.run()
    arrived = sorted(flow.sink.documents("shop.orders"), key=lambda document: str(document["_id"]).zfill(9))
    assert arrived == flow.source.documents("shop.orders")
    assert (result.rows, result.consistent, result.exit_code) == (ROWS, True, 0)


async def test_a_run_that_waits_for_its_rate_can_be_stopped_and_goes_on(flow: Harness) -> None:
    """At a row a second nothing more would be read for minutes."""
    stopping = asyncio.Event()
    run = asyncio.create_task(flow.run(stopping=stopping, rate_rows_per_s=1))
    await wait_for_async(lambda: _true(any(isinstance(event, PageCopied) for event in flow.events)), what="a page")
    stopping.set()
    with pytest.raises(StoppedError):
        async with asyncio.timeout(30):
            await run
    landed = len(flow.ids("shop.orders"))

    result = await flow.run()

    assert 0 < landed < ROWS
    assert flow.ids("shop.orders") == list(range(ROWS))
    assert result.rows == ROWS


async def _true(value: bool) -> bool:
    return value


async def test_a_restart_repeats_only_the_pages_in_flight(flow: Harness) -> None:
    """The checkpoint moves after the sink acknowledged a page, never before: a crash may repeat one, never lose one."""
    flow.partition_rows = ROWS
    with pytest.raises(PermanentError):
        await flow.run(sink_faults=("write_page@3:PermanentError",))
    await flow.run()

    assert flow.ids("shop.orders") == list(range(ROWS))
    repeated = [cursor for cursor in set(flow.cursors_asked) if flow.cursors_asked.count(cursor) > 1]
    assert len(repeated) <= 2, "the refused page and the one prefetched behind it"


async def test_the_next_page_is_written_while_a_checkpoint_becomes_durable(
    flow: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sink does not wait for the store's disk."""
    flow.partition_rows = ROWS
    second_page = threading.Event()
    write, save = MemoryConnector.write_page, Store.save_checkpoints
    written: list[int] = []

    async def write_page(self: MemoryConnector, request: WriteRequest) -> int:
        rows = await write(self, request)
        written.append(rows)
        if len(written) == 2:
            second_page.set()
        return rows

    def save_checkpoints(self: Store, flow: str, run: str, saved: Iterable[CheckpointRow]) -> None:
        assert second_page.wait(timeout=30), "the checkpoint of the first page was waited for"
        save(self, flow, run, saved)

    monkeypatch.setattr(MemoryConnector, "write_page", write_page)
    monkeypatch.setattr(Store, "save_checkpoints", save_checkpoints)
    result = await flow.run()
    assert (result.rows, flow.ids("shop.orders")) == (ROWS, list(range(ROWS)))


async def test_a_checkpoint_that_was_given_up_does_not_go_with_a_later_one(
    flow: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its unit may be planned anew by then, or be at its start again."""
    await flow.run()
    units = [unit.unit for unit in flow.store.load_units(flow.flow.flow, flow.row.run) if unit.partition is not None]
    saved, may_go_on = [], threading.Event()

    def save_checkpoints(self: Store, flow: str, run: str, rows: Iterable[CheckpointRow]) -> None:
        assert may_go_on.wait(timeout=30)
        saved.extend(row.unit for row in rows)

    monkeypatch.setattr(Store, "save_checkpoints", save_checkpoints)
    journal = Journal(flow.store, flow.flow.flow, flow.row.run)
    first, given_up, last = (
        asyncio.create_task(journal.checkpoint(UnitProgress(unit=unit, fence=1, cursor=UnitCursor())))
        for unit in units[:3]
    )
    await asyncio.sleep(0)
    given_up.cancel()
    may_go_on.set()
    await asyncio.gather(first, last)
    await journal.close()
    assert (saved, given_up.cancelled()) == ([units[0], units[2]], True)


async def test_a_page_that_was_durable_before_its_answer_was_lost_is_not_written_again(flow: Harness) -> None:
    result = await flow.run(sink_faults=("write_page_answer@2:ServerUnavailableError",), retry_for_s=30)
    assert flow.ids("shop.orders") == list(range(ROWS))
    assert result.rows == ROWS
    assert any(isinstance(event, CallRetried) for event in flow.events)


async def test_an_outage_longer_than_the_patience_ends_the_run_resumably(flow: Harness) -> None:
    with pytest.raises(ServerUnavailableError):
        await flow.run(sink_faults=("write_page@2+:ServerUnavailableError",))
    result = await flow.run()
    assert (flow.ids("shop.orders"), result.exit_code) == (list(range(ROWS)), 0)


async def test_stopping_leaves_everything_resumable(flow: Harness) -> None:
    stopping = asyncio.Event()
    flow.partition_rows = ROWS

    class StopAtTheFirstPage(list[Event]):
        def append(self, event: Event) -> None:
            super().append(event)
            if isinstance(event, PageCopied):
                stopping.set()

    flow.events = StopAtTheFirstPage()
    with pytest.raises(StoppedError):
        await flow.run(stopping=stopping)
    copied = len(flow.sink.documents("shop.orders"))
    assert 0 < copied < ROWS
    checkpoints = flow.store.load_checkpoints(flow.flow.flow, flow.row.run).values()
    assert sum(checkpoint.rows for checkpoint in checkpoints) == copied, "a stop waits for the last checkpoint"
    await flow.run()
    assert flow.ids("shop.orders") == list(range(ROWS))


# ------------------------------------------------------------- lost snapshots


async def test_a_lost_snapshot_costs_nothing_where_nothing_changed(flow: Harness) -> None:
    with pytest.raises(PermanentError):
        await flow.run(sink_faults=("write_page@3:PermanentError",))
    asked_before = len(flow.cursors_asked)
    result = await flow.run()
    assert (flow.ids("shop.orders"), result.consistent) == (list(range(ROWS)), True)
    assert len(flow.cursors_asked) - asked_before < asked_before + 4


async def test_an_unfinished_namespace_that_changed_is_read_again(flow: Harness) -> None:
    """Going on by an old cursor would lose rows and double others."""
    with pytest.raises(PermanentError):
        await flow.run(sink_faults=("write_page@3:PermanentError",))
    flow.source.put("shop.orders", [{"_id": ROWS}])
    result = await flow.run()
    assert (flow.ids("shop.orders"), result.rows, result.consistent) == (list(range(ROWS + 1)), ROWS + 1, True)


async def test_a_finished_namespace_that_changed_stays_and_is_named(flow: Harness) -> None:
    flow.source.serve("shop.zebras", 5000)
    flow.partition_rows = 10_000
    with pytest.raises(PermanentError):
        await flow.run(sink_faults=("write_page@9:PermanentError",), parallel=1)
    assert len(flow.sink.documents("shop.orders")) == ROWS
    flow.source.put("shop.orders", [{"_id": ROWS}])
    result = await flow.run()
    (stopped,) = result.stopped
    assert (stopped.namespace, stopped.state) == ("shop.orders", NamespaceState.CHANGED)
    assert (result.consistent, result.exit_code) == (False, 6)
    assert flow.ids("shop.zebras") == list(range(5000))


async def test_a_source_that_loses_its_snapshot_midway_is_asked_again(flow: Harness) -> None:
    result = await flow.run(source_faults=("read_page@2:SnapshotLostError",))
    assert (flow.ids("shop.orders"), result.consistent) == (list(range(ROWS)), True)
    assert any(isinstance(event, SnapshotLost) for event in flow.events)


async def test_another_run_reads_again_only_what_has_changed(flow: Harness) -> None:
    flow.source.serve("shop.zebras", 100)
    await flow.run()
    flow.source.put("shop.zebras", [{"_id": 100}])
    before, flow.cursors_asked = flow.new_run(), []
    result = await flow.run(again_from=before)
    assert flow.ids("shop.zebras") == list(range(101))
    assert flow.ids("shop.orders") == list(range(ROWS))
    assert (result.rows, result.consistent) == (ROWS + 101, True)
    assert len(flow.cursors_asked) == 1, "one page of shop.zebras"


# ------------------------------------------------------------- refused records


async def test_good_rows_of_a_refused_page_land_and_bad_ones_are_dead_letters(flow: Harness) -> None:
    flow.source.put("shop.bad", [{"_id": n, **({"_refuse": True} if n in (3, 4, 99) else {})} for n in range(100)])
    result = await flow.run()
    assert flow.ids("shop.bad") == [n for n in range(100) if n not in (3, 4, 99)]
    assert (result.dead_letters, result.exit_code) == (3, 5)
    letters = flow.store.list_dead_letters(flow.flow.flow, flow.row.run)
    assert [letter.row_index for letter in letters] == [3, 4, 99]


@settings(deadline=None, max_examples=15)
@given(at=st.integers(1, 30))
def test_a_crash_while_a_page_is_halved_loses_and_repeats_nothing(store: Store, at: int) -> None:
    flow = Harness(store)
    flow.source.put("shop.bad", [{"_id": n, **({"_refuse": True} if n % 17 == 5 else {})} for n in range(60)])
    try:
        asyncio.run(flow.run(sink_faults=(f"write_page@{at}:PermanentError",)))
    except PermanentError:
        result = asyncio.run(flow.run())
        assert result.rows == len(flow.sink.documents("shop.bad"))
    assert flow.ids("shop.bad") == [n for n in range(60) if n % 17 != 5]
    letters = flow.store.list_dead_letters(flow.flow.flow, flow.row.run)
    assert sorted(letter.row_index for letter in letters) == [5, 22, 39, 56]


async def test_a_namespace_that_is_refused_wholesale_stops_and_the_others_go_on(flow: Harness) -> None:
    flow.source.put("shop.bad", [{"_id": n, "_refuse": True} for n in range(1100)])
    result = await flow.run()
    (stopped,) = result.stopped
    assert stopped.namespace == "shop.bad"
    assert result.exit_code == 6
    assert flow.ids("shop.orders") == list(range(ROWS))
    assert sum(isinstance(event, DeadLetterAdded) for event in flow.events) == 1001


@pytest.mark.parametrize(
    ("dead_letters", "stopped", "refused"),
    [
        (("shop.bad=2",), {"shop.bad"}, 3),
        (("shop.bad=3",), set(), 3),
        (("*=0", "shop.bad=5"), set(), 3),
        (("shop.bad=5", "*=0"), {"shop.bad"}, 1),
        (("2",), {"shop.bad"}, 3),
        (("3",), set(), 3),
        (("0", "shop.bad=5"), {"shop.bad"}, 1),
    ],
)
async def test_a_namespace_over_its_budget_or_the_flow_s_stops_alone(
    flow: Harness, dead_letters: tuple[str, ...], stopped: set[str], refused: int
) -> None:
    """Up to the number all is well, one more is too much; what stops is named with the limit, and the rest goes on."""
    flow.source.put("shop.bad", [{"_id": n, **({"_refuse": True} if n in (3, 4, 9) else {})} for n in range(10)])
    result = await flow.run(dead_letters=dead_letters)

    assert {item.namespace for item in result.stopped} == stopped
    assert all("allowed" in item.reason and "--dead-letters" in item.reason for item in result.stopped)
    assert (result.dead_letters, result.exit_code) == (refused, 6 if stopped else 5)
    assert flow.ids("shop.orders") == list(range(ROWS))


@pytest.mark.parametrize("text", ["", "x", "a=", "-1", "1.5", "a=b", "shop.a:b=1", '"a=1', "²"])
def test_a_budget_that_cannot_be_read_is_a_wrong_request(text: str) -> None:
    """Before anything is contacted."""
    with pytest.raises(RequestError):
        Tolerance.parse([text])


def test_the_last_budget_that_fits_a_namespace_counts() -> None:
    """An equals sign in a quoted name is part of it."""
    tolerance = Tolerance.parse(["5", "shop.*=7", 'shop."a=b"=1', "7"])

    assert tolerance.of_flow == 7
    assert [tolerance.of(name) for name in ("shop.x", 'shop."a=b"', "other.x")] == [7, 1, 1000]


# ------------------------------------------------------------- misbehaviour


async def test_a_namespace_that_changes_while_it_is_read_stops_alone(flow: Harness) -> None:
    flow.source.serve("shop.zebras", 100)
    result = await flow.run(source_faults=("read_page@1:NamespaceChangedError",), parallel=1)
    assert [item.state for item in result.namespaces].count(NamespaceState.STOPPED) == 1
    assert (result.exit_code, result.consistent) == (6, False)


async def test_a_unit_that_a_crash_of_the_sink_has_lost_is_opened_again(flow: Harness) -> None:
    """In the same life, and from where the ledger has it then; the snapshot is still held."""
    flow.source.serve("shop.zebras", 10)
    result = await flow.run(sink_faults=("write_page@2:UnitLostError", "finish@1:UnitLostError"))
    assert (result.exit_code, result.consistent) == (0, True)
    assert flow.ids("shop.orders") == list(range(ROWS))
    assert flow.ids("shop.zebras") == list(range(10))
    assert [type(event).__name__ for event in flow.events].count("SinkPutBack") == 2


async def test_a_finished_table_that_a_crash_has_emptied_is_noticed_and_copied_again(flow: Harness) -> None:
    """No call about it fails: only asking for it at the end tells."""
    flow.source.serve("shop.zebras", 10)

    class CrashOnce(list[Event]):
        def append(self, event: Event) -> None:
            super().append(event)
            if isinstance(event, NamespaceCopied) and not any(isinstance(e, SinkPutBack) for e in self):
                planned = flow.store.load_units(flow.flow.flow, flow.row.run)
                with flow.sink_store.transaction():
                    flow.sink_store.clear("shop.zebras")
                    units = [unit.unit for unit in planned if unit.namespace == "shop.zebras"]
                    flow.sink_store.reset_units(flow.flow.flow, flow.row.run, units)

    flow.events = CrashOnce()
    result = await flow.run()
    assert (result.exit_code, flow.ids("shop.zebras"), flow.ids("shop.orders")) == (
        0,
        list(range(10)),
        list(range(ROWS)),
    )


async def test_a_sink_that_loses_everything_again_and_again_ends_the_run_resumably(flow: Harness) -> None:
    with pytest.raises(UnitLostError):
        await flow.run(sink_faults=("write_page@2+:UnitLostError",))
    result = await flow.run()
    assert (flow.ids("shop.orders"), result.exit_code) == (list(range(ROWS)), 0)


async def test_a_table_that_the_sink_does_not_know_again_stops_alone(flow: Harness) -> None:
    """Units are opened together; which of them are refused is found out, and the others are copied."""
    flow.source.serve("shop.zebras", 10)
    with pytest.raises(PermanentError):
        await flow.run(sink_faults=("write_page@2:PermanentError",))
    result = await flow.run(sink_faults=("open_units@1:NamespaceChangedError", "open_units@2:NamespaceChangedError"))
    (stopped,) = result.stopped
    assert (stopped.namespace, stopped.state) == ("shop.orders", NamespaceState.STOPPED)
    assert "ordered to fail at call 2" in stopped.reason
    assert (result.exit_code, result.consistent) == (6, False)
    assert flow.ids("shop.zebras") == list(range(10))
    assert [failure.namespace for failure in result.failed_steps] == ["shop.orders"]


@pytest.mark.parametrize(
    ("source_fault", "sink_fault", "error"),
    [
        ("read_page@1+:same-cursor", "", PluginBugError),
        ("read_page@1:over-limit", "", CapacityError),
        ("", "write_page@1:partial", PluginBugError),
    ],
)
async def test_a_plug_in_that_breaks_the_contract_is_stopped(
    flow: Harness, source_fault: str, sink_fault: str, error: type[DsyncError]
) -> None:
    flow.source.serve("shop.large", 300, record_bytes=20_000)
    with pytest.raises(error):
        await flow.run(source_faults=tuple(filter(None, [source_fault])), sink_faults=tuple(filter(None, [sink_fault])))


async def test_a_zombie_writes_nothing(flow: Harness) -> None:
    """Another coordinator has opened the units since: the sink refuses the older fence."""
    flow.partition_rows = ROWS

    class OpenElsewhere(list[Event]):
        def append(self, event: Event) -> None:
            super().append(event)
            if isinstance(event, PageCopied):
                unit = flow.store.load_units(flow.flow.flow, flow.row.run)[0].unit
                with flow.sink_store.transaction():
                    flow.sink_store.open_unit(flow.flow.flow, flow.row.run, UnitRef(unit=unit, namespace="shop.orders"))

    flow.events = OpenElsewhere()
    with pytest.raises(FencedError):
        await flow.run()
    assert sum(isinstance(event, PageCopied) for event in flow.events) == 1


async def test_a_finish_step_that_fails_is_named_and_the_rest_is_done(flow: Harness) -> None:
    flow.source.serve("shop.zebras", 10)
    result = await flow.run(sink_faults=("finish@1:PermanentError",))
    assert len(result.failed_steps) == 1
    assert (result.exit_code, result.consistent) == (6, False)


# ------------------------------------------------------------- any fault anywhere

_FAULTS = st.lists(
    st.tuples(
        st.sampled_from(
            ["read_page", "write_page", "write_page_answer", "open_units", "finish", "resume_plan", "clear_namespace"]
        ),
        st.integers(1, 12),
        st.sampled_from(["PermanentError", "ServerUnavailableError", "SnapshotLostError", "ConflictError"]),
    ),
    max_size=4,
)


@settings(deadline=None, max_examples=40)
@given(lives=st.lists(st.tuples(_FAULTS, _FAULTS, st.booleans()), max_size=4))
def test_whatever_fails_and_whenever_the_source_changes_the_end_is_right(
    store: Store,
    lives: list[tuple[list[tuple[str, int, str]], list[tuple[str, int, str]], bool]],
) -> None:
    """After any sequence of faulty lives, one good life ends with the sink equal to the source.

    A finished namespace that changed is the one exception, and then the run says so.
    """
    flow = Harness(store, partition_rows=150)
    for name, rows in (("a.one", 400), ("a.two", 700), ("a.none", 0)):
        flow.source.serve(name, rows, record_bytes=1500)
    added = 0
    for source_faults, sink_faults, writes in lives:
        try:
            asyncio.run(flow.run(source_faults=_texts(source_faults), sink_faults=_texts(sink_faults)))
        except DsyncError:
            pass
        else:
            break
        if writes:
            added += 1
            flow.source.put("a.two", [{"_id": 10_000 + added}])
    else:
        result = asyncio.run(flow.run())
        changed = {item.namespace for item in result.stopped}
        assert result.rows == sum(len(flow.sink.documents(name)) for name in ("a.one", "a.two"))
        for name in {"a.one", "a.two"} - changed:
            assert flow.ids(name) == sorted(document["_id"] for document in flow.source.documents(name))
        assert result.consistent is not bool(changed)


def _texts(faults: list[tuple[str, int, str]]) -> tuple[str, ...]:
    return tuple(f"{method}@{call}:{action}" for method, call, action in faults)
