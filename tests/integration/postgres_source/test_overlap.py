"""After a lost snapshot of a flow that follows: what was copied stays, and pages and stream make up the source."""

import asyncio
import dataclasses
import random
from collections import Counter

import pytest
from dsync_postgres.source import overlap
from dsync_postgres.source.snapshots import Snapshot
from dsync_postgres.stream.errors import SlotMissingError, VisibilityError
from dsync_postgres.stream.position import Position
from psycopg import sql

from dsync.sdk import errors, types
from tests.integration.postgres_source.conftest import OpenSource
from tests.integration.postgres_source.following import follow, new_flow, slots
from tests.integration.postgres_source.support import Copy, Source, body_lines
from tests.integration.postgres_source.twin import Row, Twin
from tests.support.databases import Database, DatabaseFactory, PgServers

VERSIONS = pytest.mark.parametrize("pg", [15, 16, 18], indirect=True)
CHANGED, UNCHANGED, OVERLAPS = types.Verdict.CHANGED, types.Verdict.UNCHANGED, types.Verdict.OVERLAPS


def fill(database: Database, *, keyless: bool = False) -> None:
    """Tables of some pages, with holes in which rows that move come to lie before where reading stands."""
    database.run(
        "CREATE TABLE t (id int PRIMARY KEY, v text) WITH (fillfactor = 70, autovacuum_enabled = off)",
        "INSERT INTO t SELECT i, i || repeat('x', 80) FROM generate_series(1, 3000) i",
        "DELETE FROM t WHERE id % 7 = 0",
        "VACUUM t",
    )
    if keyless:
        database.run(
            "CREATE TABLE k (id int, v text)",
            "ALTER TABLE k REPLICA IDENTITY FULL",
            "INSERT INTO k SELECT i % 500, repeat('y', 80) FROM generate_series(1, 2000) i",
        )


def rows(database: Database, table: str) -> Counter[Row]:
    query = sql.SQL("SELECT id::text, coalesce(v, '\\N') FROM {}").format(sql.Identifier(table))
    return Counter(database.rows(query))


async def step(copy: Copy, source: Source, partition: types.Partition, twin: Twin) -> bool:
    """Copy one page into the twin; False where the partition was done."""
    known = len(copy.rows.get(partition.cursor, ()))
    if not await copy.step(source, partition):
        return False
    twin.page(partition.namespace, copy.rows[partition.cursor][known:])
    return True


async def finish(copy: Copy, source: Source, twin: Twin) -> None:
    for partition in copy.partitions:
        while await step(copy, source, partition, twin):
            pass


def taken(copy: Copy, verdicts: tuple[types.NamespaceVerdict, ...], twin: Twin) -> Copy:
    """What the coordinator makes of the verdicts."""
    for verdict in verdicts:
        if not verdict.partitions:
            continue
        if verdict.verdict is CHANGED:
            twin.clear(verdict.namespace)
            twin.seen_through[verdict.namespace] = verdict.seen_through
        for part in [part for part in copy.partitions if part.namespace == verdict.namespace]:
            copy.partitions.remove(part)
            copy.done.discard(part.cursor)
            for known in (copy.cursors, copy.rows):
                known.pop(part.cursor, None)
        copy.partitions += verdict.partitions
    return copy


def verdict_of(resumed: types.ResumedPlan, namespace: str = "public.t") -> types.NamespaceVerdict:
    (verdict,) = [verdict for verdict in resumed.verdicts if verdict.namespace == namespace]
    return verdict


async def begun(source: Source, *namespaces: str, pages: int = 2) -> tuple[types.Plan, Copy, Twin]:
    """A plan, of each partition some pages copied."""
    plan = await follow(source, *namespaces)
    twin, copy = Twin(keyless=frozenset({"public.k"})), Copy(partitions=list(plan.partitions))
    for partition in plan.partitions:
        for _ in range(pages):
            await step(copy, source, partition, twin)
    return plan, copy, twin


def write(database: Database, seed: int) -> None:
    """Rows that come, go, grow and so move, and take each other's keys."""
    rng = random.Random(seed)
    with database.connect() as connection:
        for _ in range(120):
            key, other = rng.randrange(1, 3300), rng.randrange(1, 3300)
            statement, *values = rng.choice(
                (
                    ("UPDATE t SET v = repeat('u', 200) WHERE id = %s", key),
                    ("DELETE FROM t WHERE id = %s", key),
                    ("INSERT INTO t VALUES (%s, 'new') ON CONFLICT DO NOTHING", key),
                    (
                        "UPDATE t SET id = %s WHERE id = %s AND NOT EXISTS (SELECT FROM t WHERE id = %s)",
                        key,
                        other,
                        key,
                    ),
                )
            )
            connection.execute(statement, values)


