"""Binary COPY pages written by hand, and the columns they belong to."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER = b"\xff\xff"


@dataclass(frozen=True, kw_only=True)
class TableColumn:
    """What the mapping asks of a column."""

    name: str
    type: str
    key_position: int = 0


def table(**types: str) -> list[TableColumn]:
    """Columns by name and type, the first of them the key."""
    return [
        TableColumn(name=name, type=printed, key_position=int(position == 0))
        for position, (name, printed) in enumerate(types.items())
    ]


def copy_page(rows: Iterable[Sequence[bytes | None]]) -> bytes:
    """A complete binary COPY stream of these fields."""
    return HEADER + b"".join(map(_row, rows)) + TRAILER


def _row(fields: Sequence[bytes | None]) -> bytes:
    parts = [struct.pack(">h", len(fields))]
    for field in fields:
        parts.append(struct.pack(">i", -1) if field is None else struct.pack(">i", len(field)) + field)
    return b"".join(parts)


def fields_of(page: bytes) -> list[list[bytes | None]]:
    """The fields of each row of a binary COPY stream."""
    assert page.startswith(HEADER)
    assert page.endswith(TRAILER)
    rows: list[list[bytes | None]] = []
    position = len(HEADER)
    while position < len(page) - 2:
        (count,) = struct.unpack_from(">h", page, position)
        position += 2
        row: list[bytes | None] = []
        for _ in range(count):
            (length,) = struct.unpack_from(">i", page, position)
            position += 4
            row.append(None if length < 0 else page[position : position + length])
            position += max(0, length)
        rows.append(row)
    assert position == len(page) - 2
    return rows
