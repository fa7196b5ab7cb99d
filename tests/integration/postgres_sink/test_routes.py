"""Trees of partitions whose rows lie elsewhere at the sink: hash partitioning goes by bytes that differ there."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import psycopg
import pytest
from psycopg import sql

from dsync.sdk import errors, types
from tests.integration.postgres_sink.conftest import OpenSink
from tests.integration.postgres_sink.support import copy_tables, describe, finish_all, prepare_request
from tests.integration.postgres_sink.test_clear import clearing
from tests.support.databases import Database, DatabaseFactory, PgServers

both = pytest.mark.parametrize("pg_pair", [(16, 16), (18, 18)], indirect=True)

LEAVES = ["public.low_0", "public.low_1", "public.low_2"]
ROWS = "SELECT kind::text, count(*), sum(id) FROM h GROUP BY 1 ORDER BY 1"


def hashed(uri: str) -> None:
    """A tree by the hash of an enum, whose bytes are its oid, below one by range."""
    with psycopg.connect(uri) as connection:
        connection.execute(
            """
            CREATE TYPE kind AS ENUM ('a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i', 'j');
            CREATE TABLE h (id int, kind kind, PRIMARY KEY (id, kind)) PARTITION BY RANGE (id);
            CREATE TABLE low PARTITION OF h FOR VALUES FROM (0) TO (1000) PARTITION BY HASH (kind);
            CREATE TABLE low_0 PARTITION OF low FOR VALUES WITH (MODULUS 3, REMAINDER 0);
            CREATE TABLE low_1 PARTITION OF low FOR VALUES WITH (MODULUS 3, REMAINDER 1);
            CREATE TABLE low_2 PARTITION OF low FOR VALUES WITH (MODULUS 3, REMAINDER 2);
            CREATE TABLE high PARTITION OF h FOR VALUES FROM (1000) TO (2000);
            INSERT INTO h SELECT g, (enum_range(NULL::kind))[1 + g % 10] FROM generate_series(1, 1500) g;
            """
        )


@both
async def test_a_tree_hashed_on_an_enum_is_filled_through_the_table_that_places_its_rows(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_sink: OpenSink
) -> None:
    source, target = source_db(hashed), sink_db()
    # Other oids than the source's.
    target.run("CREATE TYPE before AS ENUM ('x')", "CREATE TABLE t (i serial)", "DROP TABLE t", "DROP TYPE before")
    sink = open_sink(target)
    prepared = await sink.side.prepare(prepare_request(await describe(source)))
    assert {load.source: load.target for load in prepared.namespaces} == {
        "public.high": "public.high",
        **dict.fromkeys(LEAVES, "public.low"),
    }
    await copy_tables(sink, source, prepared)
    await finish_all(sink, source, prepared)
    assert target.rows(ROWS) == source.rows(ROWS)
    assert target.rows("SELECT namespace, route FROM _dsync.target ORDER BY 1") == [
        ("public.high", ""),
        ("public.low", ""),
        *((leaf, "public.low") for leaf in LEAVES),
    ]
    with pytest.raises(errors.SinkNotEmptyError, match=r"given to public\.low"):
        await sink.side.clear_namespace(clearing(sink, "public.low_0"), "public.low_0", ["public.low_0"])
    assert target.rows(ROWS) == source.rows(ROWS)


@both
async def test_such_a_tree_is_cleared_and_filled_again_as_a_whole(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_sink: OpenSink
) -> None:
    """What lies beside it stays, and rows that somebody has added keep it from being cleared."""
    source, target = source_db(hashed), sink_db()
    sink = open_sink(target)
    prepared = await sink.side.prepare(prepare_request(await describe(source)))
    await copy_tables(sink, source, prepared)
    target.run("INSERT INTO h VALUES (0, 'a')")
    with pytest.raises(errors.SinkNotEmptyError, match="1,000 rows, of which it wrote 999"):
        await sink.side.clear_namespace(clearing(sink, "public.low_0"), "public.low", LEAVES)
    target.run("DELETE FROM h WHERE id = 0")
    await sink.side.clear_namespace(clearing(sink, "public.low_0"), "public.low", LEAVES)
    assert target.rows("SELECT (SELECT count(*) FROM low), (SELECT count(*) FROM high)") == [(0, 501)]
    again = replace(prepared, namespaces=tuple(load for load in prepared.namespaces if load.source in LEAVES))
    await copy_tables(sink, source, again)
    assert target.rows(ROWS) == source.rows(ROWS)


async def test_rows_in_one_partition_make_all_of_the_tree_be_written_by_key(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_sink: OpenSink
) -> None:
    """A row of any of the source's partitions may belong where those are."""
    source, target = source_db(hashed), sink_db(hashed)
    # All in one of them, whichever it is.
    target.run("TRUNCATE high", "DELETE FROM low WHERE kind <> 'a'")
    sink = open_sink(target)
    request = prepare_request(await describe(source), on_existing=types.OnExisting.APPEND)
    prepared = await sink.side.prepare(request)
    assert {load.source for load in prepared.namespaces if load.upsert} == set(LEAVES)
    await copy_tables(sink, source, prepared)
    assert target.rows(ROWS) == source.rows(ROWS)


