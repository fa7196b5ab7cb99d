"""One value: for each type the function to BSON, the function back, and the forms of quick fixed-width values."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from dsync_postgres.documents import spans, texts
from dsync_postgres.documents.arrays import array_decoder, array_encoder
from dsync_postgres.documents.bson import (
    BINARY,
    BOOL,
    DECIMAL,
    DOUBLE,
    INT32,
    INT64,
    STRING,
    Decode,
    Encode,
    Misfit,
    read_double,
    read_int32,
    read_int64,
    string_bytes,
    string_element,
    string_text,
)
from dsync_postgres.documents.json import encode_json, encode_jsonb, json_decoder, jsonb_decoder
from dsync_postgres.documents.made import (
    composite_decoder,
    composite_encoder,
    decode_hstore,
    encode_hstore,
    multirange_decoder,
    multirange_encoder,
    range_decoder,
    range_encoder,
    vector_decoder,
    vector_encoder,
)
from dsync_postgres.documents.numeric import (
    decode_money,
    encode_money,
    encode_numeric,
    integral_decimal,
    numeric_decoder,
    whole_decimal_element,
)
from dsync_postgres.documents.shapes import shape_decoder, shape_encoder
from dsync_postgres.documents.texts import text_decoder, text_encoder
from dsync_postgres.documents.times import (
    DAY_MS,
    DAYS_END,
    DAYS_MIN,
    EPOCH_DAYS,
    EPOCH_MS,
    TIMESTAMP_MS_END,
    TIMESTAMP_MS_MIN,
    date_decoder,
    encode_date,
    timestamp_decoder,
    timestamp_encoder,
)
from dsync_postgres.documents.types import ColumnType, Kind

_REAL = struct.Struct(">f")
_DOUBLE = struct.Struct(">d")
_BSON_DOUBLE = struct.Struct("<d")
_INTEGERS = {
    Kind.INT2: struct.Struct(">ih"),
    Kind.INT4: struct.Struct(">ii"),
    Kind.INT8: struct.Struct(">iq"),
    Kind.OID: struct.Struct(">iI"),
    Kind.XID: struct.Struct(">iI"),
    Kind.CID: struct.Struct(">iI"),
    Kind.XID8: struct.Struct(">iQ"),
}
_UNSIGNED = frozenset({Kind.OID, Kind.XID, Kind.CID, Kind.XID8})
_SHAPES = frozenset({Kind.POINT, Kind.LINE, Kind.LSEG, Kind.BOX, Kind.PATH, Kind.POLYGON, Kind.CIRCLE})
# Beyond this not every double is a whole number of its own, and the digits would be made up.
_EXACT_DOUBLE_MAX = 2**53


def encoder(column_type: ColumnType) -> Encode:
    """The function from a type's binary form to its BSON element."""
    match column_type.kind:
        case Kind.ARRAY:
            element = column_type.element
            reversed_type = _reversed_type(element)
            return array_encoder(encoder(element), nests=not element.is_list, reversed_type=reversed_type)
        case Kind.COMPOSITE:
            return composite_encoder([(part.name, encoder(part.type)) for part in column_type.parts])
        case Kind.RANGE:
            return range_encoder(encoder(column_type.element))
        case Kind.MULTIRANGE:
            return multirange_encoder(encoder(column_type.element.element))
        case Kind.TIME | Kind.TIMETZ | Kind.INTERVAL:
            return text_encoder(spans.to_text(column_type))
        case kind if kind in texts.TO_TEXT:
            return text_encoder(texts.TO_TEXT[kind])
        case kind if kind in _SHAPES:
            return shape_encoder(kind)
        case kind:
            return _ENCODERS[kind]


def decoder(column_type: ColumnType) -> Decode:
    """The function from a BSON value to a field of that type."""
    match column_type.kind:
        case Kind.INT2 | Kind.INT4 | Kind.INT8 | Kind.OID | Kind.XID | Kind.CID | Kind.XID8 as kind:
            return _integer_decoder(kind)
        case Kind.FLOAT4 | Kind.FLOAT8 as kind:
            return _float_decoder(kind)
        case Kind.NUMERIC:
            return numeric_decoder(column_type.numeric_limits)
        case Kind.TIMESTAMP | Kind.TIMESTAMPTZ as kind:
            return timestamp_decoder(with_zone=kind is Kind.TIMESTAMPTZ, fraction_digits=column_type.fraction_digits)
        case Kind.DATE:
            return date_decoder()
        case Kind.TIME | Kind.TIMETZ | Kind.INTERVAL:
            return text_decoder(spans.from_text(column_type), column_type.label)
        case Kind.JSON:
            return json_decoder()
        case Kind.JSONB:
            return jsonb_decoder()
        case kind if column_type.is_plain_text:
            return _text_decoder(column_type)
        case kind if kind in texts.TO_TEXT:
            return text_decoder(texts.from_text(column_type), column_type.label)
        case kind if kind in _SHAPES:
            return shape_decoder(kind)
        case kind if kind in _DECODERS:
            return _DECODERS[kind]
        case _:
            return _made_decoder(column_type)


