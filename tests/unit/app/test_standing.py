"""A flow that has ended is over only where its sink says so too."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dsync.app.flows import ChosenRun, choose_run
from dsync.app.standing import (
    FORGOTTEN,
    PUT_BACK,
    PUT_BACK_A_RUN,
    FlowStanding,
    Standing,
    StateOutrunError,
    find_lost,
    in_mode,
)
from dsync.coordinator.ends import End
from dsync.coordinator.following import Following
from dsync.coordinator.spec import Mode
from dsync.protocol.errors import OtherEndpointError, PermanentError, RequestError, SinkNotEmptyError
from dsync.protocol.types import ChangeType, Role, UpdatesPartition
from dsync.sdk.testing.memory import MemoryConnector
from dsync.state import FlowRow, Phase, Store
from tests.unit.coordinator.harness import Harness

ROWS = 700
FINGERPRINT = "f"
"""What the harness gives its flows."""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "state.db") as opened:
        yield opened


@pytest.fixture
def other_store(tmp_path: Path) -> Iterator[Store]:
    """The state of another machine."""
    with Store.open(tmp_path / "other.db") as opened:
        yield opened


@pytest.fixture
def flow(store: Store) -> Harness:
    harness = Harness(store, partition_rows=100)
    harness.source.serve("shop.orders", ROWS)
    harness.source.serve("shop.zebras", 50)
    return harness


def backup(flow: Harness) -> sqlite3.Connection:
    """The sink as it is now, ledger and all."""
    saved = sqlite3.connect(":memory:")
    flow.sink_store._db.backup(saved)
    return saved


def put_back(flow: Harness, saved: sqlite3.Connection) -> None:
    saved.backup(flow.sink_store._db)


def forget(flow: Harness, *tables: str) -> None:
    for table in tables:
        flow.sink_store._db.execute(f"DELETE FROM {table}")


async def choose(
    flow: Harness, *, again: bool = False, store: Store | None = None, row: FlowRow | None = None, source_id: str = "a"
) -> ChosenRun:
    """What the same command would do now; the harness goes on with that run."""
    source = await End.meet(MemoryConnector(flow.source_store, endpoint_id=source_id), Role.SOURCE)
    sink = await End.meet(MemoryConnector(flow.sink_store, endpoint_id="b"), Role.SINK)
    chosen = await choose_run(store or flow.store, row or flow.flow, flow.spec, source, sink, again=again)
    flow.row = chosen.run
    return chosen


async def go_on(flow: Harness, *, again: bool = False) -> ChosenRun:
    chosen = await choose(flow, again=again)
    await flow.run(again_from=chosen.again_from)
    return chosen


def is_whole(flow: Harness, orders: int = ROWS) -> bool:
    return flow.ids("shop.orders") == list(range(orders)) and flow.ids("shop.zebras") == list(range(50))


async def test_a_finished_copy_is_finished(flow: Harness) -> None:
    """And it costs the sink nothing to say so: no fence is raised."""
    await flow.run()
    before = list(flow.sink_store._db.execute("SELECT * FROM ledger ORDER BY 1, 2, 3"))
    chosen = await choose(flow)
    assert (chosen.is_finished, chosen.setback) == (True, "")
    assert list(flow.sink_store._db.execute("SELECT * FROM ledger ORDER BY 1, 2, 3")) == before


@pytest.mark.parametrize("pages", [1, 3, 8])
async def test_a_sink_put_back_into_a_finished_run_is_filled_from_there(flow: Harness, pages: int) -> None:
    with pytest.raises(PermanentError):
        await flow.run(sink_faults=(f"write_page@{pages}:PermanentError",))
    saved = backup(flow)
    await flow.run()
    put_back(flow, saved)
    assert not is_whole(flow)
    chosen = await go_on(flow)
    assert (chosen.is_finished, chosen.setback) == (False, PUT_BACK)
    assert is_whole(flow)
    assert (await choose(flow)).is_finished


async def test_rows_of_the_ledger_that_are_missing_are_noticed(flow: Harness) -> None:
    """A crash of the sink's server empties unlogged tables and their ledger, and nothing else."""
    await flow.run()
    flow.sink_store._db.execute("DELETE FROM documents WHERE namespace = 'shop.zebras'")
    flow.sink_store._db.execute("DELETE FROM ledger WHERE namespace = 'shop.zebras' AND unit LIKE 'p%'")
    assert not is_whole(flow)
    asked = len(flow.cursors_asked)
    assert not (await go_on(flow)).is_finished
    assert is_whole(flow)
    assert len(flow.cursors_asked) == asked + 1, "one page of shop.zebras"


