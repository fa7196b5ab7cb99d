"""Takes a table's rows out as documents and puts them into a second table of the same shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import psycopg
from dsync_postgres.documents import LineDecoder, LineEncoder, RowDecoder, RowEncoder, read_own_types
from dsync_postgres.sink.staging import read_text
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


def copy_out(
    connection: psycopg.Connection, table: str, columns: Sequence[str], as_text: frozenset[str] = frozenset()
) -> bytes:
    """A table's rows as binary COPY, some columns as text."""
    listed = sql.SQL(", ").join(
        sql.SQL("CASE WHEN {0} IS DISTINCT FROM NULL THEN format('%s', {0}) END").format(sql.Identifier(name))
        if name in as_text
        else sql.SQL("ctid")
        if name == "ctid"
        else sql.Identifier(name)
        for name in columns
    )
    query = sql.SQL("COPY (SELECT {} FROM ONLY {}) TO STDOUT (FORMAT binary)").format(listed, _name(table))
    with connection.cursor().copy(query) as copy:
        return b"".join(map(bytes, copy))


def copy_in(
    connection: psycopg.Connection, table: str, columns: Sequence[str], page: bytes, as_text: frozenset[str]
) -> None:
    """Load a page of binary COPY; columns that it has as text go through a stage."""
    listed = sql.SQL(", ").join(map(sql.Identifier, columns))
    if not as_text:
        target = (
            sql.SQL("COPY {} ({})").format(_name(table), listed) if columns else sql.SQL("COPY {}").format(_name(table))
        )
        with connection.cursor().copy(target + sql.SQL(" FROM STDIN (FORMAT binary)")) as copy:
            copy.write(page)
        return
    kinds = {column.name: column.type for column in columns_of(connection, table)}
    made = sql.SQL(", ").join(
        sql.SQL("NULL::text AS {}").format(sql.Identifier(n)) if n in as_text else sql.Identifier(n) for n in columns
    )
    connection.execute("DROP TABLE IF EXISTS stage")
    connection.execute(sql.SQL("CREATE TABLE stage AS SELECT {} FROM {} WITH NO DATA").format(made, _name(table)))
    with connection.cursor().copy("COPY stage FROM STDIN (FORMAT binary)") as copy:
        copy.write(page)
    taken = sql.SQL(", ").join(read_text(n, kinds[n]) if n in as_text else sql.Identifier(n) for n in columns)
    connection.execute(sql.SQL("INSERT INTO {} ({}) SELECT {} FROM stage").format(_name(table), listed, taken))


def text_rows(connection: psycopg.Connection, table: str) -> list[bytes]:
    """A table's rows as the server prints them, in no order that means anything, hence sorted."""
    connection.execute("SET extra_float_digits = 3")
    with connection.cursor().copy(sql.SQL("COPY {} TO STDOUT").format(_name(table))) as copy:
        return sorted(map(bytes, copy))


def documents_of(
    connection: psycopg.Connection, table: str, make: type[RowEncoder] | type[LineEncoder] = RowEncoder
) -> tuple[bytes, int]:
    """All rows of a table as packed documents, or as lines of JSON."""
    columns = columns_of(connection, table)
    encoder = make(columns, read_own_types(connection))
    names = (["ctid"] if encoder.needs_ctid else []) + [column.name for column in columns]
    return encoder.encode_copy_binary(copy_out(connection, table, names, encoder.text_columns))


def load_documents(
    connection: psycopg.Connection,
    table: str,
    packed: bytes,
    make: type[RowDecoder] | type[LineDecoder] = RowDecoder,
) -> int:
    """Write packed documents, or lines of JSON, into a table and return how many rows that made."""
    columns = columns_of(connection, table)
    decoder = make(columns, read_own_types(connection))
    page, rows = decoder.decode(packed)
    copy_in(connection, table, [column.name for column in columns], page, decoder.text_columns)
    return rows


def _name(table: str) -> sql.Identifier:
    return sql.Identifier(table)
