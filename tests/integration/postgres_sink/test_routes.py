"""Trees of partitions whose rows lie elsewhere at the sink: hash partitioning goes by bytes that differ there."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import sql

from dsync.sdk import errors
from tests.integration.postgres_sink.conftest import OpenSink
from tests.integration.postgres_sink.support import copy_tables, describe, finish_all, prepare_request
from tests.integration.postgres_sink.test_clear import clearing
from tests.support.databases import Database, DatabaseFactory

both = pytest.mark.parametrize("pg_pair", [(16, 16), (18, 18)], indirect=True)

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
async def test_a_tree_hashed_on_an_enum_is_filled_through_its_top(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_sink: OpenSink
) -> None:
    source, target = source_db(hashed), sink_db()
    # Other oids than the source's.
    target.run("CREATE TYPE before AS ENUM ('x')", "CREATE TABLE t (i serial)", "DROP TABLE t", "DROP TYPE before")
    sink = open_sink(target)
    prepared = await sink.side.prepare(prepare_request(await describe(source)))
    await copy_tables(sink, source, prepared)
    await finish_all(sink, source, prepared)
    assert target.rows(ROWS) == source.rows(ROWS)
    assert target.rows("SELECT namespace, route FROM _dsync.target ORDER BY 1") == [
        ("public.high", ""),
        ("public.low_0", "public.h"),
        ("public.low_1", "public.h"),
        ("public.low_2", "public.h"),
    ]
    with pytest.raises(errors.SinkNotEmptyError, match=r"given to public\.h"):
        await sink.side.clear_namespace(clearing(sink, "public.low_0"), "public.low_0", ["public.low_0"])
    assert target.rows(ROWS) == source.rows(ROWS)


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
        assert routes == ({""} if encoding == "UTF8" else {"public.h"})
        await sink.sessions.close()
    finally:
        target.drop()
