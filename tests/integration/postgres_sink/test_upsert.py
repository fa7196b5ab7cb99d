"""Writing by key: rows that are there already get the page's values, others stay."""

from __future__ import annotations

import psycopg
import pytest

from dsync.sdk import errors, types
from tests.integration.postgres_sink.conftest import OpenSink
from tests.integration.postgres_sink.support import BINARY, TEXT, page_of
from tests.support.databases import DatabaseFactory

pytestmark = pytest.mark.parametrize("pg", [16, 18], indirect=True)


@pytest.mark.parametrize("page_type", [BINARY, TEXT])
@pytest.mark.parametrize("as_owner", [False, True], ids=["superuser", "owner"])
async def test_rows_that_are_there_are_replaced_and_others_stay(
    database: DatabaseFactory, open_sink: OpenSink, page_type: types.PageType, as_owner: bool
) -> None:
    db = database()
    sink = open_sink(db, uri=db.owner_uri() if as_owner else None)
    with sink_connection(sink.sessions.target.conninfo) as connection:
        connection.execute("CREATE TABLE t (id int PRIMARY KEY, note text)")
        connection.execute("INSERT INTO t VALUES (1, 'old'), (2, 'old'), (9, 'theirs')")
    await sink.open("u")
    page = page_of(db, "SELECT g, 'new' FROM generate_series(1, 3) g", page_type)
    assert await sink.write(sink.request(page, upsert=True)) == 3
    assert db.rows("SELECT * FROM t ORDER BY id") == [(1, "new"), (2, "new"), (3, "new"), (9, "theirs")]
    assert sink.ledger() == [("u", 1, b"c", 3, False)]


def sink_connection(conninfo: str) -> psycopg.Connection:
    return psycopg.connect(conninfo, autocommit=True)


async def test_of_several_rows_with_one_key_the_last_stays(database: DatabaseFactory, open_sink: OpenSink) -> None:
    """By their order in the page, whatever the server makes of it."""
    db = database()
    db.run("CREATE TABLE t (id int PRIMARY KEY, n int, pad text)", "INSERT INTO t VALUES (5, -1, '')")
    sink = open_sink(db)
    await sink.open("u")
    page = page_of(db, "SELECT g % 10, g, repeat('x', g % 3 * 900) FROM generate_series(1, 5000) g")
    assert await sink.write(sink.request(page, upsert=True)) == 5000
    assert db.rows("SELECT id, n FROM t ORDER BY n") == [(n % 10, n) for n in range(4991, 5001)]


async def test_a_table_of_key_columns_alone(database: DatabaseFactory, open_sink: OpenSink) -> None:
    db = database()
    db.run("CREATE TABLE t (a int, b text, PRIMARY KEY (b, a))", "INSERT INTO t VALUES (1, 'x')")
    sink = open_sink(db)
    await sink.open("u")
    page = page_of(db, "SELECT g % 3, 'x' FROM generate_series(1, 9) g")
    assert await sink.write(sink.request(page, upsert=True)) == 9
    assert db.rows("SELECT a FROM t ORDER BY a") == [(0,), (1,), (2,)]


async def test_a_unique_index_will_do_where_it_identifies_every_row(
    database: DatabaseFactory, open_sink: OpenSink
) -> None:
    """Not a partial one, one over expressions, one over columns that may be NULL, nor a deferrable constraint."""
    db = database()
    db.run(
        "CREATE TABLE t (a int NOT NULL, b int, c int NOT NULL, d int NOT NULL UNIQUE DEFERRABLE)",
        "CREATE UNIQUE INDEX ON t (b)",
        "CREATE UNIQUE INDEX ON t (a) WHERE a > 0",
        "CREATE UNIQUE INDEX ON t ((a + 1))",
    )
    sink = open_sink(db)
    await sink.open("u")
    request = sink.request(page_of(db, "SELECT 1, 2, 3, 4"), upsert=True)
    with pytest.raises(errors.UnsupportedError, match="no primary key or unique index"):
        await sink.write(request)
    db.run("CREATE UNIQUE INDEX ON t (c, a)")
    other = open_sink(db)
    await other.open("u")
    for value in (2, 5):
        await other.write(other.request(page_of(db, f"SELECT 1, {value}, 3, 4"), upsert=True))
    assert db.rows("SELECT * FROM t") == [(1, 5, 3, 4)]


