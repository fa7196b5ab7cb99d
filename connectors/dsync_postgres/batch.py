"""Many schema statements in few round trips; one by one only where one of them is refused."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg

from dsync_postgres.ledger import Connection
from dsync_postgres.schema.apply import NOT_REHEARSED, rehearse, run_statements
from dsync_postgres.schema.findings import Finding
from dsync_postgres.schema.plan import SETTINGS, SchemaPlan
from dsync_postgres.schema.steps import Statement

# Longer messages gain nothing more.
_STATEMENTS_A_MESSAGE = 100


def run(connection: Connection, statements: Sequence[Statement]) -> tuple[Finding, ...]:
    """As `run_statements`, which says what was refused and names it where the quick way fails."""
    if _run_together(connection, statements):
        return ()
    return run_statements(connection, statements)


def try_out(connection: Connection, plan: SchemaPlan) -> tuple[Finding, ...]:
    """As `rehearse`, which says what would be refused where the quick way fails; nothing remains at the sink."""
    steps = [step for step in plan.post_data if step.kind not in NOT_REHEARSED]
    statements = [*plan.pre_data, *(statement for step in steps for statement in step.statements)]
    with connection.transaction(force_rollback=True):
        if _run_together(connection, statements):
            return ()
    return rehearse(connection, plan)


def _run_together(connection: Connection, statements: Sequence[Statement]) -> bool:
    """Run all of them, or none and say so."""
    try:
        with connection.transaction():
            connection.execute(SETTINGS.sql.encode())
            for start in range(0, len(statements), _STATEMENTS_A_MESSAGE):
                batch = statements[start : start + _STATEMENTS_A_MESSAGE]
                connection.execute("\n;\n".join(statement.sql for statement in batch).encode())
    except psycopg.Error:
        return False
    return True
