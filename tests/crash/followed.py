"""A source that is followed: every way of telling rows apart, values that are not sent, and an application at work."""

from __future__ import annotations

from contextlib import AbstractContextManager

import psycopg

from tests.crash.worker import Worker, at_work
from tests.support.databases import Database

FOLLOWED = ("parents", "children", "wide", "keyless", "leaf_1", "leaf_2")
"""What has to be equal in the end, row by row."""
ROWS = 3_000

_CONTENTS = "SELECT count(*), coalesce(md5(string_agg(x::text, '|' ORDER BY x::text)), '') FROM ONLY {} x"
_HEX = "md5(g::text) || md5((-g)::text)"
_SCHEMA = f"""
CREATE TABLE parents (id int PRIMARY KEY, name text NOT NULL UNIQUE, version int NOT NULL, filling text);
CREATE TABLE children (id int PRIMARY KEY, parent int REFERENCES parents ON DELETE CASCADE, note text);
CREATE INDEX children_parent ON children (parent);
CREATE TABLE wide (a int NOT NULL, b text COLLATE "C" NOT NULL, small int, large text, PRIMARY KEY (b, a));
ALTER TABLE wide ALTER large SET STORAGE EXTERNAL;
CREATE TABLE keyless (id int, word text);
ALTER TABLE keyless REPLICA IDENTITY FULL;
CREATE TABLE leaves (id int NOT NULL, filling text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
CREATE TABLE leaf_1 PARTITION OF leaves FOR VALUES FROM (0) TO (1000000);
CREATE TABLE leaf_2 PARTITION OF leaves FOR VALUES FROM (1000000) TO (2000000);

INSERT INTO parents SELECT g, 'name ' || g, 0, repeat({_HEX}, 8) FROM generate_series(1, {ROWS}) g;
INSERT INTO children SELECT g, g, {_HEX} FROM generate_series(1, {ROWS}) g;
INSERT INTO wide SELECT g, 'key ' || g % 50, 0, repeat({_HEX}, 50) FROM generate_series(1, 600) g;
INSERT INTO keyless SELECT g / 2, 'word ' || g % 9 FROM generate_series(1, {ROWS}) g;
INSERT INTO leaves SELECT g * 600, {_HEX} FROM generate_series(1, {ROWS}) g;
"""


def fill(uri: str) -> None:
    """Make the tables; the same rows every time."""
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute(_SCHEMA.encode())
        connection.execute("VACUUM (ANALYZE)")


def contents(database: Database) -> dict[str, tuple[int, str]]:
    """By table: the number of rows, and a hash of all of them."""
    found: dict[str, tuple[int, str]] = {}
    with database.connect() as connection:
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        for name in FOLLOWED:
            row = connection.execute(_CONTENTS.format(name).encode()).fetchone()
            assert row is not None
            found[name] = (row[0], row[1])
    return found


class Application(Worker):
    """Writes to all of the tables: one transaction of several changes after another, some of them rolled back."""

    # No faster than a sink on the same small machine can apply: it is to catch up.
    pause_s = 0.01

    def __init__(self, database: Database, *, seed: int = 1) -> None:
        super().__init__(database, seed=seed)
        self._number = 10_000_000

    def _transact(self, connection: psycopg.Connection) -> None:
        chance = self._random
        with connection.transaction(force_rollback=chance.random() < 0.1):
            for _ in range(chance.randint(1, 4)):
                chance.choice(self._WAYS)(self, connection)

    def _new(self) -> int:
        self._number += 1
        return self._number

    def _some(self) -> int:
        return self._random.randint(1, ROWS)

    def _insert(self, connection: psycopg.Connection) -> None:
        number = self._new()
        connection.execute("INSERT INTO parents VALUES (%s, %s, 0, md5(%s::text))", [number, f"name {number}", number])
        connection.execute("INSERT INTO children VALUES (%s, %s, 'new')", [number, number])

    def _update(self, connection: psycopg.Connection) -> None:
        some = self._some()
        connection.execute("UPDATE parents SET version = version + 1 WHERE id BETWEEN %s AND %s", [some, some + 3])

    def _delete(self, connection: psycopg.Connection) -> None:
        connection.execute("DELETE FROM parents WHERE id = %s", [self._some()])

    def _swap_unique(self, connection: psycopg.Connection) -> None:
        """A name goes to another row: lanes meet on the index."""
        one, other, number = self._some(), self._some(), self._new()
        connection.execute("UPDATE parents SET name = 'moved ' || %s WHERE id = %s", [number, one])
        connection.execute(
            "UPDATE parents SET name = 'name ' || %s WHERE id = %s AND NOT EXISTS"
            " (SELECT FROM parents WHERE name = 'name ' || %s)",
            [one, other, one],
        )

    def _move_wide(self, connection: psycopg.Connection) -> None:
        """Another key, and the large value is not sent: rare, because each of them is applied by itself."""
        if self._random.random() < 0.7:
            return
        connection.execute(
            "UPDATE wide SET a = %s WHERE (a, b) = (SELECT a, b FROM wide ORDER BY hashtext(a::text || %s) LIMIT 1)",
            [self._new(), str(self._some())],
        )

    def _touch_wide(self, connection: psycopg.Connection) -> None:
        connection.execute("UPDATE wide SET small = small + 1 WHERE a %% 50 = %s", [self._some() % 50])

    def _replace_wide(self, connection: psycopg.Connection) -> None:
        some = self._some() % 600
        connection.execute("UPDATE wide SET large = repeat(md5(%s::text), 200) WHERE a = %s", [self._new(), some])

    def _keyless(self, connection: psycopg.Connection) -> None:
        some = self._some() // 2
        connection.execute("INSERT INTO keyless SELECT %s, 'twice' FROM generate_series(1, 2)", [some])
        connection.execute("DELETE FROM keyless WHERE ctid = (SELECT min(ctid) FROM keyless WHERE id = %s)", [some])
        connection.execute("UPDATE keyless SET word = word || '!' WHERE id = %s", [self._some() // 2])

    def _leaves(self, connection: psycopg.Connection) -> None:
        some = self._some() * 600
        connection.execute("UPDATE leaves SET filling = %s WHERE id = %s", [str(self._new()), some])
        # Over the border between two partitions: a delete in one and an insert into the other.
        connection.execute(
            "UPDATE leaves SET id = (id + 1000000) %% 2000000 WHERE id = %s AND NOT EXISTS"
            " (SELECT FROM leaves WHERE id = (%s + 1000000) %% 2000000)",
            [some + 600, some + 600],
        )

    _WAYS = (
        _insert,
        _update,
        _delete,
        _swap_unique,
        _move_wide,
        _touch_wide,
        _replace_wide,
        _keyless,
        _leaves,
    )


def working(database: Database, *, seed: int = 1) -> AbstractContextManager[Application]:
    """An application that is at work before the block begins, and has ended after it."""
    return at_work(Application(database, seed=seed))
