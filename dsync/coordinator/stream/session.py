"""The stream of a run: read into the spool from the first second on, applied once the copy has arrived."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from dsync.coordinator.context import RunContext
from dsync.coordinator.events import ConsistencyReached, NamespaceStopped, StreamMoved
from dsync.coordinator.following import Following
from dsync.coordinator.pace import Pace
from dsync.coordinator.plan import CopyPlan
from dsync.coordinator.retries import Retries
from dsync.coordinator.stream.acknowledging import Acknowledging, require_whole
from dsync.coordinator.stream.ahead import FOR_EVER, Ahead
from dsync.coordinator.stream.applier import Applier
from dsync.coordinator.stream.follower import Follower
from dsync.coordinator.stream.intake import Intake, beside, order_of
from dsync.coordinator.stream.lanes import kept_by_all, opened, unit_refs
from dsync.coordinator.stream.letters import Letters
from dsync.coordinator.stream.position import Position
from dsync.coordinator.stream.rounds import Rounds
from dsync.coordinator.tasks import task_group
from dsync.coordinator.tolerance import Tolerance
from dsync.failpoints import failpoint
from dsync.protocol import frames
from dsync.protocol.errors import CapacityError, DsyncError, PluginBugError
from dsync.protocol.types import ChangeFrame, ChangeStatus, IncompleteChange, StreamChangesRequest
from dsync.spool import Spool, SpoolLostError, remove_spool, remove_spools
from dsync.state import CheckpointRow, NamespaceState

FRAME_BYTES = 1024 * 1024
ROUND_BYTES = 4 * 1024 * 1024
"""What is applied in one go, about: at the sink each change is some objects while it is."""

_WHOLE_SHARE = 16
"""Of the memory limit one part is what a transaction may weigh that is written whole: it is in memory several times."""
_FOR_EVER_S = 10 * 365 * 86400.0
_TELL_EVERY_S = 1.0
_ASK_SOURCE_EVERY_S = 10.0

T = TypeVar("T")


@dataclass(slots=True, kw_only=True)
class Stream:
    """What follows a source into a sink. Made by `streaming`."""

    context: RunContext
    following: Following
    spool: Spool
    intake: Intake
    follower: Follower
    acknowledging: Acknowledging

    _status: ChangeStatus | None = field(default=None, init=False)

    @property
    def changes(self) -> int:
        """How many were applied by this process."""
        return self.follower.applier.changes

    async def beside(self, work: Coroutine[object, object, T]) -> T:
        """The result of some work, with changes being read into the spool meanwhile.

        Raises:
            DsyncError: the stream cannot be read any more, or what the work raises.
        """
        telling = asyncio.create_task(self._tell())
        try:
            return await beside(self.intake, work)
        finally:
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)

    def take_over(self, plan: CopyPlan, *, stopped: Collection[str]) -> None:
        """After the last page: learn how the copy has gone, which may have come to overlap. Repeatable."""
        assert plan.following is not None, "a stream has a plan that is followed"
        self.following = plan.following
        skips = self.follower.applier.skips
        skips.leave_out(plan.following.seen_through)
        for namespace in stopped:
            skips.stop(namespace)

    async def reach_consistency(self) -> None:
        """Over a copy that overlaps: apply changes by key until the sink equals the source. Repeatable."""
        applier = self.follower.applier
        applier.ahead = Ahead(all_until=FOR_EVER)
        position = await self.pass_mark()
        applier.ahead.rest_is_exact()
        while applier.ahead.position > position:
            # A record that was read again is of a moment after the mark.
            position = await self.pass_mark()
        await self._has_reached(position)

    async def has_copied_exactly(self) -> None:
        """The sink has all that the snapshot had, and nothing else: it equals the source as of where changes begin."""
        if self.following.consistent_at is None:
            await self._has_reached(self.following.position)
        await self._ask_source()

    async def _has_reached(self, position: int) -> None:
        failpoint("coordinator.before_consistent")
        self.following = replace(self.following, overlaps=False, consistent_at=position)
        await self.context.journal.set_following(self.following)
        failpoint("coordinator.after_consistent")
        self.context.emit(ConsistencyReached(position=position))

    async def pass_mark(self) -> int:
        """Apply all that is committed at the source by now; returns the position that this is."""
        content = self._mark_content()
        position = await self._write_mark(content)
        await self.follower.run(until=lambda: content in self.follower.marks)
        self.follower.marks.clear()
        return position

    async def reach_mark(self, *, counts_after: bool = False) -> int:
        """As `pass_mark`, while changes are applied beside; with `counts_after` those after it are counted."""
        content = self._mark_content()
        passed = self.follower.between.expect(content, counts_after=counts_after)
        position = await self._write_mark(content)
        await passed.wait()
        return position

    def _mark_content(self) -> bytes:
        return f"{self.context.journal.flow}:{self.context.journal.run}:{secrets.token_hex(8)}".encode()

    async def _write_mark(self, content: bytes) -> int:
        return await self.context.retries.call(
            "mark the source's history",
            lambda: self.context.source.connector.mark(self.following.partition.namespaces, content),
            before_repeat=self.context.source.reopen_session,
        )

    async def follow(self, *, beside: Callable[[], Awaitable[None]]) -> None:
        """Apply changes for ever, and do something else meanwhile, once."""
        async with task_group() as tasks:
            tasks.create_task(self._once(beside))
            await self.follower.run()

    async def follow_while(self, work: Callable[[], Awaitable[None]]) -> None:
        """Apply changes for as long as something else takes."""
        async with task_group() as tasks:
            working = tasks.create_task(self._once(work))
            await self.follower.run(until=working.done)

    async def _once(self, work: Callable[[], Awaitable[None]]) -> None:
        await work()
        # The follower waits for news: this is some.
        self.intake.heard.set()

    @property
    def kept_at_source(self) -> str:
        """What the source keeps for the flow, in words."""
        return self._status.name if self._status is not None else ""

    # -------------------------------------------------------------------- figures

    async def _tell(self) -> None:
        """Say every second where the stream stands; what cannot be asked for is told as it was last."""
        asked_s = -_ASK_SOURCE_EVERY_S
        loop = asyncio.get_running_loop()
        while True:
            if loop.time() - asked_s >= _ASK_SOURCE_EVERY_S:
                asked_s = loop.time()
                await self._ask_source()
            self.context.emit(self._moved())
            await asyncio.sleep(_TELL_EVERY_S)

    async def _ask_source(self) -> None:
        """What it keeps for the stream; and stop what it does not have any more, of which the stream says nothing."""
        try:
            self._status = await self.context.source.connector.change_status(self.following.partition.namespaces)
        except DsyncError:
            # The stream itself says what is wrong with its source.
            return
        # While it is copied, whoever reads it finds that out.
        for namespace in self._status.gone if self.following.consistent_at is not None else ():
            await self.follower.applier.stop(
                namespace,
                f"{namespace}: it was dropped or renamed at the source, or moved to another schema; at the sink it "
                "stays as it was last: drop or rename it there, then run the flow again with --again",
            )

    def _moved(self) -> StreamMoved:
        follower, intake, status = self.follower, self.intake, self._status
        place = follower.applier.position.place
        applied = place[0] if place != frames.START else self.following.position
        lag_s = 0.0
        if not follower.has_all and intake.time is not None and follower.applied_time is not None:
            lag_s = max(0.0, (intake.time - follower.applied_time).total_seconds())
        return StreamMoved(
            changes=self.changes,
            lag_s=lag_s,
            lag_bytes=0 if follower.has_all else max(0, intake.position - applied),
            spool_bytes=self.spool.size_bytes,
            retained_bytes=status.retained_bytes if status is not None else 0,
            safe_bytes=status.safe_bytes if status is not None else None,
        )

    # ------------------------------------------------------- what the parts ask for

    async def complete(self, changes: ChangeFrame, incomplete: tuple[IncompleteChange, ...]) -> ChangeFrame:
        """Changes with those in the place of some that their records have become since."""
        indexes = [item.index for item in incomplete]
        answer = await self._read_again(frames.pick(changes, indexes))
        if self.following.consistent_at is not None and answer.position > self.following.ahead_until:
            # Until consistency is reached, whoever goes on takes every record for one that may be ahead.
            self.following = replace(self.following, ahead_until=answer.position)
            await self.context.journal.set_following(self.following)
        for index in indexes:
            self.follower.applier.ahead.add(changes, index, answer.position)
        return frames.replaced(
            changes, {index: frames.cut(answer, number, number + 1) for number, index in enumerate(indexes)}
        )

    async def _read_again(self, wanted: ChangeFrame) -> ChangeFrame:
        try:
            answer = await self.context.retries.call(
                "read changed records again",
                lambda: self.context.source.connector.complete_changes(wanted),
                before_repeat=self.context.source.reopen_session,
            )
        except CapacityError:
            if len(wanted) == 1:
                raise
            # Whole records are larger than what was sent of them.
            middle = len(wanted) // 2
            halves = [frames.pick(wanted, range(middle)), frames.pick(wanted, range(middle, len(wanted)))]
            answers = [await self._read_again(half) for half in halves]
            return replace(frames.join(answers), position=max(answer.position for answer in answers))
        if len(answer) != len(wanted):
            raise PluginBugError(
                f"the source was asked for {len(wanted)} changed records and gave {len(answer)}; a fault of its "
                "connector"
            )
        return answer

    async def checkpoint(self, position: Position) -> None:
        """Record how far the lanes have come, for whoever has the store alone."""
        rows = [
            CheckpointRow(unit=lane.unit, cursor=lane.kept.encode(), seq=lane.seq)
            for lane in self.follower.applier.lanes
        ]
        failpoint("coordinator.before_stream_checkpoint")
        await self.context.journal.stream_checkpoint(rows)
        failpoint("coordinator.after_stream_checkpoint")

    async def acknowledge(self, cursor: bytes) -> None:
        """Tell the source what is durable. Only garbage collection: what cannot be told now is told later."""
        await self.acknowledging.applied(kept_by_all(self.follower.applier.lanes), self.intake.quiet)

    async def tell_source(self, cursor: bytes) -> None:
        """The source may discard what is before; what it cannot be told now it is told later."""
        failpoint("coordinator.before_acknowledge")
        self.intake.durable = cursor
        with contextlib.suppress(DsyncError):
            await self.context.source.connector.acknowledge(self.following.partition.namespaces, cursor)
        failpoint("coordinator.after_acknowledge")

    async def record_spooled(self, position: Position | None) -> None:
        """What the source is told next to be in the spool."""
        self.following = replace(self.following, spooled=position)
        await self.context.journal.set_following(self.following)

    async def stop_namespace(self, namespace: str, reason: str) -> None:
        """Record that a namespace is not followed any more."""
        await self.context.journal.set_namespace_state(namespace, NamespaceState.STOPPED, reason)
        self.context.emit(NamespaceStopped(namespace=namespace, reason=reason))


@asynccontextmanager
async def streaming(context: RunContext, plan: CopyPlan) -> AsyncIterator[Stream]:
    """The stream of a plan, as far as the sink's ledger and the spool say that it has come; nothing is read yet.

    Raises:
        SpoolHeldError, SpoolUnavailableError, …: the spool cannot be used.
        FencedError: another coordinator has the flow.
    """
    following = plan.following
    assert following is not None, "only what is followed has a stream"
    assert context.spools is not None, "whoever follows says where changes wait"
    flow, run = context.journal.flow, context.journal.run
    failpoint("coordinator.before_lanes")
    states = await context.retries.call(
        "open the lanes at the sink",
        lambda: context.sink.connector.open_units(flow, run, unit_refs(following.lanes)),
        before_repeat=context.sink.reopen_session,
    )
    failpoint("coordinator.after_lanes")
    lanes = opened(states)
    kept = kept_by_all(lanes)
    async with await _open_spool(context, kept, following.spooled) as spool:
        # The parts ask the stream, which is made of them.
        made: list[Stream] = []
        endless = Retries(retry_for_s=_FOR_EVER_S, emit=context.emit, is_stopping=context.stopping.is_set)
        pace = Pace(
            stopping=context.stopping,
            rows_per_s=context.spec.rate_rows_per_s,
            bytes_per_s=context.spec.rate_bytes_per_s,
            control=context.control,
        )
        acknowledging = Acknowledging(
            spool=spool,
            by_spool=context.spec.ack == "spooled",
            spooled=following.spooled,
            record=lambda position: made[0].record_spooled(position),
            tell=lambda cursor: made[0].tell_source(cursor),
        )
        intake = Intake(
            source=context.source.connector,
            spool=spool,
            request=StreamChangesRequest(
                namespaces=following.partition.namespaces,
                type=following.type,
                frame_bytes=pace.reader().page_bytes(FRAME_BYTES),
                header=following.partition.header,
                value=following.partition.value,
            ),
            start=kept if kept.cursor else replace(kept, cursor=following.partition.cursor),
            emit=context.emit,
            reopen=context.source.reopen_session,
            confirm=acknowledging.confirm if acknowledging.by_spool else None,
            confirmed=following.spooled or Position(),
            pace=pace,
        )
        targets: Mapping[str, str] = {row.namespace: row.target for row in plan.namespaces}
        columns = {row.namespace: frozenset(row.columns) for row in plan.namespaces}
        letters = Letters(
            journal=context.journal,
            emit=context.emit,
            tolerance=Tolerance.parse(context.spec.dead_letters),
            lanes=following.lanes,
        )
        await letters.load()
        applier = Applier(
            flow=flow,
            run=run,
            sink=context.sink.connector,
            lanes=lanes,
            type=following.type,
            target_of=lambda namespace: targets.get(namespace, namespace),
            retries=endless,
            reopen=context.sink.reopen_session,
            letters=letters,
            complete=lambda changes, incomplete: made[0].complete(changes, incomplete),
            stop_namespace=lambda namespace, reason: made[0].stop_namespace(namespace, reason),
            ahead=Ahead(all_until=following.ahead_until),
            columns_of=lambda namespace: columns.get(namespace, frozenset()),
            in_one=context.spec.apply == "transactional",
        )
        follower = Follower(
            spool=spool,
            intake=intake,
            applier=applier,
            rounds=_rounds(context),
            checkpoint=lambda position: made[0].checkpoint(position),
            acknowledge=lambda cursor: made[0].acknowledge(cursor),
            stopping=context.stopping,
            control=context.control,
        )
        made.append(
            Stream(
                context=context,
                following=following,
                spool=spool,
                intake=intake,
                follower=follower,
                acknowledging=acknowledging,
            )
        )
        yield made[0]


def _rounds(context: RunContext) -> Rounds:
    most_bytes = min(context.spec.memory_limit // _WHOLE_SHARE, context.sink.max_message_bytes * 3 // 4)
    return Rounds(
        limit_bytes=ROUND_BYTES,
        whole_transactions=context.spec.apply == "transactional",
        most_bytes=most_bytes,
    )


async def _open_spool(context: RunContext, kept: Position, spooled: Position | None) -> Spool:
    """The run's spool; one that ends before what the sink has is of no use, and those of earlier runs even less.

    Raises:
        SpoolLostError: it ends before what the source was told to be in it, and the sink does not have that.
    """
    assert context.spools is not None, "whoever follows says where changes wait"
    own = context.spools / context.journal.run
    await remove_spools(context.spools, but=own.name)
    spool = await _open(context, own)
    try:
        require_whole(spool, kept, spooled)
    except SpoolLostError:
        await spool.close()
        raise
    if spool.last_order >= order_of(kept.place) or kept.place == frames.START:
        return spool
    await spool.close()
    await remove_spool(own)
    return await _open(context, own)


async def _open(context: RunContext, directory: Path) -> Spool:
    await asyncio.to_thread(directory.parent.mkdir, mode=0o700, parents=True, exist_ok=True)
    return await Spool.open(directory, flow=context.journal.flow, limit_bytes=context.spec.spool_limit)
