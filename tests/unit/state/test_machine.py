"""Any order of acquiring, renewing, losing and writing, against a model that fits on a page."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from dsync.protocol.errors import FencedError
from dsync.state import CheckpointRow, Holder, Lease, LeaseHeldError, Store, _leases, this_process
from dsync.state.holder import is_gone
from tests.unit.state.support import SECOND_US, HandClock, planned_run

TTL_S = 30
ACTORS = st.integers(0, 2)
UNITS = st.sampled_from(["p0.0.0", "p0.0.1", "p1.0.0"])
SINKS = st.sampled_from(["1", "2"])


class Leasing(RuleBasedStateMachine):
    """Three processes, a store each, on one flow; the model knows who holds it and what was recorded."""

    fresh: Callable[[], str | Path]
    """Gives a state without flows."""

    def __init__(self) -> None:
        super().__init__()
        self.dead: set[str] = set()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(_leases, "is_gone", lambda holder: holder.nonce in self.dead or is_gone(holder))

    @initialize()
    def start(self) -> None:
        self.location = type(self).fresh()
        self.clock = HandClock()
        self.stores = [Store.open(self.location, clock=self.clock) for _ in range(3)]
        run = planned_run(self.stores[0])
        self.flow, self.run = run.flow, run.run
        self.holders: list[Holder] = [this_process() for _ in range(3)]
        self.leases: list[Lease | None] = [None] * 3
        self.fence = 0
        self.held_by: int | None = None
        self.expires_us = 0
        self.recorded: dict[tuple[str, str], tuple[int, bool]] = {}
        self.seq = 0

    def free_for(self, actor: int) -> bool:
        return (
            self.held_by in (None, actor)
            or self.clock.up_us >= self.expires_us
            or self.holders[self.held_by].nonce in self.dead
        )

    @rule(actor=ACTORS)
    def acquire(self, actor: int) -> None:
        if not self.free_for(actor):
            with pytest.raises(LeaseHeldError) as caught:
                self.stores[actor].acquire_lease(self.flow, self.holders[actor], ttl_s=TTL_S)
            assert caught.value.remaining_s == (self.expires_us - self.clock.up_us) / SECOND_US
            return
        lease = self.stores[actor].acquire_lease(self.flow, self.holders[actor], ttl_s=TTL_S)
        assert lease.fence == self.fence + 1
        self.leases[actor] = lease
        self.fence, self.held_by = lease.fence, actor
        self.expires_us = self.clock.up_us + TTL_S * SECOND_US

    @rule(actor=ACTORS)
    def renew(self, actor: int) -> None:
        lease = self.leases[actor]
        if lease is None:
            return
        if self.held_by != actor:
            with pytest.raises(FencedError):
                self.stores[actor].renew_lease(lease)
            return
        self.stores[actor].renew_lease(lease)
        self.expires_us = self.clock.up_us + TTL_S * SECOND_US

    @rule(actor=ACTORS)
    def release(self, actor: int) -> None:
        lease = self.leases[actor]
        if lease is None:
            return
        self.stores[actor].release_lease(lease)
        self.leases[actor] = None
        if self.held_by == actor:
            self.held_by = None

    @rule(actor=ACTORS)
    def crash(self, actor: int) -> None:
        """The process dies and the same command is run again."""
        self.dead.add(self.holders[actor].nonce)
        self.stores[actor].close()
        self.stores[actor] = Store.open(self.location, clock=self.clock)
        if self.held_by == actor:
            self.held_by = None
        self.leases[actor] = None
        self.holders[actor] = this_process()

    @rule(seconds=st.sampled_from([1, 10, 29, 30, 31]))
    def pass_time(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @rule(days=st.sampled_from([-1, 1]))
    def set_clock(self, days: int) -> None:
        self.clock.set_by(days * 86_400)

    @rule(actor=ACTORS, unit=UNITS, sink=SINKS, done=st.booleans())
    def save(self, actor: int, unit: str, sink: str, done: bool) -> None:
        lease = self.leases[actor]
        if lease is None:
            return
        self.seq += 1
        row = CheckpointRow(unit=unit, sink=sink, seq=self.seq, rows=self.seq, done=done)
        if lease.fence < self.fence:
            with pytest.raises(FencedError):
                self.stores[actor].save_checkpoint(self.flow, self.run, row)
            return
        self.stores[actor].save_checkpoint(self.flow, self.run, row)
        self.recorded[unit, sink] = self.seq, done

    @precondition(lambda self: hasattr(self, "stores"))
    @invariant()
    def everyone_sees_what_was_recorded(self) -> None:
        for store in self.stores:
            found = store.load_checkpoints(self.flow, self.run)
            assert {key: (row.seq, row.done) for key, row in found.items()} == self.recorded
            lease = store.get_lease(self.flow)
            assert (lease.fence if lease else 0) == self.fence

    def teardown(self) -> None:
        for store in getattr(self, "stores", []):
            store.close()
        self.patch.undo()


def _play(fresh: Callable[[], str | Path], *, examples: int) -> None:
    Leasing.fresh = staticmethod(fresh)
    run_state_machine_as_test(Leasing, settings=settings(max_examples=examples, stateful_step_count=30, deadline=None))


def test_no_order_of_events_gives_two_holders_or_loses_a_checkpoint(empty_state: Path, tmp_path: Path) -> None:
    """Fences grow, zombies write nothing, and what was recorded is what everyone reads."""
    numbers = itertools.count()

    def copy() -> Path:
        return Path(shutil.copy(empty_state, tmp_path / f"state-{next(numbers)}.db"))

    _play(copy, examples=40)


def test_nor_does_it_at_a_server(state_server: str) -> None:
    """The same promises where several machines share the state."""

    def emptied() -> str:
        with Store.open(state_server) as store:
            for flow in store.list_flow_rows():
                store.delete_flow(flow.flow)
        return state_server

    _play(emptied, examples=8)
