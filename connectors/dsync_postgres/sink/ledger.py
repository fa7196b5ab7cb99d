"""The ledger: how far each unit has come, written in the transaction of its data.

It lies in the schema `_dsync` of the sink, which is never planned, copied, dumped or verified. A row belongs to one
unit of one run; opening the unit raises its fence, and a write counts only where fence and sequence number are the
expected ones. Rows of unlogged tables lie in an unlogged twin: after a crash of the server both are empty together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from dsync.sdk import errors, types
from dsync_postgres.schema.names import TableName

Connection = psycopg.Connection[tuple[Any, ...]]

SCHEMA = "_dsync"
LEDGERS = ("ledger", "ledger_unlogged")
FORMAT = 1
"""The layout of the schema; a newer one is refused."""

# Every table has a key, so that a publication FOR ALL TABLES at the sink does not forbid our updates. The room left
# in each block keeps a row's new versions beside it (HOT).
_LAYOUT = """
CREATE TABLE IF NOT EXISTS _dsync.format (version integer PRIMARY KEY);
INSERT INTO _dsync.format SELECT 1 WHERE NOT EXISTS (SELECT FROM _dsync.format);
CREATE SEQUENCE IF NOT EXISTS _dsync.fence;
CREATE TABLE IF NOT EXISTS _dsync.ledger (
  flow text COLLATE "C" NOT NULL,
  run text COLLATE "C" NOT NULL,
  unit text COLLATE "C" NOT NULL,
  namespace text COLLATE "C" NOT NULL,
  fence bigint NOT NULL,
  cursor bytea NOT NULL DEFAULT '',
  seq bigint NOT NULL DEFAULT 0,
  rows bigint NOT NULL DEFAULT 0,
  bytes bigint NOT NULL DEFAULT 0,
  done boolean NOT NULL DEFAULT false,
  updated_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (flow, run, unit)
) WITH (fillfactor = 40);
CREATE UNLOGGED TABLE IF NOT EXISTS _dsync.ledger_unlogged (LIKE _dsync.ledger INCLUDING ALL);
CREATE TABLE IF NOT EXISTS _dsync.manifest (
  flow text COLLATE "C" PRIMARY KEY,
  fingerprint text COLLATE "C" NOT NULL,
  name text NOT NULL,
  run text COLLATE "C" NOT NULL,
  plan bytea NOT NULL,
  updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE IF NOT EXISTS _dsync.target (
  flow text COLLATE "C" NOT NULL,
  namespace text COLLATE "C" NOT NULL,
  relation oid NOT NULL,
  was_empty boolean NOT NULL,
  created boolean NOT NULL,
  route text NOT NULL DEFAULT '',
  run text COLLATE "C" NOT NULL,
  PRIMARY KEY (flow, namespace)
);
CREATE TABLE IF NOT EXISTS _dsync.prepared (
  flow text COLLATE "C" NOT NULL,
  run text COLLATE "C" NOT NULL,
  result bytea NOT NULL,
  PRIMARY KEY (flow, run)
);
CREATE TABLE IF NOT EXISTS _dsync.aside (
  flow text COLLATE "C" NOT NULL,
  step text COLLATE "C" NOT NULL,
  payload bytea NOT NULL,
  PRIMARY KEY (flow, step)
);
"""
_TABLES = ("format", "ledger", "ledger_unlogged", "manifest", "target", "prepared", "aside")
# Two flows that start together would otherwise collide on the catalogue's unique indexes.
_LAYOUT_LOCK = "SELECT pg_advisory_xact_lock(7239041561442135)"

_STATE = """
SELECT (SELECT array_agg(c.relname::text) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = '_dsync' AND c.relkind IN ('r', 'S')),
       (SELECT has_schema_privilege(n.oid, 'USAGE') FROM pg_namespace n WHERE n.nspname = '_dsync'),
       (SELECT has_schema_privilege(n.oid, 'CREATE') FROM pg_namespace n WHERE n.nspname = '_dsync'),
       (SELECT bool_and(has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'INSERT')
                        AND has_table_privilege(c.oid, 'UPDATE') AND has_table_privilege(c.oid, 'DELETE'))
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = '_dsync' AND c.relkind = 'r'),
       has_database_privilege(current_database(), 'CREATE')
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerState:
    """What there is of the schema `_dsync`, as this role sees it."""

    exists: bool
    """The schema is there."""
    complete: bool
    """All its tables are there."""
    usable: bool
    """This role may use them, or may create what is missing."""


