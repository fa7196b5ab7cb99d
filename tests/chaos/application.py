"""Applications at work on the source of a chaos run; they connect again when it is gone, and pgbench beside them."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg import sql

from tests.chaos.tables import BROKEN, ROWS, publishable
from tests.crash.followed import Application
from tests.support.databases import Database

_AGAIN_AFTER_S = 0.2
_NOT_OURS = (
    psycopg.errors.IntegrityError,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.LockNotAvailable,
    # A table that is just being changed in its shape.
    psycopg.errors.UndefinedColumn,
    psycopg.errors.FeatureNotSupported,
    psycopg.errors.InvalidTextRepresentation,
    psycopg.errors.DatatypeMismatch,
)
"""Two applications meet, or a table is not what it was: the transaction is rolled back, and the next one begins."""


class Restless(Application):
    """Everything that the application of the crash tests does, and more; not put off by a server that is gone."""

    def __init__(self, database: Database, *, seed: int) -> None:
        super().__init__(database, seed=seed)
        # Applications have numbers of their own.
        self._number = 10_000_000 * (1 + seed % 100)
        self.busy = threading.Event()
        self.busy.set()

    def _work(self) -> None:
        while not self._stopping.is_set():
            try:
                self._work_until_cut_off()
            except (psycopg.OperationalError, psycopg.InterfaceError):
                # The server has gone: it will be back.
                self._stopping.wait(_AGAIN_AFTER_S)
            except BaseException as exc:
                self._failure = exc
                return

    def _work_until_cut_off(self) -> None:
        with self._database.connect() as connection:
            connection.execute("SET lock_timeout = '5s'")
            while not self._stopping.is_set():
                try:
                    self._transact(connection)
                except _NOT_OURS:
                    connection.rollback()
                self.transactions += 1
                self._stopping.wait(self.pause_s)

    def _transact(self, connection: psycopg.Connection) -> None:
        chance = self._random
        with connection.transaction(force_rollback=chance.random() < 0.1):
            if chance.random() < 0.2:
                # Seen by readers before it is durable: a crash takes it back.
                connection.execute("SET LOCAL synchronous_commit = off")
            for _ in range(chance.randint(1, 4)):
                way = chance.choice(self._ALL_WAYS)
                if chance.random() < 0.2:
                    with connection.transaction(force_rollback=chance.random() < 0.5):
                        way(self, connection)
                else:
                    way(self, connection)

    def _grow(self, connection: psycopg.Connection) -> None:
        some = self._random.randint(1, ROWS)
        connection.execute("UPDATE grown SET version = version + 1 WHERE id BETWEEN %s AND %s", [some, some + 5])
        connection.execute("INSERT INTO grown (id, version) VALUES (%s, 0)", [self._new()])

    def _empty(self, connection: psycopg.Connection) -> None:
        if self._random.random() < 0.1:
            connection.execute("TRUNCATE emptied")
        connection.execute(
            "INSERT INTO emptied SELECT g, md5(g::text) FROM generate_series(%s::int, %s::int) g"
            " ON CONFLICT DO NOTHING",
            [some := self._random.randint(1, 500), some + 20],
        )

    def _type(self, connection: psycopg.Connection) -> None:
        number = self._new()
        connection.execute(
            "INSERT INTO typed (id, amount, ratio, at, document, words, bytes, during) VALUES (md5(%s::text)::uuid,"
            " 'NaN', 'Infinity', 'infinity', '{\"x\": 1.10}', ARRAY[NULL, '', '\"', '\\'], '\\x00ff', 'empty')",
            [number],
        )
        connection.execute(
            "UPDATE typed SET amount = amount * 1.01, words = words || %s::text, at = clock_timestamp()"
            " WHERE id = md5(%s::text)::uuid",
            [str(number), self._random.randint(1, ROWS)],
        )
        connection.execute("DELETE FROM typed WHERE id = md5(%s::text)::uuid", [self._random.randint(1, ROWS)])

    def _swap(self, connection: psycopg.Connection) -> None:
        one, other = self._random.randint(1, 500), self._random.randint(1, 500)
        connection.execute(
            "UPDATE swapped a SET place = b.place FROM swapped b"
            " WHERE (a.id, b.id) IN ((%(one)s, %(other)s), (%(other)s, %(one)s))",
            {"one": one, "other": other},
        )

    def _book(self, connection: psycopg.Connection) -> None:
        """What one gives up another takes at once."""
        one, other = self._random.randint(1, 500), self._new()
        connection.execute("WITH gone AS (DELETE FROM booked WHERE id = %s RETURNING room, during) SELECT 1", [one])
        connection.execute(
            "INSERT INTO booked VALUES (%s, %s %% 20, int4range(%s * 10, %s * 10 + 10))", [other, one, one, one]
        )
        connection.execute("DELETE FROM booked WHERE id = %s", [other])
        connection.execute(
            "INSERT INTO booked VALUES (%s, %s %% 20, int4range(%s * 10, %s * 10 + 10))", [one, one, one, one]
        )

    def _fell(self, connection: psycopg.Connection) -> None:
        some = self._random.randint(2, 1000)
        connection.execute("DELETE FROM tree WHERE id = %s", [some])
        connection.execute("INSERT INTO tree VALUES (%s, nullif(%s / 3, 0), 'again')", [some, some])

    def _rename(self, connection: psycopg.Connection) -> None:
        """The identity is an index's column, and changes."""
        some = self._random.randint(1, 1000)
        connection.execute("UPDATE named SET name = 'name ' || %s, note = 'moved' WHERE id = %s", [self._new(), some])

    def _broken(self, connection: psycopg.Connection) -> None:
        """By the one column that stays what it is."""
        name, some = sql.Identifier(self._random.choice(BROKEN)), self._random.randint(1, 800)
        connection.execute(sql.SQL("UPDATE {} SET id = id WHERE id = %s").format(name), [some])
        connection.execute(sql.SQL("DELETE FROM {} WHERE id = %s").format(name), [some + 1])
        connection.execute(sql.SQL("INSERT INTO {} (id) VALUES (%s)").format(name), [self._new()])

    _ALL_WAYS = (*Application._WAYS, _grow, _empty, _type, _swap, _book, _fell, _rename, _broken)


