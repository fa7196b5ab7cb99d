"""What `doctor` says about a source: what would stop a copy or make it smaller, and what a person should know."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import LiteralString

from dsync.sdk import types
from dsync_postgres import large_objects as large
from dsync_postgres.documents import TypeBook, read_own_types
from dsync_postgres.documents.types import parse_type
from dsync_postgres.errors import translating
from dsync_postgres.pooler import Pooling, find_pooling
from dsync_postgres.schema import (
    ExtensionFacts,
    SequenceFacts,
    ServerFacts,
    TableFacts,
    TableName,
    read_extensions,
    read_sequences,
    read_server,
    read_tables,
    source_findings,
)
from dsync_postgres.schema.findings import info, stop, warn
from dsync_postgres.sessions import Connection, Sessions, begin_reading
from dsync_postgres.source import large_objects
from dsync_postgres.source.check_following import following_findings
from dsync_postgres.source.describe import is_copied, table_findings
from dsync_postgres.source.description import DIALECT, Describer, major_of
from dsync_postgres.stream.slots import OWN_PREFIX

_OLDEST_MAJOR, _NEWEST_MAJOR = 14, 18
# A transaction that is so many others old makes `resume_plan` doubt rows that the copy has seen.
_OLD_TRANSACTIONS = 100_000
_MOST_NAMES = 5
_WITHOUT_UNLOGGED = "read from the primary, or choose the other tables with -n"

Tables = Mapping[TableName, TableFacts]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Facts:
    """What one look at the source gives."""

    server: ServerFacts
    tables: Tables
    own_types: TypeBook
    extensions: Mapping[str, ExtensionFacts]
    sequences: Mapping[TableName, SequenceFacts]
    """Of a standby alone."""
    large_objects: large_objects.LargeObjectFacts
    event_triggers: int
    publications: tuple[str, ...]
    subscriptions: tuple[str, ...]
    settings: int
    """How many roles, or all of them, have settings of their own in this database."""
    checks: tuple[tuple[str, str, str, str], ...]
    """Schema and name of a table, a constraint that is checked for each of its rows, a function that it calls."""
    transactions_behind: int
    """How many transactions ago the oldest one that still runs began."""


_REST: LiteralString = """
SELECT (SELECT count(*) FROM pg_event_trigger),
       pg_snapshot_xmax(s)::text::int8 - pg_snapshot_xmin(s)::text::int8,
       ARRAY(SELECT pubname::text FROM pg_publication ORDER BY 1),
       ARRAY(SELECT subname::text FROM pg_subscription JOIN pg_database d ON d.oid = subdbid
             WHERE d.datname = current_database() ORDER BY 1),
       (SELECT count(*) FROM pg_db_role_setting JOIN pg_database d ON d.oid = setdatabase
        WHERE d.datname = current_database())
FROM pg_current_snapshot() s
"""


# What the function returns may depend on other tables. A check that is not valid yet is made after the load; those of a
# partitioned table are named once.
_CHECKS: LiteralString = """
SELECT DISTINCT n.nspname::text, c.relname::text, k.conname::text, p.oid::regprocedure::text
FROM pg_constraint k
JOIN pg_class c ON c.oid = k.conrelid
     OR k.contypid <> 0 AND EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.atttypid = k.contypid)
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_depend d ON d.classid = 'pg_constraint'::regclass AND d.objid = k.oid AND d.refclassid = 'pg_proc'::regclass
JOIN pg_proc p ON p.oid = d.refobjid
WHERE k.contype = 'c' AND k.convalidated AND k.conislocal AND c.relkind IN ('r', 'p') AND p.provolatile <> 'i'
  AND NOT (k.contypid <> 0 AND c.relispartition)
  AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_proc'::regclass AND e.objid = p.oid AND e.deptype = 'e')
