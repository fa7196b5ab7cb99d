"""Types that are made of others: composites, ranges, multiranges; and the lists and maps of extensions."""

from __future__ import annotations

import struct
from collections.abc import Callable

from dsync_postgres.documents.arrays import index_name
from dsync_postgres.documents.bson import (
    ARRAY,
    DOCUMENT,
    DOUBLE,
    INT32,
    NULL,
    PG_NULL,
    STRING,
    UNDEFINED,
    Decode,
    Encode,
    Misfit,
    document_value,
    elements,
    field,
    read_double,
    read_int32,
    string_bytes,
    string_element,
)

_I32 = struct.Struct(">i")
_COLUMN = struct.Struct(">Ii")
_read_length = _I32.unpack_from
_ABSENT = frozenset({NULL, UNDEFINED})

# Flags of a binary range (src/include/utils/rangetypes.h).
_EMPTY, _LOWER_IN, _UPPER_IN, _LOWER_INFINITE, _UPPER_INFINITE = 0x01, 0x02, 0x04, 0x08, 0x10
_EMPTY_RANGE = string_element(b"bounds\0", b"empty")
_BOUNDS = {
    flags: string_element(b"bounds\0", (b"[" if flags & _LOWER_IN else b"(") + (b"]" if flags & _UPPER_IN else b")"))
    for flags in (0, _LOWER_IN, _UPPER_IN, _LOWER_IN | _UPPER_IN)
}
_FLAGS = {b"()": 0, b"[)": _LOWER_IN, b"(]": _UPPER_IN, b"[]": _LOWER_IN | _UPPER_IN}


# ----------------------------------------------------------------- composites


def composite_encoder(parts: list[tuple[str, Encode]]) -> Encode:
    """A function from a binary composite (record_send in rowtypes.c) to a document with a field for each of its own."""
    named = [(name.encode() + b"\0", encode) for name, encode in parts]

    def encode(name: bytes, raw: bytes) -> bytes:
        (count,) = _read_length(raw)
        if count != len(named):
            raise ValueError
        position = 4
        found = []
        for inner_name, encode_part in named:
            (length,) = _read_length(raw, position + 4)
            position += 8
            if length < 0:
                found.append(b"\x0a" + inner_name)
                continue
            found.append(encode_part(inner_name, raw[position : position + length]))
            position += length
        return b"\x03" + name + document_value(b"".join(found))

    return encode


def composite_decoder(parts: list[tuple[str, int, Decode]], target: str) -> Decode:
    """A function from such a document, its fields in any order, to a binary composite; a missing one is NULL.

    `parts` has each field's name, the oid of its type at this server, and how it is decoded.
    """
    by_name = {name.encode(): (place, decode) for place, (name, _, decode) in enumerate(parts)}
    oids = [struct.pack(">I", oid) for _, oid, _ in parts]
    head = _I32.pack(len(parts))

    def decode(kind: int, value: bytes) -> bytes:
        if kind != DOCUMENT:
            raise Misfit.of(kind, target)
        found = [PG_NULL] * len(oids)
        seen = set()
        for inner, name, start, end in elements(value, 0, len(value)):
            if name not in by_name or name in seen:
                raise Misfit(f"a document with a field that {target} does not have, or twice")
            seen.add(name)
            place, decode_part = by_name[name]
            if inner not in _ABSENT:
                found[place] = decode_part(inner, value[start:end])
        return field(head + b"".join([oid + part for oid, part in zip(oids, found, strict=True)]))

    return decode


# --------------------------------------------------------------------- ranges


def range_value_encoder(encode_bound: Encode) -> Callable[[bytes], bytes]:
    """A function from a binary range to the value of a document."""

    def encode(raw: bytes) -> bytes:
        flags = raw[0]
        if flags & _EMPTY:
            return document_value(_EMPTY_RANGE)
        position = 1
        bounds = []
        for name, infinite in ((b"lower\0", _LOWER_INFINITE), (b"upper\0", _UPPER_INFINITE)):
            if flags & infinite:
                bounds.append(b"\x0a" + name)
                continue
            (length,) = _read_length(raw, position)
            position += 4
            bounds.append(encode_bound(name, raw[position : position + length]))
            position += length
        return document_value(b"".join(bounds) + _BOUNDS[flags & (_LOWER_IN | _UPPER_IN)])

    return encode


def range_encoder(encode_bound: Encode) -> Encode:
    """A function from a binary range (range_send in rangetypes.c) to `{lower, upper, bounds}`."""
    encode_value = range_value_encoder(encode_bound)
    return lambda name, raw: b"\x03" + name + encode_value(raw)


