"""Changes: made where that is possible, and followed by StreamUpdates from the position that a plan has fixed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from dsync.conformance.outcomes import SkippedError
from dsync.conformance.reading import Reading
from dsync.conformance.records import Id, digest
from dsync.conformance.scratch import Scratch
from dsync.conformance.stream import Stream
from dsync.protocol.errors import UnsupportedError
from dsync.protocol.types import (
    PageType,
    PlanRequest,
    StreamRequest,
    Update,
    UpdateBatch,
    UpdatesPartition,
    UpdateType,
)

ROUNDS = 3
A_ROUND = 2
"""How many changes are made at a time: a few, so that they come in several answers."""


@dataclass(frozen=True, slots=True)
class SeenUpdate:
    """What is remembered of a change: enough to compare it, and no content."""

    namespace: str
    ids: tuple[Id, ...]
    type: UpdateType

    def __str__(self) -> str:
        return f"{self.type.name} of {', '.join(map(str, self.ids)) or 'no id'} in {self.namespace}"


@dataclass(slots=True)
class History:
    """What a stream has given."""

    batches: list[UpdateBatch] = field(default_factory=list)
    has_ended: bool = False

    @property
    def updates(self) -> list[SeenUpdate]:
        return [seen_update(update, batch.namespace) for batch in self.batches for update in batch.updates]

    def after(self, batch: int) -> list[SeenUpdate]:
        """The changes after a batch."""
        return History(self.batches[batch + 1 :]).updates


class Changes:
    """The changes of one updates partition."""

    def __init__(self, subject: Reading, scratch: Scratch) -> None:
        self._subject = subject
        self._scratch = scratch
        self._partition: UpdatesPartition | None = None
        self._history: History | None = None
        self._refusal = ""

    @property
    def can_make(self) -> bool:
        """Changes can be made: by the author's driver, or by writing to the scratch namespace."""
        return self._subject.options.change is not None or self._makes_by_writing

    @property
    def _makes_by_writing(self) -> bool:
        subject = self._subject
        return bool(subject.options.scratch and subject.info.sink and subject.info.source)

    async def make(self, number: int) -> None:
        """Make so many changes."""
        if self._subject.options.change is not None:
            await self._subject.options.change(number)
        elif self._makes_by_writing:
            await self._scratch.write(self._scratch.items(number, text="a change"))

    async def plan(self) -> tuple[UpdatesPartition, ...]:
        """Fix a position anew: the updates partitions by which changes are followed; none where it cannot be followed.

        Raises:
            SkippedError: no namespace is known to follow.
        """
        subject = self._subject
        by_writing = self._makes_by_writing and subject.options.change is None
        names = (subject.options.scratch,) if by_writing else (await subject.namespaces())[:1]
        try:
            plan = await subject.connector.generate_plan(
                PlanRequest(namespaces=names, initial_sync=False, updates=True)
            )
        except UnsupportedError:
            return ()
        return plan.updates_partitions

    async def why_not(self) -> str:
        """Why nothing can be followed; empty where it can."""
        if self._history is None and not self._refusal and not await self.plan():
            self._refusal = "it plans no changes: GeneratePlan with `updates` gives no updates partition"
        return self._refusal

    async def history(self) -> tuple[UpdatesPartition, History]:
        """The first changes after a planned position, several batches where changes can be made; read once.

        Raises:
            SkippedError: no change came.
        """
        if self._partition is None or self._history is None:
            partitions = await self.plan()
            assert partitions, "a check of a stream needs one"
            if len(partitions) == 1:
                self._partition, self._history = partitions[0], await self._first(partitions[0])
            else:
                # Which of them tells of a change is the source's to know: the one that has told the most is looked at.
                await self.make(A_ROUND * ROUNDS * len(partitions))
                found = await self.collect_all(partitions, A_ROUND * ROUNDS)
                self._partition, self._history = max(found, key=lambda one: len(one[1].updates))
        if not self._history.updates:
            raise SkippedError(
                f"no change came within {self._subject.options.wait_s:g} s: let somebody write meanwhile, or give a"
                " scratch namespace"
            )
        return self._partition, self._history

    async def _first(self, partition: UpdatesPartition) -> History:
        history = History()
        async with self.open(partition, partition.cursor) as stream:
            if not self.can_make:
                await fill(history, stream, batches=ROUNDS)
                return history
            for number in range(1, ROUNDS + 1):
                await self.make(A_ROUND)
                await fill(history, stream, updates=A_ROUND * number)
        return history

    async def collect(self, partition: UpdatesPartition, cursor: bytes, updates: int) -> History:
        """What a stream opened at a cursor gives, until so many changes have come or none does any more."""
        history = History()
        async with self.open(partition, cursor) as stream:
            await fill(history, stream, updates=updates)
        return history

    async def collect_all(
        self, partitions: Sequence[UpdatesPartition], updates: int
    ) -> list[tuple[UpdatesPartition, History]]:
        """What each partition's stream gives from its planned position on, read side by side."""
        found = await asyncio.gather(*(self.collect(one, one.cursor, updates) for one in partitions))
        return list(zip(partitions, found, strict=True))

    @asynccontextmanager
    async def open(self, partition: UpdatesPartition, cursor: bytes) -> AsyncIterator[Stream[UpdateBatch]]:
        """A stream, closed with the block."""
        request = StreamRequest(
            namespaces=partition.namespaces,
            type=self.type,
            cursor=cursor,
            header=partition.header,
            value=partition.value,
        )
        stream = Stream(self._subject.connector.stream_updates(request), wait_s=self._subject.options.wait_s)
        try:
            yield stream
        finally:
            await stream.close()

    @property
    def type(self) -> PageType:
        return self._subject.read_type


async def fill(history: History, stream: Stream[UpdateBatch], *, updates: int = 0, batches: int = 0) -> None:
    """Add answers until the history has so many changes and answers, none comes, or the stream ends."""
    while len(history.updates) < updates or len(history.batches) < batches:
        try:
            batch = await stream.next()
        except TimeoutError:
            return
        if batch is None:
            history.has_ended = True
            return
        history.batches.append(batch)


def seen_update(update: Update, namespace: str) -> SeenUpdate:
    """A change as it is remembered."""
    ids = tuple(Id(value.type, value.data) for value in update.id)
    return SeenUpdate(namespace, ids, update.type)


def content_of(update: Update) -> tuple[Any, ...]:
    """All that a change says, without its content."""
    return digest([update.data]), update.partial_update_unset