ORDER BY 1, 2, 3, 4
"""


async def check_source(
    sessions: Sessions, describer: Describer, request: types.CheckRequest
) -> tuple[types.Finding, ...]:
    """Look at everything at once; `request.namespaces` none: the whole database is to be copied."""
    facts = await sessions.run("checking the source", _look)
    pooling = await find_pooling(sessions)
    chosen = [
        table for name, table in facts.tables.items() if not request.namespaces or name.namespace in request.namespaces
    ]
    found = [
        *_server_findings(facts.server),
        *_pooler_findings(pooling),
        *_activity_findings(facts),
        *source_findings(facts.extensions),
        *large_objects.findings(
            facts.large_objects, is_chosen=not request.namespaces or large.NAMESPACE in request.namespaces
        ),
        *table_findings(chosen),
        *(_own_findings(facts) if not request.namespaces else ()),
        *_unlogged_findings(chosen, facts, whole_database=not request.namespaces),
        *_order_findings(chosen, facts),
    ]
    if request.updates:
        wants_large = not request.namespaces or large.NAMESPACE in request.namespaces
        found += await following_findings(
            sessions, facts.server, chosen, large_objects=facts.large_objects.count if wants_large else 0
        )
    if request.peer_db_type == DIALECT:
        choice = await describer.choose_tool(facts.server.major, major_of(request.peer_version))
        found += [choice.finding] if choice.finding is not None else []
    elif request.peer_db_type:
        found += _document_findings(chosen, facts, request.peer_db_type)
    if sessions.request.row_filters:
        found += await sessions.run(
            "checking the row filters",
            lambda connection: _filter_findings(connection, sessions.request.row_filters, chosen),
        )
    return tuple(found)


def _filter_findings(
    connection: Connection, filters: Mapping[str, str], chosen: list[TableFacts]
) -> list[types.Finding]:
    """Foreign keys onto rows that stay behind cannot be made once the referring rows have arrived."""
    names = {table.name for table in chosen}
    rows = connection.execute(
        "SELECT k.conname::text, n.nspname::text, c.relname::text, rn.nspname::text, r.relname::text"
        " FROM pg_constraint k"
        " JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace"
        " JOIN pg_class r ON r.oid = k.confrelid JOIN pg_namespace rn ON rn.oid = r.relnamespace"
        " WHERE k.contype = 'f' AND k.conparentid = 0 ORDER BY 2, 3, 1"
    ).fetchall()
    found = []
    for key, schema, table, other_schema, other_table in rows:
        referring = TableName(schema=schema, name=table)
        referred = TableName(schema=other_schema, name=other_table)
        if referring in names and referred.namespace in filters:
            found.append(
                warn(
                    "filter-and-foreign-key",
                    referring.namespace,
                    f"foreign key {key} refers to {referred}, of which a filter keeps rows back; where it refers to "
                    "one of them the key cannot be made, and the run ends incomplete",
                    f"filter {referring} as well, so that its rows go with those they refer to",
                )
            )
    return found


def _look(connection: Connection) -> _Facts:
    with translating("checking the source"):
        begin_reading(connection, "")
        try:
            row = connection.execute(_REST).fetchone()
            assert row is not None, "a function in FROM gives one row"
            server = read_server(connection)
            return _Facts(
                server=server,
                tables=read_tables(connection),
                own_types=read_own_types(connection),
                extensions=read_extensions(connection),
                sequences=read_sequences(connection) if server.is_standby else {},
                large_objects=large_objects.read_facts(connection),
                event_triggers=row[0],
                checks=tuple(connection.execute(_CHECKS).fetchall()),
                transactions_behind=row[1],
                publications=tuple(row[2]),
                subscriptions=tuple(row[3]),
                settings=row[4],
            )
        finally:
            connection.rollback()


def _server_findings(server: ServerFacts) -> Iterator[types.Finding]:
    if server.major < _OLDEST_MAJOR:
        yield stop(
            "server-version",
            f"PostgreSQL {server.version}",
            f"versions before {_OLDEST_MAJOR} cannot be read in ranges",
            "upgrade the server, or copy with pg_dump",
        )
    elif server.major > _NEWEST_MAJOR:
        yield warn(
            "server-version", f"PostgreSQL {server.version}", f"dsync was not tried on versions after {_NEWEST_MAJOR}"
        )
    if server.encoding == "SQL_ASCII":
        yield warn(
            "sql-ascii",
            server.database,
            "the database does not know the encoding of its text: into another one in SQL_ASCII it is copied byte by "
            "byte, nowhere else would anybody know how to read it",
            "create the sink with ENCODING 'SQL_ASCII' TEMPLATE template0; or find out what encoding the text is in, "
            "convert what is not UTF-8, and use --allow-lossy: a sink in any encoding then refuses rows that are not",
        )
    if server.is_standby:
        yield info(
            "standby",
            server.database,
            "the source is a standby: replay may cancel reads, which are repeated, or end the snapshot",
            "set hot_standby_feedback = on or raise max_standby_streaming_delay there while copying",
        )


def _pooler_findings(pooling: Pooling) -> Iterator[types.Finding]:
    if pooling is Pooling.TRANSACTION:
        yield stop(
            "transaction-pooler",
            "connection",
            "a pooler hands transactions of one connection to different servers, so settings and snapshots are lost",
            "use the server's own address and port, or a pool in session mode",
        )
    elif pooling is Pooling.UNKNOWN:
        yield warn(
            "pooler",
            "connection",
            "something between here and the server answers in its place; it has to keep one server for each connection",
            "use the server's own address and port, or a pool in session mode",
        )


def _activity_findings(facts: _Facts) -> Iterator[types.Finding]:
    if facts.transactions_behind > _OLD_TRANSACTIONS:
        yield warn(
            "old-transaction",
            facts.server.database,
            f"a transaction has been open for {facts.transactions_behind:,} others; should the copy be interrupted, "
            "what was written since counts as changed",
            "end it: see pg_stat_activity and pg_prepared_xacts for the oldest one",
        )
    yield info(
        "xmin-held",
        facts.server.database,
        "while the copy runs VACUUM keeps every row version that its snapshot sees",
        "watch the growth of tables that are much updated",
    )
    if facts.event_triggers:
        yield info(
            "event-triggers",
            facts.server.database,
            f"{facts.event_triggers} event triggers; only a superuser can create them at the sink",
        )


def _own_findings(facts: _Facts) -> Iterator[types.Finding]:
    """What belongs to this database alone, and to no table: a copy has its own, or none."""
    # A flow's own is nothing that anybody would want at the sink.
    publications = tuple(name for name in facts.publications if not name.startswith(OWN_PREFIX))
    for kind, names in (("publication", publications), ("subscription", facts.subscriptions)):
        if names:
            more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
            yield warn(
                f"{kind}s",
                facts.server.database,
                f"the source's {kind}s are not made at the sink: {', '.join(names[:_MOST_NAMES])}{more}",
                f"make there what is wanted of them: CREATE {kind.upper()}",
            )
    if facts.settings:
        yield info(
            "database-settings",
            facts.server.database,
            "settings made by ALTER DATABASE … SET or ALTER ROLE … IN DATABASE … SET are not copied",
            "\\drds in psql lists them",
        )


def _unlogged_findings(tables: list[TableFacts], facts: _Facts, *, whole_database: bool) -> Iterator[types.Finding]:
    """Unlogged tables, and on a standby, which is sent neither their rows nor their sequences, why that cannot be."""
    unlogged = [table for table in tables if is_copied(table) and table.has_rows and table.persistence == "u"]
    if not facts.server.is_standby:
        for table in unlogged:
            yield info("unlogged-table", table.name.namespace, "it is unlogged here and there: a crash empties it")
        return
    for table in unlogged:
        yield stop(
            "unlogged-on-standby",
            table.name.namespace,
            "it is unlogged, so the standby does not have its rows",
            _WITHOUT_UNLOGGED,
        )
    # That of an unlogged table need not be named as well.
    named, chosen = {table.name for table in unlogged}, {table.name for table in tables}
    for sequence in facts.sequences.values():
        is_copied_too = whole_database or sequence.owner_table in chosen
        if sequence.persistence == "u" and is_copied_too and sequence.owner_table not in named:
            yield stop(
                "unlogged-on-standby",
                sequence.name.namespace,
                "the sequence is unlogged, so the standby does not know where it stands",
                _WITHOUT_UNLOGGED,
            )


def _order_findings(tables: list[TableFacts], facts: _Facts) -> Iterator[types.Finding]:
    names = {table.name for table in tables}
    for schema, table, constraint, function in facts.checks:
        name = TableName(schema=schema, name=table)
        if name in names:
            yield warn(
                "check-calls-function",
                name.namespace,
                f"constraint {constraint} calls {function}, which is not IMMUTABLE: should it read other tables, which "
                "arrive at the same time, rows are refused and become dead letters",
                "write those again with `dsync dead-letters retry`, once everything is there",
            )


def _document_findings(tables: list[TableFacts], facts: _Facts, sink: str) -> Iterator[types.Finding]:
    for table in tables:
        if not (is_copied(table) and table.has_rows):
            continue
        by_text = [
            f"{column.name} ({column.type})"
            for column in table.columns
            if not column.generated and parse_type(column.type, facts.own_types).is_by_text
        ]
        if by_text:
            yield info(
                "by-text",
                table.name.namespace,
                f"{sink} gets these columns as text, as the server prints them: {', '.join(by_text[:_MOST_NAMES])}",
            )
