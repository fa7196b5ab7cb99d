"""Cutting a stream of frames into rounds: as much as is there and fits, and never past a change that stands alone."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

from dsync.coordinator.stream.position import Position
from dsync.protocol import frames
from dsync.protocol.errors import PluginBugError
from dsync.protocol.frames import Place
from dsync.protocol.types import ChangeFrame, Operation


@dataclass(frozen=True, slots=True)
class Part:
    """Some changes of a frame: those from `start` up to `end`."""

    frame: ChangeFrame
    start: int
    end: int

    @property
    def place(self) -> Place:
        """Where whoever has these changes and all before them stands."""
        return frames.place_at(self.frame, self.end) if self.end else self.frame.place


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """Changes that are written together; nothing after them is written before they are durable.

    A change that concerns more than one key is a round of its own.
    """

    parts: tuple[Part, ...]
    """Of frames of one type."""
    cursor: bytes
    """Of the source, at the round's end or somewhere before it; empty: nothing has ended yet."""

    @property
    def place(self) -> Place:
        return self.parts[-1].place

    @property
    def frame(self) -> ChangeFrame:
        """The last one that the round has something of."""
        return self.parts[-1].frame

    def __len__(self) -> int:
        return sum(part.end - part.start for part in self.parts)

    def place_of(self, offset: int) -> Place:
        """Where whoever has the changes up to this one, and it too, stands."""
        for part in self.parts:
            if offset < part.end - part.start:
                return frames.place_at(part.frame, part.start + offset + 1)
            offset -= part.end - part.start
        raise IndexError("the round has not so many changes")

    def cut(self, *offsets: int) -> list[Round]:
        """The round in pieces that begin at these offsets, which ascend; pieces without changes are left out.

        The cursor is known of the whole alone: whoever stops in between goes on from before it.
        """
        bounds = [0, *offsets, len(self)]
        pieces = []
        for start, end in itertools.pairwise(bounds):
            parts = []
            before = 0
            for part in self.parts:
                size = part.end - part.start
                first, last = max(start - before, 0), min(end - before, size)
                if first < last:
                    parts.append(Part(part.frame, part.start + first, part.start + last))
                before += size
            if parts:
                pieces.append(Round(parts=tuple(parts), cursor=self.cursor if end == len(self) else b""))
        return pieces


def marks_of(found: Round) -> list[bytes]:
    """What the marks among a round's changes say."""
    return [
        bytes(frames.cut(part.frame, index, index + 1).body)
        for part in found.parts
        if Operation.MARK in part.frame.operations
        for index in range(part.start, part.end)
        if part.frame.operations[index] == Operation.MARK
    ]


@dataclass(slots=True, kw_only=True)
class Rounds:
    """What is read ahead while a round is being written is the next round."""

    limit_bytes: int
    whole_transactions: bool = False
    """A round ends between two transactions, whatever it weighs."""

    async def of(self, stream: AsyncGenerator[ChangeFrame, None], *, after: Position) -> AsyncGenerator[Round, None]:
        """The rounds of a stream of frames that goes on after a position.

        Raises:
            PluginBugError: a frame contradicts itself.
        """
        cursor = after.cursor
        async with _ahead(stream, self.limit_bytes) as queue:
            while True:
                waiting = [await queue.get()]
                while self._is_open(waiting):
                    waiting.append(await queue.get())
                size_bytes = sum(len(frame.body) for frame in waiting)
                while size_bytes < self.limit_bytes and (more := queue.get_nowait()) is not None:
                    waiting.append(more)
                    while self._is_open(waiting):
                        waiting.append(await queue.get())
                    size_bytes = sum(len(frame.body) for frame in waiting)
                for frame in waiting:
                    _require_sound(frame)
                for found in _cut(waiting, cursor):
                    yield found
                cursor = waiting[-1].cursor

    def _is_open(self, waiting: list[ChangeFrame]) -> bool:
        """A transaction has begun in these frames and not ended."""
        if not self.whole_transactions:
            return False
        for frame in reversed(waiting):
            if frame.commits or len(frame):
                return (frame.commits[-1].end if frame.commits else 0) < len(frame)
        return False


class _Ahead:
    """Frames that were read and not yet taken, at most so many bytes of them."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._frames: asyncio.Queue[ChangeFrame | BaseException] = asyncio.Queue()
        self._count = 0
        self._bytes = 0
        self._room = asyncio.Event()
        self._room.set()

    async def fill(self, stream: AsyncGenerator[ChangeFrame, None]) -> None:
        try:
            async with aclosing(stream) as items:
                async for frame in items:
                    self._frames.put_nowait(frame)
                    self._count += 1
                    self._bytes += len(frame.body)
                    if self._bytes >= self._limit_bytes:
                        self._room.clear()
                    await self._room.wait()
        except BaseException as exc:
            # Whatever it is, whoever waits for a frame has to know that none will come.
            self._frames.put_nowait(exc)
            raise
        else:
            self._frames.put_nowait(StreamEndedError("the stream of changes has ended"))

    async def get(self) -> ChangeFrame:
        return self._taken(await self._frames.get())

    def get_nowait(self) -> ChangeFrame | None:
        """The next one if it is there; the end of the stream is for whoever waits."""
        if not self._count:
            return None
        return self._taken(self._frames.get_nowait())

    def _taken(self, item: ChangeFrame | BaseException) -> ChangeFrame:
        if isinstance(item, BaseException):
            # For whoever asks again.
            self._frames.put_nowait(item)
            raise item
        self._count -= 1
        self._bytes -= len(item.body)
        if self._bytes < self._limit_bytes:
            self._room.set()
        return item


class StreamEndedError(Exception):
    """There are no more frames; what was read before has been given."""


@asynccontextmanager
async def _ahead(stream: AsyncGenerator[ChangeFrame, None], limit_bytes: int) -> AsyncIterator[_Ahead]:
    ahead = _Ahead(limit_bytes)
    task = asyncio.create_task(ahead.fill(stream))
    try:
        yield ahead
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _require_sound(frame: ChangeFrame) -> None:
    if not frames.is_well_formed(frame):
        raise PluginBugError("the source sent a frame of changes that contradicts itself; a fault of its connector")


def _cut(waiting: list[ChangeFrame], cursor: bytes) -> Iterator[Round]:
    """Frames as far as no change stands alone; those of unlike types are not in one round either."""
    parts: list[Part] = []
    for frame in waiting:
        for start, end, alone in [*frames.runs(frame)] or [(0, 0, False)]:
            if parts and (alone or parts[-1].frame.type is not frame.type):
                yield Round(parts=tuple(parts), cursor=cursor)
                parts.clear()
            parts.append(Part(frame, start, end))
            if end == len(frame):
                cursor = frame.cursor
            if alone:
                yield Round(parts=tuple(parts), cursor=cursor)
                parts.clear()
    if parts:
        yield Round(parts=tuple(parts), cursor=cursor)
