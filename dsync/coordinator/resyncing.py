"""Copying namespaces anew while all others are followed: what was asked for, and what an earlier life had begun.

One group at a time, each under a snapshot of its own. Its namespaces leave the main follower, which is recorded first.
What the sink has of them is cleared, their pages are copied and finished, and a follower of their own catches up. A
life that ends before they have arrived has lost the snapshot: they alone are begun anew.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from dsync.coordinator.context import RunContext
from dsync.coordinator.control import ResyncWish
from dsync.coordinator.copying import Copying
from dsync.coordinator.events import NamespaceRejoined, NamespaceRestarted, SnapshotLost
from dsync.coordinator.following import Resync
from dsync.coordinator.plan import CopyPlan, choose
from dsync.coordinator.planning import Planning
from dsync.coordinator.stream.lanes import unit_of
from dsync.coordinator.stream.session import Stream
from dsync.failpoints import failpoint
from dsync.protocol.errors import (
    AuthenticationError,
    DsyncError,
    FencedError,
    NamespaceChangedError,
    OtherEndpointError,
    PermanentError,
    RequestError,
    SnapshotLostError,
    UnitLostError,
    UnsupportedError,
)
from dsync.protocol.types import DescribeRequest, Partition
from dsync.state import STATE_ERRORS, NamespaceRow, UnitRow, finish_units, lane_units

REASON = "it is copied anew while the others are followed"
NEW = "it is new at the source, and is copied while the others are followed"
LOOK_EVERY_S = 30.0
"""How soon a new table is found."""
MAX_FRUITLESS_SNAPSHOTS = 3
_ENDS_THE_RUN = (FencedError, OtherEndpointError, AuthenticationError, *STATE_ERRORS)
"""They are of no table."""


@dataclass(slots=True, kw_only=True)
class Resyncing:
    context: RunContext
    planning: Planning
    stream: Stream

    _refused: set[str] = field(default_factory=set, init=False)
    """New tables that cannot be followed, as has been said."""

    async def run(self) -> None:
        """Do what is asked for, and look for new tables from time to time, for ever."""
        control = self.context.control
        while True:
            control.wished.clear()
            await self.settle()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY_S):
                    await control.wished.wait()

    async def settle(self) -> None:
        """Do all that was begun, and all that is asked for by now; follow what is new at the source."""
        wishes = self.context.control.wishes
        while True:
            resync = self.stream.following.resync
            if resync is not None:
                await self._go_through(resync)
            elif wishes:
                await self._begin(wishes.popleft())
            elif new := await self._new_table():
                await self._leave([new], NEW)
            else:
                return

    async def _new_table(self) -> str | None:
        """A table that the flow means and does not have yet."""
        source, spec = self.context.source, self.context.spec
        if not spec.copies or not source.serves("SchemaService"):
            return None
        description = await self.context.retries.call(
            "look for new tables",
            lambda: source.connector.describe(DescribeRequest()),
            before_repeat=source.reopen_session,
        )
        try:
            chosen = choose(description, spec.selection)
        except RequestError:
            # What a pattern has meant is there no more.
            return None
        known = {row.namespace for row in (await self.context.stored_plan()).namespaces} | self._refused
        names = [item.namespace for item in description.namespaces if item.namespace in chosen and not item.rowless]
        return next((name for name in names if name not in known), None)

    async def _begin(self, wish: ResyncWish) -> None:
        plan = await self.context.stored_plan()
        followed = frozenset(self.stream.following.partition.namespaces)
        if strangers := sorted(set(wish.namespaces) - followed):
            wish.answer.set_result(f"{strangers[0]} is not followed by this flow; `dsync status` lists what is")
            return
        # Clearing a table takes the rows of all namespaces that were loaded into it.
        targets = {row.target for row in plan.namespaces if row.namespace in wish.namespaces}
        names = [row.namespace for row in plan.namespaces if row.target in targets and row.namespace in followed]
        await self._leave(names, REASON)
        wish.answer.set_result("")

    async def _leave(self, names: Sequence[str], reason: str) -> None:
        await self.stream.apart.leave(names)
        for name in names:
            self.context.emit(NamespaceRestarted(namespace=name, reason=reason))

    async def _go_through(self, resync: Resync) -> None:
        """Copy and rejoin; what cannot be copied stops, and says what to do, while the others go on."""
        lost = 0
        while True:
            try:
                if not resync.is_copied:
                    resync = await self._copied(resync)
                back = await self.stream.apart.rejoin(resync)
            except (SnapshotLostError, UnitLostError) as error:
                lost += 1
                if lost >= MAX_FRUITLESS_SNAPSHOTS:
                    await self._give_up(resync, error)
                    return
                self.context.emit(SnapshotLost(reason=str(error)))
                await self.context.source.reopen_session()
                resync = self._current
            except _ENDS_THE_RUN:
                raise
            except (PermanentError, RequestError, UnsupportedError) as error:
                await self._give_up(resync, error)
                return
            else:
                for name in sorted(back):
                    self.context.emit(NamespaceRejoined(namespace=name))
                await self.context.save_manifest(await self.context.stored_plan())
                return

    @property
    def _current(self) -> Resync:
        resync = self.stream.following.resync
        assert resync is not None, "what is gone through is recorded"
        return resync

    async def _give_up(self, resync: Resync, error: DsyncError) -> None:
        """They are not followed any more: each says why, and the rest goes on."""
        await self.context.let_go_of_snapshot()
        way_on = f"`dsync resync {self._flow} --table …` tries again"
        self._refused |= set(resync.namespaces)
        for name in resync.namespaces:
            reason = str(error) if isinstance(error, NamespaceChangedError) else f"{error}; {way_on}"
            await self.stream.stop_namespace(name, reason)
        await self.stream.apart.give_up()

    @property
    def _flow(self) -> str:
        return self.context.flow_name or self.context.journal.flow

    # -------------------------------------------------------------------- copying

    async def _copied(self, resync: Resync) -> Resync:
        """Plan, clear, copy and finish; returns what is left to do, as it is recorded."""
        await self._plan(resync)
        copying = Copying(
            context=self.context, planning=self.planning, holds_snapshot=True, view=lambda plan: plan.beside
        )
        plan = await copying.copy_once()
        await self._finish(copying, plan)
        await self.context.let_go_of_snapshot()
        arrived = tuple(name for name in self._current.namespaces if name not in copying.stopped)
        if not arrived:
            name = min(copying.stopped)
            raise NamespaceChangedError(copying.reasons[name]).about(name)
        failpoint("coordinator.before_resync_copied")
        await self._note(replace(self._current, namespaces=arrived, is_copied=True))
        failpoint("coordinator.after_resync_copied")
        return self._current

    async def _note(self, resync: Resync) -> None:
        await self.stream.change(lambda following: replace(following, resync=resync))

    async def _finish(self, copying: Copying, plan: CopyPlan) -> None:
        failures = await copying.finisher.finish(plan.steps, copying.progress, left_out=copying.stopped)
        for failure in failures:
            if failure.namespace not in copying.stopped:
                raise PermanentError(
                    f"{failure.namespace or plan.namespaces[0].namespace}: {failure.step} cannot be made "
                    f"({failure.reason}); mend that at the sink"
                )

    async def _plan(self, resync: Resync) -> None:
        """Fix a snapshot, have the sink's tables as the source's are, and record what is to be copied."""
        number = self.stream.following.resyncs + 1
        while True:
            failpoint("coordinator.before_resync_plan")
            joined, plan = await self.context.retries.call(
                "plan tables that are copied anew",
                lambda: self.context.planner.make_beside(
                    resync.namespaces, self.stream.following.partition, number=number
                ),
                before_repeat=self.context.reopen_sessions,
            )
            if joined.snapshot:
                break
            await self.stream.widen(joined.stream)
        planned = replace(resync, number=number, seen_through=joined.seen_through)
        await self._record(planned, plan)
        self.stream.learn(plan.namespaces)
        # Before their follower finds more to refuse: what was refused leaves the sink with all the rest.
        await self.stream.letters.copied_anew(planned.namespaces)

    async def _record(self, resync: Resync, plan: CopyPlan) -> None:
        stored = await self.context.stored_plan()
        known = {row.namespace: row for row in stored.namespaces}
        self._require_alone(stored, plan)
        places = iter(range(len(known), len(known) + len(plan.namespaces)))
        rows = [
            replace(row, position=known[row.namespace].position if row.namespace in known else next(places))
            for row in plan.namespaces
        ]
        partitions: dict[str, list[Partition]] = {row.namespace: [] for row in rows}
        for unit in plan.partitions:
            assert unit.partition is not None, "only partitions are asked for"
            partitions[unit.namespace].append(unit.partition)
        missed = await self._missed_steps(stored, rows)
        steps = {unit.step.id: unit.step for unit in (*missed, *plan.steps) if unit.step is not None}
        units = [replace(unit, unit=resync.step_unit(unit.unit)) for unit in finish_units(steps.values())]
        lanes = [unit_of(number, resync.follower) for number in range(self.stream.following.lanes)]
        failpoint("coordinator.before_resync_record")
        await self.stream.change(
            lambda following: replace(following, resync=resync, resyncs=resync.number),
            lambda following: self.context.journal.plan_beside(
                [replace(row, reason=REASON) for row in rows],
                partitions,
                [*units, *lane_units(lanes)],
                instead_of=[unit.unit for unit in missed],
                following=following,
            ),
        )
        failpoint("coordinator.after_resync_record")

    def _require_alone(self, stored: CopyPlan, plan: CopyPlan) -> None:
        """Raise where clearing a table would take the rows of namespaces that are not copied anew."""
        here = {row.namespace: row.target for row in plan.namespaces}
        for row in stored.namespaces:
            for name, target in here.items():
                if row.target == target and row.namespace not in here:
                    raise NamespaceChangedError(
                        f"{name}: its rows go to {target}, as those of {row.namespace} do; copy them together: `dsync "
                        f"resync {self._flow} --table {row.namespace}`, or all of the flow with --again"
                    ).about(name)

    async def _missed_steps(self, stored: CopyPlan, rows: Sequence[NamespaceRow]) -> list[UnitRow]:
        """Steps of these tables that nobody has done: a sink plans nothing for tables that it has."""
        targets: Collection[str] = {row.target for row in rows}
        progress = await self.context.journal.progress(stored)
        return [
            unit
            for unit in stored.steps
            if unit.step is not None and unit.step.namespace in targets and not progress[unit.unit].done
        ]
