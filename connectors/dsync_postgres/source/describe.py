"""What the source tells about its tables: columns, keys, and in which forms each column can travel."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from dsync.sdk import types
from dsync_postgres.schema.catalog import ColumnFacts, IndexFacts, TableFacts, TypeFacts
from dsync_postgres.schema.findings import stop, warn
from dsync_postgres.schema.names import TableName

_BINARY, _TEXT = types.PageType.PG_COPY_BINARY, types.PageType.PG_COPY_TEXT
_DOCUMENTS = (types.PageType.BSON, types.PageType.JSON)

# Their binary form is an oid, which means another object elsewhere, or is refused when empty (tsquery, the vectors), or
# does not exist (aclitem). Inside arrays, domains and composites too.
_TEXT_ONLY = re.compile(r"pg_catalog\.(reg\w+|tsquery|int2vector|oidvector|aclitem)\Z")
_INTERVAL = "pg_catalog.interval"
_INFINITE_INTERVALS_SINCE = 17
_ORDERS_EVERYWHERE = frozenset(
    {
        "pg_catalog.int2",
        "pg_catalog.int4",
        "pg_catalog.int8",
        "pg_catalog.oid",
        "pg_catalog.numeric",
        "pg_catalog.float4",
        "pg_catalog.float8",
        "pg_catalog.bool",
        "pg_catalog.date",
        "pg_catalog.time",
        "pg_catalog.timestamp",
        "pg_catalog.timestamptz",
        "pg_catalog.uuid",
        "pg_catalog.bytea",
    }
)
_BLOCK_BYTES = 8192
# As the server's planner sees a table that was never analyzed: a row's header and pointer, then its columns.
_ROW_BYTES = 28
_WIDTHS = {
    "boolean": 1,
    "smallint": 2,
    "integer": 4,
    "real": 4,
    "date": 4,
    "oid": 4,
    "bigint": 8,
    "double precision": 8,
    "money": 8,
    "timestamp without time zone": 8,
    "timestamp with time zone": 8,
    "uuid": 16,
}
_USUAL_WIDTH = 32
_KINDS = {"r": "table", "p": "partitioned table", "v": "view", "m": "materialized view"}


def describe_tables(
    tables: Mapping[TableName, TableFacts], kinds: Mapping[int, TypeFacts], *, major: int, peer_major: int
) -> tuple[types.NamespaceDescription, ...]:
    """Every namespace that a user would copy; `peer_major` 0: the other end is no PostgreSQL, or not known."""
    return tuple(
        _describe(table, kinds, major=major, peer_major=peer_major) for table in tables.values() if is_copied(table)
    )


def is_copied(table: TableFacts) -> bool:
    """Not what an extension makes by itself, but for users' rows in it, nor what lies on another server."""
    return table.kind in _KINDS and (table.extension is None or table.is_configuration)


def _describe(
    table: TableFacts, kinds: Mapping[int, TypeFacts], *, major: int, peer_major: int
) -> types.NamespaceDescription:
    positions = {name: place for place, name in enumerate(key_of(table), start=1)}
    return types.NamespaceDescription(
        namespace=table.name.namespace,
        columns=tuple(
            types.Column(
                name=column.name,
                type=column.type,
                not_null=column.not_null,
                generated=bool(column.generated),
                key_position=positions.get(column.name, 0),
                page_types=page_types(column, kinds.get(column.type_oid), major=major, peer_major=peer_major),
                orders_everywhere=_orders_everywhere(kinds.get(column.type_oid)),
                shape=kinds[column.type_oid].shape if column.type_oid in kinds else "",
            )
            for column in table.columns
        ),
        estimated_rows=estimated_rows(table),
        size_bytes=table.size_bytes,
        rowless=not table.has_rows,
        parent=table.parents[0].namespace if table.is_partition and table.parents else "",
        kind="extension's table"
        if table.extension
        else "partition"
        if table.is_partition and table.kind == "r"
        else _KINDS[table.kind],
    )


def estimated_rows(table: TableFacts) -> int:
    """By the last ANALYZE or VACUUM; of a table that has seen none, by its size: 0 would pass for an empty one."""
    if table.estimated_rows >= 0:
        return int(table.estimated_rows)
    width = _ROW_BYTES + sum(_WIDTHS.get(column.type, _USUAL_WIDTH) for column in table.columns)
    return table.size_bytes // _BLOCK_BYTES * max(1, _BLOCK_BYTES // width)


