"""Rows as BSON documents and back: the form in which PostgreSQL meets every other connector.

`docs/types.md` has the mapping as a table, with its reasons; `MAPPING_VERSION` counts its changes. Between two
PostgreSQL servers it loses nothing: what BSON has no exact place for travels in another exact form, as text or as
a document, and what a column cannot hold without a change is refused.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Sequence

from dsync.sdk.errors import PluginBugError, RecordError
from dsync.sdk.types import Buffer
from dsync_postgres.documents.bson import Misfit
from dsync_postgres.documents.decode import compile_decoder
from dsync_postgres.documents.encode import compile_encoder
from dsync_postgres.documents.foreign import ForeignReader, likely_key
from dsync_postgres.documents.layout import (
    BSON_ID,
    JSON_ID,
    DocumentColumn,
    Layout,
    field_name,
    layout_of,
    odd_columns,
    with_key,
)
from dsync_postgres.documents.lines import LineReader, LineWriter, split_lines
from dsync_postgres.documents.own_types import EMPTY_BOOK, TypeBook, read_own_types

__all__ = [
    "BSON_ID",
    "EMPTY_BOOK",
    "JSON_ID",
    "MAPPING_VERSION",
    "Decoder",
    "DocumentColumn",
    "DocumentError",
    "Encoder",
    "LineDecoder",
    "LineEncoder",
    "RowDecoder",
    "RowEncoder",
    "TypeBook",
    "field_name",
    "read_own_types",
    "split_documents",
    "split_lines",
]

MAPPING_VERSION = 1
"""Rises when a value would travel in another form than before."""

_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_SIGNATURE_BYTES = 11
_TRAILER = b"\xff\xff"
_FLAGS_AND_EXTENSION = struct.Struct(">Ii")
_LENGTH = struct.Struct("<i")
# A column is taken to have values until it had none in more than one row of so many.
_NULLS_SHARE = 100
# Rows that miss for other reasons: with more than one in so many the careful loop alone is quicker.
_MISSES_SHARE = 5


class _Expectation:
    """Which columns a quick loop is made for; learns from each page. Safe to share between threads."""

    def __init__(self, columns: int) -> None:
        self.present = frozenset(range(columns))

    def learn(self, *, rows: int, misses: int, odd: Counter[int]) -> bool:
        """After a page: whether another set of columns is to be expected from now on.

        `odd` counts by column what was NULL in rows that missed, or of another type than it mostly is.
        """
        before = self.present
        self.present = before - {column for column, count in odd.items() if count * _NULLS_SHARE > rows}
        if self.present == before and misses * _MISSES_SHARE > rows:
            self.present = frozenset()
        return self.present != before


class DocumentError(RecordError):
    """A document that cannot become a row of its table: which field, and why, never what is in it."""

    def __init__(self, message: str, *, index: int = -1) -> None:
        super().__init__(message)
        self.index = index
        """Which record of the page it is; -1 where that is not known."""


class RowEncoder:
    """Turns pages of binary COPY into packed BSON, for one table."""

    def __init__(
        self, columns: Sequence[DocumentColumn], book: TypeBook = EMPTY_BOOK, *, identity: str = BSON_ID
    ) -> None:
        """Take the columns as the COPY lists them, and what the database's own types are made of."""
        layout = layout_of(columns, book, identity=identity)
        self.text_columns = layout.texts
        """These the COPY must give as text, made by the types' own output functions."""
        self.needs_ctid = not layout.key
        """The table has no key: its COPY must list `ctid` before the columns, and `_id` is made from it."""
        self._layout = layout
        self._expectation = _Expectation(len(columns))
        self._quick = compile_encoder(layout, present=self._expectation.present)
        self._careful = compile_encoder(layout, present=frozenset())

    def encode_copy_binary(self, data: Buffer) -> tuple[bytes, int]:
        """Return the documents of a complete binary COPY stream, one after the other, and how many they are.

        Raises:
            PluginBugError: the stream is not one of these columns.
        """
        stream = bytes(data)
        position, last = _rows_of(stream)
        out = bytearray()
        odd: Counter[int] = Counter()

        def missed(data: bytes, position: int, out: bytearray) -> int:
            before = len(out)
            after, _, _ = self._careful(data, position, position + 1, out, _refuse_row)
            odd.update(odd_columns(self._layout, out, before))
            return after

        position, rows, misses = self._quick(stream, position, last, out, missed)
        if position != last:
            raise _malformed(position)
        if self._expectation.learn(rows=rows, misses=misses, odd=odd):
            self._quick = compile_encoder(self._layout, present=self._expectation.present)
        return bytes(out), rows


