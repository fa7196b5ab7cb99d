"""Frames made by hand: relations, records as pgoutput sends them, and the requests that carry them."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from dsync.sdk import types

Op = types.Operation
UNSENT = object()
"""A value that an update has not touched and that was not sent."""


def relation(columns: str, *, key: str = "id", namespace: str = "public.t", full: bool = False) -> types.ChangeRelation:
    """A relation of these columns, keyed by these (both with blanks between them)."""
    keys = key.split()
    return types.ChangeRelation(
        namespace=namespace,
        columns=tuple(
            types.ChangeColumn(name=name, key_position=keys.index(name) + 1 if name in keys else 0)
            for name in columns.split()
        ),
        full_old_row=full,
    )


def row(values: Sequence[Any]) -> bytes:
    """TupleData: None is NULL, and everything else the text of it."""
    packed = struct.pack(">H", len(values))
    for value in values:
        if value is UNSENT:
            packed += b"u"
        elif value is None:
            packed += b"n"
        else:
            text = value if isinstance(value, bytes) else str(value).encode()
            packed += b"t" + struct.pack(">I", len(text)) + text
    return packed


@dataclass(kw_only=True)
class Changes:
    """Changes in the order in which they are added."""

    relations: Sequence[types.ChangeRelation]
    operations: list[int] = field(default_factory=list)
    relation_of: list[int] = field(default_factory=list)
    records: list[bytes] = field(default_factory=list)

    def add(self, operation: int, record: bytes, of: int = 0) -> Changes:
        """Any record at all."""
        self.operations.append(operation)
        self.relation_of.append(of)
        self.records.append(record)
        return self

    def insert(self, *values: Any, of: int = 0) -> Changes:
        return self.add(Op.INSERT, b"N" + row(values), of)

    def update(
        self, *values: Any, of: int = 0, key: Sequence[Any] | None = None, old: Sequence[Any] | None = None
    ) -> Changes:
        """An update; `key` has the old key's values with None for other columns, `old` the whole old row."""
        before = b"" if key is None and old is None else (b"O" + row(old) if old is not None else b"K" + row(key or ()))
        lacks = old is None and any(value is UNSENT for value in values)
        is_move = lacks and key is not None
        operation = Op.MOVE if is_move else Op.PARTIAL_UPDATE if lacks else Op.UPDATE
        return self.add(operation, before + b"N" + row(values), of)

    def delete(self, *values: Any, of: int = 0, full: bool = False) -> Changes:
        """A delete, with None for columns that are no part of the key."""
        return self.add(Op.DELETE, (b"O" if full else b"K") + row(values), of)

    def truncate(self, of: int = 0, flags: int = 0) -> Changes:
        return self.add(Op.TRUNCATE, bytes([flags]), of)

    @property
    def frame(self) -> types.ChangeFrame:
        count = len(self.operations)
        return types.ChangeFrame(
            type=types.ChangeType.PG_OUTPUT,
            cursor=b"c",
            transaction=1,
            index=count,
            relations=tuple(self.relations),
            operations=bytes(self.operations),
            relation_of=struct.pack(f"<{count}H", *self.relation_of),
            key_hashes=bytes(8 * count),
            sizes=struct.pack(f"<{count}I", *map(len, self.records)),
            body=b"".join(self.records),
        )
