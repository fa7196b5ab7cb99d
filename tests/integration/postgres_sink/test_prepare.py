"""Preparing: what is missing is made in one transaction, what exists is used, refused or removed as asked."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from dsync_postgres.connector import PostgresConnector
from dsync_postgres.options import PostgresOptions
from psycopg import sql

from dsync.sdk import PluginContext, errors, types
from tests.integration.postgres_schema.support import make_roles, nasty
from tests.integration.postgres_sink.conftest import OpenSink
from tests.integration.postgres_sink.support import (
    BINARY,
    TEXT,
    copy_tables,
    describe,
    finish_all,
    prepare_request,
)
from tests.support.databases import Database, DatabaseFactory, PgServers
from tests.support.waiting import wait_for_async

both = pytest.mark.parametrize("pg_pair", [(16, 16), (18, 18)], indirect=True)

TABLE_NAMES = (
    "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
    " WHERE c.relkind IN ('r', 'p', 'v', 'm', 'i', 'S') AND n.nspname !~ '^pg_' AND n.nspname NOT IN"
    " ('information_schema', '_dsync') ORDER BY 1"
)


def shop(uri: str) -> None:
    """A small database with everything that the load has to mind."""
    with psycopg.connect(uri) as connection:
        connection.execute(
            """
            CREATE TABLE customer (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text UNIQUE, note varchar(9));
            CREATE TABLE item (id int PRIMARY KEY, customer int NOT NULL REFERENCES customer, price numeric(8,2),
                               gross numeric GENERATED ALWAYS AS (price * 2) STORED);
            CREATE TABLE log (at timestamptz, line text);
            CREATE UNLOGGED TABLE scratch (i int PRIMARY KEY);
            CREATE INDEX item_price ON item (price);
            CREATE VIEW dear AS SELECT * FROM item WHERE price > 1;
            CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'a trigger fired'; END $$;
            INSERT INTO customer (name) SELECT 'c' || g FROM generate_series(1, 10) g;
            INSERT INTO item SELECT g, 1 + g % 10, g FROM generate_series(1, 100) g;
            INSERT INTO log SELECT now(), 'line' FROM generate_series(1, 50);
            INSERT INTO scratch SELECT generate_series(1, 5);
            CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON item FOR EACH ROW EXECUTE FUNCTION refuse();
            """
        )


def names(database: Database) -> list[str]:
    return [name for (name,) in database.rows(TABLE_NAMES.encode())]  # type: ignore[arg-type]


def counts(database: Database) -> list[tuple[int, ...]]:
    return database.rows(
        "SELECT (SELECT count(*) FROM customer), (SELECT count(*) FROM item), (SELECT count(*) FROM log),"
        " (SELECT count(*) FROM scratch)"
    )


@both
@pytest.mark.parametrize("as_owner", [False, True], ids=["superuser", "owner"])
async def test_a_database_is_made_filled_and_finished(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_sink: OpenSink, as_owner: bool
) -> None:
    """The owner of the sink database needs nothing more: triggers and foreign keys come after the load."""
    source, target = source_db(shop), sink_db()
    sink = open_sink(target, uri=target.owner_uri() if as_owner else None)
    prepared = await sink.side.prepare(prepare_request(await describe(source)))
    assert {load.target: (load.page_type, load.upsert, load.existed) for load in prepared.namespaces} == dict.fromkeys(
        ["public.customer", "public.item", "public.log", "public.scratch"], (BINARY, False, False)
    )
    assert "public.item_price" not in names(target)
    await copy_tables(sink, source, prepared)
    await finish_all(sink, source, prepared)
    assert counts(target) == counts(source)
    assert names(target) == names(source)
    assert target.value("SELECT sum(gross) FROM dear") == source.value("SELECT sum(gross) FROM dear")
    assert target.value("SELECT tgenabled FROM pg_trigger WHERE tgname = 'refuse'") == "O"
    assert target.value("SELECT count(*) FROM pg_constraint WHERE contype = 'f' AND convalidated") == 1


@both
async def test_a_schema_that_breaks_naive_copiers_arrives(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_sink: OpenSink
) -> None:
    source, target = source_db(nasty), sink_db()
    with target.connect() as connection:
        make_roles(connection)
    sink = open_sink(target)
    prepared = await sink.side.prepare(prepare_request(await describe(source)))
    assert [f for f in prepared.findings if f.severity is types.Severity.STOP] == []
    await copy_tables(sink, source, prepared)
    await finish_all(sink, source, prepared)
    assert names(target) == names(source)
    for load in prepared.namespaces:
        query = sql.SQL("SELECT x::text FROM ONLY {} x ORDER BY 1")
        name = sql.Identifier(*_parts(load.target))
        assert target.rows(query.format(name)) == source.rows(query.format(name)), load.target


def _parts(namespace: str) -> tuple[str, ...]:
    from dsync.sdk import namespaces

    return namespaces.split(namespace)


@both
async def test_the_same_call_gives_the_same_answer_and_makes_nothing_twice(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_sink: OpenSink
) -> None:
    source, target = source_db(shop), sink_db()
    sink = open_sink(target)
    request = prepare_request(await describe(source))
    first = await sink.side.prepare(request)
    made = names(target)
    second = await open_sink(target).side.prepare(request)
    assert (second.namespaces, second.steps) == (first.namespaces, first.steps)
    await copy_tables(sink, source, first)
    third = await open_sink(target).side.prepare(request)
    assert third.namespaces == first.namespaces
    assert names(target) == made


async def test_a_crash_in_the_middle_leaves_nothing_and_the_same_call_goes_on(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_sink: OpenSink
) -> None:
    source, target = source_db(shop), sink_db()
    request = prepare_request(await describe(source))
    sink = open_sink(target)
    await sink.open("u")
    with psycopg.connect(target.uri) as holder:
        # The last thing that is written, when everything is made.
        holder.execute("LOCK TABLE _dsync.prepared IN SHARE MODE")
        preparing = asyncio.ensure_future(sink.side.prepare(request))
        (pid,) = await wait_for_async(
            lambda: target.rows("SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
        )
        target.run(f"SELECT pg_terminate_backend({pid[0]})".encode())  # type: ignore[arg-type]
        with pytest.raises(errors.ServerUnavailableError):
            await preparing
        holder.rollback()
    assert names(target) == []
    await sink.side.prepare(request)
    assert "public.customer" in names(target)


@both
async def test_a_dry_run_changes_nothing_and_says_what_would_be_done(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_sink: OpenSink
) -> None:
    source, target = source_db(shop), sink_db()
    sink = open_sink(target)
    request = prepare_request(await describe(source), dry_run=True)
    tried = await sink.side.prepare(request)
    assert names(target) == []
    assert target.value("SELECT to_regnamespace('_dsync') IS NULL")
    assert any("CREATE TABLE public.customer" in statement for statement in tried.ddl)
    done = await sink.side.prepare(replace(request, dry_run=False))
    assert (tried.namespaces, tried.steps, tried.ddl) == (done.namespaces, done.steps, done.ddl)


async def test_a_dry_run_finds_what_the_sink_refuses(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_sink: OpenSink
) -> None:
    """Something that no catalogue query foresees: the statement is tried and taken back."""
    source, target = source_db(shop), sink_db()
    target.run(
        "CREATE FUNCTION no() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not today'; END $$",
        "CREATE EVENT TRIGGER no ON ddl_command_start WHEN TAG IN ('CREATE VIEW') EXECUTE FUNCTION no()",
    )
    tried = await open_sink(target).side.prepare(prepare_request(await describe(source), dry_run=True))
    assert [(f.code, f.object) for f in tried.findings if f.severity is types.Severity.STOP] == [
        ("sink-refuses", "VIEW public.dear")
    ]


# ------------------------------------------------------------------ what exists


@both
@pytest.mark.parametrize("policy", [types.OnExisting.ERROR, types.OnExisting.RESUME])
async def test_rows_that_are_not_ours_stop_everything(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_sink: OpenSink, policy: types.OnExisting
) -> None:
    source, target = source_db(shop), sink_db()
    target.run("CREATE TABLE log (at timestamptz, line text)", "INSERT INTO log VALUES (now(), 'theirs')")
    target.run("CREATE TABLE item (id int)", "INSERT INTO item VALUES (1)")
    before = names(target)
    request = prepare_request(await describe(source), on_existing=policy)
    for dry_run in (True, False):
        with pytest.raises(errors.SinkNotEmptyError, match=r"2 table\(s\).*public\.item, public\.log"):
            await open_sink(target).side.prepare(replace(request, dry_run=dry_run))
    assert names(target) == before
    assert target.value("SELECT count(*) FROM log") == 1


@both
async def test_an_empty_table_of_the_same_shape_is_used(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_sink: OpenSink
) -> None:
    source, target = source_db(shop), sink_db()
    target.run("CREATE TABLE log (line text, at timestamptz, extra int DEFAULT 7)")
    sink = open_sink(target)
    prepared = await sink.side.prepare(prepare_request(await describe(source)))
    (load,) = [load for load in prepared.namespaces if load.target == "public.log"]
    assert (load.existed, load.upsert, load.columns) == (True, False, ("at", "line"))
    await copy_tables(sink, source, prepared)
    await finish_all(sink, source, prepared)
    assert target.value("SELECT count(*) FROM log WHERE line = 'line' AND extra = 7") == 50


async def test_an_empty_table_of_another_shape_stops_and_drop_makes_it_anew(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_sink: OpenSink
) -> None:
    source, target = source_db(shop), sink_db()
    target.run("CREATE TABLE log (at timestamptz)")
    request = prepare_request(await describe(source))
    tried = await open_sink(target).side.prepare(replace(request, dry_run=True))
    assert [f.code for f in tried.findings if f.severity is types.Severity.STOP] == ["column-missing"]
    with pytest.raises(errors.PermanentError, match="no column line"):
        await open_sink(target).side.prepare(request)
    assert names(target) == ["public.log"]
    await open_sink(target).side.prepare(replace(request, on_existing=types.OnExisting.DROP))
    assert target.value("SELECT count(line) FROM log") == 0


@both
async def test_append_writes_by_key_and_keeps_what_is_there(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_sink: OpenSink
) -> None:
    """Rows with a key that is there already get the source's values; no table is created again, nothing fires."""
    source, target = source_db(shop), sink_db(shop)
    target.run(
        "UPDATE customer SET name = 'x' || id",
        "INSERT INTO customer OVERRIDING SYSTEM VALUE VALUES (99, 'theirs', '')",
        "DELETE FROM scratch",
        "DROP TABLE log",
    )
    sink = open_sink(target)
    request = prepare_request(await describe(source), on_existing=types.OnExisting.APPEND)
    prepared = await sink.side.prepare(request)
    assert {load.target: load.upsert for load in prepared.namespaces} == {
        "public.customer": True,
        "public.item": True,
        "public.log": False,
        "public.scratch": False,
    }
    await copy_tables(sink, source, prepared)
    await finish_all(sink, source, prepared)
    assert counts(target) == [(11, 100, 50, 5)]
    assert target.value("SELECT count(*) FROM customer WHERE name ~ '^c'") == 10
    assert target.value("SELECT last_value FROM customer_id_seq") >= 10


