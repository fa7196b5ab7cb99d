"""How fast the spool takes and gives frames on this disk: `python -m benchmarks.spool [DIRECTORY] [--mib N]`.

Prints figures and judges nothing. Each row is a new spool: frames appended, with a sync behind each or one at the end,
while a reader follows in memory; then all of them read from the disk.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import tempfile
import time
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

from dsync.spool import Spool

_SIZES = (1 << 10, 64 << 10, 2 << 20)
_SYNCED_FRAMES = 300


@dataclass(frozen=True, kw_only=True)
class Speed:
    """One row."""

    frame_bytes: int
    frames: int
    is_synced_each: bool
    write_s: float
    read_s: float

    def __str__(self) -> str:
        total_mb = self.frames * self.frame_bytes / 1e6
        return (
            f"{self.frame_bytes >> 10:>6} KiB  {'each' if self.is_synced_each else 'once':>6}  {self.frames:>7}  "
            f"{total_mb / self.write_s:>9.1f}  {self.frames / self.write_s:>10.0f}  "
            f"{total_mb / self.read_s:>9.1f}  {self.frames / self.read_s:>10.0f}"
        )


def _order(number: int) -> bytes:
    return number.to_bytes(8, "big")


async def _read(spool: Spool, frames: int) -> None:
    async with aclosing(spool.read()) as found:
        for _ in range(frames):
            await anext(found)


async def _measure(directory: Path, frame_bytes: int, frames: int, *, is_synced_each: bool) -> Speed:
    payload = [bytes(range(256)) * (frame_bytes // 256)]
    limit_bytes = 2 * frames * (frame_bytes + 200) + (1 << 20)
    async with await Spool.open(directory, flow="bench", limit_bytes=limit_bytes) as spool:
        started = time.monotonic()
        reader = asyncio.ensure_future(_read(spool, frames))
        for number in range(1, frames + 1):
            await spool.append(_order(number), payload)
            if is_synced_each:
                await spool.sync()
        await spool.sync()
        write_s = time.monotonic() - started
        await reader
    async with await Spool.open(directory, flow="bench", limit_bytes=limit_bytes) as spool:
        started = time.monotonic()
        await _read(spool, frames)
        read_s = time.monotonic() - started
        await spool.remove()
    return Speed(frame_bytes=frame_bytes, frames=frames, is_synced_each=is_synced_each, write_s=write_s, read_s=read_s)


async def _main(directory: Path, total_bytes: int) -> None:
    print(
        f"{'frame':>10}  {'sync':>6}  {'frames':>7}  {'MB/s in':>9}  {'frames/s in':>10}  {'MB/s out':>9}  frames/s out"
    )
    for frame_bytes in _SIZES:
        for is_synced_each in (False, True):
            frames = max(total_bytes // frame_bytes, 1)
            if is_synced_each:
                frames = min(frames, _SYNCED_FRAMES)
            print(await _measure(directory / "spool", frame_bytes, frames, is_synced_each=is_synced_each), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("directory", nargs="?", type=Path, help="on the disk to be measured")
    parser.add_argument("--mib", type=int, default=256, help="how much to write in each row")
    arguments = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="dsync-bench-spool-", dir=arguments.directory))
    try:
        asyncio.run(_main(directory, arguments.mib << 20))
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
