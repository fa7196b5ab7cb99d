"""Slots and publications on real servers: made, found again, judged, removed."""

import asyncio
import contextlib
import os

import pytest
from dsync_postgres.identity import read_identity
from dsync_postgres.source.snapshots import Holder
from dsync_postgres.stream.errors import (
    NoSlotFreeError,
    NotLogicalError,
    PublicationChangedError,
    PublicationMissingError,
    ReplicaIdentityError,
    SlotBusyError,
    SlotLostError,
    SlotMissingError,
    SlotMovedError,
    SlotTimeoutError,
    SlotUnfitError,
)
from dsync_postgres.stream.publication import (
    add_tables,
    create_publication,
    drop_tables,
    find_publication,
    remove_publication,
    require_publication,
)
from dsync_postgres.stream.slots import (
    Blocker,
    creating_slot,
    find_slot,
    pass_visibility_barrier,
    remove_slot,
    require_usable,
    running_transactions,
)
from psycopg import sql

from dsync.sdk import errors
from tests.integration.stream.support import VERSIONS, prepare, sessions_of, streaming, table
from tests.support.databases import Database, DatabaseFactory, PgServers
from tests.support.waiting import wait_for_async


def _slot() -> str:
    """A name that no other test of this server has."""
    return f"slot_{os.getpid()}_{os.urandom(4).hex()}"


# ----------------------------------------------------------------------- slots


@pytest.mark.parametrize("pg", VERSIONS, indirect=True)
async def test_a_slots_snapshot_and_its_stream_meet_without_a_gap(database: DatabaseFactory) -> None:
    """What was committed before is in the snapshot that the holder imports, what comes after is not."""
    one = database()
    one.run("CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t VALUES (1)")
    name = _slot()
    async with sessions_of(one.uri) as sessions:
        async with creating_slot(sessions, name, major=one.server.major, timeout_s=30) as created:
            identity = await sessions.run("identity", read_identity)
            holder = await Holder.open(
                sessions, identity, imported=created.snapshot_name, position=created.consistent_lsn
            )
        one.run("INSERT INTO t VALUES (2)")
        sessions.snapshot_name = holder.snapshot.name
        async with sessions.reading() as session:
            rows = await session.run(
                "reading", lambda connection: connection.execute("SELECT id FROM public.t").fetchall()
            )
        slot = await find_slot(sessions, name)
        await holder.close()
    assert rows == [(1,)]
    assert holder.snapshot.position == created.consistent_lsn
    assert slot is not None
    assert slot.confirmed_lsn == created.consistent_lsn
    assert (slot.plugin, slot.database, slot.active_pid, slot.wal_status) == ("pgoutput", one.name, 0, "reserved")


@pytest.mark.parametrize("pg", [15, 18], indirect=True)
async def test_an_open_transaction_is_named_and_a_slot_that_waits_too_long_leaves_nothing(
    database: DatabaseFactory,
) -> None:
    """The creation waits for what has written and not ended; its pid, age and a prepared one's name are told."""
    one = database()
    one.run("CREATE TABLE t (id int PRIMARY KEY)")
    name, told = _slot(), list[Blocker]()
    with one.connect() as writer, one.connect() as preparer:
        pid = writer.info.backend_pid
        preparer.execute("BEGIN; INSERT INTO t VALUES (7)")
        preparer.execute(sql.SQL("PREPARE TRANSACTION {}").format(sql.Literal(name)))
        writer.execute("BEGIN; INSERT INTO t VALUES (1)")
        async with sessions_of(one.uri) as sessions:
            with pytest.raises(SlotTimeoutError, match=rf"pid {pid}[ ,]") as caught:
                async with creating_slot(sessions, name, major=one.server.major, timeout_s=1, on_waiting=told.extend):
                    pytest.fail("there was to be no slot")
            assert await find_slot(sessions, name) is None
        writer.execute("ROLLBACK")
        preparer.execute(sql.SQL("ROLLBACK PREPARED {}").format(sql.Literal(name)))
    assert f"prepared transaction '{name}'" in str(caught.value)
    assert {blocker.pid for blocker in told} >= {pid, 0}


