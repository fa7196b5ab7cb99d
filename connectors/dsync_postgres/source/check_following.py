"""What `doctor` says about following a source: what would keep changes from coming, and what to run against that."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import LiteralString

from dsync.sdk import errors, types
from dsync_postgres import large_objects as large
from dsync_postgres.schema import ServerFacts, TableFacts, TableName
from dsync_postgres.schema.findings import info, stop, warn
from dsync_postgres.sessions import Connection, Sessions
from dsync_postgres.source.describe import is_copied, key_index_of
from dsync_postgres.stream.begin import Names
from dsync_postgres.stream.connection import ReplicationConnection
from dsync_postgres.stream.publication import (
    Publication,
    RowIdentity,
    read_identities,
    read_publication,
    require_publication,
)
from dsync_postgres.stream.slots import Blocker, Slot, find_blockers, read_slot, require_usable

_OLD_TRANSACTION_S = 10.0
_MOST_NAMES = 5
_MODE_COPY = "or choose --mode copy, which copies once"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Facts:
    """What one look at the server gives."""

    wal_level: str
    free_slots: int
    log_limit: str
    """max_slot_wal_keep_size as the server prints it; -1: there is none."""
    idle_limit: str
    """idle_replication_slot_timeout (from 18 on); empty: the server has none."""
    foreign_owned: tuple[TableName, ...]
    """Tables that this role may not publish."""
    identities: Mapping[TableName, RowIdentity]
    sequences: int
    """In the schemas of these tables, but for extensions' own."""
    publication: Publication | None
    slot: Slot | None


_SERVER: LiteralString = """
SELECT current_setting('wal_level'),
       current_setting('max_replication_slots')::int - (SELECT count(*) FROM pg_replication_slots),
       current_setting('max_slot_wal_keep_size'), coalesce(current_setting('idle_replication_slot_timeout', true), '')
"""

_FOREIGN: LiteralString = """
SELECT n.nspname::text, c.relname::text
FROM unnest(%(schemas)s::text[], %(names)s::text[]) AS w(schema, name)
JOIN pg_namespace n ON n.nspname = w.schema JOIN pg_class c ON c.relname = w.name AND c.relnamespace = n.oid
WHERE NOT pg_has_role(c.relowner, 'USAGE')
ORDER BY 1, 2
"""


_SEQUENCES: LiteralString = """
SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'S' AND n.nspname = ANY (%(schemas)s)
  AND NOT EXISTS (SELECT FROM pg_depend d
                  WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
"""


async def following_findings(
    sessions: Sessions, server: ServerFacts, chosen: Sequence[TableFacts], *, large_objects: int
) -> list[types.Finding]:
    """Everything about following these tables; `large_objects` says how many of them are copied."""
    if server.is_standby:
        return [
            stop(
                "standby-not-followed",
                server.database,
                "the source is a standby, where nothing can be published",
                f"give its primary, {_MODE_COPY}",
            )
        ]
    names, tables = Names.kept_by(sessions), {table.name: table for table in chosen if is_copied(table)}
    facts = await sessions.run("checking what following needs", lambda connection: _look(connection, names, tables))
    blockers = await find_blockers(sessions, 0)
    return [
        *_server_findings(facts, server),
        *await _connection_findings(sessions, facts, server),
        *_slot_findings(facts, names, server, sessions.prefix_of(types.Role.SOURCE)),
        *_publication_findings(facts, names, server),
        *_table_findings(facts, tables),
        *_copied_only_findings(facts, tables, large_objects),
        *_not_told_findings(facts, chosen, server),
        *_nothing_findings(facts, server),
        *_activity_findings(facts, blockers, server),
        *_filter_findings(sessions),
    ]


def _look(connection: Connection, names: Names, tables: Mapping[TableName, TableFacts]) -> _Facts:
    row = connection.execute(_SERVER).fetchone()
    assert row is not None, "a SELECT without FROM gives one row"
    identities = {name: facts for name, facts in read_identities(connection, tables).items() if facts.can_be_followed}
    foreign = connection.execute(
        _FOREIGN, {"schemas": [name.schema for name in identities], "names": [name.name for name in identities]}
    ).fetchall()
    sequences = connection.execute(_SEQUENCES, {"schemas": sorted({name.schema for name in tables})}).fetchone()
    assert sequences is not None, "a count gives one row"
    return _Facts(
        sequences=sequences[0],
        wal_level=row[0],
        free_slots=row[1],
        log_limit=row[2],
        idle_limit=row[3],
        foreign_owned=tuple(TableName(schema=schema, name=name) for schema, name in foreign),
        identities=identities,
        publication=read_publication(connection, names.publication),
        slot=read_slot(connection, names.slot),
    )


# ------------------------------------------------------------------- the server


