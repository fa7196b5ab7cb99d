"""The bodies of pages: taken apart into records, put together, counted and cut in two.

A body is packed: its records stand one after the other and delimit themselves. BSON documents begin with their
length; JSON objects and COPY text rows end with a newline; a binary COPY stream has a header, rows of counted
fields and a trailer (PostgreSQL manual, COPY, "Binary Format"; the same in versions 14 to 18). Whatever does not
fit this is the sender's bug and raises PluginBugError with an offset, never with content.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Iterable, Iterator, Sequence

from dsync.protocol.errors import PluginBugError
from dsync.protocol.types import Buffer, Page, PageType

PG_COPY_SIGNATURE = b"PGCOPY\n\xff\r\n\0"
PG_COPY_HEADER = PG_COPY_SIGNATURE + bytes(8)
"""Signature, no flags, no extension: what every supported server writes."""
PG_COPY_TRAILER = b"\xff\xff"

_INT16 = struct.Struct(">h")
_INT32 = struct.Struct(">i")
_BSON_LENGTH = struct.Struct("<i")
_BSON_SMALLEST = 5
# COPY's flag bits 16 to 31 change the format in ways that older readers must refuse.
_CRITICAL_FLAGS = 0xFFFF0000

_SPLITTABLE = frozenset({PageType.BSON, PageType.JSON})


def split_records(page_type: PageType, body: Buffer) -> list[bytes]:
    """The records of a packed body as adiom.v1 carries them: BSON documents or JSON objects."""
    if page_type not in _SPLITTABLE:
        raise ValueError(f"a {page_type.name} page has no records that adiom.v1 could carry")
    view = memoryview(body)
    return [bytes(view[start:end]) for start, end in _spans(page_type, view)]


def join_records(page_type: PageType, records: Iterable[bytes]) -> bytes:
    """The packed body of single records; the inverse of `split_records`."""
    if page_type is PageType.BSON:
        return b"".join(records)
    if page_type is PageType.JSON:
        return b"".join(map(_json_line, records))
    raise ValueError(f"a {page_type.name} page does not come as single records")


def _json_line(record: bytes) -> bytes:
    # Inside a JSON string a line break is escaped, so a bare one is white space that a blank can stand for.
    if b"\n" in record or b"\r" in record:
        record = record.replace(b"\r", b" ").replace(b"\n", b" ")
    return record + b"\n"


def records_of(page: Page) -> Sequence[bytes]:
    """The page's records one by one; a page by reference is loaded before."""
    if page.records is not None:
        return page.records
    return split_records(page.type, body_of(page))


def packed(page: Page) -> Page:
    """The same page with a packed body, or the page itself where it has one or is in a file."""
    if page.records is None:
        return page
    return dataclasses.replace(page, records=None, packed=join_records(page.type, page.records))


def body_of(page: Page) -> Buffer:
    """The packed body of a page that holds its body itself."""
    if page.packed is not None:
        return page.packed
    if page.records is not None:
        return join_records(page.type, page.records)
    raise ValueError("a page by reference is loaded from its store first")


def count_rows(page_type: PageType, body: Buffer) -> int:
    """How many records a packed body holds, by walking it."""
    return sum(1 for _ in _spans(page_type, memoryview(body)))


def empty_page(page_type: PageType) -> Page:
    """A page without rows: what a sink is given when only its ledger has to move on."""
    body = PG_COPY_HEADER + PG_COPY_TRAILER if page_type is PageType.PG_COPY_BINARY else b""
    return Page(type=page_type, rows=0, packed=body)


