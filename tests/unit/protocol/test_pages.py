"""Bodies of pages are taken apart and put together without losing a byte, and broken ones are refused by offset."""

from __future__ import annotations

import json
import struct

import bson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsync.protocol import pages
from dsync.protocol.errors import PluginBugError
from dsync.protocol.types import Buffer, Page, PageRef, PageType

SPLITTABLE = [PageType.BSON, PageType.JSON, PageType.PG_COPY_BINARY, PageType.PG_COPY_TEXT]

DOCUMENTS = st.dictionaries(
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=5),
    st.none() | st.integers(-(2**63), 2**63 - 1) | st.binary(max_size=20) | st.text(max_size=10) | st.floats(),
    max_size=4,
)
COPY_ROWS = st.lists(st.none() | st.binary(max_size=20), max_size=4)
LINES = st.binary(max_size=30).map(lambda line: line.replace(b"\n", b"\\n") + b"\n")


def copy_row(fields: list[bytes | None]) -> bytes:
    parts = [struct.pack(">h", len(fields))]
    for field in fields:
        parts.append(struct.pack(">i", -1) if field is None else struct.pack(">i", len(field)) + field)
    return b"".join(parts)


def body_of_rows(page_type: PageType, rows: list[bytes]) -> bytes:
    if page_type is PageType.PG_COPY_BINARY:
        return pages.PG_COPY_HEADER + b"".join(rows) + pages.PG_COPY_TRAILER
    return b"".join(rows)


def complaint_about(page_type: PageType, body: bytes) -> str:
    """What is wrong with a body; empty where nothing is. Anything but PluginBugError fails the test."""
    try:
        pages.count_rows(page_type, body)
    except PluginBugError as error:
        return str(error)
    return ""


@st.composite
def bodies(draw: st.DrawFn, min_rows: int = 0) -> tuple[PageType, list[bytes]]:
    page_type = draw(st.sampled_from(SPLITTABLE))
    row = {
        PageType.BSON: DOCUMENTS.map(bson.encode),
        PageType.JSON: LINES,
        PageType.PG_COPY_TEXT: LINES,
        PageType.PG_COPY_BINARY: COPY_ROWS.map(copy_row),
    }[page_type]
    return page_type, draw(st.lists(row, min_size=min_rows, max_size=8))


@given(bodies())
def test_rows_are_counted(body: tuple[PageType, list[bytes]]) -> None:
    """Whatever the rows hold: lengths are followed, values are not looked at."""
    page_type, rows = body
    assert pages.count_rows(page_type, body_of_rows(page_type, rows)) == len(rows)


@given(bodies(min_rows=2), st.data())
def test_a_page_is_cut_between_two_rows(body: tuple[PageType, list[bytes]], data: st.DataObject) -> None:
    """Both halves are complete pages, a COPY stream with header and trailer, and together hold every row in order."""
    page_type, rows = body
    at_row = data.draw(st.integers(1, len(rows) - 1))
    buffer: Buffer = data.draw(st.sampled_from([bytes, bytearray, memoryview]))(body_of_rows(page_type, rows))
    page = Page(type=page_type, rows=len(rows), packed=buffer, next_cursor=b"c")
    first, second = pages.split_page(page, at_row)
    assert (first.rows, second.rows) == (at_row, len(rows) - at_row)
    assert first.packed == body_of_rows(page_type, rows[:at_row])
    assert second.packed == body_of_rows(page_type, rows[at_row:])
    assert first.next_cursor == second.next_cursor == b"c"


@given(st.lists(st.binary(), min_size=2), st.data())
def test_a_page_of_single_records_is_cut_too(records: list[bytes], data: st.DataObject) -> None:
    """As it comes from a peer that speaks adiom.v1 alone."""
    at_row = data.draw(st.integers(1, len(records) - 1))
    first, second = pages.split_page(Page(type=PageType.JSON, rows=len(records), records=records), at_row)
    assert (first.records, second.records) == (records[:at_row], records[at_row:])


@given(st.lists(DOCUMENTS.map(bson.encode), max_size=8))
def test_documents_are_packed_and_unpacked(documents: list[bytes]) -> None:
    """A BSON document says its own length, so a page of them is their concatenation."""
    body = pages.join_records(PageType.BSON, documents)
    assert body == b"".join(documents)
    assert pages.split_records(PageType.BSON, memoryview(body)) == documents


def test_json_objects_are_packed_as_lines() -> None:
    """A line break in JSON text can only be white space: inside a string it is escaped."""
    records = [b'{"id": 1}', b'{\n  "id": 2,\r\n  "text": "a\\nb"\n}']
    body = pages.join_records(PageType.JSON, records)
    assert body.count(b"\n") == 2
    assert pages.split_records(PageType.JSON, body)[0] == b'{"id": 1}\n'
    assert [json.loads(line) for line in pages.split_records(PageType.JSON, body)] == [
        json.loads(record) for record in records
    ]


