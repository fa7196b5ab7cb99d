"""What `doctor` says about a database as a sink: what would stop a flow, and what will be different there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import LiteralString

from psycopg.rows import class_row

from dsync_postgres.pooler import Pooling, find_pooling
from dsync_postgres.schema.findings import Finding, info, stop, warn
from dsync_postgres.sessions import Sessions
from dsync_postgres.sink import ledger
from dsync_postgres.sink.ledger import Connection
from dsync_postgres.sink.prepare import ledger_finding
from dsync_postgres.sink.targets import may_be_replica

_OLDEST = 14
_NEWEST = 18


@dataclass(frozen=True, slots=True, kw_only=True)
class _Facts:
    """What the questions below are about."""

    user: str
    database: str
    version_num: int
    is_superuser: bool
    is_standby: bool
    is_read_only: bool
    encoding: str
    may_create: bool
    may_create_temporary: bool
    extensions: list[str]


_FACTS: LiteralString = """
SELECT current_user::text AS user, d.datname::text AS database,
       current_setting('server_version_num')::int AS version_num, r.rolsuper AS is_superuser,
       pg_is_in_recovery() AS is_standby, current_setting('default_transaction_read_only')::bool AS is_read_only,
       pg_encoding_to_char(d.encoding)::text AS encoding, has_database_privilege(d.oid, 'CREATE') AS may_create,
       has_database_privilege(d.oid, 'TEMPORARY') AS may_create_temporary,
       ARRAY(SELECT extname::text FROM pg_extension ORDER BY 1) AS extensions
FROM pg_database d, pg_roles r WHERE d.datname = current_database() AND r.rolname = current_user
"""


async def check_sink(sessions: Sessions) -> tuple[Finding, ...]:
    """Everything that can be said without knowing the tables; changes nothing."""
    found = await sessions.run("checking the sink", _look)
    return (*found, *_pooler(await find_pooling(sessions)))


def _look(connection: Connection) -> tuple[Finding, ...]:
    with connection.cursor(row_factory=class_row(_Facts)) as cursor:
        facts = cursor.execute(_FACTS).fetchone()
    assert facts is not None, "a session is of a role and in a database"
    return (
        *_server(facts),
        *_privileges(connection, facts),
        *_encoding(facts),
        *_extensions(facts),
    )


def _server(facts: _Facts) -> Iterator[Finding]:
    major = facts.version_num // 10000
    if not _OLDEST <= major <= _NEWEST:
        yield warn(
            "version-not-tested",
            f"PostgreSQL {major}",
            f"dsync is made for PostgreSQL {_OLDEST} to {_NEWEST}",
            "try a small table first",
        )
    if facts.is_standby:
        yield stop("standby", facts.database, "the sink is a standby, which takes no writes", "connect to its primary")
    elif facts.is_read_only:
        yield stop(
            "read-only",
            facts.database,
            "sessions of this role or database begin read-only (default_transaction_read_only)",
            "let it accept writes; managed services do this when a disk is full",
        )
    yield info(
        "disk-space-unknown",
        facts.database,
        "a server does not tell how much space it has left",
        "compare the source's size, which `dsync plan` prints, with what is free there",
    )


def _pooler(pooling: Pooling) -> Iterator[Finding]:
    if pooling is Pooling.TRANSACTION:
        yield stop(
            "transaction-pooler",
            "connection",
            "a pooler hands transactions of one connection to different backends, so settings are lost",
            "use the server's own address and port, or a pool in session mode",
        )
    elif pooling is Pooling.UNKNOWN:
        yield warn(
            "pooler",
            "connection",
            "a pooler stands before the server; in transaction mode settings and temporary tables would be lost",
            "use the server's own address and port, unless the pool is in session mode",
        )


def _privileges(connection: Connection, facts: _Facts) -> Iterator[Finding]:
    state = ledger.examine(connection)
    if not state.usable:
        yield ledger_finding(connection, state)
    if not facts.may_create_temporary:
        yield warn(
            "no-temporary-tables",
            facts.database,
            f"role {facts.user} may not make temporary tables, which writing by key (--on-existing append) needs",
            f'GRANT TEMPORARY ON DATABASE "{facts.database}" TO "{facts.user}"',
        )
    if facts.is_superuser:
        return
    what = "existing tables keep their triggers and foreign keys quiet during the load"
    if may_be_replica(connection):
        yield info("not-superuser", facts.user, f"not superuser, but may set session_replication_role, so {what}")
    else:
        yield info(
            "not-superuser",
            facts.user,
            "not superuser: tables that dsync makes get triggers and foreign keys after the load, which needs no more; "
            "of tables that exist it has to be the owner, to disable triggers and (with allow_drop_foreign_keys) drop "
            "foreign keys for the load",
            "from PostgreSQL 15 on: GRANT SET ON PARAMETER session_replication_role TO the role",
        )
    if not facts.may_create:
        yield warn(
            "no-create-on-database",
            facts.database,
            f"role {facts.user} may not create schemas or extensions in this database",
            f'GRANT CREATE ON DATABASE "{facts.database}" TO "{facts.user}", or have them created beforehand',
        )


def _encoding(facts: _Facts) -> Iterator[Finding]:
    if facts.encoding == "SQL_ASCII":
        yield warn(
            "sql-ascii",
            facts.database,
            "its encoding is SQL_ASCII: the server takes any bytes and converts nothing; only what comes from another "
            "database in SQL_ASCII stays what it was",
            "create the database with the source's encoding",
        )


def _extensions(facts: _Facts) -> Iterator[Finding]:
    if "timescaledb" in facts.extensions:
        yield warn(
            "timescaledb",
            facts.database,
            "TimescaleDB is here: hypertables are filled through their root as plain tables, chunks, policies and "
            "compression do not come along",
            "create hypertables at the sink first and copy with --schema none",
        )
    if "citus" in facts.extensions:
        yield warn(
            "citus",
            facts.database,
            "Citus is here: tables that dsync makes are local, it distributes none",
            "create and distribute the tables first and copy with --schema none",
        )