def _made_decoder(column_type: ColumnType) -> Decode:
    if column_type.kind is Kind.COMPOSITE:
        parts = [(part.name, part.type.oid, decoder(part.type)) for part in column_type.parts]
        return composite_decoder(parts, column_type.label)
    inner = decoder(column_type.element)
    if column_type.kind is Kind.RANGE:
        return range_decoder(inner, column_type.label)
    if column_type.kind is Kind.MULTIRANGE:
        return multirange_decoder(inner, column_type.label)
    assert column_type.kind is Kind.ARRAY, f"{column_type.kind} has no decoder"
    element = column_type.element
    return array_decoder(
        inner,
        oid=element.oid,
        nests=not element.is_list,
        target=column_type.label,
        reversed_type=_reversed_type(element),
    )


def _reversed_type(column_type: ColumnType) -> int | None:
    """The BSON type whose bytes are those of the server the other way round; None: there is none."""
    form = _FIXED.get(column_type.kind)
    return form.bson_type if form is not None and form.is_reversed else None


# ------------------------------------------------------------------ to BSON


def _encode_int2(name: bytes, raw: bytes) -> bytes:
    return b"\x10" + name + raw[::-1] + (b"\xff\xff" if raw[0] & 0x80 else b"\0\0")


def _encode_int4(name: bytes, raw: bytes) -> bytes:
    return b"\x10" + name + raw[::-1]


def _encode_int8(name: bytes, raw: bytes) -> bytes:
    return b"\x12" + name + raw[::-1]


def _encode_unsigned4(name: bytes, raw: bytes) -> bytes:
    return b"\x12" + name + raw[::-1] + b"\0\0\0\0"


def _encode_unsigned8(name: bytes, raw: bytes) -> bytes:
    """An int64, or where that ends a Decimal128."""
    return b"\x12" + name + raw[::-1] if raw[0] < 0x80 else whole_decimal_element(name, int.from_bytes(raw, "big"))


def _encode_float4(name: bytes, raw: bytes) -> bytes:
    return b"\x01" + name + _BSON_DOUBLE.pack(*_REAL.unpack(raw))


def _encode_float8(name: bytes, raw: bytes) -> bytes:
    return b"\x01" + name + raw[::-1]


def _encode_bool(name: bytes, raw: bytes) -> bytes:
    return b"\x08" + name + raw


def _encode_uuid(name: bytes, raw: bytes) -> bytes:
    return b"\x05" + name + b"\x10\0\0\0\x04" + raw


def _encode_bytea(name: bytes, raw: bytes) -> bytes:
    return b"\x05" + name + len(raw).to_bytes(4, "little") + b"\0" + raw


_ENCODERS: dict[Kind, Encode] = {
    Kind.INT2: _encode_int2,
    Kind.INT4: _encode_int4,
    Kind.INT8: _encode_int8,
    Kind.FLOAT4: _encode_float4,
    Kind.FLOAT8: _encode_float8,
    Kind.OID: _encode_unsigned4,
    Kind.XID: _encode_unsigned4,
    Kind.CID: _encode_unsigned4,
    Kind.XID8: _encode_unsigned8,
    Kind.NUMERIC: encode_numeric,
    Kind.MONEY: encode_money,
    Kind.BOOL: _encode_bool,
    Kind.TEXT: string_element,
    Kind.VARCHAR: string_element,
    Kind.CHAR: string_element,
    Kind.NAME: string_element,
    Kind.REFCURSOR: string_element,
    Kind.XML: string_element,
    Kind.ENUM: string_element,
    Kind.CITEXT: string_element,
    Kind.BY_TEXT: string_element,
    Kind.HSTORE: encode_hstore,
    Kind.VECTOR: vector_encoder("f"),
    Kind.HALFVEC: vector_encoder("e"),
    Kind.DATE: encode_date,
    Kind.TIMESTAMP: timestamp_encoder(with_zone=False),
    Kind.TIMESTAMPTZ: timestamp_encoder(with_zone=True),
    Kind.UUID: _encode_uuid,
    Kind.BYTEA: _encode_bytea,
    Kind.JSON: encode_json,
    Kind.JSONB: encode_jsonb,
}