@VERSIONS
@pytest.mark.parametrize("seed", range(3))
async def test_pages_of_several_snapshots_and_the_stream_make_the_source(
    database: DatabaseFactory, open_source: OpenSource, seed: int
) -> None:
    """Lost twice in the middle of a busy table: nothing is read again, and the end is equal."""
    one, flow = database(), new_flow()
    fill(one)
    source = await open_source(one, flow=flow, page_bytes=16 * 1024)
    plan, copy, twin = await begun(source, "public.t")
    snapshot = plan.snapshot
    for life in range(2):
        await source.connector.close()
        write(one, 10 * seed + life)
        one.run("VACUUM t")
        source = await open_source(one, flow=flow, page_bytes=16 * 1024)
        resumed = await source.connector.resume_plan(snapshot, copy.progress(), plan.updates_partitions)
        assert resumed.snapshot != snapshot
        assert verdict_of(resumed) == types.NamespaceVerdict(namespace="public.t", verdict=OVERLAPS)
        snapshot = resumed.snapshot
        for _ in range(3):
            await step(copy, source, copy.partitions[0], twin)
    write(one, 10 * seed + 5)
    await finish(copy, source, twin)
    assert twin.rows("public.t") != rows(one, "t")

    await twin.follow(source, plan.updates_partitions[0])

    assert twin.rows("public.t") == rows(one, "t")


@VERSIONS
async def test_a_rewritten_file_is_read_from_its_start(database: DatabaseFactory, open_source: OpenSource) -> None:
    """VACUUM FULL moves rows to where reading was already, and no change tells that."""
    one, flow = database(), new_flow()
    fill(one)
    first = await open_source(one, flow=flow)
    plan, copy, twin = await begun(first, "public.t")
    await first.connector.close()
    one.run("DELETE FROM t WHERE id < 200", "VACUUM FULL t", "INSERT INTO t VALUES (9999, 'late')")

    second = await open_source(one, flow=flow)
    resumed = await second.connector.resume_plan(plan.snapshot, copy.progress(), plan.updates_partitions)

    verdict = verdict_of(resumed)
    assert (verdict.verdict, bool(verdict.partitions), verdict.seen_through) == (OVERLAPS, True, 0)
    assert "rewritten" in verdict.reason
    await finish(taken(copy, resumed.verdicts, twin), second, twin)
    await twin.follow(second, plan.updates_partitions[0])
    assert twin.rows("public.t") == rows(one, "t")


@VERSIONS
async def test_a_table_without_key_is_read_anew_and_its_changes_of_before_left_out(
    database: DatabaseFactory, open_source: OpenSource
) -> None:
    """Under a snapshot that goes with a place in the stream: no row is doubled, and no slot stays."""
    one, flow = database(), new_flow()
    fill(one, keyless=True)
    first = await open_source(one, flow=flow, page_bytes=16 * 1024)
    plan, copy, twin = await begun(first, "public.t", "public.k")
    await first.connector.close()
    one.run("UPDATE k SET v = 'changed' WHERE id < 20", "INSERT INTO k VALUES (7, 'changed')")

    second = await open_source(one, flow=flow, page_bytes=16 * 1024)
    resumed = await second.connector.resume_plan(plan.snapshot, copy.progress(), plan.updates_partitions)
    one.run("DELETE FROM k WHERE id = 7", "INSERT INTO k VALUES (8, 'later'), (8, 'later')")

    verdict = verdict_of(resumed, "public.k")
    assert (verdict.verdict, bool(verdict.partitions)) == (CHANGED, True)
    assert verdict.seen_through > Position.decode(plan.updates_partitions[0].cursor).end_lsn
    assert verdict_of(resumed).verdict is OVERLAPS
    assert len(slots(one)) == 1
    await finish(taken(copy, resumed.verdicts, twin), second, twin)
    await twin.follow(second, plan.updates_partitions[0])
    assert twin.rows("public.k") == rows(one, "k")
    assert twin.rows("public.t") == rows(one, "t")


