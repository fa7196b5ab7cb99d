"""The statements by which rows are changed: each takes any number of rows, as one array for each column.

Every value goes through its type's input function, either as an element of an array of the type or, where it has no
such arrays, on its own. Modifiers are applied by assignment, as an INSERT applies them: too long a text is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

from dsync_postgres.sink.staging import read_text

if TYPE_CHECKING:
    from dsync_postgres.sink.apply.shape import Indexes, Shape


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """One statement, and what its parameters are."""

    text: bytes
    columns: Indexes
    """A parameter for each: an array of that column's values."""
    has_numbers: bool = False
    """One more parameter follows: an array with an integer for each row."""
    joins_freely: bool = False
    """No index leads to the rows, so the planner needs its hash joins, which are off otherwise."""


def delete(shape: Shape) -> Statement:
    """Delete rows by key."""
    text = sql.SQL("DELETE FROM {} AS t USING {} AS s WHERE {}").format(
        _table(shape), _rows(shape, shape.key), _same_key(shape, shape.key)
    )
    return Statement(text=text.as_bytes(None), columns=shape.key, joins_freely=not shape.is_unique)


def update(shape: Shape) -> Statement:
    """Give rows that are there all of a row's values."""
    return _set(shape, shape.written, where=_same_key(shape, shape.written))


def upsert(shape: Shape) -> tuple[Statement, ...]:
    """Make rows be there with these values; statements that follow each other with the same parameters."""
    if not shape.is_unique:
        first = (update(shape),) if shape.settable else ()
        return (*first, _insert_missing(shape))
    columns = shape.written
    action: sql.Composable = sql.SQL("NOTHING")
    if shape.settable:
        action = sql.SQL("UPDATE SET {}").format(
            _listed(
                sql.SQL("{} = EXCLUDED.{}").format(_name(shape, index), _name(shape, index)) for index in shape.settable
            )
        )
    text = sql.SQL("{} ON CONFLICT ({}) DO {}").format(
        _insert(shape), _listed(_name(shape, index) for index in shape.key), action
    )
    write = Statement(text=text.as_bytes(None), columns=columns)
    return (_delete_unlike(shape), write) if shape.fixed else (write,)


def evict(shape: Shape, unique: Indexes) -> Statement:
    """Delete rows of other keys that agree with these rows in some columns."""
    columns = (*unique, *(index for index in shape.key if index not in unique))
    agree = sql.SQL(" AND ").join(
        sql.SQL("t.{} = {}").format(_name(shape, index), _value(columns, index)) for index in unique
    )
    text = sql.SQL("DELETE FROM {} AS t USING {} AS s WHERE {} AND NOT ({})").format(
        _table(shape), _rows(shape, columns), agree, _same_key(shape, columns)
    )
    return Statement(text=text.as_bytes(None), columns=columns)


def patch(shape: Shape, sent: Indexes) -> Statement:
    """Set some values of rows that are there; returns the number of each row that was."""
    settable = [index for index in sent if index in shape.settable]
    where = _same_key(shape, sent)
    if shape.fixed:
        # A row that differs in what cannot be set is as good as absent: it is read again and written whole.
        same = [sql.SQL("t.{} IS NOT DISTINCT FROM {}").format(_name(shape, i), _value(sent, i)) for i in shape.fixed]
        where = sql.SQL(" AND ").join([where, *same])
    if not settable:
        text = sql.SQL("SELECT s.number FROM {} AS t, {} AS s WHERE {}").format(
            _table(shape), _rows(shape, sent, numbered=True), where
        )
        return Statement(text=text.as_bytes(None), columns=sent, has_numbers=True, joins_freely=not shape.is_unique)
    return _set(shape, sent, where=where, settable=settable, numbered=True)


def move(shape: Shape, sent: Indexes) -> Statement:
    """Give one row another key and these values; after their parameters come those of the old key."""
    columns = (*sent, *shape.key)
    where = sql.SQL(" AND ").join(
        sql.SQL("t.{} = s.c{}").format(_name(shape, index), sql.SQL(str(len(sent) + place)))
        for place, index in enumerate(shape.key)
    )
    settable = [index for index in sent if index in shape.key or index in shape.settable]
    return _set(shape, columns, where=where, settable=settable)


def add(shape: Shape) -> Statement:
    """Insert rows that nothing tells apart from others."""
    return Statement(text=_insert(shape).as_bytes(None), columns=shape.written)


