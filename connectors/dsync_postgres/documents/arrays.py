"""Arrays: PostgreSQL's binary form and BSON.

A binary array is its number of dimensions, a flag for NULLs, the oid of its elements, a size and a lower bound for
each dimension, then the elements row by row, each with its length (array_send in src/backend/utils/adt/arrayfuncs.c).
Where every lower bound is 1, which is the usual case, it becomes a BSON array, nested once for each dimension.
Anything else becomes `{"dimensions": [2, 3], "lower_bounds": [0, 5], "values": [...]}` with the values row by row;
so does a jsonb array of several dimensions, whose elements may be arrays themselves.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence

from dsync_postgres.documents.bson import (
    ARRAY,
    DOCUMENT,
    FIXED_WIDTHS,
    INT32,
    NULL,
    PG_NULL,
    UNDEFINED,
    Decode,
    Encode,
    Misfit,
    document_value,
    elements,
    read_int32,
    value_end,
)
from dsync_postgres.documents.shapes_of_arrays import Shapes, make_decoder, make_encoder

_DIMENSIONS_MAX = 6
_HEAD = struct.Struct(">iiI")
_EMPTY_HEAD = _HEAD.pack
_FLAT_HEAD = struct.Struct(">iiIii").pack
_DIMENSION = struct.Struct(">ii")
_ONE_DIMENSION = b"\0\0\0\x01"
_LOWER_BOUND_1 = b"\0\0\0\x01"
_I32 = struct.Struct(">i")
_read_length = _I32.unpack_from
_INDEX_NAMES = tuple(b"%d\0" % index for index in range(1000))
_EMPTY = document_value(b"")
_ABSENT = frozenset({NULL, UNDEFINED})
_FORM = (b"dimensions", b"lower_bounds", b"values")


def index_name(index: int) -> bytes:
    """The name, with its NUL, of the element of a BSON array."""
    return _INDEX_NAMES[index] if index < 1000 else b"%d\0" % index


def array_encoder(encode_element: Encode, *, nests: bool, reversed_type: int | None = None) -> Encode:
    """A function from a binary array to BSON; `nests`: elements are never arrays, so dimensions can nest.

    `reversed_type`: elements are of that BSON type, with the server's bytes the other way round.
    """
    flat = _flat_encoder(encode_element) if reversed_type is None else _reversed_encoder(reversed_type)

    def encode(name: bytes, raw: bytes) -> bytes:
        if raw.startswith(_LOWER_BOUND_1, 16) and raw.startswith(_ONE_DIMENSION):
            return b"\x04" + name + flat(raw)
        ndim, _, _ = _HEAD.unpack_from(raw)
        if ndim == 0:
            return b"\x04" + name + _EMPTY
        sizes, bounds = zip(*_DIMENSION.iter_unpack(raw[12 : 12 + 8 * ndim]), strict=True)
        values = _values(raw, 12 + 8 * ndim)
        if set(bounds) == {1} and nests:
            return b"\x04" + name + _nested(sizes, values, encode_element)
        form = b"".join(
            (
                b"\x04dimensions\0" + _int_array(sizes),
                b"\x04lower_bounds\0" + _int_array(bounds),
                b"\x04values\0" + _nested((_product(sizes),), values, encode_element),
            )
        )
        return b"\x03" + name + document_value(form)

    return encode


def _flat_encoder(encode_element: Encode) -> Callable[[bytes], bytes]:
    """The value of a BSON array of one dimension, by far the most frequent kind, without the detours below."""

    def flat(raw: bytes) -> bytes:
        parts: list[bytes] = []
        position, end, index = 20, len(raw), 0
        while position < end:
            (length,) = _read_length(raw, position)
            position += 4
            name = _INDEX_NAMES[index] if index < 1000 else b"%d\0" % index
            if length < 0:
                parts.append(b"\x0a" + name)
            else:
                parts.append(encode_element(name, raw[position : position + length]))
                position += length
            index += 1
        return document_value(b"".join(parts))

    return flat


def _reversed_encoder(bson_type: int) -> Callable[[bytes], bytes]:
    """The same, without a call for each element."""
    tag = bytes([bson_type])
    heads = [tag + name for name in _INDEX_NAMES]
    width = FIXED_WIDTHS[bson_type]
    shapes = Shapes(lambda present: make_encoder(present, bson_type))
    known = shapes.by_length.get

    def flat(raw: bytes) -> bytes:
        quick = known(len(raw))
        return (quick(raw) if quick is not None else b"") or walk(raw)

    def walk(raw: bytes) -> bytes:
        parts: list[bytes] = []
        present: list[bool] = []
        position, end, index = 24, len(raw), 0
        while position <= end:
            head = heads[index] if index < 1000 else tag + b"%d\0" % index
            index += 1
            # A length below zero says NULL; no other begins with this bit.
            is_there = raw[position - 4] < 0x80
            present.append(is_there)
            if is_there:
                parts += head, raw[position : position + width][::-1]
                position += width + 4
            else:
                parts += b"\x0a", head[1:]
                position += 4
        shapes.learn(raw, present)
        return document_value(b"".join(parts))

    return flat


def _values(raw: bytes, position: int) -> Iterator[bytes | None]:
    """Each element's bytes; None for NULL."""
    end = len(raw)
    while position < end:
        (length,) = _I32.unpack_from(raw, position)
        position += 4
        if length < 0:
            yield None
        else:
            yield raw[position : position + length]
            position += length


def _nested(sizes: Sequence[int], values: Iterator[bytes | None], encode_element: Encode) -> bytes:
    """The value of a BSON array with these dimensions, filled from `values` row by row."""
    parts = []
    for index in range(sizes[0]):
        name = index_name(index)
        if len(sizes) > 1:
            parts.append(b"\x04" + name + _nested(sizes[1:], values, encode_element))
            continue
        value = next(values)
        parts.append(b"\x0a" + name if value is None else encode_element(name, value))
    return document_value(b"".join(parts))


