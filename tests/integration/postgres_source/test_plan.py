"""Plans: a snapshot that is held without locks, and partitions that cover every row once."""

import asyncio
import os

import pytest
from dsync_postgres.options import PostgresOptions
from psycopg import sql

from dsync.sdk import errors, types
from tests.integration.postgres_source.conftest import OpenSource
from tests.integration.postgres_source.support import MIB, blocks_of, table_lines
from tests.support.databases import DatabaseFactory
from tests.support.waiting import wait_for_async

VERSIONS = pytest.mark.parametrize("pg", [15, 16, 18], indirect=True)


@VERSIONS
async def test_a_plan_is_read_as_it_was_when_it_was_made(database: DatabaseFactory, open_source: OpenSource) -> None:
    """All pages of all tables show one moment, whatever is written meanwhile."""
    made = database()
    made.run(
        "CREATE TABLE a AS SELECT i, repeat('x', 100) AS filler FROM generate_series(1, 20000) i",
        "CREATE TABLE b AS SELECT i FROM generate_series(1, 300) i",
        "CREATE TABLE empty (i int)",
    )
    before = table_lines(made, sql.SQL("SELECT i::text, filler FROM a UNION ALL SELECT i::text, 'b' FROM b"))
    source = await open_source(made, options=PostgresOptions(partition_bytes=MIB))
    plan = await source.plan("public.a", "public.b", "public.empty")

    made.run(
        "DELETE FROM a WHERE i % 7 = 0",
        "UPDATE a SET filler = 'changed' WHERE i % 5 = 0",
        "INSERT INTO a SELECT -i, 'new' FROM generate_series(1, 20000) i",
        "DELETE FROM b",
        "INSERT INTO empty VALUES (1)",
    )

    found = await source.lines(plan)
    assert found == {line if not line.endswith(b"\tb") else line[:-2]: count for line, count in before.items()}
    assert len([p for p in plan.partitions if p.namespace == "public.a"]) == 3


async def test_partitions_follow_one_another_and_the_last_is_open(
    database: DatabaseFactory, open_source: OpenSource
) -> None:
    """Every block is in one partition; rows beyond the measured end are somebody's too."""
    made = database()
    made.run("CREATE TABLE t AS SELECT i, repeat('x', 500) AS filler FROM generate_series(1, 20000) i")
    source = await open_source(made, options=PostgresOptions(partition_bytes=2 * MIB))

    plan = await source.plan("public.t")

    ranges = [blocks_of(partition) for partition in plan.partitions]
    assert len(ranges) > 3
    assert ranges[0][0] == 0
    assert ranges[-1][1] is None
    assert [end for _, end in ranges[:-1]] == [start for start, _ in ranges[1:]]


async def test_sizes_are_measured_not_remembered(database: DatabaseFactory, open_source: OpenSource) -> None:
    """The catalogue's relpages is as of the last VACUUM: a table that has grown since is cut all the same."""
    made = database()
    made.run(
        "CREATE TABLE t (i int, filler text) WITH (autovacuum_enabled = off)",
        "ANALYZE t",
        "INSERT INTO t SELECT i, repeat('x', 500) FROM generate_series(1, 20000) i",
    )
    assert made.value("SELECT relpages FROM pg_class WHERE oid = 't'::regclass") == 0
    source = await open_source(made, options=PostgresOptions(partition_bytes=2 * MIB))

    assert len((await source.plan("public.t")).partitions) > 3


async def test_neither_the_holder_nor_a_finished_page_locks_a_table(
    database: DatabaseFactory, open_source: OpenSource
) -> None:
    """An ALTER TABLE queued behind a lock of ours would stop the application for as long as the copy takes."""
    made = database()
    made.run("CREATE TABLE t AS SELECT i FROM generate_series(1, 1000) i", "CREATE TABLE u (i int)")
    source = await open_source(made)
    plan = await source.plan("public.t", "public.u")
    await source.page(plan.partitions[0])
    await source.connector.describe(types.DescribeRequest())
    await source.connector.count_rows("public.t")

    locks = made.rows(
        "SELECT l.locktype, l.relation::regclass::text FROM pg_locks l JOIN pg_stat_activity a USING (pid)"
        " WHERE a.application_name LIKE 'dsync/%' AND l.locktype = 'relation'"
    )
    assert locks == []
    holders = made.value("SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'dsync/%/source-holder-%'")
    assert holders == 1


