"""Following real servers: nothing is missing and nothing comes twice, whatever happens to the connection."""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest
from dsync_postgres.identity import read_identity
from dsync_postgres.sessions import Sessions
from dsync_postgres.stream.errors import PublicationChangedError, SlotMissingError, SlotMovedError
from dsync_postgres.stream.follow import Follower, Following
from dsync_postgres.stream.position import Position
from dsync_postgres.stream.publication import drop_tables
from dsync_postgres.stream.slots import creating_slot, find_slot

from dsync.quickstart.servers import EmbeddedPostgres
from dsync.sdk import errors
from dsync.sdk.types import ChangeFrame, Operation
from tests.integration.stream.support import VERSIONS, prepare, sessions_of, table
from tests.support.databases import Database, DatabaseFactory, PgServers
from tests.support.waiting import wait_for_async

MIB = 1024 * 1024


@dataclass(kw_only=True)
class Followed:
    """A database that is followed, and everything that has come of it."""

    sessions: Sessions
    following: Following

    @asynccontextmanager
    async def stream(
        self, position: Position | None = None
    ) -> AsyncIterator[tuple[Follower, AsyncIterator[ChangeFrame]]]:
        following = self.following if position is None else replace(self.following, position=position)
        follower = Follower(self.sessions, following)
        async with aclosing(follower.frames()) as frames:
            yield follower, frames

    async def free(self) -> None:
        """The server has noticed that the reader is gone."""
        name = self.following.slot

        async def is_free() -> bool:
            slot = await find_slot(self.sessions, name)
            return slot is None or not slot.active_pid

        await wait_for_async(is_free, what="the slot is free")


@asynccontextmanager
async def followed(
    database: Database, folder: Path, *tables: str, frame_bytes: int = MIB, uri: str = ""
) -> AsyncIterator[Followed]:
    name = f"slot_{os.getpid()}_{os.urandom(4).hex()}"
    async with sessions_of(database.uri) as direct:
        start = await prepare(direct, database, *tables, slot=name)
        identity = await direct.run("identity", read_identity)
    position = Position(system_id=str(identity.system_id), timeline=identity.timeline, end_lsn=start)
    async with sessions_of(uri or database.uri) as sessions:
        following = Following(
            slot=name,
            publications=(name,),
            tables=tuple(table(t) for t in tables),
            position=position,
            folder=folder,
            frame_bytes=frame_bytes,
        )
        one = Followed(sessions=sessions, following=following)
        yield one
        await one.free()


def operations(frame: ChangeFrame) -> list[Operation]:
    return [Operation(number) for number in frame.operations]


def records(frames: list[ChangeFrame]) -> list[tuple[Operation, bytes]]:
    """Every change but reshapes."""
    found, position = [], 0
    for frame in frames:
        position, body = 0, bytes(frame.body)
        for operation, size in zip(operations(frame), struct.unpack(f"<{len(frame)}I", frame.sizes), strict=True):
            if operation is not Operation.RESHAPE:
                found.append((operation, body[position : position + size]))
            position += size
    return found


def first_values(frames: list[ChangeFrame]) -> list[int]:
    """The first column of each new row."""
    found = []
    for operation, record in records(frames):
        if operation is Operation.INSERT:
            (size,) = struct.unpack_from(">I", record, 4)
            found.append(int(record[8 : 8 + size]))
    return found


async def until(frames: AsyncIterator[ChangeFrame], is_done: Callable[[list[ChangeFrame]], bool]) -> list[ChangeFrame]:
    found: list[ChangeFrame] = []
    async with asyncio.timeout(60):
        while not is_done(found):
            found.append(await anext(frames))
    return found


def _marked(frames: list[ChangeFrame]) -> bool:
    return any(operation is Operation.MARK for operation, _ in records(frames))


MARK = "SELECT pg_logical_emit_message(true, 'dsync', 'end')"


