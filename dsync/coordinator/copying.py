"""Copying what a plan says, as often as a snapshot is lost meanwhile, until every namespace has arrived or stopped."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from dsync.coordinator import setback
from dsync.coordinator.context import RunContext
from dsync.coordinator.copier import UnitCopier
from dsync.coordinator.copiers import make_copiers
from dsync.coordinator.deliver import UnitProgress
from dsync.coordinator.events import (
    Event,
    NamespaceCopied,
    NamespacePlanned,
    NamespaceStopped,
    PageCopied,
    SinkPutBack,
    SnapshotLost,
)
from dsync.coordinator.finisher import Finisher
from dsync.coordinator.places import open_places
from dsync.coordinator.plan import CopyPlan
from dsync.coordinator.planning import Planning
from dsync.coordinator.tasks import StoppedError, task_group
from dsync.failpoints import failpoint
from dsync.protocol.errors import NamespaceChangedError, PermanentError, SnapshotLostError, UnitLostError
from dsync.state import NamespaceState, Phase, UnitRow

MAX_FRUITLESS_SNAPSHOTS = 3
"""How many snapshots running may be lost before a single page was copied under them."""


@dataclass(slots=True, kw_only=True)
class Copying:
    """What a run knows of its units and namespaces while it copies."""

    context: RunContext
    planning: Planning
    holds_snapshot: bool
    """The plan was made by this process."""
    view: Callable[[CopyPlan], CopyPlan] = lambda plan: plan.together
    """The part of the stored plan that is copied: by default all but what is copied anew beside the rest."""

    progress: dict[str, UnitProgress] = field(default_factory=dict, init=False)
    states: dict[str, NamespaceState] = field(default_factory=dict, init=False)
    reasons: dict[str, str] = field(default_factory=dict, init=False)
    moved_pages: int = field(default=0, init=False)
    moved_rows: int = field(default=0, init=False)
    moved_bytes: int = field(default=0, init=False)

    def learn_states(self, plan: CopyPlan) -> None:
        """How far its namespaces have come by the plan."""
        self.states = {row.namespace: row.state for row in plan.namespaces}
        self.reasons = {row.namespace: row.reason for row in plan.namespaces}

    async def copy(self, plan: CopyPlan) -> CopyPlan:
        """Copy everything, as many times as the source loses its snapshot; each time less is left.

        Raises:
            SnapshotLostError, UnitLostError: several times running not one page could be copied before it was lost
                again.
        """
        if plan.copies:
            await self.context.enter(Phase.COPYING)
        plan = self.view(plan)
        fruitless = 0
        while True:
            plan = await self._reconcile(plan)
            self.moved_pages = 0
            try:
                await self._copy(plan)
            except SnapshotLostError as error:
                fruitless = 0 if self.moved_pages else fruitless + 1
                if fruitless >= MAX_FRUITLESS_SNAPSHOTS:
                    raise
                self.context.emit(SnapshotLost(reason=str(error)))
                self.holds_snapshot = False
                await self.context.source.reopen_session()
                continue
            except UnitLostError as error:
                fruitless = 0 if self.moved_pages else fruitless + 1
                if fruitless >= MAX_FRUITLESS_SNAPSHOTS:
                    raise
                self.context.emit(SinkPutBack(reason=str(error)))
                continue
            return plan

    async def copy_once(self) -> CopyPlan:
        """Copy what is left of a plan whose snapshot is held; nothing judges what was copied under another.

        Raises:
            SnapshotLostError, UnitLostError: it has to be begun anew.
        """
        plan = await self._open(await self._clear_retired(self.view(await self.context.stored_plan())))
        self.learn_states(plan)
        self._announce(plan)
        await self._copy(plan)
        return plan

    async def _reconcile(self, plan: CopyPlan) -> CopyPlan:
        """Learn from the sink where each unit stands, and from the source whether that still counts."""
        plan = await self._open(await self._clear_retired(plan))
        if pieces := setback.changed_and_incomplete(plan, self.progress):
            plan = self.view(await self.planning.read_again(plan, pieces))
            plan = await self._open(await self._clear_retired(plan))
        if self._needs_snapshot(plan) and await self.context.recovery.settle(plan, self.progress):
            plan = await self.context.stored_plan()
            # Before a row is removed or read again: the sink's word alone must not bring the old pieces back.
            await self.context.save_manifest(plan)
            plan = await self._open(await self._clear_retired(self.view(plan)))
        self.learn_states(plan)
        for namespace in setback.copied_and_incomplete(plan, self.progress):
            await self.context.journal.set_namespace_state(namespace, NamespaceState.PENDING)
            self.states[namespace] = NamespaceState.PENDING
        self._announce(plan)
        return plan

    def _needs_snapshot(self, plan: CopyPlan) -> bool:
        """It may be lost, and matters."""
        if not plan.snapshot or self.holds_snapshot:
            return False
        # What has happened since to a copy that is followed comes in the stream.
        return plan.following is None or any(not self.progress[unit.unit].done for unit in plan.partitions)

    async def _clear_retired(self, plan: CopyPlan) -> CopyPlan:
        """Finish what was being cleared; returns the plan as it is then."""
        clearing = [row for row in plan.namespaces if row.state is NamespaceState.CLEARING]
        for row in clearing:
            units = [unit.unit for unit in plan.partitions if unit.namespace == row.namespace]
            try:
                await self.context.recovery.clear(row, units)
            except NamespaceChangedError as error:
                await self.stop_namespace(row.namespace, str(error))
        if not clearing:
            return plan
        plan = await self.context.stored_plan()
        # Before a page is written: the sink's word alone must not clear what is read from now on.
        await self.context.save_manifest(plan)
        return self.view(plan)

    async def _open(self, plan: CopyPlan) -> CopyPlan:
        """Learn every unit's place: the ledger's word where there is one, else the checkpoint's.

        Returns the plan as it is then: a namespace whose table the sink does not know again has stopped.
        """
        found = await self.context.journal.progress(plan)
        carried = await self.context.journal.carried_namespaces()
        if self.context.sink.serves("LedgerService"):
            targets = {row.namespace: row.target for row in plan.namespaces}
            kept = {u.unit for u in plan.partitions if u.namespace in carried and found[u.unit].done}
            units = [unit for unit in plan.units if unit.unit not in kept]
            opened, refused = await open_places(
                self.context.sink,
                self.context.retries,
                self.context.journal.flow,
                self.context.journal.run,
                units,
                targets,
            )
            for namespace in refused.keys() & targets.keys():
                if self.states.get(namespace) is not NamespaceState.STOPPED:
                    await self.stop_namespace(namespace, refused[namespace])
            if refused:
                plan = self.view(await self.context.stored_plan())
            # A crash between ledger and checkpoint, or a state that was lost: the record follows the ledger.
            await self.context.journal.correct(
                [place for unit, place in opened.items() if place.seq != found[unit].seq]
            )
            found |= opened
        self.progress = found
        return plan

    def _announce(self, plan: CopyPlan) -> None:
        for row in plan.namespaces:
            units = [unit for unit in plan.partitions if unit.namespace == row.namespace]
            self.context.emit(
                NamespacePlanned(
                    namespace=row.namespace,
                    target=row.target,
                    page_type=row.page_type.name,
                    reason=row.reason,
                    partitions=len(units),
                    estimated_rows=row.estimated_rows,
                    size_bytes=row.size_bytes,
                    copied_rows=sum(self.progress[unit.unit].rows for unit in units),
                    copied_bytes=sum(self.progress[unit.unit].size_bytes for unit in units),
                )
            )

    async def _copy(self, plan: CopyPlan) -> None:
        """Copy all units that are not done, `parallel` at a time, the largest namespaces first."""
        rows = {row.namespace: row for row in plan.namespaces}
        if plan.following is not None and plan.following.overlaps:
            await self._make_keys(plan)
            by_key = plan.following.is_written_by_key
            rows = {name: replace(row, upsert=row.upsert or by_key(name)) for name, row in rows.items()}
        left = dict.fromkeys(rows, 0)
        queue: deque[UnitRow] = deque()
        for unit in sorted(plan.partitions, key=lambda unit: -rows[unit.namespace].size_bytes):
            if not self.progress[unit.unit].done and self._is_open(unit.namespace):
                queue.append(unit)
                left[unit.namespace] += 1
        for name, count in left.items():
            if not count and self._is_open(name):
                await self._namespace_copied(plan, name)
        copiers = make_copiers(
            rows,
            spec=self.context.spec,
            agreement=self.context.agreement,
            source=self.context.source,
            sink=self.context.sink,
            pages=self.context.pages,
            journal=self.context.journal,
            retries=self.context.retries,
            emit=self._count,
            stopping=self.context.stopping,
            control=self.context.control,
        )
        workers = min(self.context.spec.parallel, len(queue))
        async with task_group() as tasks:
            working = [tasks.create_task(self._work(plan, queue, copiers, left)) for _ in range(workers)]
        # Not before: the first one that stops would end the others in the middle of their pages.
        if not all(task.result() for task in working):
            raise StoppedError

    async def _make_keys(self, plan: CopyPlan) -> None:
        """Make what tells rows apart, before rows are written that may be there already.

        Raises:
            PermanentError: a key cannot be made.
        """
        wanted = [unit for unit in plan.steps if unit.step is not None and unit.step.makes_key]
        by_id = {unit.step.id: unit for unit in plan.steps if unit.step is not None}
        found: dict[str, UnitRow] = {}
        while wanted:
            unit = wanted.pop()
            assert unit.step is not None, "only steps are looked for"
            if unit.step.id not in found:
                found[unit.step.id] = unit
                wanted += [by_id[need] for need in unit.step.depends_on if need in by_id]
        steps = [unit for unit in plan.steps if unit.step is not None and unit.step.id in found]
        failures = await self.finisher.finish(steps, self.progress, left_out=self.stopped)
        failed = [failure for failure in failures if failure.namespace not in self.stopped]
        if failed:
            raise PermanentError(
                f"{failed[0].namespace}: {failed[0].step} cannot be made, without which rows cannot be written by key "
                f"({failed[0].reason}); mend that at the sink and run the same command again"
            )

    @property
    def finisher(self) -> Finisher:
        """What does finish steps."""
        context = self.context
        return Finisher(
            source=context.source,
            sink=context.sink,
            journal=context.journal,
            retries=context.retries,
            emit=context.emit,
            stopping=context.stopping,
            parallel=context.spec.parallel,
            control=context.control,
        )

    @property
    def stopped(self) -> frozenset[str]:
        """Namespaces that have."""
        return frozenset(name for name, state in self.states.items() if state is NamespaceState.STOPPED)

    def _is_open(self, namespace: str) -> bool:
        return self.states[namespace] in (NamespaceState.PENDING, NamespaceState.COPYING)

    async def _work(
        self, plan: CopyPlan, queue: deque[UnitRow], copiers: Mapping[str, UnitCopier], left: dict[str, int]
    ) -> bool:
        """False: the run is to stop, and some is left."""
        while queue:
            if self.context.stopping.is_set():
                return False
            unit = queue.popleft()
            if not self._is_open(unit.namespace):
                continue
            assert unit.partition is not None, "only partitions are queued"
            try:
                await copiers[unit.namespace].copy(unit.partition, self.progress[unit.unit])
            except NamespaceChangedError as error:
                await self.stop_namespace(unit.namespace, str(error))
                continue
            except StoppedError:
                return False
            left[unit.namespace] -= 1
            if not left[unit.namespace]:
                await self._namespace_copied(plan, unit.namespace)
        return True

    async def _namespace_copied(self, plan: CopyPlan, namespace: str) -> None:
        failpoint("coordinator.before_copied")
        await self.context.journal.set_namespace_state(namespace, NamespaceState.COPIED)
        self.states[namespace] = NamespaceState.COPIED
        done = [self.progress[unit.unit] for unit in plan.partitions if unit.namespace == namespace]
        self.context.emit(
            NamespaceCopied(
                namespace=namespace,
                rows=sum(progress.rows for progress in done),
                size_bytes=sum(progress.size_bytes for progress in done),
            )
        )

    async def stop_namespace(self, namespace: str, reason: str) -> None:
        """Record that a namespace goes no further, with the reason."""
        await self.context.journal.set_namespace_state(namespace, NamespaceState.STOPPED, reason)
        self.states[namespace] = NamespaceState.STOPPED
        self.reasons[namespace] = reason
        self.context.emit(NamespaceStopped(namespace=namespace, reason=reason))

    def _count(self, event: Event) -> None:
        if isinstance(event, PageCopied):
            self.moved_pages += 1
            self.moved_rows += event.rows
            self.moved_bytes += event.size_bytes
        self.context.emit(event)