async def test_append_to_a_table_without_key_is_refused(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_sink: OpenSink
) -> None:
    source, target = source_db(shop), sink_db(shop)
    request = prepare_request(await describe(source), on_existing=types.OnExisting.APPEND)
    with pytest.raises(errors.PermanentError, match=r"public\.log: .*no primary key.*; add one"):
        await open_sink(target).side.prepare(request)


@both
async def test_truncate_empties_what_has_rows(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_sink: OpenSink
) -> None:
    source, target = source_db(shop), sink_db(shop)
    target.run("INSERT INTO log VALUES (now(), 'theirs')")
    sink = open_sink(target)
    request = prepare_request(await describe(source), on_existing=types.OnExisting.TRUNCATE)
    await sink.side.prepare(replace(request, dry_run=True))
    assert target.value("SELECT count(*) FROM log") == 51
    prepared = await sink.side.prepare(request)
    assert counts(target) == [(0, 0, 0, 0)]
    await copy_tables(sink, source, prepared)
    await finish_all(sink, source, prepared)
    assert counts(target) == counts(source)


async def test_truncate_stops_at_a_foreign_key_from_outside(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_sink: OpenSink
) -> None:
    source, target = source_db(shop), sink_db(shop)
    target.run("CREATE TABLE theirs (customer int REFERENCES customer)")
    request = prepare_request(await describe(source), on_existing=types.OnExisting.TRUNCATE)
    with pytest.raises(errors.RequestError, match=r"public\.theirs"):
        await open_sink(target).side.prepare(request)
    assert counts(target) == counts(source)


