"""The connection to the state: opening and checking the file, transactions, and the engine's errors as ours.

Everything that is particular to SQLite stands in this module; the rest of the package is portable SQL.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import URL, Connection, Table, create_engine, event, inspect, select
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from dsync.protocol.errors import DsyncError
from dsync.state import holder
from dsync.state.errors import (
    NotAStateError,
    StateBusyError,
    StateCorruptError,
    StateFromTheFutureError,
    StateFullError,
    StateUnavailableError,
)
from dsync.state.location import open_private, prepare_file
from dsync.state.schema import HEAD, REVISIONS, from_us, store_meta

_BUSY_TIMEOUT_S = 10.0


class Clock(Protocol):
    """The store's clock. A store on a server asks that server; one in a file, the machine that the file is on."""

    def now_us(self) -> int:
        """Microseconds since 1970; may be set, forwards and backwards."""
        ...

    def uptime_us(self) -> int:
        """Microseconds since the machine started, sleep included; cannot be set."""
        ...


class HostClock:
    def now_us(self) -> int:
        return time.time_ns() // 1000

    def uptime_us(self) -> int:
        return holder.uptime_us()


class Database:
    """One connection, shared by threads under a lock: transactions are short, and only one can write anyway."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self.path = path
        self.clock = clock
        self._lock = threading.RLock()
        self._begin = "BEGIN"
        self._failure: DsyncError | None = None
        self._engine = create_engine(
            URL.create("sqlite", database=str(path)),
            poolclass=NullPool,
            # What a statement was given may be a record: no message may repeat it.
            hide_parameters=True,
            # The driver must not begin transactions of its own, or migrations would not be in one.
            connect_args={"check_same_thread": False, "timeout": _BUSY_TIMEOUT_S, "isolation_level": None},
        )
        event.listen(self._engine, "connect", _configure)
        event.listen(self._engine, "begin", lambda connection: connection.exec_driver_sql(self._begin))
        with self._translating():
            self._connection = self._engine.connect()

    def now(self) -> datetime:
        """The time on the store's clock."""
        return from_us(self.clock.now_us())

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that sees one moment of the state."""
        with self._transaction("BEGIN") as connection:
            yield connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that is durable when the block ends, and leaves nothing behind when it raises.

        The right to write is taken first: a transaction that had to take it later could fail half-way.
        """
        with self._transaction("BEGIN IMMEDIATE") as connection:
            yield connection

    @contextlib.contextmanager
    def _transaction(self, begin: str) -> Iterator[Connection]:
        with self._lock, self._translating():
            if self._failure is not None:
                raise self._failure
            self._begin = begin
            with self._connection.begin():
                yield self._connection

    @contextlib.contextmanager
    def _translating(self) -> Iterator[None]:
        try:
            yield
        except (DBAPIError, sqlite3.Error) as exc:
            driver_error = exc.orig if isinstance(exc, DBAPIError) else exc
            translated = _translate(driver_error, self.path)
            if translated is None:
                raise
            # After a failed fsync the kernel may say the next one went well without having written anything.
            # Nothing this connection says can be believed any more.
            if _error_name(driver_error).startswith("SQLITE_IOERR"):
                self._failure = translated
            raise translated from exc

    def upsert(self, table: Table) -> sqlite.Insert:
        """An INSERT that can have an ON CONFLICT clause; SQLAlchemy has one class a dialect for the same SQL."""
        return sqlite.insert(table)

    def check_integrity(self) -> None:
        """Read the whole file and compare every index with its table. Raises StateCorruptError."""
        self._check("PRAGMA integrity_check(1)")

    def check_quickly(self) -> None:
        """Read the whole file without comparing indexes. Raises StateCorruptError."""
        self._check("PRAGMA quick_check(1)")

    def _check(self, pragma: str) -> None:
        with self.reading() as connection:
            found = connection.exec_driver_sql(pragma).scalar()
        if found != "ok":
            raise _corrupt(self.path, f"the check found: {found}")

    def revision(self) -> str:
        """The revision of the schema; empty in a new file. Raises NotAStateError for somebody else's database."""
        with self.reading() as connection:
            tables = inspect(connection).get_table_names()
            if not tables:
                return ""
            if store_meta.name not in tables or "alembic_version" not in tables:
                raise NotAStateError(
                    f"{self.path} is an SQLite database of another program: name another file with --state PATH"
                )
            return str(connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar_one())

    def written_by(self) -> str:
        """The version of dsync that brought the schema to its revision."""
        with self.reading() as connection:
            query = select(store_meta.c.value).where(store_meta.c.key == "dsync_version")
            return str(connection.execute(query).scalar() or "unknown")

    def use_write_ahead_log(self) -> None:
        """Readers do not wait for the writer then; the mode is kept in the file. Not within a transaction."""
        with self._lock, self._translating():
            # Past SQLAlchemy, which would begin a transaction first.
            cursor = self._connection.connection.cursor()
            cursor.execute("PRAGMA journal_mode = WAL")
            (mode,) = cursor.fetchone() or ("none",)
            cursor.close()
        if mode != "wal":
            raise StateUnavailableError(
                f"opening the state {self.path}: its file system does not let processes share memory, as network file "
                "systems do not; name a file on a local disk with --state PATH"
            )

    def close(self) -> None:
        """Let go of the file. Repeatable."""
        with self._lock, self._translating():
            self._connection.close()
            self._engine.dispose()


