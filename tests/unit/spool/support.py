"""Frames by number, and spools small enough that a handful of them fills several segments."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import aclosing
from pathlib import Path

from dsync.spool import Frame, Spool

FLOW = "f3a1"
LIMIT_BYTES = 1 << 20
SEGMENT_BYTES = 4096


def order(number: int) -> bytes:
    return number.to_bytes(4, "big")


def payload(number: int, size_bytes: int = 100) -> bytes:
    """Different for each number, of no pattern that repeats."""
    return (b"%08d|" % number * (size_bytes // 9 + 1))[:size_bytes]


async def open_spool(directory: Path, **options: object) -> Spool:
    settings: dict[str, object] = {"flow": FLOW, "limit_bytes": LIMIT_BYTES, "segment_bytes": SEGMENT_BYTES}
    return await Spool.open(directory, **(settings | options))  # type: ignore[arg-type]


async def fill(spool: Spool, numbers: Sequence[int], size_bytes: int = 100) -> None:
    for number in numbers:
        await spool.append(order(number), [payload(number, size_bytes)])


async def take(spool: Spool, count: int, after: bytes = b"", **options: bool) -> list[Frame]:
    """The next frames after an order."""
    frames: list[Frame] = []
    async with aclosing(spool.read(after, **options)) as found:
        while len(frames) < count:
            frames.append(await anext(found))
    return frames


async def everything(directory: Path, **options: object) -> list[tuple[bytes, bytes]]:
    """All that a spool holds, read from the disk."""
    async with await open_spool(directory, **options) as spool:
        return [(frame.order, frame.payload()) for frame in await take(spool, spool.frames, spool.trimmed_order)]


def expected(numbers: Sequence[int], size_bytes: int = 100) -> list[tuple[bytes, bytes]]:
    return [(order(number), payload(number, size_bytes)) for number in numbers]


def segments(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.spool"))


def damaged(directory: Path, copy: Path, file: str, change: Callable[[bytearray], None]) -> Path:
    """A copy of a spool with one file changed."""
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(directory, copy)
    data = bytearray((copy / file).read_bytes())
    change(data)
    (copy / file).write_bytes(data)
    return copy


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else len(os.listdir("/dev/fd"))
