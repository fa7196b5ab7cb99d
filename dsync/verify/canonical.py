"""BSON documents in a form in which equal content has equal bytes, whichever engine has written it.

Top-level fields are put in order of their names, and numbers that are equal become one: 1 as int32, int64 or double is
the same. A negative zero, a number of another scale (Decimal128) and the order of fields in embedded documents stay
what they are.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping
from typing import Any

import bson
import msgpack
import xxhash
from bson import json_util
from bson.binary import Binary
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.errors import BSONError
from bson.int64 import Int64

from dsync.protocol.errors import PluginBugError
from dsync.protocol.types import BsonValue
from dsync.verify.settle import Row

_OPTIONS: CodecOptions[dict[str, Any]] = CodecOptions(
    # Dates outside Python's years; a type of our own would cost time on every value.
    datetime_conversion=DatetimeConversion.DATETIME_MS
)
_JSON = json_util.JSONOptions(json_mode=json_util.JSONMode.RELAXED)

_DOUBLE, _INT32, _INT64 = 0x01, 0x10, 0x12
_NAN = float("nan")
"""One for all: which bits beyond the exponent are set is the machine's business."""
_NUMBER = b"n"
"""Stands for the type of a number that is whole and fits 64 bits, in a key."""
_F64, _I32, _I64 = struct.Struct("<d"), struct.Struct("<i"), struct.Struct("<q")
_FIXED = {0x01: 8, 0x06: 0, 0x07: 12, 0x08: 1, 0x09: 8, 0x0A: 0, 0x10: 4, 0x11: 8, 0x12: 8, 0x13: 16, 0x7F: 0, 0xFF: 0}
_COUNTED = {0x02: 4, 0x03: 0, 0x04: 0, 0x05: 5, 0x0C: 16, 0x0D: 4, 0x0E: 4, 0x0F: 0}
"""Types that begin with a length, and how many bytes that length leaves out."""


def id_key(document: bytes) -> bytes:
    """The document's `_id`: its type and its bytes, the same for numbers that are equal.

    Raises:
        PluginBugError: there is none.
    """
    if document[5:9] == b"_id\0":
        return _key(document, document[4], 9)
    position = 4
    while document[position]:
        end = document.index(b"\0", position)
        if document[position + 1 : end] == b"_id":
            return _key(document, document[position], end + 1)
        position = _end_of_value(document, document[position], end + 1)
    raise PluginBugError("verify: a connector gave a BSON record without _id, which the protocol asks for")


def _key(document: bytes, kind: int, start: int) -> bytes:
    value = document[start : _end_of_value(document, kind, start)]
    number: int | None = None
    if kind == _INT32:
        (number,) = _I32.unpack(value)
    elif kind == _DOUBLE:
        number = _whole(_F64.unpack(value)[0])
    if number is not None:
        return _NUMBER + _I64.pack(number)
    return (_NUMBER if kind == _INT64 else bytes([kind])) + value


def _whole(number: float) -> int | None:
    """The integer that a double is equal to; None where there is none in 64 bits."""
    return int(number) if number.is_integer() and -(2.0**63) <= number < 2.0**63 else None


def _end_of_value(document: bytes, kind: int, start: int) -> int:
    fixed = _FIXED.get(kind)
    if fixed is not None:
        return start + fixed
    if kind == 0x0B:
        return document.index(b"\0", document.index(b"\0", start) + 1) + 1
    if kind not in _COUNTED:
        raise PluginBugError(f"verify: a connector gave a BSON record with the unknown type {kind:#04x}")
    (length,) = _I32.unpack_from(document, start)
    return start + int(length) + _COUNTED[kind]


def id_bson(key: bytes) -> BsonValue:
    """The `_id` that a key stands for, to ask an end for its document."""
    if key[:1] != _NUMBER:
        return BsonValue(data=key[1:], type=key[0], name="_id")
    (number,) = _I64.unpack(key[1:])
    if -(2**31) <= number < 2**31:
        return BsonValue(data=_I32.pack(number), type=_INT32, name="_id")
    return BsonValue(data=key[1:], type=_INT64, name="_id")


def id_text(key: bytes) -> tuple[str, ...]:
    """The `_id` that a key stands for, to be read by people: one text, or one a field of a composite key."""
    value = id_bson(key)
    body = bytes([value.type]) + b"_id\0" + value.data + b"\0"
    document = bson.decode(_I32.pack(len(body) + 4) + body, _OPTIONS)
    identity = document["_id"]
    return tuple(map(_shown, identity.values())) if isinstance(identity, dict) else (_shown(identity),)


def _shown(value: object) -> str:
    if isinstance(value, bytes | Binary):
        return bytes(value).hex()
    return value if isinstance(value, str) else str(value)


Fields = Callable[[str], bool]
"""Which top-level fields are compared."""


def content_hash(document: bytes, fields: Fields | None) -> bytes:
    """128 bits over the canonical form of the chosen fields."""
    ordered = _ordered(document, fields)
    return xxhash.xxh3_128_digest(document if ordered is None else _PACKER.pack(ordered))


def _tagged(value: Any) -> Any:
    """What is neither text, number, bytes, list nor document, as the name of its type and its representation."""
    return [f"{type(value).__name__}\0", repr(value)]


# Twice as fast as encoding BSON again; strict, since a subclass (binary of a subtype) means another value.
_PACKER = msgpack.Packer(default=_tagged, strict_types=True)


def content_row(document: bytes, fields: Fields | None) -> Row:
    """The chosen fields in extended JSON, equal exactly where the canonical forms are."""
    ordered = _ordered(document, fields)
    if ordered is None:
        return {"(undecodable record)": xxhash.xxh3_128_hexdigest(document)}
    return {name: json_util.dumps(value, json_options=_JSON) for name, value in ordered.items()}


def _ordered(document: bytes, fields: Fields | None) -> Mapping[str, Any] | None:
    """The chosen fields; None for a record that its own engine takes and our decoder does not (text not in UTF-8)."""
    try:
        decoded = bson.decode(document, _OPTIONS)
    except BSONError:
        return None
    chosen = sorted(decoded) if fields is None else sorted(filter(fields, decoded))
    return {name: _canonical(value) if type(value := decoded[name]) in _CONVERTED else value for name in chosen}


_CONVERTED = frozenset({Int64, float, list, dict})


def _canonical(value: Any) -> Any:
    """The same value with whole numbers as integers, of whatever width they need."""
    kind = type(value)
    if kind is Int64:
        return int(value)
    if kind is float:
        return _canonical_double(value)
    if kind is list:
        return [_canonical(item) if type(item) in _CONVERTED else item for item in value]
    return {name: _canonical(item) if type(item) in _CONVERTED else item for name, item in value.items()}


def _canonical_double(value: float) -> float | int:
    if value != value:
        return _NAN
    if value == 0 and math.copysign(1, value) < 0:
        # Equal to zero, and yet another value.
        return value
    number = _whole(value)
    return value if number is None else number