def _server_findings(facts: _Facts, server: ServerFacts) -> Iterator[types.Finding]:
    if facts.wal_level != "logical":
        yield stop(
            "wal-level",
            f"PostgreSQL {server.version}",
            f"wal_level is {facts.wal_level}: the server's log does not have what following needs",
            "ALTER SYSTEM SET wal_level = 'logical', then restart the server (on managed services a parameter such as "
            f"rds.logical_replication); {_MODE_COPY}",
        )
    if facts.log_limit == "-1":
        yield info(
            "slot-keeps-log",
            server.database,
            "while the flow is not running its slot keeps all of the server's log, without a limit "
            "(max_slot_wal_keep_size)",
            "watch the server's disk; `dsync reset` lets go of the slot",
        )
    else:
        yield info(
            "slot-keeps-log",
            server.database,
            f"once the flow is {facts.log_limit} of log behind (max_slot_wal_keep_size) the server may remove what it "
            "needs, and the flow has to begin again",
            "raise max_slot_wal_keep_size where the flow may be stopped for long",
        )
    if facts.idle_limit not in ("", "0"):
        yield warn(
            "idle-slot-timeout",
            server.database,
            f"a slot that nobody reads for {facts.idle_limit} is lost (idle_replication_slot_timeout), and the flow "
            "has to begin again",
            "set it to 0, or never stop the flow for so long",
        )


async def _connection_findings(sessions: Sessions, facts: _Facts, server: ServerFacts) -> list[types.Finding]:
    """Try it: privileges, free senders, pg_hba.conf and poolers are all found by that, and nothing is left behind."""
    try:
        connection = await ReplicationConnection.open(sessions)
    except errors.PrivilegeError:
        return [
            stop(
                "no-replication-privilege",
                server.user,
                "the role may not replicate",
                f"ALTER ROLE {_quoted(server.user)} REPLICATION (on managed services grant its replication role, such "
                f"as rds_replication); {_MODE_COPY}",
            )
        ]
    except errors.ThrottledError:
        return [
            stop(
                "no-free-sender",
                server.database,
                "the server has no WAL sender or connection left",
                "end replication connections that nobody needs, or raise max_wal_senders and restart the server",
            )
        ]
    except errors.DsyncError as exc:
        return [
            stop(
                "no-replication-connection",
                "connection",
                f"what answers at this address takes no replication connection: {exc}",
                "give the server's own host and port, not those of a pooler; pg_hba.conf has to let the role in",
            )
        ]
    await connection.close()
    return []


def _activity_findings(facts: _Facts, blockers: Sequence[Blocker], server: ServerFacts) -> Iterator[types.Finding]:
    old = [blocker for blocker in blockers if blocker.age_s > _OLD_TRANSACTION_S]
    if old and facts.slot is None:
        yield warn(
            "slot-would-wait",
            server.database,
            f"a slot is made once every transaction has ended that is open now: {_listed(old)}",
            "end them, or allow more time with --slot-timeout",
        )


def _filter_findings(sessions: Sessions) -> Iterator[types.Finding]:
    for namespace in sessions.request.row_filters:
        yield stop(
            "filter-not-followed",
            namespace,
            "rows that stop meeting a filter would have to be removed from the sink, which is not done",
            f"leave --filter out, {_MODE_COPY}",
        )


# -------------------------------------------------------- slot and publication


def _slot_findings(facts: _Facts, names: Names, server: ServerFacts, own_readers: str) -> Iterator[types.Finding]:
    if facts.slot is None:
        if not names.owns_slot:
            yield stop(
                "slot-missing",
                names.slot,
                "there is no replication slot of this name",
                f"SELECT pg_create_logical_replication_slot('{names.slot}', 'pgoutput') in database {server.database}, "
                "or leave ?slot= out",
            )
        elif facts.free_slots < 1:
            yield stop(
                "no-free-slot",
                server.database,
                "all replication slots of the server are in use",
                "drop one that nobody needs (pg_replication_slots shows them), or raise max_replication_slots and "
                "restart the server",
            )
        return
    try:
        require_usable(facts.slot, names.slot, database=server.database, position=None)
    except errors.RetryableError as exc:
        if not facts.slot.reader.startswith(own_readers):
            yield warn("slot-busy", names.slot, str(exc), "end that session if it should not be there")
    except errors.DsyncError as exc:
        if names.owns_slot and isinstance(exc, errors.CursorExpiredError):
            yield warn(
                "slot-lost",
                names.slot,
                str(exc),
                "`dsync sync … --again` makes it anew and copies what has changed",
            )
        else:
            yield stop("slot-unfit", names.slot, str(exc), "give another one with ?slot=, or drop it")


