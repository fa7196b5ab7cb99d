"""How a table's columns are laid out in a document, and the pieces that the two compiled loops share.

Field order: `_id`, then the columns as COPY gives them. `_id` is the key's value, or a document of the key's columns in
key order; a table without key has an ObjectId made of the row's place and content there. Columns keep their names, but
for `_id`, `__id` and so on: a column named so gets one more underscore. A column `_id` that alone is the key is not
repeated.
"""

from __future__ import annotations

import contextlib
import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from dsync_postgres.documents.bson import NULL, Misfit, elements
from dsync_postgres.documents.own_types import EMPTY_BOOK, TypeBook
from dsync_postgres.documents.types import ColumnType, parse_type
from dsync_postgres.documents.values import BlobForm, FixedForm, blob_form, fixed_form

_LENGTH = struct.Struct("<i")
BSON_ID, JSON_ID = "_id", "id"
"""What a document's first field is called, as adiom.v1 has it."""
_ESCAPED = {BSON_ID: re.compile(r"_+id"), JSON_ID: re.compile(r"_*id")}


class DocumentColumn(Protocol):
    """What the mapping needs to know of a column; `dsync.sdk.types.Column` has it."""

    @property
    def name(self) -> str: ...

    @property
    def type(self) -> str:
        """As format_type prints it."""
        ...

    @property
    def key_position(self) -> int:
        """1, 2, … in key order; 0: not part of the key."""
        ...


@dataclass(frozen=True, kw_only=True)
class Item:
    """One column of a table, as COPY and as a document see it."""

    index: int
    column: str
    """The column's name."""
    name: bytes
    """The field's name with its NUL."""
    type: ColumnType
    fixed: FixedForm | None
    blob: BlobForm | None
    is_field: bool = True
    """It has a field of its own besides its place in `_id`."""

    @classmethod
    def of(cls, index: int, column: str, column_type: ColumnType, *, sole_key: str, identity: str) -> Item:
        """A column; `sole_key` is the one that alone makes up the key, if there is one."""
        return cls(
            index=index,
            column=column,
            name=field_name(column, identity).encode() + b"\0",
            type=column_type,
            fixed=fixed_form(column_type),
            blob=blob_form(column_type),
            is_field=not (column == identity == sole_key),
        )

    @property
    def quick_type(self) -> int | None:
        """The BSON type of which the quick loops take it to be; None: they call its function."""
        form = self.fixed or self.blob
        return None if form is None else form.bson_type

    @property
    def column_name(self) -> bytes:
        """The column's name with a NUL, as a composite `_id` has it."""
        return self.column.encode() + b"\0"

    @property
    def is_named_alike(self) -> bool:
        """The field has the column's name."""
        return self.name == self.column_name


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The columns of a table and which of them make up `_id`, in key order."""

    items: tuple[Item, ...]
    key: tuple[Item, ...]
    identity: str = BSON_ID
    """What the first field is called."""

    @property
    def id_name(self) -> bytes:
        """The same with its NUL."""
        return self.identity.encode() + b"\0"

    @property
    def texts(self) -> frozenset[str]:
        """The columns that travel as the text that the server makes of them."""
        return frozenset(item.column for item in self.items if item.type.is_by_text)

    @property
    def fields(self) -> tuple[Item, ...]:
        """The columns that have a field of their own."""
        return tuple(item for item in self.items if item.is_field)


def field_name(column: str, identity: str = BSON_ID) -> str:
    """The name of a column's field; no other column's field has it, nor the identity."""
    return "_" + column if _ESCAPED[identity].fullmatch(column) else column


def layout_of(columns: Sequence[DocumentColumn], book: TypeBook = EMPTY_BOOK, *, identity: str = BSON_ID) -> Layout:
    """The layout of a table, with the types of its server's own."""
    keyed = sorted((column.key_position, index) for index, column in enumerate(columns) if column.key_position)
    sole_key = columns[keyed[0][1]].name if len(keyed) == 1 else ""
    items = tuple(
        Item.of(index, column.name, parse_type(column.type, book), sole_key=sole_key, identity=identity)
        for index, column in enumerate(columns)
    )
    return Layout(items=items, key=tuple(items[index] for _, index in keyed), identity=identity)


def with_key(layout: Layout, key: Sequence[int]) -> Layout:
    """The same table, taken to have the columns at these places for its key."""
    sole_key = layout.items[key[0]].column if len(key) == 1 else ""
    items = tuple(
        Item.of(item.index, item.column, item.type, sole_key=sole_key, identity=layout.identity)
        for item in layout.items
    )
    return Layout(items=items, key=tuple(items[index] for index in key), identity=layout.identity)


def odd_columns(layout: Layout, data: bytes | bytearray, position: int) -> Iterator[int]:
    """Which columns of the document at a position are not of the type that the quick loops expect, NULLs above all."""
    (length,) = _LENGTH.unpack_from(data, position)
    by_name = {item.name[:-1]: item for item in layout.fields}
    with contextlib.suppress(Misfit):
        for kind, name, _, _ in elements(bytes(data[position : position + length]), 0, length):
            item = by_name.get(name)
            if item is not None and (kind == NULL or kind != (item.quick_type or kind)):
                yield item.index
