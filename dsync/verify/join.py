"""Matching the rows of two ends by key in bounded memory.

Both ends hand over their rows in whatever order they come. A row waits until its counterpart arrives and then leaves,
so that two tables in about the same order need next to nothing. Too many waiting rows go to a file, cut by a hash of
their key; at the end the cuts are matched one by one, in the same way.
"""

from __future__ import annotations

import asyncio
import enum
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from dsync.coordinator.tasks import task_group
from dsync.protocol.errors import CapacityError
from dsync.protocol.types import RowHash
from dsync.verify.options import Key
from dsync.verify.report import Kind
from dsync.verify.spill import Spill
from dsync.verify.tally import Tally

# What a waiting row takes in CPython beside the characters of its key: the tuple, its strings, the hash, a dict slot.
_ROW_BYTES = 260
# By then 256**3 cuts have been made: what is left together has one key, and cutting does not help.
_MOST_LEVELS = 3


class Side(enum.IntEnum):
    SOURCE = 0
    TARGET = 1

    @property
    def other(self) -> Side:
        return Side(1 - self)

    @property
    def lonely(self) -> Kind:
        """What a row is that only this side has."""
        return Kind.MISSING if self is Side.SOURCE else Kind.EXTRA


class RowJoin:
    """Tells missing, extra and different rows apart; with keys, or without as multisets of hashes."""

    def __init__(
        self, tally: Tally, *, keyed: bool, held_bytes: int, directory: Path | None = None, level: int = 0
    ) -> None:
        self._tally = tally
        self._keyed = keyed
        self._most_bytes = held_bytes
        self._directory = directory
        self._level = level
        self._waiting: tuple[dict[Key, bytes | int], dict[Key, bytes | int]] = ({}, {})
        self._held_bytes = 0
        self._spill: Spill | None = None

    @property
    def held_bytes(self) -> int:
        """What the waiting rows take, about."""
        return self._held_bytes

    @property
    def has_spilled(self) -> bool:
        return self._spill is not None

    async def feed(self, side: Side, rows: Sequence[RowHash]) -> None:
        """Take some rows of one side; not to be called twice at a time."""
        (self._match_keyed if self._keyed else self._match_counted)(side, rows)
        if self._held_bytes > self._most_bytes and self._level < _MOST_LEVELS:
            await self._write_out()

    async def feed_in_step(
        self, source: AsyncIterator[Sequence[RowHash]], target: AsyncIterator[Sequence[RowHash]]
    ) -> None:
        """Take both sides to their end, a batch of each at a time, so that counterparts meet soon."""
        batches: Sequence[Sequence[RowHash] | None] = ((), ())
        while any(batch is not None for batch in batches):
            async with task_group() as group:
                asked = [group.create_task(_following(*pair)) for pair in zip((source, target), batches, strict=True)]
            batches = [task.result() for task in asked]
            for side in Side:
                await self.feed(side, batches[side] or ())

    async def finish(self) -> None:
        """Both sides are complete: count what has no counterpart. The join cannot be used afterwards."""
        if self._spill is None:
            self._count_lonely()
            return
        await self._write_out()
        try:
            for cut in self._spill.cuts():
                await self._join_cut(self._spill, cut)
        finally:
            self.close()

    def close(self) -> None:
        """Give the file back; for a join that does not come to its end. Repeatable."""
        if self._spill is not None:
            self._spill.close()
            self._spill = None

    def _match_keyed(self, side: Side, rows: Sequence[RowHash]) -> None:
        own, other = self._waiting[side], self._waiting[side.other]
        for row in rows:
            counterpart = other.pop(row.key, None)
            if counterpart is not None:
                self._held_bytes -= _size(row.key)
                if counterpart != row.hash:
                    self._tally.add(Kind.DIFFERENT, row.key)
            elif row.key in own:
                # Only where nothing keeps the key unique; one of them is compared, the others are too many.
                self._tally.add(side.lonely, row.key)
            else:
                own[row.key] = row.hash
                self._held_bytes += _size(row.key)

    def _match_counted(self, side: Side, rows: Sequence[RowHash]) -> None:
        for row in rows:
            self._add_count(side, row.key, row.count)

    def _add_count(self, side: Side, key: Key, count: int) -> None:
        own, other = self._waiting[side], self._waiting[side.other]
        counterpart = other.pop(key, None)
        if counterpart is not None:
            self._held_bytes -= _size(key)
            left = int(counterpart) - count
            if left == 0:
                return
            own, count = (other, left) if left > 0 else (own, -left)
        if key not in own:
            self._held_bytes += _size(key)
        own[key] = int(own.get(key, 0)) + count

    def _count_lonely(self) -> None:
        for side in Side:
            for key, value in self._waiting[side].items():
                self._tally.add(side.lonely, key, 1 if self._keyed else int(value))
            self._waiting[side].clear()
        self._held_bytes = 0

    async def _write_out(self) -> None:
        try:
            if self._spill is None:
                self._spill = Spill(self._directory, level=self._level)
            for side in Side:
                await asyncio.to_thread(self._spill.write, side, self._waiting[side])
                self._waiting[side].clear()
        except OSError as exc:
            raise CapacityError(
                f"comparing rows: those that wait for their counterpart cannot be kept in "
                f"{self._directory or tempfile.gettempdir()} ({exc.strerror}); make room there or set TMPDIR"
            ) from exc
        self._held_bytes = 0

    async def _join_cut(self, spill: Spill, cut: int) -> None:
        """Match one cut; it may be too large itself, and is then cut by another hash."""
        join = RowJoin(
            self._tally,
            keyed=self._keyed,
            held_bytes=self._most_bytes,
            directory=self._directory,
            level=self._level + 1,
        )
        try:
            for side in Side:
                for rows in spill.read(side, cut):
                    await join.feed(side, [_row(key, value) for key, value in rows])
            await join.finish()
        finally:
            join.close()


def _size(key: Key) -> int:
    return _ROW_BYTES + sum(map(len, key))


def _row(key: Key, value: bytes | int) -> RowHash:
    if isinstance(value, bytes):
        return RowHash(key=key, hash=value)
    return RowHash(key=key, hash=b"", count=value)


async def _following(
    batches: AsyncIterator[Sequence[RowHash]], before: Sequence[RowHash] | None
) -> Sequence[RowHash] | None:
    """The next batch, and None from the end on."""
    return None if before is None else await anext(batches, None)
