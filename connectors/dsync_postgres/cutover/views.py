"""Materialised views that are to show what tables hold now, each after those it reads from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from psycopg import sql

from dsync_postgres.schema.names import TableName
from dsync_postgres.sessions import Connection

_VIEWS = b"""
SELECT c.oid::int8, n.nspname::text, c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'm' AND c.relispopulated
  AND NOT EXISTS (SELECT FROM pg_depend d
                  WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY 2, 3
"""
# Views of both kinds, with what their queries read.
_READS = b"""
SELECT DISTINCT r.ev_class::int8, d.refobjid::int8 FROM pg_rewrite r
JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass
WHERE d.refobjid <> r.ev_class
"""
_TABLES = b"""
SELECT c.oid::int8 FROM unnest(%s::text[], %s::text[]) w(schema, name)
JOIN pg_namespace n ON n.nspname = w.schema JOIN pg_class c ON c.relname = w.name AND c.relnamespace = n.oid
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    oid: int
    name: TableName


def views_to_refresh(connection: Connection, namespaces: Collection[str], *, whole_database: bool) -> list[TableName]:
    """Those that read these tables, directly or through other views, or all; one that holds nothing is left so."""
    views = [View(oid=o, name=TableName(schema=s, name=n)) for o, s, n in connection.execute(_VIEWS).fetchall()]
    reads: defaultdict[int, set[int]] = defaultdict(set)
    for view, read in connection.execute(_READS).fetchall():
        reads[view].add(read)
    names = [TableName.parse(namespace) for namespace in namespaces]
    tables = {
        oid
        for (oid,) in connection.execute(
            _TABLES, [[name.schema for name in names], [name.name for name in names]]
        ).fetchall()
    }
    chosen = [view for view in views if whole_database or _closure(view.oid, reads) & tables]
    return [view.name for view in by_need(chosen, reads)]


def by_need(views: Collection[View], reads: Mapping[int, set[int]]) -> list[View]:
    """So that each comes after those it reads; views cannot read one another in a circle."""
    among = {view.oid for view in views}
    waiting = {view.oid: (view, _closure(view.oid, reads) & among - {view.oid}) for view in views}
    result: list[View] = []
    while waiting:
        ready = [oid for oid, (_, needs) in waiting.items() if not needs & waiting.keys()]
        result += [waiting.pop(oid)[0] for oid in ready]
    return result


def _closure(oid: int, reads: Mapping[int, set[int]]) -> set[int]:
    found: set[int] = set()
    ahead = [oid]
    while ahead:
        for read in reads.get(ahead.pop(), set()) - found:
            found.add(read)
            ahead.append(read)
    return found


def refresh(connection: Connection, name: TableName) -> None:
    """Fill it anew. It holds what its owner sees, so the owner's row security counts, which our sessions switch off."""
    with connection.transaction():
        connection.execute("SELECT set_config('row_security', 'on', true)")
        connection.execute(sql.SQL("REFRESH MATERIALIZED VIEW {}").format(name.identifier))
