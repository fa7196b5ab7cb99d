"""The shape that each followed table had at the source when it was last told, kept at the sink.

A column that is gone from a relation was dropped or renamed, or was never there: only who remembers the relation before
can tell them apart, also in another life.
"""

from __future__ import annotations

from collections.abc import Mapping

import psycopg

from dsync_postgres.sink.ledger import Connection

Types = Mapping[str, str]
"""Of a relation's columns, by name."""

_IS_THERE = "SELECT to_regclass('_dsync.shape') IS NOT NULL"
_MAKE = """
SELECT pg_advisory_xact_lock(7239041561442135);
CREATE TABLE IF NOT EXISTS _dsync.shape (
  flow text COLLATE "C" NOT NULL,
  namespace text COLLATE "C" NOT NULL,
  columns text[] NOT NULL,
  types text[] NOT NULL,
  PRIMARY KEY (flow, namespace)
);
"""


def read_shape(connection: Connection, flow: str, target: str) -> Types | None:
    """What was remembered of the relation that goes into a table of the sink; None: no change has ever come to it."""
    if not _is_there(connection):
        return None
    row = connection.execute(
        "SELECT columns, types FROM _dsync.shape WHERE (flow, namespace) = (%s, %s)", [flow, target]
    ).fetchone()
    return None if row is None else dict(zip(row[0], row[1], strict=True))


def save_shape(connection: Connection, flow: str, target: str, types: Types) -> None:
    """Remember it, in the transaction that has seen to it. A role that may not make the table goes without."""
    if not _is_there(connection):
        try:
            with connection.transaction():
                connection.execute(_MAKE.encode())
        except psycopg.errors.InsufficientPrivilege:
            return
    connection.execute(
        "INSERT INTO _dsync.shape VALUES (%s, %s, %s, %s) ON CONFLICT (flow, namespace) DO UPDATE"
        " SET (columns, types) = (excluded.columns, excluded.types)",
        [flow, target, list(types), list(types.values())],
    )


def blank_shapes(connection: Connection, flow: str, target: str = "") -> None:
    """Forget the shape of one table that is filled anew, or of all; not that changes have come to it. Repeatable."""
    if _is_there(connection):
        connection.execute(
            "UPDATE _dsync.shape SET (columns, types) = ('{}', '{}') WHERE flow = %s AND (namespace = %s OR %s = '')",
            [flow, target, target],
        )


def forget_shapes(connection: Connection, flow: str) -> None:
    """Forget everything of a flow. Repeatable."""
    if _is_there(connection):
        connection.execute("DELETE FROM _dsync.shape WHERE flow = %s", [flow])


def _is_there(connection: Connection) -> bool:
    ((found,),) = connection.execute(_IS_THERE).fetchall()
    return bool(found)