async def test_a_sink_put_back_to_before_the_flow_gets_a_copy_from_the_beginning(flow: Harness) -> None:
    saved = backup(flow)
    await flow.run()
    put_back(flow, saved)
    first = flow.row
    chosen = await go_on(flow)
    assert (chosen.setback, chosen.again_from, chosen.run.number) == (FORGOTTEN, "", first.number + 1)
    assert is_whole(flow)


@pytest.mark.parametrize("again", [False, True])
async def test_rows_that_nobody_remembers_are_never_copied_over(flow: Harness, again: bool) -> None:
    """The ledger was dropped, the rows were not: nothing says any more whose they are."""
    await flow.run()
    forget(flow, "ledger", "manifests")
    flow.sink_store._db.execute("UPDATE namespaces SET flow = ''")
    for _ in range(2):
        chosen = await choose(flow, again=again)
        assert (chosen.is_finished, chosen.setback, chosen.again_from) == (False, FORGOTTEN, "")
        with pytest.raises(SinkNotEmptyError):
            await flow.run(again_from=chosen.again_from)
    assert is_whole(flow)


async def test_again_reads_what_the_sink_has_lost_though_the_source_has_not_changed(flow: Harness) -> None:
    with pytest.raises(PermanentError):
        await flow.run(sink_faults=("write_page@3:PermanentError",))
    saved = backup(flow)
    await flow.run()
    put_back(flow, saved)
    chosen = await go_on(flow, again=True)
    assert chosen.setback == PUT_BACK
    assert is_whole(flow)


@pytest.mark.parametrize("into_the_first", [False, True])
@pytest.mark.parametrize("is_cut_off", [False, True])
async def test_a_sink_put_back_to_an_earlier_run_gets_the_later_one_anew(
    flow: Harness, is_cut_off: bool, into_the_first: bool
) -> None:
    """What the later run would go on with is not there, and the earlier one's rows are."""
    with pytest.raises(PermanentError):
        await flow.run(sink_faults=("write_page@3:PermanentError",))
    middle = backup(flow)
    await flow.run()
    saved = middle if into_the_first else backup(flow)
    first = flow.row.run
    flow.source.put("shop.orders", [{"_id": ROWS}])
    chosen = await choose(flow, again=True)
    if is_cut_off:
        with pytest.raises(PermanentError):
            await flow.run(again_from=chosen.again_from, sink_faults=("write_page@4:PermanentError",))
    else:
        await flow.run(again_from=chosen.again_from)
    second = flow.row
    put_back(flow, saved)
    chosen = await go_on(flow)
    assert (chosen.setback, chosen.again_from) == (PUT_BACK_A_RUN, first)
    assert chosen.run.number == second.number + 1
    assert is_whole(flow, ROWS + 1)


async def test_a_sink_put_back_to_before_a_table_was_cleared_does_not_keep_its_rows(flow: Harness) -> None:
    """The second run's plan is known to the sink, that it had cleared the table is not any more."""
    await flow.run()
    flow.source.put("shop.orders", [{"_id": ROWS}])
    flow.sink.put("shop.orders", [{"_id": -1}])
    chosen = await choose(flow, again=True)
    with pytest.raises(PermanentError):
        await flow.run(again_from=chosen.again_from, sink_faults=("clear_namespace@1:PermanentError",))
    saved = backup(flow)
    await flow.run(again_from=chosen.again_from)
    put_back(flow, saved)
    assert -1 in flow.ids("shop.orders")
    await go_on(flow)
    assert is_whole(flow, ROWS + 1)


