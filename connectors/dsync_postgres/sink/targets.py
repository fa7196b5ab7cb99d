"""The sink's tables as a write finds them: columns, key, and what fires when a row arrives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from dsync_postgres.schema.configuration import CONDITION, condition_of
from dsync_postgres.schema.names import TableName
from dsync_postgres.schema.shapes import read_shapes

Connection = psycopg.Connection[tuple[Any, ...]]

_FIRST_OWN_OID = 16384
"""What comes with the server has smaller ones (FirstNormalObjectId in transam.h)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetColumn:
    """One column that a row can bring, or that the table computes."""

    name: str
    type: str
    """format_type with its modifier."""
    type_oid: int
    not_null: bool
    generated: bool
    """The table computes it: it is never written."""
    identity_always: bool
    """GENERATED ALWAYS AS IDENTITY: DO UPDATE may not set it."""
    has_default: bool
    has_binary_input: bool
    """Its type can be received in binary here."""
    shape: str = ""
    """What its type is made of, where the name does not say it."""
    plain_type: str = ""
    """The type without its modifier, as SQL."""
    has_array: bool = False
    """There are arrays of its type, with commas between them, and `unnest` does not take it apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetTrigger:
    """A trigger of the user's own, or of a foreign key, that a written row could fire."""

    name: str
    enabled: str
    """pg_trigger.tgenabled: O origin, R replica, A always, D disabled."""
    is_foreign_key: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetTable:
    """A table of the sink."""

    name: TableName
    oid: int
    kind: str
    """pg_class.relkind: r table, p partitioned table; others take no rows."""
    unlogged: bool
    """Whether its ledger rows lie in the unlogged twin."""
    owned: bool
    """This role is its owner, or has the owner's rights."""
    can_insert: bool
    row_security_applies: bool
    """Policies would judge this role's rows."""
    has_insert_rules: bool
    is_referenced: bool
    """Foreign keys of other tables point here: TRUNCATE is refused."""
    has_blocks: bool
    """False: it is certainly empty."""
    columns: tuple[TargetColumn, ...]
    keys: tuple[tuple[str, ...], ...]
    """Unique indexes that ON CONFLICT can use and that know no NULL, the best first."""
    uniques: tuple[tuple[str, ...], ...] = ()
    """Those, and all others over plain columns: no two rows may agree in them."""
    triggers: tuple[TargetTrigger, ...]
    """Those that are not disabled, of its partitions too."""
    is_extensions: bool = False
    """It belongs to an extension, in whose tables users keep rows: it is neither made nor dropped by itself."""
    kept: str = ""
    """Of an extension's table the condition of the users' rows, in brackets: it has no others. Empty: all of them."""

    @property
    def key(self) -> tuple[str, ...]:
        """What rows are told apart by; empty where there is nothing."""
        return self.keys[0] if self.keys else ()

    @property
    def written(self) -> tuple[str, ...]:
        """The columns that a row can bring."""
        return tuple(column.name for column in self.columns if not column.generated)

    @property
    def fires(self) -> bool:
        """In an ordinary session a written row would fire something."""
        return any(trigger.enabled in "OA" for trigger in self.triggers)

    @property
    def fires_in_replica(self) -> bool:
        """Also under session_replication_role = replica."""
        return any(trigger.enabled in "RA" for trigger in self.triggers)

    def column(self, name: str) -> TargetColumn | None:
        """The column of that name."""
        return next((column for column in self.columns if column.name == name), None)

    @property
    def identifier(self) -> sql.Identifier:
        return self.name.identifier

    @property
    def rows(self) -> sql.Composed:
        """For FROM and DELETE FROM: the rows that it has itself; of a partitioned table those of its partitions."""
        own = sql.SQL("{}" if self.kind == "p" else "ONLY {}").format(self.identifier)
        return own + sql.SQL(f" WHERE {self.kept}") if self.kept else own


