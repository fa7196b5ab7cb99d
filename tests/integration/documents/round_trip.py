"""Takes a table's rows out as documents and puts them into a second table of the same shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import psycopg
from dsync_postgres.documents import RowDecoder, RowEncoder
from psycopg import sql


@dataclass(frozen=True, kw_only=True)
class TableColumn:
    """A column as the catalogue has it."""

    name: str
    type: str
    key_position: int = 0


def columns_of(connection: psycopg.Connection, table: str) -> list[TableColumn]:
    """The columns of a table, with their places in its primary key."""
    rows = connection.execute(
        "SELECT a.attname, format_type(a.atttypid, a.atttypmod),"
        " coalesce(array_position(i.indkey::smallint[], a.attnum) + 1, 0)"
        " FROM pg_attribute a LEFT JOIN pg_index i ON i.indrelid = a.attrelid AND i.indisprimary"
        " WHERE a.attrelid = to_regclass(%s) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
        [f'"{table}"'],
    ).fetchall()
    return [TableColumn(name=name, type=printed, key_position=position) for name, printed, position in rows]


def copy_out(connection: psycopg.Connection, table: str, columns: Sequence[str]) -> bytes:
    """A table's rows as binary COPY."""
    query = sql.SQL("COPY (SELECT {} FROM ONLY {}) TO STDOUT (FORMAT binary)").format(_list(columns), _name(table))
    with connection.cursor().copy(query) as copy:
        return b"".join(map(bytes, copy))


def copy_in(connection: psycopg.Connection, table: str, columns: Sequence[str], page: bytes) -> None:
    """Load a page of binary COPY."""
    target = sql.SQL("COPY {}").format(_name(table))
    if columns:
        target += sql.SQL(" ({})").format(_list(columns))
    with connection.cursor().copy(target + sql.SQL(" FROM STDIN (FORMAT binary)")) as copy:
        copy.write(page)


def text_rows(connection: psycopg.Connection, table: str) -> list[bytes]:
    """A table's rows as the server prints them, in no order that means anything, hence sorted."""
    connection.execute("SET extra_float_digits = 3")
    with connection.cursor().copy(sql.SQL("COPY {} TO STDOUT").format(_name(table))) as copy:
        return sorted(map(bytes, copy))


def documents_of(connection: psycopg.Connection, table: str) -> tuple[bytes, int]:
    """All rows of a table as packed documents."""
    columns = columns_of(connection, table)
    encoder = RowEncoder(columns)
    names = (["ctid"] if encoder.needs_ctid else []) + [column.name for column in columns]
    return encoder.encode_copy_binary(copy_out(connection, table, names))


def load_documents(connection: psycopg.Connection, table: str, packed: bytes) -> int:
    """Write packed documents into a table and return how many rows that made."""
    columns = columns_of(connection, table)
    page, rows = RowDecoder(columns).decode(packed)
    copy_in(connection, table, [column.name for column in columns], page)
    return rows


def _list(columns: Sequence[str]) -> sql.Composed:
    return sql.SQL(", ").join(sql.SQL("ctid") if name == "ctid" else sql.Identifier(name) for name in columns)


def _name(table: str) -> sql.Identifier:
    return sql.Identifier(table)
