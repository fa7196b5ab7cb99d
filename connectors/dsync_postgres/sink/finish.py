"""Finish steps: what is built once the rows are there, each in one transaction with its ledger row."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import psycopg
import structlog
from psycopg import pq, sql

from dsync.sdk import errors, failpoint, types
from dsync_postgres.definition import decode_positions
from dsync_postgres.schema.apply import refusal, run_step
from dsync_postgres.schema.graph import constraint_name
from dsync_postgres.schema.lexer import Token, tokens
from dsync_postgres.schema.names import TableName
from dsync_postgres.schema.plan import SETTINGS
from dsync_postgres.schema.steps import BuildStep
from dsync_postgres.sink import aside, claims, wire
from dsync_postgres.sink.ledger import SCHEMA, Connection

_log = structlog.get_logger(__name__)

_EXISTS = (psycopg.errors.DuplicateTable, psycopg.errors.DuplicateObject, psycopg.errors.InvalidTableDefinition)
_CONSTRAINTS = frozenset({"constraint", "check constraint", "fk constraint"})


def finish(
    connection: Connection,
    context: types.WriteContext,
    step: types.FinishStep,
    source_data: bytes,
    *,
    maintenance_work_mem: str = "",
) -> None:
    """Do one step; one that the ledger has as done is not done again.

    Raises:
        FencedError: another coordinator has the step.
        PermanentError: the rows do not satisfy it, or the sink refuses it; nothing of the step remains.
    """
    if _finish_together(connection, context, step, maintenance_work_mem):
        return
    with connection.transaction():
        ledger = _ledger_of(connection, context, step)
        if ledger is None:
            return
        if maintenance_work_mem:
            connection.execute("SELECT set_config('maintenance_work_mem', %s, true)", [maintenance_work_mem])
        _do(connection, context.flow, step, source_data)
        _move(connection, ledger, context)
        failpoint("sink.before_step_commit")
    failpoint("sink.after_step_commit")


def _finish_together(
    connection: Connection, context: types.WriteContext, step: types.FinishStep, maintenance_work_mem: str
) -> bool:
    """Do an ordinary step in two round trips, or nothing and say so: most are quick, and there may be thousands."""
    if step.kind == aside.STEP_KIND or step.needs_source:
        return False
    build = BuildStep.from_wire(step)
    if not build.statements or any(statement.is_optional for statement in build.statements):
        return False
    ledger = _ledger_of(connection, context, step)
    if ledger is None:
        return True
    memory = sql.SQL("SELECT set_config('maintenance_work_mem', {}, true)").format(sql.Literal(maintenance_work_mem))
    statements = [
        sql.SQL("BEGIN ISOLATION LEVEL READ COMMITTED"),
        *([memory] if maintenance_work_mem else []),
        *(sql.SQL(statement.sql) for statement in (SETTINGS, *build.statements)),
        _guarded_move(ledger, context),
    ]
    try:
        wire.execute(connection, statements)
        failpoint("sink.before_step_commit")
        wire.execute(connection, [sql.SQL("COMMIT")])
    except psycopg.Error as exc:
        if connection.pgconn.status != pq.ConnStatus.OK:
            raise
        connection.rollback()
        if isinstance(exc, psycopg.errors.DivisionByZero) and _ledger_of(connection, context, step) is None:
            return True
        if isinstance(exc, _EXISTS):
            # Known at once, and for the slower way to judge.
            return False
        raise refusal(exc, build.statements[0]) from exc
    failpoint("sink.after_step_commit")
    return True


def _do(connection: Connection, flow: str, step: types.FinishStep, source_data: bytes) -> None:
    if step.kind == aside.STEP_KIND:
        for said in aside.put_back(connection, flow, step.id):
            _log.info("set_aside_put_back", step=step.id, what=said)
        return
    build = BuildStep.from_wire(step)
    positions = decode_positions(source_data) if step.needs_source else ()
    try:
        with connection.transaction():
            findings = run_step(connection, build, positions)
    except errors.DsyncError as exc:
        # An unlogged ledger that a crash has emptied forgets what the catalogue still has.
        if isinstance(exc.__cause__, _EXISTS) and _is_there(connection, build):
            return
        raise
    for finding in findings:
        _log.warning("finish_statement_refused", step=step.id, object=finding.object, reason=finding.message)


def _ledger_of(connection: Connection, context: types.WriteContext, step: types.FinishStep) -> sql.Identifier | None:
    """Which twin has the step's row; None where the step is done.

    Raises:
        FencedError: neither has it, or with another fence.
        UnitLostError: neither has it, and its table is one that a crash empties.
    """
    row = connection.execute(
        "SELECT * FROM (SELECT 'ledger', fence, seq, done FROM _dsync.ledger WHERE (flow, run, unit) = (%(f)s, %(r)s,"
        " %(u)s) UNION ALL SELECT 'ledger_unlogged', fence, seq, done FROM _dsync.ledger_unlogged"
        " WHERE (flow, run, unit) = (%(f)s, %(r)s, %(u)s)) l ORDER BY fence DESC LIMIT 1",
        {"f": context.flow, "r": context.run, "u": context.unit},
    ).fetchone()
    if row is None and claims.claimed_kind(connection, context.flow, step.namespace) == "u":
        raise errors.UnitLostError(
            f"finish step {context.unit}: the sink's ledger has no such step any more, since a crash of the server has "
            "emptied its table; run the same command again"
        )
    if row is None or row[1] != context.fence:
        raise _fenced(context)
    name, _, seq, done = row
    if done:
        return None
    if seq != context.seq - 1:
        raise errors.PluginBugError(f"finish step {context.unit}: write {context.seq} does not follow {seq}")
    return sql.Identifier(SCHEMA, name)


def _move(connection: Connection, ledger: sql.Identifier, context: types.WriteContext) -> None:
    try:
        connection.execute(_guarded_move(ledger, context))
    except psycopg.errors.DivisionByZero as exc:
        raise _fenced(context) from exc


def _guarded_move(ledger: sql.Identifier, context: types.WriteContext) -> sql.Composed:
    """Move the step's row to done, or fail with division_by_zero, so that nothing after it in a message is run."""
    unit = (context.flow, context.run, context.unit, context.fence, context.seq - 1)
    return sql.SQL(
        "WITH moved AS (UPDATE {} SET (seq, cursor, done, updated_at) = ({}, {}, true, now())"
        " WHERE (flow, run, unit, fence, seq) = ({}, {}, {}, {}, {}) RETURNING 1) SELECT 1 / count(*) FROM moved"
    ).format(ledger, *map(sql.Literal, (context.seq, context.cursor, *unit)))