def examine(connection: Connection) -> LedgerState:
    """Look at the ledger without changing anything."""
    ((names, may_use, may_create, may_write, may_create_schema),) = connection.execute(_STATE).fetchall()
    complete = set(_TABLES) <= set(names or ())
    if may_use is None:
        return LedgerState(exists=False, complete=False, usable=may_create_schema)
    reach = may_use and may_write is not False
    return LedgerState(exists=True, complete=complete, usable=reach if complete else reach and may_create)


def install(connection: Connection) -> None:
    """Create the ledger where it is missing. Repeatable, and safe beside another flow that does the same.

    Raises:
        PrivilegeError: this role may not; the message has the statements for an administrator.
        PermanentError: it was written by a newer dsync.
    """
    state = examine(connection)
    if not state.usable:
        raise errors.PrivilegeError(privilege_message(connection, state))
    if not state.complete:
        with connection.transaction():
            connection.execute(_LAYOUT_LOCK)
            # IF NOT EXISTS asks for the privilege to create it also where it is there.
            if not examine(connection).exists:
                connection.execute("CREATE SCHEMA _dsync")
            connection.execute(_LAYOUT.encode())
    check_format(connection)


def check_format(connection: Connection) -> None:
    """Raise PermanentError where a newer dsync has written this ledger."""
    ((version,),) = connection.execute("SELECT max(version) FROM _dsync.format").fetchall()
    if version != FORMAT:
        raise errors.PermanentError(
            f"opening the ledger (schema {SCHEMA} of the sink): it has format {version}, this dsync writes {FORMAT}; "
            "use the dsync that wrote it, or finish that flow and `dsync reset` it first"
        )


def privilege_message(connection: Connection, state: LedgerState) -> str:
    """What is missing, and the exact statements that give it."""
    ((role, database),) = connection.execute("SELECT current_user::text, current_database()::text").fetchall()
    name = sql.Identifier(role).as_string(connection)
    if not state.exists:
        return (
            f"creating the ledger (schema {SCHEMA}) in database {database}: role {role} may not create schemas there; "
            f"an administrator runs: CREATE SCHEMA {SCHEMA} AUTHORIZATION {name};"
        )
    return (
        f"using the ledger (schema {SCHEMA}) in database {database}: it belongs to another role than {role}; "
        f"an administrator runs: GRANT USAGE, CREATE ON SCHEMA {SCHEMA} TO {name}; "
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {SCHEMA} TO {name}; "
        f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA {SCHEMA} TO {name};"
    )


# The claim is locked against a flow that is taking the table over. Whoever has never prepared has no claim to lose.
# Sorted by unit, so that two callers lock common rows in one order. A fence comes from a sequence, which a crash does
# not turn back, so that the fences of an emptied unlogged ledger are not given twice.
_OPEN = """
WITH asked AS (
  SELECT DISTINCT ON (unit) * FROM unnest(%(units)s::text[], %(namespaces)s::text[], %(relations)s::text[])
    AS a (unit, namespace, relation)
), claimed AS MATERIALIZED (
  SELECT namespace, relation FROM _dsync.target
  WHERE flow = %(flow)s AND namespace = ANY(%(namespaces)s::text[]) ORDER BY namespace FOR SHARE
), placed AS MATERIALIZED (
  SELECT a.unit, a.namespace, CASE c.relkind WHEN 'r' THEN c.relpersistence = 'u' WHEN 'p' THEN EXISTS (
           SELECT FROM pg_partition_tree(c.oid) p JOIN pg_class l ON l.oid = p.relid
           WHERE p.isleaf AND l.relpersistence = 'u') ELSE false END AS unlogged,
         t.relation IS DISTINCT FROM c.oid AND t.relation IS NOT NULL AS lost
  FROM asked a LEFT JOIN pg_class c ON c.oid = to_regclass(a.relation) LEFT JOIN claimed t USING (namespace)
), lasting AS (
  INSERT INTO _dsync.ledger AS l (flow, run, unit, namespace, fence)
  SELECT %(flow)s, %(run)s, unit, namespace, nextval('_dsync.fence') FROM placed WHERE NOT unlogged ORDER BY unit
  ON CONFLICT (flow, run, unit) DO UPDATE SET fence = greatest(l.fence + 1, excluded.fence), updated_at = now()
  RETURNING l.unit, l.fence, l.cursor, l.seq, l.rows, l.bytes, l.done
), fleeting AS (
  INSERT INTO _dsync.ledger_unlogged AS l (flow, run, unit, namespace, fence)
  SELECT %(flow)s, %(run)s, unit, namespace, nextval('_dsync.fence') FROM placed WHERE unlogged ORDER BY unit
  ON CONFLICT (flow, run, unit) DO UPDATE SET fence = greatest(l.fence + 1, excluded.fence), updated_at = now()
  RETURNING l.unit, l.fence, l.cursor, l.seq, l.rows, l.bytes, l.done
), elsewhere AS (
  SELECT p.unit FROM placed p JOIN _dsync.ledger l ON (l.flow, l.run, l.unit) = (%(flow)s, %(run)s, p.unit)
  WHERE p.unlogged AND l.rows > 0
  UNION ALL
  SELECT p.unit FROM placed p JOIN _dsync.ledger_unlogged l ON (l.flow, l.run, l.unit) = (%(flow)s, %(run)s, p.unit)
  WHERE NOT p.unlogged AND l.rows > 0
)
SELECT o.*, o.unit IN (SELECT unit FROM elsewhere), o.unit IN (SELECT unit FROM placed WHERE lost)
FROM (TABLE lasting UNION ALL TABLE fleeting) o
"""