async def test_a_slot_is_made_as_soon_as_what_it_waits_for_has_ended(database: DatabaseFactory) -> None:
    """Waiting costs no more than the transaction in the way."""
    one = database()
    one.run("CREATE TABLE t (id int PRIMARY KEY)")
    name, waits = _slot(), asyncio.Event()
    async with sessions_of(one.uri) as sessions:
        with one.connect() as writer:
            writer.execute("BEGIN; INSERT INTO t VALUES (1)")

            async def create() -> int:
                async with creating_slot(
                    sessions, name, major=18, timeout_s=60, on_waiting=lambda blockers: waits.set()
                ) as created:
                    return created.consistent_lsn

            making = asyncio.create_task(create())
            await asyncio.wait_for(waits.wait(), 30)
            assert not making.done()
            writer.execute("COMMIT")
            assert await asyncio.wait_for(making, 30) > 0


async def test_what_cannot_be_followed_says_so(database: DatabaseFactory, own_servers: PgServers) -> None:
    """No logical log, no free slot, no right to replicate, a name that is taken: each its own error and next step."""
    one = database()
    taken = _slot()
    async with sessions_of(one.uri) as sessions:
        await prepare(sessions, one, slot=taken)
        with pytest.raises(SlotUnfitError, match="one already"):
            async with creating_slot(sessions, taken, major=18, timeout_s=5):
                pass
        with pytest.raises(errors.OptionError, match="lower-case"):
            async with creating_slot(sessions, "Not-A-Name", major=18, timeout_s=5):
                pass
    async with sessions_of(one.reader_uri()) as sessions:
        with pytest.raises(errors.PrivilegeError, match="REPLICATION"):
            async with creating_slot(sessions, _slot(), major=18, timeout_s=5):
                pass

    small = own_servers.own(16, settings={"max_replication_slots": "1"})
    async with sessions_of(small.uri()) as sessions:
        async with creating_slot(sessions, "only", major=16, timeout_s=5):
            pass
        with pytest.raises(NoSlotFreeError, match="max_replication_slots"):
            async with creating_slot(sessions, "other", major=16, timeout_s=5):
                pass
        await remove_slot(sessions, "only")
    small.settings["wal_level"] = "replica"
    small.restart()
    async with sessions_of(small.uri()) as sessions:
        with pytest.raises(NotLogicalError, match="wal_level"):
            async with creating_slot(sessions, "any", major=16, timeout_s=5):
                pass


async def test_a_server_without_a_free_sender_says_so(own_servers: PgServers) -> None:
    """max_wal_senders bounds those who stream."""
    server = own_servers.own(18, settings={"max_wal_senders": "0"})
    async with sessions_of(server.uri()) as sessions:
        with pytest.raises(errors.ThrottledError, match="max_wal_senders"):
            await sessions.open("stream", replication=True)


async def test_a_slot_is_used_only_where_nothing_can_be_missing(database: DatabaseFactory) -> None:
    """Missing, moved ahead of the flow, of another kind, busy: never a silent gap."""
    one = database()
    one.run("CREATE TABLE t (id int PRIMARY KEY)")
    name, other = _slot(), _slot()
    async with sessions_of(one.uri) as sessions:
        position = await prepare(sessions, one, "t", slot=name)
        good = await find_slot(sessions, name)
        assert require_usable(good, name, database=one.name, position=position) is good
        with pytest.raises(SlotMovedError, match="would skip"):
            require_usable(good, name, database=one.name, position=position - 1)
        with pytest.raises(SlotMissingError):
            require_usable(None, name, database=one.name, position=position)
        with pytest.raises(SlotUnfitError):
            require_usable(good, name, database="elsewhere", position=position)

        one.run(sql.SQL("SELECT pg_create_physical_replication_slot({})").format(sql.Literal(other)))
        with pytest.raises(SlotUnfitError, match="physical"):
            require_usable(await find_slot(sessions, other), other, database=one.name, position=None)
        assert await remove_slot(sessions, other) == [f"replication slot {other}"]

        async with streaming(sessions, name, position) as connection:
            with pytest.raises(SlotBusyError, match=f"pid {connection.pid}, dsync/"):
                require_usable(await find_slot(sessions, name), name, database=one.name, position=position)


async def test_a_slot_whose_log_was_removed_is_lost(own_servers: PgServers) -> None:
    """max_slot_wal_keep_size lets the server break its promise; that is told, and the stream does not start."""
    server = own_servers.own(18, settings={"max_slot_wal_keep_size": "1MB", "min_wal_size": "32MB"})
    server.execute("CREATE TABLE t (id int PRIMARY KEY)")
    async with sessions_of(server.uri()) as sessions:
        async with creating_slot(sessions, "lost", major=18, timeout_s=5) as created:
            pass
        for _ in range(3):
            server.execute("SELECT pg_logical_emit_message(false, 'x', repeat('x', 20000000))")
            server.execute("SELECT pg_switch_wal()")
            server.execute("CHECKPOINT")
        slot = await find_slot(sessions, "lost")
        assert slot is not None
        assert slot.wal_status == "lost"
        with pytest.raises(SlotLostError, match="max_slot_wal_keep_size"):
            require_usable(slot, "lost", database="postgres", position=created.consistent_lsn)
        with pytest.raises(SlotLostError, match="max_slot_wal_keep_size"):
            async with streaming(sessions, "lost", created.consistent_lsn):
                pass