def open_database(path: Path, *, create: bool, clock: Clock) -> Database:
    """Open the state, check it, and bring its schema to this version's revision.

    Raises:
        StateMissingError: it does not exist, and `create` is false.
        StateCorruptError, StateFromTheFutureError, NotAStateError, StateUnavailableError: as they say.
        StateFullError, StateBusyError: later it may work.
    """
    prepare_file(path, create=create)
    database = Database(path, clock)
    try:
        database.check_quickly()
        if _known(database) != HEAD:
            _migrate(database)
        database.use_write_ahead_log()
    except BaseException:
        database.close()
        raise
    return database


def _known(database: Database) -> str:
    revision = database.revision()
    if revision and revision not in REVISIONS:
        from dsync.state.version import dsync_version

        raise StateFromTheFutureError(
            f"opening the state {database.path}: dsync {database.written_by()} wrote it (schema {revision}), and this "
            f"is dsync {dsync_version()}, which knows schemas up to {HEAD}; use that version or a newer one, or "
            "another state with --state PATH"
        )
    return revision


def _migrate(database: Database) -> None:
    # Alembic takes a quarter of a second to import, and is not needed for a state of the current revision.
    from dsync.state.migrations.upgrade import upgrade

    with _exclusive_lock(database.path):
        if _known(database) == HEAD:
            return
        database.use_write_ahead_log()
        with database.writing() as connection:
            upgrade(connection)


@contextlib.contextmanager
def _exclusive_lock(path: Path) -> Iterator[None]:
    """Keep other processes from migrating too; the system lets go of it when this process ends, however.

    A file of its own: closing any descriptor of the database would drop SQLite's locks on it.
    """
    descriptor = open_private(Path(f"{path}-lock"), owner_of=path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _configure(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    # FULL: a commit is on the disk before it is reported; NORMAL could lose the newest checkpoints with the power.
    cursor.execute("PRAGMA synchronous = FULL")
    # macOS: fsync alone leaves data in the drive's cache. No effect elsewhere.
    cursor.execute("PRAGMA fullfsync = ON")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _error_name(error: BaseException | None) -> str:
    return str(getattr(error, "sqlite_errorname", ""))


def _translate(error: BaseException | None, path: Path) -> DsyncError | None:
    """Our error for the engine's; None where it is a bug of ours and should be seen as it is."""
    name = _error_name(error)
    match name.split("_")[1:]:
        # A full disk shows as FULL when writing and as IOERR_SHMSIZE when the shared index grows.
        case ["FULL"] | ["IOERR", "SHMSIZE"]:
            return StateFullError(
                f"writing the state {path}: the disk is full, so nothing more can be recorded; free some space "
                "(what was not recorded is repeated)"
            )
        case ["BUSY" | "LOCKED", *_]:
            return StateBusyError(
                f"opening or writing the state {path}: another process has kept it locked for {_BUSY_TIMEOUT_S:g} s"
            )
        case ["CORRUPT" | "NOTADB", *_]:
            return _corrupt(path, str(error))
        case ["IOERR", *_]:
            return StateUnavailableError(
                f"reading or writing the state {path}: the disk or its file system failed ({name}); look at the "
                "system's log, then run the same command again: it goes on from the last record that is certain"
            )
        case ["CANTOPEN" | "READONLY" | "PERM" | "AUTH", *_]:
            return StateUnavailableError(
                f"opening or writing the state {path}: the system does not allow it ({name}); check the owner and mode "
                "of the file and its directory, or name another place with --state PATH"
            )
    return None


def _corrupt(path: Path, found: str) -> StateCorruptError:
    return StateCorruptError(
        f"opening the state {path}: it is damaged ({found}). Nothing was changed. Ways on: put back a copy of it from "
        f"a backup, together with its -wal file; or move {path.name}, {path.name}-wal and {path.name}-shm away and "
        "repeat the command: what the sink has recorded about its flow is used, and rows already there are not copied "
        "twice"
    )


assert sqlite3.threadsafety > 0, "SQLite without threads cannot serve a store that threads share"
