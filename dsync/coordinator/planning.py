"""Coming to a plan: made once for a run, or found where an earlier life of it has stored it."""

from __future__ import annotations

from dataclasses import dataclass

from dsync.coordinator import setback
from dsync.coordinator.context import RunContext
from dsync.coordinator.deliver import UnitProgress
from dsync.coordinator.events import FindingReported, NamespaceRestarted
from dsync.coordinator.manifest import decode_manifest
from dsync.coordinator.plan import CopyPlan
from dsync.failpoints import failpoint
from dsync.protocol.types import Finding
from dsync.state import Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class Planning:
    context: RunContext

    async def check(self) -> tuple[Finding, ...]:
        """What each end finds about itself and its peer, before anything is planned."""
        context = self.context
        plan = await context.journal.load_plan()
        is_followed = plan is not None and plan.following is not None
        planned = [row.namespace for row in plan.namespaces] if plan is not None and is_followed else []
        return await context.retries.call(
            "check both ends", lambda: context.planner.check(planned), before_repeat=context.reopen_sessions
        )

    async def plan(self) -> tuple[CopyPlan, bool]:
        """The run's plan, and whether it was made now: then its snapshot is held."""
        plan = await self.context.journal.load_plan()
        is_new = plan is None
        if plan is None:
            plan = await self._make()
        else:
            plan = await self.read_again(plan, setback.begun_anew_since(plan, await self._plan_at_sink()))
        await self.context.save_manifest(plan)
        failpoint("coordinator.after_manifest")
        return plan, is_new

    async def _make(self) -> CopyPlan:
        context = self.context
        await context.enter(Phase.PLANNING)
        failpoint("coordinator.before_plan")
        if context.again_from and context.spec.follows:
            # What the run before has followed begins anew, from a position that this run's snapshot fits.
            await context.retries.call(
                "let go of the stream of the run before",
                lambda: context.source.connector.release_changes(context.journal.flow),
                before_repeat=context.reopen_sessions,
            )
        plan = await context.retries.call(
            "plan the copy",
            lambda: context.planner.make(dry_run=False, again=bool(context.again_from), before_change=self._claim_sink),
            before_repeat=context.reopen_sessions,
        )
        failpoint("coordinator.after_prepare")
        carried: list[UnitProgress] = []
        if context.again_from and context.spec.copies:
            plan, carried = await context.recovery.carry_over(plan, context.again_from)
        await context.journal.save_plan(plan, carried)
        failpoint("coordinator.after_plan")
        for finding in plan.findings:
            context.emit(FindingReported(finding=finding))
        return plan

    async def _claim_sink(self) -> None:
        """What is made from now on belongs to this flow, even should its state be lost before there is a plan."""
        # A flow that has run before has a manifest, which says what its tables hold: the better one to go on from.
        if not self.context.again_from:
            await self.context.save_manifest(CopyPlan(namespaces=(), units=(), snapshot=b""))

    async def _plan_at_sink(self) -> CopyPlan | None:
        """This run's plan as the sink remembers it."""
        context = self.context
        if not context.sink.serves("LedgerService"):
            return None
        kept = await context.retries.call(
            "read the flow's manifest", lambda: context.sink.connector.find_manifests(flow=context.journal.flow)
        )
        return next((decode_manifest(item.plan).plan for item in kept if item.run == context.journal.run), None)

    async def read_again(self, plan: CopyPlan, pieces: setback.Pieces) -> CopyPlan:
        """Plan these namespaces anew; returns the plan as it is then."""
        context = self.context
        if not pieces or not context.sink.serves("LedgerService"):
            return plan
        await context.journal.read_again(pieces, setback.REASON)
        for namespace in pieces:
            context.emit(NamespaceRestarted(namespace=namespace, reason=setback.REASON))
        return await context.stored_plan()
