"""Which tables a flow fills, and whether they were empty when it began: what it may remove again.

A claim is written in the transaction that creates the table or finds it empty. It is void (its relation is 0) once
another flow has taken the table over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql

from dsync.sdk import errors, failpoint, types
from dsync_postgres.errors import describe
from dsync_postgres.schema.names import TableName
from dsync_postgres.sink.ledger import LEDGERS, SCHEMA, Connection
from dsync_postgres.sink.remembered import read_shape
from dsync_postgres.sink.targets import TargetTable, read_targets


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One table that a flow fills."""

    namespace: str
    """As the sink names it."""
    relation: int
    """The table's oid then; another one now means that it was dropped and made again."""
    was_empty: bool
    """It held no rows when the flow began, or was emptied by it: all rows are the flow's."""
    created: bool
    """The flow made it."""
    route: str = ""
    """The table above it that its rows have to be given to; they may end up in other partitions of that."""


def read_claims(connection: Connection, flow: str) -> dict[str, Claim]:
    """The flow's claims by namespace."""
    rows = connection.execute(
        "SELECT namespace, relation::int8, was_empty, created, route FROM _dsync.target WHERE flow = %s", [flow]
    ).fetchall()
    return {
        namespace: Claim(namespace=namespace, relation=relation, was_empty=was_empty, created=created, route=route)
        for namespace, relation, was_empty, created, route in rows
    }


def claimed_kind(connection: Connection, flow: str, namespace: str) -> str:
    """pg_class.relpersistence of the table that the flow has claimed and that is still there; empty: there is none."""
    row = connection.execute(
        "SELECT c.relpersistence::text FROM _dsync.target t JOIN pg_class c ON c.oid = t.relation"
        " WHERE (t.flow, t.namespace) = (%s, %s)",
        [flow, namespace],
    ).fetchone()
    return "" if row is None else str(row[0])


def is_alone(connection: Connection, flow: str, namespace: str) -> bool:
    """Whether the flow found the table without rows, so that all of them are its own."""
    row = connection.execute(
        "SELECT was_empty FROM _dsync.target WHERE (flow, namespace) = (%s, %s)", [flow, namespace]
    ).fetchone()
    return row is not None and bool(row[0])


def save_claims(connection: Connection, flow: str, run: str, claims: Sequence[Claim]) -> None:
    """Write a run's claims, replacing those about the same tables."""
    connection.execute(
        "INSERT INTO _dsync.target AS t (flow, run, namespace, relation, was_empty, created, route)"
        " SELECT %s, %s, * FROM unnest(%s::text[], %s::oid[], %s::bool[], %s::bool[], %s::text[])"
        " ON CONFLICT (flow, namespace) DO UPDATE SET (run, relation, was_empty, created, route)"
        " = (excluded.run, excluded.relation, excluded.was_empty, excluded.created, excluded.route)",
        [
            flow,
            run,
            [claim.namespace for claim in claims],
            [claim.relation for claim in claims],
            [claim.was_empty for claim in claims],
            [claim.created for claim in claims],
            [claim.route for claim in claims],
        ],
    )


def clear(
    connection: Connection, context: types.WriteContext, name: TableName, units: Sequence[str], *, as_replica: bool
) -> None:
    """Remove the flow's rows from a table that it alone has filled and reset those units, in one transaction.

    Repeatable: an empty table is cleared already.

    Raises:
        SinkNotEmptyError: the table holds rows that are not this flow's; nothing was removed.
        FencedError: another coordinator has the unit.
        NamespaceChangedError: the table is not the one that the flow began with.
    """
    with connection.transaction():
        if as_replica:
            connection.execute("SET LOCAL session_replication_role = replica")
        table = _claimed(connection, context.flow, name)
        # The table before the ledger, as its writers do, so that nobody waits in a circle.
        connection.execute(
            sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(_only(table)),
        )
        check_fence(connection, context)
        present = _count(connection, table)
        if present:
            _require_ours(connection, context.flow, table, present)
            _empty(connection, table, as_replica=as_replica)
        reset_units(connection, context, name, units)
        failpoint("sink.before_clear_commit")
    failpoint("sink.after_clear_commit")


def _claimed(connection: Connection, flow: str, name: TableName) -> TargetTable:
    claim = read_claims(connection, flow).get(name.namespace)
    table = read_targets(connection, [name]).get(name)
    if table is None or (claim is not None and claim.relation != table.oid):
        raise errors.NamespaceChangedError(
            f"clearing {name}: it was dropped or made again since this flow began; start again with `dsync reset`"
        )
    if claim is not None and claim.route:
        raise errors.SinkNotEmptyError(
            f"clearing {name}: its rows were given to {claim.route}, which spreads them over its partitions by hash, "
            "so they cannot be told from those of the others; nothing was removed. That as a whole can be cleared"
        )
    if claim is None or not claim.was_empty:
        raise errors.SinkNotEmptyError(
            f"clearing {name}: it held rows before this flow began, so its rows cannot be told from this flow's; "
            "nothing was removed"
        )
    return table