def remove(shape: Shape) -> Statement:
    """Delete as many rows as the numbers say of those that are as these, by their text: json has no `=`."""
    names = _listed(sql.SQL("t.{}").format(_name(shape, index)) for index in shape.written)
    values = _listed(_value(shape.written, index) for index in shape.written)
    text = sql.SQL(
        "WITH wanted AS MATERIALIZED (SELECT ROW({values})::text AS row, s.number FROM {rows} AS s),"
        " found AS MATERIALIZED (SELECT t.ctid AS place, t.tableoid AS part, w.number,"
        " row_number() OVER (PARTITION BY w.row) AS nth FROM {table} AS t JOIN wanted w ON ROW({names})::text = w.row)"
        " DELETE FROM {table} AS t USING found f WHERE t.ctid = f.place AND t.tableoid = f.part AND f.nth <= f.number"
    ).format(values=values, rows=_rows(shape, shape.written, numbered=True), names=names, table=_table(shape))
    return Statement(text=text.as_bytes(None), columns=shape.written, has_numbers=True, joins_freely=True)


def _set(
    shape: Shape,
    columns: Indexes,
    *,
    where: sql.Composable,
    settable: Sequence[int] | None = None,
    numbered: bool = False,
) -> Statement:
    chosen = shape.settable if settable is None else settable
    assignments = _listed(sql.SQL("{} = {}").format(_name(shape, index), _value(columns, index)) for index in chosen)
    text = sql.SQL("UPDATE {} AS t SET {} FROM {} AS s WHERE {}{}").format(
        _table(shape),
        assignments,
        _rows(shape, columns, numbered=numbered),
        where,
        sql.SQL(" RETURNING s.number" if numbered else ""),
    )
    return Statement(text=text.as_bytes(None), columns=columns, has_numbers=numbered, joins_freely=not shape.is_unique)


def _insert(shape: Shape) -> sql.Composed:
    if not shape.written:
        return sql.SQL("INSERT INTO {} DEFAULT VALUES").format(shape.table.identifier)
    return sql.SQL("INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {} AS s").format(
        shape.table.identifier,
        _listed(_name(shape, index) for index in shape.written),
        _listed(_value(shape.written, index) for index in shape.written),
        _rows(shape, shape.written),
    )


def _insert_missing(shape: Shape) -> Statement:
    """Where no unique index of the sink knows the key; nobody else writes keys of this lane."""
    text = sql.SQL("{} WHERE NOT EXISTS (SELECT FROM {} AS t WHERE {})").format(
        _insert(shape), _table(shape), _same_key(shape, shape.written)
    )
    return Statement(text=text.as_bytes(None), columns=shape.written, joins_freely=True)


def _delete_unlike(shape: Shape) -> Statement:
    """Delete the rows that differ in what an UPDATE cannot set: they are inserted anew."""
    unlike = sql.SQL(" OR ").join(
        sql.SQL("t.{} IS DISTINCT FROM {}").format(_name(shape, index), _value(shape.written, index))
        for index in shape.fixed
    )
    text = sql.SQL("DELETE FROM {} AS t USING {} AS s WHERE {} AND ({})").format(
        _table(shape), _rows(shape, shape.written), _same_key(shape, shape.written), unlike
    )
    return Statement(text=text.as_bytes(None), columns=shape.written)


def _table(shape: Shape) -> sql.Composed:
    """Without the tables that inherit from it; a partitioned one consists of nothing else."""
    return sql.SQL("{}{}").format(sql.SQL("" if shape.table.kind == "p" else "ONLY "), shape.table.identifier)


def _name(shape: Shape, index: int) -> sql.Identifier:
    return sql.Identifier(shape.columns[index].name)


def _value(columns: Indexes, index: int) -> sql.SQL:
    return sql.SQL(f"s.c{columns.index(index)}")


def _same_key(shape: Shape, columns: Indexes) -> sql.Composed:
    return sql.SQL(" AND ").join(
        sql.SQL("t.{} = {}").format(_name(shape, index), _value(columns, index)) for index in shape.key
    )


def _rows(shape: Shape, columns: Indexes, *, numbered: bool = False) -> sql.Composed:
    """The parameters as rows (c0, c1, …, number)."""
    arrays, values = [], []
    for place, index in enumerate(columns):
        column = shape.columns[index]
        kind = column.plain_type if column.has_array else "text"
        arrays.append(sql.SQL(f"${place + 1}::{kind}[]"))
        value: sql.Composable = sql.SQL(f"c{place}")
        if not column.has_array:
            value = sql.SQL("{} AS c{}").format(read_text(f"c{place}", column.plain_type), sql.SQL(str(place)))
        values.append(value)
    names = [sql.SQL(f"c{place}") for place in range(len(columns))]
    if numbered:
        arrays.append(sql.SQL(f"${len(columns) + 1}::int4[]"))
        names.append(sql.SQL("number"))
        values.append(sql.SQL("number"))
    return sql.SQL("(SELECT {} FROM unnest({}) AS u ({}))").format(_listed(values), _listed(arrays), _listed(names))


def _listed(items: Iterable[sql.Composable]) -> sql.Composed:
    return sql.SQL(", ").join(items)
