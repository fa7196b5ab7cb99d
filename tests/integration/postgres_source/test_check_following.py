"""What `doctor` says about a source that is to be followed: each hindrance, and what to run against it."""

from typing import LiteralString

import pytest
from dsync_postgres.options import PostgresOptions
from dsync_postgres.source import check_following
from dsync_postgres.stream.begin import Names
from psycopg import sql

from dsync.sdk import types
from tests.integration.postgres_source.conftest import OpenSource
from tests.integration.postgres_source.following import follow, new_flow, publications, slots
from tests.integration.postgres_source.pooling import MiniPooler
from tests.integration.postgres_source.support import Source
from tests.support.databases import Database, DatabaseFactory, PgServers

VERSIONS = pytest.mark.parametrize("pg", [15, 16, 18], indirect=True)
STOP, WARNING, INFO = types.Severity.STOP, types.Severity.WARNING, types.Severity.INFO


async def findings(source: Source, *namespaces: str) -> dict[tuple[str, str], types.Finding]:
    """What is found because of following, by code and object."""

    async def look(*, updates: bool) -> dict[tuple[str, str], types.Finding]:
        found = await source.connector.check(
            types.CheckRequest(
                role=types.Role.SOURCE,
                namespaces=namespaces,
                peer_db_type="postgres",
                peer_version="18.1",
                updates=updates,
            )
        )
        return {(finding.code, finding.object): finding for finding in found}

    without = await look(updates=False)
    found = {key: finding for key, finding in (await look(updates=True)).items() if key not in without}
    assert all(finding.remedy for finding in found.values() if finding.severity is STOP), "what stops says what to do"
    return found


def stops(found: dict[tuple[str, str], types.Finding]) -> set[tuple[str, str]]:
    return {key for key, finding in found.items() if finding.severity is STOP}


@VERSIONS
async def test_a_database_that_can_be_followed_stops_nothing(
    database: DatabaseFactory, open_source: OpenSource
) -> None:
    """Nothing is left behind by looking, and a flow that follows already finds the same."""
    one = database()
    one.run("CREATE TABLE t (id int PRIMARY KEY)")
    source = await open_source(one, flow=new_flow())
    found = await findings(source)
    assert {(code, finding.severity) for (code, _), finding in found.items()} == {("slot-keeps-log", INFO)}
    assert (slots(one), publications(one)) == ([], {})
    await follow(source, "public.t")
    assert not stops(await findings(source))


async def test_a_table_without_replica_identity_is_named_with_what_to_run(
    database: DatabaseFactory, open_source: OpenSource
) -> None:
    """What is said helps, for every table: a unique index that fits is used."""
    one = database()
    one.run(
        'CREATE TABLE "Odd ""name" (id int NOT NULL)',
        'CREATE UNIQUE INDEX "odd index" ON "Odd ""name" (id)',
        "CREATE TABLE bare (id int)",
        "CREATE TABLE nothing (id int PRIMARY KEY)",
        "ALTER TABLE nothing REPLICA IDENTITY NOTHING",
        "CREATE TABLE whole (id int)",
        "ALTER TABLE whole REPLICA IDENTITY FULL",
        "CREATE TABLE good (id int PRIMARY KEY)",
        "CREATE TABLE late (id int PRIMARY KEY DEFERRABLE)",
        "CREATE TABLE later (id int PRIMARY KEY DEFERRABLE)",
        "ALTER TABLE later REPLICA IDENTITY FULL",
    )
    source = await open_source(one, flow=new_flow())
    found = await findings(source)
    assert "DEFERRABLE" in found["no-replica-identity", "public.late"].message
    assert found["followed-without-key", "public.later"].severity is INFO
    one.run("DROP TABLE late, later")

    found = await findings(source)
    assert stops(found) == {
        ("no-replica-identity", 'public."Odd ""name"'),
        ("no-replica-identity", "public.bare"),
        ("no-replica-identity", "public.nothing"),
    }
    assert found["followed-without-key", "public.whole"].severity is INFO
    remedy = found["no-replica-identity", 'public."Odd ""name"'].remedy
    one.run(sql.SQL(remedy), "ALTER TABLE nothing REPLICA IDENTITY DEFAULT")  # type: ignore[arg-type]
    assert "REPLICA IDENTITY FULL" in found["no-replica-identity", "public.bare"].remedy
    assert stops(await findings(source)) == {("no-replica-identity", "public.bare")}
    assert not stops(await findings(source, "public.good"))


