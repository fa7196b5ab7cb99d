"""The source of the crash tests: tables that are written to while they are copied, and tables that are left alone."""

from __future__ import annotations

from contextlib import AbstractContextManager

import psycopg

from tests.crash.worker import Worker, at_work
from tests.support.databases import Database

TOGETHER = ("public.busy", "public.busy_keyless", "public.busy_unlogged")
"""Each transaction does the same to all three, so that they hold the same rows at any one moment."""
BUSY = (*TOGETHER, "public.leaf_1")
QUIET = (
    "public.quiet",
    "public.quiet_keyless",
    "public.quiet_unlogged",
    "public.child",
    "public.leaf_2",
    "public.no_columns",
    "public.no_rows",
)
ALL = (*BUSY, *QUIET)

BUSY_ROWS = 6_000
"""In each of the tables; `busy` has wider ones and is copied first."""

# 64 hexadecimal digits that do not repeat: a megabyte of them stays a megabyte.
_HEX = "md5(g::text) || md5((-g)::text)"

_SCHEMA = f"""
CREATE TABLE busy (id bigint PRIMARY KEY, version bigint NOT NULL, filling text NOT NULL);
CREATE TABLE busy_keyless (id bigint NOT NULL, version bigint NOT NULL, filling text NOT NULL);
CREATE UNLOGGED TABLE busy_unlogged (id bigint PRIMARY KEY, version bigint NOT NULL, filling text NOT NULL);
CREATE TABLE quiet (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, filling text NOT NULL, kind int NOT NULL);
CREATE INDEX quiet_kind ON quiet (kind);
CREATE TABLE quiet_keyless (filling text, kind int);
CREATE UNLOGGED TABLE quiet_unlogged (filling text, kind int);
CREATE TABLE child (id int PRIMARY KEY, parent bigint NOT NULL REFERENCES quiet, note text UNIQUE);
CREATE TABLE leaves (id bigint NOT NULL, version bigint NOT NULL, filling text) PARTITION BY RANGE (id);
CREATE TABLE leaf_1 PARTITION OF leaves FOR VALUES FROM (0) TO (1000000);
CREATE TABLE leaf_2 PARTITION OF leaves FOR VALUES FROM (1000000) TO (2000000);
CREATE TABLE no_columns ();
CREATE TABLE no_rows (id int PRIMARY KEY);
CREATE VIEW kinds AS SELECT kind, count(*) FROM quiet GROUP BY kind;

INSERT INTO busy SELECT g, 0, repeat({_HEX}, 6) FROM generate_series(1, {BUSY_ROWS}) g;
INSERT INTO busy_keyless SELECT g, 0, {_HEX} FROM generate_series(1, {BUSY_ROWS}) g;
INSERT INTO busy_unlogged SELECT g, 0, {_HEX} FROM generate_series(1, {BUSY_ROWS}) g;
INSERT INTO quiet (filling, kind) SELECT repeat({_HEX}, 4), g % 7 FROM generate_series(1, 6000) g;
-- Every row twice, and some of them often: what is lost or repeated changes the count of one of them.
INSERT INTO quiet_keyless SELECT md5((g / 2)::text), g % 5 FROM generate_series(1, 5000) g;
INSERT INTO quiet_unlogged SELECT md5((g % 100)::text), g % 5 FROM generate_series(1, 4000) g;
INSERT INTO child SELECT g, g * 2, 'note ' || g FROM generate_series(1, 1500) g;
INSERT INTO leaves SELECT g * 400, 0, {_HEX} FROM generate_series(1, 4000) g;
INSERT INTO no_columns SELECT FROM generate_series(1, 77);
"""


def fill(uri: str) -> None:
    """Make the tables; the same rows every time."""
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute(_SCHEMA.encode())
        connection.execute("VACUUM (ANALYZE)")


class Writer(Worker):
    """Inserts, updates and deletes.

    Every change leaves other contents than there ever were before, so that two equal tables have had no change
    between them.
    """

    def __init__(self, database: Database, *, seed: int = 1) -> None:
        super().__init__(database, seed=seed)
        self._ids = list(range(1, BUSY_ROWS + 1))
        self._last_id = BUSY_ROWS

    def _transact(self, connection: psycopg.Connection) -> None:
        with connection.transaction():
            self._change(connection)

    def _change(self, connection: psycopg.Connection) -> None:
        version = self.transactions + 1
        kind = self._random.random()
        if kind < 0.3:
            self._last_id += 1
            self._ids.append(self._last_id)
            self._all(connection, "INSERT INTO {} VALUES (%s, %s, repeat(md5(%s::text), 4))", self._last_id, version, 1)
        elif kind < 0.5 and len(self._ids) > BUSY_ROWS // 2:
            gone = self._ids.pop(self._random.randrange(len(self._ids)))
            self._all(connection, "DELETE FROM {} WHERE id = %s", gone)
        elif kind < 0.9:
            first = self._random.choice(self._ids)
            self._all(connection, "UPDATE {} SET version = %s WHERE id BETWEEN %s AND %s", version, first, first + 2)
        else:
            place = 400 * self._random.randint(1, 2400)
            connection.execute("UPDATE leaf_1 SET version = %s WHERE id = %s", [version, place])

    def _all(self, connection: psycopg.Connection, statement: str, *values: int) -> None:
        for name in TOGETHER:
            connection.execute(statement.format(name).encode(), values)


def writing(database: Database, *, seed: int = 1) -> AbstractContextManager[Writer]:
    """Write into the busy tables inside the block, or until stopped earlier."""
    return at_work(Writer(database, seed=seed))