# ------------------------------------------------------------- another coordinator, with a state of its own


async def lost(flow: Harness, other: Store) -> FlowRow:
    """The flow as another machine, which has no state, makes it from what the sink remembers."""
    sink = await End.meet(MemoryConnector(flow.sink_store, endpoint_id="b"), Role.SINK)
    record = await find_lost(sink, other, name="", fingerprint=FINGERPRINT)
    assert record is not None
    spec = record.kept.spec.model_dump(mode="json")
    return other.create_flow(name=None, fingerprint=FINGERPRINT, spec=spec, flow=record.manifest.flow)


async def test_a_finished_flow_is_taken_over_as_finished(flow: Harness, other_store: Store) -> None:
    """Another machine says what the first one would: when it ended, and with what."""
    result = await flow.run()
    told = flow.store.latest_run(flow.flow.flow)
    assert told is not None
    chosen = await choose(flow, store=other_store, row=await lost(flow, other_store))
    assert chosen.is_finished
    run = chosen.run
    assert (run.run, run.phase, run.consistent, run.summary) == (result.run, Phase.DONE, True, result.as_json())
    assert run.finished_at is not None
    assert told.finished_at is not None
    assert abs((run.finished_at - told.finished_at).total_seconds()) < 5
    totals = {item.namespace: item.rows for item in other_store.namespace_totals(run.flow, run.run)}
    assert totals == {"shop.orders": ROWS, "shop.zebras": 50}


async def test_a_finished_flow_of_another_source_is_not_taken_over(flow: Harness, other_store: Store) -> None:
    await flow.run()
    with pytest.raises(OtherEndpointError):
        await choose(flow, store=other_store, row=await lost(flow, other_store), source_id="elsewhere")


async def test_a_finished_flow_that_has_lost_rows_is_not_taken_over_as_finished(
    flow: Harness, other_store: Store
) -> None:
    await flow.run()
    flow.sink_store._db.execute("DELETE FROM ledger WHERE namespace = 'shop.zebras' AND unit LIKE 'p%'")
    chosen = await choose(flow, store=other_store, row=await lost(flow, other_store))
    assert not chosen.is_finished


async def test_a_run_that_ended_inconsistent_is_taken_over_as_such(flow: Harness, other_store: Store) -> None:
    await flow.run(sink_faults=("finish@1:PermanentError",))
    chosen = await choose(flow, store=other_store, row=await lost(flow, other_store))
    assert (chosen.is_finished, chosen.run.phase) == (True, Phase.INCONSISTENT)


async def test_the_first_coordinator_learns_that_another_has_ended_its_run(flow: Harness, other_store: Store) -> None:
    with pytest.raises(PermanentError):
        await flow.run(sink_faults=("write_page@3:PermanentError",))
    first, row = flow.store, await lost(flow, other_store)
    await choose(flow, store=other_store, row=row)
    flow.store = other_store
    await flow.run()
    flow.store = first
    chosen = await choose(flow)
    assert (chosen.is_finished, chosen.run.phase) == (True, Phase.DONE)
    totals = {item.namespace: item.rows for item in first.namespace_totals(chosen.run.flow, chosen.run.run)}
    assert totals == {"shop.orders": ROWS, "shop.zebras": 50}


async def test_the_first_coordinator_learns_of_a_run_that_another_has_begun(flow: Harness, other_store: Store) -> None:
    await flow.run()
    flow.source.put("shop.orders", [{"_id": ROWS}])
    first, row = flow.store, await lost(flow, other_store)
    chosen = await choose(flow, store=other_store, row=row, again=True)
    flow.store = other_store
    await flow.run(again_from=chosen.again_from)
    flow.store = first
    learnt = await choose(flow)
    assert (learnt.is_finished, learnt.run.run, learnt.run.number) == (True, chosen.run.run, 2)
    assert is_whole(flow, ROWS + 1)