def _publication_findings(facts: _Facts, names: Names, server: ServerFacts) -> Iterator[types.Finding]:
    wanted = [name for name, identity in facts.identities.items() if identity.tells_rows]
    listed = ", ".join(f"ONLY {_sql(name)}" for name in wanted) or "…"
    if not names.owns_publication:
        try:
            require_publication(facts.publication, names.publication, wanted)
        except errors.DsyncError as exc:
            code = "publication-missing" if facts.publication is None else "publication-incomplete"
            verb = (
                "CREATE PUBLICATION {} FOR TABLE {}"
                if facts.publication is None
                else "ALTER PUBLICATION {} SET TABLE {}"
            )
            yield stop(code, names.publication, str(exc), verb.format(_quoted(names.publication), listed))
        return
    if facts.publication is not None and facts.publication.tables.issuperset(wanted):
        return
    by_somebody = (
        f"or let an administrator run CREATE PUBLICATION dsync FOR TABLE {listed}, and give ?publication=dsync"
    )
    if not server.can_create:
        yield stop(
            "no-publication-privilege",
            server.database,
            f"role {server.user} may not make a publication in this database",
            f"GRANT CREATE ON DATABASE {_quoted(server.database)} TO {_quoted(server.user)}, {by_somebody}",
        )
    for name in facts.foreign_owned:
        yield stop(
            "not-owner",
            name.namespace,
            f"only its owner may publish it, and role {server.user} has not the owner's rights",
            f"GRANT the owner's role TO {_quoted(server.user)}, {by_somebody}",
        )


# ------------------------------------------------------------------- the tables


def _table_findings(facts: _Facts, tables: Mapping[TableName, TableFacts]) -> Iterator[types.Finding]:
    for name, identity in facts.identities.items():
        if not identity.tells_rows:
            yield stop(
                "no-replica-identity",
                name.namespace,
                f"{_lack(tables[name])}: published, the application's own UPDATE and DELETE on it would fail",
                _remedy(tables[name]),
            )
        elif not identity.has_key:
            yield info(
                "followed-without-key",
                name.namespace,
                "it has no key: its changes are told by whole rows, and an interrupted copy of it begins anew",
                "a primary key makes it faster",
            )


def _nothing_findings(facts: _Facts, server: ServerFacts) -> Iterator[types.Finding]:
    if not facts.identities:
        yield stop(
            "nothing-to-follow",
            server.database,
            "none of the chosen tables is permanent, has rows of its own and is no extension's",
            f"choose others with -n, {_MODE_COPY}",
        )


def _lack(table: TableFacts) -> str:
    if table.replica_identity in "df" and any(i.is_primary and not i.is_immediate for i in table.unique_indexes):
        return (
            "its primary key is DEFERRABLE, which PostgreSQL does not take for a replica identity, and it has no other"
        )
    return "it has no replica identity"


def _remedy(table: TableFacts) -> str:
    """What to run, a unique index that is there before anything that has to be made."""
    altered = f"ALTER TABLE {_sql(table.name)}"
    index = key_index_of(table)
    if index is not None:
        return f"{altered} REPLICA IDENTITY " + (
            "DEFAULT" if index.is_primary else f"USING INDEX {_quoted(index.name)}"
        )
    return (
        f"{altered} ADD PRIMARY KEY (…), or where there is no key {altered} REPLICA IDENTITY FULL; or leave the table "
        f"out with --exclude, {_MODE_COPY}"
    )


def _copied_only_findings(
    facts: _Facts, tables: Mapping[TableName, TableFacts], large_objects: int
) -> Iterator[types.Finding]:
    """What is copied once, and then stands still at the sink."""
    for name, table in tables.items():
        if name in facts.identities or table.kind in "pv":
            continue
        kind = (
            "a materialized view" if table.kind == "m" else "unlogged" if table.persistence == "u" else "an extension's"
        )
        yield info(
            "copied-only", name.namespace, f"it is {kind}, so it is copied once and its changes are not followed"
        )
    if large_objects:
        yield info(
            "copied-only",
            large.NAMESPACE,
            f"{large_objects:,} large objects are copied once, and their changes are not followed",
        )


def _not_told_findings(facts: _Facts, chosen: Sequence[TableFacts], server: ServerFacts) -> Iterator[types.Finding]:
    """What the server's log says nothing of, where there is such a thing."""
    for table in chosen:
        if table.kind == "p" and not table.is_partition:
            yield info(
                "partitions-by-themselves",
                table.name.namespace,
                "its partitions are followed one by one, by their own names; which ones are attached and detached "
                "later the log does not say, and the sink's stay as they were copied",
            )
        elif table.kind == "f":
            yield info(
                "copied-only",
                table.name.namespace,
                "it is a foreign table: its definition alone is copied, and neither its rows nor their changes",
            )
    if facts.sequences:
        yield info(
            "copied-only",
            server.database,
            f"sequences are set once, when the copy is done ({facts.sequences:,} of them): the log does not tell how "
            "they go on",
            "let them be moved on before applications write to the sink",
        )


def _listed(blockers: Sequence[Blocker]) -> str:
    more = len(blockers) - _MOST_NAMES
    return "; ".join(map(str, blockers[:_MOST_NAMES])) + (f"; and {more} more" if more > 0 else "")


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _sql(name: TableName) -> str:
    return f"{_quoted(name.schema)}.{_quoted(name.name)}"
