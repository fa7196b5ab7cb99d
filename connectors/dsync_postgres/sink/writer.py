"""Writing one page: the rows and the unit's ledger row in one transaction, in three round trips.

The first message begins the transaction, looks at the ledger and opens the COPY; then come the rows; the last message
moves the ledger row and commits. For a thread that owns the connection.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psycopg
from psycopg import pq, sql

from dsync.sdk import errors, failpoint, types
from dsync_postgres.errors import describe, lost_in_function, translate
from dsync_postgres.sessions import AS_BYTES, keeps_bytes
from dsync_postgres.sink import wire
from dsync_postgres.sink.claims import claimed_kind
from dsync_postgres.sink.ledger import Guard, standing
from dsync_postgres.sink.staging import StagePlan, Stages, key_for, merge, pour
from dsync_postgres.sink.targets import Connection, TargetTable

# READ COMMITTED, so that the ledger's UPDATE sees what others have committed meanwhile; whether the transaction may
# write stays as the server has it: a sink that was made read-only is not overruled.
_BEGIN = sql.SQL("BEGIN ISOLATION LEVEL READ COMMITTED")
_COMMIT = sql.SQL("COMMIT")
_AS_REPLICA = sql.SQL("SET LOCAL session_replication_role = replica")
_FORMATS = {types.PageType.PG_COPY_BINARY: sql.SQL("binary"), types.PageType.PG_COPY_TEXT: sql.SQL("text")}
_TRAILER = b"\xff\xff"

_CHANGED = ("42P01", "42703", "3F000", "42P10")
_MALFORMED_PAGE = "22P04"
# A value that its type's binary input cannot read; the connection is fine.
_MALFORMED_VALUE = "08P01"


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """One page on its way into its table."""

    table: TargetTable
    columns: tuple[str, ...]
    page_type: types.PageType
    rows: int
    body: types.Buffer
    guard: Guard | None
    """None: a coordinator that knows no ledger."""
    text_columns: frozenset[str] = frozenset()
    """These come as text in binary rows: their types' input functions read it on the way from a stage."""
    as_replica: bool
    """Triggers and foreign keys are kept from firing by session_replication_role."""

    @property
    def operation(self) -> str:
        """For messages."""
        return f"writing {self.table.name}"

    def copy_into(self, table: sql.Identifier) -> sql.Composed:
        """COPY of the columns in the page's format; no list where there are none, which means the same."""
        listed = sql.SQL(" ({})").format(sql.SQL(", ").join(map(sql.Identifier, self.columns)))
        return sql.SQL("COPY {}{} FROM STDIN (FORMAT {})").format(
            table, listed if self.columns else sql.SQL(""), _FORMATS[self.page_type]
        )


class _WrittenBeforeError(Exception):
    """The ledger has this very write."""


def insert(connection: Connection, load: Load, stages: Stages) -> int:
    """COPY the page straight into its table, none of whose rows are there yet; returns the number of rows.

    Through a stage where columns come as text.

    Repeatable where there is a ledger: what it has is not written again.

    Raises:
        RecordError: a row was refused; nothing of the page is there.
        FencedError: another coordinator has the unit.
    """
    if not load.rows:
        return _move_only(connection, load)
    if load.text_columns:
        return _guarded(connection, load, lambda: _insert_texts(connection, load, stages))
    return _guarded(connection, load, lambda: _insert(connection, load))


def upsert(connection: Connection, load: Load, stages: Stages) -> int:
    """Write the page by key, through a stage; of several rows with one key the last one stays.

    Raises:
        UnsupportedError: the table has no key that ON CONFLICT could use.
        RecordError, FencedError: as `insert`.
    """
    key_for(load.table, load.columns)
    if not load.rows:
        return _move_only(connection, load)
    return _guarded(connection, load, lambda: _upsert(connection, load, stages))


def _guarded(connection: Connection, load: Load, write: Callable[[], int]) -> int:
    """As `_unless_written`; of a unit that is gone it says whether it may be opened again, to go on by itself."""
    try:
        return _unless_written(connection, load, write)
    except errors.UnitLostError as exc:
        connection.rollback()
        # A crash leaves the claim; whoever has reset the flow or taken the table over does not.
        if load.guard is not None and claimed_kind(connection, load.guard.context.flow, load.table.name.namespace):
            raise
        raise errors.FencedError(str(exc)) from exc


def _unless_written(connection: Connection, load: Load, write: Callable[[], int]) -> int:
    """Run `write`; whatever goes wrong, the ledger is asked first whether the page is there after all.

    It may be: a message whose answer was lost is still carried out, and then meets its own repeat.
    """
    try:
        return write()
    except _WrittenBeforeError:
        connection.rollback()
        return load.rows
    except psycopg.Error as exc:
        if _is_written(connection, load):
            return load.rows
        raise _translated(exc, load) from exc


def _is_written(connection: Connection, load: Load) -> bool:
    if connection.pgconn.status != pq.ConnStatus.OK:
        return False
    connection.rollback()
    return load.guard is not None and load.guard.is_repeat(standing(connection, load.guard))


def _insert(connection: Connection, load: Load) -> int:
    _require_end(load)
    rows = wire.copy_in(
        connection,
        [*_beginning(connection, load), load.copy_into(load.table.identifier)],
        load.body,
        check=_ledger_check(load),
    )
    _require_count(connection, load, rows)
    failpoint("sink.before_commit")
    wire.execute(connection, _ending(load))
    failpoint("sink.after_commit")
    return rows