async def test_a_state_that_another_coordinator_has_outrun_is_not_gone_on_with(
    flow: Harness, other_store: Store
) -> None:
    """Its units were cleared since: going on with them would bring their rows twice."""
    with pytest.raises(PermanentError):
        await flow.run(sink_faults=("write_page@3:PermanentError",))
    first, row = flow.store, await lost(flow, other_store)
    flow.source.put("shop.orders", [{"_id": ROWS}])
    await choose(flow, store=other_store, row=row)
    flow.store = other_store
    await flow.run()
    flow.store = first
    with pytest.raises(StateOutrunError, match="state of its own"):
        await choose(flow)


async def test_a_cancelled_run_is_not_gone_on_with_by_itself(flow: Harness) -> None:
    """Whatever has become of the sink meanwhile; with `--again` the same run goes on where it was."""
    await go_on(flow)
    before = flow.row.run
    flow.store.finish_run(flow.flow.flow, before, Phase.CANCELLED)
    forget(flow, "ledger")

    chosen = await choose(flow)
    assert (chosen.is_finished, chosen.run.phase) == (True, Phase.CANCELLED)
    chosen = await choose(flow, again=True)
    assert (chosen.is_finished, chosen.run.run) == (False, before)
    await flow.run(again_from=chosen.again_from)
    assert is_whole(flow)


# ------------------------------------------------------------------ what mode was asked for


def stood(
    store: Store, mode: str, *, consistent_at: int | None = None, standing: Standing = Standing.GOES_ON
) -> FlowStanding:
    row, _ = store.open_flow(name=None, fingerprint=FINGERPRINT, spec={})
    run = store.new_run(row.flow, mode=mode)
    following = Following(partition=UpdatesPartition(), type=ChangeType.BSON, lanes=1, consistent_at=consistent_at)
    extra = {"planned": True} | ({} if mode == "copy" else {"following": following.as_json()})
    store.set_extra(row.flow, run.run, extra)
    return FlowStanding(standing=standing, run=store.get_run(row.flow, run.run))


def test_a_flow_that_follows_goes_on_whatever_it_is_told_of_copying(store: Store) -> None:
    """Nothing lies between what it has and what comes."""
    full = stood(store, "full", consistent_at=7)
    assert in_mode(full, "f", mode="stream", again=False) is full
    stream = stood(store, "stream", consistent_at=7)
    assert in_mode(stream, "f", mode="stream", again=False) is stream
    assert in_mode(stream, "f", mode="full", again=False) is stream


@pytest.mark.parametrize(
    ("mode", "arrived", "wanted", "again", "said"),
    [
        ("copy", None, "stream", False, "--mode full"),
        ("full", None, "stream", False, "not copied everything"),
        ("full", 7, "stream", True, "--again copies"),
        ("stream", 7, "stream", True, "dsync reset"),
        ("stream", 7, "full", True, "dsync reset"),
    ],
)
def test_a_stream_without_a_copy_never_begins_behind_a_gap(
    store: Store, mode: str, arrived: int | None, wanted: Mode, again: bool, said: str
) -> None:
    stands = stood(store, mode, consistent_at=arrived)
    with pytest.raises(RequestError, match=said):
        in_mode(stands, "f", mode=wanted, again=again)


def test_a_sink_that_was_put_back_is_not_followed_into_without_a_copy(store: Store) -> None:
    stands = replace(stood(store, "stream", consistent_at=7), setback=PUT_BACK)
    with pytest.raises(RequestError, match="put back"):
        in_mode(stands, "f", mode="stream", again=False)


def test_a_run_that_was_never_planned_is_not_gone_on_with_in_another_mode(store: Store) -> None:
    """It is judged by its mode for good: a copy that passes for a stream would be followed behind a gap."""
    row, _ = store.open_flow(name=None, fingerprint=FINGERPRINT, spec={})
    run = store.new_run(row.flow, mode="stream")
    stands = FlowStanding(standing=Standing.GOES_ON, run=run)
    assert in_mode(stands, "f", mode="copy", again=False).standing is Standing.NEW
    assert in_mode(stands, "f", mode="stream", again=False) is stands
