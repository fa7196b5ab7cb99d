"""Comparing one namespace: its ranges, what settles when it is read again, and the report."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from dsync.coordinator.retries import Retries
from dsync.coordinator.tasks import task_group
from dsync.protocol.types import KeyRange
from dsync.verify.events import EventHandler, RowsCompared, RowsSettling
from dsync.verify.join import Side
from dsync.verify.judge import Judge, Results
from dsync.verify.options import Key, VerifyOptions
from dsync.verify.pairing import Pair
from dsync.verify.progress import NamespaceProgress
from dsync.verify.report import Method, NamespaceReport, first_of
from dsync.verify.settle import Fetched, RowReader
from dsync.verify.tally import RangeResult, Room, Tally


class Comparison(RowReader, Protocol):
    """A way to compare a namespace."""

    async def plan(self) -> list[KeyRange]:
        """The ranges to compare, which together hold every row."""
        ...

    async def compare(self, key_range: KeyRange, tally: Tally) -> RangeResult:
        """Compare one range; repeatable."""
        ...


async def at_once() -> None:
    """Nobody asks to wait."""


@dataclass(slots=True, kw_only=True)
class NamespaceVerifier:
    """The work on one namespace."""

    pair: Pair
    comparison: Comparison
    method: Method
    key: tuple[str, ...]
    """Names for what identifies a row, for the report."""
    keyed: bool
    """False: a row is identified by its content."""
    options: VerifyOptions
    progress: NamespaceProgress
    slots: asyncio.Semaphore
    """How many ranges are compared at a time, over all namespaces."""
    retries: Retries
    emit: EventHandler
    show_key: Callable[[Key], tuple[str, ...]] = lambda key: key
    ready: Callable[[], Awaitable[None]] = at_once
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    clock: Callable[[], float] = time.monotonic
    _room: Room = field(init=False)

    def __post_init__(self) -> None:
        self._room = Room(left=self.options.listed_rows)

    async def run(self) -> NamespaceReport:
        """Compare it, and say what differs."""
        started_at = self.clock()
        ranges = await self._ranges()
        results = await self._compare_all(ranges)
        counts, rows = await self._judge(ranges).judge(results)
        return NamespaceReport(
            source=self.pair.source,
            target=self.pair.target,
            method=self.method,
            source_rows=sum(result.source_rows for result in results.values()),
            target_rows=sum(result.target_rows for result in results.values()),
            key=self.key,
            counts=counts,
            differences=(*self.pair.differences, *first_of(rows, self.options.max_diffs)),
            notes=self.pair.notes,
            elapsed_s=self.clock() - started_at,
        )

    async def _ranges(self) -> list[KeyRange]:
        """Those of an interrupted life where they are still good, else new ones."""
        ranges = await self.progress.load()
        if ranges is None:
            ranges = await self.retries.call("planning key ranges", self.comparison.plan, namespace=self.pair.source)
            await self.progress.begin(ranges)
        return ranges

    async def _compare_all(self, ranges: Sequence[KeyRange]) -> Results:
        results = self.progress.finished(self._room)
        for result in results.values():
            self._tell(result, resumed=True)
        left = [ordinal for ordinal in range(len(ranges)) if ordinal not in results]
        await self._compare_some(ranges, left, results, on_result=self._tell)
        return dict(sorted(results.items()))

    async def _compare_some(
        self,
        ranges: Sequence[KeyRange],
        ordinals: Sequence[int],
        results: Results,
        *,
        on_result: Callable[[RangeResult], None] = lambda result: None,
    ) -> None:
        """Compare these ranges, several at a time, and put what they give into `results`."""
        todo = iter(ordinals)

        async def work() -> None:
            for ordinal in todo:
                async with self.slots:
                    await self.ready()
                    results[ordinal] = await self._compare_one(ranges[ordinal])
                # A range that differs while it is written to is not finished before its rows have settled.
                if results[ordinal].is_equal or not self.options.live:
                    await self.progress.save(ordinal, results[ordinal])
                on_result(results[ordinal])

        async with task_group() as group:
            for _ in range(min(self.options.parallel, len(ordinals))):
                group.create_task(work())

    async def _compare_one(self, key_range: KeyRange) -> RangeResult:
        tally = Tally(room=self._room)
        return await self.retries.call(
            "comparing a range", lambda: self.comparison.compare(key_range, tally), namespace=self.pair.source
        )

    @property
    def keys_at_once(self) -> int:
        """As the comparison says."""
        return self.comparison.keys_at_once

    async def fetch(self, side: Side, keys: Sequence[Key]) -> Fetched:
        """As the comparison does, repeated where that can help."""
        return await self.retries.call(
            "reading rows again", lambda: self.comparison.fetch(side, keys), namespace=self.pair.source
        )

    async def changed_since(self, keys: Sequence[Key], snapshot: bytes) -> frozenset[Key]:
        """As the comparison does, repeated where that can help."""
        return await self.retries.call(
            "asking what was written since the copy",
            lambda: self.comparison.changed_since(keys, snapshot),
            namespace=self.pair.source,
        )

    def _judge(self, ranges: Sequence[KeyRange]) -> Judge:
        async def compare_again(ordinals: Sequence[int], results: Results) -> None:
            await self._compare_some(ranges, ordinals, results)

        def tell(rows: int, generation: int) -> None:
            self.emit(RowsSettling(namespace=self.pair.source, rows=rows, generation=generation))

        return Judge(
            namespace=self.pair.source,
            keyed=self.keyed,
            options=self.options,
            reader=self,
            compare_again=compare_again,
            on_generation=tell,
            show_key=self.show_key,
            sleep=self.sleep,
        )

    def _tell(self, result: RangeResult, *, resumed: bool = False) -> None:
        rows, estimated = result.source_rows, self.pair.estimated_rows
        self.emit(RowsCompared(namespace=self.pair.source, rows=rows, estimated_rows=estimated, resumed=resumed))