async def test_what_has_no_rows_of_its_own_has_no_partitions(
    database: DatabaseFactory, open_source: OpenSource
) -> None:
    """A partitioned parent's rows are its leaves', an inherited table's parent has only its own."""
    made = database()
    made.run(
        "CREATE TABLE p (i int) PARTITION BY RANGE (i)",
        "CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10)",
        "INSERT INTO p VALUES (1), (2)",
        "CREATE TABLE parent (i int)",
        "CREATE TABLE child () INHERITS (parent)",
        "INSERT INTO parent VALUES (1)",
        "INSERT INTO child VALUES (2), (3)",
        "CREATE VIEW v AS TABLE p",
        "CREATE MATERIALIZED VIEW m AS TABLE p",
    )
    source = await open_source(made)

    plan = await source.plan(*(f"public.{name}" for name in ("p", "p1", "parent", "child", "v", "m")))

    assert [partition.namespace for partition in plan.partitions] == ["public.p1", "public.parent", "public.child"]
    assert sum((await source.lines(plan)).values()) == 5
    assert await source.connector.count_rows("public.p") == 2
    assert await source.connector.count_rows("public.parent") == 1


@pytest.mark.parametrize("name", ['Weird "quoted"', "a.b", "select", "ünïcode ☃ 😀", "it's; --", "50% {x}", " "])
async def test_hostile_names_are_read_like_any_other(
    database: DatabaseFactory, open_source: OpenSource, name: str
) -> None:
    """Schema, table and column carry it."""
    made = database()
    identifier = sql.Identifier(name)
    made.run(
        sql.SQL("CREATE SCHEMA {}").format(identifier),
        sql.SQL("CREATE TABLE {}.{} ({} int, plain text)").format(identifier, identifier, identifier),
        sql.SQL("INSERT INTO {}.{} VALUES (1, 'x'), (2, 'y')").format(identifier, identifier),
    )
    source = await open_source(made)
    description = await source.connector.describe(types.DescribeRequest())

    plan = await source.plan(*(item.namespace for item in description.namespaces))

    assert await source.lines(plan) == {b"1\tx": 1, b"2\ty": 1}
    page = await source.page(plan.partitions[0], columns=("plain", name))
    assert page.packed == b"x\t1\ny\t2\n"


async def test_tables_without_columns_keep_their_rows(database: DatabaseFactory, open_source: OpenSource) -> None:
    """A row may be all there is to a row."""
    made = database()
    made.run("CREATE TABLE bare ()", "INSERT INTO bare DEFAULT VALUES", "INSERT INTO bare DEFAULT VALUES")
    source = await open_source(made)

    plan = await source.plan("public.bare")

    assert await source.lines(plan) == {b"": 2}


async def test_computed_columns_are_not_read(database: DatabaseFactory, open_source: OpenSource) -> None:
    """The sink computes them; dropped ones leave no gap."""
    made = database()
    made.run(
        "CREATE TABLE t (a int, gone int, b int GENERATED ALWAYS AS (a * 2) STORED, c int)",
        "ALTER TABLE t DROP COLUMN gone",
        "INSERT INTO t (a, c) VALUES (1, 3)",
    )
    source = await open_source(made)

    plan = await source.plan("public.t")

    assert await source.lines(plan) == {b"1\t3": 1}
    with pytest.raises(errors.RequestError, match="'b'"):
        await source.page(plan.partitions[0], columns=("a", "b"))


async def test_a_table_that_is_not_there_is_named(database: DatabaseFactory, open_source: OpenSource) -> None:
    """Planning fails before anything moves, and holds nothing."""
    made = database()
    source = await open_source(made)

    with pytest.raises(errors.MissingObjectError, match=r"public\.absent"):
        await source.plan("public.absent")

    # The server takes a moment to notice.
    holders = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE '%%holder%%' AND datname = %s"
    await wait_for_async(lambda: made.value(holders, [made.name]) == 0, what="no holder")


async def test_another_plan_lets_go_of_the_one_before(database: DatabaseFactory, open_source: OpenSource) -> None:
    """One snapshot a flow is held, and pages of the plan before are refused instead of read under another one."""
    made = database()
    made.run("CREATE TABLE t AS SELECT 1 AS i")
    source = await open_source(made)
    first = await source.plan("public.t")
    second = await source.plan("public.t")

    with pytest.raises(errors.SnapshotLostError):
        await source.page(first.partitions[0])
    assert await source.lines(second) == {b"1": 1}
    assert made.value("SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'dsync/%holder%'") == 1


async def test_a_lost_holder_is_a_lost_snapshot(database: DatabaseFactory, open_source: OpenSource) -> None:
    """Pages after it would be of another moment."""
    made = database()
    made.run("CREATE TABLE t AS SELECT 1 AS i")
    source = await open_source(made)
    plan = await source.plan("public.t")

    made.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'dsync/%holder%'")
    await wait_for_async(
        lambda: made.value("SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'dsync/%holder%'") == 0
    )

    with pytest.raises(errors.SnapshotLostError, match="repeat the command"):
        await source.page(plan.partitions[0])
    with pytest.raises(errors.SnapshotLostError):
        await source.connector.count_rows("public.t")