@given(bodies(min_rows=1), st.data())
def test_a_damaged_body_is_refused_or_still_well_formed(
    body: tuple[PageType, list[bytes]], data: st.DataObject
) -> None:
    """One changed byte may hit a value, which nobody can see; it never breaks anything but the page itself."""
    page_type, rows = body
    damaged = bytearray(body_of_rows(page_type, rows))
    position = data.draw(st.integers(0, len(damaged) - 1))
    damaged[position] = data.draw(st.integers(0, 255))
    complaint = complaint_about(page_type, bytes(damaged))
    assert complaint == "" or "malformed at byte" in complaint


@given(bodies(min_rows=1), st.data())
def test_a_body_that_was_cut_short_is_refused(body: tuple[PageType, list[bytes]], data: st.DataObject) -> None:
    """Inside a record, never silently: what is missing would be a lost row."""
    page_type, rows = body
    whole = body_of_rows(page_type, rows)
    start = len(whole) - len(rows[-1]) if page_type is not PageType.PG_COPY_BINARY else 0
    cut = data.draw(st.integers(start + 1, len(whole) - 1)) if len(whole) > start + 1 else None
    if cut is not None:
        with pytest.raises(PluginBugError, match="malformed at byte"):
            pages.count_rows(page_type, whole[:cut])


@given(st.sampled_from(SPLITTABLE), st.binary(max_size=200))
def test_noise_is_never_more_than_refused(page_type: PageType, noise: bytes) -> None:
    """No input makes the walk fail in another way, or walk for ever."""
    complaint = complaint_about(page_type, noise)
    assert complaint == "" or "malformed at byte" in complaint
    assert len(complaint) < 150


@pytest.mark.parametrize(
    "body",
    [
        b"",
        pages.PG_COPY_HEADER,
        pages.PG_COPY_HEADER + pages.PG_COPY_TRAILER + b"x",
        b"PGCOPY\n\xff\r\n\1" + bytes(8) + pages.PG_COPY_TRAILER,
        pages.PG_COPY_SIGNATURE + struct.pack(">Ii", 1 << 16, 0) + pages.PG_COPY_TRAILER,
        pages.PG_COPY_SIGNATURE + struct.pack(">Ii", 0, -1) + pages.PG_COPY_TRAILER,
        pages.PG_COPY_HEADER + struct.pack(">hi", 1, -2) + pages.PG_COPY_TRAILER,
        pages.PG_COPY_HEADER + struct.pack(">h", -7) + pages.PG_COPY_TRAILER,
    ],
    ids=["nothing", "no trailer", "more after it", "signature", "flags", "extension", "length", "field count"],
)
def test_a_copy_stream_is_held_to_its_format(body: bytes) -> None:
    """A complete stream, or none: the sink's server would refuse it later and less clearly."""
    with pytest.raises(PluginBugError, match="PG_COPY_BINARY page is malformed"):
        pages.count_rows(PageType.PG_COPY_BINARY, body)


def test_a_copy_header_may_have_an_extension() -> None:
    """Readers skip what they do not know in it (PostgreSQL manual, COPY)."""
    header = pages.PG_COPY_SIGNATURE + struct.pack(">Ii", 0, 3) + b"abc"
    body = header + copy_row([b"1"]) + copy_row([b"2"]) + pages.PG_COPY_TRAILER
    page = Page(type=PageType.PG_COPY_BINARY, rows=2, packed=body)
    _, second = pages.split_page(page, 1)
    assert second.packed == header + copy_row([b"2"]) + pages.PG_COPY_TRAILER


def test_a_page_that_miscounts_its_rows_is_refused() -> None:
    """Halving by a wrong count would lose rows or bury good ones."""
    page = Page(type=PageType.PG_COPY_TEXT, rows=3, packed=b"a\nb\n")
    with pytest.raises(PluginBugError, match="says it has 3 rows and has 2"):
        pages.split_page(page, 1)


@pytest.mark.parametrize("at_row", [0, 2, -1])
def test_a_cut_leaves_rows_on_both_sides(at_row: int) -> None:
    """Halving ends at one row, so that it ends."""
    with pytest.raises(ValueError, match="cannot be cut"):
        pages.split_page(Page(type=PageType.PG_COPY_TEXT, rows=2, packed=b"a\nb\n"), at_row)


@pytest.mark.parametrize("page_type", SPLITTABLE)
def test_an_empty_page_has_no_rows(page_type: PageType) -> None:
    """It carries a ledger row alone, and is complete in its format."""
    page = pages.empty_page(page_type)
    assert page.rows == 0
    assert pages.count_rows(page_type, pages.body_of(page)) == 0


def test_a_page_by_reference_is_loaded_before_it_is_looked_at() -> None:
    """These functions never open files: which directory is trusted is the store's business."""
    page = Page(type=PageType.BSON, rows=2, ref=PageRef(name="x", size_bytes=1))
    with pytest.raises(ValueError, match="loaded from its store"):
        pages.split_page(page, 1)


def test_copy_rows_are_no_records_for_adiom_v1() -> None:
    """A foreign peer has no name for them."""
    with pytest.raises(ValueError, match="no records that adiom"):
        pages.split_records(PageType.PG_COPY_BINARY, b"")
