"""From the source into the spool: every change from the first second on, whatever the sink is doing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TypeVar

import stamina

from dsync.coordinator.events import CallRetried, EventHandler
from dsync.coordinator.pace import Pace
from dsync.coordinator.stream.position import Position
from dsync.coordinator.tasks import task_group
from dsync.protocol.errors import PluginBugError, RetryableError
from dsync.protocol.frames import START, Place
from dsync.protocol.interface import Connector
from dsync.protocol.page_codec import decode_frame, frame_pieces
from dsync.protocol.types import ChangeFrame, Operation, StreamChangesRequest
from dsync.spool import Spool, SpoolFullError

_WAIT_INITIAL_S = 0.1
_WAIT_MAX_S = 10.0
_NUMBER_BYTES = 8

CONFIRM_EVERY_S = 5.0

T = TypeVar("T")


def order_of(place: Place) -> bytes:
    """A place as the spool compares it."""
    return b"".join(number.to_bytes(_NUMBER_BYTES) for number in place)


def place_of(order: bytes) -> Place:
    """The inverse of `order_of`; the start for no bytes."""
    return int.from_bytes(order[:_NUMBER_BYTES]), int.from_bytes(order[_NUMBER_BYTES:])


async def spooled_frames(spool: Spool, after: Place) -> AsyncGenerator[ChangeFrame, None]:
    """The frames that end after a place, then every new one; has no end."""
    async with aclosing(spool.read(order_of(after))) as kept:
        async for item in kept:
            yield decode_frame(item.payload())


@dataclass(slots=True, kw_only=True)
class Intake:
    """Reads the stream of a source, for ever, and opens it again wherever it breaks off."""

    source: Connector
    spool: Spool
    request: StreamChangesRequest
    """Without a cursor."""
    start: Position
    """What the sink has, by its ledger."""
    emit: EventHandler
    reopen: Callable[[], Awaitable[object]]
    """Awaited before the stream is opened again: a plug-in that was restarted has forgotten its session."""

    confirm: Callable[[Position], Awaitable[None]] | None = None
    """Make the spool durable up to there and tell the source; None: it is told what the sink has."""
    confirmed: Position = field(default_factory=Position)
    """What the source was told by that, in an earlier life."""

    pace: Pace | None = None
    """How fast it may be; None: as the source gives it."""

    durable: bytes | None = field(default=None, init=False)
    """A cursor up to which the source was told that everything is durable; None: nothing was told yet."""
    quiet: Position = field(default_factory=Position, init=False)
    """The end of the last frame, or what the source has said since of having no more changes: a later cursor."""
    position: int = field(default=0, init=False)
    """The source's own, by its last word."""
    time: datetime | None = field(default=None, init=False)
    """When that was, by the source's clock."""
    has_heard: bool = field(default=False, init=False)
    """The source has said something in this life, so that what it is asked for next is no earlier than that."""
    heard: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    """Set with each frame, also one without changes; whoever waits for it clears it."""
    _asked: tuple[str, ...] | None = field(default=None, init=False)
    """Namespaces that the stream is to be opened anew with."""
    _opened: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    _came: Place = field(default=START, init=False)
    """The end of the last changes that this stream has given."""

    async def run(self) -> None:
        """Never returns.

        Raises:
            DsyncError: what no repetition mends (a slot that is lost, another server).
        """
        self.quiet = await self._start()
        async with task_group() as tasks:
            if self.confirm is not None:
                tasks.create_task(self._confirm(self.confirm))
            while True:
                async for attempt in stamina.retry_context(
                    on=self._passes, attempts=None, timeout=None, wait_initial=_WAIT_INITIAL_S, wait_max=_WAIT_MAX_S
                ):
                    with attempt:
                        if attempt.num > 1:
                            await self.reopen()
                        await self._read()

    async def _confirm(self, confirm: Callable[[Position], Awaitable[None]]) -> None:
        """Every few seconds, what the spool has by then."""
        told = self.confirmed
        while True:
            if self.quiet != told and self.quiet.cursor:
                told = self.quiet
                await confirm(told)
            await asyncio.sleep(CONFIRM_EVERY_S)

    async def follow_namespaces(self, namespaces: tuple[str, ...]) -> None:
        """Open the stream anew, where it stands, with these namespaces; returns when that is asked for."""
        self._asked = namespaces
        self._opened.clear()
        await self._opened.wait()

    @property
    def _is_asked(self) -> bool:
        return self._asked is not None

    async def _start(self) -> Position:
        """Where the spool ends, and the cursor of its last frame.

        Where the sink stands there too, its cursor is the later one: what the source has said since of having no
        changes is in no frame, and may have been acknowledged.
        """
        last = self.spool.last_order
        place = place_of(last)
        if self.confirmed.cursor and max(place, self.start.place) <= self.confirmed.place:
            # Nobody has been told more, and the source may not give again what is before.
            return self.confirmed
        if not self.spool.frames or place == self.start.place:
            # Without a spool the place is not known: the sink's may be further than its cursor.
            return Position(place=place, cursor=self.start.cursor)
        payload = b""
        async with aclosing(self.spool.read(self.spool.trimmed_order)) as kept:
            async for item in kept:
                if item.order == last:
                    payload = item.payload()
                    break
        return Position.after(decode_frame(payload))

    def _passes(self, error: Exception) -> bool:
        if not isinstance(error, RetryableError):
            return False
        self.emit(CallRetried(operation="read changes", error=type(error).__name__, reason=str(error)))
        return True

    async def _read(self) -> None:
        """Until the stream breaks off; returns where that was after something had come."""
        asked, self._asked = self._asked, None
        if asked is not None:
            self.request = replace(self.request, namespaces=asked)
        request = replace(
            self.request,
            cursor=self.quiet.cursor,
            # What is in the spool alone the source has to keep: the spool may be lost.
            durable=self.start.cursor if self.durable is None else self.durable,
        )
        self._opened.set()
        self._came = START
        stream = self.source.stream_changes(request)
        has_come = False
        try:
            async with aclosing(stream) as frames:  # type: ignore[type-var]
                async for frame in frames:
                    await self._take(frame)
                    has_come = True
                    if self.pace is not None:
                        await self.pace.spend(len(frame) - frame.operations.count(Operation.MARK), len(frame.body))
                    if self._is_asked:
                        return
        except RetryableError as error:
            if not has_come:
                raise
            # After a stream that had worked the back-off begins anew.
            self._passes(error)
            await self.reopen()
        else:
            raise PluginBugError("the source ended its stream of changes, which has no end; a fault of its connector")

    async def _take(self, frame: ChangeFrame) -> None:
        has_changes = bool(frame.operations.strip(bytes([Operation.MARK])))
        if has_changes and frame.place <= self._came:
            raise PluginBugError(
                f"the source sent changes up to {frame.place} after those up to {self._came}: it went back, "
                "which is a fault of its connector"
            )
        if has_changes:
            self._came = frame.place
        if frame.place > self.quiet.place:
            await self._keep(frame)
        # What is before was asked for again: the sink may stand inside of a frame, and knows that frame's start alone.
        if frame.place >= self.quiet.place:
            self.quiet = Position.after(frame)
        self.position = max(self.position, frame.position)
        self.time = frame.time or self.time
        self.has_heard = True
        self.heard.set()

    async def _keep(self, frame: ChangeFrame) -> None:
        order, pieces = order_of(frame.place), frame_pieces(frame)
        while True:
            try:
                await self.spool.append(order, pieces)
            except SpoolFullError:
                # The stream waits meanwhile: the source holds what comes.
                await self.spool.room(sum(map(len, pieces)))
            else:
                return


async def beside(intake: Intake, work: Coroutine[object, object, T]) -> T:
    """The result of some work, with the intake running for as long as that takes.

    Where the intake fails first, the work is given up and its error is raised.
    """
    reading, working = asyncio.create_task(intake.run()), asyncio.create_task(work)
    try:
        await asyncio.wait((reading, working), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
            await reading
        return await working
    finally:
        for task in (reading, working):
            task.cancel()
        await asyncio.gather(reading, working, return_exceptions=True)
