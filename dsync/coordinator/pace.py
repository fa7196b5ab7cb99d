"""How fast a run may read: rows and bytes a second over all partitions, a rest after each page, and pauses.

What is limited is the load on the source, so a reader waits before it asks, never with a page in its hands. A stream
waits behind each frame, so that its source keeps what comes next.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from dsync.coordinator.control import Control, Rate
from dsync.coordinator.tasks import StoppedError

_SMALLEST_PAGE_BYTES = 64 * 1024


@dataclass(slots=True, kw_only=True)
class Pace:
    """The limits of one run, shared by all of its readers."""

    stopping: asyncio.Event
    rows_per_s: int = 0
    """0: as many as there are."""
    bytes_per_s: int = 0
    pause_ratio: float = 0.0
    """How long a reader rests after a page, as a share of the time that the page took to read."""
    control: Control = field(default_factory=Control)
    """Whether the run is paused, and which rate was asked for since it began."""
    now_s: Callable[[], float] = time.monotonic
    wait_for: Callable[[Awaitable[object], float], Awaitable[object]] = asyncio.wait_for
    _free_at_s: float = field(default=0.0, init=False)
    """When everything that was read is paid for."""
    _paid_by: Rate | None = field(default=None, init=False)
    """The rate that was asked for when that was reckoned."""

    @property
    def rate(self) -> Rate:
        """What holds now."""
        return self.control.rate or Rate(rows_per_s=self.rows_per_s, bytes_per_s=self.bytes_per_s)

    def reader(self, *, row_bytes: int = 0) -> Reader:
        """For one partition; `row_bytes` is what a row is likely to weigh, 0 where nobody knows."""
        return Reader(pace=self, row_bytes=float(row_bytes))

    async def spend(self, rows: int, size_bytes: int) -> None:
        """Something was read that nobody was asked for: wait until it is paid for, or the run is to stop.

        A pause does not count here: what is read waits on the disk.
        """
        self._pay(rows, size_bytes)
        with contextlib.suppress(StoppedError):
            while self._free_at_s > self.now_s():
                await self._until(self._free_at_s)
                self._forgive()

    async def _until(self, moment_s: float) -> None:
        """Raises StoppedError where the run is to stop meanwhile."""
        wait_s = moment_s - self.now_s()
        if wait_s <= 0:
            return
        with contextlib.suppress(TimeoutError):
            await self.wait_for(self.control.until_changed(self.stopping), wait_s)
        if self.stopping.is_set():
            raise StoppedError

    def _forgive(self) -> None:
        """What was read under another rate is not waited for under this one: nobody asks for more and gets it later."""
        if self._paid_by is not self.control.rate:
            self._paid_by = self.control.rate
            self._free_at_s = min(self._free_at_s, self.now_s())

    def _pay(self, rows: int, size_bytes: int) -> None:
        self._forgive()
        rate = self.rate
        cost_s = max(
            rows / rate.rows_per_s if rate.rows_per_s else 0.0,
            size_bytes / rate.bytes_per_s if rate.bytes_per_s else 0.0,
        )
        # Time in which nothing was read is not saved up: a limit is no average over the night.
        self._free_at_s = max(self._free_at_s, self.now_s()) + cost_s


@dataclass(slots=True, kw_only=True)
class Reader:
    """The reads of one partition, one after the other."""

    pace: Pace
    row_bytes: float
    _rested_at_s: float = field(default=0.0, init=False)

    async def ready(self) -> None:
        """Wait until the next page may be asked for.

        Raises:
            StoppedError: the run is to stop; nothing was read.
        """
        while True:
            await self.pace.control.wait_while_paused(self.pace.stopping)
            self.pace._forgive()
            moment_s = max(self.pace._free_at_s, self._rested_at_s)
            if moment_s <= self.pace.now_s():
                return
            await self.pace._until(moment_s)

    def page_bytes(self, most_bytes: int) -> int:
        """What the next page should weigh: no more than may be read in a second, so that load comes evenly."""
        size, rate = float(most_bytes), self.pace.rate
        if rate.bytes_per_s:
            size = min(size, rate.bytes_per_s)
        if rate.rows_per_s:
            size = min(size, rate.rows_per_s * self.row_bytes)
        return min(most_bytes, max(_SMALLEST_PAGE_BYTES, int(size)))

    def took(self, rows: int, size_bytes: int, *, elapsed_s: float) -> None:
        """A page was read in that time."""
        if rows:
            self.row_bytes = size_bytes / rows
        self.pace._pay(rows, size_bytes)
        self._rested_at_s = self.pace.now_s() + elapsed_s * self.pace.pause_ratio
