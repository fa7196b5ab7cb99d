"""Documents that are not as the encoder writes them: converted where exact, refused with a reason where not."""

from __future__ import annotations

import struct
import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import bson
import pytest
from bson import Binary, Code, Decimal128, Int64, MaxKey, ObjectId, Regex
from dsync_postgres.documents import DocumentError, RowDecoder
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg.adapt import PyFormat, Transformer

from dsync.sdk.errors import RecordError
from tests.unit.documents.pages import TableColumn, fields_of, table


def _field(printed: str, value: object) -> bytes | None:
    """What one value becomes in a column of that type."""
    page, rows = RowDecoder(table(k="integer", v=printed)).decode(bson.encode({"_id": 1, "k": 1, "v": value}))
    assert rows == 1
    return fields_of(page)[0][1]


def _as_psycopg_dumps(value: object) -> bytes:
    """The binary form that another program makes of the value."""
    dumped = Transformer().get_dumper(value, PyFormat.BINARY).dump(value)
    assert dumped is not None
    return bytes(dumped)


ACCEPTED = [
    ("smallint", Int64(-32768), struct.pack(">h", -32768)),
    ("integer", 7.0, struct.pack(">i", 7)),
    ("integer", Decimal128("1.2E+2"), struct.pack(">i", 120)),
    ("bigint", 5, struct.pack(">q", 5)),
    ("bigint", Decimal128("-9223372036854775808"), struct.pack(">q", -(2**63))),
    ("real", 3, struct.pack(">f", 3)),
    ("real", 0.5, struct.pack(">f", 0.5)),
    ("double precision", Int64(2**53), struct.pack(">d", 2.0**53)),
    ("text", "größer", "größer".encode()),
    ("character varying(3)", "äöü", "äöü".encode()),
    ("character(3)", "ab    ", b"ab    "),
    ("boolean", True, b"\1"),
    ("date", datetime(2000, 1, 2, tzinfo=UTC), struct.pack(">i", 1)),
    ("date", "1999-12-31", struct.pack(">i", -1)),
    ("date", "infinity", struct.pack(">i", 2**31 - 1)),
    ("timestamp without time zone", "2000-01-01 00:00:01", struct.pack(">q", 1_000_000)),
    ("timestamp with time zone", "2000-01-01T01:00:00.5+01:00", struct.pack(">q", 500_000)),
    ("timestamp with time zone", "2000-01-01T00:00:00.000001Z", struct.pack(">q", 1)),
    ("uuid", Binary.from_uuid(uuid.UUID(int=5)), uuid.UUID(int=5).bytes),
    ("bytea", b"\0\xff", b"\0\xff"),
    ("json", {"a": [1, None]}, b'{"a":[1,null]}'),
    ("json", ' {"a" : 1} ', b' {"a" : 1} '),
    ("jsonb", "text", b'\1"text"'),
    ("jsonb", Decimal128("1.50"), b"\x011.50"),
    ("jsonb", {"$json": "null"}, b"\1null"),
    ("jsonb", [{"a": Decimal128("2.0")}, True], b'\1[{"a":2.0},true]'),
    ("integer[]", [], struct.pack(">iiI", 0, 0, 23)),
    ("text", None, None),
    ("oid", Decimal128("4294967295"), struct.pack(">I", 2**32 - 1)),
    ("xid8", Decimal128("18446744073709551615"), struct.pack(">Q", 2**64 - 1)),
    ("money", Decimal128("-1.5"), struct.pack(">q", -150)),
    ("money", 3, struct.pack(">q", 300)),
    ("time without time zone", "24:00:00", struct.pack(">q", 86_400_000_000)),
    ("time with time zone", "00:00:01-01", struct.pack(">qi", 1_000_000, 3600)),
    ("interval", "P1Y2M-3DT-0.5S", struct.pack(">qii", -500_000, -3, 14)),
    ("interval", "infinity", struct.pack(">qii", 2**63 - 1, 2**31 - 1, 2**31 - 1)),
    ("inet", "10.0.0.1/8", b"\2\x08\0\4\n\0\0\1"),
    ("cidr", "10.0.0.0/8", b"\2\x08\1\4\n\0\0\0"),
    ("bit(3)", "101", struct.pack(">i", 3) + b"\xa0"),
    ("bit varying", "", struct.pack(">i", 0)),
    ('"char"', "\\377", b"\xff"),
    ("tid", "(1,2)", struct.pack(">IH", 1, 2)),
    ("point", [1, 2.0], struct.pack(">dd", 1, 2)),
    ("int4range", {"upper": 5, "bounds": "[)"}, b"\x08" + struct.pack(">ii", 4, 5)),
    ("int4multirange", [{"bounds": "empty"}], struct.pack(">ii", 1, 1) + b"\1"),
    ("regclass", "pg_class", b"pg_class"),
]