@pytest.mark.parametrize("major", [15, 18])
async def test_a_crash_empties_such_a_tree_together_with_its_ledger(
    source_db: DatabaseFactory, own_servers: PgServers, open_sink: OpenSink, major: int
) -> None:
    """A partitioned table is neither logged nor unlogged: its partitions are."""
    source = source_db(hashed)
    source.run(*(f"ALTER TABLE low_{number} SET UNLOGGED".encode() for number in range(3)))  # type: ignore[arg-type]
    server = own_servers.own(major)
    target = DatabaseFactory(server, prefix="crash")()
    sink = open_sink(target)
    prepared = await sink.side.prepare(prepare_request(await describe(source)))
    await copy_tables(sink, source, prepared)
    assert target.rows(ROWS) == source.rows(ROWS)
    await asyncio.to_thread(lambda: server.restart(immediate=True))
    assert target.rows("SELECT (SELECT count(*) FROM low), (SELECT count(*) FROM high)") == [(0, 501)]
    late = open_sink(target)
    states = await late.open(*LEAVES, namespace="public.low")
    assert [state.seq for state in states] == [0, 0, 0]


def hashed_text(uri: str) -> None:
    """A tree by the hash of a text with letters that other encodings write otherwise."""
    with psycopg.connect(uri) as connection:
        connection.execute("CREATE DOMAIN word AS text")
        connection.execute("CREATE TABLE h (id int, kind word) PARTITION BY HASH (kind)")
        for number in range(4):
            connection.execute(
                f"CREATE TABLE h_{number} PARTITION OF h FOR VALUES WITH (MODULUS 4, REMAINDER {number})".encode()
            )
        connection.execute("INSERT INTO h SELECT g, 'grün' || g FROM generate_series(1, 200) g")


@pytest.mark.parametrize("encoding", ["UTF8", "LATIN1"])
async def test_a_tree_hashed_on_text_goes_through_its_top_where_encodings_differ(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_sink: OpenSink, encoding: str
) -> None:
    source, server = source_db(hashed_text), sink_db().server
    name = f"hashed_{encoding.lower()}"
    server.execute(
        sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING {} LOCALE 'C'").format(
            sql.Identifier(name), sql.Literal(encoding)
        )
    )
    target = Database(server=server, name=name)
    try:
        sink = open_sink(target)
        prepared = await sink.side.prepare(prepare_request(await describe(source)))
        await copy_tables(sink, source, prepared)
        assert target.rows(ROWS) == source.rows(ROWS)
        routes = {route for (route,) in target.rows("SELECT route FROM _dsync.target")}
        assert routes == ({""} if encoding == "UTF8" else {"", "public.h"})
        await sink.sessions.close()
    finally:
        target.drop()