def open_units(connection: Connection, flow: str, run: str, units: Sequence[types.UnitRef]) -> list[types.UnitState]:
    """Raise each unit's fence and say where it stands, in the order asked: one round trip for all of them.

    A unit's namespace is the sink's name for its table; it decides which of the twins keeps the row.

    Raises:
        NamespaceChangedError: a table is not the one that the flow has prepared, or was taken over by another flow;
            no unit was opened.
    """
    if not units:
        return []
    parameters = {
        "flow": flow,
        "run": run,
        "units": [ref.unit for ref in units],
        "namespaces": [ref.namespace for ref in units],
        "relations": [_regclass(connection, ref.namespace) for ref in units],
    }
    found: dict[str, types.UnitState] = {}
    with connection.transaction():
        for unit, fence, cursor, seq, rows, size, done, elsewhere, lost in connection.execute(_OPEN, parameters):
            if lost:
                namespace = next(ref.namespace for ref in units if ref.unit == unit)
                raise errors.NamespaceChangedError(
                    f"opening unit {unit}: table {namespace} was dropped or made again since this flow began, or "
                    "another flow has taken it over; end this flow with `dsync reset` and copy it in a new one"
                )
            if elsewhere:
                raise errors.NamespaceChangedError(
                    f"opening unit {unit}: its table was made logged or unlogged since rows were copied into it; "
                    "undo that, or start again with `dsync reset` and an empty table"
                )
            found[unit] = types.UnitState(
                unit=unit, fence=fence, cursor=bytes(cursor), seq=seq, rows=rows, size_bytes=size, done=done
            )
    return [found[ref.unit] for ref in units]


_READ = """
SELECT unit, fence, cursor, seq, rows, bytes, done FROM (TABLE _dsync.ledger UNION ALL TABLE _dsync.ledger_unlogged) l
WHERE flow = %(flow)s AND run = %(run)s AND unit = ANY(%(units)s)
"""


def read_units(connection: Connection, flow: str, run: str, units: Sequence[types.UnitRef]) -> list[types.UnitState]:
    """Where each unit stands, in the order asked; at the start, with fence 0, where there is no row of it.

    Changes nothing, so it is nobody's concern who runs the flow, and a sink that takes no writes can be asked too.
    """
    found: dict[str, types.UnitState] = {}
    if examine(connection).complete:
        check_format(connection)
        parameters = {"flow": flow, "run": run, "units": [ref.unit for ref in units]}
        for unit, fence, cursor, seq, rows, size, done in connection.execute(_READ, parameters):
            found[unit] = types.UnitState(
                unit=unit, fence=fence, cursor=bytes(cursor), seq=seq, rows=rows, size_bytes=size, done=done
            )
    return [found.get(ref.unit) or types.UnitState(unit=ref.unit, fence=0) for ref in units]


def _regclass(connection: Connection, namespace: str) -> str | None:
    """The name as to_regclass reads it; None for a unit that is about no table."""
    if not namespace:
        return None
    try:
        return TableName.parse(namespace).identifier.as_string(connection)
    except errors.RequestError:
        return None


