"""Connections with pinned settings, used from threads, at most so many at a time.

The driver blocks, so work on a connection is a function that runs in a thread: `await session.run("reading x", work)`.
When the caller is cancelled the statement is cancelled at the server too, and the thread is waited for.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
import select
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, LiteralString, TypeVar

import psycopg
from psycopg import errors as pg
from psycopg import pq, sql
from psycopg.conninfo import make_conninfo

from dsync.sdk import errors, types
from dsync.sdk.paging import PageExchange
from dsync_postgres.conninfo import CONNECT_LIMIT_S, Target
from dsync_postgres.errors import minding_files, translating
from dsync_postgres.options import PostgresOptions
from dsync_postgres.schema.configuration import read_conditions

T = TypeVar("T")
Connection = psycopg.Connection[tuple[Any, ...]]
Work = Callable[[Connection], T]

_CANCEL_WAIT_S = 5.0
_ORPHAN_WAIT_S = 30.0
# Where the server gives no more connections, we ask again after this time.
_CEILING_S = 30.0
_NO_CEILING = 1_000_000
# Threads exist once needed; what bounds the work is the number of connections.
_MOST_THREADS = 256

# Set after connecting: poolers refuse start-up options. Value and the first major version that knows the setting.
# With defaults UTF8 → LATIN1 gave silent mojibake, and a DateStyle of the database came through as 01/02/2020.
Settings = tuple[tuple[str, str, int], ...]
_SETTINGS: Settings = (
    ("client_encoding", "UTF8", 0),
    ("DateStyle", "ISO", 0),
    ("IntervalStyle", "postgres", 0),
    ("TimeZone", "UTC", 0),
    ("extra_float_digits", "3", 0),
    ("bytea_output", "hex", 0),
    ("lc_monetary", "C", 0),
    ("search_path", "pg_catalog", 0),
    ("row_security", "off", 0),
    ("synchronous_commit", "on", 0),
    ("statement_timeout", "0", 0),
    ("lock_timeout", "0", 0),
    ("idle_in_transaction_session_timeout", "0", 0),
    ("idle_session_timeout", "0", 14),
    ("transaction_timeout", "0", 17),
)
_WRITING: Settings = (("default_transaction_read_only", "off", 0),)
# What the server calls libpq's parameters. A client that is gone without a word would keep its locks for hours, and so
# keep us out: a page that is sent again waits for the ledger row of the one before.
_LINE = {
    "keepalives_idle": "tcp_keepalives_idle",
    "keepalives_interval": "tcp_keepalives_interval",
    "keepalives_count": "tcp_keepalives_count",
    "tcp_user_timeout": "tcp_user_timeout",
}
# Without it a CREATE INDEX runs on, and commits, after its client was killed.
_CHECK_CLIENT = b"SET client_connection_check_interval = '5s'"


# A database without an encoding holds bytes: whatever is not valid UTF-8 would be refused on its way out or in.
AS_BYTES: LiteralString = "SET LOCAL client_encoding = 'SQL_ASCII'"
"""For the transaction of a COPY out of such a database or into one."""


def keeps_bytes(connection: Connection) -> bool:
    """Whether the database has no encoding (SQL_ASCII), and so passes text on as the bytes that it got."""
    return connection.info.parameter_status("server_encoding") == "SQL_ASCII"


class Session:
    """One connection, in autocommit mode, for one piece of work at a time."""

    def __init__(self, connection: Connection, name: str, executor: ThreadPoolExecutor) -> None:
        self.connection = connection
        """For `run`; never touched from the event loop."""
        self.name = name
        """What pg_stat_activity calls it."""
        self.pid = connection.pgconn.backend_pid
        """The backend's process id at the server."""
        self._executor = executor
        self._is_busy = False

    async def run(self, operation: str, work: Work[T]) -> T:
        """Run `work(connection)` in a thread; driver errors come out as dsync's, beginning with `operation`.

        Cancelling the caller cancels the statement at the server, and returns once the thread is done.
        """

        def guarded() -> T:
            with translating(operation):
                return work(self.connection)

        future = asyncio.get_running_loop().run_in_executor(self._executor, guarded)
        self._is_busy = True
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await self._stop(future)
            raise
        finally:
            self._is_busy = False

    async def _stop(self, future: asyncio.Future[T]) -> None:
        """End what the thread does: cancel it at the server, and cut the line if that does not help."""
        canceller = asyncio.ensure_future(asyncio.to_thread(self._cancel))
        done, _ = await _wait_through_cancellation({future, canceller}, _CANCEL_WAIT_S)
        if future not in done:
            _shut_down(self.connection)
            await _wait_through_cancellation({future}, _CANCEL_WAIT_S)
        if future.done() and not future.cancelled():
            future.exception()

    def _cancel(self) -> None:
        with contextlib.suppress(psycopg.Error):
            self.connection.cancel_safe(timeout=_CANCEL_WAIT_S)

    @property
    def is_alive(self) -> bool:
        """False once the connection is broken, also where the server has closed it while it was idle."""
        if self._is_busy:
            # A thread has it, and will find out.
            return True
        pgconn = self.connection.pgconn
        if pgconn.status != pq.ConnStatus.OK:
            return False
        poll = select.poll()
        poll.register(pgconn.socket, select.POLLIN)
        # Mostly the server's farewell, and after it the end; a changed parameter is read as well and does no harm.
        try:
            while pgconn.status == pq.ConnStatus.OK and poll.poll(0):
                pgconn.consume_input()
        except psycopg.Error:
            return False
        return pgconn.status == pq.ConnStatus.OK

    @property
    def is_usable(self) -> bool:
        """It is alive and in no transaction: fit for other work."""
        return self.is_alive and self.connection.pgconn.transaction_status == pq.TransactionStatus.IDLE

    async def close(self) -> None:
        """Close the connection; what it was doing at the server ends. Repeatable."""
        await asyncio.get_running_loop().run_in_executor(self._executor, self.connection.close)