# ---------------------------------------------------------------- from BSON


def _integer_decoder(kind: Kind) -> Decode:
    field = _INTEGERS[kind]
    width = field.size - 4
    start, end = (0, 1 << (8 * width)) if kind in _UNSIGNED else (-1 << (8 * width - 1), 1 << (8 * width - 1))

    def decode(bson_kind: int, value: bytes) -> bytes:
        if bson_kind == INT32:
            number = read_int32(value)
        elif bson_kind == INT64:
            number = read_int64(value)
        elif bson_kind == DOUBLE:
            number = _whole(read_double(value), kind)
        elif bson_kind == DECIMAL:
            number = integral_decimal(value, kind.value)
        else:
            raise Misfit.of(bson_kind, kind.value)
        if not start <= number < end:
            raise Misfit(f"a number out of the range of {kind.value}")
        return field.pack(width, number)

    return decode


def _whole(number: float, kind: Kind) -> int:
    if not number.is_integer() or abs(number) > _EXACT_DOUBLE_MAX:
        raise Misfit(f"a double that is not an exact whole number does not fit {kind.value}")
    return int(number)


def _float_decoder(kind: Kind) -> Decode:
    layout = _REAL if kind is Kind.FLOAT4 else _DOUBLE
    prefix = layout.size.to_bytes(4, "big")

    def decode(bson_kind: int, value: bytes) -> bytes:
        if bson_kind == DOUBLE:
            number = read_double(value)
        elif bson_kind in (INT32, INT64):
            number = _as_float(read_int32(value) if bson_kind == INT32 else read_int64(value), kind)
        else:
            raise Misfit.of(bson_kind, kind.value)
        if kind is Kind.FLOAT4 and not is_real(number):
            raise Misfit("a double that real would round")
        return prefix + layout.pack(number)

    return decode


def _as_float(number: int, kind: Kind) -> float:
    if int(float(number)) != number:
        raise Misfit(f"a whole number that {kind.value} would round")
    return float(number)


def is_real(number: float) -> bool:
    """True where single precision holds the number exactly; NaN it holds."""
    try:
        (single,) = _REAL.unpack(_REAL.pack(number))
    except OverflowError:
        return False
    return bool(single == number) or number != number


def _text_decoder(column_type: ColumnType) -> Decode:
    limit = column_type.characters_max
    is_padded = column_type.kind is Kind.CHAR

    def decode(kind: int, value: bytes) -> bytes:
        if kind != STRING:
            raise Misfit.of(kind, column_type.label)
        text = string_bytes(value)
        if limit is not None and len(text) > limit:
            # The server cuts trailing spaces off without a word; in a character(n) they mean nothing.
            characters = string_text(value)
            if len(characters.rstrip(" ") if is_padded else characters) > limit:
                raise Misfit(f"a string longer than {limit} characters")
        return len(text).to_bytes(4, "big") + text

    return decode


def _decode_bool(kind: int, value: bytes) -> bytes:
    if kind != BOOL:
        raise Misfit.of(kind, "boolean")
    return b"\0\0\0\x01" + value


def _decode_uuid(kind: int, value: bytes) -> bytes:
    if kind == BINARY and value[4] == 4 and len(value) == 21:
        return b"\0\0\0\x10" + value[5:]
    raise Misfit.of(kind, "uuid unless it has subtype 4 and 16 bytes" if kind == BINARY else "uuid")


def _decode_bytea(kind: int, value: bytes) -> bytes:
    if kind == BINARY and value[4] == 0:
        return (len(value) - 5).to_bytes(4, "big") + value[5:]
    raise Misfit.of(kind, "bytea unless it has subtype 0" if kind == BINARY else "bytea")


_DECODERS: dict[Kind, Decode] = {
    Kind.BOOL: _decode_bool,
    Kind.UUID: _decode_uuid,
    Kind.BYTEA: _decode_bytea,
    Kind.MONEY: decode_money,
    Kind.HSTORE: decode_hstore,
    Kind.VECTOR: vector_decoder("f", "vector"),
    Kind.HALFVEC: vector_decoder("e", "halfvec"),
}


