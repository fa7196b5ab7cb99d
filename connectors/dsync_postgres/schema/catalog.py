"""What a server's catalogue says about its tables: one query a kind for all tables at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import LiteralString

from dsync_postgres.schema.configuration import CONDITION, condition_of
from dsync_postgres.schema.names import TableName
from dsync_postgres.schema.reading import Reading, Row
from dsync_postgres.schema.shapes import INNER_TYPES, read_shapes

DISTRIBUTING = {
    "timescaledb": "its hypertables keep their rows in chunks that belong to the extension",
    "citus": "its distributed tables keep their rows on other servers",
}
"""Extensions that keep the rows of a table somewhere else, so that a copy of the table would be empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnFacts:
    """One column, in the table's own order."""

    name: str
    position: int
    """attnum; dropped columns leave gaps."""
    type: str
    """format_type with its modifier, the same text at every server that has the same type."""
    type_oid: int
    type_kind: str
    """pg_type.typtype: b base, c composite, d domain, e enum, r range, m multirange, p pseudo."""
    type_category: str
    """pg_type.typcategory."""
    not_null: bool
    not_null_name: str
    """Of an inherited column the table's own constraint, where constraints have names (from 18 on); else empty."""
    generated: str
    """Empty, s for stored, v for virtual."""
    identity: str
    """Empty, a for always, d for by default."""
    has_default: bool
    collation: str | None
    """Qualified, where it is not the type's own."""
    can_select: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexFacts:
    """A unique index that could serve as a key."""

    name: str
    columns: tuple[str, ...]
    """Its key columns in order; empty where it is over an expression."""
    is_primary: bool
    is_immediate: bool
    """False for a deferrable constraint, which ON CONFLICT cannot use."""
    is_valid: bool
    is_partial: bool
    nulls_equal: bool
    """NULLS NOT DISTINCT."""
    is_replica_identity: bool
    is_constraint: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TableFacts:
    """A table, partitioned table, view, materialised view or foreign table."""

    oid: int
    name: TableName
    kind: str
    """pg_class.relkind: r, p, v, m or f."""
    persistence: str
    """p permanent, u unlogged, t temporary."""
    owner: str
    is_partition: bool
    parents: tuple[TableName, ...]
    """What it inherits from, or the partitioned table it is a part of."""
    partition_strategy: str | None
    """For a partitioned table: r range, l list, h hash."""
    partition_key_kinds: str
    """Its key columns' typtype, one letter each, `?` for an expression."""
    row_security: bool
    row_security_forced: bool
    row_security_applies: bool
    """To the current role: rows may be hidden from it."""
    can_select: bool
    """On the table as a whole, with USAGE on its schema."""
    filenode: int | None
    """None for what has no storage."""
    size_bytes: int
    """The main fork alone."""
    estimated_rows: float
    """As of the last ANALYZE; negative: never."""
    is_populated: bool
    """False for a materialised view that was never refreshed."""
    replica_identity: str
    """d default, n nothing, f full, i index."""
    triggers: int
    """The user's own; those of foreign keys are not counted."""
    foreign_keys: int
    """From this table to others."""
    referencing: int
    """Foreign keys of other tables, or itself, that point here."""
    access_method: str | None
    tablespace: str | None
    """None: the database's default."""
    extension: str | None
    """The extension it belongs to."""
    configuration: str | None = None
    """Of an extension's table in which users keep rows of their own: which those are, as the extension says it."""
    columns: tuple[ColumnFacts, ...]
    unique_indexes: tuple[IndexFacts, ...]

    @property
    def key(self) -> tuple[str, ...]:
        """The primary key's columns, else empty."""
        return next((index.columns for index in self.unique_indexes if index.is_primary), ())

    @property
    def is_configuration(self) -> bool:
        """It is an extension's, and this role may read which rows of it are the users'."""
        return (
            self.kind == "r"
            and self.configuration is not None
            and condition_of(self.configuration) is not None
            and self.extension not in DISTRIBUTING
            and self.can_select
            and not self.row_security_applies
        )

    @property
    def has_rows(self) -> bool:
        """Whether rows are read from it: not from a partitioned table, a view or a foreign table."""
        return self.kind == "r"