class Sessions:
    """The connections of one connector."""

    def __init__(self, target: Target, options: PostgresOptions) -> None:
        """Remember where to connect; nothing is contacted yet."""
        self.target = target
        """Where the sessions lead."""
        self.options = options
        self.request = types.SessionRequest()
        """What `configure` was told: the flow, page sizes and limits."""
        self.pages = PageExchange()
        """Where pages by reference go."""
        self._own = _WRITING if options.overrule_read_only else ()
        self._executor = ThreadPoolExecutor(_MOST_THREADS, thread_name_prefix="dsync-postgres")
        self._changed = asyncio.Condition()
        self._idle: list[Session] = []
        self._open = 0
        """How many of the pool there are, lent, idle or on their way."""
        self._ceiling = _NO_CEILING
        self._ceiling_until_s = 0.0
        # Tells our sessions from those that an earlier life of the flow has left behind.
        self._life = f"-{secrets.token_hex(3)}"
        self._is_closed = False
        self.snapshot_name = ""
        """The exported snapshot that `reading` imports; empty: none, each reading takes its own."""
        self.own_conditions: dict[str, str] | None = None
        """Conditions that extensions have put on tables of theirs, by namespace; None: nobody has looked."""

    def filter_of(self, namespace: str) -> str:
        """The condition that rows of this namespace have to meet, in brackets; empty where all do."""
        condition = self.request.row_filters.get(namespace, "")
        # A comment would end at the line's end.
        asked = f"({condition}\n)" if condition else ""
        own = self.own_conditions.get(namespace, "") if self.own_conditions is not None else ""
        return f"({own} AND {asked})" if own and asked else own or asked

    def learn_conditions(self, connection: Connection) -> None:
        """Find out which rows of extensions' tables are the users'; to be called before `filter_of`, in any reading."""
        if self.own_conditions is None:
            self.own_conditions = read_conditions(connection)

    def configure(self, request: types.SessionRequest) -> bytes:
        """Take note of the flow; sessions opened from now on carry its name. Returns the page probe's content."""
        self.request = request
        return self.pages.open(request)

    @property
    def limit(self) -> int:
        """How many pooled connections there may be at a time."""
        # Each partition in flight reads one page ahead; a few more for the catalogue and checksums.
        return self.options.max_connections or 2 * self.request.parallel + 4

    def application_name(self, role: str) -> str:
        """`dsync/<flow prefix>/<role>`: how a session, or a tool we start, shows in pg_stat_activity."""
        return f"{self._flow_prefix}{role}{self._life}"

    @property
    def _flow_prefix(self) -> str:
        # Both ends of a flow may lie on one server; each ends its own leftovers only.
        return self.prefix_of(self.request.role)

    def prefix_of(self, role: types.Role, flow: str = "") -> str:
        """How the application names of the flow's sessions at that end begin; of this flow, or of another one."""
        flow = re.sub(r"[^A-Za-z0-9_-]", "", flow or self.request.flow)[:16] or "-"
        side = {types.Role.SOURCE: "source", types.Role.SINK: "sink"}.get(role, "any")
        return f"dsync/{flow}/{side}-"

    async def open(self, role: str, *, replication: bool = False) -> Session:
        """Return a new session beside the pool, which the caller closes.

        With `replication` it takes the replication commands of a logical WAL sender too, and no parameters.

        Raises:
            ServerUnavailableError: nothing answered within 10 s.
            AuthenticationError, MissingObjectError, PrivilegeError: the server refused.
            ThrottledError: it has no connection left.
        """
        name = self.application_name(role)
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self._executor, _connect, self.target, name, replication, self._own)
        try:
            # A host name may have several addresses, and resolving it is not under the driver's limit.
            async with asyncio.timeout(CONNECT_LIMIT_S):
                connection = await asyncio.shield(future)
        except TimeoutError:
            future.add_done_callback(_close_latecomer)
            raise errors.ServerUnavailableError(
                f"connecting to {self.target}: no answer within {CONNECT_LIMIT_S} s; check host, port and firewalls"
            ) from None
        except asyncio.CancelledError:
            future.add_done_callback(_close_latecomer)
            raise
        return Session(connection, name, self._executor)

    @asynccontextmanager
    async def lease(self) -> AsyncIterator[Session]:
        """Lend a session of the pool; waits where all of them are lent."""
        session = await self._take()
        try:
            await self._rename(session)
            yield session
        finally:
            await asyncio.shield(self._give_back(session))

    async def run(self, operation: str, work: Work[T]) -> T:
        """Run `work` on a session of the pool."""
        async with self.lease() as session:
            return await session.run(operation, work)

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[Session]:
        """Lend a session inside a read-only transaction, which sees the copy's snapshot while there is one.

        Raises:
            SnapshotLostError: there was one, and it is gone.
        """
        name = self.snapshot_name
        async with self.lease() as session:
            await session.run("opening a read-only transaction", lambda connection: begin_reading(connection, name))
            yield session

    async def _rename(self, session: Session) -> None:
        """Give a session that was opened before its flow was known the flow's name, by which a later life ends it."""
        name = self.application_name("work")
        if session.name != name:
            statement = f"SET application_name = '{name}'".encode()
            await session.run("naming a session", lambda connection: connection.execute(statement))
            session.name = name

    async def _take(self) -> Session:
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: self._idle or self._may_open)
                while self._idle:
                    session = self._idle.pop()
                    if session.is_usable:
                        return session
                    self._open -= 1
                    await session.close()
                if not self._may_open:
                    continue
                self._open += 1
            try:
                return await self.open("work")
            except errors.ThrottledError:
                if not await self._make_do():
                    raise
            except BaseException:
                await asyncio.shield(self._count_out())
                raise

    @property
    def _may_open(self) -> bool:
        if asyncio.get_running_loop().time() > self._ceiling_until_s:
            self._ceiling = _NO_CEILING
        return self._open < min(self.limit, self._ceiling)

    async def _make_do(self) -> bool:
        """Go on with the connections there are, and ask for no more for a while; False where there are none."""
        await self._count_out()
        if not self._open:
            return False
        self._ceiling = self._open
        self._ceiling_until_s = asyncio.get_running_loop().time() + _CEILING_S
        return True

    async def _count_out(self) -> None:
        async with self._changed:
            self._open -= 1
            self._changed.notify_all()

    async def _give_back(self, session: Session) -> None:
        status = session.connection.pgconn.transaction_status
        if status in (pq.TransactionStatus.INTRANS, pq.TransactionStatus.INERROR):
            with contextlib.suppress(errors.DsyncError):
                await session.run("ending a transaction", lambda connection: connection.rollback())
        async with self._changed:
            is_kept = session.is_usable and not self._is_closed
            if is_kept:
                self._idle.append(session)
                self._changed.notify_all()
        if not is_kept:
            await session.close()
            await self._count_out()

    async def end_orphans(self) -> int:
        """End what an earlier life of this flow and side still runs in this database; returns once it is gone."""
        if not self.request.flow:
            return 0
        prefix, life = self._flow_prefix, self._life
        async with self.lease() as session:
            found = await session.run(
                "ending leftover sessions of this flow", lambda connection: _terminate(connection, prefix, life)
            )
            deadline = asyncio.get_running_loop().time() + _ORPHAN_WAIT_S
            while left := await session.run(
                "waiting for leftover sessions of this flow", lambda connection: _still_there(connection, found)
            ):
                if asyncio.get_running_loop().time() > deadline:
                    raise errors.ConflictError(
                        f"open session on {self.target}: {len(left)} session(s) of an earlier run of this flow do not "
                        f"end (backend {left[0]}); look at pg_stat_activity, and try again when they are gone"
                    )
                await asyncio.sleep(0.05)
        return len(found)

    async def close(self) -> None:
        """Close every idle session. Repeatable; sessions that are lent close when they come back."""
        async with self._changed:
            self._is_closed = True
            idle, self._idle = self._idle, []
            self._open -= len(idle)
        for session in idle:
            await session.close()