@pytest.mark.parametrize(("printed", "value", "expected"), ACCEPTED)
def test_an_exact_value_of_another_type_is_taken(printed: str, value: object, expected: bytes | None) -> None:
    """Other databases have other number types; what fits without a change is no error."""
    assert _field(printed, value) == expected


REFUSED = [
    ("smallint", 40000, "range of smallint"),
    ("integer", 2**31, "range of integer"),
    ("integer", 1.5, "not an exact whole number"),
    ("bigint", 1e17, "not an exact whole number"),
    ("integer", Decimal128("0.5"), "not a whole number"),
    ("integer", Decimal128("NaN"), "not a whole number"),
    ("integer", "7", "string does not fit integer"),
    ("integer", True, "boolean does not fit integer"),
    ("real", 0.1, "real would round"),
    ("real", 1e300, "real would round"),
    ("double precision", Int64(2**53 + 1), "would round"),
    ("double precision", Decimal128("1"), "Decimal128 does not fit"),
    ("numeric(5,2)", Decimal128("1.234"), "beyond the scale"),
    ("numeric(5,2)", 1000, "too large"),
    ("numeric(5,2)", Decimal128("Infinity"), "infinity does not fit"),
    ("numeric", "one", "not a number"),
    ("numeric", "1e999999", "more digits than numeric has"),
    ("text", 5, "int32 does not fit text"),
    ("text", ObjectId(), "ObjectId does not fit text"),
    ("character varying(3)", "abc ", "longer than 3 characters"),
    ("character(3)", "abcd", "longer than 3 characters"),
    ("boolean", 1, "int32 does not fit boolean"),
    ("date", datetime(2000, 1, 1, 1, tzinfo=UTC), "time of day"),
    ("date", "2000-02-30", "not an ISO 8601 date"),
    ("date", bson.DatetimeMS(2**46 * 86_400_000 // 2**10), "out of the range of date"),
    ("timestamp without time zone", "2000-01-01T00:00:00Z", "with a zone"),
    ("timestamp with time zone", "2000-01-01T00:00:00", "without a zone"),
    ("timestamp without time zone", "2000-01-01T24:00:01", "not an ISO 8601 time"),
    ("timestamp without time zone", "2000-01-01T00:00:00.1234567", "not an ISO 8601 time"),
    ("timestamp with time zone", "2000-01-01T00:00:00.1234567", "not an ISO 8601 time"),
    ("timestamp(0) without time zone", datetime(2000, 1, 1, 0, 0, 0, 500000), "more than 0 digits of a second"),
    ("timestamp without time zone", bson.DatetimeMS(2**62), "out of the range"),
    ("uuid", b"\0" * 16, "subtype 4"),
    ("uuid", Binary(b"\0" * 15, 4), "subtype 4"),
    ("bytea", Binary(b"x", 128), "subtype 0"),
    ("bytea", "x", "string does not fit bytea"),
    ("jsonb", float("nan"), "jsonb cannot hold"),
    ("jsonb", {"a": Decimal128("NaN")}, "not finite"),
    ("jsonb", {"a": Regex("x")}, "Regex inside does not fit jsonb"),
    ("jsonb", {"a": [ObjectId()]}, "ObjectId inside does not fit jsonb"),
    ("json", MaxKey(), "MaxKey inside does not fit json"),
    ("jsonb", Code("x"), "Code inside does not fit jsonb"),
    ("jsonb", {"a": [Code("x", {})]}, "Code inside does not fit jsonb"),
    ("integer[]", 1, "does not fit integer[]"),
    ("integer[]", [[1], [2, 3]], "rows are not all alike"),
    ("integer[]", [[1], 2], "rows are not all alike"),
    ("integer[]", [[], []], "rows are empty"),
    ("integer[]", [[1], []], "rows are not all alike"),
    ("integer[]", [[[[[[[1]]]]]]], "more than 6 dimensions"),
    ("integer[]", ["1"], "string does not fit integer"),
    ("integer[]", {"values": [1]}, "does not describe an array"),
    ("integer[]", {"dimensions": [2], "lower_bounds": [0], "values": [1]}, "rows are not all alike"),
    ("integer[]", {"dimensions": [0], "lower_bounds": [0], "values": []}, "does not describe an array"),
    ("integer[]", {"dimensions": [1.0], "lower_bounds": [0], "values": [1]}, "does not describe an array"),
    ("oid", -1, "range of oid"),
    ("xid", Int64(2**32), "range of xid"),
    ("money", Decimal128("0.001"), "more than two digits"),
    ("money", Int64(2**62), "range of money"),
    ("money", 1.5, "double does not fit money"),
    ("time without time zone", "24:00:01", "cannot hold"),
    ("time(1) without time zone", "00:00:00.25", "cannot hold"),
    ("time with time zone", "00:00:00", "cannot hold"),
    ("interval", "P1W", "cannot hold"),
    ("interval", "P", "cannot hold"),
    ("interval", "P1DT", "cannot hold"),
    ("interval day", "P1DT1H", "cannot hold"),
    ("interval year", "P1Y1M", "cannot hold"),
    ("interval hour to minute", "PT1.5S", "cannot hold"),
    ("interval(1)", "PT0.25S", "cannot hold"),
    ("inet", "10.0.0.1/33", "cannot hold"),
    ("cidr", "10.0.0.1/8", "cannot hold"),
    ("macaddr", "08:00:2b:01:02", "cannot hold"),
    ("bit(3)", "10", "cannot hold"),
    ("bit varying(3)", "1010", "cannot hold"),
    ("bit varying", "12", "cannot hold"),
    ('"char"', "ab", "cannot hold"),
    ("pg_lsn", "1", "cannot hold"),
    ("tsvector", "'a' 'a'", "cannot hold"),
    ("tsvector", "a b", "cannot hold"),
    ("point", [1.0], "has not 2 numbers"),
    ("point", [1.0, Int64(2**53 + 1)], "no number that double precision holds"),
    ("lseg", [[1.0, 2.0]], "has not 2 points"),
    ("polygon", [1.0], "does not consist of points"),
    ("circle", {"center": [0.0, 0.0]}, "does not describe a circle"),
    ("int4range", {"lower": 1, "upper": 2}, "does not describe a range"),
    ("int4range", {"lower": 1, "bounds": "empty"}, "does not describe a range"),
    ("regclass", 5, "does not fit regclass"),
]


@pytest.mark.parametrize(("printed", "value", "reason"), REFUSED)
def test_a_value_that_would_change_is_refused(printed: str, value: object, reason: str) -> None:
    """Never a silent change: the error names field and reason, and nothing of the value."""
    good = bson.encode({"_id": 1, "k": 1, "v": None})
    with pytest.raises(DocumentError, match="field 'v'") as caught:
        RowDecoder(table(k="integer", v=printed)).decode(good + bson.encode({"_id": 2, "k": 2, "v": value}))
    assert reason in str(caught.value)
    assert caught.value.index == 1
    assert isinstance(caught.value, RecordError)


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({"_id": 1, "k": 1, "extra": 1}, "field 'extra' is no column"),
        ({"v": "x"}, "key column 'k' is neither a field nor in _id"),
        ({"_id": 2, "k": 1}, "field 'k' and _id disagree"),
        ({"_id": "x"}, "field '_id': a BSON string does not fit integer"),
        ({"_id": "secret", "k": 1}, "field '_id': a BSON string"),
    ],
)
def test_a_document_of_another_shape_is_refused(document: dict[str, object], reason: str) -> None:
    """A field without column would be lost, a key in dispute would write the wrong row."""
    with pytest.raises(DocumentError) as caught:
        RowDecoder(table(k="integer", v="text")).decode(bson.encode(document))
    assert reason in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_composite_key_is_taken_from_its_document() -> None:
    """Key columns that are no fields come from `_id`; a stranger in there is named."""
    columns = [
        TableColumn(name="v", type="text"),
        TableColumn(name="b", type="text", key_position=2),
        TableColumn(name="a", type="integer", key_position=1),
    ]
    decoder = RowDecoder(columns)
    page, _ = decoder.decode([bson.encode({"_id": {"a": 1, "b": "x"}, "v": "y"})])
    assert fields_of(page) == [[b"y", b"x", struct.pack(">i", 1)]]
    with pytest.raises(DocumentError, match=r"field _id\.'c' is no column of the key"):
        decoder.decode(bson.encode({"_id": {"a": 1, "b": "x", "c": 2}}))
    with pytest.raises(DocumentError, match="_id is not a document"):
        decoder.decode(bson.encode({"_id": 1, "v": "y"}))


