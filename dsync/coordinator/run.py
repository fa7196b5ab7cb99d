"""One run of a copy: plan, copy, finish, conclude; goes on where an earlier life of it was cut off."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from dsync.coordinator import setback
from dsync.coordinator.control import Control
from dsync.coordinator.copier import UnitCopier
from dsync.coordinator.copiers import make_copiers
from dsync.coordinator.deliver import UnitProgress
from dsync.coordinator.ends import Agreement, End
from dsync.coordinator.events import (
    Event,
    EventHandler,
    FindingReported,
    NamespaceCopied,
    NamespacePlanned,
    NamespaceRestarted,
    NamespaceStopped,
    PageCopied,
    PhaseChanged,
    RunFinished,
    SinkPutBack,
    SnapshotLost,
)
from dsync.coordinator.finisher import Finisher
from dsync.coordinator.journal import Journal
from dsync.coordinator.manifest import RunEnd, decode_manifest, encode_manifest
from dsync.coordinator.places import open_places, read_places
from dsync.coordinator.plan import CopyPlan, Planner
from dsync.coordinator.recovery import Recovery
from dsync.coordinator.result import NamespaceResult, RunResult, StepFailure
from dsync.coordinator.retries import Retries
from dsync.coordinator.spec import FlowSpec
from dsync.coordinator.tasks import StoppedError, task_group
from dsync.failpoints import failpoint
from dsync.protocol.errors import NamespaceChangedError, SnapshotLostError, UnitLostError
from dsync.protocol.page_store import PageStore
from dsync.protocol.types import Finding, FlowManifest
from dsync.state import NamespaceState, Phase, UnitRow

MAX_FRUITLESS_SNAPSHOTS = 3
"""How many snapshots running may be lost before a single page was copied under them."""

MAX_LOSSES = 5
"""How many times what has arrived may be lost at the sink before the run ends, to be gone on with by a person."""


@dataclass(slots=True, kw_only=True)
class CopyRun:
    """Runs one run of a flow to its end. All that must survive the process is in the journal and the sink's ledger."""

    spec: FlowSpec
    flow_name: str
    fingerprint: str
    source: End
    sink: End
    agreement: Agreement
    journal: Journal
    pages: PageStore | None
    emit: EventHandler
    stopping: asyncio.Event
    again_from: str = ""
    """The finished run whose unchanged namespaces need not be read again."""
    control: Control = field(default_factory=Control)
    """What is asked of it meanwhile."""

    _progress: dict[str, UnitProgress] = field(default_factory=dict, init=False)
    _states: dict[str, NamespaceState] = field(default_factory=dict, init=False)
    _reasons: dict[str, str] = field(default_factory=dict, init=False)
    _planned_here: bool = field(default=False, init=False)
    _moved_pages: int = field(default=0, init=False)
    _moved_rows: int = field(default=0, init=False)
    _moved_bytes: int = field(default=0, init=False)

    async def execute(self) -> RunResult:
        """Run to the end.

        Raises:
            StoppedError: asked to stop; everything so far is durable, and the same run goes on later.
            DsyncError: what a person or a later repeat has to deal with; likewise resumable.
        """
        started_s = time.monotonic()
        plan = await self._plan()
        plan, failures = await self._arrive(plan)
        return await self._conclude(plan, failures, time.monotonic() - started_s)

    async def _arrive(self, plan: CopyPlan) -> tuple[CopyPlan, tuple[StepFailure, ...]]:
        """Copy and finish everything, again where a crash of the sink's server has emptied what was there."""
        for left in reversed(range(MAX_LOSSES)):
            plan = await self._copy_until_done(plan)
            try:
                failures = await self._finish(plan)
                await self._require_whole(plan)
                return plan, failures
            except UnitLostError as error:
                if not left:
                    raise
                self.emit(SinkPutBack(reason=str(error)))
        raise AssertionError("the last time ends by returning or raising")

    @property
    def _retries(self) -> Retries:
        return Retries(retry_for_s=self.spec.retry_for_s, emit=self.emit, is_stopping=self.stopping.is_set)

    @property
    def _recovery(self) -> Recovery:
        return Recovery(source=self.source, sink=self.sink, journal=self.journal, retries=self._retries, emit=self.emit)

    @property
    def _planner(self) -> Planner:
        return Planner(
            source=self.source,
            sink=self.sink,
            spec=self.spec,
            agreement=self.agreement,
            flow=self.journal.flow,
            run=self.journal.run,
        )

    async def _reopen_sessions(self) -> None:
        await self.source.reopen_session()
        await self.sink.reopen_session()

    # ------------------------------------------------------------------ plan

    async def check(self) -> tuple[Finding, ...]:
        """What each end finds about itself and its peer, before anything is planned."""
        return await self._retries.call("check both ends", self._planner.check, before_repeat=self._reopen_sessions)

    async def _plan(self) -> CopyPlan:
        plan = await self.journal.load_plan()
        if plan is None:
            await self._phase(Phase.PLANNING)
            failpoint("coordinator.before_plan")
            plan = await self._retries.call(
                "plan the copy",
                lambda: self._planner.make(
                    dry_run=False,
                    again=bool(self.again_from),
                    before_change=self._claim_sink,
                ),
                before_repeat=self._reopen_sessions,
            )
            failpoint("coordinator.after_prepare")
            carried: list[UnitProgress] = []
            if self.again_from:
                plan, carried = await self._recovery.carry_over(plan, self.again_from)
            await self.journal.save_plan(plan, carried)
            self._planned_here = True
            failpoint("coordinator.after_plan")
            for finding in plan.findings:
                self.emit(FindingReported(finding=finding))
        else:
            plan = await self._read_again(plan, setback.begun_anew_since(plan, await self._plan_at_sink()))
        await self._save_manifest(plan)
        failpoint("coordinator.after_manifest")
        self._states = {row.namespace: row.state for row in plan.namespaces}
        return plan

    async def _claim_sink(self) -> None:
        """What is made from now on belongs to this flow, even should its state be lost before there is a plan."""
        # A flow that has run before has a manifest, which says what its tables hold: the better one to go on from.
        if not self.again_from:
            await self._save_manifest(CopyPlan(namespaces=(), units=(), snapshot=b""))

    async def _plan_at_sink(self) -> CopyPlan | None:
        """This run's plan as the sink remembers it."""
        if not self.sink.serves("LedgerService"):
            return None
        kept = await self._retries.call(
            "read the flow's manifest", lambda: self.sink.connector.find_manifests(flow=self.journal.flow)
        )
        return next((decode_manifest(item.plan).plan for item in kept if item.run == self.journal.run), None)

    async def _read_again(self, plan: CopyPlan, pieces: setback.Pieces) -> CopyPlan:
        """Plan these namespaces anew; returns the plan as it is then."""
        if not pieces or not self.sink.serves("LedgerService"):
            return plan
        await self.journal.read_again(pieces, setback.REASON)
        for namespace in pieces:
            self.emit(NamespaceRestarted(namespace=namespace, reason=setback.REASON))
        return await self._stored_plan()

    async def _save_manifest(self, plan: CopyPlan, *, end: RunEnd | None = None) -> None:
        if not self.sink.serves("LedgerService"):
            return
        carried = await self.journal.carried(plan)
        manifest = FlowManifest(
            flow=self.journal.flow,
            fingerprint=self.fingerprint,
            name=self.flow_name,
            run=self.journal.run,
            plan=encode_manifest(self.spec, plan, self.source.info.id, carried, end=end),
        )
        await self._retries.call("save the flow's manifest", lambda: self.sink.connector.save_manifest(manifest))

    # ------------------------------------------------------------------ copy

    async def _copy_until_done(self, plan: CopyPlan) -> CopyPlan:
        """Copy everything, as many times as the source loses its snapshot; each time less is left.

        Raises:
            SnapshotLostError, UnitLostError: several times running not one page could be copied before it was lost
                again.
        """
        await self._phase(Phase.COPYING)
        holds_snapshot = self._planned_here
        fruitless = 0
        while True:
            plan = await self._reconcile(plan, holds_snapshot=holds_snapshot)
            self._moved_pages = 0
            try:
                await self._copy(plan)
            except SnapshotLostError as error:
                fruitless = 0 if self._moved_pages else fruitless + 1
                if fruitless >= MAX_FRUITLESS_SNAPSHOTS:
                    raise
                self.emit(SnapshotLost(reason=str(error)))
                holds_snapshot = False
                await self.source.reopen_session()
                continue
            except UnitLostError as error:
                fruitless = 0 if self._moved_pages else fruitless + 1
                if fruitless >= MAX_FRUITLESS_SNAPSHOTS:
                    raise
                self.emit(SinkPutBack(reason=str(error)))
                continue
            return plan

    async def _reconcile(self, plan: CopyPlan, *, holds_snapshot: bool) -> CopyPlan:
        """Learn from the sink where each unit stands, and from the source whether that still counts."""
        plan = await self._open(await self._clear_retired(plan))
        if pieces := setback.changed_and_incomplete(plan, self._progress):
            plan = await self._open(await self._clear_retired(await self._read_again(plan, pieces)))
        lost = bool(plan.snapshot) and not holds_snapshot
        if lost and await self._recovery.settle(plan, self._progress):
            plan = await self._stored_plan()
            # Before a row is removed or read again: the sink's word alone must not bring the old pieces back.
            await self._save_manifest(plan)
            plan = await self._open(await self._clear_retired(plan))
        self._states = {row.namespace: row.state for row in plan.namespaces}
        for namespace in setback.copied_and_incomplete(plan, self._progress):
            await self.journal.set_namespace_state(namespace, NamespaceState.PENDING)
            self._states[namespace] = NamespaceState.PENDING
        self._reasons = {row.namespace: row.reason for row in plan.namespaces}
        self._announce(plan)
        return plan

    async def _stored_plan(self) -> CopyPlan:
        plan = await self.journal.load_plan()
        assert plan is not None, "a run that copies has a plan"
        return plan

    async def _clear_retired(self, plan: CopyPlan) -> CopyPlan:
        """Finish what was being cleared; returns the plan as it is then."""
        clearing = [row for row in plan.namespaces if row.state is NamespaceState.CLEARING]
        for row in clearing:
            units = [unit.unit for unit in plan.partitions if unit.namespace == row.namespace]
            try:
                await self._recovery.clear(row, units)
            except NamespaceChangedError as error:
                await self._stop_namespace(row.namespace, str(error))
        if not clearing:
            return plan
        plan = await self._stored_plan()
        # Before a page is written: the sink's word alone must not clear what is read from now on.
        await self._save_manifest(plan)
        return plan

    async def _open(self, plan: CopyPlan) -> CopyPlan:
        """Learn every unit's place: the ledger's word where there is one, else the checkpoint's.

        Returns the plan as it is then: a namespace whose table the sink does not know again has stopped.
        """
        found = await self.journal.progress(plan)
        carried = await self.journal.carried_namespaces()
        if self.sink.serves("LedgerService"):
            targets = {row.namespace: row.target for row in plan.namespaces}
            kept = {u.unit for u in plan.partitions if u.namespace in carried and found[u.unit].done}
            units = [unit for unit in plan.units if unit.unit not in kept]
            opened, refused = await open_places(
                self.sink, self._retries, self.journal.flow, self.journal.run, units, targets
            )
            for namespace in refused.keys() & targets.keys():
                if self._states.get(namespace) is not NamespaceState.STOPPED:
                    await self._stop_namespace(namespace, refused[namespace])
            if refused:
                plan = await self._stored_plan()
            # A crash between ledger and checkpoint, or a state that was lost: the record follows the ledger.
            await self.journal.correct([place for unit, place in opened.items() if place.seq != found[unit].seq])
            found |= opened
        self._progress = found
        return plan

    def _announce(self, plan: CopyPlan) -> None:
        for row in plan.namespaces:
            units = [unit for unit in plan.partitions if unit.namespace == row.namespace]
            self.emit(
                NamespacePlanned(
                    namespace=row.namespace,
                    target=row.target,
                    page_type=row.page_type.name,
                    reason=row.reason,
                    partitions=len(units),
                    estimated_rows=row.estimated_rows,
                    size_bytes=row.size_bytes,
                    copied_rows=sum(self._progress[unit.unit].rows for unit in units),
                    copied_bytes=sum(self._progress[unit.unit].size_bytes for unit in units),
                )
            )

    async def _copy(self, plan: CopyPlan) -> None:
        """Copy all units that are not done, `parallel` at a time, the largest namespaces first."""
        rows = {row.namespace: row for row in plan.namespaces}
        left = dict.fromkeys(rows, 0)
        queue: deque[UnitRow] = deque()
        for unit in sorted(plan.partitions, key=lambda unit: -rows[unit.namespace].size_bytes):
            if not self._progress[unit.unit].done and self._is_open(unit.namespace):
                queue.append(unit)
                left[unit.namespace] += 1
        for name, count in left.items():
            if not count and self._is_open(name):
                await self._namespace_copied(plan, name)
        copiers = make_copiers(
            rows,
            spec=self.spec,
            agreement=self.agreement,
            source=self.source,
            sink=self.sink,
            pages=self.pages,
            journal=self.journal,
            retries=self._retries,
            emit=self._count,
            stopping=self.stopping,
            control=self.control,
        )
        workers = min(self.spec.parallel, len(queue))
        async with task_group() as tasks:
            for _ in range(workers):
                tasks.create_task(self._work(plan, queue, copiers, left))

    def _is_open(self, namespace: str) -> bool:
        return self._states[namespace] in (NamespaceState.PENDING, NamespaceState.COPYING)

    async def _work(
        self, plan: CopyPlan, queue: deque[UnitRow], copiers: Mapping[str, UnitCopier], left: dict[str, int]
    ) -> None:
        while queue:
            if self.stopping.is_set():
                raise StoppedError
            unit = queue.popleft()
            if not self._is_open(unit.namespace):
                continue
            assert unit.partition is not None, "only partitions are queued"
            try:
                await copiers[unit.namespace].copy(unit.partition, self._progress[unit.unit])
            except NamespaceChangedError as error:
                await self._stop_namespace(unit.namespace, str(error))
                continue
            left[unit.namespace] -= 1
            if not left[unit.namespace]:
                await self._namespace_copied(plan, unit.namespace)

    async def _namespace_copied(self, plan: CopyPlan, namespace: str) -> None:
        failpoint("coordinator.before_copied")
        await self.journal.set_namespace_state(namespace, NamespaceState.COPIED)
        self._states[namespace] = NamespaceState.COPIED
        done = [self._progress[unit.unit] for unit in plan.partitions if unit.namespace == namespace]
        self.emit(
            NamespaceCopied(
                namespace=namespace,
                rows=sum(progress.rows for progress in done),
                size_bytes=sum(progress.size_bytes for progress in done),
            )
        )

    async def _stop_namespace(self, namespace: str, reason: str) -> None:
        await self.journal.set_namespace_state(namespace, NamespaceState.STOPPED, reason)
        self._states[namespace] = NamespaceState.STOPPED
        self._reasons[namespace] = reason
        self.emit(NamespaceStopped(namespace=namespace, reason=reason))

    def _count(self, event: Event) -> None:
        if isinstance(event, PageCopied):
            self._moved_pages += 1
            self._moved_rows += event.rows
            self._moved_bytes += event.size_bytes
        self.emit(event)

    # ---------------------------------------------------------------- finish

    async def _finish(self, plan: CopyPlan) -> tuple[StepFailure, ...]:
        failpoint("coordinator.before_finish")
        await self._phase(Phase.FINISHING)
        finisher = Finisher(
            source=self.source,
            sink=self.sink,
            journal=self.journal,
            retries=self._retries,
            emit=self.emit,
            stopping=self.stopping,
            parallel=self.spec.parallel,
            control=self.control,
        )
        stopped = {name for name, state in self._states.items() if state is NamespaceState.STOPPED}
        return await finisher.finish(plan.steps, self._progress, left_out=stopped)

    async def _require_whole(self, plan: CopyPlan) -> None:
        """Ask the sink whether all that has arrived is there: nobody notices a crash that emptied a finished table.

        Raises:
            UnitLostError: it is not.
        """
        if not self.sink.serves("LedgerService"):
            return
        carried = await self.journal.carried_namespaces()
        there = await self._retries.call(
            "read the ledger",
            lambda: read_places(self.sink, self.journal.flow, self.journal.run, plan),
            before_repeat=self.sink.reopen_session,
        )
        for unit in plan.partitions:
            is_kept = unit.namespace in carried or self._states[unit.namespace] is NamespaceState.STOPPED
            if not is_kept and self._progress[unit.unit].done and not there[unit.unit].done:
                raise UnitLostError(
                    f"{unit.namespace}: a crash of the sink's server has emptied it; it is copied again"
                )

    async def _conclude(self, plan: CopyPlan, failures: tuple[StepFailure, ...], elapsed_s: float) -> RunResult:
        result = RunResult(
            flow=self.journal.flow,
            run=self.journal.run,
            namespaces=await self._results(plan),
            failed_steps=failures,
            elapsed_s=elapsed_s,
            moved_rows=self._moved_rows,
            moved_bytes=self._moved_bytes,
        )
        whole = not result.stopped and not failures
        result = replace(result, consistent=whole if plan.snapshot else None)
        await self.journal.flush_events()
        failpoint("coordinator.before_end")
        phase = Phase.DONE if whole else Phase.INCONSISTENT
        # The sink first: a state that says more than the sink does would have to be taken back.
        await self._save_end(phase, result)
        failpoint("coordinator.after_end_at_sink")
        await self.journal.finish(phase, result)
        failpoint("coordinator.after_end")
        self.emit(
            RunFinished(
                rows=result.rows, size_bytes=result.size_bytes, elapsed_s=elapsed_s, consistent=result.consistent
            )
        )
        return result

    async def _results(self, plan: CopyPlan) -> tuple[NamespaceResult, ...]:
        dead = await self.journal.count_dead_letters()
        results = []
        for row in plan.namespaces:
            done = [self._progress[unit.unit] for unit in plan.partitions if unit.namespace == row.namespace]
            state = self._states[row.namespace]
            if state is not NamespaceState.STOPPED and not all(progress.done for progress in done):
                # Nothing may call itself copied that is not: better a loud fault of ours than a smaller copy.
                raise AssertionError(f"{row.namespace} is {state.value} and has partitions that are not done")
            results.append(
                NamespaceResult(
                    namespace=row.namespace,
                    target=row.target,
                    rows=sum(progress.rows for progress in done),
                    size_bytes=sum(progress.size_bytes for progress in done),
                    state=state,
                    reason=self._reasons.get(row.namespace, "") if state is not NamespaceState.COPIED else "",
                    dead_letters=dead.get(row.namespace, 0),
                )
            )
        return tuple(results)

    async def _save_end(self, phase: Phase, result: RunResult) -> None:
        """Let the sink know how it ended, for a coordinator that has only the sink's word."""
        end = RunEnd(
            phase=phase,
            finished_at=datetime.now(UTC),
            consistent=result.consistent,
            summary=result.as_json(),
            undone=tuple(sorted(unit for unit, progress in self._progress.items() if not progress.done)),
        )
        await self._save_manifest(await self._stored_plan(), end=end)

    async def _phase(self, phase: Phase) -> None:
        await self.journal.set_phase(phase)
        await self.journal.flush_events()
        self.emit(PhaseChanged(phase=phase.value))
