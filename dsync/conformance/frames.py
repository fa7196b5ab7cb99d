"""Changes by dsync.v1: made in the scratch namespace, and followed by StreamChanges in frames."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate

import stamina

from dsync.conformance.outcomes import SkippedError, expect
from dsync.conformance.reading import Reading
from dsync.conformance.records import digest
from dsync.conformance.scratch import Item, Scratch
from dsync.conformance.stream import Stream
from dsync.protocol.errors import RetryableError
from dsync.protocol.types import ChangeFrame, Operation, Role, StreamChangesRequest, UpdatesPartition

ROUNDS = 3
_NOT_ROWS = (Operation.RESHAPE, Operation.MARK)
_OPEN_S = 30.0


@dataclass(frozen=True, slots=True)
class SeenChange:
    """What is remembered of a change: enough to compare it, and no content."""

    namespace: str
    operation: Operation
    key_hash: bytes
    digest: bytes

    def __str__(self) -> str:
        return f"{self.operation.name} in {self.namespace}"


@dataclass(slots=True)
class Trail:
    """What was done, and the frames that told of it."""

    partition: UpdatesPartition
    items: list[Item] = field(default_factory=list)
    """Written since the plan, in this order."""
    frames: list[ChangeFrame] = field(default_factory=list)
    """Those with changes."""

    @property
    def changes(self) -> list[SeenChange]:
        return [change for frame in self.frames for change in changes_of(frame)]

    def after(self, frame: int) -> list[SeenChange]:
        return [change for one in self.frames[frame + 1 :] for change in changes_of(one)]


def rows_of(frame: ChangeFrame) -> int:
    """How many changes of records a frame has."""
    return sum(operation not in _NOT_ROWS for operation in frame.operations)


class Frames:
    """The changes of one updates partition, as frames."""

    def __init__(self, subject: Reading, scratch: Scratch) -> None:
        self._subject = subject
        self._scratch = scratch
        self._trail: Trail | None = None
        self.has_begun = False
        """The source keeps something for the flow, to be released."""

    async def begin(self) -> UpdatesPartition:
        """Fix a position, as a plan that is to be followed does; found again where it was fixed before."""
        subject = self._subject
        if not subject.extensions.stream_types:
            raise SkippedError("it declares no type of changes that it streams")
        await subject.open_session(Role.SOURCE)
        self.has_begun = True
        # A stream that was closed may still be held by the server, as it is after a coordinator's death.
        async for attempt in stamina.retry_context(
            on=RetryableError, attempts=None, timeout=_OPEN_S, wait_initial=0.1, wait_max=1.0
        ):
            with attempt:
                plan = await subject.connector.open_plan([self._scratch.namespace], updates=True, wait_s=_OPEN_S)
        expect(len(plan.updates_partitions) == 1, expected="a plan with one updates partition", seen="another number")
        return plan.updates_partitions[0]

    async def trail(self) -> Trail:
        """The changes of a few rounds of writing, in several frames where the source sends what it has; read once."""
        if self._trail is None:
            trail = Trail(await self.begin())
            frames = self.open(trail.partition, trail.partition.cursor)
            try:
                for number in range(1, ROUNDS + 1):
                    items = self._scratch.items(2, text=f"round {number}")
                    trail.items += items
                    await self._scratch.write(items)
                    await self._fill(frames, trail.frames, 2 * number)
            finally:
                await frames.close()
            self._trail = trail
        return self._trail

    async def read(self, cursor: bytes, changes: int) -> list[SeenChange]:
        """The changes after a cursor, until there are so many or none comes any more."""
        trail = await self.trail()
        found: list[ChangeFrame] = []
        frames = self.open(trail.partition, cursor)
        try:
            await self._fill(frames, found, changes)
        finally:
            await frames.close()
        return [change for frame in found for change in changes_of(frame)]

    async def told_after(self, cursor: bytes, mark: bytes) -> list[bytes]:
        """What comes after a cursor up to a mark with this content: `row` for each change of a record, `mark` last."""
        found: list[bytes] = []
        frames = self.open((await self.trail()).partition, cursor)
        try:
            while (frame := await self._next(frames, has=lambda one: one.operations)) is not None:
                for operation, record in zip(frame.operations, _records(frame), strict=True):
                    if operation == Operation.MARK and record == mark:
                        return [*found, b"mark"]
                    if operation not in _NOT_ROWS:
                        found.append(b"row")
        finally:
            await frames.close()
        return found

    def open(self, partition: UpdatesPartition, cursor: bytes) -> Stream[ChangeFrame]:
        """A stream from a cursor on; nothing after the plan's own may be discarded yet."""
        request = StreamChangesRequest(
            namespaces=partition.namespaces,
            type=self._subject.extensions.stream_types[0],
            cursor=cursor,
            durable=partition.cursor,
            header=partition.header,
            value=partition.value,
        )
        return Stream(self._subject.connector.stream_changes(request), wait_s=self._subject.options.wait_s)

    async def _fill(self, stream: Stream[ChangeFrame], found: list[ChangeFrame], changes: int) -> None:
        """Add frames with changes until there are so many changes, or none comes any more."""
        while sum(rows_of(frame) for frame in found) < changes:
            frame = await self._next(stream)
            if frame is None:
                # Whoever asked compares what has come with what should have.
                return
            found.append(frame)

    async def _next(
        self, stream: Stream[ChangeFrame], *, has: Callable[[ChangeFrame], object] = rows_of
    ) -> ChangeFrame | None:
        """The next frame with changes; None where none comes in time. Others only say that the source is alive."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._subject.options.wait_s
        while True:
            try:
                frame = await stream.next(max(0.0, until - loop.time()))
            except TimeoutError:
                return None
            if frame is None or has(frame):
                return frame


def changes_of(frame: ChangeFrame) -> list[SeenChange]:
    """The changes of records of a frame, as they are remembered."""
    return [
        SeenChange(
            _namespace(frame, number),
            Operation(operation),
            frame.key_hashes[8 * number : 8 * number + 8],
            digest([record]),
        )
        for number, (operation, record) in enumerate(zip(frame.operations, _records(frame), strict=True))
        if operation not in _NOT_ROWS
    ]


def _records(frame: ChangeFrame) -> list[bytes]:
    sizes = [int.from_bytes(frame.sizes[at : at + 4], "little") for at in range(0, len(frame.sizes), 4)]
    body = memoryview(frame.body)
    return [bytes(body[end - size : end]) for size, end in zip(sizes, accumulate(sizes), strict=True)]


def _namespace(frame: ChangeFrame, number: int) -> str:
    relation = int.from_bytes(frame.relation_of[2 * number : 2 * number + 2], "little")
    return frame.relations[relation].namespace if relation < len(frame.relations) else ""
