"""Parts of a large transaction on disk, until it has committed: one file each, in checksummed blocks.

It is scratch: after a crash the server sends everything again, so nothing is synced, and a damaged block means no more
than beginning the stream again.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import xxhash

from dsync_postgres.stream.errors import SpillError

_BLOCK = struct.Struct("<IQ")
_SIZE = struct.Struct("<I")
_BLOCK_BYTES = 256 * 1024


class SpillFile:
    """Messages of one transaction in the order in which they came."""

    def __init__(self, path: Path) -> None:
        """Nothing is written before the first block is full or `flush` is called."""
        self.path = path
        self.size_bytes = 0
        """How much of it is on disk."""
        self._pieces: list[bytes] = []
        self._pending_bytes = 0

    def append(self, data: bytes) -> None:
        """Add a message.

        Raises:
            SpillError: the disk took no more.
        """
        self._pieces += (_SIZE.pack(len(data)), data)
        self._pending_bytes += len(data) + _SIZE.size
        if self._pending_bytes >= _BLOCK_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what is in memory, so that a transaction that waits costs none."""
        if not self._pieces:
            return
        block = b"".join(self._pieces)
        try:
            with self.path.open("ab") as file:
                file.write(_BLOCK.pack(len(block), xxhash.xxh3_64_intdigest(block)))
                file.write(block)
        except OSError as exc:
            raise SpillError(
                f"setting a large transaction aside in {self.path.parent}: {exc.strerror or exc}; it is tried again; "
                "free space there"
            ) from exc
        self.size_bytes += len(block) + _BLOCK.size
        self._pieces, self._pending_bytes = [], 0

    def read(self) -> Iterator[bytes]:
        """Every message, a block in memory at a time.

        Raises:
            SpillError: the file is not what was written; the stream has to begin again.
        """
        self.flush()
        if not self.size_bytes:
            return
        try:
            with self.path.open("rb") as file:
                left = self.size_bytes
                while left:
                    size, checksum = _BLOCK.unpack(file.read(_BLOCK.size))
                    block = file.read(size)
                    if len(block) != size or xxhash.xxh3_64_intdigest(block) != checksum:
                        raise ValueError("checksum")
                    left -= size + _BLOCK.size
                    yield from _messages(block)
        except (OSError, ValueError, struct.error) as exc:
            raise SpillError(
                f"reading a large transaction back from {self.path.parent}: the file is not as it was written; the "
                "server sends the transaction again; look at that disk if it persists"
            ) from exc

    def remove(self) -> None:
        """Let go of the disk's space. Repeatable."""
        self._pieces, self._pending_bytes = [], 0
        self.path.unlink(missing_ok=True)


def _messages(block: bytes) -> Iterator[bytes]:
    position = 0
    while position < len(block):
        (size,) = _SIZE.unpack_from(block, position)
        yield block[position + _SIZE.size : position + _SIZE.size + size]
        position += _SIZE.size + size
