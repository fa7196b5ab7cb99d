"""The state in a schema on a PostgreSQL server, for coordinators on several machines.

Nothing is expected of a session from one transaction to the next (settings, locks and the search path are the
transaction's own, no statement is prepared), so a pooler may hand every transaction to another backend. Every wait
has an end, on our side and on the server's: a coordinator that hangs must notice that its lease runs out, and one that
was stopped in the middle of a transaction must not keep the others waiting.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import psycopg
from sqlalchemy import Connection, Table, create_engine, event, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool
from sqlalchemy.schema import CreateSchema

from dsync.protocol.errors import DsyncError, RequestError
from dsync.state import holder
from dsync.state.answering import AnsweringConnection
from dsync.state.database import Clock, Database
from dsync.state.errors import (
    StateBusyError,
    StateUnavailableError,
    StateUncertainError,
    StateUnreachableError,
)
from dsync.state.location import ServerPlace
from dsync.state.postgres_errors import connection_error, statement_error
from dsync.state.schema import metadata

_CONNECT_TIMEOUT_S = 10
_LOCK_TIMEOUT_S = 10
_IDLE_TIMEOUT_S = 5
"""What a stopped coordinator can keep others waiting for: less than they wait."""
_STATEMENT_TIMEOUT_S = 15
_OUTCOME_WITHIN_S = 30.0
_LOOK_AGAIN_S = 0.2
_CLOSE_WITHIN_S = 0.5
_MOST_NAME_BYTES = 63

_SETTINGS = """
    set_config('search_path', quote_ident(CAST(:schema AS text)), true),
    set_config('lock_timeout', :lock_timeout, true),
    set_config('statement_timeout', :statement_timeout, true),
    set_config('idle_in_transaction_session_timeout', :idle_timeout, true)"""
_TIME = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now_us"
_BEGIN_READING = text(f"SELECT {_SETTINGS}, {_TIME}, NULL AS xid")
# Without it a role or database that has it off would have commits reported before they are on the disk.
_BEGIN_WRITING = text(f"""SELECT {_SETTINGS},
    CASE WHEN current_setting('synchronous_commit') IN ('off', 'local')
        THEN set_config('synchronous_commit', 'on', true) END,
    pg_current_xact_id()::text AS xid, {_TIME}""")
_KEEP_ALIVE = """
    SET tcp_keepalives_idle = 4; SET tcp_keepalives_interval = 2; SET tcp_keepalives_count = 3;
    SET tcp_user_timeout = 10000"""
_BEGIN_ALONE = text("SELECT pg_advisory_xact_lock(:key)")
_OUTCOME = text("SELECT pg_xact_status(CAST(:xid AS xid8))")
_WHO_IS_ALONE = text("""
    SELECT a.pid, a.application_name FROM pg_locks l JOIN pg_stat_activity a USING (pid)
    WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
        AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND (l.classid::bigint << 32) | l.objid::bigint = :key
    LIMIT 1""")
_TABLES = text("""
    SELECT relname FROM pg_class
    WHERE relnamespace = to_regnamespace(quote_ident(:schema)) AND relkind IN ('r', 'p')""")
_SCHEMA = text("""
    SELECT has_schema_privilege(oid, 'USAGE') AS usage, has_schema_privilege(oid, 'CREATE') AS create,
        pg_get_userbyid(nspowner) AS owner
    FROM pg_namespace WHERE nspname = :schema""")
_ROLE = text("SELECT current_user, current_database(), has_database_privilege(current_database(), 'CREATE')")


class ServerClock:
    """The clock of the database server: all coordinators have that one in common."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database

    def now_us(self) -> int:
        return self._database.server_now_us()

    def uptime_us(self) -> int:
        return holder.uptime_us()


