"""Flows and runs: found by what a person types, made once, deleted whole."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from dsync.protocol.errors import RequestError
from dsync.protocol.types import PageType
from dsync.state import (
    CheckpointRow,
    DeadLetterRow,
    EventRow,
    FlowExistsError,
    FlowNotFoundError,
    FlowRow,
    LeaseHeldError,
    Phase,
    Store,
    VerifyRow,
    this_process,
)
from dsync.state.schema import from_us
from tests.unit.state.support import HandClock, elsewhere, planned_run


def opened(store: Store, name: str | None, fingerprint: str) -> FlowRow:
    return store.open_flow(name=name, fingerprint=fingerprint, spec={})[0]


def test_the_same_command_finds_the_flow_it_made(store: Store, clock: HandClock) -> None:
    made, was_made = store.open_flow(name=None, fingerprint="f", spec={"a": [1, None, "é"]})
    found, was_made_again = store.open_flow(name=None, fingerprint="f", spec={"a": "changed"})
    assert (was_made, was_made_again) == (True, False)
    assert found == made
    assert found.spec == {"a": [1, None, "é"]}
    assert found.created_at == from_us(clock.now_us())
    assert opened(store, None, "other ends") != made


def test_two_names_over_the_same_ends_are_two_flows(store: Store) -> None:
    assert len({opened(store, name, "f").flow for name in (None, "a", "b", "a", None)}) == 3
    assert [flow.name for flow in store.find_flows_by_fingerprint("f")] == [None, "a", "b"]


def test_a_used_name_with_other_ends_is_refused(store: Store) -> None:
    """Exit code 2, before anything is contacted."""
    opened(store, "shop", "f")
    with pytest.raises(FlowExistsError, match="dsync reset shop") as caught:
        opened(store, "shop", "g")
    assert isinstance(caught.value, RequestError)


def test_without_a_name_the_only_named_flow_between_the_ends_is_meant(store: Store) -> None:
    named = opened(store, "shop", "f")
    assert opened(store, None, "f") == named


def test_without_a_name_one_of_several_named_flows_must_be_chosen(store: Store) -> None:
    opened(store, "a", "f")
    opened(store, "b", "f")
    with pytest.raises(FlowExistsError, match=r"a, b.*--flow NAME"):
        opened(store, None, "f")


def test_threads_and_processes_that_ask_at_once_get_one_flow(open_store: Callable[[], Store]) -> None:
    stores = [open_store() for _ in range(4)]
    with ThreadPoolExecutor(len(stores)) as threads:
        made = list(threads.map(lambda store: opened(store, None, "f").flow, stores * 5))
    assert len(set(made)) == 1


def test_a_flow_is_found_by_name_by_id_and_by_the_beginning_of_its_id(store: Store) -> None:
    flow = store.create_flow(name="shop", fingerprint="f", spec={}, flow="abcd0123")
    for reference in ("shop", "abcd0123", "abcd", "ABCD01"):
        assert store.find_flow(reference) == flow
    for reference in ("abc", "", "sho", "%", "abcd012345", "____"):
        assert store.find_flow(reference) is None
    with pytest.raises(FlowNotFoundError, match="dsync flows"):
        store.get_flow("sho")
    assert store.find_flow_by_name("shop") == flow
    assert store.find_flow_by_name("abcd0123") is None


def test_an_ambiguous_beginning_is_refused_and_a_name_goes_first(store: Store) -> None:
    store.create_flow(name=None, fingerprint="f", spec={}, flow="abcd0123")
    store.create_flow(name=None, fingerprint="g", spec={}, flow="abcd4567")
    with pytest.raises(FlowNotFoundError, match="abcd0123, abcd4567"):
        store.find_flow("abcd")
    named = store.create_flow(name="abcd0123", fingerprint="h", spec={})
    assert store.find_flow("abcd0123") == named


def test_what_exists_is_not_made_again(store: Store) -> None:
    made = store.create_flow(name="shop", fingerprint="f", spec={})
    for again in ({"name": "shop", "flow": "1"}, {"name": "x", "flow": made.flow}):
        with pytest.raises(FlowExistsError):
            store.create_flow(fingerprint="g", spec={}, **again)
    assert store.list_flow_rows() == (made,)


def test_runs_are_numbered_and_keep_the_specification_they_used(store: Store, clock: HandClock) -> None:
    flow = store.create_flow(name=None, fingerprint="f", spec={"parallel": 1}).flow
    assert store.latest_run(flow) is None
    first = store.new_run(flow, mode="copy")
    assert store.update_spec(flow, {"parallel": 1}).spec_revision == 1
    assert store.update_spec(flow, {"parallel": 2}).spec_revision == 2
    clock.advance(60)
    second = store.new_run(flow, mode="full", run="known")
    assert store.list_runs(flow) == (first, second)
    assert store.latest_run(flow) == second == store.get_run(flow, "known")
    assert [(run.number, run.spec["parallel"], run.spec_revision) for run in (first, second)] == [(1, 1, 1), (2, 2, 2)]
    assert (second.started_at - first.started_at).total_seconds() == 60
    with pytest.raises(FlowNotFoundError):
        store.new_run("nobody", mode="copy")


def test_a_run_that_failed_goes_on_without_its_error(store: Store, clock: HandClock) -> None:
    run = planned_run(store)
    clock.advance(5)
    store.finish_run(run.flow, run.run, Phase.FAILED, error={"class": "ServerUnavailableError"})
    failed = store.get_run(run.flow, run.run)
    assert failed is not None
    assert failed.finished_at == from_us(clock.now_us())
    assert failed.error == {"class": "ServerUnavailableError"}
    assert not failed.phase.is_final

    store.set_phase(run.flow, run.run, Phase.COPYING)
    resumed = store.get_run(run.flow, run.run)
    assert resumed is not None
    assert (resumed.phase, resumed.error, resumed.finished_at) == (Phase.COPYING, None, None)

    store.set_endpoints(run.flow, run.run, source_id="s", sink_ids={"1": "a", "2": "b"})
    store.set_snapshot(run.flow, run.run, b"\x00other")
    store.set_extra(run.flow, run.run, {"k": 1})
    store.finish_run(run.flow, run.run, Phase.DONE, consistent=True, summary={"rows": 7})
    done = store.get_run(run.flow, run.run)
    assert done is not None
    assert (done.source_id, dict(done.sink_ids), done.snapshot) == ("s", {"1": "a", "2": "b"}, b"\x00other")
    assert (done.consistent, done.summary, done.extra, done.phase.is_final) == (True, {"rows": 7}, {"k": 1}, True)


def test_a_run_that_was_reset_meanwhile_is_a_named_error(store: Store) -> None:
    run = planned_run(store)
    store.delete_flow(run.flow)
    with pytest.raises(FlowNotFoundError, match="reset"):
        store.set_phase(run.flow, run.run, Phase.DONE)


def test_the_list_of_flows_has_what_arrived_in_the_latest_run_and_who_runs_it(store: Store, clock: HandClock) -> None:
    run = planned_run(store, name="a")
    clock.advance(1)
    bare = store.create_flow(name="b", fingerprint="f", spec={})
    store.save_checkpoints(
        run.flow,
        run.run,
        [
            CheckpointRow(unit="p0.0.0", rows=5, size_bytes=50, done=True),
            CheckpointRow(unit="p0.0.1", rows=7, size_bytes=70),
            CheckpointRow(unit="p0.0.1", rows=1, size_bytes=10, sink="2"),
        ],
    )
    store.acquire_lease(run.flow, this_process())
    one, other = store.list_flows()
    assert (one.flow.name, other.flow) == ("a", bare)
    assert one.run == store.latest_run(run.flow)
    assert [(t.sink, t.rows, t.size_bytes, t.units_done) for t in one.totals] == [("1", 12, 120, 1), ("2", 1, 10, 0)]
    assert one.lease is not None
    assert one.lease.remaining_s == 30
    assert (other.run, other.totals, other.dead_letters, other.lease) == (None, (), 0, None)


def fill(store: Store, name: str) -> str:
    """A flow with a row of everything."""
    run = planned_run(store, name=name)
    store.replace_units(run.flow, run.run, "t1", [])
    store.save_checkpoint(run.flow, run.run, CheckpointRow(unit="p0.0.0"))
    letter = DeadLetterRow(
        unit="p0.0.0",
        namespace="t0",
        cursor_digest=b"d",
        row_index=0,
        reason="r",
        error_class="RecordError",
        payload=b"p",
        page_type=PageType.BSON,
    )
    store.add_dead_letters(run.flow, run.run, [letter])
    store.append_events(run.flow, [EventRow(name="e")])
    store.add_request(run.flow, "cancel")
    store.save_verify_progress(run.flow, run.run, [VerifyRow(namespace="t0", ordinal=0, result={})])
    return run.flow


def test_deleting_a_flow_removes_all_of_it_and_nothing_else(store: Store) -> None:
    """Reset says what went."""
    gone, stays = fill(store, "gone"), fill(store, "stays")
    store.release_lease(store.acquire_lease(gone, this_process()))
    assert store.delete_flow(gone) == {
        "verify_progress": 1,
        "events": 1,
        "requests": 1,
        "leases": 1,
        "dead_letters": 1,
        "checkpoints": 1,
        "units": 5,
        "retired_units": 3,
        "namespaces": 2,
        "runs": 1,
        "flows": 1,
    }
    assert [flow.flow for flow in store.list_flow_rows()] == [stays]
    run = store.latest_run(stays)
    assert run is not None
    assert len(store.load_units(stays, run.run)) == 5
    assert len(store.load_verify_progress(stays, run.run)) == 1
    with pytest.raises(FlowNotFoundError):
        store.delete_flow(gone)


def test_a_flow_that_another_process_runs_is_not_deleted(store: Store, open_store: Callable[[], Store]) -> None:
    run = planned_run(store)
    other = open_store()
    other.acquire_lease(run.flow, elsewhere())
    with pytest.raises(LeaseHeldError):
        store.delete_flow(run.flow)
    assert store.latest_run(run.flow) is not None
    assert other.delete_flow(run.flow)["flows"] == 1


def test_workspaces_do_not_see_each_other(store: Store, state: str) -> None:
    run = planned_run(store, name="shop")
    with Store.open(state, workspace="another") as other:
        assert other.list_flows() == ()
        assert other.find_flow("shop") is None
        assert other.get_run(run.flow, run.run) is None
        again = planned_run(other, name="shop")
        assert other.delete_flow(again.flow)["units"] == 8
    assert len(store.load_units(run.flow, run.run)) == 8
