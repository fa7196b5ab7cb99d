"""The stream of a run: read into the spool from the first second on, applied once the copy has arrived."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from dsync.coordinator.context import RunContext
from dsync.coordinator.events import ConsistencyReached, NamespaceStopped, StreamMoved
from dsync.coordinator.following import Following, Resync
from dsync.coordinator.pace import Pace
from dsync.coordinator.plan import CopyPlan
from dsync.coordinator.retries import Retries
from dsync.coordinator.stream.acknowledging import Acknowledging, require_whole
from dsync.coordinator.stream.ahead import FOR_EVER, Ahead
from dsync.coordinator.stream.applier import Applier
from dsync.coordinator.stream.beside import BESIDE, Beside, skips_of
from dsync.coordinator.stream.follower import Follower
from dsync.coordinator.stream.horizon import Horizon
from dsync.coordinator.stream.intake import Intake, beside, order_of
from dsync.coordinator.stream.lanes import MAIN, Lane, kept_by_all, opened, unit_refs
from dsync.coordinator.stream.letters import Letters
from dsync.coordinator.stream.position import Position
from dsync.coordinator.stream.rounds import Rounds
from dsync.coordinator.stream.skips import Skips
from dsync.coordinator.tasks import task_group
from dsync.coordinator.tolerance import Tolerance
from dsync.failpoints import failpoint
from dsync.protocol import frames
from dsync.protocol.errors import CapacityError, DsyncError, PluginBugError
from dsync.protocol.types import ChangeFrame, ChangeStatus, IncompleteChange, StreamChangesRequest, UpdatesPartition
from dsync.spool import Spool, SpoolLostError, remove_spool, remove_spools
from dsync.state import CheckpointRow, NamespaceRow, NamespaceState

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
    letters: Letters
    lanes: Sequence[Lane]
    """Of the main follower."""
    planned: frozenset[str]
    """Namespaces of the plan."""
    held: Mapping[str, Position]
    """How far each follower has come, by the sink's ledger."""

    acknowledging: Acknowledging = field(init=False)
    horizon: Horizon = field(init=False)
    intake: Intake = field(init=False)
    follower: Follower = field(init=False)
    """That of all namespaces but those that are apart for a while."""
    _targets: dict[str, str] = field(default_factory=dict, init=False)
    """The sink's names of namespaces."""
    _columns: dict[str, frozenset[str]] = field(default_factory=dict, init=False)
    """What namespaces were copied with."""
    _status: ChangeStatus | None = field(default=None, init=False)
    _recording: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)

    def __post_init__(self) -> None:
        context = self.context
        self.acknowledging = Acknowledging(
            spool=self.spool,
            by_spool=context.spec.ack == "spooled",
            spooled=self.following.spooled,
            record=lambda position: self.change(lambda following: replace(following, spooled=position)),
            tell=self.tell_source,
        )
        self.horizon = Horizon(
            spool=self.spool,
            acknowledge=lambda position: self.acknowledging.applied(position, self.intake.quiet),
            record=lambda told: self.change(lambda following: replace(following, told=told)),
            told=self.following.told,
        )
        for follower, position in self.held.items():
            self.horizon.hold(follower, position)
        start, partition = self.horizon.start, self.following.partition
        pace = Pace(
            stopping=context.stopping,
            rows_per_s=context.spec.rate_rows_per_s,
            bytes_per_s=context.spec.rate_bytes_per_s,
            control=context.control,
        )
        self.intake = Intake(
            source=context.source.connector,
            spool=self.spool,
            request=StreamChangesRequest(
                namespaces=partition.namespaces,
                type=self.following.type,
                frame_bytes=pace.reader().page_bytes(FRAME_BYTES),
                header=partition.header,
                value=partition.value,
            ),
            start=start if start.cursor else replace(start, cursor=partition.cursor),
            emit=context.emit,
            reopen=context.source.reopen_session,
            confirm=self.acknowledging.confirm if self.acknowledging.by_spool else None,
            confirmed=self.following.spooled or Position(),
            pace=pace,
        )
        ahead = Ahead(all_until=self.following.ahead_until)
        skips = skips_of(self.following)
        for namespace in set(partition.namespaces) - self.planned:
            # New ones, of which nothing has arrived.
            skips.stop(namespace)
        self.follower = self._follower(MAIN, self.lanes, skips, ahead)

    def _follower(self, name: str, lanes: Sequence[Lane], skips: Skips, ahead: Ahead) -> Follower:
        context = self.context
        applier = Applier(
            flow=context.journal.flow,
            run=context.journal.run,
            sink=context.sink.connector,
            lanes=lanes,
            type=self.following.type,
            target_of=lambda namespace: self._targets.get(namespace, namespace),
            retries=Retries(retry_for_s=_FOR_EVER_S, emit=context.emit, is_stopping=context.stopping.is_set),
            reopen=context.sink.reopen_session,
            letters=self.letters,
            complete=self.complete,
            stop_namespace=self.stop_namespace,
            ahead=ahead,
            skips=skips,
            columns_of=lambda namespace: self._columns.get(namespace, frozenset()),
            wish_anew=lambda namespace: context.control.wish_resync((namespace,)),
            in_one=context.spec.apply == "transactional",
        )
        return Follower(
            name=name,
            spool=self.spool,
            intake=self.intake,
            applier=applier,
            rounds=_rounds(context),
            checkpoint=lambda position: self.checkpoint(lanes),
            horizon=self.horizon,
            stopping=context.stopping,
            control=context.control,
        )

    async def _follower_of(self, resync: Resync) -> Follower:
        """One of these namespaces alone."""
        lanes = await _lanes_beside(self.context, self.following, resync)
        skips = Skips(only=resync.namespaces)
        skips.leave_out(dict.fromkeys(resync.namespaces, resync.seen_through))
        # What is read again for one is ahead for the other, when it has the namespace back.
        return self._follower(BESIDE, lanes, skips, self.follower.applier.ahead)

    @property
    def apart(self) -> Beside:
        """What takes namespaces from the others, and back."""
        return Beside(main=self.follower, horizon=self.horizon, change=self.change, make=self._follower_of)

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
        await self.change(lambda following: replace(following, overlaps=False, consistent_at=position))
        failpoint("coordinator.after_consistent")
        self.context.emit(ConsistencyReached(position=position))

    async def change(
        self,
        change: Callable[[Following], Following],
        record: Callable[[Following], Awaitable[None]] | None = None,
    ) -> None:
        """Change what is known of the following, and record it, alone or with what else `record` does."""
        async with self._recording:
            self.following = change(self.following)
            await (record or self.context.journal.set_following)(self.following)

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

    async def widen(self, partition: UpdatesPartition) -> None:
        """Open the source's stream anew with these namespaces, behind everything that had begun by now."""
        await self.reach_mark()
        await self.change(lambda following: replace(following, partition=partition))
        await self.intake.follow_namespaces(partition.namespaces)

    def learn(self, rows: Sequence[NamespaceRow]) -> None:
        """Namespaces were planned anew, or are new."""
        self._targets.update({row.namespace: row.target for row in rows})
        self._columns.update({row.namespace: frozenset(row.columns) for row in rows})

    async def follow(self, *work: Callable[[], Awaitable[None]], beside: Callable[[], Awaitable[None]]) -> None:
        """Apply changes for ever, and do other things meanwhile."""
        async with task_group() as tasks:
            for one in (*work, beside):
                tasks.create_task(self._once(one))
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
            until = answer.position
            await self.change(lambda following: replace(following, ahead_until=max(until, following.ahead_until)))
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

    async def checkpoint(self, lanes: Sequence[Lane]) -> None:
        """Record how far lanes have come, for whoever has the store alone."""
        rows = [CheckpointRow(unit=lane.unit, cursor=lane.kept.encode(), seq=lane.seq) for lane in lanes]
        failpoint("coordinator.before_stream_checkpoint")
        await self.context.journal.stream_checkpoint(rows)
        failpoint("coordinator.after_stream_checkpoint")

    async def tell_source(self, cursor: bytes) -> None:
        """The source may discard what is before; what it cannot be told now it is told later."""
        failpoint("coordinator.before_acknowledge")
        self.intake.durable = cursor
        with contextlib.suppress(DsyncError):
            await self.context.source.connector.acknowledge(self.following.partition.namespaces, cursor)
        failpoint("coordinator.after_acknowledge")

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
    failpoint("coordinator.before_lanes")
    lanes = await _open_lanes(context, following.lanes)
    failpoint("coordinator.after_lanes")
    held = {MAIN: kept_by_all(lanes)}
    if following.resync is not None:
        held[BESIDE] = kept_by_all(await _lanes_beside(context, following, following.resync))
    async with await _open_spool(context, held, following.spooled) as spool:
        letters = Letters(
            journal=context.journal,
            emit=context.emit,
            tolerance=Tolerance.parse(context.spec.dead_letters),
            lanes=following.lanes,
        )
        await letters.load()
        stream = Stream(
            context=context,
            following=following,
            spool=spool,
            letters=letters,
            lanes=lanes,
            planned=frozenset(row.namespace for row in plan.namespaces),
            held=held,
        )
        stream.learn(plan.namespaces)
        yield stream


