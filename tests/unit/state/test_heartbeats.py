"""Keeping a lease while a flow runs, and waiting for one that a host left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from dsync.protocol.errors import DsyncError, FencedError
from dsync.state import LeaseHeldError, LeaseLostError, StateCorruptError, StateFullError, Store, this_process
from dsync.state.lease import acquire, heartbeats
from tests.unit.state.support import HandClock, elsewhere, planned_run


class Metronome:
    """A pause that moves the clock, and that the test lets go of one beat at a time."""

    def __init__(self, clock: HandClock) -> None:
        self.clock = clock
        self.pauses: list[float] = []
        self._beats = asyncio.Semaphore(0)
        self._resting = asyncio.Event()

    async def __call__(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self._resting.set()
        await self._beats.acquire()
        self._resting.clear()
        self.clock.advance(seconds)

    async def beat(self) -> None:
        """Let one pause pass, and wait until the next one begins."""
        await self._resting.wait()
        self._resting.clear()
        self._beats.release()
        await self._resting.wait()

    async def last_beat(self, lost: asyncio.Event) -> None:
        await self._resting.wait()
        self._beats.release()
        await lost.wait()


class Lost:
    """Takes note of what `on_lost` is called with."""

    def __init__(self) -> None:
        self.errors: list[DsyncError] = []
        self.event = asyncio.Event()

    def __call__(self, error: DsyncError) -> None:
        self.errors.append(error)
        self.event.set()


async def test_a_lease_is_renewed_three_times_in_its_life_and_released_at_the_end(
    store: Store, open_store: Callable[[], Store], clock: HandClock
) -> None:
    flow = planned_run(store).flow
    metronome, lost = Metronome(clock), Lost()
    lease = store.acquire_lease(flow, this_process(), ttl_s=30)
    async with asyncio.TaskGroup() as tasks, heartbeats(store, lease, tasks, lost, pause=metronome):
        for _ in range(6):
            await metronome.beat()
        with pytest.raises(LeaseHeldError):
            open_store().acquire_lease(flow, this_process())
    assert metronome.pauses == [10.0] * 7
    assert lost.errors == []
    assert open_store().acquire_lease(flow, this_process()).fence == 2


async def test_a_lease_that_was_taken_over_is_told_once_and_not_released(
    store: Store, open_store: Callable[[], Store], clock: HandClock
) -> None:
    flow = planned_run(store).flow
    metronome, lost = Metronome(clock), Lost()
    lease = store.acquire_lease(flow, this_process(), ttl_s=30)
    async with asyncio.TaskGroup() as tasks, heartbeats(store, lease, tasks, lost, pause=metronome):
        clock.advance(31)
        successor = open_store().acquire_lease(flow, this_process())
        await metronome.last_beat(lost.event)
    assert [type(error) for error in lost.errors] == [FencedError]
    held = store.get_lease(flow)
    assert held is not None
    assert held.holder == successor.holder


async def test_a_full_disk_is_borne_until_the_lease_would_run_out(
    store: Store, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beats come more often in trouble, and the last one before the end says that the flow must stop."""
    flow = planned_run(store).flow
    metronome, lost = Metronome(clock), Lost()
    lease = store.acquire_lease(flow, this_process(), ttl_s=30)

    def full(_: object) -> None:
        raise StateFullError("the disk is full")

    async with asyncio.TaskGroup() as tasks, heartbeats(store, lease, tasks, lost, pause=metronome):
        with monkeypatch.context() as patched:
            patched.setattr(store, "renew_lease", full)
            await metronome.beat()
            await metronome.beat()
        await metronome.beat()
        monkeypatch.setattr(store, "renew_lease", full)
        for _ in range(7):
            await metronome.beat()
        await metronome.last_beat(lost.event)
    assert metronome.pauses == [10.0, 2.5, 2.5, *[10.0], *[2.5] * 7]
    (error,) = lost.errors
    assert isinstance(error, LeaseLostError)
    assert isinstance(error.__cause__, StateFullError)
    assert "30 s" in str(error)


async def test_an_error_that_only_a_person_can_mend_is_told_at_once(
    store: Store, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = planned_run(store).flow
    metronome, lost = Metronome(clock), Lost()
    lease = store.acquire_lease(flow, this_process())

    def damaged(_: object) -> None:
        raise StateCorruptError("damaged")

    monkeypatch.setattr(store, "renew_lease", damaged)
    async with asyncio.TaskGroup() as tasks, heartbeats(store, lease, tasks, lost, pause=metronome):
        await metronome.last_beat(lost.event)
    assert [type(error) for error in lost.errors] == [StateCorruptError]


async def test_how_the_flow_ended_is_not_hidden_by_a_release_that_fails(
    store: Store, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = planned_run(store).flow
    lease = store.acquire_lease(flow, this_process())

    def full(_: object) -> None:
        raise StateFullError("the disk is full")

    monkeypatch.setattr(store, "release_lease", full)
    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.TaskGroup() as tasks, heartbeats(store, lease, tasks, Lost(), pause=Metronome(clock)):
            raise FencedError("the sink refused our fence")
    assert caught.group_contains(FencedError)
    assert not caught.group_contains(StateFullError)


async def test_a_free_flow_is_acquired_without_waiting(store: Store, clock: HandClock) -> None:
    flow = planned_run(store).flow
    metronome = Metronome(clock)
    assert (await acquire(store, flow, this_process(), pause=metronome)).fence == 1
    assert metronome.pauses == []


async def test_a_live_holder_of_this_host_is_not_waited_for(
    store: Store, open_store: Callable[[], Store], clock: HandClock
) -> None:
    flow = planned_run(store).flow
    store.acquire_lease(flow, this_process())
    metronome = Metronome(clock)
    with pytest.raises(LeaseHeldError):
        await acquire(open_store(), flow, this_process(), pause=metronome)
    assert metronome.pauses == []


async def test_the_lease_of_a_dead_host_is_waited_for_also_with_a_clock_that_was_set_back(
    store: Store, open_store: Callable[[], Store], clock: HandClock
) -> None:
    flow = planned_run(store).flow
    store.acquire_lease(flow, elsewhere(), ttl_s=30)
    told: list[LeaseHeldError] = []

    async def pause(seconds: float) -> None:
        clock.advance(seconds)

    clock.advance(10)
    began = clock.up_us
    lease = await acquire(open_store(), flow, this_process(), on_wait=told.append, pause=pause)
    assert (lease.fence, [error.remaining_s for error in told]) == (2, [20])
    assert 20 <= (clock.up_us - began) / 1_000_000 < 21

    open_store().acquire_lease(flow, lease.holder)
    open_store().release_lease(lease)
    other = planned_run(store, name="other").flow
    store.acquire_lease(other, elsewhere(), ttl_s=30)
    clock.set_by(-86_400)
    assert (await acquire(open_store(), other, this_process(), pause=pause)).fence == 2


async def test_a_holder_on_another_host_that_renews_its_lease_is_alive(
    store: Store, open_store: Callable[[], Store], clock: HandClock
) -> None:
    """It is waited for once, for as long as its lease ran; not for ever."""
    flow = planned_run(store).flow
    alive = store.acquire_lease(flow, elsewhere(), ttl_s=30)
    waited: list[float] = []

    async def pause(seconds: float) -> None:
        waited.append(seconds)
        clock.advance(seconds)
        store.renew_lease(alive)

    with pytest.raises(LeaseHeldError):
        await acquire(open_store(), flow, this_process(), pause=pause)
    assert 30 < sum(waited) < 32
