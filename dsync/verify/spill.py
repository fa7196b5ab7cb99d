"""Rows that wait for their counterpart in a file: cut by a hash of their key, read back one cut at a time.

The file has no name and goes with its process, so that nothing is left behind, however the process ends.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgpack
import xxhash

from dsync.verify.options import Key

CUTS = 256

Chunk = list[tuple[Key, bytes | int]]


class Spill:
    """A file of rows of both sides."""

    def __init__(self, directory: Path | None, *, level: int) -> None:
        self._file = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115 - closed by close(), with the join
        # A cut of a cut is made by another hash, else it would not be divided.
        self._seed = level
        self._chunks: dict[tuple[int, int], list[tuple[int, int]]] = {}

    def write(self, side: int, rows: Mapping[Key, bytes | int]) -> None:
        """Append rows of one side."""
        chunks: dict[int, Chunk] = {}
        for key, value in rows.items():
            chunks.setdefault(self._cut_of(key), []).append((key, value))
        for cut, chunk in sorted(chunks.items()):
            offset = self._file.seek(0, 2)
            packed = msgpack.packb(chunk)
            self._file.write(packed)
            self._chunks.setdefault((side, cut), []).append((offset, len(packed)))

    def cuts(self) -> list[int]:
        """Which cuts have rows, of either side."""
        return sorted({cut for _, cut in self._chunks})

    def read(self, side: int, cut: int) -> Iterator[Chunk]:
        """The rows of one side and cut, in the portions in which they were written."""
        for offset, length in self._chunks.get((side, cut), []):
            self._file.seek(offset)
            yield [(tuple(key), value) for key, value in msgpack.unpackb(self._file.read(length))]

    def close(self) -> None:
        """Give the space back. Repeatable."""
        self._file.close()

    def _cut_of(self, key: Key) -> int:
        return xxhash.xxh3_64_intdigest("\0".join(key).encode(), seed=self._seed) % CUTS
