"""Rows of binary COPY as documents: what each type becomes, and what is refused."""

from __future__ import annotations

import struct
from datetime import datetime, timedelta

import bson
import pytest
from bson.codec_options import CodecOptions, DatetimeConversion
from dsync_postgres.documents import DocumentError, RowDecoder, RowEncoder, TypeBook, field_name, split_documents
from hypothesis import given
from hypothesis import strategies as st

from dsync.sdk.errors import PluginBugError
from tests.unit.documents.pages import TableColumn, copy_page, fields_of, table

_OPTIONS: CodecOptions[dict[str, object]] = CodecOptions(datetime_conversion=DatetimeConversion.DATETIME_MS)


def _numeric(groups: list[int], weight: int, sign: int, dscale: int) -> bytes:
    return struct.pack(f">hhHH{len(groups)}H", len(groups), weight, sign, dscale, *groups)


def _micros(value: int) -> bytes:
    return struct.pack(">q", value)


@pytest.mark.parametrize(
    ("printed", "raw", "expected"),
    [
        ("smallint", struct.pack(">h", -2), -2),
        ("bigint", struct.pack(">q", 5), bson.Int64(5)),
        ("numeric", _numeric([1, 5000], 0, 0, 2), bson.Decimal128("1.50")),
        ("numeric", _numeric([1], 10, 0x4000, 0), bson.Decimal128("-1E+40")),
        ("numeric", _numeric([1, *[0] * 9, 1], 10, 0, 0), "1" + "0" * 39 + "1"),
        ("numeric", _numeric([], 0, 0xC000, 0), bson.Decimal128("NaN")),
        ("character(4)", b"ab  ", "ab  "),
        ("date", struct.pack(">i", 0), bson.DatetimeMS(946684800000)),
        ("date", struct.pack(">i", -(2**31)), "-infinity"),
        ("timestamp with time zone", _micros(1000), bson.DatetimeMS(946684800001)),
        ("timestamp with time zone", _micros(1), "2000-01-01T00:00:00.000001Z"),
        ("timestamp without time zone", _micros(-1), "1999-12-31T23:59:59.999999"),
        ("timestamp without time zone", _micros(2**63 - 1), "infinity"),
        ("timestamp(3) without time zone", _micros(2**63 - 1), "infinity"),
        ("json", b'{"a": 1,  "a": 2}', '{"a": 1,  "a": 2}'),
        ("jsonb", b'\1{"a": [1, 2.5, 1.50]}', {"a": [1, 2.5, bson.Decimal128("1.50")]}),
        ("jsonb", b"\1null", {"$json": "null"}),
        ("jsonb", b'\1{"$json": 1}', {"$json": '{"$json": 1}'}),
        ("jsonb", b"\1[18446744073709551616]", [bson.Decimal128("18446744073709551616")]),
        ("jsonb", b"\1" + b"9" * 5000, {"$json": "9" * 5000}),
        ("integer[]", struct.pack(">iiIiiiiii", 1, 0, 23, 2, 1, 4, 7, 4, 8), [7, 8]),
        (
            "integer[]",
            struct.pack(">iiIiiii", 1, 0, 23, 1, 0, 4, 7),
            {"dimensions": [1], "lower_bounds": [0], "values": [7]},
        ),
        ("integer[]", struct.pack(">iiIiiiiiii", 2, 1, 23, 1, 1, 2, 1, -1, 4, 7), [[None, 7]]),
    ],
)
def test_a_value_has_one_form(printed: str, raw: bytes, expected: object) -> None:
    """The mapping of docs/types.md, case by case; the quick and the careful loop agree."""
    columns = table(k="integer", v=printed, w="integer")
    one = struct.pack(">i", 1)
    packed, rows = RowEncoder(columns).encode_copy_binary(copy_page([[one, raw, one], [one, raw, None]]))
    assert rows == 2
    quick, careful = bson.decode_all(packed, _OPTIONS)
    assert quick == {"_id": 1, "k": 1, "v": expected, "w": 1}
    assert careful == {"_id": 1, "k": 1, "v": expected, "w": None}
    assert type(quick["v"]) is type(expected)