def _int_array(numbers: Sequence[int]) -> bytes:
    return document_value(
        b"".join(
            b"\x10" + index_name(index) + number.to_bytes(4, "little", signed=True)
            for index, number in enumerate(numbers)
        )
    )


def _product(sizes: Sequence[int]) -> int:
    product = 1
    for size in sizes:
        product *= size
    return product


def array_decoder(
    decode_element: Decode, *, oid: int, nests: bool, target: str, reversed_type: int | None = None
) -> Decode:
    """A function from a BSON array, or the long form, to a binary array of elements of that oid."""
    width = FIXED_WIDTHS.get(reversed_type, 0) if reversed_type is not None else 0
    usual = (reversed_type if reversed_type is not None else -1, width, width.to_bytes(4, "big"))
    shapes = Shapes(lambda present: make_decoder(present, usual[0], oid))
    known = shapes.by_length.get

    def decode(kind: int, value: bytes) -> bytes:
        if kind == ARRAY:
            if (quick := known(len(value))) is not None and (found := quick(value)):
                return found
            if not nests or value[4] != ARRAY:
                fields, has_null = _flat_fields(value, decode_element, *usual)
                if width and shapes.left and all(part is PG_NULL or len(part) == width + 4 for part in fields):
                    shapes.learn(value, [part is not PG_NULL for part in fields])
                body = _EMPTY_HEAD(0, 0, oid) if not fields else _FLAT_HEAD(1, has_null, oid, len(fields), 1)
                body += b"".join(fields)
                return _I32.pack(len(body)) + body
            sizes = _sizes_of(value)
            return field(sizes, [1] * len(sizes), sizes, value)
        if kind == DOCUMENT:
            sizes, bounds, values = _read_form(value)
            return field(sizes, bounds, [_product(sizes)], values)
        raise Misfit.of(kind, target)

    def field(sizes: list[int], bounds: list[int], nesting: list[int], values: bytes) -> bytes:
        fields: list[bytes] = []
        _flatten(nesting, values, decode_element, fields)
        head = _HEAD.pack(len(sizes), PG_NULL in fields, oid) + b"".join(map(_DIMENSION.pack, sizes, bounds))
        body = head + b"".join(fields)
        return _I32.pack(len(body)) + body

    return decode


def _flat_fields(
    value: bytes, decode_element: Decode, usual_kind: int, usual_width: int, usual_head: bytes
) -> tuple[list[bytes], bool]:
    """The fields of a BSON array's elements, and whether one of them is NULL.

    Values of the usual type have the server's bytes the other way round.
    """
    fields: list[bytes] = []
    append = fields.append
    has_null = False
    last = len(value) - 1
    position = 4
    while position < last:
        kind = value[position]
        # The names of a BSON array's elements are its indexes; most have one digit.
        position = position + 3 if value[position + 2] == 0 else value.index(0, position + 1, last) + 1
        if kind == usual_kind:
            append(usual_head + value[position : position + usual_width][::-1])
            position += usual_width
            continue
        width = FIXED_WIDTHS.get(kind)
        end = value_end(kind, value, position, last) if width is None else position + width
        if kind in _ABSENT:
            append(PG_NULL)
            has_null = True
        else:
            append(decode_element(kind, value[position:end]))
        position = end
    if position != last:
        raise Misfit("it is not valid BSON")
    return fields, has_null


def _sizes_of(value: bytes) -> list[int]:
    """The size of each dimension, by the first element of each; `_flatten` finds out whether the others agree."""
    sizes = []
    while True:
        size = 0
        inner = b""
        for kind, _, start, end in elements(value, 0, len(value)):
            if size == 0 and kind == ARRAY:
                inner = value[start:end]
            size += 1
        sizes.append(size)
        if size == 0 and len(sizes) > 1:
            raise Misfit("an array whose rows are empty")
        if not inner:
            return sizes
        if len(sizes) == _DIMENSIONS_MAX:
            raise Misfit(f"an array with more than {_DIMENSIONS_MAX} dimensions")
        value = inner


def _flatten(sizes: Sequence[int], value: bytes, decode_element: Decode, fields: list[bytes]) -> None:
    size = 0
    for kind, _, start, end in elements(value, 0, len(value)):
        size += 1
        if len(sizes) > 1:
            if kind != ARRAY:
                raise Misfit("an array whose rows are not all alike")
            _flatten(sizes[1:], value[start:end], decode_element, fields)
        elif kind in _ABSENT:
            fields.append(PG_NULL)
        else:
            fields.append(decode_element(kind, value[start:end]))
    if size != sizes[0]:
        raise Misfit("an array whose rows are not all alike")


def _read_form(value: bytes) -> tuple[list[int], list[int], bytes]:
    """Sizes, lower bounds and, row by row without nesting, the values of the long form."""
    members = {name: value[start:end] for kind, name, start, end in elements(value, 0, len(value)) if kind == ARRAY}
    if tuple(members) != _FORM:
        raise Misfit("a document that does not describe an array")
    sizes, bounds = (_read_ints(members[name]) for name in _FORM[:2])
    if len(sizes) != len(bounds) or not 1 <= len(sizes) <= _DIMENSIONS_MAX or min(sizes) < 1:
        raise Misfit("a document that does not describe an array")
    return sizes, bounds, members[_FORM[2]]


def _read_ints(value: bytes) -> list[int]:
    numbers = []
    for kind, _, start, end in elements(value, 0, len(value)):
        if kind != INT32:
            raise Misfit("a document that does not describe an array")
        numbers.append(read_int32(value[start:end]))
    return numbers
