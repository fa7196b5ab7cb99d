"""What `--on-existing truncate` and `drop` remove, found beforehand so that nothing else goes with it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from psycopg import sql

from dsync.sdk import errors
from dsync_postgres.schema.names import TableName
from dsync_postgres.sink.aside import DroppedForeignKey
from dsync_postgres.sink.ledger import Connection
from dsync_postgres.sink.targets import TargetTable

_MOST_NAMES = 10

# Indexes, defaults, constraints, row types, owned sequences … of what is removed; what needs CASCADE is `n`.
_WITH_PARTS = """
WITH RECURSIVE part (class, id) AS (
    SELECT 'pg_class'::regclass::oid, unnest(%(oids)s::oid[])
  UNION
    SELECT d.classid, d.objid FROM part JOIN pg_depend d ON (d.refclassid, d.refobjid) = (part.class, part.id)
    WHERE d.deptype IN ('a', 'i', 'P', 'S')
)
"""
_DEPENDENTS = (
    _WITH_PARTS
    + """
SELECT DISTINCT v.oid::int8, n.nspname::text, v.relname::text, v.relkind::text,
       pg_describe_object(d.classid, d.objid, 0), (
    WITH RECURSIVE up AS (
        SELECT k.* FROM pg_constraint k WHERE d.classid = 'pg_constraint'::regclass AND k.oid = d.objid
      UNION ALL
        SELECT k.* FROM up JOIN pg_constraint k ON k.oid = up.conparentid
    )
    SELECT ARRAY[kn.nspname, kc.relname, up.conname]::text[] FROM up JOIN pg_class kc ON kc.oid = up.conrelid
    JOIN pg_namespace kn ON kn.oid = kc.relnamespace WHERE up.conparentid = 0 AND up.contype = 'f')
FROM part JOIN pg_depend d ON (d.refclassid, d.refobjid) = (part.class, part.id) AND d.deptype = 'n'
LEFT JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
LEFT JOIN pg_class v ON v.oid = r.ev_class LEFT JOIN pg_namespace n ON n.oid = v.relnamespace
WHERE (d.classid, d.objid) NOT IN (SELECT class, id FROM part) ORDER BY 5
"""
)
_EMPTIED_ROOTS = """
SELECT DISTINCT c.oid::int8, n.nspname::text, c.relname::text
FROM unnest(%(oids)s::oid[]) AS gone (oid) CROSS JOIN LATERAL pg_partition_ancestors(gone.oid) AS a (oid)
JOIN pg_class c ON c.oid = a.oid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid <> ALL(%(oids)s::oid[])
  AND NOT EXISTS (SELECT FROM pg_partition_tree(c.oid) t WHERE t.isleaf AND t.relid <> ALL(%(oids)s::oid[]))
"""
_REFERENCES = """
SELECT DISTINCT n.nspname::text, c.relname::text FROM pg_constraint k
JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE k.contype = 'f' AND k.confrelid = ANY(%(oids)s::oid[]) AND k.conrelid <> ALL(%(oids)s::oid[])
ORDER BY 1, 2
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """Tables to be emptied and relations to be dropped."""

    emptied: tuple[TargetTable, ...] = ()
    dropped_tables: tuple[TableName, ...] = ()
    """Partitioned tables that lose all of their partitions among them."""
    dropped_views: tuple[TableName, ...] = ()
    """Views on them that the copy makes anew."""

    @property
    def dropped(self) -> frozenset[TableName]:
        """Every relation that goes."""
        return frozenset((*self.dropped_tables, *self.dropped_views))

    @property
    def cleared(self) -> list[str]:
        """The namespaces of every table that loses its rows."""
        return [*(table.name.namespace for table in self.emptied), *(name.namespace for name in self.dropped_tables)]

    def statements(self) -> Iterator[sql.Composed]:
        """What removes them. CASCADE, because views may stand on one another; `plan_removal` has found them all."""
        if truncated := [table.rows for table in self.emptied if not table.is_extensions]:
            yield sql.SQL("TRUNCATE {}").format(sql.SQL(", ").join(truncated))
        for table in self.emptied:
            if table.is_extensions:
                # The extension's own rows stay.
                yield sql.SQL("DELETE FROM {}").format(table.rows)
        if self.dropped_tables:
            listed = sql.SQL(", ").join(name.identifier for name in self.dropped_tables)
            yield sql.SQL("DROP TABLE {} CASCADE").format(listed)

    def carry_out(self, connection: Connection, *, as_replica: bool) -> None:
        """Remove them, in the transaction that the caller has open.

        Raises:
            ConflictError: something was made on a table that is dropped since the removal was planned.
        """
        if not self.emptied and not self.dropped_tables:
            return
        if self.dropped_tables:
            self._lock_and_look_again(connection)
        if as_replica:
            # TRUNCATE has triggers too.
            connection.execute("SET LOCAL session_replication_role = replica")
        for statement in self.statements():
            connection.execute(statement)
        if as_replica:
            connection.execute("SET LOCAL session_replication_role = DEFAULT")

    def _lock_and_look_again(self, connection: Connection) -> None:
        listed = sql.SQL(", ").join(name.identifier for name in self.dropped_tables)
        connection.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(listed))
        names = [name.identifier.as_string(connection) for name in self.dropped_tables]
        rows = connection.execute(
            "SELECT to_regclass(name)::oid::int8 FROM unnest(%s::text[]) name", [names]
        ).fetchall()
        views, others = _dependents(connection, [oid for (oid,) in rows], self.dropped_views)
        if others or set(views.values()) != set(self.dropped_views):
            raise errors.ConflictError(f"dropping {listed_names(self.dropped_tables)}: what stands on them has changed")


