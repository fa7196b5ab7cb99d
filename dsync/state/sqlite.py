"""The state in an SQLite file: opening and checking it, transactions, and SQLite's errors as ours."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Table, create_engine, event, inspect
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from dsync.protocol.errors import DsyncError
from dsync.state.database import Clock, Database
from dsync.state.errors import StateBusyError, StateCorruptError, StateFullError, StateUnavailableError
from dsync.state.location import open_private
from dsync.state.locks import blame, process_in_the_way

_BUSY_TIMEOUT_S = 10.0
_LOOK_AGAIN_S = 0.05


class SqliteDatabase(Database):
    """Only one transaction can write at a time, so there is one connection for all threads."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self.path = path
        self.title = str(path)
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

    def reading(self) -> contextlib.AbstractContextManager[Connection]:
        return self._transaction("BEGIN")

    def writing(self, alone_on: str = "") -> contextlib.AbstractContextManager[Connection]:
        """As promised, and alone in the whole file: a transaction that took that right later could fail half-way."""
        return self._transaction("BEGIN IMMEDIATE")

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

    def table_names(self, connection: Connection) -> frozenset[str]:
        return frozenset(inspect(connection).get_table_names())

    @contextlib.contextmanager
    def migrating(self) -> Iterator[Connection]:
        """The system lets go of the lock when this process ends, however.

        A file of its own: closing any descriptor of the database would drop SQLite's locks on it.
        """
        path = Path(f"{self.path}-lock")
        descriptor = open_private(path, owner_of=self.path)
        try:
            _lock_within(descriptor, path, self.path)
            # For those who wait: a lock of this kind does not say whose it is.
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
            self.use_write_ahead_log()
            with self.writing() as connection:
                yield connection
        finally:
            os.close(descriptor)

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
                "systems do not; name a file on a local disk, or a PostgreSQL database, with --state"
            )

    def settle(self) -> None:
        self.use_write_ahead_log()

    def close(self) -> None:
        with self._lock, self._translating():
            self._connection.close()
            self._engine.dispose()


def _lock_within(descriptor: int, path: Path, state: Path) -> None:
    deadline = time.monotonic() + _BUSY_TIMEOUT_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                written = path.read_bytes()[:20].strip()
                pid = int(written) if written.isdigit() else None
                raise StateBusyError(
                    f"bringing the state {state} to this version's schema: {blame(pid, _BUSY_TIMEOUT_S)}"
                ) from None
        # Migrations take a moment, and one process in a hundred meets another's.
        threading.Event().wait(_LOOK_AGAIN_S)


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
                f"opening or writing the state {path}: {blame(process_in_the_way(path), _BUSY_TIMEOUT_S)}"
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
