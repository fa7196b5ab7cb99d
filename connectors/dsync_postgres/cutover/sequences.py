"""Sequences at both ends of a cut-over: where they stand, and moving them there."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from dsync.sdk import types
from dsync_postgres.schema.names import TableName
from dsync_postgres.schema.sequences import SequencePosition, read_positions, set_position
from dsync_postgres.sessions import Connection

# What a sequence is for: the column that owns it, else one whose default takes from it.
_SEQUENCES = b"""
SELECT n.nspname::text, c.relname::text, o.schema, o.name, o.col
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN LATERAL (
    SELECT tn.nspname::text AS schema, t.relname::text AS name, a.attname::text AS col
    FROM (SELECT d.refobjid, d.refobjsubid, 0 AS rank FROM pg_depend d
          WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.refclassid = 'pg_class'::regclass
            AND d.refobjsubid > 0 AND d.deptype IN ('a', 'i')
          UNION ALL
          SELECT f.adrelid, f.adnum, 1 FROM pg_depend d JOIN pg_attrdef f ON f.oid = d.objid
          WHERE d.classid = 'pg_attrdef'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid) u
    JOIN pg_class t ON t.oid = u.refobjid JOIN pg_namespace tn ON tn.oid = t.relnamespace
    JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = u.refobjsubid
    ORDER BY u.rank, t.oid, a.attnum LIMIT 1) o ON true
WHERE c.relkind = 'S' AND c.relpersistence <> 't'
  AND n.nspname NOT IN ('pg_catalog', 'information_schema', '_dsync') AND n.nspname !~ '^pg_(toast_)?temp_'
ORDER BY 1, 2
"""


def read_sequences(
    connection: Connection, namespaces: Collection[str], *, whole_database: bool
) -> list[types.SequenceState]:
    """Where they stand now, those that are for these tables or all."""
    wanted = []
    for schema, name, owner_schema, owner_name, column in connection.execute(_SEQUENCES).fetchall():
        owner = TableName(schema=owner_schema, name=owner_name).namespace if owner_name is not None else ""
        if whole_database or owner in namespaces:
            wanted.append((TableName(schema=schema, name=name), owner, column or ""))
    positions = read_positions(connection, [name for name, _, _ in wanted]) if wanted else ()
    return [
        types.SequenceState(
            name=name.namespace,
            namespace=owner,
            column=column,
            last_value=position.last_value,
            is_called=position.is_called,
        )
        for (name, owner, column), position in zip(wanted, positions, strict=True)
    ]


def move_sequences(connection: Connection, states: Sequence[types.SequenceState]) -> list[str]:
    """Move each forward to where the source's stands; returns the names of those that there are not."""
    missing = []
    for state in states:
        name = _find(connection, state)
        if name is None:
            missing.append(state.name)
            continue
        position = SequencePosition(name=name, last_value=state.last_value, is_called=state.is_called)
        connection.execute(set_position(position, only_forward=True).encode())
    return missing


def _find(connection: Connection, state: types.SequenceState) -> TableName | None:
    """By what it is for, since a table may have another name here; else by its own name."""
    owner = TableName.parse(state.namespace).identifier.as_string(None) if state.namespace else None
    own = TableName.parse(state.name)
    row = connection.execute(
        "SELECT n.nspname::text, c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE c.relkind = 'S' AND c.oid = coalesce("
        " (SELECT pg_get_serial_sequence(%(owner)s, %(column)s)::regclass WHERE to_regclass(%(owner)s) IS NOT NULL"
        "   AND EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = to_regclass(%(owner)s)"
        "     AND a.attname = %(column)s AND NOT a.attisdropped)),"
        " to_regclass(%(name)s))",
        {"owner": owner, "column": state.column, "name": own.identifier.as_string(None)},
    ).fetchone()
    return None if row is None else TableName(schema=row[0], name=row[1])