async def test_a_primary_key_that_is_not_the_replica_identity_is_one_to_go_back_to(
    database: DatabaseFactory, open_source: OpenSource
) -> None:
    """REPLICA IDENTITY NOTHING on a table with a key: the remedy is one statement that can be run as it is."""
    one = database()
    one.run("CREATE TABLE t (id int PRIMARY KEY)", "ALTER TABLE t REPLICA IDENTITY NOTHING")
    source = await open_source(one, flow=new_flow())
    remedy = (await findings(source))["no-replica-identity", "public.t"].remedy
    one.run(sql.SQL(remedy))  # type: ignore[arg-type]
    assert not stops(await findings(source))


async def test_what_is_copied_and_never_followed_is_named(database: DatabaseFactory, open_source: OpenSource) -> None:
    """Table by table, and it stops nothing; views and parents have nothing of their own."""
    one = database()
    one.run(
        "CREATE TABLE t (id int PRIMARY KEY)",
        "CREATE UNLOGGED TABLE u (id int)",
        "CREATE MATERIALIZED VIEW m AS SELECT 1 AS i",
        "CREATE VIEW v AS SELECT 1 AS i",
        "CREATE TABLE p (id serial) PARTITION BY RANGE (id)",
        "SELECT lo_from_bytea(0, '\\x01')",
        "CREATE FOREIGN DATA WRAPPER elsewhere",
        "CREATE SERVER other FOREIGN DATA WRAPPER elsewhere",
        "CREATE FOREIGN TABLE f (line text) SERVER other",
    )
    found = await findings(await open_source(one, flow=new_flow()))
    assert {name for code, name in found if code == "copied-only"} == {
        "public.u",
        "public.m",
        "public.f",
        one.name,
        "pg_catalog.pg_largeobject",
    }
    assert found["copied-only", one.name].message.startswith("sequences are set once")
    assert found["partitions-by-themselves", "public.p"].severity is INFO
    assert not stops(found)


async def test_where_there_is_nothing_to_follow_that_is_said(
    database: DatabaseFactory, open_source: OpenSource
) -> None:
    """As planning would refuse it."""
    one = database()
    one.run("CREATE UNLOGGED TABLE u (id int PRIMARY KEY)", "CREATE TABLE t (id int PRIMARY KEY)")
    source = await open_source(one, flow=new_flow())
    assert stops(await findings(source, "public.u")) == {("nothing-to-follow", one.name)}
    assert not stops(await findings(source, "public.u", "public.t"))


