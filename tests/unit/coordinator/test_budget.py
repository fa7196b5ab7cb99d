"""The byte budget: pages in flight never weigh more than it says, and nobody waits for ever."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsync.coordinator.budget import ByteBudget
from dsync.protocol.errors import CapacityError


@settings(deadline=None)
@given(sizes=st.lists(st.integers(1, 100), min_size=1, max_size=30))
def test_every_taker_gets_its_turn_within_the_limit(sizes: list[int]) -> None:
    """However pages are sized, all get through and the sum held never passes the limit."""
    peak = asyncio.run(_use(ByteBudget(100), sizes))
    assert peak <= 100


async def _use(budget: ByteBudget, sizes: list[int]) -> int:
    peak = 0

    async def one(size: int) -> None:
        nonlocal peak
        await budget.take(size)
        peak = max(peak, budget.used_bytes)
        await asyncio.sleep(0)
        budget.give_back(size)

    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        for size in sizes:
            tasks.create_task(one(size))
    assert budget.used_bytes == 0
    return peak


async def test_a_cancelled_waiter_blocks_nobody_behind_it() -> None:
    budget = ByteBudget(10)
    await budget.take(6)
    large = asyncio.create_task(budget.take(10))
    small = asyncio.create_task(budget.take(4))
    await asyncio.sleep(0)
    assert not small.done()

    large.cancel()
    async with asyncio.timeout(5):
        await small
    assert budget.used_bytes == 10


async def test_a_turn_that_came_with_the_cancellation_is_given_back() -> None:
    budget = ByteBudget(10)
    await budget.take(10)
    waiter = asyncio.create_task(budget.take(10))
    await asyncio.sleep(0)
    budget.give_back(10)
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    assert budget.used_bytes == 0


async def test_a_page_heavier_than_expected_makes_the_others_wait() -> None:
    budget = ByteBudget(10)
    await budget.take(4)
    budget.adjust(4, 12)
    waiter = asyncio.create_task(budget.take(1))
    await asyncio.sleep(0)
    assert not waiter.done()
    budget.give_back(12)
    async with asyncio.timeout(5):
        await waiter


async def test_a_page_that_can_never_fit_is_refused_at_once() -> None:
    with pytest.raises(CapacityError, match="--memory-limit"):
        await ByteBudget(10).take(11)