class PostgresDatabase(Database):
    """One connection, made anew when it was lost."""

    def __init__(self, place: ServerPlace, clock: Clock | None) -> None:
        self.title = place.title
        self.clock = clock or ServerClock(self)
        self._place = place
        self._conninfo = _conninfo(place)
        self._lock = threading.RLock()
        self._connection: Connection | None = None
        self._driver: AnsweringConnection | None = None
        self._is_connecting = False
        self._is_closed = False
        self._began: tuple[int, int] | None = None
        """In a transaction: the server's time and our uptime at its beginning."""
        self._engine = create_engine(
            "postgresql+psycopg://",
            poolclass=NullPool,
            # What a statement was given may be a record: no message may repeat it.
            hide_parameters=True,
            use_native_hstore=False,
            connect_args={"prepare_threshold": None},
        )
        event.listen(self._engine, "do_connect", self._connect)

    def _connect(self, _dialect: object, _record: object, _args: object, options: dict[str, Any]) -> Any:
        driver = AnsweringConnection.connect(self._conninfo, **options)
        # The server is to notice a dead line too. Where a pooler is in between it is his line, and does no harm.
        driver.autocommit = True
        driver.execute(_KEEP_ALIVE)
        driver.autocommit = False
        self._driver = driver
        return driver

    def server_now_us(self) -> int:
        """The server's time; within a transaction its time at the beginning and what has passed here since."""
        with self._lock:
            if self._began is None:
                with self.reading():
                    return self.server_now_us()
            now_us, uptime_us = self._began
            return now_us + holder.uptime_us() - uptime_us

    def reading(self) -> contextlib.AbstractContextManager[Connection]:
        return self._transaction(writes=False)

    def writing(self, alone_on: str = "") -> contextlib.AbstractContextManager[Connection]:
        return self._transaction(writes=True, alone_on=alone_on)

    @contextlib.contextmanager
    def _transaction(self, *, writes: bool, alone_on: str = "") -> Iterator[Connection]:
        with self._lock, self._translating(alone_on):
            if self._is_closed:
                # A thread that had to wait for its turn; a new connection would be nobody's.
                raise StateUnreachableError(f"reading or writing the state {self.title}: it was closed meanwhile")
            connection, xid = self._begin(writes=writes, alone_on=alone_on)
            try:
                yield connection
            except BaseException:
                self._roll_back(connection)
                raise
            finally:
                self._began = None
            self._commit(connection, xid)

    def _begin(self, *, writes: bool, alone_on: str) -> tuple[Connection, str]:
        is_new = self._connection is None
        try:
            return self._try_to_begin(writes=writes, alone_on=alone_on)
        except DBAPIError as exc:
            self._began = None
            lost = exc.connection_invalidated
            self._forget_connection()
            # A server that was restarted since, or a line that was cut: nothing was said yet, so nothing is lost.
            if is_new or not lost or self._is_closed:
                raise
        return self._try_to_begin(writes=writes, alone_on=alone_on)

    def _try_to_begin(self, *, writes: bool, alone_on: str) -> tuple[Connection, str]:
        if self._connection is None:
            self._is_connecting = True
            self._connection = self._engine.connect()
            self._is_connecting = False
        connection = self._connection
        driver = connection.connection.driver_connection
        assert driver is not None, "a connection that was just made has a driver"
        # One moment for a reader; a writer is to see what those before it have committed.
        driver.isolation_level = (
            psycopg.IsolationLevel.READ_COMMITTED if writes else psycopg.IsolationLevel.REPEATABLE_READ
        )
        driver.read_only = not writes
        row = connection.execute(_BEGIN_WRITING if writes else _BEGIN_READING, self._settings()).one()
        if alone_on:
            # On its own, so that what follows sees what its last owner has committed.
            connection.execute(_BEGIN_ALONE, {"key": self._key(alone_on)})
        self._began = (row.now_us, holder.uptime_us())
        return connection, row.xid

    def _settings(self) -> dict[str, str]:
        return {
            "schema": self._place.schema,
            "lock_timeout": f"{_LOCK_TIMEOUT_S}s",
            "statement_timeout": f"{_STATEMENT_TIMEOUT_S}s",
            "idle_timeout": f"{_IDLE_TIMEOUT_S}s",
        }

    def _key(self, alone_on: str) -> int:
        """A name as the server's locks have them: 64 bits; two that meet by chance only wait for each other."""
        digest = hashlib.blake2b(f"dsync\0{self._place.schema}\0{alone_on}".encode(), digest_size=8)
        return int.from_bytes(digest.digest(), "big", signed=True)

    def _commit(self, connection: Connection, xid: str | None) -> None:
        try:
            connection.commit()
        except DBAPIError as exc:
            lost = exc.connection_invalidated
            self._forget_connection()
            # The answer was lost, and perhaps only that: what was written once must not be written again.
            if xid is None or not lost or not self._has_committed(xid):
                raise

    def _has_committed(self, xid: str) -> bool:
        """Ask the server, as soon as it answers again, how a transaction has ended."""
        deadline = time.monotonic() + _OUTCOME_WITHIN_S
        pause = threading.Event()
        while True:
            with contextlib.suppress(DBAPIError), self._engine.connect() as connection:
                outcome = connection.execute(_OUTCOME, {"xid": xid}).scalar()
                if outcome != "in progress":
                    return outcome == "committed"
            if self._is_closed or time.monotonic() > deadline:
                raise StateUncertainError(
                    f"recording in the state {self.title}: the connection was lost and has not come back within "
                    f"{_OUTCOME_WITHIN_S:g} s, so it is not known whether that was recorded; the same command looks, "
                    "and goes on"
                )
            pause.wait(_LOOK_AGAIN_S)

    def _roll_back(self, connection: Connection) -> None:
        try:
            connection.rollback()
        except DBAPIError:
            # It is gone, and the transaction with it.
            self._forget_connection()

    def _forget_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        with contextlib.suppress(DBAPIError):
            connection.invalidate()
        with contextlib.suppress(DBAPIError):
            connection.close()

    @contextlib.contextmanager
    def _translating(self, alone_on: str = "") -> Iterator[None]:
        try:
            yield
        except DBAPIError as exc:
            raise self._translated(exc, alone_on) from exc

    def _translated(self, exc: DBAPIError, alone_on: str) -> BaseException:
        error = exc.orig
        assert isinstance(error, psycopg.Error), "psycopg is the driver"
        if error.sqlstate == "55P03":
            return self._busy(alone_on)
        if error.sqlstate is None and self._is_connecting:
            self._is_connecting = False
            return connection_error(error, self._place)
        return statement_error(error, self.title, is_lost=exc.connection_invalidated) or exc

    def _busy(self, alone_on: str) -> StateBusyError:
        who = None
        with contextlib.suppress(DsyncError, DBAPIError), self.reading() as connection:
            who = connection.execute(_WHO_IS_ALONE, {"key": self._key(alone_on)}).first()
        name = f"{who.application_name or 'a session'}, server process {who.pid}," if who else "another session"
        advice = f"end it with SELECT pg_terminate_backend({who.pid})" if who else "it has let go by now: try again"
        return StateBusyError(
            f"writing the state {self.title}: {name} has kept it locked for {_LOCK_TIMEOUT_S} s; if it hangs, {advice} "
            "(what it has not recorded is repeated)"
        )

    def upsert(self, table: Table) -> postgresql.Insert:
        return postgresql.insert(table)

    def check_integrity(self) -> None:
        """Read every table once: the server notices damaged pages. Raises StateCorruptError."""
        with self.reading() as connection:
            for name in metadata.tables:
                connection.exec_driver_sql(f"SELECT count(t::text) FROM {name} t")

    def table_names(self, connection: Connection) -> frozenset[str]:
        self._check_usable(connection)
        return frozenset(connection.execute(_TABLES, {"schema": self._place.schema}).scalars())

    def _check_usable(self, connection: Connection) -> None:
        found = connection.execute(_SCHEMA, {"schema": self._place.schema}).first()
        if found is not None and not found.usage:
            raise self._not_allowed(connection, f"the schema {self._place.schema} belongs to {found.owner}")

    @contextlib.contextmanager
    def migrating(self) -> Iterator[Connection]:
        with self.writing("schema") as connection:
            self._make_schema(connection)
            yield connection

    def _make_schema(self, connection: Connection) -> None:
        found = connection.execute(_SCHEMA, {"schema": self._place.schema}).first()
        if found is not None:
            if not found.create:
                raise self._not_allowed(connection, f"the schema {self._place.schema} belongs to {found.owner}")
            return
        # Not IF NOT EXISTS, for which one has to be allowed to create schemas even where there is one.
        if not connection.execute(_ROLE).one()[2]:
            raise self._not_allowed(connection, f"there is no schema {self._place.schema}")
        connection.execute(CreateSchema(self._place.schema))

    def _not_allowed(self, connection: Connection, reason: str) -> StateUnavailableError:
        role, database, _ = connection.execute(_ROLE).one()
        made = f"CREATE SCHEMA IF NOT EXISTS {_quoted(self._place.schema)} AUTHORIZATION {_quoted(role)}"
        return StateUnavailableError(
            f"opening the state {self.title}: {reason}, and role {role} may neither use it nor make one; an "
            f"administrator of database {database} runs: {made}; or name another schema with ?schema=NAME"
        )

    def check_quickly(self) -> None:
        """Nothing: the server checks the pages that it reads, where it has checksums."""

    def settle(self) -> None:
        """Nothing: every transaction brings its own settings."""

    def close(self) -> None:
        self._is_closed = True
        if not self._lock.acquire(timeout=_CLOSE_WITHIN_S):
            # Another thread waits for a server that says nothing: it shall wait no more.
            self._cut_off()
            self._lock.acquire()
        try:
            self._forget_connection()
            self._engine.dispose()
        finally:
            self._lock.release()

    def _cut_off(self) -> None:
        """Make whoever waits on the connection see its end; closing what another thread uses would not."""
        driver = self._driver
        with contextlib.suppress(OSError, psycopg.Error):
            if driver is not None:
                with socket.socket(fileno=os.dup(driver.fileno())) as line:
                    line.shutdown(socket.SHUT_RDWR)


