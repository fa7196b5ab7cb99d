"""Comparing a namespace by reading both ends: sums of hashes per bucket, then the rows of the buckets that differ."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

import xxhash

from dsync.coordinator.tasks import task_group
from dsync.protocol.types import KeyRange, RowHash
from dsync.verify.canonical import Fields, content_hash, content_row, id_key
from dsync.verify.documents import Documents
from dsync.verify.ends import VerifyEnd
from dsync.verify.join import RowJoin, Side
from dsync.verify.options import Key, VerifyOptions
from dsync.verify.pairing import Pair
from dsync.verify.settle import Fetched, Row
from dsync.verify.tally import RangeResult, Tally

_BUCKETS = 16384
_ID = "_id"
_IDS_PER_CALL = 100
_IDS_PER_SCAN = 1000

Digest = Callable[[bytes], int]


@dataclass(slots=True)
class _Sums:
    """Of one end, by bucket. Sums and not XOR: two equal rows must not cancel out."""

    counts: list[int] = field(default_factory=lambda: [0] * _BUCKETS)
    sums: list[int] = field(default_factory=lambda: [0] * _BUCKETS)


@dataclass(slots=True, kw_only=True)
class Streamed:
    """One namespace of two ends that have no checksums in common."""

    pair: Pair
    source: VerifyEnd
    target: VerifyEnd
    options: VerifyOptions
    narrowing: asyncio.Semaphore
    keyed: bool
    """False: there is no key, and `_id` says where a row lies; documents are compared as a multiset without it."""
    _fields: Fields | None = field(init=False)

    def __post_init__(self) -> None:
        self._fields = _compared_fields(self.pair, keyed=self.keyed)

    async def plan(self) -> list[KeyRange]:
        """One: the partitions of two ends have nothing to do with each other."""
        return [KeyRange()]

    async def compare(self, key_range: KeyRange, tally: Tally) -> RangeResult:
        """Compare everything. Repeatable: whatever the tally holds is forgotten first."""
        tally.forget()
        async with task_group() as group:
            asked = [group.create_task(self._sum(side)) for side in Side]
        source, target = (task.result() for task in asked)
        result = RangeResult(source_rows=sum(source.counts), target_rows=sum(target.counts), tally=tally)
        differing = frozenset(
            bucket
            for bucket in range(_BUCKETS)
            if (source.counts[bucket], source.sums[bucket]) != (target.counts[bucket], target.sums[bucket])
        )
        if differing:
            async with self.narrowing:
                await self._match(differing, tally)
        return result

    @property
    def keys_at_once(self) -> int:
        """An end that cannot be asked for single documents is read as a whole for each call."""
        return _IDS_PER_CALL if self.source.reads_by_id and self.target.reads_by_id else _IDS_PER_SCAN

    async def fetch(self, side: Side, keys: Sequence[Key]) -> Fetched:
        """Documents by id, field by field."""
        found = await self._documents(side).fetch([bytes.fromhex(key) for (key,) in keys])
        rows: dict[Key, Row | None] = {
            (key.hex(),): None if document is None else content_row(document, self._fields)
            for key, document in found.items()
        }
        return Fetched(keys=len(keys), rows=rows)

    async def changed_since(self, keys: Sequence[Key], snapshot: bytes) -> frozenset[Key]:
        """Nobody can tell: any of them may have been."""
        return frozenset(keys)

    async def _sum(self, side: Side) -> _Sums:
        sums = _Sums()
        digest = self._first_digest()
        async with aclosing(self._documents(side).read()) as pages:
            async for documents in pages:
                for document in documents:
                    number = digest(document)
                    bucket = self._bucket(document, number)
                    sums.counts[bucket] += 1
                    sums.sums[bucket] += number
        return sums

    def _first_digest(self) -> Digest:
        """Of the bytes as they are where one engine has written both: ten times as fast as the canonical form.

        Equal bytes are equal content; what differs is looked at again in its canonical form.
        """
        is_plain = self.keyed and not self.pair.drops_columns and self.source.info.db_type == self.target.info.db_type
        return xxhash.xxh3_128_intdigest if is_plain else self._canonical_digest

    def _canonical_digest(self, document: bytes) -> int:
        return int.from_bytes(content_hash(document, self._fields), "big")

    def _bucket(self, document: bytes, number: int) -> int:
        return (xxhash.xxh3_64_intdigest(id_key(document)) if self.keyed else number) % _BUCKETS

    async def _match(self, buckets: frozenset[int], tally: Tally) -> None:
        join = RowJoin(
            tally, keyed=self.keyed, held_bytes=self.options.held_bytes, directory=self.options.spill_directory
        )
        source, target = (self._hashes(side, buckets) for side in Side)
        try:
            async with aclosing(source), aclosing(target):
                await join.feed_in_step(source, target)
                await join.finish()
        finally:
            join.close()

    async def _hashes(self, side: Side, buckets: frozenset[int]) -> AsyncGenerator[list[RowHash], None]:
        async with aclosing(self._documents(side).read()) as pages:
            async for documents in pages:
                yield [row for document in documents if (row := self._hashed(document, buckets)) is not None]

    def _hashed(self, document: bytes, buckets: frozenset[int]) -> RowHash | None:
        if self.keyed:
            key = id_key(document)
            if xxhash.xxh3_64_intdigest(key) % _BUCKETS not in buckets:
                return None
            return RowHash(key=(key.hex(),), hash=content_hash(document, self._fields))
        content = content_hash(document, self._fields)
        if int.from_bytes(content, "big") % _BUCKETS not in buckets:
            return None
        return RowHash(key=(content.hex(),), hash=content)

    def _documents(self, side: Side) -> Documents:
        if side is Side.SOURCE:
            return Documents(end=self.source, namespace=self.pair.source, page_bytes=self.options.page_bytes)
        return Documents(end=self.target, namespace=self.pair.target, page_bytes=self.options.page_bytes)


def _compared_fields(pair: Pair, *, keyed: bool) -> Fields | None:
    """Which fields count; None: all of them."""
    if not pair.is_described:
        return None if keyed else (lambda name: name != _ID)
    return frozenset((*pair.columns, _ID) if keyed else pair.columns).__contains__
