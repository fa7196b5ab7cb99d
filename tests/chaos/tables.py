"""The source of a chaos run: the followed tables of the crash tests, and those that are grown, broken and rewritten."""

from __future__ import annotations

import psycopg
from psycopg import sql

from tests.crash import followed
from tests.support.databases import Database

GROWN = ("grown", "parents", "keyless", "leaves")
"""Columns are added to these."""
BROKEN = ("broken_1", "broken_2", "broken_3", "broken_4")
"""Each of them is changed at most once so that it cannot be followed any more."""
REWRITTEN = ("typed", "wide", "keyless", "parents", "grown")
"""VACUUM FULL gives them another file."""
TRUNCATED = ("emptied", "typed", "children", "parents CASCADE", "leaf_2", "grown")
ROWS = 4_000

_PGBENCH_KEYLESS = "pgbench_history"
_HEX = "md5(g::text) || md5((-g)::text)"
_SCHEMA = f"""
CREATE TABLE grown (id int PRIMARY KEY, version int NOT NULL, word text);
CREATE TABLE emptied (id int PRIMARY KEY, filling text);
CREATE TABLE typed (
    id uuid PRIMARY KEY, amount numeric, ratio float8, at timestamptz, span interval, document jsonb, plain json,
    words text[], bytes bytea, during tstzrange, address inet, flags bit(7)
);
CREATE TABLE swapped (id int PRIMARY KEY, place int UNIQUE DEFERRABLE INITIALLY DEFERRED, note text);
CREATE TABLE booked (id int PRIMARY KEY, room int NOT NULL, during int4range,
    EXCLUDE USING gist (int4range(room, room + 1) WITH &&, during WITH &&));
CREATE TABLE tree (id int PRIMARY KEY, parent int REFERENCES tree ON DELETE CASCADE, note text);
CREATE TABLE named (id int NOT NULL, name text NOT NULL, note text);
CREATE UNIQUE INDEX named_identity ON named (name);
ALTER TABLE named REPLICA IDENTITY USING INDEX named_identity;

INSERT INTO grown SELECT g, 0, {_HEX} FROM generate_series(1, {ROWS}) g;
INSERT INTO emptied SELECT g, {_HEX} FROM generate_series(1, 500) g;
INSERT INTO typed SELECT md5(g::text)::uuid, g / 7.0, sqrt(g), '2020-01-01'::timestamptz + g * '1 h'::interval,
    g * '1 min'::interval, jsonb_build_object('g', g, 'list', ARRAY[g, g + 1]), '{{"a" :  1}}',
    ARRAY['a', NULL, g::text], decode(md5(g::text), 'hex'), tstzrange('2020-01-01', NULL), '10.0.0.1', g::bit(7)
    FROM generate_series(1, {ROWS}) g;
INSERT INTO swapped SELECT g, g, 'note ' || g FROM generate_series(1, 500) g;
INSERT INTO booked SELECT g, g % 20, int4range(g * 10, g * 10 + 10) FROM generate_series(1, 500) g;
INSERT INTO tree SELECT g, nullif(g / 3, 0), 'node' FROM generate_series(1, 1000) g;
INSERT INTO named SELECT g, 'name ' || g, {_HEX} FROM generate_series(1, 1000) g;
"""


def fill(uri: str) -> None:
    """Make all tables but pgbench's."""
    followed.fill(uri)
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute(_SCHEMA.encode())
        for name in BROKEN:
            connection.execute(
                sql.SQL("CREATE TABLE {} (id int PRIMARY KEY, first text, second int, third numeric)").format(
                    sql.Identifier(name)
                )
            )
            connection.execute(
                sql.SQL("INSERT INTO {} SELECT g, 'text ' || g, g, g FROM generate_series(1, 800) g").format(
                    sql.Identifier(name)
                )
            )
        connection.execute("ANALYZE")


def publishable(uri: str) -> None:
    """pgbench's own table without a key can only be followed by its whole rows."""
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute(sql.SQL("ALTER TABLE {} REPLICA IDENTITY FULL").format(sql.Identifier(_PGBENCH_KEYLESS)))


def tables(database: Database) -> list[str]:
    """Every table that holds rows, in no other schema than public."""
    return [
        name
        for (name,) in database.rows(
            "SELECT relname::text FROM pg_class"
            " WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' ORDER BY 1"
        )
    ]


def columns(database: Database, table: str) -> list[str]:
    return [
        name
        for (name,) in database.rows(
            "SELECT attname::text FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped"
            " ORDER BY attname",
            [table],
        )
    ]


def contents(database: Database, table: str, names: list[str]) -> tuple[int, str]:
    """How many rows, and a hash of all of them."""
    query = sql.SQL(
        "SELECT count(*), coalesce(md5(string_agg(x::text, '|' ORDER BY x::text COLLATE \"C\")), '')"
        " FROM (SELECT {} FROM ONLY {}) x"
    ).format(sql.SQL(", ").join(map(sql.Identifier, names)), sql.Identifier(table))
    ((count, digest),) = database.rows(query)
    return count, digest


def touch(database: Database) -> None:
    """A change in every table, so that a column that was added to it and never written to arrives too."""
    with database.connect() as connection:
        for name in tables(database):
            first = columns(database, name)[0]
            connection.execute(
                sql.SQL("UPDATE ONLY {t} SET {c} = {c} WHERE ctid = (SELECT min(ctid) FROM ONLY {t})").format(
                    t=sql.Identifier(name), c=sql.Identifier(first)
                )
            )