def _insert_texts(connection: Connection, load: Load, stages: Stages) -> int:
    _require_end(load)
    if load.table.has_insert_rules:
        # COPY passes rules by, and INSERT obeys them.
        raise errors.UnsupportedError(
            f"{load.operation}: it has rules for INSERT, and column {min(load.text_columns)} can only be "
            "written by one; drop the rules for the load, or let rows travel as text (--data-type pg-copy-text)"
        )
    plan = stages.plan(connection, load.table, load.columns, ordered=False, texts=load.text_columns)
    return _through(connection, load, stages, plan, pour(plan, load.table))


def _upsert(connection: Connection, load: Load, stages: Stages) -> int:
    _require_end(load)
    try:
        return _merge(connection, load, stages, _stage(connection, load, stages, ordered=False))
    except psycopg.errors.CardinalityViolation:
        # Two rows of the page have one key. That is rare, and numbering all rows for its sake costs time.
        connection.rollback()
        return _merge(connection, load, stages, _stage(connection, load, stages, ordered=True))


def _stage(connection: Connection, load: Load, stages: Stages, *, ordered: bool) -> StagePlan:
    return stages.plan(connection, load.table, load.columns, ordered=ordered, texts=load.text_columns)


def _merge(connection: Connection, load: Load, stages: Stages, plan: StagePlan) -> int:
    return _through(connection, load, stages, plan, merge(plan, load.table))


def _through(connection: Connection, load: Load, stages: Stages, plan: StagePlan, last: sql.Composable) -> int:
    """COPY the page into the stage, and from there into its table with the last statement."""
    # The stage is made before the role changes: nothing about it needs that.
    rows = wire.copy_in(
        connection,
        [*_beginning(connection, load), *plan.statements, load.copy_into(plan.identifier)],
        load.body,
        check=_ledger_check(load),
    )
    _require_count(connection, load, rows)
    failpoint("sink.before_merge")
    wire.execute(connection, [last, *_ending(load)])
    failpoint("sink.after_merge")
    stages.committed(connection, plan)
    return rows


def _move_only(connection: Connection, load: Load) -> int:
    """A page without rows: only the ledger moves on."""
    if load.guard is not None:
        _guarded(connection, load, lambda: len(wire.execute(connection, [_BEGIN, *_ending(load)])))
    return 0


def _beginning(connection: Connection, load: Load) -> list[sql.Composable]:
    statements: list[sql.Composable] = [_BEGIN]
    # First of all the ledger: its answer is the result that the check finds at this place.
    if load.guard is not None:
        statements.append(load.guard.look)
    if load.as_replica:
        statements.append(_AS_REPLICA)
    if keeps_bytes(connection):
        statements.append(sql.SQL(AS_BYTES))
    return statements


def _ending(load: Load) -> list[sql.Composable]:
    if load.guard is None:
        return [_COMMIT]
    size_bytes = len(load.body) if load.rows else 0
    return [load.guard.move(rows=load.rows, size_bytes=size_bytes), _COMMIT]


def _ledger_check(load: Load) -> Callable[[Sequence[pq.abc.PGresult]], None]:
    def check(results: Sequence[pq.abc.PGresult]) -> None:
        if load.guard is not None and load.guard.is_repeat(_standing_in(results[1])):
            raise _WrittenBeforeError

    return check


def _standing_in(result: pq.abc.PGresult) -> tuple[int, int, bytes] | None:
    if not result.ntuples:
        return None
    fence, seq, cursor = (result.get_value(0, column) or b"" for column in range(3))
    return int(fence), int(seq), bytes.fromhex(cursor[2:].decode())


def _require_end(load: Load) -> None:
    """COPY takes a binary stream that stops between two rows for a complete one."""
    if load.page_type is types.PageType.PG_COPY_BINARY and bytes(load.body[-2:]) != _TRAILER:
        raise errors.PluginBugError(f"{load.operation}: the page's COPY stream has no trailer, so it was cut short")


def _require_count(connection: Connection, load: Load, rows: int) -> None:
    if rows != load.rows:
        connection.rollback()
        raise errors.PluginBugError(
            f"{load.operation}: a page said to have {load.rows} rows brought {rows}; nothing of it was kept. Either "
            "the sender miscounted, or a trigger that always fires drops rows"
        )


def _translated(exc: psycopg.Error, load: Load) -> errors.DsyncError:
    code = exc.sqlstate or ""
    if way_on := lost_in_function(exc):
        # A check, a domain or a generated column of this table: the others can go on.
        return errors.NamespaceChangedError(f"{load.operation}: {describe(exc)}; {way_on}, and repeat with --again")
    if code in _CHANGED:
        return errors.NamespaceChangedError(
            f"{load.operation}: {describe(exc)}; the table was dropped or altered since the flow began: undo that, or "
            "start again with `dsync reset`"
        )
    if code == _MALFORMED_PAGE:
        return errors.PluginBugError(f"{load.operation}: the page is not what COPY reads ({code}), a bug of its sender")
    translated = translate(exc, load.operation)
    if isinstance(translated, errors.RecordError) or code == _MALFORMED_VALUE:
        return errors.RecordError(f"{load.operation}: {describe(exc)}{_place(exc, load)}")
    return translated


def _place(exc: psycopg.Error, load: Load) -> str:
    """Which row of the page and which column, out of the server's context line; never the value that follows it."""
    context = exc.diag.context or ""
    relation = rf"(?:{re.escape(load.table.name.name)}|dsync_stage_\d)"
    found = re.match(rf"COPY {relation}, line (\d+)", context)
    if found is None or exc.diag.column_name:
        return ""
    rest = context[found.end() :]
    # Names may contain what separates them from the value, so the longest known one that fits is taken.
    names = [name for name in load.columns if rest.startswith(f", column {name}")]
    column = f", column {max(names, key=len)}" if names else ""
    return f" in row {found.group(1)} of the page{column}"
