"""Where a partition lies and where reading it goes on: versioned msgpack, understood here only.

A partition does not name its snapshot but the *lineage* of plans it belongs to: when a snapshot is lost and what was
copied has provably not changed, the partition stays valid under the new snapshot of its lineage.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgpack

from dsync.sdk import errors

_VERSION = 1

Tid = tuple[int, int]
"""Block and offset of a row (ctid); offset 0 lies before every row of its block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionCursor:
    """A range of blocks of one table, as planned."""

    lineage: bytes
    oid: int
    filenode: int
    """The file that the blocks are in: another one later means that the table was rewritten."""
    columns: bytes
    """Fingerprint of the table's columns."""
    start_block: int
    end_block: int | None
    """The first block beyond; None: up to the table's end, wherever that is."""
    density: int
    """How many bytes a block is expected to give."""

    def encode(self) -> bytes:
        """The form that travels."""
        return _pack(
            self.lineage,
            self.oid,
            self.filenode,
            self.columns,
            self.start_block,
            self.end_block,
            self.density,
        )

    @classmethod
    def decode(cls, data: bytes) -> PartitionCursor:
        """The inverse of `encode`.

        Raises:
            RequestError: these bytes are not a partition of this connector.
        """
        lineage, oid, filenode, columns, start_block, end_block, density = _unpack(data, 7, "partition")
        return cls(
            lineage=lineage,
            oid=oid,
            filenode=filenode,
            columns=columns,
            start_block=start_block,
            end_block=end_block,
            density=density,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PageCursor:
    """Where the next page begins, with what the page before it has taught about sizes.

    The estimates travel in the cursor, so that asking twice with one cursor gives the same page.
    """

    start: Tid
    density: int
    """Bytes that a block gave."""
    inflation: int = 1000
    """Bytes that came, in thousandths of what the server's cheap estimate had said."""

    def encode(self) -> bytes:
        """The form that travels."""
        return _pack(self.start[0], self.start[1], self.density, self.inflation)

    @classmethod
    def decode(cls, data: bytes, partition: PartitionCursor) -> PageCursor:
        """The inverse of `encode`; empty bytes are the partition's start.

        Raises:
            RequestError: these bytes are not a cursor of this connector.
        """
        if not data:
            return cls(start=(partition.start_block, 0), density=partition.density)
        block, offset, density, inflation = _unpack(data, 4, "cursor")
        return cls(start=(block, offset), density=density, inflation=inflation)


def _pack(*fields: object) -> bytes:
    packed: bytes = msgpack.packb([_VERSION, *fields])
    return packed


def _unpack(data: bytes, count: int, what: str) -> list[Any]:
    try:
        fields = msgpack.unpackb(data)
    except (ValueError, msgpack.UnpackException) as exc:
        raise errors.RequestError(f"reading a page: its {what} was not issued by this connector") from exc
    if not isinstance(fields, list) or not fields or fields[0] != _VERSION or len(fields) != count + 1:
        raise errors.RequestError(
            f"reading a page: its {what} was not issued by this connector, or by another version of it; plan again"
        )
    return fields[1:]