class Pgbench:
    """pgbench at a fixed rate, begun again whenever the server was gone."""

    def __init__(self, database: Database, directory: Path, *, rate: int) -> None:
        self._database = database
        self._log = directory / "pgbench.log"
        self._rate = rate
        self._stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._work, name="pgbench", daemon=True)

    def start(self) -> None:
        self._run("-i", "-I", "dtgp", "-s", "1", "-q").wait()
        publishable(self._database.uri)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
        if self._thread.is_alive():
            self._thread.join(30)

    def _work(self) -> None:
        while not self._stopping.is_set():
            self._process = self._run("-n", "-c", "2", "-R", str(self._rate), "-T", "100000")
            if self._stopping.is_set():
                self._process.terminate()
            self._process.wait()
            self._stopping.wait(_AGAIN_AFTER_S)

    def _run(self, *options: str) -> subprocess.Popen[bytes]:
        pgbench = self._database.server.installation.tool("pgbench")
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [str(pgbench), *options, self._database.uri], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )


@contextmanager
def at_work(database: Database, directory: Path, *, seed: int) -> Iterator[list[Restless]]:
    """Two applications and pgbench, ended after the block."""
    applications = [Restless(database, seed=seed * 2 + number) for number in range(2)]
    pgbench = Pgbench(database, directory, rate=30)
    pgbench.start()
    try:
        for application in applications:
            application.start()
        yield applications
    finally:
        pgbench.stop()
        for application in applications:
            application.stop()