@both
async def test_drop_makes_tables_and_the_views_on_them_anew(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_sink: OpenSink
) -> None:
    source, target = source_db(shop), sink_db(shop)
    target.run("ALTER TABLE item ADD extra int", "ALTER TABLE log DROP COLUMN line")
    sink = open_sink(target)
    request = prepare_request(await describe(source), on_existing=types.OnExisting.DROP)
    prepared = await sink.side.prepare(request)
    await copy_tables(sink, source, prepared)
    await finish_all(sink, source, prepared)
    assert counts(target) == counts(source)
    assert names(target) == names(source)


async def test_drop_stops_at_a_view_from_outside(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_sink: OpenSink
) -> None:
    source, target = source_db(shop), sink_db(shop)
    target.run("CREATE VIEW theirs AS SELECT * FROM dear")
    request = prepare_request(await describe(source), on_existing=types.OnExisting.DROP)
    with pytest.raises(errors.RequestError, match=r"public\.theirs of the sink"):
        await open_sink(target).side.prepare(request)
    assert counts(target) == counts(source)


async def test_drop_takes_a_partitioned_table_as_a_whole(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_sink: OpenSink
) -> None:
    source, target = source_db(parted), sink_db(parted)
    sink = open_sink(target)
    request = prepare_request(await describe(source), on_existing=types.OnExisting.DROP)
    prepared = await sink.side.prepare(request)
    assert target.value("SELECT count(*) FROM event") == 0
    await copy_tables(sink, source, prepared)
    await finish_all(sink, source, prepared)
    assert names(target) == names(source)
    assert target.value("SELECT sum(total) FROM sums") == source.value("SELECT sum(total) FROM sums")


