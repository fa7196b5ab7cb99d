"""The store as one run sees it: asynchronous, in order, and with checkpoints of many units in one commit."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import stamina

from dsync.coordinator.cursor import UnitCursor
from dsync.coordinator.deliver import UnitProgress
from dsync.coordinator.events import Event
from dsync.coordinator.following import Following
from dsync.coordinator.plan import CopyPlan
from dsync.coordinator.result import RunResult
from dsync.failpoints import failpoint
from dsync.protocol.errors import DsyncError
from dsync.protocol.types import FinishStep, Partition
from dsync.state import (
    DEFAULT_SINK,
    CheckpointRow,
    DeadLetterRow,
    EventRow,
    LetterRef,
    NamespaceRow,
    NamespaceState,
    Phase,
    RunRow,
    StateBusyError,
    StateUnreachableError,
    UnitKind,
    UnitRow,
    finish_units,
)

if TYPE_CHECKING:
    from dsync.state import Store

T = TypeVar("T")

_PASSING = (StateBusyError, StateUnreachableError)
"""Nothing was recorded, and it may be in a moment."""
_WAIT_INITIAL_S = 0.1
_WAIT_MAX_S = 2.0
_LAST_WORDS_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedRun:
    plan: CopyPlan
    progress: Mapping[str, UnitProgress]
    carried: frozenset[str]
    """Namespaces whose rows an earlier run has copied for it."""


class Journal:
    """Records a run. Every method returns once its record is durable.

    One thread does the store's work, so that calls keep their order and the loop is never blocked by an fsync. A store
    that cannot be reached is asked again without end: what ends the run then is the end of its lease.
    """

    def __init__(
        self, store: Store, flow: str, run: str, *, on_repeat: Callable[[DsyncError], None] = lambda _: None
    ) -> None:
        self._store = store
        self._on_repeat = on_repeat
        self.flow = flow
        self.run = run
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="dsync-state")
        self._waiting: dict[str, CheckpointRow] = {}
        self._committing = asyncio.Lock()
        self._events: list[EventRow] = []

    async def close(self) -> None:
        """Write what is left of the record of events, and let go of the thread."""
        rows, self._events = self._events, []
        try:
            if rows:
                # Asked once only: where the run ends because of the store, its end must not wait for the store.
                with contextlib.suppress(*_PASSING, TimeoutError):
                    async with asyncio.timeout(_LAST_WORDS_S):
                        await self._once(lambda: self._store.append_events(self.flow, rows))
        finally:
            self._thread.shutdown(wait=False)

    async def _once(self, action: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, action)

    async def _call(self, action: Callable[[], T]) -> T:
        def passes(error: Exception) -> bool:
            if not isinstance(error, _PASSING):
                return False
            self._on_repeat(error)
            return True

        async for attempt in stamina.retry_context(
            on=passes, attempts=None, timeout=None, wait_initial=_WAIT_INITIAL_S, wait_max=_WAIT_MAX_S
        ):
            with attempt:
                return await self._once(action)
        raise AssertionError("a retry context ends by returning or raising")

    async def row(self) -> RunRow:
        found = await self._call(lambda: self._store.get_run(self.flow, self.run))
        if found is None:
            raise LookupError(f"run {self.run} is not in the store")
        return found

    async def load_plan(self) -> CopyPlan | None:
        """The plan as it was stored; None where the run has none yet."""
        return await self._load_plan(self.run)

    async def _load_plan(self, run: str) -> CopyPlan | None:
        row = await self._call(lambda: self._store.get_run(self.flow, run))
        if row is None or not row.extra.get("planned"):
            return None
        namespaces = await self._call(lambda: self._store.load_namespaces(self.flow, run))
        found = await self._call(lambda: self._store.load_units(self.flow, run))
        # The lanes are not copied: they are opened by whoever streams.
        units = tuple(unit for unit in found if unit.kind is not UnitKind.LANE)
        kept = row.extra.get("following")
        following = Following.of_json(kept) if kept else None
        return CopyPlan(namespaces=namespaces, units=units, snapshot=row.snapshot, following=following)

    async def load_run(self, run: str) -> RecordedRun | None:
        """Another run of this flow, as far as it came; None where it never had a plan."""
        plan = await self._load_plan(run)
        if plan is None:
            return None
        row = await self._call(lambda: self._store.get_run(self.flow, run))
        carried = frozenset(row.extra.get("carried", ())) if row is not None else frozenset()
        return RecordedRun(plan=plan, progress=await self.progress(plan, run=run), carried=carried)

    async def progress(self, plan: CopyPlan, *, run: str = "") -> dict[str, UnitProgress]:
        """The place of every unit of a plan by its checkpoint; at the start where it has none."""
        found = await self._call(lambda: self._store.load_checkpoints(self.flow, run or self.run))
        places = {unit.unit: UnitProgress(unit=unit.unit, fence=0, cursor=UnitCursor()) for unit in plan.units}
        for (unit, sink), row in found.items():
            if unit in places and sink == DEFAULT_SINK:
                places[unit] = UnitProgress(
                    unit=unit,
                    fence=0,
                    cursor=UnitCursor.decode(row.cursor),
                    seq=row.seq,
                    rows=row.rows,
                    size_bytes=row.size_bytes,
                    done=row.done,
                )
        return places

    async def save_plan(self, plan: CopyPlan, carried: Sequence[UnitProgress] = ()) -> None:
        """Record the whole plan; `carried` units were copied by an earlier run and stay as they are."""
        names = sorted({unit.namespace for unit in plan.partitions if any(c.unit == unit.unit for c in carried)})
        extra: dict[str, Any] = {"planned": True, "carried": names}
        if plan.following is not None:
            extra["following"] = plan.following.as_json()
        await self._call(
            lambda: self._store.save_plan(
                self.flow,
                self.run,
                plan.namespaces,
                plan.recorded_units,
                snapshot=plan.snapshot,
                extra=extra,
                phase=Phase.COPYING,
                checkpoints=[checkpoint_of(progress) for progress in carried],
            )
        )

    async def carried(self, plan: CopyPlan) -> list[CheckpointRow]:
        """The places of units that an earlier run has copied for this one."""
        names = await self.carried_namespaces()
        if not names:
            return []
        places = await self.progress(plan)
        units = [unit.unit for unit in plan.partitions if unit.namespace in names and places[unit.unit].done]
        return [checkpoint_of(places[unit]) for unit in units]

    async def carried_namespaces(self) -> frozenset[str]:
        return frozenset((await self.row()).extra.get("carried", ()))

    async def add_steps(self, steps: Sequence[FinishStep]) -> None:
        await self._call(lambda: self._store.add_units(self.flow, self.run, finish_units(steps)))

    async def checkpoint(self, progress: UnitProgress) -> None:
        """Record how far a unit has come; several units that ask at one time share a commit."""
        failpoint("coordinator.before_checkpoint")
        row = checkpoint_of(progress)
        self._waiting[row.unit] = row
        try:
            async with self._committing:
                # Whoever held the lock before may have committed this row with its own.
                if self._waiting.get(row.unit) is row:
                    await self._commit_waiting()
        except BaseException:
            # Not to go with a later commit: the unit may be planned anew by then.
            if self._waiting.get(row.unit) is row:
                del self._waiting[row.unit]
            raise
        failpoint("coordinator.after_checkpoint")

    async def correct(self, places: Sequence[UnitProgress]) -> None:
        """Make the checkpoints say what the sink's ledger does."""
        if places:
            rows = [checkpoint_of(place) for place in places]
            await self._call(lambda: self._store.save_checkpoints(self.flow, self.run, rows))

    async def _commit_waiting(self) -> None:
        rows, self._waiting = self._waiting, {}
        try:
            await self._call(lambda: self._store.save_checkpoints(self.flow, self.run, list(rows.values())))
        except BaseException:
            # The others whose rows these are find them still waiting, and try for themselves.
            self._waiting = rows | self._waiting
            raise

    async def add_dead_letter(self, row: DeadLetterRow) -> Mapping[str, int]:
        """Record it; returns how many each namespace has."""
        await self._call(lambda: self._store.add_dead_letters(self.flow, self.run, [row]))
        return await self.count_dead_letters()

    async def count_dead_letters(self) -> Mapping[str, int]:
        return await self._call(lambda: self._store.count_dead_letters(self.flow, self.run))

    async def refused_changes(self) -> Sequence[LetterRef]:
        """The changes of the run's stream that were refused and wait."""
        return await self._call(lambda: self._store.refused_changes(self.flow, self.run))

    async def resolve_dead_letters(self, letters: Sequence[LetterRef], resolution: str) -> None:
        """Note that these wait no longer."""
        await self._call(lambda: self._store.resolve_dead_letters(self.flow, self.run, letters, resolution))

    async def dead_letters_by_unit(self) -> Mapping[str, int]:
        """Of every unit how many of its rows were refused, whatever has become of them since."""
        letters = await self._call(lambda: self._store.list_dead_letters(self.flow, self.run, resolved=True))
        return Counter(letter.unit for letter in letters)

    async def set_phase(self, phase: Phase) -> None:
        await self._call(lambda: self._store.set_phase(self.flow, self.run, phase))

    async def set_namespace_state(self, namespace: str, state: NamespaceState, reason: str = "") -> None:
        await self._call(lambda: self._store.set_namespace_state(self.flow, self.run, namespace, state, reason=reason))

    async def apply_verdicts(
        self,
        snapshot: bytes,
        *,
        again: Mapping[str, Sequence[Partition]],
        changed: Mapping[str, str],
        reasons: Mapping[str, str],
        beside: Mapping[str, Sequence[Partition]] | None = None,
        following: Following | None = None,
    ) -> None:
        """Take over a new snapshot and what follows from it (`Store.apply_verdicts`), in one commit."""

        def apply() -> None:
            extra = None if following is None else self._extra() | {"following": following.as_json()}
            self._store.apply_verdicts(
                self.flow,
                self.run,
                snapshot=snapshot,
                again=again,
                changed=changed,
                reasons=reasons,
                beside=beside,
                extra=extra,
            )

        await self._call(apply)

    async def plan_beside(
        self,
        rows: Sequence[NamespaceRow],
        partitions: Mapping[str, Sequence[Partition]],
        units: Sequence[UnitRow],
        *,
        instead_of: Collection[str],
        following: Following,
    ) -> None:
        """Plan namespaces anew that are copied beside all others (`Store.plan_beside`), in one commit."""

        def plan() -> None:
            self._store.plan_beside(
                self.flow,
                self.run,
                rows,
                partitions,
                units,
                instead_of=instead_of,
                extra=self._extra() | {"following": following.as_json()},
            )

        await self._call(plan)

    async def set_following(self, following: Following) -> None:
        """Record how far the hand-over to the stream has come."""
        await self._call(
            lambda: self._store.set_extra(self.flow, self.run, self._extra() | {"following": following.as_json()})
        )

    async def note(self, **kept: Any) -> None:
        """Keep something with the run under these names; None: no longer."""

        def write() -> None:
            known = self._extra()
            left = {name: value for name, value in (known | kept).items() if value is not None}
            if left != known:
                self._store.set_extra(self.flow, self.run, left)

        await self._call(write)

    def _extra(self) -> dict[str, Any]:
        """What the run keeps now; read and written by the store's one thread only."""
        row = self._store.get_run(self.flow, self.run)
        if row is None:
            raise LookupError(f"run {self.run} is not in the store")
        return dict(row.extra)

    async def stream_checkpoint(self, rows: Sequence[CheckpointRow]) -> None:
        """Record how far the lanes of a stream have come, for whoever asks without the sink."""
        await self._call(lambda: self._store.save_checkpoints(self.flow, self.run, rows))

    async def read_again(self, pieces: Mapping[str, Sequence[Partition]], reason: str) -> None:
        """Plan namespaces anew: what was copied of them has to leave the sink first."""
        for namespace, partitions in pieces.items():
            await self._call(
                partial(self._store.replace_units, self.flow, self.run, namespace, partitions, reason=reason)
            )

    async def retired_units(self, namespace: str) -> list[str]:
        return list(await self._call(lambda: self._store.retired_units(self.flow, self.run, namespace)))

    async def namespace_cleared(self, namespace: str) -> None:
        await self._call(lambda: self._store.namespace_cleared(self.flow, self.run, namespace, sink=DEFAULT_SINK))

    async def set_endpoints(self, source_id: str, sink_id: str) -> None:
        await self._call(
            lambda: self._store.set_endpoints(
                self.flow, self.run, source_id=source_id, sink_ids={DEFAULT_SINK: sink_id}
            )
        )

    async def finish(self, phase: Phase, result: RunResult) -> None:
        summary = result.as_json()
        await self._call(
            lambda: self._store.finish_run(self.flow, self.run, phase, consistent=result.consistent, summary=summary)
        )

    async def forget_unplanned(self) -> None:
        """Remove a flow that never got as far as a plan: a wrong request leaves nothing behind."""
        first = (await self.row()).number == 1
        if first and await self.load_plan() is None:
            self._events.clear()
            await self._call(lambda: self._store.delete_flow(self.flow))

    async def fail(self, error: DsyncError) -> None:
        """Record why the run stopped; it goes on when it is started again."""
        kept = {"class": type(error).__name__, "message": str(error), "exit_code": error.exit_code}
        await self._call(lambda: self._store.finish_run(self.flow, self.run, Phase.FAILED, error=kept))

    def record(self, event: Event) -> None:
        """Keep an event for the store; written with the next flush."""
        if event.kept:
            self._events.append(EventRow(run=self.run, name=event.name, namespace=event.namespace, data=event.data()))

    async def flush_events(self) -> None:
        rows, self._events = self._events, []
        if rows:
            await self._call(lambda: self._store.append_events(self.flow, rows))


def checkpoint_of(progress: UnitProgress) -> CheckpointRow:
    return CheckpointRow(
        unit=progress.unit,
        cursor=progress.cursor.encode(),
        seq=progress.seq,
        rows=progress.rows,
        size_bytes=progress.size_bytes,
        done=progress.done,
    )