async def _open_lanes(
    context: RunContext, count: int, follower: str = MAIN, *, start: Position | None = None
) -> list[Lane]:
    """Take a follower's lanes over; those that the sink does not know stand at `start`."""
    states = await context.retries.call(
        "open the lanes at the sink",
        lambda: context.sink.connector.open_units(
            context.journal.flow, context.journal.run, unit_refs(count, follower)
        ),
        before_repeat=context.sink.reopen_session,
    )
    return opened(states, follower, start=start)


async def _lanes_beside(context: RunContext, following: Following, resync: Resync) -> list[Lane]:
    return await _open_lanes(context, following.lanes, resync.follower, start=resync.start)


def _rounds(context: RunContext) -> Rounds:
    most_bytes = min(context.spec.memory_limit // _WHOLE_SHARE, context.sink.max_message_bytes * 3 // 4)
    return Rounds(
        limit_bytes=ROUND_BYTES,
        whole_transactions=context.spec.apply == "transactional",
        most_bytes=most_bytes,
    )


async def _open_spool(context: RunContext, held: Mapping[str, Position], spooled: Position | None) -> Spool:
    """The run's spool; one that does not go on from where the followers are is of no use, nor are other runs'.

    Raises:
        SpoolLostError: it ends before what the source was told to be in it, and the sink does not have that.
    """
    assert context.spools is not None, "whoever follows says where changes wait"
    own = context.spools / context.journal.run
    await remove_spools(context.spools, but=own.name)
    spool = await _open(context, own)
    main, lowest = held[MAIN].place, min(held.values(), key=lambda position: position.place)
    try:
        require_whole(spool, lowest, spooled)
    except SpoolLostError:
        await spool.close()
        raise
    has_end = spool.last_order >= order_of(main) or main == frames.START
    if has_end and spool.trimmed_order <= order_of(lowest.place):
        return spool
    await spool.close()
    await remove_spool(own)
    return await _open(context, own)


async def _open(context: RunContext, directory: Path) -> Spool:
    await asyncio.to_thread(directory.parent.mkdir, mode=0o700, parents=True, exist_ok=True)
    return await Spool.open(directory, flow=context.journal.flow, limit_bytes=context.spec.spool_limit)