def test_the_id_of_a_row_without_key_is_dropped() -> None:
    """It says where the row lay at its source, which no column keeps."""
    document = bson.encode({"_id": ObjectId(), "v": "x"})
    keyless = [TableColumn(name="v", type="text")]
    assert fields_of(RowDecoder(keyless).decode(document)[0]) == [[b"x"]]
    keyed = RowDecoder([*keyless, TableColumn(name="k", type="integer", key_position=1)])
    page, _ = keyed.decode(bson.encode({"_id": ObjectId(), "v": "x", "k": 3}))
    assert fields_of(page) == [[b"x", struct.pack(">i", 3)]]


@pytest.mark.parametrize("printed", ["text", "character varying(9)", "json", "numeric", "date"])
def test_a_string_without_its_end_is_refused(printed: str) -> None:
    """Whichever loop reads it: its last character would be lost."""
    for document in ({"_id": 1, "k": 1, "v": "12"}, {"v": "12", "_id": 1}):
        damaged = bytearray(bson.encode(document))
        damaged[damaged.index(b"12\0") + 2] = 0x33
        with pytest.raises(DocumentError, match="not valid BSON"):
            RowDecoder(table(k="integer", v=printed)).decode(bytes(damaged))


def test_a_repeated_field_is_refused() -> None:
    """BSON allows it, and nobody can say which of the two is meant."""
    twice = b"\x10v\0\1\0\0\0" * 2
    document = struct.pack("<i", len(twice) + 5) + twice + b"\0"
    with pytest.raises(DocumentError, match="twice"):
        RowDecoder([TableColumn(name="v", type="integer")]).decode(document)


