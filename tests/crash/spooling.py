"""A process that spools numbered frames: appends, syncs, follows and trims, and says on stdout what was confirmed.

A script for child processes: DIRECTORY FIRST_CONFIRMED COUNT [options]. It first reads all that is there, and ends with
status 9 where a frame is missing, doubled or wrong; then it appends so many frames, or without end (0). Options: `hold`
stands still once it has the spool, `break-fsync` lets every fsync fail from the tenth confirmation on.
"""

from __future__ import annotations

import asyncio
import random
import sys
from contextlib import aclosing
from pathlib import Path

from dsync.spool import Spool, SpoolFullError
from tests.crash.failing_fsync import break_fsync

WRONG = 9
LIMIT_BYTES = 4 << 20


def order(number: int) -> bytes:
    return number.to_bytes(8, "big")


def content(number: int) -> bytes:
    """Some frames are longer than a segment."""
    size = 100_000 if number % 97 == 0 else random.Random(number).randrange(3000)
    return (b"%016d" % number) * (size // 16)


def check(number: int, found_order: bytes, payload: bytes) -> None:
    if found_order != order(number) or payload != content(number):
        say(f"wrong {number} {found_order.hex()} {len(payload)}")
        sys.exit(WRONG)


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


async def open_spool(directory: Path, confirmed: int) -> Spool:
    return await Spool.open(
        directory,
        flow="crash",
        limit_bytes=LIMIT_BYTES,
        segment_bytes=64 << 10,
        cache_bytes=200_000,
        confirmed=order(confirmed) if confirmed else b"",
    )


async def check_all(spool: Spool) -> int:
    """Every frame that is there; returns the number of the last."""
    number = int.from_bytes(spool.trimmed_order, "big")
    last = int.from_bytes(spool.last_order, "big")
    async with aclosing(spool.read(spool.trimmed_order)) as frames:
        while number < last:
            frame = await anext(frames)
            number += 1
            check(number, frame.order, frame.payload())
    return last


async def write(spool: Spool, start: int, count: int, *, breaks_fsync: bool) -> None:
    chance = random.Random(start)
    number, confirmations = start, 0
    while count == 0 or number < start + count:
        number += 1
        try:
            await spool.append(order(number), [content(number)])
        except SpoolFullError:
            await spool.trim(order(number - 100))
            await spool.room(len(content(number)))
            await spool.append(order(number), [content(number)])
        if chance.random() < 0.2:
            say(f"synced {int.from_bytes(await spool.sync(), 'big')}")
            confirmations += 1
            if breaks_fsync and confirmations == 10:
                break_fsync()
                say("broken")
        if chance.random() < 0.05:
            await spool.trim(order(max(0, number - 200)))
    say(f"synced {int.from_bytes(await spool.sync(), 'big')}")


async def follow(spool: Spool, start: int) -> None:
    async with aclosing(spool.read(order(start) if start else b"")) as frames:
        number = start
        async for frame in frames:
            number += 1
            check(number, frame.order, frame.payload())


async def main() -> None:
    directory, confirmed, count, *options = sys.argv[1:]
    async with await open_spool(Path(directory), int(confirmed)) as spool:
        last = await check_all(spool)
        say(f"opened {last}")
        if "hold" in options:
            await asyncio.Event().wait()
        reader = asyncio.ensure_future(follow(spool, last))
        await write(spool, last, int(count), breaks_fsync="break-fsync" in options)
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)


if __name__ == "__main__":
    asyncio.run(main())