def begin_reading(connection: Connection, snapshot_name: str) -> None:
    """Begin a read-only transaction under an exported snapshot, or under one of its own where the name is empty.

    Raises:
        SnapshotLostError: there is no such snapshot any more.
    """
    connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    if not snapshot_name:
        return
    try:
        connection.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(snapshot_name)))
    except (pg.InvalidParameterValue, pg.UndefinedObject, pg.ObjectNotInPrerequisiteState) as exc:
        connection.rollback()
        raise snapshot_lost() from exc


def snapshot_lost() -> errors.SnapshotLostError:
    """What a read gets when the snapshot it should see does not exist any more."""
    return errors.SnapshotLostError(
        "reading under the copy's snapshot: the session that held it has ended; repeat the command, which finds out "
        "what has not changed meanwhile and goes on"
    )


def _connect(target: Target, application_name: str, replication: bool, own: Settings = ()) -> Connection:
    where = target.conninfo
    if replication:
        where = make_conninfo(where, replication="database")
    try:
        # Without prepared statements: they outlive what they were planned for, and poolers lose them.
        with minding_files(f"connecting to {target}"):
            connection: Connection = psycopg.connect(where, autocommit=True, prepare_threshold=None)
    except psycopg.Error as exc:
        # libpq has no word for a socket that it could not have.
        _require_files(f"connecting to {target}")
        raise target.translate(exc) from exc.with_traceback(None)
    try:
        with translating(f"preparing a session on {target}"):
            _pin_settings(connection, application_name, own)
    except BaseException:
        connection.close()
        raise
    return connection