def parted(uri: str) -> None:
    """A tree of partitions with views and materialised views on top of one another."""
    with psycopg.connect(uri) as connection:
        connection.execute(
            """
            CREATE TABLE event (id int, kind text) PARTITION BY LIST (kind);
            CREATE TABLE event_a PARTITION OF event FOR VALUES IN ('a') PARTITION BY RANGE (id);
            CREATE TABLE event_a_1 PARTITION OF event_a FOR VALUES FROM (0) TO (100);
            CREATE TABLE event_b PARTITION OF event FOR VALUES IN ('b');
            INSERT INTO event SELECT g, CASE WHEN g % 2 = 0 THEN 'a' ELSE 'b' END FROM generate_series(0, 99) g;
            CREATE VIEW base AS SELECT * FROM event;
            CREATE MATERIALIZED VIEW counted AS SELECT kind, count(*) AS n FROM base GROUP BY kind;
            CREATE VIEW sums AS SELECT sum(n) AS total FROM counted;
            """
        )


async def test_drop_stops_at_a_function_that_needs_the_table(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_sink: OpenSink
) -> None:
    source, target = source_db(shop), sink_db(shop)
    target.run("CREATE FUNCTION theirs(log) RETURNS text LANGUAGE sql RETURN 'x'")
    request = prepare_request(await describe(source), on_existing=types.OnExisting.DROP)
    for dry_run in (True, False):
        with pytest.raises(errors.RequestError, match=r"function public\.theirs\(public\.log\)"):
            await open_sink(target).side.prepare(replace(request, dry_run=dry_run))
    assert counts(target) == counts(source)


# ------------------------------------------------------------------ without creating, and under other names


@both
async def test_without_schema_tables_must_exist_and_may_have_another_name(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_sink: OpenSink
) -> None:
    source, target = source_db(shop), sink_db()
    description = replace(await describe(source), definition=b"")
    request = prepare_request(description, "public.log", to={"public.log": "public.Diary"}, create=False)
    with pytest.raises(errors.RequestError, match=r'public."?Diary'):
        await open_sink(target).side.prepare(request)
    target.run('CREATE TABLE "Diary" (at timestamptz, line text)')
    sink = open_sink(target)
    prepared = await sink.side.prepare(request)
    await copy_tables(sink, source, prepared)
    await finish_all(sink, source, prepared)
    assert target.value('SELECT count(*) FROM "Diary"') == 50
    assert [step.kind for step in prepared.steps] == ["analyze"]
    assert target.value("SELECT reltuples FROM pg_class WHERE relname = 'Diary'") == 50


