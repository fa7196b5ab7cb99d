"""What a refused record holds, column by column, as far as its page type tells: for a person who asks to see it."""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping, Sequence

from dsync.protocol.frames import relation_numbers
from dsync.protocol.page_codec import decode_frame
from dsync.protocol.pages import PG_COPY_SIGNATURE
from dsync.protocol.records import Unsent, rows_of, update_of
from dsync.protocol.types import ChangeType, PageType

Value = str | None

_ESCAPE = re.compile(rb"\\(.)", re.DOTALL)
_ESCAPED = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}
_BREAKS = {ord(char): None for char in "\n\r\t"}
_LENGTH = struct.Struct(">i")
_COUNT = struct.Struct(">h")


def values_of(page_type: PageType, payload: bytes, columns: Sequence[str]) -> Mapping[str, Value]:
    """The values of the page's one record as text; None is null.

    A binary COPY does not say of which types its values are: what is printable text is shown as that, anything else as
    the hexadecimal digits of its binary form behind `\\x`.
    """
    if page_type is PageType.BSON:
        return _of_bson(payload)
    if page_type is PageType.JSON:
        return _of_json(payload)
    fields = _text_fields(payload) if page_type is PageType.PG_COPY_TEXT else _binary_fields(payload)
    names = columns if len(columns) == len(fields) else [str(number) for number in range(1, len(fields) + 1)]
    return {name: None if field is None else _shown(field) for name, field in zip(names, fields, strict=True)}


def values_of_change(payload: bytes) -> Mapping[str, Value]:
    """The values of a change's record, by column: the new ones, or the old key of one that is gone."""
    frame = decode_frame(payload)
    if frame.type is not ChangeType.PG_OUTPUT:
        update = update_of(frame, 0)
        kind = PageType.BSON if frame.type is ChangeType.BSON else PageType.JSON
        return values_of(kind, update.data, ()) if update.data else {}
    old, new = rows_of(frame, 0)
    named = zip(frame.relations[relation_numbers(frame)[0]].columns, new or old or (), strict=False)
    return {
        column.name: None if value is None else _shown(value)
        for column, value in named
        if not isinstance(value, Unsent)
    }


def _of_bson(payload: bytes) -> Mapping[str, Value]:
    import bson
    from bson import json_util

    document = bson.decode(payload)
    return {name: value if isinstance(value, str) else json_util.dumps(value) for name, value in document.items()}


def _of_json(payload: bytes) -> Mapping[str, Value]:
    import json

    # Numbers as they are written: a float would be another one.
    document = json.loads(payload, parse_float=str, parse_int=str)
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in document.items()}


def _text_fields(payload: bytes) -> list[bytes | None]:
    """PostgreSQL manual, COPY, "Text Format"."""
    line = payload.removesuffix(b"\n")
    return [None if field == rb"\N" else _ESCAPE.sub(_unescaped, field) for field in line.split(b"\t")]


def _unescaped(match: re.Match[bytes]) -> bytes:
    return _ESCAPED.get(match[1], match[1])


def _binary_fields(payload: bytes) -> list[bytes | None]:
    """PostgreSQL manual, COPY, "Binary Format"."""
    flags_and_extension = len(PG_COPY_SIGNATURE) + 4
    (extension,) = _LENGTH.unpack_from(payload, flags_and_extension)
    position = flags_and_extension + 4 + extension
    (count,) = _COUNT.unpack_from(payload, position)
    position += 2
    fields: list[bytes | None] = []
    for _ in range(count):
        (length,) = _LENGTH.unpack_from(payload, position)
        position += 4
        fields.append(None if length < 0 else payload[position : position + length])
        position += max(length, 0)
    return fields


def _shown(field: bytes) -> str:
    try:
        text = field.decode("utf-8")
    except UnicodeDecodeError:
        return "\\x" + field.hex()
    return text if text.translate(_BREAKS).isprintable() else "\\x" + field.hex()