def plan_removal(
    connection: Connection,
    *,
    emptied: Iterable[TargetTable],
    dropped: Iterable[TargetTable],
    made_anew: Collection[TableName],
    set_aside: Collection[DroppedForeignKey] = (),
    instead: str = "choose --on-existing truncate",
) -> Removal:
    """What goes with these tables; changes nothing. `made_anew` are the relations that the copy makes.

    The foreign keys of `set_aside` are gone by then; `instead` is what else a person may do.

    Raises:
        RequestError: something that is no part of the copy stands on a table that is dropped, or refers to the rows
            of one that is emptied.
    """
    emptied, dropped = tuple(emptied), tuple(dropped)
    _refuse_references(connection, emptied)
    if not dropped:
        return Removal(emptied=emptied)
    tables = {table.oid: table.name for table in dropped}
    for oid, schema, name in connection.execute(_EMPTIED_ROOTS.encode(), {"oids": list(tables)}):
        tables[oid] = TableName(schema=schema, name=name)
    views, others = _dependents(connection, list(tables), made_anew, set_aside)
    if others:
        raise errors.RequestError(
            f"dropping {listed_names(sorted(tables.values()))}: {', '.join(others[:_MOST_NAMES])} of the sink depend "
            f"on them and are not made by the copy; drop them yourself, or {instead}"
        )
    return Removal(
        emptied=emptied,
        dropped_tables=tuple(sorted(tables.values())),
        dropped_views=tuple(sorted(views.values())),
    )


def _refuse_references(connection: Connection, emptied: tuple[TargetTable, ...]) -> None:
    if not emptied:
        return
    rows = connection.execute(_REFERENCES.encode(), {"oids": [table.oid for table in emptied]}).fetchall()
    if rows:
        names = [TableName(schema=schema, name=name) for schema, name in rows]
        raise errors.RequestError(
            f"emptying {listed_names([table.name for table in emptied])}: {listed_names(names)} of the sink refer to "
            "rows of them by foreign keys and keep their own; drop those keys, or empty those tables, yourself"
        )


def _dependents(
    connection: Connection,
    oids: list[int],
    made_anew: Collection[TableName],
    set_aside: Collection[DroppedForeignKey] = (),
) -> tuple[dict[int, TableName], list[str]]:
    """Views of the copy that stand on these relations, directly or not, and descriptions of everything else."""
    views: dict[int, TableName] = {}
    keys = {(key.table.schema, key.table.name, key.name) for key in set_aside}
    while True:
        others: list[str] = []
        found: dict[int, TableName] = {}
        for oid, schema, name, kind, described, key in connection.execute(
            _DEPENDENTS.encode(), {"oids": [*oids, *views]}
        ).fetchall():
            if key is not None and tuple(key) in keys:
                continue
            view = None if oid is None else TableName(schema=schema, name=name)
            if view is not None and kind in "vm" and view in made_anew:
                found[oid] = view
            else:
                others.append(view.namespace if view is not None and kind in "vm" else described)
        if not found:
            return views, list(dict.fromkeys(others))
        views |= found


def listed_names(names: Iterable[TableName]) -> str:
    """Names for a message, not more than can be read."""
    written = [name.namespace for name in names]
    more = len(written) - _MOST_NAMES
    return ", ".join(written[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