async def test_what_is_finished_stays_whatever_became_of_it(database: DatabaseFactory, open_source: OpenSource) -> None:
    """With a key or without: all that has happened since is in the stream."""
    one, flow = database(), new_flow()
    fill(one, keyless=True)
    first = await open_source(one, flow=flow)
    plan, copy, twin = await begun(first, "public.t", "public.k", pages=99)
    await first.connector.close()
    one.run("UPDATE k SET v = 'changed' WHERE id < 20", "VACUUM FULL k", "VACUUM FULL t", "DELETE FROM t WHERE id < 99")

    second = await open_source(one, flow=flow)
    resumed = await second.connector.resume_plan(plan.snapshot, copy.progress(), plan.updates_partitions)

    assert [(verdict.verdict, verdict.partitions) for verdict in resumed.verdicts] == [(OVERLAPS, ()), (UNCHANGED, ())]
    await twin.follow(second, plan.updates_partitions[0])
    assert (twin.rows("public.k"), twin.rows("public.t")) == (rows(one, "k"), rows(one, "t"))


async def test_what_is_copied_only_is_judged_as_in_a_copy(database: DatabaseFactory, open_source: OpenSource) -> None:
    """No stream tells what became of an unlogged table."""
    one, flow = database(), new_flow()
    fill(one)
    one.run(
        "CREATE UNLOGGED TABLE u AS SELECT i AS id, 'u' AS v FROM generate_series(1, 10) i",
        "CREATE UNLOGGED TABLE w AS SELECT i AS id, 'w' AS v FROM generate_series(1, 10) i",
    )
    first = await open_source(one, flow=flow)
    plan, copy, _ = await begun(first, "public.u", "public.t", "public.w")
    await first.connector.close()
    one.run("DELETE FROM w WHERE id = 3", "DELETE FROM t WHERE id = 3")

    second = await open_source(one, flow=flow)
    resumed = await second.connector.resume_plan(plan.snapshot, copy.progress(), plan.updates_partitions)

    assert [(verdict.namespace, verdict.verdict) for verdict in resumed.verdicts] == [
        ("public.u", UNCHANGED),
        ("public.t", OVERLAPS),
        ("public.w", CHANGED),
    ]
    assert verdict_of(resumed, "public.w").partitions


async def test_a_table_that_was_altered_or_dropped_stops_alone(
    database: DatabaseFactory, open_source: OpenSource
) -> None:
    """Reading it again would not help; another one goes on."""
    one, flow = database(), new_flow()
    fill(one, keyless=True)
    one.run("CREATE TABLE gone AS SELECT 1 AS id, 'x' AS v", "ALTER TABLE gone REPLICA IDENTITY FULL")
    first = await open_source(one, flow=flow)
    plan, copy, _ = await begun(first, "public.t", "public.k", "public.gone", pages=0)
    await first.connector.close()
    one.run("ALTER TABLE k ADD COLUMN w int", "DROP TABLE gone")

    second = await open_source(one, flow=flow)
    resumed = await second.connector.resume_plan(plan.snapshot, copy.progress(), plan.updates_partitions)

    assert verdict_of(resumed).verdict is OVERLAPS
    for name, what in (("public.k", "altered"), ("public.gone", "dropped")):
        verdict = verdict_of(resumed, name)
        assert (verdict.verdict, verdict.partitions) == (CHANGED, ())
        assert what in verdict.reason


