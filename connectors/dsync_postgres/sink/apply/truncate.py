"""How tables are emptied: TRUNCATE where that is possible, DELETE where a foreign key or a privilege forbids it."""

from __future__ import annotations

from collections.abc import Mapping

from psycopg import sql

from dsync.sdk import errors
from dsync_postgres.sink.apply.pipeline import Connection
from dsync_postgres.sink.apply.steps import Truncate

# TRUNCATE asks whether a table that stays refers to one that goes, not whether it has rows.
_FACTS = """
SELECT c.oid, has_table_privilege(c.oid, 'TRUNCATE'), pg_has_role(c.relowner, 'USAGE'),
       ARRAY(SELECT k.conrelid FROM pg_constraint k
             WHERE k.confrelid = c.oid AND k.contype = 'f' AND k.conrelid <> c.oid)
FROM pg_class c WHERE c.oid = ANY (%(oids)s::oid[])
"""


def truncation(connection: Connection, step: Truncate) -> tuple[bytes, ...]:
    """The statements that empty the step's tables, in order.

    Never with CASCADE: what else the source has emptied by it comes as tables of its own.

    Raises:
        NamespaceChangedError: a table has partitions at the sink, and which of them was emptied nobody knows.
    """
    for shape in step.shapes:
        if shape.table.kind == "p":
            raise errors.NamespaceChangedError(
                f"emptying {shape.table.name}: it is partitioned at the sink, and what was emptied at the source may "
                f"be one of its partitions; `dsync resync FLOW --table {shape.namespace}` copies it anew"
            ).about(shape.namespace)
    tables = {shape.table.oid: shape.table.identifier for shape in step.shapes}
    rows = connection.execute(_FACTS.encode(), {"oids": list(tables)}).fetchall()
    referrers = {oid: frozenset(found) for oid, _, _, found in rows}
    kept = _to_delete_from(referrers, {oid for oid, may, _, _ in rows if not may})
    whole = [identifier for oid, identifier in tables.items() if oid not in kept]
    statements: list[sql.Composed] = []
    if whole:
        restarts = step.restarts_identity and all(owned for _, _, owned, _ in rows)
        statements.append(
            sql.SQL("TRUNCATE {}{}").format(
                sql.SQL(", ").join(sql.SQL("ONLY {}").format(name) for name in whole),
                sql.SQL(" RESTART IDENTITY" if restarts else ""),
            )
        )
    statements += [sql.SQL("DELETE FROM ONLY {}").format(tables[oid]) for oid in kept]
    return tuple(statement.as_bytes(None) for statement in statements)


def _to_delete_from(referrers: Mapping[int, frozenset[int]], forbidden: set[int]) -> list[int]:
    """The tables that cannot be truncated, each after those that refer to it."""
    kept = set(forbidden)
    while more := {oid for oid, found in referrers.items() if oid not in kept and found - (referrers.keys() - kept)}:
        kept |= more
    ordered: list[int] = []
    while kept:
        # In a circle of references any order is as good.
        free = [oid for oid in kept if not (referrers[oid] & kept)] or [min(kept)]
        ordered += sorted(free)
        kept -= set(free)
    return ordered