def key_of(table: TableFacts) -> tuple[str, ...]:
    """The primary key, else a unique index that identifies every row, the replica identity before others."""
    if table.key:
        return table.key
    best = key_index_of(table)
    return best.columns if best is not None else ()


def key_index_of(table: TableFacts) -> IndexFacts | None:
    """The best unique index that identifies every row, the replica identity before others."""
    required = {column.name for column in table.columns if column.not_null}
    fitting = [index for index in table.unique_indexes if _identifies(index) and required.issuperset(index.columns)]
    return min(fitting, key=lambda index: (not index.is_replica_identity, len(index.columns), index.name), default=None)


def _identifies(index: IndexFacts) -> bool:
    return bool(index.columns) and index.is_valid and index.is_immediate and not index.is_partial


def page_types(
    column: ColumnFacts, kind: TypeFacts | None, *, major: int, peer_major: int
) -> tuple[types.PageType, ...]:
    """The forms in which a column's values arrive as they were, cheapest first."""
    fitting = [_TEXT]
    if kind is not None and kind.has_binary_io and not _is_text_only(kind, major, peer_major):
        fitting.insert(0, _BINARY)
    return (*fitting, *_DOCUMENTS)


def _is_text_only(kind: TypeFacts, major: int, peer_major: int) -> bool:
    if any(_TEXT_ONLY.match(part) for part in kind.parts):
        return True
    # An infinite interval is a very large finite one to a server that does not know them; as text it is refused.
    loses_infinity = major >= _INFINITE_INTERVALS_SINCE and 0 < peer_major < _INFINITE_INTERVALS_SINCE
    return loses_infinity and _INTERVAL in kind.parts


def _orders_everywhere(kind: TypeFacts | None) -> bool:
    """The type compares alike on every server, whatever its collation."""
    return kind is not None and len(kind.parts) == 1 and kind.parts <= _ORDERS_EVERYWHERE


def skipped_findings(tables: Iterable[TableFacts]) -> tuple[types.Finding, ...]:
    """What a user might miss in the description."""
    return tuple(
        warn("foreign-table", table.name.namespace, "its rows lie on another server and are not copied")
        for table in tables
        if table.kind == "f" and table.extension is None
    )


def table_findings(tables: Iterable[TableFacts]) -> tuple[types.Finding, ...]:
    """What a person should know about these tables before they are read."""
    found: list[types.Finding] = []
    for table in tables:
        if table.kind == "r" and table.extension is None:
            found += _reading_findings(table, table.name.namespace)
        elif table.configuration is not None and table.kind == "r" and not table.is_configuration:
            found.append(
                warn(
                    "extension-rows",
                    table.name.namespace,
                    f"rows that users added to this table of extension {table.extension} are not copied: the role may "
                    "not read all of it, or dsync cannot read which rows are theirs",
                    "GRANT SELECT on it (where row security hides rows: BYPASSRLS to the role), or copy them by hand",
                )
            )
    return tuple(found)


def _reading_findings(table: TableFacts, name: str) -> list[types.Finding]:
    if not table.can_select:
        if table.columns and any(column.can_select for column in table.columns):
            return [
                stop(
                    "column-privileges",
                    name,
                    "the role may read some columns only, and a smaller copy is refused",
                    "GRANT SELECT on the whole table, or choose the other tables with -n",
                )
            ]
        return [
            stop(
                "no-select",
                name,
                "the role may not read it",
                "GRANT USAGE on its schema and SELECT on it, or choose the other tables with -n",
            )
        ]
    found: list[types.Finding] = []
    if table.row_security_applies:
        found.append(
            stop(
                "row-security",
                name,
                "row security would hide rows from this role, and a smaller copy is refused",
                "connect as a role with BYPASSRLS or as the table's owner, or choose the other tables with -n",
            )
        )
    if table.access_method not in (None, "heap"):
        found.append(
            warn(
                "table-access-method",
                name,
                f"it is stored by {table.access_method}; ranges of its rows may have to be found by reading all of it",
            )
        )
    return found