@pytest.mark.parametrize("as_owner", [False, True], ids=["superuser", "owner"])
async def test_an_identity_that_no_update_can_set_makes_the_row_anew(
    database: DatabaseFactory, open_sink: OpenSink, as_owner: bool
) -> None:
    """Unless rows that refer to it would notice: then only a session in which nothing fires may do so."""
    db = database()
    uri = db.owner_uri() if as_owner else None
    sink = open_sink(db, uri=uri)
    with sink_connection(sink.sessions.target.conninfo) as connection:
        connection.execute("CREATE TABLE t (id int PRIMARY KEY, n int GENERATED ALWAYS AS IDENTITY, note text)")
        connection.execute("INSERT INTO t OVERRIDING SYSTEM VALUE VALUES (1, 7, 'old'), (2, 8, 'old')")
    await sink.open("u")
    page = page_of(db, "SELECT 1, 9, 'new' UNION ALL SELECT 2, 8, 'new' UNION ALL SELECT 3, 1, 'new'")
    await sink.write(sink.request(page, upsert=True))
    assert db.rows("SELECT * FROM t ORDER BY id") == [(1, 9, "new"), (2, 8, "new"), (3, 1, "new")]

    with sink_connection(sink.sessions.target.conninfo) as connection:
        connection.execute("CREATE TABLE child (t int REFERENCES t ON DELETE CASCADE)")
        connection.execute("INSERT INTO child VALUES (1)")
    other = open_sink(db, uri=uri)
    await other.open("u")
    request = other.request(page_of(db, "SELECT 1, 10, 'newer'"), upsert=True)
    if as_owner:
        with pytest.raises(errors.UnsupportedError, match="column n is GENERATED ALWAYS AS IDENTITY"):
            await other.write(request)
    else:
        await other.write(request)
        assert db.value("SELECT n FROM t WHERE id = 1") == 10
    assert db.value("SELECT count(*) FROM child") == 1


async def test_another_unique_index_refuses_the_row(database: DatabaseFactory, open_sink: OpenSink) -> None:
    db = database()
    db.run("CREATE TABLE t (id int PRIMARY KEY, name text UNIQUE)", "INSERT INTO t VALUES (1, 'secret')")
    sink = open_sink(db)
    await sink.open("u")
    with pytest.raises(errors.RecordError, match="constraint t_name_key") as caught:
        await sink.write(sink.request(page_of(db, "SELECT 2, 'secret'"), upsert=True))
    assert "secret" not in str(caught.value)
    assert sink.ledger() == [("u", 0, b"", 0, False)]


async def test_of_the_flows_own_rows_one_of_another_moment_makes_room(
    database: DatabaseFactory, open_sink: OpenSink
) -> None:
    """The table was found empty, so a row with the same unique value was read before it has got another one."""
    db = database()
    db.run("CREATE TABLE t (id int PRIMARY KEY, name text, n int, UNIQUE (n, name) DEFERRABLE)")
    sink = open_sink(db)
    await sink.open("u")
    await sink.write(sink.request(page_of(db, "VALUES (1, 'a', 1), (2, 'b', 1), (3, NULL, 1)")))
    later = page_of(db, "VALUES (4, 'a', 1), (2, 'c', 1), (5, NULL, 1)")
    with pytest.raises(errors.RecordError, match="constraint t_n_name_key"):
        await sink.write(sink.request(later, upsert=True))
    db.run("INSERT INTO _dsync.target SELECT 'f0000001', 'public.t', 't'::regclass, true, true, '', 'r1'")
    await sink.write(sink.request(later, upsert=True))
    assert db.rows("SELECT id, name FROM t ORDER BY id") == [(2, "c"), (3, None), (4, "a"), (5, None)]


async def test_many_tables_share_a_connection(database: DatabaseFactory, open_sink: OpenSink) -> None:
    """Stages are few, since each commit empties all of them; the oldest makes room."""
    db = database()
    names = [f"t{number}" for number in range(12)]
    for name in names:
        db.run(f"CREATE TABLE {name} (id int PRIMARY KEY, n int)".encode())  # type: ignore[arg-type]
    sink = open_sink(db)
    await sink.open("u")
    for value in (1, 2):
        for name in names:
            page = page_of(db, f"SELECT 1, {value} UNION ALL SELECT 1, {value}")
            await sink.write(sink.request(page, namespace=f"public.{name}", upsert=True))
    assert {db.value(f"SELECT n FROM {name}".encode()) for name in names} == {2}  # type: ignore[arg-type]


async def test_a_partitioned_table_takes_rows_by_key(database: DatabaseFactory, open_sink: OpenSink) -> None:
    db = database()
    db.run(
        "CREATE TABLE t (id int PRIMARY KEY, note text) PARTITION BY RANGE (id)",
        "CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (10)",
        "CREATE TABLE t2 PARTITION OF t FOR VALUES FROM (10) TO (20)",
        "INSERT INTO t VALUES (1, 'old')",
    )
    sink = open_sink(db)
    await sink.open("u")
    await sink.write(sink.request(page_of(db, "SELECT g, 'new' FROM generate_series(1, 15) g"), upsert=True))
    assert db.rows("SELECT count(*), min(note) FROM t2") == [(6, "new")]
    assert db.value("SELECT note FROM t WHERE id = 1") == "new"


async def test_a_foreign_coordinator_writes_by_key_and_repeats_harmlessly(
    database: DatabaseFactory, open_sink: OpenSink
) -> None:
    """Without a context there is no ledger: adiom.v1 asks that writing twice changes nothing."""
    db = database()
    db.run("CREATE TABLE t (id int PRIMARY KEY, note text)", "CREATE TABLE keyless (id int)")
    sink = open_sink(db)
    request = sink.request(page_of(db, "SELECT 1, 'x'"), None, upsert=True)
    for _ in range(2):
        await sink.side.write_data(request)
    assert db.rows("SELECT * FROM t") == [(1, "x")]
    assert db.value("SELECT to_regnamespace('_dsync') IS NULL")
    with pytest.raises(errors.UnsupportedError, match="no primary key"):
        await sink.side.write_data(sink.request(page_of(db, "SELECT 1"), None, namespace="public.keyless", upsert=True))
