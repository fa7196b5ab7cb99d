"""Tables as a plan knows them: what the snapshot's catalogue says, and where their rows lie.

The catalogue is read under the snapshot, since the file and the columns that a partition is bound to are those which
its rows were written with; sizes are read as they are now, since every row that the snapshot sees lies within.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import LiteralString

from dsync.sdk import errors
from dsync_postgres.schema.names import TableName
from dsync_postgres.sessions import Connection

_FINGERPRINT_BYTES = 8
# The types whose octet_length the server knows without fetching or decompressing the value.
_MEASURED_OIDS = frozenset({17, 25, 1042, 1043})
BYTEA_OID = 17


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedColumn:
    """A column, as far as reading it goes."""

    name: str
    number: int
    """attnum."""
    type_oid: int
    modifier: int
    base_oid: int
    """The type below domains."""
    is_domain: bool
    generated: bool
    may_be_large: bool
    """Its values may be stored outside the row, or compressed."""
    send: str
    """The function that gives the binary form, quoted."""

    @property
    def is_measured(self) -> bool:
        """The server knows a value's length without fetching it."""
        return self.base_oid in _MEASURED_OIDS


@dataclass(frozen=True, kw_only=True)
class PlannedTable:
    """A table under a snapshot."""

    name: TableName
    oid: int
    kind: str
    """pg_class.relkind."""
    filenode: int
    """Of the snapshot."""
    current_filenode: int | None
    """At the time of planning; None: it was dropped."""
    block_bytes: int
    size_bytes: int
    """The main fork, measured after the snapshot was taken."""
    outside_bytes: int
    """What is stored outside the rows (TOAST)."""
    estimated_rows: int
    """-1: never analysed."""
    can_select: bool
    """On the table as a whole, which reading ctid takes, with USAGE on its schema."""
    hides_rows: bool
    """Row security applies to this role."""
    columns: tuple[PlannedColumn, ...]

    @property
    def blocks(self) -> int:
        """How many blocks hold the snapshot's rows."""
        return -(-self.size_bytes // self.block_bytes)

    @cached_property
    def fingerprint(self) -> bytes:
        """Differs once a column is added, dropped, renamed or of another type."""
        parts = [(c.number, c.name, c.type_oid, c.modifier, c.generated) for c in self.columns]
        return hashlib.blake2b(repr(parts).encode(), digest_size=_FINGERPRINT_BYTES).digest()

    @cached_property
    def readable(self) -> dict[str, PlannedColumn]:
        """The columns that are read: those that the server does not compute."""
        return {column.name: column for column in self.columns if not column.generated}

    def choose(self, names: Sequence[str]) -> list[PlannedColumn]:
        """The columns with these names, in that order; none: all that are read.

        Raises:
            RequestError: there is no such column, or the server computes it.
        """
        if not names:
            return list(self.readable.values())
        missing = [name for name in names if name not in self.readable]
        if missing:
            raise errors.RequestError(
                f"reading {self.name}: it has no column {missing[0]!r} that could be read; plan the flow again"
            )
        return [self.readable[name] for name in names]


_TABLES: LiteralString = """
SELECT n.nspname::text, c.relname::text, c.oid::int8, c.relkind::text, c.relfilenode::int8,
       pg_relation_filenode(c.oid)::int8, current_setting('block_size')::int,
       CASE WHEN c.relkind = 'r' THEN coalesce(pg_relation_size(c.oid), 0) ELSE 0 END,
       coalesce(pg_relation_size(nullif(c.reltoastrelid, 0)), 0), c.reltuples::int8,
       coalesce(has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT'), false),
       coalesce(row_security_active(c.oid), false)
FROM unnest(%(schemas)s::text[], %(names)s::text[]) AS w(schema, name)
JOIN pg_namespace n ON n.nspname = w.schema
JOIN pg_class c ON c.relname = w.name AND c.relnamespace = n.oid AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
"""

_COLUMNS: LiteralString = """
WITH RECURSIVE below(domain, oid) AS (
    SELECT oid, typbasetype FROM pg_type WHERE typtype = 'd'
  UNION ALL
    SELECT below.domain, t.typbasetype FROM below JOIN pg_type t ON t.oid = below.oid WHERE t.typtype = 'd'
), base AS (
    SELECT below.domain, below.oid FROM below JOIN pg_type t ON t.oid = below.oid WHERE t.typtype <> 'd'
)
SELECT a.attrelid::int8, a.attname::text, a.attnum::int, a.atttypid::int8, a.atttypmod,
       coalesce(base.oid, a.atttypid)::int8, t.typtype = 'd', a.attgenerated <> '',
       a.attlen = -1 AND a.attstorage <> 'p', quote_ident(sn.nspname) || '.' || quote_ident(s.proname)
FROM pg_attribute a
JOIN pg_type t ON t.oid = a.atttypid
LEFT JOIN base ON base.domain = a.atttypid
LEFT JOIN pg_proc s ON s.oid = t.typsend
LEFT JOIN pg_namespace sn ON sn.oid = s.pronamespace
WHERE a.attrelid = ANY(%(oids)s::oid[]) AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attrelid, a.attnum
"""


def read_planned(connection: Connection, names: Iterable[TableName]) -> dict[TableName, PlannedTable]:
    """Return the tables of these names that the transaction's snapshot sees; two queries for any number of them."""
    wanted = list(names)
    rows = connection.execute(
        _TABLES, {"schemas": [name.schema for name in wanted], "names": [name.name for name in wanted]}
    ).fetchall()
    columns = _read_columns(connection, [row[2] for row in rows])
    found: dict[TableName, PlannedTable] = {}
    for row in rows:
        schema, relation, oid, kind, filenode, current, block_bytes, size_bytes, outside_bytes, estimate = row[:10]
        name = TableName(schema=schema, name=relation)
        found[name] = PlannedTable(
            name=name,
            oid=oid,
            kind=kind,
            filenode=filenode,
            current_filenode=current,
            block_bytes=block_bytes,
            size_bytes=size_bytes,
            outside_bytes=outside_bytes,
            estimated_rows=estimate,
            can_select=row[10],
            hides_rows=row[11],
            columns=tuple(columns[oid]),
        )
    return found


def _read_columns(connection: Connection, oids: list[int]) -> defaultdict[int, list[PlannedColumn]]:
    found: defaultdict[int, list[PlannedColumn]] = defaultdict(list)
    for oid, name, number, type_oid, modifier, base_oid, is_domain, generated, large, send in connection.execute(
        _COLUMNS, {"oids": oids}
    ):
        found[oid].append(
            PlannedColumn(
                name=name,
                number=number,
                type_oid=type_oid,
                modifier=modifier,
                base_oid=base_oid,
                is_domain=is_domain,
                generated=generated,
                may_be_large=large,
                send=send or "",
            )
        )
    return found
