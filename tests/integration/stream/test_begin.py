"""Beginning to follow: without a gap, found again after a crash at any point, and nothing left behind at the end."""

from __future__ import annotations

import asyncio
import os
from contextlib import aclosing
from pathlib import Path

import pytest
from dsync_postgres.sessions import Sessions
from dsync_postgres.stream.begin import Begun, Names, begin_following, end_following
from dsync_postgres.stream.errors import (
    PublicationMissingError,
    ReplicaIdentityError,
    SlotMissingError,
)
from dsync_postgres.stream.follow import Follower, Following
from dsync_postgres.stream.publication import create_publication, find_publication
from dsync_postgres.stream.slots import creating_slot, find_slot

from tests.integration.stream.support import VERSIONS, sessions_of, table
from tests.integration.stream.test_follow import first_values
from tests.support.databases import Database, DatabaseFactory
from tests.support.waiting import wait_for_async


def _names() -> Names:
    """Names that no other test of this server has."""
    return Names.of(f"flow-{os.getpid()}-{os.urandom(4).hex()}")


async def _follow(sessions: Sessions, names: Names, begun: Begun, folder: Path, last: int) -> list[int]:
    """The rows of the stream up to that one."""
    following = Following(
        slot=names.slot,
        publications=(names.publication,),
        tables=(table("t"),),
        position=begun.position,
        folder=folder,
    )
    found: list[int] = []
    async with asyncio.timeout(30), aclosing(Follower(sessions, following).frames()) as frames:
        async for frame in frames:
            found += first_values([frame])
            if last in found:
                break
    return found


def _table(database: Database) -> Database:
    database.run("CREATE TABLE t (id int PRIMARY KEY, x text)", "CREATE TABLE bare (id int)")
    return database


@pytest.mark.parametrize("pg", VERSIONS, indirect=True)
async def test_copy_and_stream_meet_under_a_running_writer(database: DatabaseFactory, tmp_path: Path) -> None:
    """Rows written while the slot is made are in the snapshot or in the stream: each of them in exactly one."""
    one, names, stop = _table(database()), _names(), asyncio.Event()

    def write() -> int:
        number = 0
        with one.connect() as writer:
            while not stop.is_set():
                number += 1
                writer.execute("INSERT INTO t VALUES (%s)", [number])
        return number

    async with sessions_of(one.uri) as sessions:
        writing = asyncio.create_task(asyncio.to_thread(write))
        begun = await begin_following(sessions, names, [table("t")])
        assert begun.holder is not None
        written = one.value("SELECT count(*) FROM t")
        await wait_for_async(lambda: one.value("SELECT count(*) FROM t") > written + 5, what="more rows")
        stop.set()
        last = await writing
        sessions.snapshot_name = begun.holder.snapshot.name
        async with sessions.reading() as session:
            rows = await session.run("reading", lambda c: c.execute("SELECT id FROM public.t").fetchall())
        await begun.holder.close()
        streamed = await _follow(sessions, names, begun, tmp_path, last)
        assert [row for (row,) in rows] + streamed == list(range(1, last + 1))
        assert streamed
        assert len(await end_following(sessions, names)) == 2


async def test_what_a_crash_has_left_is_used_again(database: DatabaseFactory, tmp_path: Path) -> None:
    """After the publication, and after the slot: the second life finds them, and what came since is streamed."""
    one, names = _table(database()), _names()
    async with sessions_of(one.uri) as sessions:
        await create_publication(sessions, names.publication, [table("t")])
        async with creating_slot(sessions, names.slot, major=18, timeout_s=30) as created:
            pass
        one.run("INSERT INTO t VALUES (1)")
        begun = await begin_following(sessions, names, [table("t")])
        assert begun.holder is None
        assert begun.position.end_lsn == created.consistent_lsn
        assert await _follow(sessions, names, begun, tmp_path, 1) == [1]
        assert await end_following(sessions, names) == [
            f"replication slot {names.slot}",
            f"publication {names.publication}",
        ]
        assert await end_following(sessions, names) == []


async def test_an_administrators_are_used_and_never_removed(database: DatabaseFactory) -> None:
    """Given names: both must be there, and both stay."""
    one, own = _table(database()), _names()
    given = Names.of("f", publication=own.publication, slot=own.slot)
    async with sessions_of(one.uri) as sessions:
        with pytest.raises(PublicationMissingError):
            await begin_following(sessions, given, [table("t")])
        await create_publication(sessions, given.publication, [table("t")])
        with pytest.raises(SlotMissingError, match="pg_create_logical_replication_slot"):
            await begin_following(sessions, given, [table("t")])
        async with creating_slot(sessions, given.slot, major=18, timeout_s=30):
            pass
        assert (await begin_following(sessions, given, [table("t")])).holder is None
        assert await end_following(sessions, given) == []
        assert await find_slot(sessions, given.slot) is not None
        assert await find_publication(sessions, given.publication) is not None
        await end_following(sessions, own)


async def test_what_cannot_be_followed_leaves_nothing(database: DatabaseFactory) -> None:
    """A table without replica identity is refused before anything is made."""
    one, names = _table(database()), _names()
    async with sessions_of(one.uri) as sessions:
        with pytest.raises(ReplicaIdentityError, match=r"public\.bare"):
            await begin_following(sessions, names, [table("t"), table("bare")])
        assert await end_following(sessions, names) == []