@pytest.mark.parametrize("pg", VERSIONS, indirect=True)
async def test_every_kind_of_change_comes_in_order(database: DatabaseFactory, tmp_path: Path) -> None:
    """Key changes, unchanged TOAST with and without the old row, TRUNCATE, a column added, a mark."""
    one = database()
    one.run(
        "CREATE TABLE t (id int PRIMARY KEY, big text)",
        "ALTER TABLE t ALTER big SET STORAGE EXTERNAL",
        "CREATE TABLE f (id numeric(9,2) PRIMARY KEY, big text)",
        "ALTER TABLE f ALTER big SET STORAGE EXTERNAL",
        "ALTER TABLE f REPLICA IDENTITY FULL",
    )
    async with followed(one, tmp_path, "t", "f") as source:
        one.run(
            "INSERT INTO t VALUES (1, repeat('x', 9000))",
            "UPDATE t SET big = 'small' || big WHERE id = 1",
            "UPDATE t SET id = 1 WHERE id = 1",
            "UPDATE t SET id = 2",
            "UPDATE t SET big = 'y', id = 3",
            "DELETE FROM t",
            "INSERT INTO f VALUES (1, repeat('z', 9000))",
            "UPDATE f SET id = 2",
            "TRUNCATE t, f",
            "ALTER TABLE t ADD added int DEFAULT 7",
            "INSERT INTO t VALUES (9, 'n')",
            MARK,
        )
        async with source.stream() as (_, stream):
            frames = await until(stream, _marked)
    op = Operation
    assert [operation for operation, _ in records(frames)] == [
        op.INSERT,
        op.UPDATE,
        op.PARTIAL_UPDATE,
        op.MOVE,
        op.DELETE,
        op.INSERT,
        op.DELETE,
        op.INSERT,
        op.DELETE,
        op.INSERT,
        op.TRUNCATE,
        op.TRUNCATE,
        op.INSERT,
        op.MARK,
    ]
    full = records(frames)[9][1]
    assert b"z" * 9000 in full
    shapes = [relation for frame in frames for relation in frame.relations if relation.namespace == "public.t"]
    assert [(c.name, c.type, c.key_position) for c in shapes[-1].columns] == [
        ("id", "integer", 1),
        ("big", "text", 0),
        ("added", "integer", 0),
    ]
    keyed = next(r for frame in frames for r in frame.relations if r.namespace == "public.f")
    assert [(c.name, c.type, c.key_position) for c in keyed.columns] == [("id", "numeric(9,2)", 1), ("big", "text", 0)]
    assert keyed.full_old_row
    places = [frame.place for frame in frames]
    assert places == sorted(places)


@pytest.mark.parametrize("pg", [15, 18], indirect=True)
async def test_a_large_transaction_with_rolled_back_savepoints_takes_no_memory(
    own_servers: PgServers, tmp_path: Path, pg: object, request: pytest.FixtureRequest
) -> None:
    """Sent while it runs, spilled, applied at its commit: a thousand subtransactions, every third rolled back."""
    major = request.node.callspec.params["pg"]
    server = own_servers.own(major, settings={"logical_decoding_work_mem": "64kB"})
    one = Database(server=server, name="postgres")
    one.run("CREATE TABLE t (id int PRIMARY KEY, x text)")
    process = psutil.Process()
    async with followed(one, tmp_path, "t", frame_bytes=MIB) as source:
        with one.connect() as writer, one.connect() as lost:
            lost.execute("BEGIN; INSERT INTO t SELECT i, repeat('l', 100) FROM generate_series(5000000, 5020000) i")
            writer.execute("BEGIN")
            writer.execute("INSERT INTO t SELECT i, repeat('x', 300) FROM generate_series(100000, 299999) i")
            for number in range(1000):
                writer.execute("SAVEPOINT s")
                first = 10 * number
                writer.execute(
                    "INSERT INTO t SELECT i, repeat('y', 500) FROM generate_series(%s::int, %s::int) i",
                    [first, first + 9],
                )
                writer.execute("ROLLBACK TO s" if number % 3 == 0 else "RELEASE s")
            lost.execute("ROLLBACK")
            writer.execute("COMMIT")
        one.run(MARK)
        before = process.memory_info().rss
        count, peak, was_spilled = 0, 0, False
        seen: set[int] = set()
        async with source.stream() as (follower, stream):
            async with asyncio.timeout(120):
                async for frame in stream:
                    values = first_values([frame])
                    seen.update(value for value in values if value < 100_000)
                    count += len(values)
                    assert len(frame.body) < 2 * MIB
                    was_spilled = was_spilled or any(tmp_path.iterdir())
                    peak = max(peak, process.memory_info().rss)
                    follower.acknowledge(Position.decode(frame.cursor))
                    if _marked([frame]):
                        break
    kept = {10 * number + i for number in range(1000) if number % 3 for i in range(10)}
    assert seen == kept
    assert count == 200_000 + len(kept)
    assert was_spilled
    assert peak - before < 60 * MIB
    assert list(tmp_path.iterdir()) == []


async def test_a_cut_connection_costs_nothing_and_repeats_nothing(database: DatabaseFactory, tmp_path: Path) -> None:
    """Senders killed again and again: each change comes once, in order, over as many connections as it takes."""
    one = database()
    one.run("CREATE TABLE t (id int PRIMARY KEY, x text)")
    async with followed(one, tmp_path, "t", frame_bytes=4096) as source, source.stream() as (_, stream):
        found: list[ChangeFrame] = []
        for round_ in range(6):
            low = round_ * 1000
            with one.connect() as writer:
                writer.execute(
                    "INSERT INTO t SELECT i, repeat('x', 100) FROM generate_series(%s::int, %s::int) i",
                    [low, low + 999],
                )
            found += await until(stream, lambda frames: len(first_values(frames)) >= 300)
            one.run("SELECT pg_terminate_backend(pid) FROM pg_stat_replication")
        found += await until(stream, lambda frames: len(first_values(found + frames)) >= 6000)
    assert first_values(found) == list(range(6000))


