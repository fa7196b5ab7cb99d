"""Looking into the records of change frames, which nobody does on the way: only what was refused is looked at."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from google.protobuf.message import DecodeError

from dsync.protocol import frames
from dsync.protocol._gen.adiom.v1 import adiom_pb2 as adiom
from dsync.protocol.convert.values import update_from_pb
from dsync.protocol.types import ChangeFrame, ChangeRelation, ChangeType, Update


@dataclass(frozen=True, slots=True)
class Unsent:
    """Stands for a value that has not changed and did not travel."""


UNSENT: Final = Unsent()

Value = bytes | None | Unsent
Row = tuple[Value, ...]

_NEW, _OLD = ord("N"), (ord("K"), ord("O"))
_TEXT, _NULL, _UNCHANGED = ord("t"), ord("n"), ord("u")


def rows_of(frame: ChangeFrame, index: int) -> tuple[Row | None, Row | None]:
    """The old row, or its key, and the new one of a record of PG_OUTPUT.

    Raises ValueError where it is none.
    """
    data = bytes(frames.cut(frame, index, index + 1).body)
    old: Row | None = None
    try:
        position = 0
        if data[position] in _OLD:
            old, position = _row(data, position + 1)
            if position == len(data):
                return old, None
        if data[position] != _NEW:
            raise ValueError("a record of a change begins with no row")
        return old, _row(data, position + 1)[0]
    except (IndexError, struct.error) as exc:
        raise ValueError("a record of a change is cut short") from exc


def update_of(frame: ChangeFrame, index: int) -> Update:
    """The record of a change of BSON or JSON. Raises DecodeError where it is none."""
    return update_from_pb(adiom.Update.FromString(bytes(frames.cut(frame, index, index + 1).body)))


def _row(data: bytes, position: int) -> tuple[Row, int]:
    (count,) = struct.unpack_from(">H", data, position)
    position += 2
    values: list[Value] = []
    for _ in range(count):
        mark = data[position]
        position += 1
        if mark == _TEXT:
            (size,) = struct.unpack_from(">I", data, position)
            values.append(data[position + 4 : position + 4 + size])
            position += 4 + size
        elif mark in (_NULL, _UNCHANGED):
            values.append(None if mark == _NULL else UNSENT)
        else:
            raise ValueError("a record of a change has a value of no known kind")
    return tuple(values), position


def keys_of_record(frame: ChangeFrame, index: int) -> tuple[bytes, bytes]:
    """The old key and the new one of a change, each as bytes that only the same key has; empty: it has none.

    Keys that are equal in other words (1.0 and 1.00) may have other bytes.
    """
    try:
        if frame.type is ChangeType.PG_OUTPUT:
            return _keys_of_rows(frame, index)
        update = update_of(frame, index)
    except (DecodeError, ValueError):
        return b"", b""
    key = b"".join(_measured(b"%d " % value.type + value.name.encode() + b" " + value.data) for value in update.id)
    return key, key


def _keys_of_rows(frame: ChangeFrame, index: int) -> tuple[bytes, bytes]:
    relation = frame.relations[frames.relation_numbers(frame)[index]]
    old, new = rows_of(frame, index)
    before = _key(relation, old, old)
    return before or _key(relation, new, old), _key(relation, new, old) or before


def _key(relation: ChangeRelation, row: Row | None, old: Row | None) -> bytes:
    """A key that was not sent has not changed, and then the old one was."""
    if row is None:
        return b""
    parts = []
    for place, column in enumerate(relation.columns):
        if not column.key_position:
            continue
        value = row[place]
        if value is UNSENT and old is not None:
            value = old[place]
        if not isinstance(value, bytes):
            # A key without value says nothing, and neither does one that was not sent.
            return b""
        parts.append(_measured(value))
    return b"".join(parts)


def _measured(part: bytes) -> bytes:
    return len(part).to_bytes(8) + part