async def test_removal_says_what_it_removed_and_ends_the_flows_own_reader(database: DatabaseFactory) -> None:
    """A reader that belongs to the flow goes with the slot; a stranger's stays, and so does the slot."""
    one = database()
    one.run("CREATE TABLE t (id int PRIMARY KEY)")
    name = _slot()
    async with sessions_of(one.uri) as sessions, sessions_of(one.uri, flow="stranger") as stranger:
        position = await prepare(sessions, one, "t", slot=name)
        async with streaming(stranger, name, position):
            with pytest.raises(SlotBusyError):
                await remove_slot(sessions, name)
        await wait_for_async(lambda: _is_free(one, name), what="the stranger has let go")
        async with streaming(sessions, name, position):
            assert await remove_slot(sessions, name) == [f"replication slot {name}"]
        assert await remove_slot(sessions, name) == []
        assert await remove_publication(sessions, name) == [f"publication {name}"]
        assert await remove_publication(sessions, name) == []


def _is_free(one: Database, name: str) -> bool:
    return bool(one.value("SELECT NOT active FROM pg_replication_slots WHERE slot_name = %s", [name]))


async def test_the_barrier_waits_for_what_is_logged_and_not_yet_visible(own_servers: PgServers) -> None:
    """A commit that waits for a standby is in the log before readers see it: nothing may be read until they do.

    With a synchronous standby that does not exist, the writer's commit record lies before the slot's position, and a
    new snapshot lacks its row. The barrier waits as long as that is so.
    """
    server = own_servers.own(16)
    server.execute("CREATE TABLE t (id int PRIMARY KEY)")
    server.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
    server.restart()
    async with sessions_of(server.uri()) as sessions:
        writing = asyncio.create_task(asyncio.to_thread(server.execute, "INSERT INTO t VALUES (1)"))
        try:
            with server.connect() as reader:
                reader.execute("SET synchronous_commit = local")
                waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
                await wait_for_async(
                    lambda: reader.execute(waiting).fetchone() == (1,), what="a commit waits for the standby"
                )
                assert reader.execute("SELECT count(*) FROM t").fetchone() == (0,)
            running = await running_transactions(sessions)
            with pytest.raises(SlotTimeoutError, match="did not end"):
                await pass_visibility_barrier(sessions, running, timeout_s=0.5)
            passing = asyncio.create_task(pass_visibility_barrier(sessions, running, timeout_s=60))
        finally:
            server.execute("ALTER SYSTEM RESET synchronous_standby_names")
            server.execute("SELECT pg_reload_conf()")
            await writing
        await asyncio.wait_for(passing, 60)
        count = await sessions.run("counting", lambda c: c.execute("SELECT count(*) FROM public.t").fetchone())
        assert count == (1,)


# ---------------------------------------------------------------- publications


@pytest.mark.parametrize("pg", VERSIONS, indirect=True)
async def test_a_publication_has_exactly_its_tables(database: DatabaseFactory) -> None:
    """Made once, found again and corrected after a crash; tables are added and dropped; odd names are quoted."""
    one = database()
    one.run(
        "CREATE TABLE a (id int PRIMARY KEY)",
        'CREATE TABLE "B ""b" (id int PRIMARY KEY)',
        "CREATE TABLE c (id int); ALTER TABLE c REPLICA IDENTITY FULL",
        "CREATE TABLE child (id int PRIMARY KEY) INHERITS (a)",
        "CREATE TABLE parted (id int PRIMARY KEY) PARTITION BY LIST (id)",
        "CREATE TABLE leaf PARTITION OF parted FOR VALUES IN (1)",
    )
    a, b, c, leaf = table("a"), table('B "b'), table("c"), table("leaf")
    async with sessions_of(one.uri) as sessions:
        made = await create_publication(sessions, "p", [a, leaf])
        assert made.tables == {a, leaf}
        assert made.operations == {"insert", "update", "delete", "truncate"}
        assert not made.is_via_root
        await add_tables(sessions, "p", [a, b])
        await drop_tables(sessions, "p", [a, c])
        assert (await create_publication(sessions, "p", [b, c, leaf])).tables == {b, c, leaf}
        assert require_publication(await find_publication(sessions, "p"), "p", [b, c]).name == "p"