@dataclass(frozen=True, slots=True, kw_only=True)
class TypeFacts:
    """What a column's type is made of, through arrays, domains, composites and ranges."""

    oid: int
    name: str
    parts: frozenset[str]
    """`schema.name`, never quoted, of itself and everything inside: `pg_catalog.interval`."""
    has_binary_io: bool
    """Every part can be sent and received in binary."""
    shape: str = ""
    """What it is made of, where its name does not say it."""


_USER_SCHEMA: LiteralString = """
    n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast', '_dsync')
    AND n.nspname !~ '^pg_(toast_)?temp_'
"""

# to_jsonb lets one text read columns that older servers do not have.
_TABLES: LiteralString = f"""
SELECT c.oid, n.nspname AS schema, c.relname AS name, c.relkind::text AS kind, c.relpersistence::text AS persistence,
       pg_get_userbyid(c.relowner) AS owner, c.relispartition AS is_partition,
       ARRAY(SELECT ARRAY[pn.nspname::text, p.relname::text]
             FROM pg_inherits i JOIN pg_class p ON p.oid = i.inhparent JOIN pg_namespace pn ON pn.oid = p.relnamespace
             WHERE i.inhrelid = c.oid ORDER BY i.inhseqno) AS parents,
       (SELECT pt.partstrat::text FROM pg_partitioned_table pt WHERE pt.partrelid = c.oid) AS partition_strategy,
       coalesce((SELECT string_agg(coalesce(ty.typtype::text, '?'), '' ORDER BY k.ord)
                 FROM pg_partitioned_table pt
                 CROSS JOIN LATERAL unnest(pt.partattrs) WITH ORDINALITY AS k(attnum, ord)
                 LEFT JOIN pg_attribute a ON a.attrelid = pt.partrelid AND a.attnum = k.attnum AND k.attnum > 0
                 LEFT JOIN pg_type ty ON ty.oid = a.atttypid
                 WHERE pt.partrelid = c.oid), '') AS partition_key_kinds,
       c.relrowsecurity AS row_security, c.relforcerowsecurity AS row_security_forced,
       c.relrowsecurity AND row_security_active(c.oid) AS row_security_applies,
       has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT') AS can_select,
       pg_relation_filenode(c.oid)::bigint AS filenode,
       CASE WHEN c.relkind IN ('r', 'm') THEN coalesce(pg_relation_size(c.oid), 0) ELSE 0 END AS size_bytes,
       c.reltuples::float8 AS estimated_rows, c.relispopulated AS is_populated,
       c.relreplident::text AS replica_identity,
       (SELECT count(*) FROM pg_trigger t WHERE t.tgrelid = c.oid AND NOT t.tgisinternal) AS triggers,
       (SELECT count(*) FROM pg_constraint k WHERE k.conrelid = c.oid AND k.contype = 'f') AS foreign_keys,
       (SELECT count(*) FROM pg_constraint k WHERE k.confrelid = c.oid AND k.contype = 'f') AS referencing,
       (SELECT am.amname::text FROM pg_am am WHERE am.oid = c.relam) AS access_method,
       (SELECT s.spcname::text FROM pg_tablespace s WHERE s.oid = c.reltablespace) AS tablespace,
       (SELECT e.extname::text FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
        WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.refclassid = 'pg_extension'::regclass
          AND d.deptype = 'e') AS extension,
       {CONDITION} AS configuration
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND {_USER_SCHEMA}
ORDER BY n.nspname COLLATE "C", c.relname COLLATE "C"
"""

_COLUMNS: LiteralString = f"""
SELECT a.attrelid AS table_oid, a.attname::text AS name, a.attnum::int AS position,
       format_type(a.atttypid, a.atttypmod) AS type, a.atttypid AS type_oid, t.typtype::text AS type_kind,
       t.typcategory::text AS type_category, a.attnotnull AS not_null,
       CASE WHEN a.attnotnull AND a.attinhcount > 0 THEN
            coalesce((SELECT k.conname::text FROM pg_constraint k
                      WHERE k.conrelid = a.attrelid AND k.contype = 'n' AND k.conislocal
                        AND k.conkey = ARRAY[a.attnum]), '')
            ELSE '' END AS not_null_name,
       a.attgenerated::text AS generated,
       a.attidentity::text AS identity, a.atthasdef AND a.attgenerated = '' AS has_default,
       CASE WHEN a.attcollation <> t.typcollation THEN
            (SELECT quote_ident(cn.nspname) || '.' || quote_ident(co.collname)
             FROM pg_collation co JOIN pg_namespace cn ON cn.oid = co.collnamespace WHERE co.oid = a.attcollation)
       END AS collation,
       has_schema_privilege(n.oid, 'USAGE') AND has_column_privilege(c.oid, a.attnum, 'SELECT') AS can_select
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_type t ON t.oid = a.atttypid
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND a.attnum > 0 AND NOT a.attisdropped AND {_USER_SCHEMA}
ORDER BY a.attrelid, a.attnum
"""