async def test_a_new_name_is_not_created(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_sink: OpenSink
) -> None:
    source, target = source_db(shop), sink_db()
    description = await describe(source)
    request = prepare_request(description, "public.log", "public.customer", to={"public.log": "public.diary"})
    with pytest.raises(errors.RequestError, match="a table that changes its name has to exist"):
        await open_sink(target).side.prepare(request)
    target.run("CREATE TABLE diary (at timestamptz, line text)")
    sink = open_sink(target)
    prepared = await sink.side.prepare(request)
    assert {load.target: load.existed for load in prepared.namespaces} == {
        "public.diary": True,
        "public.customer": False,
    }
    await copy_tables(sink, source, prepared)
    await finish_all(sink, source, prepared)
    assert "public.log" not in names(target)
    assert target.value("SELECT count(*) FROM diary") == 50


async def test_a_view_in_the_place_of_a_table_is_refused(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_sink: OpenSink
) -> None:
    source, target = source_db(shop), sink_db()
    target.run("CREATE VIEW log AS SELECT 1")
    for create in (True, False):
        with pytest.raises(errors.RequestError, match=r"public\.log: at the sink it is no table"):
            await open_sink(target).side.prepare(prepare_request(await describe(source), "public.log", create=create))


async def test_types_decide_how_rows_travel_and_what_stops(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_sink: OpenSink
) -> None:
    """Binary never converts: bigint would go into timestamp without a word."""
    source, target = source_db(), sink_db()
    source.run("CREATE TABLE a (x int, y numeric(14,4))", "CREATE TABLE b (x int, y regclass)")
    source.run("CREATE TABLE c (x bigint)", "INSERT INTO a VALUES (7, 1.2345)", "INSERT INTO b VALUES (1, 'pg_class')")
    target.run("CREATE TABLE a (x bigint, y numeric)", "CREATE TABLE c (x timestamp)")
    description = await describe(source)
    sink = open_sink(target)
    prepared = await sink.side.prepare(prepare_request(description, "public.a", "public.b"))
    loads = {load.target: load for load in prepared.namespaces}
    assert loads["public.a"].page_type is loads["public.b"].page_type is TEXT
    assert "integer at the source and bigint at the sink" in loads["public.a"].reason
    assert "regclass" in loads["public.b"].reason
    await copy_tables(sink, source, prepared)
    assert target.rows("SELECT * FROM a") == [(7, source.value("SELECT y FROM a"))]
    assert target.value("SELECT y::text FROM b") == "pg_class"

    request = replace(prepare_request(description, "public.c"), run="r2")
    with pytest.raises(errors.PermanentError, match="bigint at the source and timestamp without time zone"):
        await open_sink(target).side.prepare(request)
    allowed = await open_sink(target).side.prepare(replace(request, allow_lossy=True))
    assert [f.severity for f in allowed.findings if f.code == "lossy-type"] == [types.Severity.WARNING]


async def test_only_offered_page_types_are_used(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_sink: OpenSink
) -> None:
    source, target = source_db(shop), sink_db()
    request = prepare_request(await describe(source), "public.log", page_types=(types.PageType.BSON,), dry_run=True)
    (load,) = (await open_sink(target).side.prepare(request)).namespaces
    assert load.page_type is types.PageType.BSON
    request = replace(request, page_types=(TEXT, types.PageType.BSON))
    (load,) = (await open_sink(target).side.prepare(request)).namespaces
    assert load.page_type is TEXT


# ------------------------------------------------------------------ privileges


async def test_what_the_role_may_not_do_is_found_before_anything_is_done(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_sink: OpenSink
) -> None:
    source, target = source_db(shop), sink_db()
    target.run("CREATE TABLE log (at timestamptz, line text)")
    request = prepare_request(await describe(source), "public.log", dry_run=True)
    tried = await open_sink(target, uri=target.reader_uri()).side.prepare(request)
    stops = {f.code: f for f in tried.findings if f.severity is types.Severity.STOP}
    assert set(stops) == {"no-ledger", "no-insert-privilege"}
    assert "CREATE SCHEMA _dsync AUTHORIZATION" in stops["no-ledger"].remedy


