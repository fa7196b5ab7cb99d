"""The records of a frame of type PG_OUTPUT: what follows a relation's id in pgoutput's messages.

A value stays the bytes that the source has sent, its server's own text. NULL is None; what the source has not sent,
because an update has not touched it, is `UNSENT`.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from dsync.sdk import errors

Value = bytes | None
Values = Sequence[Value]
"""One for each column of the relation."""

UNSENT = bytes(bytearray(b"not sent"))
"""Stands for an unchanged value that did not travel; an object of its own, told from every value by identity."""

CASCADE, RESTART_IDENTITY = 1, 2
"""Flags of the one byte that a TRUNCATE's record is."""

_NEW, _OLD_KEY, _OLD_FULL = ord("N"), ord("K"), ord("O")
_TEXT, _NULL, _UNCHANGED = ord("t"), ord("n"), ord("u")
_u32 = struct.Struct(">I").unpack_from
_u16 = struct.Struct(">H").unpack_from

Record = tuple[Values | None, Values | None, bool]
"""(old, new, lacks values): the old row or its key, the new row, and whether values of that were not sent."""


def read_record(data: bytes, start: int, end: int, columns: int) -> Record:
    """The old and the new row of the record between two places.

    Values that an update has not sent are taken from the old row where that came whole.

    Raises:
        PluginBugError: it is no record of a relation with so many columns.
    """
    try:
        mark = data[start]
        if mark == _NEW:
            new, position, lacks = _read_values(data, start + 1, columns)
            if position != end:
                raise _malformed("its length is not that of its values")
            return None, new, lacks
        if mark not in (_OLD_KEY, _OLD_FULL):
            raise _malformed("it begins with no row")
        old, position, lacks = _read_values(data, start + 1, columns)
        if lacks:
            raise _malformed("its old row lacks values")
        if position == end:
            return old, None, False
        if data[position] != _NEW:
            raise _malformed("no new row follows the old one")
        new, position, lacks = _read_values(data, position + 1, columns)
        if position != end:
            raise _malformed("its length is not that of its values")
    except (IndexError, struct.error) as exc:
        raise _malformed("it is cut short") from exc
    if lacks and mark == _OLD_FULL:
        return old, [before if value is UNSENT else value for before, value in zip(old, new, strict=True)], False
    return old, new, lacks


def _read_values(data: bytes, position: int, columns: int) -> tuple[list[Value], int, bool]:
    if _u16(data, position)[0] != columns:
        raise _malformed("it does not have the columns of its relation")
    position += 2
    lacks = False
    values: list[Value] = []
    add = values.append
    for _ in range(columns):
        mark = data[position]
        if mark == _TEXT:
            end = position + 5 + _u32(data, position + 1)[0]
            add(data[position + 5 : end])
            position = end
        elif mark == _NULL:
            add(None)
            position += 1
        elif mark == _UNCHANGED:
            add(UNSENT)
            position += 1
            lacks = True
        else:
            raise _malformed("a value is of no kind that was asked for")
    return values, position, lacks


def read_flags(data: bytes, start: int, end: int) -> int:
    """The flags of a TRUNCATE; none where its record is empty.

    Raises:
        PluginBugError: the record is longer than one byte.
    """
    if end - start > 1:
        raise _malformed("a TRUNCATE has one byte")
    return data[start] if end > start else 0


def _malformed(reason: str) -> errors.PluginBugError:
    return errors.PluginBugError(
        f"applying changes: a record is not what pgoutput sends: {reason}; a bug of its sender"
    )