async def test_a_holder_is_never_silent_for_long(
    database: DatabaseFactory, open_source: OpenSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Firewalls and address translators forget connections without traffic."""
    monkeypatch.setattr("dsync_postgres.source.snapshots._HEARTBEAT_S", 0.02)
    made = database()
    source = await open_source(made)
    await source.plan()
    query = "SELECT query_start::text FROM pg_stat_activity WHERE application_name LIKE 'dsync/%holder%'"
    first = made.value(query)

    await wait_for_async(lambda: made.value(query) != first)


async def test_a_process_that_never_held_the_snapshot_does_not_read(
    database: DatabaseFactory, open_source: OpenSource
) -> None:
    """A restarted plug-in has to judge first what may stay (resume_plan)."""
    made = database()
    made.run("CREATE TABLE t AS SELECT 1 AS i")
    plan = await (await open_source(made)).plan("public.t")
    other = await open_source(made)

    with pytest.raises(errors.SnapshotLostError):
        await other.page(plan.partitions[0])


async def test_a_thousand_tables_are_planned_in_a_few_queries(
    database: DatabaseFactory, open_source: OpenSource
) -> None:
    """Tables without rows cost milliseconds."""
    made = database()
    made.run(
        "DO $$BEGIN FOR i IN 1..1000 LOOP EXECUTE format('CREATE TABLE t%s (id int PRIMARY KEY, a text, b date)', i);"
        " END LOOP; END$$"
    )
    source = await open_source(made)

    async with asyncio.timeout(10):
        description = await source.connector.describe(types.DescribeRequest())
        plan = await source.plan(*(item.namespace for item in description.namespaces))

    assert len(plan.partitions) == 1000


async def test_planning_waits_for_nobody_who_rewrites(database: DatabaseFactory, open_source: OpenSource) -> None:
    """A table rewritten between the described snapshot and the plan is planned under a later one."""
    made = database()
    made.run("CREATE TABLE t AS SELECT i FROM generate_series(1, 100) i")
    source = await open_source(made)
    await source.connector.describe(types.DescribeRequest(definition_for="postgres"))
    made.run("TRUNCATE t", "INSERT INTO t VALUES (7)")

    assert await source.lines(await source.plan("public.t")) == {b"7": 1}


async def test_a_table_altered_while_it_was_planned_is_refused(
    database: DatabaseFactory, open_source: OpenSource
) -> None:
    """Rows of one shape must not meet the definition of another."""
    made = database()
    made.run("CREATE TABLE t AS SELECT i FROM generate_series(1, 100) i")
    source = await open_source(made)
    await source.connector.describe(types.DescribeRequest(definition_for="postgres"))
    made.run("ALTER TABLE t ALTER i TYPE bigint")

    with pytest.raises(errors.NamespaceChangedError, match="repeat the command"):
        await source.plan("public.t")


@pytest.mark.parametrize("updates", [False, True])
async def test_a_description_whose_moment_was_lost_is_made_again(
    database: DatabaseFactory, open_source: OpenSource, updates: bool
) -> None:
    """What was altered in between could not be noticed: rows of one shape would meet the definition of another."""
    made = database()
    made.run("CREATE TABLE t (i int PRIMARY KEY)")
    source = await open_source(made, flow=f"f{os.getpid()}{os.urandom(4).hex()}")
    await source.connector.describe(types.DescribeRequest(definition_for="postgres"))
    ended = made.value(
        "SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name LIKE '%/source-holder%'"
    )
    assert ended == 1
    made.run("ALTER TABLE t ADD COLUMN j int")

    with pytest.raises(errors.ConflictError, match="read again"):
        await source.connector.open_plan(["public.t"], updates=updates)

    await source.connector.describe(types.DescribeRequest(definition_for="postgres"))
    assert (await source.connector.open_plan(["public.t"], updates=updates)).partitions


async def test_rows_and_definition_are_of_one_moment(database: DatabaseFactory, open_source: OpenSource) -> None:
    """What is written between describing and planning is in neither."""
    made = database()
    made.run("CREATE TABLE t AS SELECT 1 AS i")
    source = await open_source(made)
    await source.connector.describe(types.DescribeRequest(definition_for="postgres"))
    made.run("INSERT INTO t VALUES (2)")

    assert await source.lines(await source.plan("public.t")) == {b"1": 1}


async def test_a_foreign_coordinator_plans_everything(database: DatabaseFactory, open_source: OpenSource) -> None:
    """generate_plan without namespaces means all tables; changes are not followed yet, and say so."""
    made = database()
    made.run("CREATE TABLE t AS SELECT 1 AS i", "CREATE SCHEMA _dsync", "CREATE TABLE _dsync.ledger (i int)")
    source = await open_source(made)

    plan = await source.connector.generate_plan(types.PlanRequest(namespaces=()))

    assert [partition.namespace for partition in plan.partitions] == ["public.t"]
    with pytest.raises(errors.UnsupportedError, match="follow"):
        await source.connector.generate_plan(types.PlanRequest(namespaces=("public.t",), updates=True))
