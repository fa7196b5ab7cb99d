"""BSON as bytes: reading elements without building objects, and the words for what does not fit."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

DOUBLE, STRING, DOCUMENT, ARRAY, BINARY = 0x01, 0x02, 0x03, 0x04, 0x05
UNDEFINED, OBJECT_ID, BOOL, DATE, NULL = 0x06, 0x07, 0x08, 0x09, 0x0A
REGEX, POINTER, CODE, SYMBOL, SCOPED_CODE = 0x0B, 0x0C, 0x0D, 0x0E, 0x0F
INT32, TIMESTAMP, INT64, DECIMAL, MAX_KEY, MIN_KEY = 0x10, 0x11, 0x12, 0x13, 0x7F, 0xFF

_NAMES = {
    DOUBLE: "double",
    STRING: "string",
    DOCUMENT: "document",
    ARRAY: "array",
    BINARY: "binary",
    UNDEFINED: "undefined",
    OBJECT_ID: "ObjectId",
    BOOL: "boolean",
    DATE: "date",
    NULL: "null",
    REGEX: "regular expression",
    POINTER: "DBPointer",
    CODE: "code",
    SYMBOL: "symbol",
    SCOPED_CODE: "code with scope",
    INT32: "int32",
    TIMESTAMP: "timestamp",
    INT64: "int64",
    DECIMAL: "Decimal128",
    MAX_KEY: "MaxKey",
    MIN_KEY: "MinKey",
}

Encode = Callable[[bytes, bytes], bytes]
"""From an element's name (with its NUL) and a value in PostgreSQL's binary form to the whole BSON element."""
Decode = Callable[[int, bytes], bytes]
"""From a BSON type and a value's bytes to the value in PostgreSQL's binary form with its length before it."""

PG_NULL = b"\xff\xff\xff\xff"
"""A field without value in binary COPY, and a NULL element of a binary array."""

_I32 = struct.Struct("<i")
_I64 = struct.Struct("<q")
_F64 = struct.Struct("<d")


class Misfit(Exception):
    """A value that a column's type cannot hold without a change; the reason never quotes the value."""

    @classmethod
    def of(cls, kind: int, target: str) -> Misfit:
        """The misfit of a BSON type that has no form in a column's type."""
        return cls(f"a BSON {_NAMES.get(kind, hex(kind))} does not fit {target}")


def read_int32(value: bytes) -> int:
    number: int
    (number,) = _I32.unpack(value)
    return number


def read_int64(value: bytes) -> int:
    number: int
    (number,) = _I64.unpack(value)
    return number


def read_double(value: bytes) -> float:
    number: float
    (number,) = _F64.unpack(value)
    return number


def string_element(name: bytes, text: bytes) -> bytes:
    """A string element; the text is UTF-8."""
    return b"\x02" + name + _I32.pack(len(text) + 1) + text + b"\0"


def string_bytes(value: bytes) -> bytes:
    """The UTF-8 of a string's value.

    Raises:
        Misfit: it does not end as a string does.
    """
    if value[-1:] != b"\0":
        raise Misfit("it is not valid BSON")
    return value[4:-1]


def string_text(value: bytes) -> str:
    """The text of a string's value.

    Raises:
        Misfit: it is not UTF-8.
    """
    try:
        return string_bytes(value).decode()
    except UnicodeDecodeError as exc:
        raise Misfit("a string that is not UTF-8") from exc


def document_value(elements: bytes) -> bytes:
    """A document's (or array's) value from its elements."""
    return _I32.pack(len(elements) + 5) + elements + b"\0"


def field(raw: bytes) -> bytes:
    """A value in PostgreSQL's binary form with its length before it."""
    return len(raw).to_bytes(4, "big") + raw


FIXED_WIDTHS = {
    DOUBLE: 8,
    UNDEFINED: 0,
    OBJECT_ID: 12,
    BOOL: 1,
    DATE: 8,
    NULL: 0,
    INT32: 4,
    TIMESTAMP: 8,
    INT64: 8,
    DECIMAL: 16,
    MAX_KEY: 0,
    MIN_KEY: 0,
}
"""How many bytes a value has whose type alone says it."""
# What a length counts besides itself: (bytes before or around the counted part).
_COUNTED = {STRING: 4, CODE: 4, SYMBOL: 4, DOCUMENT: 0, ARRAY: 0, SCOPED_CODE: 0, BINARY: 5, POINTER: 16}
_SMALLEST = {STRING: 5, CODE: 5, SYMBOL: 5, DOCUMENT: 5, ARRAY: 5, SCOPED_CODE: 14, BINARY: 5, POINTER: 17}
_TERMINATED = frozenset({STRING, CODE, SYMBOL, DOCUMENT, ARRAY, SCOPED_CODE})


def value_end(kind: int, data: bytes, start: int, end: int) -> int:
    """Where a value that begins at `start` ends; never after `end`.

    Raises:
        Misfit: it is no well-formed value of that type.
    """
    width = FIXED_WIDTHS.get(kind)
    if width is not None:
        stop = start + width
    elif kind == REGEX:
        stop = data.index(0, data.index(0, start, end) + 1, end) + 1 if data.count(0, start, end) > 1 else end + 1
    elif kind in _COUNTED and start + 4 <= end:
        (counted,) = _I32.unpack_from(data, start)
        stop = start + _COUNTED[kind] + counted
        if counted < 0 or stop - start < _SMALLEST[kind]:
            stop = end + 1
    else:
        stop = end + 1
    if stop > end or (kind in _TERMINATED and data[stop - 1]):
        raise Misfit("it is not valid BSON")
    return stop


def elements(data: bytes, start: int, end: int) -> Iterator[tuple[int, bytes, int, int]]:
    """Type, name (without NUL), start and end of each value of the document in `data[start:end]`.

    Raises:
        Misfit: it is not a well-formed document.
    """
    if end - start < 5 or _I32.unpack_from(data, start)[0] != end - start or data[end - 1]:
        raise Misfit("it is not valid BSON")
    position, last = start + 4, end - 1
    while position < last:
        kind = data[position]
        name_end = data.find(0, position + 1, last)
        if name_end < 0:
            raise Misfit("it is not valid BSON")
        stop = value_end(kind, data, name_end + 1, last)
        yield kind, data[position + 1 : name_end], name_end + 1, stop
        position = stop