@given(st.decimals())
def test_any_decimal_becomes_what_psycopg_makes_of_it(number: Decimal) -> None:
    """Our numeric is the one of an independent program, for what fits Decimal128 and as text for the rest."""
    if number.is_nan():
        number = Decimal("NaN")
    expected = _as_psycopg_dumps(number)
    value: object = str(number)
    if number.is_finite() and len(number.as_tuple().digits) <= 34 and abs(number.adjusted()) < 6000:
        value = Decimal128(number)
    assert _numeric(_field("numeric", value)) == _numeric(expected)


def _numeric(raw: bytes | None) -> tuple[object, ...]:
    """A binary numeric without the spellings that mean the same: leading and trailing zeros, the weight of zero."""
    assert raw is not None
    count, weight, sign, dscale = struct.unpack_from(">hhHH", raw)
    groups = list(struct.unpack_from(f">{count}H", raw, 8))
    while groups and groups[0] == 0:
        groups.pop(0)
        weight -= 1
    while groups and groups[-1] == 0:
        groups.pop()
    return (groups, weight if groups else 0, sign if groups or sign > 0x4000 else 0, dscale)


@given(st.datetimes(), st.integers(-14 * 60, 14 * 60))
def test_any_iso_time_is_read_as_python_reads_it(moment: datetime, offset_minutes: int) -> None:
    """Sub-millisecond times travel as text, with whatever offset another program writes."""
    sign = "-" if offset_minutes < 0 else "+"
    hours, minutes = divmod(abs(offset_minutes), 60)
    text = f"{moment.isoformat()}{sign}{hours:02d}:{minutes:02d}"
    since = moment - timedelta(minutes=offset_minutes) - datetime(2000, 1, 1)
    expected = struct.pack(">q", since // timedelta(microseconds=1))
    assert _field("timestamp with time zone", text) == expected


_GOOD = bson.encode(
    {"_id": 1, "k": 1, "n": Decimal128("1.5"), "t": "x", "a": [1, None], "j": {"b": [1, "c"]}, "u": b"\0", "d": None}
)
_COLUMNS = table(k="integer", n="numeric", t="text", a="integer[]", j="jsonb", u="bytea", d="date")


_KEYLESS = [TableColumn(name=column.name, type=column.type) for column in _COLUMNS]


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(_GOOD) - 1), st.integers(0, 255), st.integers(0, len(_GOOD)))
def test_damaged_bytes_are_refused_or_read_never_a_crash(position: int, byte: int, length: int) -> None:
    """Whatever a peer sends, the answer is rows or a DocumentError."""
    damaged = bytearray(_GOOD)
    damaged[position] = byte
    for data in (bytes(damaged), _GOOD[:length], _GOOD + bytes(damaged)):
        for columns in (_COLUMNS, _KEYLESS):
            try:
                page, rows = RowDecoder(columns).decode(data)
            except DocumentError:
                continue
            assert len(fields_of(page)) == rows
