"""One run of a flow: plan, copy, finish, follow, conclude; goes on where an earlier life of it was cut off."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from dsync.coordinator.context import RunContext
from dsync.coordinator.copying import Copying
from dsync.coordinator.events import RunFinished, SinkPutBack
from dsync.coordinator.manifest import RunEnd
from dsync.coordinator.places import read_places
from dsync.coordinator.plan import CopyPlan
from dsync.coordinator.planning import Planning
from dsync.coordinator.result import NamespaceResult, RunResult, StepFailure
from dsync.failpoints import failpoint
from dsync.protocol.errors import UnitLostError
from dsync.protocol.types import Finding
from dsync.state import NamespaceState, Phase

if TYPE_CHECKING:
    from dsync.coordinator.resyncing import Resyncing
    from dsync.coordinator.stream.session import Stream

MAX_LOSSES = 5
"""How many times what has arrived may be lost at the sink before the run ends, to be gone on with by a person."""


async def _at_once() -> None:
    """There is nothing to do before the run ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Runs one run of a flow to its end, or for as long as it follows."""

    context: RunContext

    async def check(self) -> tuple[Finding, ...]:
        """What each end finds about itself and its peer, before anything is planned."""
        return await self._planning.check()

    async def execute(
        self,
        *,
        until_caught_up: bool = False,
        when_consistent: Callable[[], Awaitable[None]] = _at_once,
        cut_over: Callable[[Stream], Awaitable[None]] | None = None,
    ) -> RunResult:
        """Run to the end; a flow that follows has one only where it is to end once it has caught up.

        `when_consistent` is awaited once the sink equals the source, while changes go on being applied. With
        `cut_over` that alone is awaited, and its end is the run's.

        Raises:
            StoppedError: asked to stop; everything so far is durable, and the same run goes on later.
            DsyncError: what a person or a later repeat has to deal with; likewise resumable.
        """
        started_s = time.monotonic()
        plan, is_new = await self._planning.plan()
        copying = Copying(context=self.context, planning=self._planning, holds_snapshot=is_new)
        copying.learn_states(plan.together)
        if plan.following is None:
            plan, failures = await self._arrive(copying, plan, None)
            return await self._conclude(copying, plan, failures, time.monotonic() - started_s)
        # A copy needs none of it, and every command waits for the imports.
        from dsync.coordinator.resyncing import Resyncing
        from dsync.coordinator.stream.session import streaming

        async with streaming(self.context, plan) as stream:

            async def work() -> RunResult:
                arrived, failures = await self._arrive(copying, plan, stream)
                await self.context.let_go_of_snapshot()
                await stream.has_copied_exactly()
                await self.context.enter(Phase.STREAMING)
                resyncing = Resyncing(context=self.context, planning=self._planning, stream=stream)
                if cut_over is not None:
                    await stream.follow_while(resyncing.settle)
                    await stream.follow_while(partial(cut_over, stream))
                else:
                    await self._follow(
                        stream, resyncing, until_caught_up=until_caught_up, when_consistent=when_consistent
                    )
                elapsed_s = time.monotonic() - started_s
                return await self._conclude_for_now(copying, arrived, failures, elapsed_s, stream)

            return await stream.beside(work())

    async def _follow(
        self,
        stream: Stream,
        resyncing: Resyncing,
        *,
        until_caught_up: bool,
        when_consistent: Callable[[], Awaitable[None]],
    ) -> None:
        if not until_caught_up:
            await stream.follow(resyncing.run, beside=when_consistent)
            return
        while True:
            await stream.follow_while(resyncing.settle)
            await stream.pass_mark()
            # On the way there a table may have been found that has to be copied anew.
            if not self.context.control.wishes:
                break
        await stream.follow_while(when_consistent)

    @property
    def _planning(self) -> Planning:
        return Planning(context=self.context)

    async def _arrive(
        self, copying: Copying, plan: CopyPlan, stream: Stream | None
    ) -> tuple[CopyPlan, tuple[StepFailure, ...]]:
        """Copy and finish everything, again where a crash of the sink's server has emptied what was there."""
        for left in reversed(range(MAX_LOSSES)):
            plan = await copying.copy(plan)
            if stream is not None:
                stream.take_over(plan, stopped=copying.stopped)
                if stream.following.overlaps:
                    await self.context.enter(Phase.CATCHING_UP)
                    await stream.reach_consistency()
                    plan = replace(plan, following=stream.following)
            try:
                failures = await self._finish(copying, plan)
                await self._require_whole(copying, plan)
                return plan, failures
            except UnitLostError as error:
                if not left:
                    raise
                self.context.emit(SinkPutBack(reason=str(error)))
        raise AssertionError("the last time ends by returning or raising")

    # ---------------------------------------------------------------- finish

    async def _finish(self, copying: Copying, plan: CopyPlan) -> tuple[StepFailure, ...]:
        failpoint("coordinator.before_finish")
        if plan.copies or plan.steps:
            await self.context.enter(Phase.FINISHING)
        return await copying.finisher.finish(plan.steps, copying.progress, left_out=copying.stopped)

    async def _require_whole(self, copying: Copying, plan: CopyPlan) -> None:
        """Ask the sink whether all that has arrived is there: nobody notices a crash that emptied a finished table.

        Raises:
            UnitLostError: it is not.
        """
        if not self.context.sink.serves("LedgerService"):
            return
        carried = await self.context.journal.carried_namespaces()
        there = await self.context.retries.call(
            "read the ledger",
            lambda: read_places(self.context.sink, self.context.journal.flow, self.context.journal.run, plan),
            before_repeat=self.context.sink.reopen_session,
        )
        for unit in plan.partitions:
            is_kept = unit.namespace in carried or copying.states[unit.namespace] is NamespaceState.STOPPED
            if not is_kept and copying.progress[unit.unit].done and not there[unit.unit].done:
                raise UnitLostError(
                    f"{unit.namespace}: a crash of the sink's server has emptied it; it is copied again"
                )

    async def _conclude(
        self, copying: Copying, plan: CopyPlan, failures: tuple[StepFailure, ...], elapsed_s: float
    ) -> RunResult:
        result = await self._result(copying, plan, failures, elapsed_s)
        whole = not result.stopped and not failures
        result = replace(result, consistent=whole if plan.snapshot else None)
        await self.context.journal.flush_events()
        failpoint("coordinator.before_end")
        phase = Phase.DONE if whole else Phase.INCONSISTENT
        # The sink first: a state that says more than the sink does would have to be taken back.
        await self._save_end(copying, phase, result)
        failpoint("coordinator.after_end_at_sink")
        await self.context.journal.finish(phase, result)
        failpoint("coordinator.after_end")
        self._tell(result)
        return result

    async def _conclude_for_now(
        self, copying: Copying, plan: CopyPlan, failures: tuple[StepFailure, ...], elapsed_s: float, stream: Stream
    ) -> RunResult:
        """A run that follows has no end: the same command goes on with it."""
        # A namespace may have stopped since.
        plan = await self.context.stored_plan()
        copying.learn_states(plan)
        # What was copied anew has other units.
        copying.progress = await self.context.journal.progress(plan)
        result = await self._result(copying, plan, failures, elapsed_s)
        result = replace(
            result,
            consistent=not result.stopped and not failures,
            consistent_at=stream.following.consistent_at,
            changes=stream.changes,
            kept_at_source=stream.kept_at_source,
        )
        await self.context.journal.flush_events()
        failpoint("coordinator.before_end")
        await self.context.journal.finish(Phase.STREAMING, result)
        failpoint("coordinator.after_end")
        self._tell(result)
        return result

    def _tell(self, result: RunResult) -> None:
        self.context.emit(
            RunFinished(
                rows=result.rows,
                size_bytes=result.size_bytes,
                elapsed_s=result.elapsed_s,
                consistent=result.consistent,
            )
        )

    async def _result(
        self, copying: Copying, plan: CopyPlan, failures: tuple[StepFailure, ...], elapsed_s: float
    ) -> RunResult:
        return RunResult(
            flow=self.context.journal.flow,
            run=self.context.journal.run,
            namespaces=await self._results(copying, plan),
            failed_steps=failures,
            elapsed_s=elapsed_s,
            moved_rows=copying.moved_rows,
            moved_bytes=copying.moved_bytes,
        )

    async def _results(self, copying: Copying, plan: CopyPlan) -> tuple[NamespaceResult, ...]:
        dead = await self.context.journal.count_dead_letters()
        results = []
        for row in plan.namespaces:
            done = [copying.progress[unit.unit] for unit in plan.partitions if unit.namespace == row.namespace]
            state = copying.states[row.namespace]
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
                    reason=copying.reasons.get(row.namespace, "") if state is not NamespaceState.COPIED else "",
                    dead_letters=dead.get(row.namespace, 0),
                )
            )
        return tuple(results)

    async def _save_end(self, copying: Copying, phase: Phase, result: RunResult) -> None:
        """Let the sink know how it ended, for a coordinator that has only the sink's word."""
        end = RunEnd(
            phase=phase,
            finished_at=datetime.now(UTC),
            consistent=result.consistent,
            summary=result.as_json(),
            undone=tuple(sorted(unit for unit, progress in copying.progress.items() if not progress.done)),
        )
        await self.context.save_manifest(await self.context.stored_plan(), end=end)