async def test_row_security_that_judges_our_rows_stops(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_sink: OpenSink
) -> None:
    source, target = source_db(shop), sink_db()
    uri = target.owner_uri()
    with psycopg.connect(uri) as connection:
        connection.execute("CREATE TABLE log (at timestamptz, line text)")
        connection.execute("ALTER TABLE log ENABLE ROW LEVEL SECURITY")
        connection.execute("ALTER TABLE log FORCE ROW LEVEL SECURITY")
    request = prepare_request(await describe(source), "public.log", dry_run=True)
    tried = await open_sink(target, uri=uri).side.prepare(request)
    assert [f.code for f in tried.findings if f.severity is types.Severity.STOP] == ["row-security"]
    assert not (await open_sink(target).side.prepare(request)).findings


# ------------------------------------------------------------------ the same database


@pytest.mark.parametrize("pg_pair", [(15, 15), (18, 18)], indirect=True)
@pytest.mark.parametrize("policy", [types.OnExisting.ERROR, types.OnExisting.TRUNCATE, types.OnExisting.DROP])
async def test_a_database_is_not_copied_into_itself(
    source_db: DatabaseFactory, open_sink: OpenSink, tmp_path: Path, policy: types.OnExisting
) -> None:
    """Whoever connects to it, and whatever policy would remove its rows; a dry run finds it too."""
    source = source_db(shop)
    connector = PostgresConnector(source.uri, PostgresOptions(), PluginContext(private_directory=tmp_path))
    sink = open_sink(source, uri=source.owner_uri())
    await connector.open_session(types.SessionRequest(flow=sink.flow, run=sink.run, role=types.Role.SOURCE))
    try:
        description = await connector.describe(types.DescribeRequest())
        await connector.open_plan([item.namespace for item in description.namespaces if not item.rowless])
        for create, dry_run in ((True, True), (True, False), (False, False)):
            request = prepare_request(description, create=create, dry_run=dry_run, on_existing=policy)
            with pytest.raises(errors.RequestError, match="cannot be copied into itself"):
                await sink.side.prepare(request)
    finally:
        await connector.close()
    assert counts(source) == [(10, 100, 50, 5)]


async def test_another_database_of_the_same_server_is_fine(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_sink: OpenSink, tmp_path: Path
) -> None:
    source, target = source_db(shop), sink_db()
    connector = PostgresConnector(source.uri, PostgresOptions(), PluginContext(private_directory=tmp_path))
    sink = open_sink(target)
    await connector.open_session(types.SessionRequest(flow=sink.flow, run=sink.run, role=types.Role.SOURCE))
    try:
        description = await connector.describe(types.DescribeRequest(definition_for="postgres"))
        await connector.open_plan([item.namespace for item in description.namespaces if not item.rowless])
        await sink.side.prepare(prepare_request(description))
    finally:
        await connector.close()
    assert "public.customer" in names(target)


async def test_a_schema_with_more_objects_than_the_server_has_locks_is_found_out(
    source_db: DatabaseFactory, own_servers: PgServers, open_sink: OpenSink
) -> None:
    """Before anything is made, and with the setting to raise."""
    source = source_db()
    with source.connect() as connection:
        for number in range(400):
            connection.execute(f"CREATE TABLE t{number} (id serial PRIMARY KEY, note text UNIQUE)".encode())
    small = {"max_locks_per_transaction": "10", "max_connections": "20", "max_wal_senders": "2"}
    target = DatabaseFactory(own_servers.own(18, settings=small), prefix="small")()
    request = prepare_request(await describe(source))
    tried = await open_sink(target).side.prepare(replace(request, dry_run=True))
    (stop,) = [finding for finding in tried.findings if finding.severity is types.Severity.STOP]
    assert (stop.code, stop.object) == ("too-many-locks", "max_locks_per_transaction")
    with pytest.raises(errors.PermanentError, match="max_locks_per_transaction = 10"):
        await open_sink(target).side.prepare(request)
    assert names(target) == []
