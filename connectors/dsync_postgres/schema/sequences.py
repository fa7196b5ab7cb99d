"""Sequences and where they stand."""

from __future__ import annotations

from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, LiteralString, overload

from psycopg import sql

from dsync_postgres.schema.names import TableName
from dsync_postgres.schema.reading import Asynchronous, Blocking, Reading, Row

# One statement for many sequences; much longer ones cost more to parse than the round trips they save.
_BATCH = 200

_SEQUENCES: LiteralString = """
SELECT n.nspname AS schema, c.relname AS name, c.relpersistence::text AS persistence,
       has_schema_privilege(n.oid, 'USAGE') AND has_sequence_privilege(c.oid, 'SELECT') AS can_select,
       o.schema AS owner_schema, o.name AS owner_name, coalesce(o.is_identity, false) AS is_identity
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN LATERAL (
    SELECT tn.nspname AS schema, t.relname AS name, d.deptype = 'i' AS is_identity
    FROM pg_depend d JOIN pg_class t ON t.oid = d.refobjid JOIN pg_namespace tn ON tn.oid = t.relnamespace
    WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.refclassid = 'pg_class'::regclass
      AND d.refobjsubid > 0 AND d.deptype IN ('a', 'i')
    LIMIT 1) o ON true
WHERE c.relkind = 'S' AND n.nspname NOT IN ('pg_catalog', 'information_schema', '_dsync')
  AND n.nspname !~ '^pg_(toast_)?temp_'
ORDER BY n.nspname COLLATE "C", c.relname COLLATE "C"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceFacts:
    """A sequence of the database."""

    name: TableName
    persistence: str
    can_select: bool
    """Without it its position cannot be read."""
    owner_table: TableName | None
    """The table whose column it is for."""
    is_identity: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SequencePosition:
    """Where a sequence stood when it was read; sequences know no snapshot."""

    name: TableName
    last_value: int
    is_called: bool
    """False: the next value is `last_value` itself."""


def _assemble(rows: Iterable[Row]) -> dict[TableName, SequenceFacts]:
    found: dict[TableName, SequenceFacts] = {}
    for row in rows:
        name = TableName(schema=row.pop("schema"), name=row.pop("name"))
        schema, table = row.pop("owner_schema"), row.pop("owner_name")
        owner = None if schema is None else TableName(schema=schema, name=table)
        found[name] = SequenceFacts(name=name, owner_table=owner, **row)
    return found


read_sequences = Reading(_assemble, _SEQUENCES)
"""All sequences by name, those of identity columns included."""

Positions = tuple[SequencePosition, ...]


@overload
def read_positions(connection: Blocking, names: Iterable[TableName]) -> Positions: ...


@overload
def read_positions(connection: Asynchronous, names: Iterable[TableName]) -> Coroutine[Any, Any, Positions]: ...


def read_positions(
    connection: Blocking | Asynchronous, names: Iterable[TableName]
) -> Positions | Coroutine[Any, Any, Positions]:
    """Return where these sequences stand now, in the order asked.

    The view pg_sequences would not do: it hides the value of a sequence that was set but not yet called.
    """
    wanted = list(names)
    reading = Reading(
        lambda *answers: tuple(_position(wanted, row) for rows in answers for row in rows),
        *(_positions_query(at, wanted[at : at + _BATCH]) for at in range(0, len(wanted), _BATCH)),
    )
    return reading(connection)


def _positions_query(first: int, names: Sequence[TableName]) -> sql.Composed:
    selects = [
        sql.SQL("SELECT {}::int AS at, last_value, is_called FROM {}").format(sql.Literal(at), name.identifier)
        for at, name in enumerate(names, first)
    ]
    return sql.SQL(" UNION ALL ").join(selects) + sql.SQL(" ORDER BY at")


def _position(names: Sequence[TableName], row: Row) -> SequencePosition:
    return SequencePosition(name=names[row["at"]], last_value=row["last_value"], is_called=row["is_called"])


def set_position(position: SequencePosition, *, only_forward: bool) -> str:
    """Return the statement that puts the sink's sequence where the source's stood; repeating it is harmless.

    With `only_forward` a sequence that is further along already, in its own direction, stays where it is.
    """
    parts = {
        "name": sql.Literal(position.name.identifier.as_string(None)),
        "sequence": position.name.identifier,
        "value": sql.Literal(position.last_value),
        "called": sql.Literal(position.is_called),
    }
    text = sql.SQL("SELECT pg_catalog.setval({name}::pg_catalog.regclass, {value}, {called})").format(**parts)
    if only_forward:
        text += sql.SQL(
            " FROM {sequence} AS s, pg_catalog.pg_sequence AS q WHERE q.seqrelid = {name}::pg_catalog.regclass"
            " AND CASE WHEN q.seqincrement > 0 THEN (s.last_value, s.is_called) < ({value}, {called})"
            " ELSE (-s.last_value::numeric, s.is_called) < (-({value})::numeric, {called}) END"
        ).format(**parts)
    return text.as_string(None)