def range_decoder(decode_bound: Decode, target: str) -> Decode:
    """The inverse of `range_encoder`; a bound that is null or missing is none at all."""

    def decode(kind: int, value: bytes) -> bytes:
        if kind != DOCUMENT:
            raise Misfit.of(kind, target)
        members = {name: (inner, value[start:end]) for inner, name, start, end in elements(value, 0, len(value))}
        bounds_kind, bounds = members.pop(b"bounds", (NULL, b""))
        shown = string_bytes(bounds) if bounds_kind == STRING else b""
        if shown == b"empty" and not members:
            return field(bytes([_EMPTY]))
        if shown not in _FLAGS or not members.keys() <= {b"lower", b"upper"}:
            raise Misfit(f"a document that does not describe a range of {target}")
        flags = _FLAGS[shown]
        body = b""
        for name, infinite, inclusive in (
            (b"lower", _LOWER_INFINITE, _LOWER_IN),
            (b"upper", _UPPER_INFINITE, _UPPER_IN),
        ):
            inner, bound = members.get(name, (NULL, b""))
            if inner in _ABSENT:
                flags = (flags | infinite) & ~inclusive
            else:
                body += decode_bound(inner, bound)
        return field(bytes([flags]) + body)

    return decode


def multirange_encoder(encode_bound: Encode) -> Encode:
    """A function from a binary multirange to an array of ranges."""
    encode_value = range_value_encoder(encode_bound)

    def encode(name: bytes, raw: bytes) -> bytes:
        position, found = 4, []
        for index in range(_read_length(raw)[0]):
            (length,) = _read_length(raw, position)
            position += 4
            found.append(b"\x03" + index_name(index) + encode_value(raw[position : position + length]))
            position += length
        return b"\x04" + name + document_value(b"".join(found))

    return encode


def multirange_decoder(decode_range: Decode, target: str) -> Decode:
    """The inverse of `multirange_encoder`."""

    def decode(kind: int, value: bytes) -> bytes:
        if kind != ARRAY:
            raise Misfit.of(kind, target)
        found = [decode_range(inner, value[start:end]) for inner, _, start, end in elements(value, 0, len(value))]
        return field(_I32.pack(len(found)) + b"".join(found))

    return decode


# ----------------------------------------------------------------- extensions


def encode_hstore(name: bytes, raw: bytes) -> bytes:
    """The document of an hstore (hstore_send in contrib/hstore): a field for each key, its value a string or null."""
    position, found = 4, []
    for _ in range(_read_length(raw)[0]):
        (length,) = _read_length(raw, position)
        position += 4
        key = raw[position : position + length] + b"\0"
        position += length
        (length,) = _read_length(raw, position)
        position += 4
        if length < 0:
            found.append(b"\x0a" + key)
            continue
        found.append(string_element(key, raw[position : position + length]))
        position += length
    return b"\x03" + name + document_value(b"".join(found))


def decode_hstore(kind: int, value: bytes) -> bytes:
    """An hstore from a document of strings and nulls."""
    if kind != DOCUMENT:
        raise Misfit.of(kind, "hstore")
    found: dict[bytes, bytes] = {}
    for inner, name, start, end in elements(value, 0, len(value)):
        if name in found or inner not in (STRING, NULL, UNDEFINED):
            raise Misfit("a document whose fields are not strings, or one of them twice, does not fit hstore")
        found[name] = field(string_bytes(value[start:end])) if inner == STRING else PG_NULL
    return field(_I32.pack(len(found)) + b"".join([field(key) + text for key, text in found.items()]))


def vector_encoder(code: str) -> Encode:
    """A function from a binary vector of pgvector to an array of doubles; `code`: f for vector, e for halfvec."""
    width = struct.calcsize(code)

    def encode(name: bytes, raw: bytes) -> bytes:
        numbers = struct.unpack_from(f">{(len(raw) - 4) // width}{code}", raw, 4)
        values = b"".join([b"\x01%d\0%b" % (at, struct.pack("<d", number)) for at, number in enumerate(numbers)])
        return b"\x04" + name + document_value(values)

    return encode


def vector_decoder(code: str, target: str) -> Decode:
    """The inverse of `vector_encoder`; numbers that would be rounded are refused."""

    def decode(kind: int, value: bytes) -> bytes:
        if kind != ARRAY:
            raise Misfit.of(kind, target)
        numbers = []
        for inner, _, start, end in elements(value, 0, len(value)):
            if inner not in (DOUBLE, INT32):
                raise Misfit.of(inner, target)
            numbers.append(read_double(value[start:end]) if inner == DOUBLE else float(read_int32(value[start:end])))
        try:
            body = struct.pack(f">{len(numbers)}{code}", *numbers)
        except (OverflowError, struct.error) as exc:
            raise Misfit(f"a number that is too large for {target}") from exc
        if list(struct.unpack(f">{len(numbers)}{code}", body)) != numbers:
            raise Misfit(f"a number that {target} would round")
        return field(struct.pack(">hh", len(numbers), 0) + body)

    return decode