async def test_a_table_whose_writers_would_break_is_never_published(database: DatabaseFactory) -> None:
    """Without key or with REPLICA IDENTITY NOTHING an UPDATE would fail; such a table is refused, and nothing made."""
    one = database()
    one.run(
        "CREATE TABLE good (id int PRIMARY KEY)",
        "CREATE TABLE keyless (id int)",
        "CREATE TABLE nothing (id int PRIMARY KEY); ALTER TABLE nothing REPLICA IDENTITY NOTHING",
        "CREATE TABLE gone_index (id int NOT NULL); CREATE UNIQUE INDEX i ON gone_index (id)",
        "ALTER TABLE gone_index REPLICA IDENTITY USING INDEX i",
        "DROP INDEX i",
        "CREATE UNLOGGED TABLE unlogged (id int PRIMARY KEY)",
        "CREATE TABLE deferred (id int PRIMARY KEY DEFERRABLE)",
    )
    async with sessions_of(one.uri) as sessions:
        for name in ("keyless", "nothing", "gone_index", "deferred"):
            with pytest.raises(ReplicaIdentityError, match=rf"public\.{name}\b.*REPLICA IDENTITY FULL"):
                await create_publication(sessions, "p", [table("good"), table(name)])
        with pytest.raises(errors.UnsupportedError, match=r"public\.unlogged"):
            await create_publication(sessions, "p", [table("unlogged")])
        with pytest.raises(errors.MissingObjectError, match=r"public\.absent"):
            await create_publication(sessions, "p", [table("absent")])
        assert await find_publication(sessions, "p") is None
        await create_publication(sessions, "p", [table("good")])
    one.run("INSERT INTO good VALUES (1)", "UPDATE good SET id = 2", "DELETE FROM good")


@pytest.mark.parametrize("pg", [15, 18], indirect=True)
async def test_an_administrators_publication_is_good_if_it_leaves_nothing_out(database: DatabaseFactory) -> None:
    """FOR ALL TABLES is theirs to choose; rows, columns, operations or tables left out are errors."""
    one = database()
    one.run(
        # What a table computes itself is in no publication, and nobody misses it.
        "CREATE TABLE a (id int PRIMARY KEY, x int, twice int GENERATED ALWAYS AS (id * 2) STORED)",
        "CREATE TABLE b (id int PRIMARY KEY)",
        "CREATE PUBLICATION every FOR ALL TABLES",
        "CREATE PUBLICATION inserts FOR TABLE a WITH (publish = 'insert')",
        "CREATE PUBLICATION rooted FOR TABLE a WITH (publish_via_partition_root)",
        "CREATE PUBLICATION filtered FOR TABLE a WHERE (id > 3)",
        "CREATE PUBLICATION columns FOR TABLE a (id)",
        "CREATE PUBLICATION whole_list FOR TABLE a (id, x)",
    )
    a, b = table("a"), table("b")
    async with sessions_of(one.uri) as sessions:

        async def check(name: str) -> None:
            require_publication(await find_publication(sessions, name), name, [a])

        await check("every")
        await check("whole_list")
        for name, what in (("inserts", "update, delete"), ("rooted", "root"), ("filtered", "row"), ("columns", "col")):
            with pytest.raises(PublicationChangedError, match=what):
                await check(name)
        with pytest.raises(PublicationMissingError):
            await check("none")
        with pytest.raises(PublicationChangedError, match=r"all of public\.b"):
            require_publication(await find_publication(sessions, "columns"), "columns", [a, b])


async def test_a_cancelled_creation_leaves_no_slot(database: DatabaseFactory) -> None:
    """Ctrl-C while the creation waits: the server gives up too."""
    one = database()
    one.run("CREATE TABLE t (id int PRIMARY KEY)")
    name, waits = _slot(), asyncio.Event()
    async with sessions_of(one.uri) as sessions:
        with one.connect() as writer:
            writer.execute("BEGIN; INSERT INTO t VALUES (1)")

            async def create() -> None:
                async with creating_slot(
                    sessions, name, major=18, timeout_s=60, on_waiting=lambda blockers: waits.set()
                ):
                    pytest.fail("there was to be no slot")

            making = asyncio.create_task(create())
            await asyncio.wait_for(waits.wait(), 30)
            making.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await making
            writer.execute("ROLLBACK")
        assert await find_slot(sessions, name) is None
