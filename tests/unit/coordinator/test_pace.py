"""Limits on what is read in a second, with a clock of the test's own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsync.coordinator.control import Control, Rate
from dsync.coordinator.pace import Pace
from dsync.coordinator.tasks import StoppedError

KIB = 1024


class Clock:
    """Time passes only where somebody waits, or a read takes some."""

    def __init__(self) -> None:
        self.s = 1000.0

    def __call__(self) -> float:
        return self.s

    async def wait_for(self, waited: Awaitable[object], timeout_s: float) -> object:
        asyncio.ensure_future(waited).cancel()
        self.s += timeout_s
        raise TimeoutError


def pace_of(clock: Clock, **limits: float) -> Pace:
    return Pace(stopping=asyncio.Event(), now_s=clock, wait_for=clock.wait_for, **limits)  # type: ignore[arg-type]


@given(
    pages=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 500), st.integers(0, 5000)), min_size=1, max_size=40),
    rows_per_s=st.integers(0, 1000),
    bytes_per_s=st.integers(0, 10_000),
)
def test_no_more_is_read_than_the_limits_allow(
    pages: list[tuple[int, int, int]], rows_per_s: int, bytes_per_s: int
) -> None:
    """Over all readers, from any moment to any later one, one page beyond the limit at most."""

    async def read() -> list[tuple[float, int, int]]:
        clock = Clock()
        pace = pace_of(clock, rows_per_s=rows_per_s, bytes_per_s=bytes_per_s)
        readers = [pace.reader() for _ in range(4)]
        seen = []
        for number, rows, size_bytes in pages:
            await readers[number].ready()
            seen.append((clock.s, rows, size_bytes))
            readers[number].took(rows, size_bytes, elapsed_s=0.0)
        return seen

    seen = asyncio.run(read())
    for first in range(len(seen)):
        for last in range(first + 1, len(seen)):
            elapsed_s = seen[last][0] - seen[first][0]
            # The last page is paid for afterwards.
            before = seen[first:last]
            assert not rows_per_s or sum(rows for _, rows, _ in before) <= rows_per_s * elapsed_s + 1e-6
            assert not bytes_per_s or sum(size for _, _, size in before) <= bytes_per_s * elapsed_s + 1e-6


async def test_without_limits_nobody_waits() -> None:
    clock = Clock()
    reader = pace_of(clock).reader()
    for _ in range(10):
        await reader.ready()
        reader.took(10_000, 4 * KIB * KIB, elapsed_s=2.0)
    assert clock.s == 1000.0


async def test_idle_time_is_not_saved_up() -> None:
    clock = Clock()
    reader = pace_of(clock, rows_per_s=100).reader()
    clock.s += 3600
    reader.took(200, 1, elapsed_s=0.0)
    await reader.ready()
    assert clock.s == 1000.0 + 3600 + 2


async def test_a_reader_rests_in_proportion_to_its_own_page() -> None:
    clock = Clock()
    pace = pace_of(clock, pause_ratio=0.5)
    tired, fresh = pace.reader(), pace.reader()
    tired.took(1, 1, elapsed_s=4.0)
    await fresh.ready()
    assert clock.s == 1000.0
    await tired.ready()
    assert clock.s == 1002.0


async def test_pages_are_no_larger_than_what_a_second_may_read() -> None:
    clock = Clock()
    assert pace_of(clock).reader().page_bytes(4096 * KIB) == 4096 * KIB
    assert pace_of(clock, bytes_per_s=500_000).reader().page_bytes(4096 * KIB) == 500_000
    assert pace_of(clock, bytes_per_s=1000).reader().page_bytes(4096 * KIB) == 64 * KIB
    reader = pace_of(clock, rows_per_s=1000).reader(row_bytes=200)
    assert reader.page_bytes(4096 * KIB) == 200_000
    reader.took(10, 10_000, elapsed_s=0.0)
    assert reader.page_bytes(4096 * KIB) == 1_000_000


async def test_who_waits_ends_at_once_when_the_run_is_to_stop() -> None:
    pace = Pace(stopping=asyncio.Event(), rows_per_s=1)
    reader = pace.reader()
    reader.took(1_000_000, 1, elapsed_s=0.0)
    waiting = asyncio.create_task(reader.ready())
    await asyncio.sleep(0)
    pace.stopping.set()
    with pytest.raises(StoppedError):
        async with asyncio.timeout(30):
            await waiting


async def test_another_rate_counts_at_once_for_whoever_waits() -> None:
    """Nobody waits out what the old one had made of a large page; from then on the new one holds."""
    control, clock = Control(), Clock()
    pace = Pace(stopping=asyncio.Event(), rows_per_s=1, control=control)
    reader = pace.reader()
    reader.took(1_000_000, 1, elapsed_s=0.0)
    waiting = asyncio.create_task(reader.ready())
    await asyncio.sleep(0)
    assert not waiting.done()
    control.limit(Rate(rows_per_s=50))
    async with asyncio.timeout(30):
        await waiting

    limited = Pace(
        stopping=asyncio.Event(), rows_per_s=1, control=control, now_s=clock, wait_for=clock.wait_for
    ).reader()
    limited.took(100, 1, elapsed_s=0.0)
    await limited.ready()
    assert clock.s == 1002.0
    control.limit(Rate())
    limited.took(10**9, 1, elapsed_s=0.0)
    await limited.ready()
    assert clock.s == 1002.0


async def test_a_reader_asks_for_nothing_while_the_run_is_paused() -> None:
    """Until it goes on."""
    control = Control()
    reader = Pace(stopping=asyncio.Event(), control=control).reader()
    control.pause()
    waiting = asyncio.create_task(reader.ready())
    for _ in range(5):
        await asyncio.sleep(0)
    assert not waiting.done()
    control.resume()
    async with asyncio.timeout(30):
        await waiting


async def test_a_run_that_is_paused_and_to_stop_stops() -> None:
    """Also where it is to stop before it is paused."""
    for is_stopped_first in (False, True):
        control, stopping = Control(), asyncio.Event()
        control.pause()
        if is_stopped_first:
            stopping.set()
        waiting = asyncio.create_task(control.wait_while_paused(stopping))
        await asyncio.sleep(0)
        stopping.set()
        with pytest.raises(StoppedError):
            async with asyncio.timeout(30):
                await waiting


async def test_a_stream_waits_behind_what_it_was_given() -> None:
    """So that no more comes in the long run than the limit allows; a pause does not hold what goes to the disk."""
    clock, control = Clock(), Control()
    pace = pace_of(clock, rows_per_s=10, bytes_per_s=1000)
    pace.control = control
    control.pause()
    await pace.spend(50, 100)
    assert clock.s == 1005
    await pace.spend(0, 2000)
    assert clock.s == 1007
    pace.stopping.set()
    await pace.spend(50, 0)
