"""Leases: one holder a flow, and a fence that keeps everyone before it from writing."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable
from typing import Any

import pytest

from dsync.protocol.errors import FencedError
from dsync.state import CheckpointRow, Holder, Lease, LeaseHeldError, Store, holder, this_process
from tests.unit.state.support import HandClock, elsewhere, planned_run


@pytest.fixture
def flow(store: Store) -> str:
    return planned_run(store).flow


def save(store: Store, flow: str) -> None:
    run = store.latest_run(flow)
    assert run is not None
    store.save_checkpoint(flow, run.run, CheckpointRow(unit="p0.0.0"))


def refusal(store: Store, flow: str, by: Holder | None = None) -> LeaseHeldError:
    with pytest.raises(LeaseHeldError) as caught:
        store.acquire_lease(flow, by or this_process())
    return caught.value


def test_a_second_holder_is_refused_and_told_who_the_first_is(
    store: Store, open_store: Callable[[], Store], flow: str, clock: HandClock
) -> None:
    """Exit code 3, naming host, process and how long the lease still runs."""
    first = this_process()
    store.acquire_lease(flow, first, ttl_s=30)
    clock.advance(9)
    error = refusal(open_store(), flow)
    assert (error.host, error.pid, error.remaining_s, error.here) == (first.host, os.getpid(), 21, True)
    assert error.exit_code == 3
    for part in (flow, first.host, str(os.getpid()), "21 s"):
        assert part in str(error)


def test_two_holders_within_one_process_exclude_each_other(store: Store, flow: str) -> None:
    store.acquire_lease(flow, this_process())
    assert refusal(store, flow).here


def test_the_same_holder_may_acquire_again_and_gets_a_new_fence(store: Store, flow: str) -> None:
    me = this_process()
    assert [store.acquire_lease(flow, me).fence for _ in range(3)] == [1, 2, 3]


def test_the_fence_grows_with_every_holder_also_after_a_release(store: Store, flow: str) -> None:
    fences = []
    for _ in range(3):
        lease = store.acquire_lease(flow, this_process())
        fences.append(lease.fence)
        store.release_lease(lease)
        store.release_lease(lease)
    assert fences == [1, 2, 3]
    kept = store.get_lease(flow)
    assert kept is not None
    assert (kept.holder, kept.remaining_s, kept.fence) == (None, 0, 3)


def test_a_lease_that_is_renewed_does_not_end(
    store: Store, open_store: Callable[[], Store], flow: str, clock: HandClock
) -> None:
    lease = store.acquire_lease(flow, this_process(), ttl_s=30)
    other = open_store()
    for _ in range(10):
        clock.advance(20)
        store.renew_lease(lease)
        assert refusal(other, flow).remaining_s == 30


@pytest.mark.parametrize("who", [this_process, elsewhere], ids=["here", "elsewhere"])
def test_a_lease_that_ran_out_is_taken_over_and_the_zombie_is_fenced(
    store: Store, open_store: Callable[[], Store], flow: str, clock: HandClock, who: Callable[[], Holder]
) -> None:
    """A process that was paused for longer than its lease wakes up and writes nothing more."""
    zombie = store
    lease = zombie.acquire_lease(flow, who(), ttl_s=30)
    save(zombie, flow)
    clock.advance(30)
    successor = open_store()
    taken = successor.acquire_lease(flow, this_process())
    assert taken.fence == lease.fence + 1
    with pytest.raises(FencedError, match="another process has taken it over"):
        save(zombie, flow)
    with pytest.raises(FencedError):
        zombie.renew_lease(lease)
    zombie.release_lease(lease)
    save(successor, flow)
    successor.renew_lease(taken)


def test_a_holder_that_woke_up_late_goes_on_where_nobody_came(store: Store, flow: str, clock: HandClock) -> None:
    lease = store.acquire_lease(flow, this_process(), ttl_s=30)
    clock.advance(3600)
    store.renew_lease(lease)
    save(store, flow)


def test_a_lease_that_was_released_is_not_renewed(store: Store, flow: str) -> None:
    """A last heartbeat on its way must not keep the next command out."""
    lease = store.acquire_lease(flow, this_process())
    store.release_lease(lease)
    with pytest.raises(FencedError):
        store.renew_lease(lease)


def test_every_write_for_the_flow_is_fenced(
    store: Store, open_store: Callable[[], Store], flow: str, clock: HandClock
) -> None:
    run = store.latest_run(flow)
    assert run is not None
    store.acquire_lease(flow, this_process(), ttl_s=1)
    clock.advance(1)
    open_store().acquire_lease(flow, this_process())
    key = flow, run.run
    writes: list[Callable[[], object]] = [
        lambda: store.new_run(flow, mode="copy"),
        lambda: store.set_phase(*key, run.phase),
        lambda: store.finish_run(*key, run.phase),
        lambda: store.save_plan(*key, [], []),
        lambda: store.add_units(*key, []),
        lambda: store.replace_units(*key, "t0", []),
        lambda: store.apply_verdicts(*key, snapshot=b"", again={}),
        lambda: store.namespace_cleared(*key, "t0", sink="1"),
        lambda: store.save_checkpoints(*key, [CheckpointRow(unit="p0.0.0")]),
        lambda: store.complete_request(flow, 1),
        lambda: store.update_spec(flow, {"x": 1}),
        lambda: store.delete_flow(flow),
    ]
    for write in writes:
        with pytest.raises(FencedError):
            write()
    assert store.latest_run(flow) == run
    store.add_request(flow, "cancel")


def test_a_lease_of_another_flow_or_unit_is_another_lease(store: Store, flow: str) -> None:
    other = planned_run(store, name="other").flow
    leases = [
        store.acquire_lease(flow, this_process()),
        store.acquire_lease(other, this_process()),
        store.acquire_lease(flow, this_process(), unit="p0.0.0"),
    ]
    assert [lease.fence for lease in leases] == [1, 1, 1]
    assert set(store.list_leases()) == {flow, other}
    save(store, flow)


def test_on_one_machine_setting_the_clock_neither_ends_nor_prolongs_a_lease(
    store: Store, open_store: Callable[[], Store], flow: str, clock: HandClock
) -> None:
    store.acquire_lease(flow, this_process(), ttl_s=30)
    other = open_store()
    for days in (1, -2):
        clock.set_by(days * 86_400)
        assert refusal(other, flow).remaining_s == 30
    clock.advance(30)
    assert other.acquire_lease(flow, this_process()).fence == 2


def test_a_clock_that_was_set_back_does_not_keep_the_lease_of_a_dead_host_alive(
    store: Store, open_store: Callable[[], Store], flow: str, clock: HandClock
) -> None:
    """Whoever has watched it for its whole time without seeing it renewed may take it."""
    dead, other = store, open_store()
    dead.acquire_lease(flow, elsewhere(), ttl_s=30)
    clock.set_by(-86_400)
    assert refusal(other, flow).remaining_s == 30
    clock.advance(29)
    assert refusal(other, flow).remaining_s == 1
    clock.advance(1)
    assert other.acquire_lease(flow, this_process()).fence == 2


def test_a_lease_that_is_renewed_elsewhere_is_watched_anew(
    store: Store, open_store: Callable[[], Store], flow: str, clock: HandClock
) -> None:
    alive, other = store, open_store()
    lease = alive.acquire_lease(flow, elsewhere(), ttl_s=30)
    for _ in range(5):
        refusal(other, flow)
        clock.advance(20)
        alive.renew_lease(lease)
    assert not refusal(other, flow).here


def gone_process() -> Holder:
    """A holder of this boot and namespace whose number belongs to a process that started at another time."""
    return dataclasses.replace(this_process(), started="1")


def test_a_holder_that_is_gone_holds_nothing(store: Store, open_store: Callable[[], Store], flow: str) -> None:
    """The same command goes on at once after a crash; the number alone may belong to another process by now."""
    store.acquire_lease(flow, gone_process())
    other = open_store()
    seen = other.get_lease(flow)
    assert seen is not None
    assert seen.remaining_s == 0
    assert other.acquire_lease(flow, this_process()).fence == 2


@pytest.mark.parametrize("changed", [{"boot_id": "another"}, {"pid_namespace": "another"}], ids=["boot", "container"])
def test_a_process_number_of_another_boot_or_container_says_nothing(
    store: Store, open_store: Callable[[], Store], flow: str, changed: dict[str, Any]
) -> None:
    """In a container that shares the state with others, the same number is another process, or none."""
    stranger = dataclasses.replace(gone_process(), **changed)
    store.acquire_lease(flow, stranger)
    assert not refusal(open_store(), flow).here


def test_without_a_boot_id_nobody_is_known_to_be_here(monkeypatch: pytest.MonkeyPatch) -> None:
    me = dataclasses.replace(gone_process(), boot_id="")
    monkeypatch.setattr(holder, "boot_id", lambda: "")
    assert not holder.is_here(me)
    assert not holder.is_gone(me)


def test_without_a_start_time_only_the_number_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    me = this_process()
    monkeypatch.setattr(holder, "_start_of", lambda pid: None)
    assert not holder.is_gone(me)
    assert not holder.is_gone(dataclasses.replace(me, started=""))


@pytest.mark.skipif(shutil.which("ps") is None, reason="this system has no ps")
def test_processes_start_times_are_read_on_systems_with_ps(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on macOS, where there is no /proc."""
    monkeypatch.setattr(holder, "_IS_LINUX", False)
    me = this_process()
    assert me.started.count(":") == 2
    assert not holder.is_gone(me)
    assert holder.is_gone(dataclasses.replace(me, started="Thu Jan 1 00:00:00 1970"))
    assert holder.uptime_us() > 0


def test_a_lease_is_a_value(store: Store, flow: str) -> None:
    me = this_process()
    assert store.acquire_lease(flow, me, ttl_s=5) == Lease(flow=flow, unit="", fence=1, holder=me, ttl_s=5)
