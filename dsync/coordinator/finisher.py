"""Doing the finish steps: keys and indexes, constraints, sequences, statistics, in the order they depend on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from dsync.coordinator.control import Control
from dsync.coordinator.cursor import UnitCursor
from dsync.coordinator.deliver import UnitProgress
from dsync.coordinator.ends import End
from dsync.coordinator.events import EventHandler, StepFinished
from dsync.coordinator.journal import Journal
from dsync.coordinator.result import StepFailure
from dsync.coordinator.retries import Retries
from dsync.coordinator.tasks import StoppedError, task_group
from dsync.failpoints import failpoint
from dsync.protocol.errors import DsyncError, FencedError, RetryableError, UnitLostError
from dsync.protocol.types import FinishStep, WriteContext
from dsync.state import UnitRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Finisher:
    source: End
    sink: End
    journal: Journal
    retries: Retries
    emit: EventHandler
    stopping: asyncio.Event
    parallel: int
    control: Control

    async def finish(
        self, steps: Sequence[UnitRow], progress: Mapping[str, UnitProgress], *, left_out: Collection[str]
    ) -> tuple[StepFailure, ...]:
        """Do every step that is not done; repeatable. Returns those that could not be done, with their reasons.

        A step of a namespace in `left_out` is left undone. One that follows a failed step is tried all the same:
        `depends_on` is an order, not always a need (sequences come last, whatever became of an index), and where it
        is a need the sink says best what is missing.
        """
        found = [unit.step for unit in steps if unit.step is not None]
        units = {unit.step.id: unit.unit for unit in steps if unit.step is not None}
        work = _Graph(found, done={step.id for step in found if progress[units[step.id]].done})
        failures: dict[str, StepFailure] = {}
        for step in found:
            # What was done before its namespace stopped is done.
            if step.namespace in left_out and step.id not in work.done:
                failures[step.id] = _failure(step, f"{step.namespace} did not arrive whole")
                work.fail(step.id)
        limit = asyncio.Semaphore(self.parallel)

        async def do(step: FinishStep) -> None:
            try:
                async with limit:
                    await self._do(step, progress[units[step.id]], done=len(work.done), total=len(found))
            except (FencedError, RetryableError, StoppedError, UnitLostError):
                raise
            except DsyncError as error:
                failures[step.id] = _failure(step, str(error))
                work.fail(step.id)
            else:
                work.finish(step.id)

        while work.is_open:
            async with task_group() as tasks:
                for step in work.take_ready():
                    tasks.create_task(do(step))
        for step in work.blocked:
            failures[step.id] = _failure(step, "it waits for itself, by way of others; a fault of the sink's connector")
        return tuple(failures.values())

    async def _do(self, step: FinishStep, progress: UnitProgress, *, done: int, total: int) -> None:
        await self.control.wait_while_paused(self.stopping)
        if self.stopping.is_set():
            raise StoppedError
        started_s = time.monotonic()
        data = b""
        if step.needs_source:
            data = await self.retries.call(
                f"read what {step.name} needs",
                lambda: self.source.connector.get_finish_data(step),
                before_repeat=self.source.reopen_session,
            )
        context = WriteContext(
            flow=self.journal.flow,
            run=self.journal.run,
            unit=progress.unit,
            fence=progress.fence,
            cursor=b"",
            seq=progress.seq + 1,
            done=True,
        )
        failpoint("coordinator.before_step")
        await self.retries.call(
            step.name,
            lambda: self.sink.connector.finish(context, step, data),
            namespace=step.namespace,
            before_repeat=self.sink.reopen_session,
        )
        failpoint("coordinator.after_step")
        progress.seq, progress.done, progress.cursor = progress.seq + 1, True, UnitCursor()
        await self.journal.checkpoint(progress)
        self.emit(
            StepFinished(
                namespace=step.namespace,
                step=step.name,
                kind=step.kind,
                elapsed_s=time.monotonic() - started_s,
                done=done + 1,
                total=total,
            )
        )


class _Graph:
    """Which steps may be done now: those whose dependencies are done or have failed."""

    def __init__(self, steps: Sequence[FinishStep], done: set[str]) -> None:
        known = {step.id for step in steps}
        self.done = set(done)
        self._settled = set(done)
        self._left = {step.id: step for step in steps if step.id not in done}
        # A dependency that is no step of this plan was there before.
        self._needs = {step.id: {need for need in step.depends_on if need in known} for step in steps}

    def finish(self, step: str) -> None:
        self.done.add(step)
        self._settled.add(step)

    def fail(self, step: str) -> None:
        self._settled.add(step)
        self._left.pop(step, None)

    @property
    def is_open(self) -> bool:
        """Some step can be done now."""
        return any(self._needs[step] <= self._settled for step in self._left)

    def take_ready(self) -> list[FinishStep]:
        ready = [step for step in self._left.values() if self._needs[step.id] <= self._settled]
        for step in ready:
            del self._left[step.id]
        return ready

    @property
    def blocked(self) -> list[FinishStep]:
        return list(self._left.values())


def _failure(step: FinishStep, reason: str) -> StepFailure:
    return StepFailure(step=step.name, namespace=step.namespace, reason=reason)