async def test_a_role_without_the_privileges_is_told_which(database: DatabaseFactory, open_source: OpenSource) -> None:
    """What each of them takes; with an administrator's slot and publication replication alone is enough."""
    one = database()
    one.run("CREATE TABLE t (id int PRIMARY KEY)")
    reader = await open_source(one, uri=one.reader_uri(), flow=new_flow())
    assert stops(await findings(reader)) == {
        ("no-replication-privilege", f"reader_{one.name}"),
        ("no-publication-privilege", one.name),
        ("not-owner", "public.t"),
    }
    given = f"adm_{new_flow()}"
    one.run(sql.SQL("CREATE PUBLICATION {} FOR TABLE t").format(sql.Identifier(given)))
    one.rows("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [given])
    one.run(sql.SQL("ALTER ROLE {} REPLICATION").format(sql.Identifier(f"reader_{one.name}")))
    helped = await open_source(
        one,
        uri=one.server.uri(one.name, user=f"reader_{one.name}"),
        flow=reader.flow,
        options=PostgresOptions(publication=given, slot=given),
    )
    assert not stops(await findings(helped))
    assert (await follow(helped, "public.t")).overlaps


async def test_a_given_slot_and_publication_are_judged(database: DatabaseFactory, open_source: OpenSource) -> None:
    """Missing, incomplete, of another kind: each with the statement that helps."""
    one = database()
    one.run("CREATE TABLE t (id int PRIMARY KEY)", "CREATE TABLE u (id int PRIMARY KEY)")
    given = f"adm_{new_flow()}"
    source = await open_source(one, flow=new_flow(), options=PostgresOptions(publication=given, slot=given))
    found = await findings(source)
    assert stops(found) == {("slot-missing", given), ("publication-missing", given)}
    one.run(sql.SQL(found["publication-missing", given].remedy))  # type: ignore[arg-type]
    one.run(sql.SQL("ALTER PUBLICATION {} DROP TABLE u").format(sql.Identifier(given)))
    one.rows("SELECT pg_create_physical_replication_slot(%s)", [given])
    found = await findings(source)
    assert stops(found) == {("slot-unfit", given), ("publication-incomplete", given)}
    assert "public.u" in found["publication-incomplete", given].message
    one.run(sql.SQL(found["publication-incomplete", given].remedy))  # type: ignore[arg-type]
    one.rows("SELECT pg_drop_replication_slot(%s)", [given])
    one.rows("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [given])
    assert not stops(await findings(source))


async def test_who_would_keep_a_slot_waiting_is_named(
    database: DatabaseFactory, open_source: OpenSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An old transaction that has written; a young one is nobody's business."""
    one = database()
    one.run("CREATE TABLE t (id int PRIMARY KEY)")
    source = await open_source(one, flow=new_flow())
    with one.connect() as writer:
        writer.execute("BEGIN")
        writer.execute("INSERT INTO t VALUES (1)")
        assert ("slot-would-wait", one.name) not in await findings(source)
        monkeypatch.setattr(check_following, "_OLD_TRANSACTION_S", 0.0)
        found, pid = await findings(source), writer.info.backend_pid
    assert f"pid {pid}" in found["slot-would-wait", one.name].message
    assert found["slot-would-wait", one.name].severity is WARNING


async def test_a_filter_is_not_followed(database: DatabaseFactory, open_source: OpenSource) -> None:
    """Said before anything moves."""
    one = database()
    one.run("CREATE TABLE t (id int PRIMARY KEY)")
    source = await open_source(one, flow=new_flow())
    await source.connector.open_session(
        types.SessionRequest(flow=source.flow, role=types.Role.SOURCE, row_filters={"public.t": "id > 3"})
    )
    assert stops(await findings(source)) == {("filter-not-followed", "public.t")}


SERVERS: tuple[tuple[dict[str, str], str], ...] = (
    ({"wal_level": "replica"}, "wal-level"),
    ({"max_replication_slots": "0"}, "no-free-slot"),
    ({"max_wal_senders": "0"}, "no-free-sender"),
)


@pytest.mark.parametrize(("settings", "code"), SERVERS)
async def test_a_server_that_is_not_made_for_it_is_told_apart(
    own_servers: PgServers, open_source: OpenSource, settings: dict[str, str], code: LiteralString
) -> None:
    """Its settings, each with the one to change."""
    server = own_servers.own(18, settings=settings)
    one = Database(server=server, name="postgres")
    one.run("CREATE TABLE t (id int PRIMARY KEY)")
    found = await findings(await open_source(one, flow=new_flow()))
    assert {code for code, _ in stops(found)} == {code}
    (name,) = settings
    assert name in next(finding.remedy for key, finding in found.items() if key[0] == code)


async def test_limits_that_lose_a_slot_are_said(own_servers: PgServers, open_source: OpenSource) -> None:
    """How much log, and how long without a reader; and a slot that is lost already."""
    server = own_servers.own(
        18,
        settings={"max_slot_wal_keep_size": "1MB", "min_wal_size": "32MB", "idle_replication_slot_timeout": "1d"},
    )
    one = Database(server=server, name="postgres")
    one.run("CREATE TABLE t (id int PRIMARY KEY)")
    source = await open_source(one, flow=new_flow())
    found = await findings(source)
    assert "1MB" in found["slot-keeps-log", "postgres"].message
    assert found["idle-slot-timeout", "postgres"].severity is WARNING
    plan = await follow(source, "public.t")
    for _ in range(3):
        one.run(
            "SELECT pg_logical_emit_message(false, 'x', repeat('x', 20000000))", "SELECT pg_switch_wal()", "CHECKPOINT"
        )
    name = Names.of(source.flow).slot
    assert (await findings(source))["slot-lost", name].severity is WARNING

    again = await follow(source, "public.t")

    assert not again.overlaps
    assert again.position > plan.position
    assert ("slot-lost", name) not in await findings(source)


async def test_a_pooler_that_takes_no_replication_is_in_the_way(
    own_servers: PgServers, open_source: OpenSource
) -> None:
    """Also one that keeps a backend for each client, and so is good enough for a copy."""
    server = own_servers.own(16, auth="trust")
    one = Database(server=server, name="postgres")
    one.run("CREATE TABLE t (id int PRIMARY KEY)")
    async with MiniPooler(server.uri(), by_transaction=False, takes_replication=False) as pooler:
        source = await open_source(one, uri=pooler.uri, flow=new_flow())
        found = await findings(source)
        assert stops(found) == {("no-replication-connection", "connection")}
        await source.connector.close()