def _fenced(context: types.WriteContext) -> errors.FencedError:
    return errors.FencedError(
        f"finish step {context.unit}: another coordinator has taken it over, or the ledger was reset; this one stops"
    )


def _is_there(connection: Connection, step: BuildStep) -> bool:
    """Whether what the step makes exists already, on its table, and is valid."""
    if not step.namespace:
        return False
    table = TableName.parse(step.namespace)
    if step.kind == "index":
        return _holds(
            connection,
            "SELECT i.indisvalid AND i.indisready FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid"
            " JOIN pg_class c ON c.oid = i.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE n.nspname = %s AND c.relname = %s AND x.relname = %s",
            table,
            step.name,
        )
    pieces = tuple(token for statement in step.statements for token in tokens(statement.sql))
    if step.kind in _CONSTRAINTS:
        return _holds(
            connection,
            "SELECT true FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid"
            " JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE n.nspname = %s AND c.relname = %s AND k.conname = %s",
            table,
            constraint_name(pieces) or "",
        )
    name = _trigger_name(pieces) if step.kind == "trigger" else ""
    return bool(name) and _holds(
        connection,
        "SELECT NOT t.tgisinternal FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid"
        " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %s AND c.relname = %s AND t.tgname = %s",
        table,
        name,
    )


def _trigger_name(pieces: Sequence[Token]) -> str:
    named = (after.name for before, after in pairwise(pieces) if before.is_word("TRIGGER"))
    return next(named, None) or ""


def _holds(connection: Connection, query: str, table: TableName, name: str) -> bool:
    row = connection.execute(query.encode(), [table.schema, table.name, name]).fetchone()
    return row is not None and bool(row[0])
