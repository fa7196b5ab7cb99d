"""What runs beside a block ends with it, and what happens in it is seen."""

from __future__ import annotations

import asyncio

import pytest

from dsync.plugins.supervision import background


async def test_work_ends_with_its_block() -> None:
    """Cancelled and awaited, not left to run on."""
    ended = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with background(work()):
        await asyncio.sleep(0)
    assert ended.is_set()


async def test_the_blocks_error_arrives_as_itself() -> None:
    """A task group would make a group of it, which no caller expects."""
    with pytest.raises(KeyError):
        async with background(asyncio.sleep(60)):
            raise KeyError


async def test_the_works_own_failure_is_seen() -> None:
    """At the end of the block: nobody else would ever ask for it."""

    async def work() -> None:
        raise LookupError

    with pytest.raises(LookupError):
        async with background(work()):
            await asyncio.sleep(0)


async def test_work_may_finish_what_it_is_at() -> None:
    """For as long as it was given, and no longer."""
    done = []

    async def work(steps: int) -> None:
        for step in range(steps):
            done.append(step)
            await asyncio.sleep(0.001)

    async with background(work(5), linger_s=10):
        pass
    assert done == [0, 1, 2, 3, 4]
    async with background(work(10_000), linger_s=0.05):
        pass
    assert len(done) < 5000
