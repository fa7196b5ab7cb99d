"""A table that has changed at the source: a column that was added is added here, everything else stops the table.

What is added gets what the source's rows have in it that were there before, so that no row has to be read again: NULL,
or the constant that was the default then. Where that cannot be told, the table has to be copied anew; it stops where a
column was dropped, renamed or given another type, since the stream says neither which nor what became of its values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import psycopg
import structlog
from psycopg import sql

from dsync.sdk import errors, types
from dsync_postgres.definition import ColumnFacts, decode_columns
from dsync_postgres.errors import describe, translate
from dsync_postgres.schema.names import TableName
from dsync_postgres.sink.ledger import Connection, Guard, standing
from dsync_postgres.sink.remembered import Types, read_shape, save_shape
from dsync_postgres.sink.targets import TargetTable, read_targets

_log = structlog.get_logger(__name__)

# A partition has the columns of the tree that it is part of, and gets them by that alone.
_TOP = """
SELECT n.nspname::text, c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = coalesce(pg_partition_root(%s::oid)::oid, %s::oid)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reshape:
    """A relation that is told, and the table that it goes into."""

    guard: Guard
    relation: types.ChangeRelation
    table: TargetTable
    facts: Mapping[str, ColumnFacts] | None
    """By name, of those of which there is something to say; None: nobody has said anything."""

    @property
    def told(self) -> Types:
        """The relation as it is to be remembered."""
        return {column.name: column.type for column in self.relation.columns}

    @property
    def lacking(self) -> list[types.ChangeColumn]:
        """Columns that the table has to get."""
        return [column for column in self.relation.columns if self.table.column(column.name) is None]


def follow(connection: Connection, guard: Guard, relation: types.ChangeRelation, target: TableName) -> None:
    """Give a table the columns that it lacks, and remember the relation. Repeatable: it looks at what there is.

    Raises:
        NamespaceChangedError: the sink cannot do what was done at the source; nothing was changed.
        FencedError: another coordinator has the lane.
    """
    with connection.transaction():
        if guard.is_repeat(standing(connection, guard)):
            return
        flow = guard.context.flow
        # Lanes meet a new relation together, and only one of them is to do something about it.
        connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 7239041561442137))", [target.namespace])
        table = read_targets(connection, [target]).get(target)
        if table is None:
            return
        reshape = Reshape(guard=guard, relation=relation, table=table, facts=decode_columns(relation.details))
        before = read_shape(connection, flow, target.namespace)
        _require_kept(reshape, before)
        if reshape.lacking:
            top = _top(connection, table)
            is_empty = _is_empty(connection, top)
            for column in reshape.lacking:
                _add(connection, reshape, column, top, is_empty=is_empty)
        if before != reshape.told:
            save_shape(connection, flow, target.namespace, reshape.told)


def _require_kept(reshape: Reshape, before: Types | None) -> None:
    """Raise where a column was dropped, renamed or retyped at the source, and not here."""
    table, told = reshape.table, reshape.told
    extra = [c.name for c in table.columns if not c.generated and c.name not in told]
    gone = [name for name in extra if before is not None and name in before]
    if not before and reshape.lacking:
        # Nobody remembers what the relation was: what the table has beside it may be the old name of what it lacks.
        gone = extra
    if gone:
        raise _stopped(
            reshape,
            f"column {gone[0]} was dropped or renamed at the source; {_way_on(reshape)}",
        )
    for name, kind in told.items():
        here = table.column(name)
        if before is not None and name in before and before[name] != kind and here is not None and here.type != kind:
            raise _stopped(
                reshape,
                f"column {name} is of type {kind} at the source now and was {before[name]}; " + _way_on(reshape),
            )


def _add(
    connection: Connection, reshape: Reshape, column: types.ChangeColumn, top: sql.Identifier, *, is_empty: bool
) -> None:
    facts = None if reshape.facts is None else reshape.facts.get(column.name, ColumnFacts(name=column.name))
    if not is_empty and (facts is None or facts.is_computed):
        what = "is not known here" if facts is None else "was computed for each of them"
        raise errors.NamespaceRewrittenError(
            f"applying changes to {reshape.table.name}: column {column.name} was added at the source, and what the "
            f"rows that were there have in it {what}; {_way_on(reshape)}"
        ).about(reshape.relation.namespace)
    old: sql.Composable = sql.SQL("")
    if facts is not None and facts.old_value is not None:
        old = sql.SQL(" DEFAULT {}").format(sql.Literal(facts.old_value))
    _require_type(connection, reshape, column)
    try:
        connection.execute(
            sql.SQL("ALTER TABLE {} ADD COLUMN IF NOT EXISTS {} {}{}").format(
                top,
                sql.Identifier(column.name),
                sql.SQL(column.type),  # the server has read it as a type
                old,
            )
        )
    except psycopg.Error as exc:
        if connection.closed or isinstance(exc, psycopg.OperationalError):
            raise translate(exc, f"adding column {column.name} to {reshape.table.name}") from exc
        raise _stopped(
            reshape,
            f"column {column.name} was added at the source, and adding it here was refused: {describe(exc)}; "
            + _way_on(reshape),
        ) from exc
    if facts is not None:
        _set_default(connection, top, facts)
    _log.info("column_added", table=reshape.table.name.namespace, column=column.name, type=column.type)


def _require_type(connection: Connection, reshape: Reshape, column: types.ChangeColumn) -> None:
    """Raise where the sink has no such type; also of a text that is more than a type."""
    try:
        with connection.transaction():
            row = connection.execute("SELECT to_regtype(%s) IS NOT NULL", [column.type]).fetchone()
            is_known = row is not None and bool(row[0])
    except psycopg.errors.SyntaxError:
        is_known = False
    if not is_known:
        raise _stopped(
            reshape,
            f"column {column.name} was added at the source, and its type {column.type} is not known here; "
            f"{_way_on(reshape)}, with its types",
        )


def _way_on(reshape: Reshape) -> str:
    return f"`dsync resync FLOW --table {reshape.relation.namespace}` copies the table anew"


def _set_default(connection: Connection, top: sql.Identifier, facts: ColumnFacts) -> None:
    """New rows get what they get at the source. A default that cannot be had here costs no row, and is said."""
    alter = sql.SQL("ALTER TABLE {} ALTER COLUMN {} ").format(top, sql.Identifier(facts.name))
    if facts.old_value is not None:
        connection.execute(alter + sql.SQL("DROP DEFAULT"))
    if not facts.default:
        return
    try:
        with connection.transaction():
            connection.execute(alter + sql.SQL("SET DEFAULT {}").format(sql.SQL(facts.default)))
    except psycopg.Error as exc:
        if connection.closed or isinstance(exc, psycopg.OperationalError):
            raise translate(exc, "giving an added column its default") from exc
        _log.warning("column_default_left_out", column=facts.name, reason=describe(exc))


def _top(connection: Connection, table: TargetTable) -> sql.Identifier:
    row = connection.execute(_TOP.encode(), [table.oid, table.oid]).fetchone()
    return table.identifier if row is None else sql.Identifier(*row)


def _is_empty(connection: Connection, top: sql.Identifier) -> bool:
    row = connection.execute(sql.SQL("SELECT NOT EXISTS (SELECT FROM {})").format(top)).fetchone()
    return row is not None and bool(row[0])


def _stopped(reshape: Reshape, what: str) -> errors.NamespaceChangedError:
    return errors.NamespaceChangedError(f"applying changes to {reshape.table.name}: {what}").about(
        reshape.relation.namespace
    )
