"""Comparing a namespace where the data is: sums per range, then per bucket, then hashes of the few rows that differ."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from dsync.coordinator.tasks import task_group
from dsync.protocol.errors import CapacityError, UnsupportedError
from dsync.protocol.interface import Connector
from dsync.protocol.types import Bucket, ChecksumRequest, KeyRange, RowHash, RowsRequest, TextRow
from dsync.verify.algorithm import Algorithm
from dsync.verify.ends import VerifyEnd
from dsync.verify.join import RowJoin, Side
from dsync.verify.options import Key, VerifyOptions
from dsync.verify.pairing import Pair
from dsync.verify.settle import Fetched, Row
from dsync.verify.tally import RangeResult, Tally

_ROWS_PER_BUCKET = 1000
_MOST_BUCKETS = 65536
"""Of one answer, which then weighs less than 2 MiB."""
_MOST_DIVISIONS = 1 << 30
_KEYS_PER_CALL = 100
_ROWS_CALL_BYTES = 4 * 1024 * 1024
_SMALL_TABLE_BYTES = 16 * 1024 * 1024

Differing = dict[int, tuple[int, int]]
"""Bucket → rows at the source and at the target."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PushedDown:
    """One namespace of two ends that compute the same checksums."""

    pair: Pair
    source: VerifyEnd
    target: VerifyEnd
    options: VerifyOptions
    algorithm: Algorithm
    narrowing: asyncio.Semaphore
    """One range at a time is taken apart row by row: what waits in memory is that of one."""

    async def plan(self) -> list[KeyRange]:
        """The ranges to compare, which together hold every row."""
        is_small = self.pair.size_bytes < _SMALL_TABLE_BYTES
        if not self.pair.can_be_cut or (is_small and self.pair.estimated_rows < self.options.rows_per_range):
            return [KeyRange()]
        ranges = await self.source.connector.plan_ranges(self.pair.source, self.pair.key, self.options.rows_per_range)
        return ranges or [KeyRange()]

    async def compare(self, key_range: KeyRange, tally: Tally) -> RangeResult:
        """Compare one range. Repeatable: whatever the tally holds is forgotten first."""
        while True:
            used = self.algorithm.name
            tally.forget()
            try:
                return await self._compare(key_range, tally, used)
            except UnsupportedError as exc:
                self.algorithm.fall_back(used, exc)

    async def _compare(self, key_range: KeyRange, tally: Tally, algorithm: str) -> RangeResult:
        request = ChecksumRequest(
            namespace="",
            columns=self.pair.columns,
            key=self.pair.key,
            range=key_range,
            buckets=self._first_buckets(key_range),
            algorithm=algorithm,
        )
        source, target = await self._sums(request)
        result = RangeResult(source_rows=_rows(source), target_rows=_rows(target), tally=tally)
        differing = _differing(source, target)
        if differing:
            async with self.narrowing:
                await self._narrow(request, differing, result, tally)
        return result

    def _first_buckets(self, key_range: KeyRange) -> int:
        """A range is small enough to be scanned again; a whole table is divided in its first scan."""
        if key_range != KeyRange() or self.pair.estimated_rows <= self.options.pulled_rows:
            return 1
        return min(_MOST_BUCKETS, _power_of_two(self.pair.estimated_rows // self._rows_per_bucket))

    @property
    def _rows_per_bucket(self) -> int:
        return min(_ROWS_PER_BUCKET, self.options.pulled_rows)

    async def _sums(self, request: ChecksumRequest) -> tuple[list[Bucket], list[Bucket]]:
        async with task_group() as group:
            asked = [
                group.create_task(self._connector(side).get_checksum(self._addressed(side, request))) for side in Side
            ]
        return asked[Side.SOURCE].result(), asked[Side.TARGET].result()

    async def _narrow(self, request: ChecksumRequest, differing: Differing, result: RangeResult, tally: Tally) -> None:
        """Divide what differs while that helps, then match the rows that are left."""
        before = 0
        while True:
            lonely = {bucket: rows for bucket, rows in differing.items() if 0 in rows}
            await self._count_lonely(request, lonely, tally)
            shared = {bucket: rows for bucket, rows in differing.items() if bucket not in lonely}
            rows = sum(map(max, shared.values()))
            # Dividing does not help where everything differs, or where one content makes up the bucket.
            finer = None if before and rows > before // 2 else self._finer(request, shared, rows)
            if finer is None:
                break
            source, target = await self._sums(finer)
            request, differing, before = finer, _differing(source, target), rows
        if shared:
            is_everything = sum(rows for rows, _ in shared.values()) == result.source_rows
            is_everything &= sum(rows for _, rows in shared.values()) == result.target_rows
            only = () if is_everything else tuple(shared)
            buckets = 1 if is_everything else request.buckets
            await self._match(replace(request, buckets=buckets, only_buckets=only), tally)

    def _finer(self, request: ChecksumRequest, differing: Differing, rows: int) -> ChecksumRequest | None:
        """The same rows in more buckets; None where there are few enough, or no more buckets to be had."""
        if rows <= self.options.pulled_rows:
            return None
        factor = _power_of_two(rows // self._rows_per_bucket // len(differing))
        while factor > 1 and (len(differing) * factor > _MOST_BUCKETS or request.buckets * factor > _MOST_DIVISIONS):
            factor //= 2
        if factor < 2:
            return None
        buckets = request.buckets * factor
        if request.buckets == 1:
            return replace(request, buckets=buckets)
        # A hash modulo a multiple of the old divisor leaves the old bucket plus a multiple of that divisor.
        only = tuple(bucket + request.buckets * part for bucket in differing for part in range(factor))
        return replace(request, buckets=buckets, only_buckets=only)

    async def _count_lonely(self, request: ChecksumRequest, lonely: Differing, tally: Tally) -> None:
        """Buckets that one end has nothing in are counted already; what is listed of them is asked for by name."""
        for side in Side:
            buckets = {bucket: rows for bucket, rows in lonely.items() if rows[side]}
            tally.count(side.lonely, sum(rows[side] for rows in buckets.values()))
            if not buckets or not tally.has_room():
                continue
            asked = self._addressed(side, replace(request, only_buckets=tuple(buckets)))
            async with aclosing(_batches(self._connector(side), asked)) as batches:
                async for batch in batches:
                    for row in batch:
                        tally.note(side.lonely, row.key, row.count)
                    if not tally.has_room():
                        break

    async def _match(self, request: ChecksumRequest, tally: Tally) -> None:
        """Both ends in step, a batch of each at a time, so that counterparts meet soon."""
        join = RowJoin(
            tally,
            keyed=bool(request.key),
            held_bytes=self.options.held_bytes,
            directory=self.options.spill_directory,
        )
        source, target = (_batches(self._connector(side), self._addressed(side, request)) for side in Side)
        try:
            async with aclosing(source), aclosing(target):
                await join.feed_in_step(source, target)
                await join.finish()
        finally:
            join.close()

    @property
    def keys_at_once(self) -> int:
        """By the average weight of a row; heavier ones come in smaller portions."""
        return max(1, min(_KEYS_PER_CALL, _ROWS_CALL_BYTES // max(1, self.pair.row_bytes)))

    async def fetch(self, side: Side, keys: Sequence[Key]) -> Fetched:
        """The rows of as many of the keys as travel together."""
        some = tuple(keys)
        while True:
            try:
                return Fetched(keys=len(some), rows=await self._rows(side, some))
            except CapacityError:
                if len(some) == 1:
                    return Fetched(keys=1, rows={some[0]: None})
                some = some[: max(1, len(some) // 4)]

    async def changed_since(self, keys: Sequence[Key], snapshot: bytes) -> frozenset[Key]:
        """As the source says; a row that it does not have any more was deleted."""
        asked = RowsRequest(namespace=self.pair.source, columns=(), key=self.pair.key, keys=tuple(keys))
        there = map(_as_key, await self.source.connector.get_rows(asked))
        written = map(_as_key, await self.source.connector.get_rows(replace(asked, changed_since=snapshot)))
        return frozenset(keys).difference(there).union(written)

    async def _rows(self, side: Side, keys: tuple[Key, ...]) -> dict[Key, Row]:
        request = RowsRequest(namespace=self._namespace(side), columns=self.pair.columns, key=self.pair.key, keys=keys)
        width = len(self.pair.key)
        return {
            _as_key(row[:width]): dict(zip(self.pair.columns, row[width:], strict=True))
            for row in await self._connector(side).get_rows(request)
        }

    def _addressed(self, side: Side, request: ChecksumRequest) -> ChecksumRequest:
        return replace(request, namespace=self._namespace(side))

    def _namespace(self, side: Side) -> str:
        return self.pair.source if side is Side.SOURCE else self.pair.target

    def _connector(self, side: Side) -> Connector:
        return self.source.connector if side is Side.SOURCE else self.target.connector


def _differing(source: Sequence[Bucket], target: Sequence[Bucket]) -> Differing:
    theirs = {bucket.bucket: bucket for bucket in target}
    differing: Differing = {}
    for bucket in source:
        other = theirs.pop(bucket.bucket, None)
        if other is None:
            other = Bucket(bucket=bucket.bucket, count=0, sum=0)
        if (bucket.count, bucket.sum) != (other.count, other.sum):
            differing[bucket.bucket] = (bucket.count, other.count)
    differing.update({bucket.bucket: (0, bucket.count) for bucket in theirs.values() if bucket.count})
    return differing


def _as_key(values: TextRow) -> Key:
    return tuple(value or "" for value in values)


def _rows(buckets: Sequence[Bucket]) -> int:
    return sum(bucket.count for bucket in buckets)


def _power_of_two(at_least: int) -> int:
    return 1 << max(0, at_least - 1).bit_length()


async def _batches(connector: Connector, request: ChecksumRequest) -> AsyncGenerator[list[RowHash], None]:
    """A generator, whatever the connector gives, so that it can be closed before its end."""
    batches = connector.get_row_hashes(request)
    try:
        async for batch in batches:
            yield batch
    finally:
        close = getattr(batches, "aclose", None)
        if close is not None:
            await close()