_MOVES = {
    is_unlogged: f"""
WITH moved AS (
  UPDATE _dsync.{table} SET seq = $1::bigint, cursor = $2::bytea, rows = rows + $3::bigint, bytes = bytes + $4::bigint,
    done = $5::boolean, updated_at = now()
  WHERE flow = $6::text AND run = $7::text AND unit = $8::text AND fence = $9::bigint AND seq = $1::bigint - 1
  RETURNING 1
) SELECT 1 / count(*) FROM moved
""".encode()
    for is_unlogged, table in ((False, "ledger"), (True, "ledger_unlogged"))
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """The two statements that bind a write to its place in the ledger."""

    context: types.WriteContext
    unlogged: bool

    @property
    def _table(self) -> sql.Identifier:
        return sql.Identifier(SCHEMA, "ledger_unlogged" if self.unlogged else "ledger")

    @property
    def _unit(self) -> sql.Composed:
        context = self.context
        return sql.SQL("flow = {} AND run = {} AND unit = {}").format(
            sql.Literal(context.flow), sql.Literal(context.run), sql.Literal(context.unit)
        )

    @property
    def look(self) -> sql.Composed:
        """Where the unit stands, before anything is written: (fence, seq, cursor), or no row."""
        return sql.SQL("SELECT fence, seq, cursor FROM {} WHERE {}").format(self._table, self._unit)

    def move(self, *, rows: int, size_bytes: int) -> sql.Composed:
        """Move the unit on, or fail with division_by_zero where fence or sequence are not the expected ones.

        It comes last, so that a writer that was stopped in the middle of its page holds no lock on the ledger; and
        it fails instead of reporting no row, so that the COMMIT that follows in the same message is not reached.
        """
        context = self.context
        return sql.SQL(
            "WITH moved AS (UPDATE {table} SET seq = {seq}, cursor = {cursor}, rows = rows + {rows},"
            " bytes = bytes + {size}, done = {done}, updated_at = now()"
            " WHERE {unit} AND fence = {fence} AND seq = {before} RETURNING 1) SELECT 1 / count(*) FROM moved"
        ).format(
            table=self._table,
            unit=self._unit,
            seq=sql.Literal(context.seq),
            cursor=sql.Literal(context.cursor),
            rows=sql.Literal(rows),
            size=sql.Literal(size_bytes),
            done=sql.Literal(context.done),
            fence=sql.Literal(context.fence),
            before=sql.Literal(context.seq - 1),
        )

    def move_prepared(self, *, rows: int, size_bytes: int) -> tuple[bytes, list[bytes | None]]:
        """As `move`, for a statement that is prepared once: its text and its parameters."""
        context = self.context
        parameters = [
            str(context.seq),
            "\\x" + context.cursor.hex(),
            str(rows),
            str(size_bytes),
            "true" if context.done else "false",
            context.flow,
            context.run,
            context.unit,
            str(context.fence),
        ]
        return _MOVES[self.unlogged], [parameter.encode() for parameter in parameters]

    def is_repeat(self, standing: tuple[int, int, bytes] | None) -> bool:
        """True where this very write is in the ledger already, False where it is the next one.

        Raises:
            FencedError: somebody else has opened the unit since, or the row is gone.
            UnitLostError: the row is gone from a ledger that a crash may have emptied.
            PluginBugError: the sequence number is neither the recorded one nor the next.
        """
        context = self.context
        if standing is None:
            make = errors.UnitLostError if self.unlogged else errors.FencedError
            raise make(
                f"writing unit {context.unit}: the sink's ledger has no such unit any more (reset, taken over by "
                "another flow, or a crash that emptied an unlogged table); run the same command again"
            )
        fence, seq, cursor = standing
        if fence != context.fence:
            raise errors.FencedError(
                f"writing unit {context.unit}: another coordinator has taken it over (fence {fence}, ours is "
                f"{context.fence}); this one stops"
            )
        if seq == context.seq and cursor == context.cursor:
            return True
        if seq == context.seq - 1:
            return False
        raise errors.PluginBugError(
            f"writing unit {context.unit}: write {context.seq} does not follow {seq}, which the ledger has"
        )


def standing(connection: Connection, guard: Guard) -> tuple[int, int, bytes] | None:
    """Where the unit stands now, as `Guard.is_repeat` wants it."""
    row = connection.execute(guard.look).fetchone()
    return None if row is None else (row[0], row[1], bytes(row[2]))