def split_page(page: Page, at_row: int) -> tuple[Page, Page]:
    """Cut a page before row `at_row` into two complete pages, each with at least one row.

    Both keep the page's cursor: it tells what follows the whole, and a half has none of its own.

    Raises:
        PluginBugError: the body is malformed or does not hold the rows that the page claims.
    """
    if not 0 < at_row < page.rows:
        raise ValueError(f"a page of {page.rows} rows cannot be cut at row {at_row}")
    if page.records is not None:
        first, second = page.records[:at_row], page.records[at_row:]
        return (
            dataclasses.replace(page, rows=at_row, records=first),
            dataclasses.replace(page, rows=page.rows - at_row, records=second),
        )
    head, tail = _cut_body(page.type, memoryview(body_of(page)), at_row, page.rows)
    return (
        dataclasses.replace(page, rows=at_row, packed=head),
        dataclasses.replace(page, rows=page.rows - at_row, packed=tail),
    )


def _cut_body(page_type: PageType, view: memoryview, at_row: int, rows: int) -> tuple[bytes, bytes]:
    starts = [start for start, _ in _spans(page_type, view)]
    if len(starts) != rows:
        raise PluginBugError(f"a {page_type.name} page says it has {rows} rows and has {len(starts)}")
    cut = starts[at_row]
    if page_type is not PageType.PG_COPY_BINARY:
        return bytes(view[:cut]), bytes(view[cut:])
    header = bytes(view[: starts[0]])
    return bytes(view[:cut]) + PG_COPY_TRAILER, header + bytes(view[cut:])


def _spans(page_type: PageType, view: memoryview) -> Iterator[tuple[int, int]]:
    """Where each record starts and ends."""
    if page_type is PageType.BSON:
        return _bson_spans(view)
    if page_type in (PageType.JSON, PageType.PG_COPY_TEXT):
        return _line_spans(page_type, view)
    if page_type is PageType.PG_COPY_BINARY:
        return _copy_spans(view)
    raise ValueError(f"pages of type {page_type.name} cannot be taken apart")


def _bson_spans(view: memoryview) -> Iterator[tuple[int, int]]:
    start, total = 0, len(view)
    while start < total:
        if total - start < _BSON_SMALLEST:
            raise _malformed(PageType.BSON, start)
        (length,) = _BSON_LENGTH.unpack_from(view, start)
        end = start + length
        if length < _BSON_SMALLEST or end > total or view[end - 1] != 0:
            raise _malformed(PageType.BSON, start)
        yield start, end
        start = end


def _line_spans(page_type: PageType, view: memoryview) -> Iterator[tuple[int, int]]:
    body = bytes(view)
    start = 0
    while start < len(body):
        end = body.find(b"\n", start) + 1
        if end == 0:
            raise _malformed(page_type, start)
        yield start, end
        start = end


def _copy_spans(view: memoryview) -> Iterator[tuple[int, int]]:
    try:
        position = _copy_header_bytes(view)
        while True:
            start = position
            (fields,) = _INT16.unpack_from(view, position)
            position += 2
            if fields == -1:
                break
            if fields < 0:
                raise _malformed(PageType.PG_COPY_BINARY, start)
            for _ in range(fields):
                (length,) = _INT32.unpack_from(view, position)
                position += 4 + max(length, 0)
                if length < -1:
                    raise _malformed(PageType.PG_COPY_BINARY, start)
            if position > len(view):
                raise _malformed(PageType.PG_COPY_BINARY, start)
            yield start, position
    except struct.error as exc:
        raise _malformed(PageType.PG_COPY_BINARY, len(view)) from exc
    if position != len(view):
        raise _malformed(PageType.PG_COPY_BINARY, position)


def _copy_header_bytes(view: memoryview) -> int:
    """The length of the header."""
    signature = len(PG_COPY_SIGNATURE)
    if view[:signature] != PG_COPY_SIGNATURE:
        raise _malformed(PageType.PG_COPY_BINARY, 0)
    flags, extension = struct.unpack_from(">Ii", view, signature)
    if flags & _CRITICAL_FLAGS or extension < 0:
        raise _malformed(PageType.PG_COPY_BINARY, signature)
    return int(signature + 8 + extension)


def _malformed(page_type: PageType, offset: int) -> PluginBugError:
    return PluginBugError(f"a {page_type.name} page is malformed at byte {offset}: a bug of the plug-in that sent it")
