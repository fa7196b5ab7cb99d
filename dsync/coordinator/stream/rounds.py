"""Cutting a stream of frames into rounds: as much as is there and fits, and never past a change that stands alone."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

from dsync.coordinator.stream.position import Position
from dsync.protocol import frames
from dsync.protocol.errors import CapacityError, PluginBugError
from dsync.protocol.frames import Place
from dsync.protocol.types import ChangeFrame, ChangeRelation, Operation

_CHANGE_BYTES = 128
"""What a change weighs beside its record, about, for whoever takes it apart."""


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
    """A round ends between two transactions, whatever it weighs, and changes that stand alone stay in it."""
    most_bytes: int = 0
    """What a whole transaction may weigh, since it is in memory at once; 0: anything."""

    async def of(self, stream: AsyncGenerator[ChangeFrame, None], *, after: Position) -> AsyncGenerator[Round, None]:
        """The rounds of a stream of frames that goes on after a position.

        Raises:
            PluginBugError: a frame contradicts itself.
            CapacityError: a transaction weighs more than one may that is written whole.
        """
        cursor = after.cursor
        cut = _cut_whole if self.whole_transactions else _cut
        async with _ahead(stream, self.limit_bytes) as queue:
            while True:
                waiting = [await queue.get()]
                size_bytes = await self._to_end(waiting, queue)
                while size_bytes < self.limit_bytes and (more := queue.get_nowait()) is not None:
                    waiting.append(more)
                    size_bytes += await self._to_end(waiting, queue)
                for frame in waiting:
                    _require_sound(frame)
                for found in cut(waiting, cursor):
                    yield found
                cursor = waiting[-1].cursor

    async def _to_end(self, waiting: list[ChangeFrame], queue: _Ahead) -> int:
        """Wait for the rest of the last frame's transaction; returns what has come, that frame included."""
        size_bytes = len(waiting[-1].body)
        weight_bytes = _weight_bytes(waiting[-1])
        while self._is_open(waiting):
            if self.most_bytes and weight_bytes > self.most_bytes:
                raise CapacityError(
                    f"applying whole transactions: one of the source weighs more than {self.most_bytes:,} bytes, which "
                    "is what --memory-limit and the sink leave for one; run the same command with a higher "
                    "--memory-limit, or with --apply lanes, which writes it in parts"
                )
            waiting.append(await queue.get())
            size_bytes += len(waiting[-1].body)
            weight_bytes += _weight_bytes(waiting[-1])
        return size_bytes

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


def _weight_bytes(frame: ChangeFrame) -> int:
    return len(frame.body) + _CHANGE_BYTES * len(frame)


def _cut_whole(waiting: list[ChangeFrame], cursor: bytes) -> Iterator[Round]:
    """Transactions as they are; but before a table gets another shape all changes to its old one have to be there.

    So a round ends before the transaction in which it does, or in it, where that has written to the old one itself.
    """
    parts: list[Part] = []
    shapes: dict[str, _Shape] = {}
    for transaction in _transactions(waiting):
        for number, piece in enumerate(_by_shape(transaction)):
            told = _shapes_of(piece)
            is_other = any(shapes.get(name, shape) != shape for name, shape in told.items())
            if parts and (number or is_other or parts[-1].frame.type is not piece[0].frame.type):
                yield Round(parts=tuple(parts), cursor=cursor)
                parts, shapes = [], {}
            parts += piece
            shapes |= told
            ended = [part.frame for part in piece if part.end == len(part.frame)]
            cursor = ended[-1].cursor if ended else cursor
    if parts:
        yield Round(parts=tuple(parts), cursor=cursor)


def _transactions(waiting: list[ChangeFrame]) -> Iterator[list[Part]]:
    """The parts of each transaction; the last one may not have ended."""
    begun: list[Part] = []
    for frame in waiting:
        start = 0
        for commit in frame.commits:
            if start < commit.end:
                begun.append(Part(frame, start, commit.end))
            if begun:
                yield begun
            begun, start = [], commit.end
        if start < len(frame) or not len(frame):
            begun.append(Part(frame, start, len(frame)))
    if begun:
        yield begun


_Shape = tuple[object, bool]


def _shape(relation: ChangeRelation) -> _Shape:
    return relation.columns, relation.full_old_row


def _shapes_of(parts: list[Part]) -> dict[str, _Shape]:
    return {
        relation.namespace: _shape(relation)
        for part in parts
        for number in set(frames.relation_numbers(part.frame)[part.start : part.end])
        for relation in (part.frame.relations[number],)
    }


def _by_shape(transaction: list[Part]) -> Iterator[list[Part]]:
    """A transaction as pieces with one shape of each table; as a rule that is all of it."""
    piece: list[Part] = []
    shapes: dict[str, _Shape] = {}
    for part in transaction:
        numbers = frames.relation_numbers(part.frame)
        start = part.start
        for index in _firsts(numbers, part):
            relation = part.frame.relations[numbers[index]]
            if shapes.setdefault(relation.namespace, _shape(relation)) == _shape(relation):
                continue
            if start < index:
                piece.append(Part(part.frame, start, index))
            yield piece
            piece, shapes, start = [], {relation.namespace: _shape(relation)}, index
        piece.append(Part(part.frame, start, part.end))
    yield piece


def _firsts(numbers: Sequence[int], part: Part) -> list[int]:
    """Where each relation of a part comes first: a table that has another shape does not go back to the one before."""
    some = list(numbers[part.start : part.end])
    return sorted(part.start + some.index(number) for number in set(some))


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