def test_names_that_collide_with_the_id_are_moved_aside() -> None:
    """Every column keeps a field of its own."""
    assert [field_name(name) for name in ("_id", "__id", "id", "_ID")] == ["__id", "___id", "id", "_ID"]
    columns = [TableColumn(name="_id", type="integer"), TableColumn(name="k", type="text", key_position=1)]
    packed, _ = RowEncoder(columns).encode_copy_binary(copy_page([[struct.pack(">i", 5), b"x"]]))
    assert bson.decode(packed) == {"_id": "x", "__id": 5, "k": "x"}
    assert fields_of(RowDecoder(columns).decode(packed)[0]) == [[struct.pack(">i", 5), b"x"]]


def test_a_composite_key_is_a_document_in_key_order() -> None:
    """Not in column order, and under the columns' own names."""
    columns = [
        TableColumn(name="_id", type="integer", key_position=2),
        TableColumn(name="b", type="text", key_position=1),
        TableColumn(name="c", type="numeric", key_position=3),
    ]
    row = [struct.pack(">i", 5), b"x", _numeric([2], 0, 0, 0)]
    packed, _ = RowEncoder(columns).encode_copy_binary(copy_page([row]))
    document = bson.decode(packed)
    assert list(document["_id"]) == ["b", "_id", "c"]
    assert document == {
        "_id": {"b": "x", "_id": 5, "c": bson.Decimal128("2")},
        "__id": 5,
        "b": "x",
        "c": bson.Decimal128("2"),
    }
    assert fields_of(RowDecoder(columns).decode(packed)[0]) == [row]


def test_a_page_of_single_documents_is_a_packed_one_cut_up() -> None:
    """adiom.v1 carries one bytes object a document."""
    columns = table(k="integer", v="text")
    page = copy_page([[struct.pack(">i", number), b"x" * number] for number in range(20)])
    packed, _ = RowEncoder(columns).encode_copy_binary(page)
    documents = split_documents(packed)
    assert len(documents) == 20
    assert RowDecoder(columns).decode(documents) == (page, 20)


def test_what_nobody_knows_travels_by_its_text() -> None:
    """The COPY has to give it as text, and takes text in return; so does everything that is made of it."""
    columns = table(k="integer", a="public.thing", b="regclass", c="tsquery[]", d="public.thing(3)", ok="text[]")
    encoder, decoder = RowEncoder(columns), RowDecoder(columns)
    assert encoder.text_columns == decoder.text_columns == {"a", "b", "c", "d"}
    page = copy_page([[struct.pack(">i", 1), b"x", b"pg_class", b"{}", None, None]])
    packed, _ = encoder.encode_copy_binary(page)
    assert bson.decode(packed) == {"_id": 1, "k": 1, "a": "x", "b": "pg_class", "c": "{}", "d": None, "ok": None}
    assert decoder.decode(packed) == (page, 1)


@given(st.lists(st.tuples(st.none() | st.integers(-(2**31), 2**31 - 1), st.none() | st.text()), max_size=20))
def test_rows_with_and_without_values_come_back(rows: list[tuple[int | None, str | None]]) -> None:
    """Whichever loop a row takes."""
    columns = table(k="integer", v="integer", t="text")
    page = copy_page(
        [
            struct.pack(">i", index),
            None if number is None else struct.pack(">i", number),
            None if text is None else text.encode(errors="replace"),
        ]
        for index, (number, text) in enumerate(rows)
    )
    encoder, decoder = RowEncoder(columns), RowDecoder(columns)
    for _ in range(2):
        packed, count = encoder.encode_copy_binary(page)
        assert count == len(rows)
        assert decoder.decode(packed) == (page, len(rows))


