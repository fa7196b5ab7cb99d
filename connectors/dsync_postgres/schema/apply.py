"""Runs statements of a plan at the sink, or tries them and takes everything back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import psycopg

from dsync.sdk import errors
from dsync_postgres.errors import describe, translate
from dsync_postgres.schema.errors import StatementError
from dsync_postgres.schema.findings import Finding, stop, warn
from dsync_postgres.schema.plan import SETTINGS, SchemaPlan
from dsync_postgres.schema.reading import Blocking
from dsync_postgres.schema.sequences import SequencePosition, set_position
from dsync_postgres.schema.steps import BuildStep, Statement

# Not permitted, and what a label says whose provider is not loaded.
_FORGIVEN = frozenset({"42501", "22023"})
# What only works on rows, or only once there are some: no use in trying it on empty tables.
NOT_REHEARSED = frozenset({"refresh", "analyze", "sequences"})
_MOST_FAILURES = 20
_EXISTING = (
    psycopg.errors.DuplicateObject,
    psycopg.errors.DuplicateFunction,
    psycopg.errors.DuplicateTable,
    psycopg.errors.DuplicateSchema,
)


def run_statements(
    connection: Blocking, statements: Iterable[Statement], *, may_exist: bool = False
) -> tuple[Finding, ...]:
    """Run statements in the transaction that the caller has open; returns what was refused but can be done without.

    With `may_exist` an object that is there already is taken for the one to be made: an earlier run has made it.
    Afterwards, until that transaction ends, `search_path` is empty: what else runs in it has to be qualified.

    Raises:
        StatementError: the sink refused one, or its rows do not fit.
        PrivilegeError: a privilege is missing for something that cannot be done without.
        ConflictError: a deadlock or a busy lock; the whole transaction may be repeated.
    """
    _execute(connection, SETTINGS)
    findings = (_run(connection, statement, may_exist=may_exist) for statement in statements)
    return tuple(finding for finding in findings if finding is not None)


def run_step(connection: Blocking, step: BuildStep, positions: Sequence[SequencePosition] = ()) -> tuple[Finding, ...]:
    """Run one step in the transaction that the caller has open; `positions` are for the step that sets sequences.

    Raises: as `run_statements`.
    """
    return run_statements(connection, [*step.statements, *_settings_of(step, positions)])


def rehearse(connection: Blocking, plan: SchemaPlan, *, may_exist: bool = False) -> tuple[Finding, ...]:
    """Try a plan on empty tables in a transaction that is rolled back; return what the sink would refuse.

    `may_exist` is as for `run_statements`.

    Nothing remains at the sink. Locks are those of creating objects; tables that exist are not touched unless a
    foreign key of a new table points to them.
    """
    findings: list[Finding] = []
    steps = [step for step in plan.post_data if step.kind not in NOT_REHEARSED]
    statements = [*plan.pre_data, *(statement for step in steps for statement in step.statements)]
    with connection.transaction(force_rollback=True):
        _execute(connection, SETTINGS)
        for statement in statements:
            try:
                with connection.transaction():
                    finding = _run(connection, statement, may_exist=may_exist)
            except errors.DsyncError as exc:
                # What stands on it fails too; the first few say what is wrong.
                finding = stop("sink-refuses", statement.object, str(exc), "create it at the sink, or leave it out")
            findings += [finding] if finding is not None else []
            if len(findings) == _MOST_FAILURES:
                break
    return tuple(findings)


def _settings_of(step: BuildStep, positions: Sequence[SequencePosition]) -> list[Statement]:
    known = {position.name: position for position in positions}
    statements = []
    for target in step.sequences:
        # Dropped at the source since it was planned: its sink copy keeps where it starts.
        if target.name in known:
            text = set_position(known[target.name], only_forward=target.only_forward)
            statements.append(Statement(sql=text, object=f"SEQUENCE {target.name}"))
    return statements


def _run(connection: Blocking, statement: Statement, *, may_exist: bool) -> Finding | None:
    if not statement.is_optional and not may_exist:
        _execute(connection, statement)
        return None
    try:
        with connection.transaction():
            connection.execute(statement.sql.encode(), prepare=False)
    except psycopg.Error as exc:
        if may_exist and isinstance(exc, _EXISTING):
            return None
        if statement.is_optional and statement.sql.startswith("ANALYZE") and _is_about_values(exc):
            return warn(
                "not-analyzed",
                statement.object,
                f"ANALYZE failed on its rows: {describe(exc)}; queries are planned without its statistics",
                "ANALYZE fails on the source's rows just so; change the value or the statistics it cannot be part of",
            )
        if not statement.is_optional or exc.sqlstate not in _FORGIVEN:
            raise refusal(exc, statement) from exc
        return warn(
            "statement-refused",
            statement.object,
            f"the sink did not let us set its owner, privileges or comment: {describe(exc)}",
            "run that part as a superuser at the sink, or use --no-owner and --no-privileges",
        )
    return None


# untranslatable_character, character_not_in_repertoire
_NO_SUCH_CHARACTER = ("22P05", "22021")


def _is_about_values(exc: psycopg.Error) -> bool:
    """A range over 1e130000 overflows what ANALYZE computes with; so may any function in an expression."""
    return isinstance(translate(exc, "computing statistics"), errors.RecordError)


def _execute(connection: Blocking, statement: Statement) -> None:
    # Without parameters and unprepared the text goes through the simple protocol, which takes several statements
    # and leaves percent signs alone.
    try:
        connection.execute(statement.sql.encode(), prepare=False)
    except psycopg.Error as exc:
        raise refusal(exc, statement) from exc


def refusal(exc: psycopg.Error, statement: Statement) -> errors.DsyncError:
    """The error of ours for a statement of a schema that the sink refused."""
    operation = f"creating {statement.object} at the sink"
    error = translate(exc, operation)
    if not isinstance(error, errors.RecordError):
        return error
    if exc.sqlstate in _NO_SUCH_CHARACTER:
        return StatementError(
            f"{operation}: {describe(exc)}; the sink's encoding lacks a character of its name or definition. Create "
            "the sink with ENCODING 'UTF8' or that of the source"
        )
    # Not one page's record: all rows are there, and they or the definition do not go together.
    return StatementError(
        f"{operation}: {describe(exc)}; the rows at the sink do not satisfy it, or it cannot be evaluated there"
    )