_UNIQUE_INDEXES: LiteralString = f"""
SELECT i.indrelid AS table_oid, x.relname::text AS name,
       CASE WHEN i.indexprs IS NULL THEN
            ARRAY(SELECT a.attname::text FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, ord)
                  JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
                  WHERE k.ord <= i.indnkeyatts ORDER BY k.ord)
            ELSE '{{}}'::text[] END AS columns,
       i.indisprimary AS is_primary, i.indimmediate AS is_immediate, i.indisvalid AS is_valid,
       i.indpred IS NOT NULL AS is_partial,
       coalesce((to_jsonb(i) ->> 'indnullsnotdistinct')::boolean, false) AS nulls_equal,
       i.indisreplident AS is_replica_identity,
       EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = x.oid AND k.contype IN ('p', 'u')) AS is_constraint
FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_class c ON c.oid = i.indrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE i.indisunique AND i.indislive AND {_USER_SCHEMA}
ORDER BY i.indrelid, i.indisprimary DESC, x.relname COLLATE "C"
"""

_TYPES: LiteralString = f"""
WITH RECURSIVE part(root, oid) AS (
    SELECT DISTINCT a.atttypid, a.atttypid
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'm', 'f') AND a.attnum > 0 AND NOT a.attisdropped AND {_USER_SCHEMA}
  UNION
    SELECT part.root, inner_type.oid
    FROM part JOIN pg_type t ON t.oid = part.oid
    CROSS JOIN LATERAL (
        {INNER_TYPES}
    ) AS inner_type
)
SELECT part.root AS oid, format_type(part.root, NULL) AS name,
       array_agg(n.nspname || '.' || t.typname) AS parts,
       bool_and(t.typsend <> 0 AND t.typreceive <> 0) AS has_binary_io
FROM part JOIN pg_type t ON t.oid = part.oid JOIN pg_namespace n ON n.oid = t.typnamespace
GROUP BY part.root
"""


def _assemble_tables(
    tables: Iterable[Row], columns: Iterable[Row], indexes: Iterable[Row]
) -> dict[TableName, TableFacts]:
    columns_of: defaultdict[int, list[ColumnFacts]] = defaultdict(list)
    for row in columns:
        columns_of[row.pop("table_oid")].append(ColumnFacts(**row))
    indexes_of: defaultdict[int, list[IndexFacts]] = defaultdict(list)
    for row in indexes:
        key = tuple(row.pop("columns"))
        indexes_of[row.pop("table_oid")].append(IndexFacts(columns=key, **row))
    found: dict[TableName, TableFacts] = {}
    for row in tables:
        name = TableName(schema=row.pop("schema"), name=row.pop("name"))
        found[name] = TableFacts(
            name=name,
            parents=tuple(TableName(schema=schema, name=parent) for schema, parent in row.pop("parents")),
            columns=tuple(columns_of[row["oid"]]),
            unique_indexes=tuple(indexes_of[row["oid"]]),
            **row,
        )
    return found


def _assemble_types(rows: Iterable[Row]) -> dict[int, TypeFacts]:
    return {row["oid"]: TypeFacts(**{**row, "parts": frozenset(row["parts"])}) for row in rows}


def _with_shapes(types: dict[int, TypeFacts], shapes: dict[int, str]) -> dict[int, TypeFacts]:
    return {oid: replace(facts, shape=shapes.get(oid, "")) for oid, facts in types.items()}


read_tables = Reading(_assemble_tables, _TABLES, _COLUMNS, _UNIQUE_INDEXES)
"""Every relation that can hold or show rows, by name, in the order of schema and name."""

read_types = Reading.combined(_with_shapes, types=Reading(_assemble_types, _TYPES), shapes=read_shapes)
"""The types of all tables' columns, by oid of this server."""