class RowDecoder:
    """Turns BSON documents into pages of binary COPY, for the columns of one table."""

    def __init__(
        self, columns: Sequence[DocumentColumn], book: TypeBook = EMPTY_BOOK, *, identity: str = BSON_ID
    ) -> None:
        """Take the columns as the COPY into the table lists them, and what the database's own types are made of."""
        layout = layout_of(columns, book, identity=identity)
        self.text_columns = layout.texts
        """These come out as text, for the types' own input functions."""
        self._foreign = ForeignReader(layout)
        self._has_key = bool(layout.key)
        self._use(layout)

    def _use(self, layout: Layout) -> None:
        self._layout = layout
        self._expectation = _Expectation(len(layout.items))
        self._quick = compile_decoder(layout, present=self._expectation.present)
        self._careful = compile_decoder(layout, present=frozenset())

    def decode(self, documents: Buffer | Sequence[bytes]) -> tuple[bytes, int]:
        """Return a complete binary COPY stream of the documents, packed or single, and the number of rows.

        A field that is missing is NULL; a key column that is missing is taken from `_id`.

        Raises:
            DocumentError: a document is not BSON, has a field that is no column, or a value that its column
                cannot hold as it is. The documents before it are good.
        """
        data = bytes(documents) if isinstance(documents, bytes | bytearray | memoryview) else b"".join(documents)
        if not self._has_key and data:
            # A table is loaded before it gets its key, and documents have it in `_id` all the same.
            self._has_key = True
            self._use(with_key(self._layout, likely_key(self._layout, data)))
        out = bytearray(_HEADER)
        odd: Counter[int] = Counter()

        def missed(data: bytes, position: int, rows: int, out: bytearray) -> int:
            if not self._expectation.present:
                # What the careful loop has missed, it would miss again.
                return self._foreign_document(data, position, rows, out)
            after = self._one_document(data, position, rows, out)
            odd.update(odd_columns(self._layout, data, position))
            return after

        _, rows, misses = self._quick(data, 0, len(data), out, missed)
        if self._expectation.learn(rows=rows, misses=misses, odd=odd):
            self._quick = compile_decoder(self._layout, present=self._expectation.present)
        out += _TRAILER
        return bytes(out), rows

    def _one_document(self, data: bytes, position: int, rows: int, out: bytearray) -> int:
        def missed(data: bytes, position: int, _: int, out: bytearray) -> int:
            return self._foreign_document(data, position, rows, out)

        after, _, _ = self._careful(data, position, position + 1, out, missed)
        return after

    def _foreign_document(self, data: bytes, position: int, rows: int, out: bytearray) -> int:
        try:
            return self._foreign.read(data, position, out)
        except Misfit as exc:
            raise DocumentError(str(exc), index=rows) from exc


class LineEncoder:
    """Turns pages of binary COPY into lines of JSON, for one table."""

    def __init__(self, columns: Sequence[DocumentColumn], book: TypeBook = EMPTY_BOOK) -> None:
        """As a RowEncoder."""
        self._rows = RowEncoder(columns, book, identity=JSON_ID)
        self._writer = LineWriter(layout_of(columns, book, identity=JSON_ID))
        self.needs_ctid = self._rows.needs_ctid
        self.text_columns = self._rows.text_columns

    def encode_copy_binary(self, data: Buffer) -> tuple[bytes, int]:
        """As `RowEncoder.encode_copy_binary`, but lines."""
        packed, rows = self._rows.encode_copy_binary(data)
        return self._writer.write(packed), rows


class LineDecoder:
    """Turns lines of JSON into pages of binary COPY, for the columns of one table."""

    def __init__(self, columns: Sequence[DocumentColumn], book: TypeBook = EMPTY_BOOK) -> None:
        """As a RowDecoder."""
        self._rows = RowDecoder(columns, book, identity=JSON_ID)
        self._reader = LineReader(layout_of(columns, book, identity=JSON_ID))
        self.text_columns = self._rows.text_columns

    def decode(self, lines: Buffer) -> tuple[bytes, int]:
        """As `RowDecoder.decode`.

        Raises:
            DocumentError: a line is no JSON object, or as there.
        """
        documents: list[bytes] = []
        for line in split_lines(lines):
            try:
                documents.append(self._reader.read(line))
            except Misfit as exc:
                raise DocumentError(str(exc), index=len(documents)) from exc
        return self._rows.decode(documents)


Encoder = RowEncoder | LineEncoder
"""What makes documents of rows, in one form or the other."""
Decoder = RowDecoder | LineDecoder
"""What makes rows of documents."""


def split_documents(packed: Buffer) -> list[bytes]:
    """The single documents of a packed page."""
    data = bytes(packed)
    documents, position = [], 0
    while position < len(data):
        end = position + _LENGTH.unpack_from(data, position)[0]
        documents.append(data[position:end])
        position = end
    return documents


def _rows_of(stream: bytes) -> tuple[int, int]:
    """Where the rows of a COPY stream begin and end."""
    if stream[:_SIGNATURE_BYTES] != _HEADER[:_SIGNATURE_BYTES] or stream[-2:] != _TRAILER:
        raise _malformed(0)
    _, extension_bytes = _FLAGS_AND_EXTENSION.unpack_from(stream, _SIGNATURE_BYTES)
    return len(_HEADER) + extension_bytes, len(stream) - len(_TRAILER)


def _refuse_row(data: bytes, position: int, out: bytearray) -> int:
    raise _malformed(position)


def _malformed(position: int) -> PluginBugError:
    return PluginBugError(f"a binary COPY page is not of the columns expected, at byte {position}")