def check_fence(connection: Connection, context: types.WriteContext) -> None:
    """Lock the unit's row, so that nobody opens it until this is done.

    Raises:
        FencedError: another coordinator has the unit.
    """
    if not context.unit:
        return
    for ledger in LEDGERS:
        row = connection.execute(
            sql.SQL("SELECT fence FROM {} WHERE (flow, run, unit) = (%s, %s, %s) FOR UPDATE").format(
                sql.Identifier(SCHEMA, ledger)
            ),
            [context.flow, context.run, context.unit],
        ).fetchone()
        if row is not None and row[0] == context.fence:
            return
    raise errors.FencedError(
        f"clearing for unit {context.unit}: another coordinator has taken it over; nothing was removed, this one stops"
    )


def _count(connection: Connection, table: TargetTable) -> int:
    row = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(table.rows)).fetchone()
    assert row is not None, "an aggregate gives one row"
    return int(row[0])


def _require_ours(connection: Connection, flow: str, table: TargetTable, present: int) -> None:
    """Rows that the application has added meanwhile are not ours to remove."""
    who = _whose(connection, flow, table.name.namespace, present)
    if who:
        raise errors.SinkNotEmptyError(
            f"clearing {table.name}: it holds rows that are not this flow's ({who}); nothing was removed. Take them "
            "out, or let them go with `--on-existing truncate` in a new flow"
        )


def is_all_ours(connection: Connection, flow: str, claim: Claim, table: TargetTable) -> bool:
    """Whether every row of a table that the flow has claimed is its own."""
    if not claim.was_empty:
        return False
    place = TableName.parse(claim.route) if claim.route else table.name
    filled = read_targets(connection, [place]).get(place)
    return filled is not None and not _whose(connection, flow, place.namespace, _count(connection, filled))


def _whose(connection: Connection, flow: str, namespace: str, present: int) -> str:
    """Who else has rows among those that are there; empty where they are all the flow's."""
    row = connection.execute(
        "SELECT coalesce(sum(l.rows) FILTER (WHERE l.flow = %(flow)s), 0), bool_or(l.flow <> %(flow)s AND l.rows > 0)"
        " FROM (TABLE _dsync.ledger UNION ALL TABLE _dsync.ledger_unlogged) l WHERE l.namespace = %(namespace)s",
        {"flow": flow, "namespace": namespace},
    ).fetchone()
    assert row is not None, "an aggregate gives one row"
    written, others = int(row[0]), bool(row[1])
    if others:
        return "another flow has written there too"
    if present <= written or read_shape(connection, flow, namespace) is not None:
        # Where changes are applied rows come and go with them, and nobody counts those of one table.
        return ""
    return f"{present:,} rows, of which it wrote {written:,}"


def _empty(connection: Connection, table: TargetTable, *, as_replica: bool) -> None:
    # TRUNCATE asks about foreign keys, not about rows.
    if not table.is_referenced and not table.is_extensions:
        connection.execute(sql.SQL("TRUNCATE {}").format(_only(table)))
        return
    if not as_replica:
        _refuse_cascades(connection, table)
    try:
        connection.execute(sql.SQL("DELETE FROM {}").format(table.rows))
    except psycopg.errors.ForeignKeyViolation as exc:
        raise errors.PermanentError(
            f"clearing {table.name}: {describe(exc)}: rows elsewhere refer to its rows; drop that foreign key for the "
            "load, or let this role set session_replication_role"
        ) from exc


def _refuse_cascades(connection: Connection, table: TargetTable) -> None:
    """Deleting our rows must not delete or change those of others."""
    row = connection.execute(
        "SELECT k.conname::text, k.conrelid::regclass::text FROM pg_constraint k WHERE k.contype = 'f'"
        " AND k.confrelid = %s AND k.conrelid <> k.confrelid AND k.confdeltype NOT IN ('a', 'r') LIMIT 1",
        [table.oid],
    ).fetchone()
    if row is not None:
        raise errors.PermanentError(
            f"clearing {table.name}: foreign key {row[0]} of {row[1]} would delete or change rows there (ON DELETE …); "
            "drop it for the load, or let this role set session_replication_role"
        )


def reset_units(connection: Connection, context: types.WriteContext, name: TableName, units: Sequence[str]) -> None:
    """Put units back to their start, and forget what earlier runs have written under that name."""
    for ledger in LEDGERS:
        table = sql.Identifier(SCHEMA, ledger)
        connection.execute(
            sql.SQL(
                "UPDATE {} SET (cursor, seq, rows, bytes, done, updated_at) = ('', 0, 0, 0, false, now())"
                " WHERE flow = %s AND run = %s AND (unit = ANY(%s) OR namespace = %s)"
            ).format(table),
            [context.flow, context.run, list(units), name.namespace],
        )
        # What earlier runs have written there is gone with the rest.
        connection.execute(
            sql.SQL("DELETE FROM {} WHERE flow = %s AND run <> %s AND namespace = %s").format(table),
            [context.flow, context.run, name.namespace],
        )


def _only(table: TargetTable) -> sql.Composable:
    """A partitioned table's rows are in its partitions, anything else is meant alone."""
    return table.identifier if table.kind == "p" else sql.SQL("ONLY {}").format(table.identifier)
