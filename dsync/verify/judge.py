"""Deciding what of the rows that differed is a fault: what persists, and what no write at the source explains."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from dsync.verify.options import Key, VerifyOptions
from dsync.verify.report import Counts, Difference, Kind
from dsync.verify.settle import RowReader, Settled, Settling
from dsync.verify.tally import Found, RangeResult, counts_of, merged_counts, merged_found

Results = dict[int, RangeResult]
"""By the ordinal of the range."""
CompareAgain = Callable[[Sequence[int], Results], Awaitable[None]]
"""Compare these ranges once more and replace their results."""

MOVING = "the source is writing it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """Judges the differing rows of one namespace."""

    namespace: str
    """The source's name."""
    keyed: bool
    options: VerifyOptions
    reader: RowReader
    compare_again: CompareAgain
    on_generation: Callable[[int, int], None]
    """Told how many rows are about to be read again, and for which time."""
    show_key: Callable[[Key], tuple[str, ...]] = lambda key: key
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep

    async def judge(self, results: Results) -> tuple[Counts, list[Difference]]:
        """Exact counts by class, and the rows that are known by name."""
        totals, rows = await (self._settled(results) if self.options.live else self._as_found(results))
        apart = await self._excused(rows)
        counts = _counts(totals, rows, apart, all_apart=self._any_may_have_changed)
        return counts, [self._difference(row, is_apart=row.key in apart) for row in rows]

    # --------------------------------------------------------- what persists

    async def _as_found(self, results: Results) -> tuple[Counts, list[Settled]]:
        """Under a snapshot everything that differs does so for good."""
        found = merged_found(list(results.values()))
        totals = counts_of(merged_counts(results.values()))
        if not self.keyed:
            return totals, [_unread(row) for row in found]
        return totals, await self._settling.name(found)

    async def _settled(self, results: Results) -> tuple[Counts, list[Settled]]:
        """What differs each time it is read again: by key, or where that would be too much by whole ranges."""
        generation = 0
        while generation < self.options.generations:
            differing = [ordinal for ordinal, result in results.items() if not result.is_equal]
            if not differing:
                break
            if self.keyed and all(results[ordinal].tally.is_complete for ordinal in differing):
                left = self.options.generations - generation
                rows = await self._settling.settle(merged_found(list(results.values())), left)
                return _count_rows(rows), rows
            generation += 1
            await self._compare_generation(differing, results, generation)
        return await self._as_found(results)

    async def _compare_generation(self, differing: Sequence[int], results: Results, generation: int) -> None:
        await self.sleep(self.options.settle_delay_s)
        self.on_generation(sum(results[ordinal].tally.total for ordinal in differing), generation)
        before = {ordinal: _counted_by_key(results[ordinal]) for ordinal in differing}
        for ordinal in differing:
            results[ordinal].tally.forget()
        await self.compare_again(differing, results)
        if self.keyed:
            return
        for ordinal in differing:
            _keep_what_persists(results[ordinal], before[ordinal])

    @property
    def _settling(self) -> Settling:
        return Settling(
            reader=self.reader,
            show_values=self.options.show_values,
            named_rows=self.options.max_diffs,
            delay_s=self.options.settle_delay_s,
            sleep=self.sleep,
            on_generation=self.on_generation,
        )

    # ------------------------------------------------- what a write explains

    async def _excused(self, rows: Sequence[Settled]) -> frozenset[Key]:
        """The rows that are no proof of a fault."""
        if self._any_may_have_changed:
            return frozenset(row.key for row in rows)
        moving = frozenset(row.key for row in rows if row.is_moving)
        if not self._is_without_snapshot:
            return moving
        # A row that the source does not have may have been deleted there: nothing of it is left to tell.
        gone = frozenset(row.key for row in rows if row.kind is Kind.EXTRA)
        there = [row.key for row in rows if row.kind is not Kind.EXTRA]
        return moving | gone | await self._written_since(there)

    @property
    def _is_without_snapshot(self) -> bool:
        # What is compared under a snapshot that is held has not changed since, whatever was lost before.
        return self.options.snapshot_lost and self.options.live

    @property
    def _any_may_have_changed(self) -> bool:
        if self.namespace in self.options.changed:
            return True
        return self._is_without_snapshot and not (self.options.lost_snapshot and self.keyed)

    async def _written_since(self, keys: Sequence[Key]) -> frozenset[Key]:
        written: set[Key] = set()
        for start in range(0, len(keys), self.reader.keys_at_once):
            some = keys[start : start + self.reader.keys_at_once]
            written |= await self.reader.changed_since(some, self.options.lost_snapshot)
        return frozenset(written)

    def _difference(self, row: Settled, *, is_apart: bool) -> Difference:
        return Difference(
            kind=row.kind,
            key=self.show_key(row.key),
            rows=row.rows,
            columns=row.columns,
            detail=MOVING if row.is_moving else row.detail,
            changed_since=is_apart,
        )


def _unread(found: Found) -> Settled:
    return Settled(kind=found.kind, key=found.key, rows=found.rows)


def _count_rows(rows: Sequence[Settled]) -> Counts:
    totals = {
        kind: sum(row.rows for row in rows if row.kind is kind) for kind in (Kind.MISSING, Kind.EXTRA, Kind.DIFFERENT)
    }
    return counts_of(totals)


def _counts(totals: Counts, rows: Sequence[Settled], apart: frozenset[Key], *, all_apart: bool) -> Counts:
    """The totals with the excused rows taken out; of rows that are not known by name all are excused or none."""
    if all_apart:
        return Counts(changed_since=totals.faults)
    excused = _count_rows([row for row in rows if row.key in apart])
    return Counts(
        missing=totals.missing - excused.missing,
        extra=totals.extra - excused.extra,
        different=totals.different - excused.different,
        changed_since=excused.faults,
    )


def _counted_by_key(result: RangeResult) -> dict[tuple[Kind, Key], int] | None:
    """None where not all of its rows are remembered."""
    if not result.tally.is_complete:
        return None
    return {(found.kind, found.key): found.rows for found in result.tally.found}


def _keep_what_persists(result: RangeResult, before: dict[tuple[Kind, Key], int] | None) -> None:
    """Without a key a difference is the same one if content and class are; others have come up since, and may go."""
    now = _counted_by_key(result)
    if now is None or before is None:
        return
    result.tally.forget()
    for (kind, key), rows in now.items():
        persisting = min(rows, before.get((kind, key), 0))
        if persisting:
            result.tally.add(kind, key, persisting)