# ------------------------------------------------------------- quick values


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedForm:
    """How a value of fixed width is carried in one go with its neighbours, as texts of Python expressions.

    `{v}` stands for the value. Where a condition does not hold, the value goes through its function.
    """

    pg_code: str
    pg_width: int
    is_reversed: bool = False
    """BSON has the very same bytes the other way round."""
    bson_type: int
    bson_prefix: bytes
    """What stands before the value in BSON: a binary's length and subtype."""
    bson_code: str
    to_bson: str = "{v}"
    to_bson_if: str = ""
    to_pg: str = "{v}"
    to_pg_if: str = ""


_FIXED = {
    # A number that is too large for its column makes `pack` raise, which sends the row the slow way.
    Kind.INT2: FixedForm(pg_code="h", pg_width=2, bson_type=INT32, bson_prefix=b"", bson_code="i"),
    Kind.INT4: FixedForm(is_reversed=True, pg_code="i", pg_width=4, bson_type=INT32, bson_prefix=b"", bson_code="i"),
    Kind.INT8: FixedForm(is_reversed=True, pg_code="q", pg_width=8, bson_type=INT64, bson_prefix=b"", bson_code="q"),
    Kind.OID: FixedForm(pg_code="I", pg_width=4, bson_type=INT64, bson_prefix=b"", bson_code="q"),
    Kind.XID: FixedForm(pg_code="I", pg_width=4, bson_type=INT64, bson_prefix=b"", bson_code="q"),
    Kind.FLOAT4: FixedForm(
        pg_code="f", pg_width=4, bson_type=DOUBLE, bson_prefix=b"", bson_code="d", to_pg_if="is_real({v})"
    ),
    Kind.FLOAT8: FixedForm(is_reversed=True, pg_code="d", pg_width=8, bson_type=DOUBLE, bson_prefix=b"", bson_code="d"),
    Kind.BOOL: FixedForm(pg_code="?", pg_width=1, bson_type=BOOL, bson_prefix=b"", bson_code="?"),
    Kind.UUID: FixedForm(pg_code="16s", pg_width=16, bson_type=BINARY, bson_prefix=b"\x10\0\0\0\x04", bson_code="16s"),
    Kind.DATE: FixedForm(
        pg_code="i",
        pg_width=4,
        bson_type=0x09,
        bson_prefix=b"",
        bson_code="q",
        to_bson=f"({{v}} + {EPOCH_DAYS}) * {DAY_MS}",
        to_bson_if=f"{DAYS_MIN} <= {{v}} < {DAYS_END}",
        to_pg=f"{{v}} // {DAY_MS} - {EPOCH_DAYS}",
        to_pg_if=f"not {{v}} % {DAY_MS} and "
        f"{(DAYS_MIN + EPOCH_DAYS) * DAY_MS} <= {{v}} < {(DAYS_END + EPOCH_DAYS) * DAY_MS}",
    ),
}


def fixed_form(column_type: ColumnType) -> FixedForm | None:
    """The quick form of a type whose values mostly have one width on both sides; None where there is none."""
    if column_type.kind in (Kind.TIMESTAMP, Kind.TIMESTAMPTZ):
        # A page of times with microseconds teaches the loops that this column is not so.
        return _short_timestamp(10 ** max(0, 3 - column_type.fraction_digits))
    return _FIXED.get(column_type.kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobForm:
    """How a value is carried whose bytes are the same on both sides, but for its length."""

    bson_type: int
    before: bytes
    """What stands between the length and the bytes: a binary's subtype."""
    after: bytes
    """What ends them: a string's NUL, which its length counts."""


def blob_form(column_type: ColumnType) -> BlobForm | None:
    """The quick form of texts and of bytea."""
    if column_type.is_plain_text:
        return BlobForm(bson_type=STRING, before=b"", after=b"\0")
    if column_type.kind is Kind.BYTEA:
        return BlobForm(bson_type=BINARY, before=b"\0", after=b"")
    return None


def _short_timestamp(step_ms: int) -> FixedForm:
    """A timestamp that has no more than milliseconds; an infinity is no multiple of 1000 and fails the test."""
    return FixedForm(
        pg_code="q",
        pg_width=8,
        bson_type=0x09,
        bson_prefix=b"",
        bson_code="q",
        to_bson=f"{{v}} // 1000 + {EPOCH_MS}",
        to_bson_if="not {v} % 1000",
        to_pg=f"({{v}} - {EPOCH_MS}) * 1000",
        to_pg_if=(f"not {{v}} % {step_ms} and " if step_ms > 1 else "")
        + f"{TIMESTAMP_MS_MIN} <= {{v}} < {TIMESTAMP_MS_END}",
    )
