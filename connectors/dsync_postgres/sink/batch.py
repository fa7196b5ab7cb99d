"""Many schema statements in few round trips; one by one only where one of them is refused."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg

from dsync.sdk import errors
from dsync_postgres.schema.apply import NOT_REHEARSED, rehearse, run_statements
from dsync_postgres.schema.findings import Finding, info, stop
from dsync_postgres.schema.plan import SETTINGS, SchemaPlan
from dsync_postgres.schema.steps import Statement
from dsync_postgres.sink.ledger import Connection

# Longer messages gain nothing more.
_STATEMENTS_A_MESSAGE = 100


def run(connection: Connection, statements: Sequence[Statement], *, may_exist: bool) -> tuple[Finding, ...]:
    """As `run_statements`, which says what was refused and names it where the quick way fails.

    Raises:
        PermanentError: the server has no room for so many locks in one transaction.
    """
    failure = _run_together(connection, statements)
    if failure is None:
        return ()
    if isinstance(failure, psycopg.errors.OutOfMemory):
        finding = _too_many(connection, len(statements))
        raise errors.PermanentError(f"preparing the sink: {finding.message}; {finding.remedy}") from failure
    return run_statements(connection, statements, may_exist=may_exist)


def try_out(connection: Connection, plan: SchemaPlan, *, may_exist: bool) -> tuple[Finding, ...]:
    """As `rehearse`, which says what would be refused where the quick way fails; nothing remains at the sink."""
    steps = [step for step in plan.post_data if step.kind not in NOT_REHEARSED]
    late = [statement for step in steps for statement in step.statements]
    with connection.transaction(force_rollback=True):
        failure = _run_together(connection, plan.pre_data)
        if isinstance(failure, psycopg.errors.OutOfMemory):
            return (_too_many(connection, len(plan.pre_data)),)
        if failure is None:
            failure = _run_together(connection, late)
        if isinstance(failure, psycopg.errors.OutOfMemory):
            # In earnest each of them is a transaction of its own.
            return (info("not-rehearsed", "indexes and constraints", "there are too many to be tried in one go"),)
    return () if failure is None else rehearse(connection, plan, may_exist=may_exist)


def _run_together(connection: Connection, statements: Sequence[Statement]) -> psycopg.Error | None:
    """Run all of them; or none, and give the reason."""
    try:
        with connection.transaction():
            connection.execute(SETTINGS.sql.encode())
            for start in range(0, len(statements), _STATEMENTS_A_MESSAGE):
                batch = statements[start : start + _STATEMENTS_A_MESSAGE]
                connection.execute("\n;\n".join(statement.sql for statement in batch).encode())
    except psycopg.Error as exc:
        return exc
    return None


def _too_many(connection: Connection, statements: int) -> Finding:
    """Each object that a transaction creates needs a lock to its end, and the server has room for so many."""
    row = connection.execute("SELECT current_setting('max_locks_per_transaction')").fetchone()
    assert row is not None, "a SELECT without FROM gives one row"
    return stop(
        "too-many-locks",
        "max_locks_per_transaction",
        f"the schema's {statements:,} statements are one transaction, which needs more locks than the server has room "
        f"for with max_locks_per_transaction = {row[0]}",
        "raise it (a table takes about five locks; the server has to be restarted), or create the schema yourself and "
        "copy with --schema none",
    )
