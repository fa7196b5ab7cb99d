"""Two servers, and the tables that are copied from one to the other."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import psycopg
from psycopg import sql

from dsync.quickstart.bench_tables import create_mixed, create_pgbench_accounts
from dsync.quickstart.servers import EmbeddedPostgres

# Large enough that no checkpoint falls into one way's time and not into another's.
SETTINGS = {
    "shared_buffers": "256MB",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "1h",
    "maintenance_work_mem": "256MB",
    "autovacuum": "off",
}

_COUNT_BYTES = "COPY {table} TO STDOUT (FORMAT binary)"


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of the source, alone in its database."""

    title: str
    database: str
    name: str
    key: str
    rows: int
    copy_bytes: int
    """The size of its binary COPY: what MB/s and seconds per GB count."""


class Servers:
    """A source and a sink on this machine."""

    def __init__(self, source: EmbeddedPostgres, sink: EmbeddedPostgres) -> None:
        self.source = source
        self.sink = sink
        self._targets = 0

    @property
    def postmasters(self) -> list[int]:
        """The servers' process ids."""
        return [server.pid for server in (self.source, self.sink) if server.pid is not None]

    def fresh_target(self, previous: str | None = None) -> str:
        """An empty database at the sink, in place of the previous one; both servers have nothing left to do."""
        if previous is not None:
            self.sink.drop_database(previous)
        self._targets += 1
        name = f"target_{self._targets}"
        self.sink.create_database(name)
        for server in (self.source, self.sink):
            server.execute("CHECKPOINT")
        return name

    def count(self, database: str, table: str) -> int:
        """How many rows have arrived."""
        with self.sink.connect(database) as connection:
            found = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(table))).fetchone()
        return int(found[0]) if found else 0


@contextlib.contextmanager
def servers(major: int | None) -> Iterator[Servers]:
    """Both servers, gone at the end."""
    with (
        EmbeddedPostgres(major, settings=SETTINGS) as source,
        EmbeddedPostgres(major, settings=SETTINGS) as sink,
    ):
        yield Servers(source, sink)


def make_narrow(server: EmbeddedPostgres, scale: int) -> Table:
    """pgbench_accounts at a scale: four columns, 114 bytes a row."""
    return _make(server, "narrow", "pgbench_accounts", "aid", lambda uri: create_pgbench_accounts(uri, scale))


def make_mixed(server: EmbeddedPostgres, rows: int) -> Table:
    """Fourteen columns of as many types, about 320 bytes a row."""
    return _make(server, "mixed", "mixed", "id", lambda uri: create_mixed(uri, rows))


def _make(server: EmbeddedPostgres, title: str, name: str, key: str, create: Callable[[str], int]) -> Table:
    uri = server.create_database(title)
    rows = create(uri)
    with psycopg.connect(uri) as connection:
        statement = sql.SQL(_COUNT_BYTES).format(table=sql.Identifier(name))
        with connection.cursor().copy(statement) as copy:
            copy_bytes = sum(len(chunk) for chunk in copy)
    return Table(title=title, database=title, name=name, key=key, rows=rows, copy_bytes=copy_bytes)
