"""Makes `recorded/FORMAT`, which every later version must read: `python -m tests.unit.spool.record`, once a format."""

from __future__ import annotations

import asyncio
from pathlib import Path

from dsync.spool.layout import FORMAT_VERSION
from tests.unit.spool.support import fill, open_spool, order

RECORDED = Path(__file__).with_name("recorded")
TRIMMED, LAST = 60, 120


async def record(directory: Path) -> None:
    """Several segments, some of them trimmed."""
    async with await open_spool(directory) as spool:
        for start in range(1, LAST, 20):
            await fill(spool, range(start, start + 20))
            await spool.sync()
        await spool.trim(order(TRIMMED))
    (directory / "lock").unlink()


if __name__ == "__main__":
    asyncio.run(record(RECORDED / str(FORMAT_VERSION)))