async def test_what_was_open_before_is_waited_for(
    database: DatabaseFactory, open_source: OpenSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new snapshot may lack what lies before the position: nothing is read until nobody of then is left."""
    one, flow = database(), new_flow()
    fill(one)
    first = await open_source(one, flow=flow)
    plan, copy, _ = await begun(first, "public.t")
    await first.connector.close()
    second = await open_source(one, flow=flow)
    with one.connect() as writer:
        writer.execute("BEGIN")
        writer.execute("INSERT INTO t VALUES (5000, 'open')")
        row = writer.execute("SELECT pg_current_xact_id()::text::int8").fetchone()
        assert row is not None
        old = Snapshot.decode(plan.snapshot)
        asked = dataclasses.replace(old, text=f"{old.xmin}:{row[0] + 1}:{row[0]}").encode()

        def resume() -> asyncio.Task[types.ResumedPlan]:
            return asyncio.create_task(second.connector.resume_plan(asked, copy.progress(), plan.updates_partitions))

        monkeypatch.setattr(overlap, "_WAIT_S", 0.3)
        with pytest.raises(VisibilityError, match=f"pid {writer.info.backend_pid}") as raised:
            await resume()
        assert isinstance(raised.value, errors.RetryableError)
        monkeypatch.setattr(overlap, "_WAIT_S", 60.0)
        resuming = resume()
        _, still = await asyncio.wait({resuming}, timeout=0.5)
        assert still
        writer.execute("COMMIT")
        resumed = await resuming
    assert Snapshot.decode(resumed.snapshot).xmin > row[0]
    assert verdict_of(resumed).verdict is OVERLAPS


async def test_a_later_transaction_keeps_nobody_waiting(database: DatabaseFactory, open_source: OpenSource) -> None:
    """What begins after the old snapshot is in the stream for certain."""
    one, flow = database(), new_flow()
    fill(one)
    first = await open_source(one, flow=flow)
    plan, copy, _ = await begun(first, "public.t")
    await first.connector.close()
    with one.connect() as writer:
        writer.execute("BEGIN")
        writer.execute("INSERT INTO t VALUES (5000, 'open')")
        second = await open_source(one, flow=flow)
        async with asyncio.timeout(20):
            await second.connector.resume_plan(plan.snapshot, copy.progress(), plan.updates_partitions)


async def test_an_answer_that_was_lost_is_given_again(database: DatabaseFactory, open_source: OpenSource) -> None:
    """Asked twice by the old snapshot: the new one is held already, and is not let go for another."""
    one, flow = database(), new_flow()
    fill(one, keyless=True)
    first = await open_source(one, flow=flow, page_bytes=16 * 1024)
    plan, copy, _ = await begun(first, "public.t", "public.k")
    await first.connector.close()
    second = await open_source(one, flow=flow)
    answers = [
        await second.connector.resume_plan(plan.snapshot, copy.progress(), plan.updates_partitions) for _ in range(2)
    ]
    assert answers[0] == answers[1]
    assert await second.connector.resume_plan(
        answers[0].snapshot, copy.progress(), plan.updates_partitions
    ) == types.ResumedPlan(snapshot=answers[0].snapshot)


@VERSIONS
@pytest.mark.parametrize("change", ["TRUNCATE t", "VACUUM FULL t"])
async def test_a_table_rewritten_while_it_is_copied_is_read_beside_the_stream(
    database: DatabaseFactory, open_source: OpenSource, change: str
) -> None:
    """Where a copy alone would have to stop: the snapshot is given up, and a later one finds the rows."""
    one, flow = database(), new_flow()
    fill(one)
    one.run("CREATE UNLOGGED TABLE u (id int PRIMARY KEY, v text)", "INSERT INTO u VALUES (1, 'x')")
    source = await open_source(one, flow=flow)
    plan, copy, twin = await begun(source, "public.t", "public.u", pages=0)
    await step(copy, source, copy.partitions[0], twin)
    one.run(sql.SQL(change), "INSERT INTO t VALUES (9001, 'after')")

    with pytest.raises(errors.SnapshotLostError):
        await step(copy, source, copy.partitions[0], twin)

    resumed = await source.connector.resume_plan(plan.snapshot, copy.progress(), plan.updates_partitions)
    assert verdict_of(resumed).partitions
    await finish(taken(copy, resumed.verdicts, twin), source, twin)
    await twin.follow(source, plan.updates_partitions[0])
    assert twin.rows("public.t") == rows(one, "t")
    one.run("TRUNCATE u")
    (partition,) = [part for part in plan.partitions if part.namespace == "public.u"]
    with pytest.raises(errors.NamespaceChangedError, match=r"public\.u"):
        await source.page(partition)


async def test_a_table_altered_while_it_is_copied_stops(database: DatabaseFactory, open_source: OpenSource) -> None:
    """Rewritten with another type of a column: a later snapshot would not fit what the sink has."""
    one = database()
    fill(one)
    source = await open_source(one, flow=new_flow())
    _, copy, twin = await begun(source, "public.t")
    one.run("ALTER TABLE t ALTER id TYPE bigint")
    with pytest.raises(errors.NamespaceChangedError):
        await step(copy, source, copy.partitions[0], twin)


async def test_where_the_stream_has_a_gap_nothing_is_resumed(
    database: DatabaseFactory, open_source: OpenSource
) -> None:
    """The slot is gone; the server lacks what was read; it is another one."""
    one, flow = database(), new_flow()
    fill(one)
    first = await open_source(one, flow=flow)
    plan, copy, _ = await begun(first, "public.t")
    await first.connector.close()
    second = await open_source(one, flow=flow)
    old, (updates,) = Snapshot.decode(plan.snapshot), plan.updates_partitions
    later = dataclasses.replace(old, position=old.position + 2**40).encode()
    elsewhere = dataclasses.replace(Position.decode(updates.cursor), system_id="1").encode()
    for snapshot, cursor in ((later, updates.cursor), (plan.snapshot, elsewhere)):
        with pytest.raises(errors.OtherEndpointError):
            await second.connector.resume_plan(
                snapshot, copy.progress(), (dataclasses.replace(updates, cursor=cursor),)
            )
    await second.connector.release_changes(flow)
    with pytest.raises(SlotMissingError, match="--again"):
        await second.connector.resume_plan(plan.snapshot, copy.progress(), plan.updates_partitions)


@pytest.mark.parametrize("is_resumed", [True, False])
async def test_what_is_read_beside_a_stream_survives_a_crash_of_the_source(
    own_servers: PgServers, open_source: OpenSource, is_resumed: bool
) -> None:
    """Rows of transactions that do not wait for the disk are visible early: they are durable before they are read."""
    server = own_servers.own(16, settings={"wal_writer_delay": "10s", "synchronous_commit": "off"})
    one = Database(server=server, name="postgres")
    one.run("CREATE TABLE t (id int PRIMARY KEY, v text)", "INSERT INTO t VALUES (1, 'first')")
    first = await open_source(one, flow=(flow := new_flow()))
    plan, copy, _ = await begun(first, "public.t", pages=0)
    await first.connector.close()
    # Begins a new stretch of time until the log is written by itself.
    one.run("SET synchronous_commit = on", "INSERT INTO t VALUES (2, 'second')")
    one.run("INSERT INTO t VALUES (3, 'third')")

    second = await open_source(one, flow=flow)
    if is_resumed:
        await second.connector.resume_plan(plan.snapshot, copy.progress(), plan.updates_partitions)
    else:
        plan = await follow(second, "public.t")
        assert plan.overlaps
    (partition,) = plan.partitions
    read = body_lines(await second.page(partition))
    await second.connector.close()
    server.stop(mode="immediate")
    server.start()

    assert len(read) == 3
    assert one.value("SELECT count(*) FROM t") == 3


@VERSIONS
async def test_an_owner_that_may_replicate_needs_nothing_else(
    database: DatabaseFactory, open_source: OpenSource
) -> None:
    """No superuser: plan, resumption with and without key, mark, status and letting go, and the doctor agrees."""
    one, flow = database(), new_flow()
    role = one.new_role("owner", attributes="LOGIN REPLICATION")
    one.run(sql.SQL("ALTER DATABASE {} OWNER TO {}").format(sql.Identifier(one.name), sql.Identifier(role)))
    uri = one.server.uri(one.name, user=role)
    with one.connect(user=role) as connection:
        for statement in (
            "CREATE TABLE t (id int PRIMARY KEY, v text)",
            "INSERT INTO t SELECT i, repeat('x', 80) FROM generate_series(1, 2000) i",
            "CREATE TABLE k (id int, v text)",
            "ALTER TABLE k REPLICA IDENTITY FULL",
            "INSERT INTO k SELECT i % 9, repeat('y', 80) FROM generate_series(1, 2000) i",
        ):
            connection.execute(statement)
    first = await open_source(one, uri=uri, flow=flow, page_bytes=16 * 1024)
    found = await first.connector.check(types.CheckRequest(role=types.Role.SOURCE, updates=True))
    assert not [finding for finding in found if finding.severity is types.Severity.STOP]
    plan, copy, twin = await begun(first, "public.t", "public.k")
    await first.connector.close()
    with one.connect(user=role) as connection:
        connection.execute("UPDATE t SET v = 'u' WHERE id < 50")
        connection.execute("DELETE FROM k WHERE id = 3")

    second = await open_source(one, uri=uri, flow=flow, page_bytes=16 * 1024)
    resumed = await second.connector.resume_plan(plan.snapshot, copy.progress(), plan.updates_partitions)
    await finish(taken(copy, resumed.verdicts, twin), second, twin)
    await twin.follow(second, plan.updates_partitions[0])
    assert (twin.rows("public.t"), twin.rows("public.k")) == (rows(one, "t"), rows(one, "k"))
    assert (await second.connector.change_status(("public.t",))).acknowledged > 0
    assert len(await second.connector.release_changes(flow)) == 2
