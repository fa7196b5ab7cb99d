"""Points and what is made of them: arrays of doubles, which is what the server keeps, all bits of them.

A point is `[x, y]`, a line `[A, B, C]`; a segment, a box and a polygon are arrays of points; a path and a circle are
documents, since they are more than their points.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from dsync_postgres.documents.bson import (
    ARRAY,
    BOOL,
    DOCUMENT,
    DOUBLE,
    INT32,
    INT64,
    Decode,
    Encode,
    Misfit,
    document_value,
    elements,
    field,
    read_int32,
    read_int64,
)
from dsync_postgres.documents.types import Kind

_I32 = struct.Struct(">i")
_DOUBLE = struct.Struct(">d")
_POINT_BYTES = 16
_PATH_HEAD = struct.Struct(">?i")


def shape_encoder(kind: Kind) -> Encode:
    """A function from the binary form to BSON."""
    match kind:
        case Kind.POINT | Kind.LINE:
            return lambda name, raw: b"\x04" + name + _doubles(raw)
        case Kind.LSEG | Kind.BOX:
            return lambda name, raw: b"\x04" + name + _points(raw)
        case Kind.POLYGON:
            return lambda name, raw: b"\x04" + name + _points(raw[4:])
        case Kind.PATH:
            return _encode_path
        case Kind.CIRCLE:
            return _encode_circle
        case _:
            raise AssertionError(f"{kind} is no shape")


def shape_decoder(kind: Kind) -> Decode:
    """A function from BSON to the binary form with its length before it."""
    match kind:
        case Kind.POINT:
            return _array_decoder(kind, lambda value: _read_doubles(value, 2))
        case Kind.LINE:
            return _array_decoder(kind, lambda value: _read_doubles(value, 3))
        case Kind.LSEG | Kind.BOX:
            return _array_decoder(kind, lambda value: b"".join(_read_points(value, 2)))
        case Kind.POLYGON:
            return _array_decoder(kind, _read_polygon)
        case Kind.PATH:
            return _decode_path
        case Kind.CIRCLE:
            return _decode_circle
        case _:
            raise AssertionError(f"{kind} is no shape")


# -------------------------------------------------------------------- to BSON


def _doubles(raw: bytes) -> bytes:
    """The value of an array of doubles; as bytes, so that a NaN keeps all of its bits."""
    return document_value(b"".join(b"\x01%d\0%b" % (at // 8, raw[at : at + 8][::-1]) for at in range(0, len(raw), 8)))


def _points(raw: bytes) -> bytes:
    return document_value(
        b"".join(
            b"\x04%d\0%b" % (at // _POINT_BYTES, _doubles(raw[at : at + _POINT_BYTES]))
            for at in range(0, len(raw), _POINT_BYTES)
        )
    )


def _encode_path(name: bytes, raw: bytes) -> bytes:
    return b"\x03" + name + document_value(b"\x08closed\0" + raw[:1] + b"\x04points\0" + _points(raw[5:]))


def _encode_circle(name: bytes, raw: bytes) -> bytes:
    return b"\x03" + name + document_value(b"\x04center\0" + _doubles(raw[:16]) + b"\x01radius\0" + raw[16:][::-1])


# ------------------------------------------------------------------ from BSON


def _array_decoder(kind: Kind, read: Callable[[bytes], bytes]) -> Decode:
    def decode(bson_kind: int, value: bytes) -> bytes:
        if bson_kind != ARRAY:
            raise Misfit.of(bson_kind, kind.value)
        return field(read(value))

    return decode


def _read_number(kind: int, value: bytes) -> bytes:
    """A double in the server's byte order."""
    if kind == DOUBLE:
        return value[::-1]
    if kind in (INT32, INT64):
        number = read_int32(value) if kind == INT32 else read_int64(value)
        if int(float(number)) == number:
            return _DOUBLE.pack(number)
    raise Misfit("a coordinate that is no number that double precision holds")


def _read_doubles(value: bytes, count: int) -> bytes:
    found = [_read_number(kind, value[start:end]) for kind, _, start, end in elements(value, 0, len(value))]
    if len(found) != count:
        raise Misfit(f"an array that has not {count} numbers")
    return b"".join(found)


def _read_points(value: bytes, count: int | None = None) -> list[bytes]:
    found = []
    for kind, _, start, end in elements(value, 0, len(value)):
        if kind != ARRAY:
            raise Misfit("an array that does not consist of points")
        found.append(_read_doubles(value[start:end], 2))
    if count is not None and len(found) != count:
        raise Misfit(f"an array that has not {count} points")
    return found


def _read_polygon(value: bytes) -> bytes:
    points = _read_points(value)
    return _I32.pack(len(points)) + b"".join(points)


def _members(kind: int, value: bytes, target: str, wanted: dict[bytes, int]) -> dict[bytes, bytes]:
    if kind != DOCUMENT:
        raise Misfit.of(kind, target)
    found = {name: (inner, value[start:end]) for inner, name, start, end in elements(value, 0, len(value))}
    if {name: inner for name, (inner, _) in found.items()} != wanted:
        raise Misfit(f"a document that does not describe a {target}")
    return {name: inner for name, (_, inner) in found.items()}


def _decode_path(kind: int, value: bytes) -> bytes:
    members = _members(kind, value, "path", {b"closed": BOOL, b"points": ARRAY})
    points = _read_points(members[b"points"])
    return field(_PATH_HEAD.pack(members[b"closed"] != b"\0", len(points)) + b"".join(points))


def _decode_circle(kind: int, value: bytes) -> bytes:
    members = _members(kind, value, "circle", {b"center": ARRAY, b"radius": DOUBLE})
    return field(_read_doubles(members[b"center"], 2) + members[b"radius"][::-1])
