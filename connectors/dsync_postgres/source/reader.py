"""How a table's rows are asked for: the COPY of a range, and what rows weigh before they are read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from psycopg import sql

from dsync_postgres.source.cursors import Tid
from dsync_postgres.source.planned import BYTEA_OID, PlannedColumn, PlannedTable

# A page may weigh so many times what was asked for before it is cut: estimates from the page before are rough.
_TOLERANCE = 4
# What compression makes of a value at the most: pglz copies up to 273 bytes for three, lz4 255 for one.
_PGLZ_RATIO, _LZ4_RATIO = 92, 256
# An escape in text doubles a byte, and so does bytea's hex form.
_TEXT_RATIO = 2
# What a row weighs beside its large values: fixed-length columns and the fields' lengths.
_INLINE_BYTES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a page should weigh and may weigh."""

    page_bytes: int
    max_bytes: int

    @property
    def cut_bytes(self) -> int:
        """From here on a page of several rows is cut."""
        return min(self.max_bytes, _TOLERANCE * self.page_bytes)


@dataclass(frozen=True, kw_only=True)
class TableReader:
    """How a table's rows are asked for, in one format and with one list of columns."""

    table: PlannedTable
    columns: tuple[PlannedColumn, ...]
    is_binary: bool = True
    with_place: bool = False
    """ctid comes before the columns."""
    as_text: frozenset[str] = frozenset()
    """Columns of a binary COPY whose values come as the text that their type's output function makes."""
    condition: str = ""
    """Rows that do not meet it do not exist for the reader; in brackets."""

    @cached_property
    def source(self) -> str:
        """The table in SQL; without ONLY a parent gives its children's rows too."""
        return f"FROM ONLY {self.table.name.identifier.as_string(None)}"

    def within(self, start: Tid, end: Tid | None) -> str:
        """The condition of a range: place, and what rows have to meet."""
        return self.kept(between(start, end))

    def kept(self, where: str) -> str:
        """That condition, for rows that exist for the reader."""
        return f"{where} AND {self.condition}" if self.condition else where

    @cached_property
    def _list(self) -> str:
        names = [_as_text(column) if column.name in self.as_text else _quoted(column) for column in self.columns]
        return ", ".join(["ctid", *names] if self.with_place else names)

    @cached_property
    def _large(self) -> tuple[PlannedColumn, ...]:
        return tuple(column for column in self.columns if column.may_be_large)

    def may_hold_giants(self, limits: Limits) -> bool:
        """Whether a row may be over the limit, for all that is known without looking."""
        return bool(self._large) and self.table.outside_bytes * _LZ4_RATIO > limits.max_bytes

    @cached_property
    def likely_bytes(self) -> str:
        """An expression for what a row will weigh, without fetching what lies outside of it."""
        return _sum(_likely(column, self.is_binary) for column in self._large)

    @cached_property
    def most_bytes(self) -> str:
        """An expression that no row's weight exceeds, without fetching what lies outside of it."""
        return _sum(_at_most(column, self.is_binary) for column in self._large)

    @cached_property
    def exact_bytes(self) -> str:
        """An expression for what a row weighs, which fetches all of it."""
        return _sum(_exactly(column, self.is_binary and column.name not in self.as_text) for column in self._large)

    def copy(self, start: Tid, end: Tid | None, *, guard_bytes: int = 0) -> bytes:
        """The COPY of a range; with a guard it fails with division_by_zero before a row that might weigh more."""
        where = self.within(start, end)
        if guard_bytes:
            # A CASE, for the order of evaluation; not a plain 1 / 0, which planning would already fail on.
            where += (
                f" AND CASE WHEN {self.most_bytes} <= {guard_bytes} THEN true ELSE 1 / (tableoid::int8 * 0) = 1 END"
            )
        form = "binary" if self.is_binary else "text"
        return f"COPY (SELECT {self._list} {self.source} WHERE {where}) TO STDOUT (FORMAT {form})".encode()


def between(start: Tid, end: Tid | None) -> str:
    """A condition on the place of rows: from `start`, before `end`, which None leaves open."""
    lower = f"ctid >= '({start[0]},{start[1]})'::tid"
    return lower if end is None else f"{lower} AND ctid < '({end[0]},{end[1]})'::tid"


def _quoted(column: PlannedColumn) -> str:
    return sql.Identifier(column.name).as_string(None)


def _as_text(column: PlannedColumn) -> str:
    """What the type's output function prints: a cast to text may be something else, and NULL is not an empty text.

    IS NULL would also be true of a composite value whose fields are all NULL.
    """
    name = _quoted(column)
    return f"CASE WHEN {name} IS DISTINCT FROM NULL THEN format('%s', {name}) END AS {name}"


def _sum(terms: Iterable[str]) -> str:
    return "(" + " + ".join([*terms, f"{_INLINE_BYTES}::int8"]) + ")"


def _likely(column: PlannedColumn, is_binary: bool) -> str:
    name = _quoted(column)
    if not column.is_measured:
        return f"coalesce(pg_column_size({name}), 0)::int8"
    factor = _TEXT_RATIO if column.base_oid == BYTEA_OID and not is_binary else 1
    return f"coalesce(octet_length({name}), 0)::int8 * {factor}"


def _at_most(column: PlannedColumn, is_binary: bool) -> str:
    name = _quoted(column)
    if column.is_measured:
        return f"coalesce(octet_length({name}), 0)::int8 * {1 if is_binary else _TEXT_RATIO}"
    # Its printed or sent form may be larger than the stored one too: a quote in JSON, an array's lengths.
    return (
        f"coalesce(pg_column_size({name}), 0)::int8 * {_TEXT_RATIO} * CASE pg_column_compression({name})"
        f" WHEN 'pglz' THEN {_PGLZ_RATIO} WHEN 'lz4' THEN {_LZ4_RATIO} ELSE 1 END"
    )


def _exactly(column: PlannedColumn, is_binary: bool) -> str:
    name = _quoted(column)
    if column.is_measured and is_binary:
        return f"coalesce(octet_length({name}), 0)::int8"
    if is_binary and column.send:
        return f"coalesce(octet_length({column.send}({name})), 0)::int8"
    escaped = f"replace(replace({name}::text, '\\', '\\\\'), chr(10), '\\n')"
    return f"coalesce(octet_length({escaped}), 0)::int8"