# FROM ONLY of a partitioned table shows nothing, so what is loaded through a root is looked at with its partitions.
# TG: ROW 1, INSERT 4, UPDATE 16 (pg_trigger.h); statement triggers of INSERT fire for COPY too.
_TABLES = f"""
SELECT a.schema, a.name, c.oid, c.relkind::text AS kind,
       CASE c.relkind WHEN 'r' THEN c.relpersistence = 'u' WHEN 'p' THEN EXISTS (
           SELECT FROM pg_partition_tree(c.oid) p JOIN pg_class l ON l.oid = p.relid
           WHERE p.isleaf AND l.relpersistence = 'u') ELSE false END AS unlogged,
       pg_has_role(c.relowner, 'USAGE') AS owned,
       has_schema_privilege(n.oid, 'USAGE') AND has_any_column_privilege(c.oid, 'INSERT') AS can_insert,
       c.relrowsecurity AND row_security_active(c.oid) AS row_security_applies,
       EXISTS (SELECT FROM pg_rewrite r WHERE r.ev_class = c.oid AND r.ev_type IN ('2', '3') AND r.ev_enabled <> 'D')
         AS has_insert_rules,
       EXISTS (SELECT FROM pg_constraint k WHERE k.confrelid = c.oid AND k.contype = 'f' AND k.conrelid <> c.oid)
         AS is_referenced,
       c.relkind <> 'r' OR pg_relation_size(c.oid) > 0 AS has_blocks, {CONDITION} AS configuration
FROM unnest(%(schemas)s::text[], %(names)s::text[]) AS a (schema, name)
JOIN pg_namespace n ON n.nspname = a.schema JOIN pg_class c ON (c.relnamespace, c.relname) = (n.oid, a.name)
"""
_COLUMNS = """
SELECT a.attrelid AS oid, a.attname::text AS name, format_type(a.atttypid, a.atttypmod) AS type, a.atttypid AS type_oid,
       a.attnotnull AS not_null, a.attgenerated <> '' AS generated, a.attidentity = 'a' AS identity_always,
       a.atthasdef OR a.attidentity <> '' AS has_default, t.typreceive <> 0 AS has_binary_input,
       format_type(a.atttypid, -1) AS plain_type, t.typarray <> 0 AND t.typdelim = ','
         AND t.typtype <> 'c' AND coalesce(b.typtype NOT IN ('c', 'd'), true) AS has_array
FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid LEFT JOIN pg_type b ON b.oid = t.typbasetype
WHERE a.attrelid = ANY(%(oids)s) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attrelid, a.attnum
"""
_KEYS = """
SELECT i.indrelid AS oid, array_agg(a.attname::text ORDER BY k.place) AS columns,
       bool_and(a.attnotnull AND i.indimmediate) AS is_key
FROM pg_index i CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k (number, place)
JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number
WHERE i.indrelid = ANY(%(oids)s) AND i.indisunique AND i.indisvalid AND i.indislive
  AND i.indpred IS NULL AND i.indexprs IS NULL AND k.place <= i.indnkeyatts
GROUP BY i.indexrelid, i.indrelid, i.indisprimary, i.indisreplident, i.indnkeyatts
ORDER BY i.indisprimary DESC, i.indisreplident DESC, i.indnkeyatts, i.indexrelid
"""
_TRIGGERS = """
SELECT root.oid, t.tgname::text AS name, t.tgenabled::text AS enabled, t.tgconstraint <> 0 AND t.tgisinternal
         AS is_foreign_key
FROM unnest(%(oids)s::oid[]) AS root (oid) CROSS JOIN LATERAL (
    SELECT root.oid AS member UNION SELECT p.relid FROM pg_partition_tree(root.oid) p) m
JOIN pg_trigger t ON t.tgrelid = m.member
WHERE t.tgenabled <> 'D' AND (t.tgtype & 20) <> 0
  AND (NOT t.tgisinternal OR EXISTS (
    SELECT FROM pg_constraint k WHERE k.oid = t.tgconstraint AND k.conrelid = t.tgrelid AND k.contype = 'f'))
ORDER BY root.oid, t.tgname
"""


def read_targets(connection: Connection, names: Iterable[TableName]) -> dict[TableName, TargetTable]:
    """What there is of these tables, in four round trips whatever their number; absent ones are left out."""
    wanted = list(names)
    with connection.cursor(row_factory=dict_row) as cursor:
        tables = cursor.execute(
            _TABLES, {"schemas": [name.schema for name in wanted], "names": [name.name for name in wanted]}
        ).fetchall()
    oids = [row["oid"] for row in tables]
    columns = _grouped(connection, _COLUMNS, oids)
    shapes: Mapping[int, str] = {}
    if any(column["type_oid"] >= _FIRST_OWN_OID for rows in columns.values() for column in rows):
        shapes = read_shapes(connection)
    keys = _grouped(connection, _KEYS, oids)
    triggers = _grouped(connection, _TRIGGERS, oids)
    found: dict[TableName, TargetTable] = {}
    for row in tables:
        oid = row["oid"]
        name = TableName(schema=row.pop("schema"), name=row.pop("name"))
        configuration = row.pop("configuration")
        found[name] = TargetTable(
            name=name,
            columns=tuple(
                TargetColumn(**column, shape=shapes.get(column["type_oid"], "")) for column in columns.get(oid, ())
            ),
            keys=tuple(tuple(key["columns"]) for key in keys.get(oid, ()) if key["is_key"]),
            uniques=tuple(tuple(key["columns"]) for key in keys.get(oid, ())),
            triggers=tuple(TargetTrigger(**trigger) for trigger in triggers.get(oid, ())),
            is_extensions=configuration is not None,
            kept=condition_of(configuration or "") or "",
            **row,
        )
    return found


def _grouped(connection: Connection, query: str, oids: list[int]) -> Mapping[int, list[dict[str, Any]]]:
    found: dict[int, list[dict[str, Any]]] = {}
    with connection.cursor(row_factory=dict_row) as cursor:
        for row in cursor.execute(query.encode(), {"oids": oids}):
            found.setdefault(row.pop("oid"), []).append(row)
    return found


def are_empty(connection: Connection, tables: Iterable[TargetTable]) -> dict[TableName, bool]:
    """Whether each table is without rows of its own; a partitioned table, whether its partitions are.

    One round trip. Takes rows into account that other sessions have committed by now.
    """
    unsure = [table for table in tables if table.has_blocks]
    answers = {table.name: True for table in tables}
    for start in range(0, len(unsure), _TABLES_A_QUERY):
        batch = unsure[start : start + _TABLES_A_QUERY]
        questions = [sql.SQL("NOT EXISTS (SELECT FROM {})").format(table.rows) for table in batch]
        row = connection.execute(sql.SQL("SELECT {}").format(sql.SQL(", ").join(questions))).fetchone()
        assert row is not None, "a SELECT without FROM gives one row"
        answers.update(zip((table.name for table in batch), row, strict=True))
    return answers


# One statement has a place for this many results, and takes a lock on each table.
_TABLES_A_QUERY = 500


def may_be_replica(connection: Connection) -> bool:
    """Whether this role may set session_replication_role: superuser, or granted SET on it (15 and later)."""
    try:
        with connection.transaction(force_rollback=True):
            connection.execute("SET LOCAL session_replication_role = replica")
    except psycopg.errors.InsufficientPrivilege:
        return False
    return True