def _require_files(operation: str) -> None:
    """Raise ThrottledError where this process may open no more of them."""
    with minding_files(operation):
        os.close(os.open(os.devnull, os.O_RDONLY))


def _pin_settings(connection: Connection, application_name: str, own: Settings) -> None:
    major = connection.info.server_version // 10000
    wanted = [("application_name", application_name, 0), *_SETTINGS, *own, *_line_settings(connection)]
    statement = "; ".join(f"SET {name} = '{value}'" for name, value, since in wanted if major >= since)
    connection.execute(statement.encode())
    # A platform that cannot look whether the client is still there accepts only 0.
    with contextlib.suppress(pg.InvalidParameterValue):
        connection.execute(_CHECK_CLIENT)


def _line_settings(connection: Connection) -> Iterator[tuple[str, str, int]]:
    """The server gives a silent connection up when we do."""
    ours = connection.info.get_parameters()
    if ours.get("keepalives") == "0":
        return
    for name, setting in _LINE.items():
        if name in ours:
            yield setting, ours[name], 0


def _terminate(connection: Connection, prefix: str, own_suffix: str) -> list[int]:
    rows = connection.execute(
        "SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
        " AND usename = current_user AND starts_with(application_name, %s) AND right(application_name, %s) <> %s",
        [prefix, len(own_suffix), own_suffix],
    ).fetchall()
    return [pid for pid, _ in rows]


def _still_there(connection: Connection, pids: list[int]) -> list[int]:
    if not pids:
        return []
    rows = connection.execute("SELECT pid FROM pg_stat_activity WHERE pid = ANY(%s)", [pids]).fetchall()
    return [pid for (pid,) in rows]


def _shut_down(connection: Connection) -> None:
    """Cut a connection's line, so that a thread that waits on it wakes up; the thread still owns the object."""
    with contextlib.suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.pgconn.socket)) as line:
        line.shutdown(socket.SHUT_RDWR)


def _close_latecomer(future: asyncio.Future[Connection]) -> None:
    if not future.cancelled() and future.exception() is None:
        future.result().close()


async def _wait_through_cancellation(
    futures: set[asyncio.Future[Any]], timeout_s: float
) -> tuple[set[asyncio.Future[Any]], set[asyncio.Future[Any]]]:
    """As asyncio.wait, but not ended by further cancellations: the thread must not be left with the connection."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            done, pending = await asyncio.wait(futures, timeout=max(0.0, deadline - loop.time()))
            return done, pending
