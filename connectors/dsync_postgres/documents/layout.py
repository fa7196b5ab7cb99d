"""How a table's columns are laid out in a document, and the pieces that the two compiled loops share.

Field order: `_id`, then the columns as COPY gives them. `_id` is the key's value, or a document of the key's columns in
key order; a table without key has an ObjectId made of the row's place and content there. Columns keep their names, but
for `_id`, `__id` and so on: a column named so gets one more underscore. A column `_id` that alone is the key is not
repeated.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from dsync.sdk.errors import UnsupportedError
from dsync_postgres.documents.types import ColumnType, parse_type
from dsync_postgres.documents.values import FixedForm, fixed_form

ID = b"_id\0"
"""The name of a document's first element."""

_ESCAPED = re.compile(r"_+id")


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
    is_text: bool
    """Its bytes are the same on both sides."""
    is_field: bool = True
    """It has a field of its own besides its place in `_id`."""

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

    @property
    def fields(self) -> tuple[Item, ...]:
        """The columns that have a field of their own."""
        return tuple(item for item in self.items if item.is_field)


def field_name(column: str) -> str:
    """The name of a column's field; no other column's field has it."""
    return "_" + column if _ESCAPED.fullmatch(column) else column


def unsupported_columns(columns: Sequence[DocumentColumn]) -> tuple[tuple[str, str], ...]:
    """Name and type of each column that cannot travel as BSON yet."""
    return tuple((column.name, column.type) for column in columns if parse_type(column.type) is None)


def layout_of(columns: Sequence[DocumentColumn]) -> Layout:
    """The layout of a table.

    Raises:
        UnsupportedError: a column's type has no BSON form; it names the column and the type.
    """
    keyed = sorted((column.key_position, index) for index, column in enumerate(columns) if column.key_position)
    sole_key = columns[keyed[0][1]].name if len(keyed) == 1 else ""
    items = tuple(_item(index, column, sole_key) for index, column in enumerate(columns))
    return Layout(items=items, key=tuple(items[index] for _, index in keyed))


def _item(index: int, column: DocumentColumn, sole_key: str) -> Item:
    column_type = parse_type(column.type)
    if column_type is None:
        raise UnsupportedError(
            f"column {column.name!r}: type {column.type} has no BSON form in this version; "
            "leave the table out, or copy between PostgreSQL servers without a transform"
        )
    return Item(
        index=index,
        column=column.name,
        name=field_name(column.name).encode() + b"\0",
        type=column_type,
        fixed=fixed_form(column_type),
        is_text=column_type.is_plain_text,
        is_field=not (column.name == "_id" == sole_key),
    )


@dataclass(slots=True, kw_only=True)
class Code:
    """Python source being written, and the objects that it refers to by name.

    Nothing that comes from a database is ever written into the source: names and values are objects.
    """

    objects: dict[str, object] = field(default_factory=dict)
    _lines: list[str] = field(default_factory=list)
    _names: dict[tuple[type, object], str] = field(default_factory=dict)

    def add(self, indent: int, *lines: str) -> None:
        self._lines += ["    " * indent + line for line in lines]

    def name(self, value: object, prefix: str = "c") -> str:
        """A name that stands for a hashable object in the source."""
        name = self._names.setdefault((type(value), value), f"{prefix}{len(self.objects)}")
        self.objects[name] = value
        return name

    def struct(self, layout: str, method: str) -> str:
        """A name for `struct.Struct(layout).pack` or `.unpack_from`."""
        return self.name(_Bound(layout=layout, method=method), prefix="s")

    def compile(self, function: str) -> object:
        """Run the source and return the function that it defines."""
        namespace = {
            name: value.resolve() if isinstance(value, _Bound) else value for name, value in self.objects.items()
        }
        source = "\n".join(self._lines) + "\n"
        # The text is made from templates of this package alone; see the class.
        exec(compile(source, f"<{function}>", "exec"), namespace)  # noqa: S102
        return namespace[function]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bound:
    layout: str
    method: str

    def resolve(self) -> object:
        return getattr(struct.Struct(self.layout), self.method)