async def test_a_new_life_goes_on_inside_of_a_transaction(database: DatabaseFactory, tmp_path: Path) -> None:
    """From any frame's cursor, also from the middle of a large transaction: no change missing, none twice."""
    one = database()
    one.run("CREATE TABLE t (id int PRIMARY KEY, x text)")
    async with followed(one, tmp_path, "t", frame_bytes=2000) as source:
        one.run("INSERT INTO t SELECT i, repeat('x', 100) FROM generate_series(1, 500) i", MARK)
        async with source.stream() as (_, stream):
            whole = await until(stream, _marked)
        assert len(whole) > 10
        for place in (0, len(whole) // 2, len(whole) - 2):
            await source.free()
            async with source.stream(Position.decode(whole[place].cursor)) as (_, stream):
                rest = await until(stream, _marked)
            assert first_values(whole[: place + 1]) + first_values(rest) == list(range(1, 501))
            assert rest[-1].place == whole[-1].place


async def test_a_source_without_changes_lets_the_server_discard(database: DatabaseFactory, tmp_path: Path) -> None:
    """A busy neighbour fills the log; the position moves on with it, and is acknowledged only by whoever has it."""
    one, neighbour = database(), database()
    one.run("CREATE TABLE t (id int PRIMARY KEY)")
    neighbour.run("CREATE TABLE n (x text)")
    async with followed(one, tmp_path, "t") as source, source.stream() as (follower, stream):
        neighbour.run("INSERT INTO n SELECT repeat('x', 1000) FROM generate_series(1, 3000)")
        target = one.value("SELECT pg_current_wal_lsn() - '0/0'")
        frames = await until(stream, lambda found: bool(found) and Position.decode(found[-1].cursor).end_lsn >= target)
        assert all(len(frame) == 0 for frame in frames)
        slot = await find_slot(source.sessions, source.following.slot)
        assert slot is not None
        assert slot.confirmed_lsn == source.following.position.end_lsn
        follower.acknowledge(Position.decode(frames[-1].cursor))

        async def moved() -> bool:
            now = await find_slot(source.sessions, source.following.slot)
            return now is not None and now.confirmed_lsn >= target

        await wait_for_async(moved, what="the slot has moved")


async def test_what_would_leave_a_gap_ends_the_stream(
    database: DatabaseFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slot that has moved on, another server, another timeline, a publication that lost a table."""
    one = database()
    one.run("CREATE TABLE t (id int PRIMARY KEY)", "CREATE TABLE u (id int PRIMARY KEY)")
    async with followed(one, tmp_path, "t", "u") as source:
        start = source.following.position
        for position, kind in (
            (replace(start, end_lsn=start.end_lsn - 1), SlotMovedError),
            (replace(start, system_id="7"), errors.OtherEndpointError),
            (replace(start, timeline=start.timeline + 1), errors.OtherEndpointError),
        ):
            async with source.stream(position) as (_, stream):
                with pytest.raises(kind):
                    await anext(stream)
        monkeypatch.setattr("dsync_postgres.stream.follow._LOOK_S", 0.1)
        async with source.stream() as (_, stream):
            one.run("INSERT INTO u VALUES (1)")
            await until(stream, lambda frames: bool(first_values(frames)))
            await drop_tables(source.sessions, source.following.slot, [table("u")])
            with pytest.raises(PublicationChangedError, match=r"public\.u"):
                await until(stream, lambda frames: len(frames) > 1000)
        await source.free()
        with contextlib.suppress(PublicationChangedError):
            async with source.stream() as (_, stream):
                await anext(stream)
                pytest.fail("the publication lacks a table")


async def test_a_promoted_standby_is_followed_only_where_nothing_is_missing(
    own_servers: PgServers, tmp_path: Path
) -> None:
    """Without the slot: missing. With one made since: moved. With a position that it never had: another history."""
    primary = own_servers.own(18)
    one = Database(server=primary, name="postgres")
    one.run("CREATE TABLE t (id int PRIMARY KEY)")
    async with followed(one, tmp_path, "t") as source:
        standby = EmbeddedPostgres(standby_of=primary, in_memory=True)
        try:
            await asyncio.to_thread(standby.start)
            with standby.connect() as admin:
                admin.execute("SELECT pg_promote()")
            start, slot = source.following.position, source.following.slot
            async with sessions_of(standby.uri()) as sessions:
                there = Followed(sessions=sessions, following=source.following)
                async with there.stream() as (_, stream):
                    with pytest.raises(SlotMissingError):
                        await anext(stream)
                async with creating_slot(sessions, slot, major=18, timeout_s=30) as created:
                    pass
                async with there.stream() as (_, stream):
                    with pytest.raises(SlotMovedError):
                        await anext(stream)
                async with there.stream(replace(start, end_lsn=created.consistent_lsn)) as (_, stream):
                    with pytest.raises(errors.OtherEndpointError, match="timeline 2 and lacks changes"):
                        await anext(stream)
                # On the new timeline a flow that began there goes on.
                standby.execute("INSERT INTO t VALUES (1)")
                async with there.stream(replace(start, timeline=2, end_lsn=created.consistent_lsn)) as (_, stream):
                    assert first_values(await until(stream, lambda frames: bool(first_values(frames)))) == [1]
        finally:
            await asyncio.to_thread(standby.close)