@given(st.data())
def test_a_page_of_other_columns_is_the_senders_bug(data: st.DataObject) -> None:
    """Cut off or damaged anywhere, it is refused or still a page; never another exception."""
    columns = table(k="integer", v="text", a="integer[]", n="numeric")
    row = [struct.pack(">i", 1), b"x", struct.pack(">iiIiiii", 1, 0, 23, 1, 1, 4, 7), _numeric([1], 0, 0, 0)]
    page = bytearray(copy_page([row, row]))
    page[data.draw(st.integers(0, len(page) - 1))] = data.draw(st.integers(0, 255))
    for damaged in (bytes(page), bytes(page[: data.draw(st.integers(0, len(page)))])):
        try:
            RowEncoder(columns).encode_copy_binary(damaged)
        except PluginBugError:
            continue


def test_a_row_with_other_columns_is_refused() -> None:
    """The message says where in the page, never what is there."""
    with pytest.raises(PluginBugError, match="at byte 19"):
        RowEncoder(table(k="integer")).encode_copy_binary(copy_page([[struct.pack(">i", 1), b"secret"]]))


def test_times_are_what_python_makes_of_them() -> None:
    """A check of the calendar against another one, around centuries and leap days."""
    columns = table(k="integer", v="timestamp without time zone")
    moments = [
        datetime(year, month, day, 1, 2, 3, 4)
        for year in (1, 4, 100, 400, 1582, 1900, 1999, 2000, 2001, 2004, 2100, 2400, 9999)
        for month, day in ((1, 1), (2, 28), (3, 1), (12, 31))
    ]
    micros = [(moment - datetime(2000, 1, 1)) // timedelta(microseconds=1) for moment in moments]
    page = copy_page([[struct.pack(">i", 1), _micros(value)] for value in micros])
    packed, _ = RowEncoder(columns).encode_copy_binary(page)
    assert [document["v"] for document in bson.decode_all(packed)] == [moment.isoformat() for moment in moments]
    assert RowDecoder(columns).decode(packed) == (page, len(moments))


def test_columns_that_are_often_null_are_learned() -> None:
    """Pages of any mixture are right before, while and after the loops adapt to them."""
    columns = table(k="integer", a="integer", b="text", c="bigint", d="text")
    encoder, decoder = RowEncoder(columns), RowDecoder(columns)
    one, eight, text = struct.pack(">i", 1), struct.pack(">q", 8), b"text"
    full: list[bytes | None] = [one, one, text, eight, text]
    pages = [
        copy_page([full] * 50),
        copy_page([[one, None, text, eight, text], full] * 50),
        copy_page([[one, one, text, None, None], full] * 50),
        copy_page([full] * 200 + [[one, None, None, None, None]]),
    ]
    for page in [*pages, *reversed(pages)]:
        packed, rows = encoder.encode_copy_binary(page)
        assert len(bson.decode_all(packed)) == rows
        assert decoder.decode(packed) == (page, rows)


def test_an_infinite_interval_is_one_only_where_servers_know_it() -> None:
    """The same bytes are a very long one before 17, and the word would be a lie."""
    columns = table(k="integer", v="interval")
    raw = struct.pack(">qii", 2**63 - 1, 2**31 - 1, 2**31 - 1)
    page = copy_page([[struct.pack(">i", 1), raw]])
    old, new = TypeBook(major=16), TypeBook(major=17)
    infinite, _ = RowEncoder(columns, new).encode_copy_binary(page)
    finite, _ = RowEncoder(columns, old).encode_copy_binary(page)
    assert bson.decode(infinite)["v"] == "infinity"
    assert bson.decode(finite)["v"] == "P178956970Y7M2147483647DT2562047788H54.775807S"
    assert RowDecoder(columns, new).decode(infinite) == RowDecoder(columns, old).decode(finite) == (page, 1)
    for book, packed in ((old, infinite), (new, finite)):
        with pytest.raises(DocumentError, match="cannot hold"):
            RowDecoder(columns, book).decode(packed)
