"""Plans of a database that is followed: pages under the slot's snapshot, or beside a stream that was there before."""

import asyncio
from pathlib import Path

import pytest
from dsync_postgres.options import PostgresOptions
from dsync_postgres.stream.begin import Names
from dsync_postgres.stream.errors import (
    ReplicaIdentityError,
    SlotMissingError,
    SlotTimeoutError,
)
from psycopg import sql

from dsync.sdk import errors, failpoint, types
from tests.integration.postgres_source.conftest import OpenSource
from tests.integration.postgres_source.following import (
    follow,
    names_of,
    new_flow,
    position_of,
    publications,
    slots,
    streamed,
)
from tests.support.databases import Database, DatabaseFactory
from tests.support.waiting import wait_for_async

VERSIONS = pytest.mark.parametrize("pg", [15, 16, 18], indirect=True)


def keyed(database: Database) -> Database:
    database.run("CREATE TABLE t (id int PRIMARY KEY, x text)", "INSERT INTO t SELECT i FROM generate_series(1, 100) i")
    return database


def make_slot(database: Database, name: str) -> None:
    database.rows("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [name])


@VERSIONS
async def test_every_row_is_in_the_pages_or_in_the_stream(database: DatabaseFactory, open_source: OpenSource) -> None:
    """A plan under a running writer: the slot's snapshot and the stream from its position meet without a gap."""
    one, stop = keyed(database()), asyncio.Event()

    def write() -> int:
        number = 100
        with one.connect() as writer:
            while not stop.is_set():
                number += 1
                writer.execute("INSERT INTO t VALUES (%s)", [number])
        return number

    source = await open_source(one, flow=new_flow())
    writing = asyncio.create_task(asyncio.to_thread(write))
    await wait_for_async(lambda: one.value("SELECT count(*) > 110 FROM t"), what="a writer at work")
    plan = await follow(source, "public.t")
    assert not plan.overlaps
    written = one.value("SELECT count(*) FROM t")
    await wait_for_async(lambda: one.value("SELECT count(*) FROM t") > written, what="more rows")
    stop.set()
    last = await writing

    copied = sorted(int(line.split(b"\t")[0]) for line in await source.lines(plan))
    (updates,) = plan.updates_partitions
    assert copied + await streamed(source, updates, last) == list(range(1, last + 1))


async def test_what_is_not_followed_is_copied_all_the_same(database: DatabaseFactory, open_source: OpenSource) -> None:
    """Unlogged tables, large objects, parents, views: in the plan, never in the publication."""
    one = keyed(database())
    one.run(
        "CREATE UNLOGGED TABLE u (id int PRIMARY KEY)",
        "INSERT INTO u VALUES (1)",
        "CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id)",
        "CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10)",
        "INSERT INTO p VALUES (5)",
        "CREATE MATERIALIZED VIEW m AS SELECT 1 AS i",
        "SELECT lo_from_bytea(0, '\\x01')",
    )
    source = await open_source(one, flow=new_flow())
    described = await source.connector.describe(types.DescribeRequest(definition_for="postgres"))
    plan = await follow(source, *(item.namespace for item in described.namespaces))

    (updates,) = plan.updates_partitions
    assert sorted(updates.namespaces) == ["public.p1", "public.t"]
    assert publications(one) == {names_of(source).publication: ["p1", "t"]}
    assert {part.namespace for part in plan.partitions} == {
        "public.t",
        "public.u",
        "public.p1",
        "pg_catalog.pg_largeobject",
    }


async def test_a_slot_that_is_there_already_overlaps(database: DatabaseFactory, open_source: OpenSource) -> None:
    """As after a crash between the slot and the stored plan: found again, and what came since is in both."""
    one, flow = keyed(database()), new_flow()
    first = await open_source(one, flow=flow)
    begun = await follow(first, "public.t")
    await first.connector.close()
    one.run("INSERT INTO t VALUES (101)")

    second = await open_source(one, flow=flow)
    plan = await follow(second, "public.t")

    assert plan.overlaps
    assert position_of(plan) == position_of(begun)
    assert len(await second.lines(plan)) == 101
    assert await streamed(second, plan.updates_partitions[0], 101) == [101]


async def test_a_table_without_key_never_overlaps(database: DatabaseFactory, open_source: OpenSource) -> None:
    """Its rows would be doubled: the flow's own slot is made anew, with a snapshot that goes with it."""
    one, flow = keyed(database()), new_flow()
    one.run("CREATE TABLE k (id int)", "ALTER TABLE k REPLICA IDENTITY FULL", "INSERT INTO k VALUES (1)")
    begun = await follow(await open_source(one, flow=flow), "public.t")
    one.run("INSERT INTO k VALUES (2)")

    second = await open_source(one, flow=flow)
    plan = await follow(second, "public.t", "public.k")

    assert not plan.overlaps
    assert position_of(plan).end_lsn > position_of(begun).end_lsn
    one.run("INSERT INTO k VALUES (3)")
    lines = await second.lines(plan)
    assert (lines[b"1"], lines[b"2"], lines[b"3"]) == (1, 1, 0)
    assert await streamed(second, plan.updates_partitions[0], 3) == [3]


async def test_a_key_that_may_be_doubled_within_a_transaction_is_none(
    database: DatabaseFactory, open_source: OpenSource
) -> None:
    """Rows cannot be written by a deferrable key, so such a table does not overlap either."""
    one, flow = keyed(database()), new_flow()
    one.run(
        "CREATE TABLE k (id int PRIMARY KEY DEFERRABLE)",
        "ALTER TABLE k REPLICA IDENTITY FULL",
    )
    await follow(await open_source(one, flow=flow), "public.t")
    assert not (await follow(await open_source(one, flow=flow), "public.k")).overlaps


async def test_an_administrators_slot_and_publication_are_used_and_stay(
    database: DatabaseFactory, open_source: OpenSource
) -> None:
    """Given by options to everything that uses them; letting go removes neither."""
    one, flow = keyed(database()), new_flow()
    given = f"adm_{flow}"
    one.run(sql.SQL("CREATE PUBLICATION {} FOR TABLE t").format(sql.Identifier(given)))
    source = await open_source(one, flow=flow, options=PostgresOptions(publication=given, slot=given))
    with pytest.raises(SlotMissingError, match=given):
        await follow(source, "public.t")
    make_slot(one, given)
    one.run("INSERT INTO t VALUES (101)")

    plan = await follow(source, "public.t")

    assert plan.overlaps
    assert await streamed(source, plan.updates_partitions[0], 101) == [101]
    status = await source.connector.change_status(("public.t",))
    assert status.name == f"replication slot {given}"
    assert await source.connector.release_changes(flow) == []
    assert (slots(one), list(publications(one))) == ([given], [given])


async def test_a_table_without_key_is_not_read_beside_an_administrators_slot(
    database: DatabaseFactory, open_source: OpenSource
) -> None:
    """It may not be made anew, so that is refused, and nothing is touched."""
    one, flow = keyed(database()), new_flow()
    one.run("CREATE TABLE k (id int)", "ALTER TABLE k REPLICA IDENTITY FULL")
    make_slot(one, given := f"adm_{flow}")
    source = await open_source(one, flow=flow, options=PostgresOptions(slot=given))
    with pytest.raises(errors.UnsupportedError, match=r"public\.k.*primary key"):
        await follow(source, "public.t", "public.k")
    assert slots(one) == [given]


async def test_what_was_changed_before_it_was_published_is_read_and_not_streamed(
    database: DatabaseFactory, open_source: OpenSource
) -> None:
    """A slot from before the publication: the stream begins behind every change that was made without it."""
    one, flow = keyed(database()), new_flow()
    make_slot(one, given := f"adm_{flow}")
    one.run("INSERT INTO t VALUES (101)")
    source = await open_source(one, flow=flow, options=PostgresOptions(slot=given))
    with one.connect() as writer:
        writer.execute("BEGIN")
        writer.execute("INSERT INTO t VALUES (102)")
        planning = asyncio.create_task(follow(source, "public.t"))
        await wait_for_async(lambda: bool(publications(one)), what="the publication")
        _, still = await asyncio.wait({planning}, timeout=0.5)
        assert still
        writer.execute("COMMIT")
        plan = await planning
    one.run("INSERT INTO t VALUES (103)")

    assert len(await source.lines(plan)) == 102
    assert await streamed(source, plan.updates_partitions[0], 103) == [103]


async def test_what_is_read_beside_a_slot_from_before_waits_for_who_is_open(
    database: DatabaseFactory, open_source: OpenSource
) -> None:
    """A transaction may have been logged before the slot's position, and be seen by nobody yet."""
    one, flow = keyed(database()), new_flow()
    await follow(await open_source(one, flow=flow), "public.t")
    second = await open_source(one, flow=flow)
    with one.connect() as writer:
        writer.execute("BEGIN")
        writer.execute("INSERT INTO t VALUES (101)")
        with pytest.raises(SlotTimeoutError, match=f"pid {writer.info.backend_pid}"):
            await follow(second, "public.t", wait_s=0.3)
        planning = asyncio.create_task(follow(second, "public.t"))
        _, still = await asyncio.wait({planning}, timeout=0.5)
        assert still
        writer.execute("COMMIT")
        plan = await planning
    assert len(await second.lines(plan)) == 101


async def test_a_table_rewritten_after_the_slot_is_read_beside_the_stream(
    database: DatabaseFactory, open_source: OpenSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The slot's snapshot does not find the rows in the new file, a later one does."""
    one = keyed(database())
    source = await open_source(one, flow=new_flow())
    _run_at(monkeypatch, "source.after_slot", lambda: one.run("TRUNCATE t", "INSERT INTO t VALUES (7)"))

    plan = await follow(source, "public.t")

    assert plan.overlaps
    assert await source.lines(plan) == {b"7\t\\N": 1}


async def test_a_table_altered_between_description_and_slot_is_refused_and_nothing_stays(
    database: DatabaseFactory, open_source: OpenSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of one shape must not meet the definition of another; no slot is left that fills the disk."""
    one = keyed(database())
    source = await open_source(one, flow=new_flow())
    await source.connector.describe(types.DescribeRequest(definition_for="postgres"))
    one.run("ALTER TABLE t ADD COLUMN y int")

    with pytest.raises(errors.NamespaceChangedError, match="repeat the command"):
        await follow(source, "public.t")

    assert (slots(one), publications(one)) == ([], {})


async def test_an_open_transaction_is_waited_for_as_long_as_is_said(
    database: DatabaseFactory, open_source: OpenSource
) -> None:
    """Named, and then nothing stays."""
    one = keyed(database())
    source = await open_source(one, flow=new_flow())
    with one.connect() as writer:
        writer.execute("BEGIN")
        writer.execute("INSERT INTO t VALUES (101)")
        with pytest.raises(SlotTimeoutError, match=f"pid {writer.info.backend_pid}"):
            await follow(source, "public.t", wait_s=0.5)
    assert (slots(one), publications(one)) == ([], {})


async def test_what_cannot_be_followed_is_refused_before_anything_is_made(
    database: DatabaseFactory, open_source: OpenSource, tmp_path: Path
) -> None:
    """A table without replica identity, nothing to follow at all, a condition on rows."""
    one = keyed(database())
    one.run("CREATE TABLE bare (id int)", "CREATE UNLOGGED TABLE u (id int PRIMARY KEY)")
    source = await open_source(one, flow=new_flow())
    with pytest.raises(ReplicaIdentityError, match=r"public\.bare"):
        await follow(source, "public.t", "public.bare")
    with pytest.raises(errors.UnsupportedError, match="none of the chosen tables"):
        await follow(source, "public.u")
    await source.connector.open_session(
        types.SessionRequest(flow=source.flow, role=types.Role.SOURCE, row_filters={"public.t": "id > 3"})
    )
    with pytest.raises(errors.UnsupportedError, match="--filter"):
        await follow(source, "public.t")
    assert (slots(one), publications(one)) == ([], {})


async def test_marks_lie_behind_what_was_committed_before(database: DatabaseFactory, open_source: OpenSource) -> None:
    """The mark comes in the stream with its content, after the rows before it; its place is told."""
    one = keyed(database())
    source = await open_source(one, flow=new_flow())
    plan = await follow(source, "public.t")
    one.run("INSERT INTO t VALUES (101)")
    place = await source.connector.mark(("public.t",), b"caught \x00 up")
    one.run("INSERT INTO t VALUES (102)")

    (updates,) = plan.updates_partitions
    operations: list[int] = []
    request = types.StreamChangesRequest(
        namespaces=updates.namespaces, type=types.ChangeType.PG_OUTPUT, cursor=updates.cursor
    )
    frames = source.connector.stream_changes(request)
    body, position = b"", 0
    async with asyncio.timeout(30):
        while operations.count(types.Operation.INSERT) < 2:
            frame = await anext(frames)
            operations += frame.operations
            body += bytes(frame.body)
            position = frame.position
    await frames.aclose()  # type: ignore[attr-defined]

    order = [types.Operation(each) for each in operations if each != types.Operation.RESHAPE]
    assert order == [types.Operation.INSERT, types.Operation.MARK, types.Operation.INSERT]
    assert b"caught \x00 up" in body
    assert position_of(plan).end_lsn < place < position


async def test_letting_go_ends_the_flows_reader_and_is_repeatable(
    database: DatabaseFactory, open_source: OpenSource
) -> None:
    """By another process that knows the flow's name alone, and after a status that was told."""
    one, flow = keyed(database()), new_flow()
    source = await open_source(one, flow=flow)
    plan = await follow(source, "public.t")
    one.run("INSERT INTO t VALUES (101)")
    status = await source.connector.change_status(("public.t",))
    assert not status.active
    assert status.acknowledged == position_of(plan).end_lsn < status.position
    assert status.retained_bytes > 0
    assert status.safe_bytes is None
    reading = source.connector.stream_changes(
        types.StreamChangesRequest(
            namespaces=("public.t",), type=types.ChangeType.PG_OUTPUT, cursor=plan.updates_partitions[0].cursor
        )
    )
    await anext(reading)
    assert (await source.connector.change_status(("public.t",))).active

    other = await open_source(one, flow="")
    names = Names.of(flow)
    assert await other.connector.release_changes(flow) == [
        f"replication slot {names.slot}",
        f"publication {names.publication}",
    ]
    assert await other.connector.release_changes(flow) == []
    assert (slots(one), publications(one)) == ([], {})
    await reading.aclose()  # type: ignore[attr-defined]
    with pytest.raises(SlotMissingError):
        await source.connector.change_status(("public.t",))


def _run_at(monkeypatch: pytest.MonkeyPatch, name: str, work: object) -> None:
    """Do something when a failpoint is passed for the first time."""
    import dsync_postgres.stream.begin as module

    waiting = [work]

    def passed(reached: str) -> None:
        failpoint(reached)
        if reached == name and waiting:
            waiting.pop()()  # type: ignore[operator]

    monkeypatch.setattr(module, "failpoint", passed)