def _conninfo(place: ServerPlace) -> str:
    """For libpq. Raises RequestError, which never repeats the URI."""
    try:
        given = psycopg.conninfo.conninfo_to_dict(place.uri)
    except psycopg.ProgrammingError:
        raise RequestError(
            "--state: libpq cannot read the URI; it looks like postgresql://user@host:port/database?option=value, with "
            "reserved characters (@ : / ? # % and spaces) of its parts percent-encoded, and besides libpq's own "
            "options it takes schema="
        ) from None
    if "@" in str(given.get("host", "")):
        raise RequestError("--state: the URI cannot be read: percent-encode @ : / in user and password")
    limit_s = min(int(given.get("connect_timeout") or 0) or _CONNECT_TIMEOUT_S, _CONNECT_TIMEOUT_S)
    name = f"dsync-state {holder.this_process().host} {os.getpid()}"
    defaults = {
        "fallback_application_name": name.encode()[:_MOST_NAME_BYTES].decode("utf-8", "ignore"),
        # A line that was cut without a word is noticed in ten seconds.
        "keepalives_idle": "4",
        "keepalives_interval": "2",
        "keepalives_count": "3",
        "tcp_user_timeout": "10000",
    }
    fixed = {"connect_timeout": str(limit_s), "client_encoding": "UTF8"}
    return psycopg.conninfo.make_conninfo("", **{**defaults, **given, **fixed})


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
