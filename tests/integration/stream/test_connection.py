"""The replication connection on real servers: what it reads, what it acknowledges, and what keeps it alive."""

import os

import psycopg
import pytest
from dsync_postgres.stream.connection import DATA, HEADER_BYTES, KEEPALIVE
from dsync_postgres.stream.decoder import Decoder
from dsync_postgres.stream.errors import PublicationMissingError, SlotBusyError, SlotMissingError
from dsync_postgres.stream.messages import Change, Commit, LogicalMessage, Truncate
from dsync_postgres.stream.publication import remove_publication
from dsync_postgres.stream.slots import find_slot

from dsync.sdk import errors
from tests.integration.stream.support import VERSIONS, changes, prepare, read_until, sessions_of, streaming
from tests.support.databases import Database, DatabaseFactory, PgServers
from tests.support.waiting import wait_for_async


def _slot() -> str:
    """A name that no other test of this server has."""
    return f"slot_{os.getpid()}_{os.urandom(4).hex()}"


@pytest.mark.parametrize("pg", VERSIONS, indirect=True)
async def test_what_is_written_comes_in_the_servers_own_text(database: DatabaseFactory) -> None:
    """Inserts, updates, deletes, truncates and marks; values under pinned settings, whatever the database says."""
    one = database()
    one.run(
        "CREATE TABLE t (id int PRIMARY KEY, at timestamptz, note text)",
        "CREATE TABLE full_rows (a text); ALTER TABLE full_rows REPLICA IDENTITY FULL",
    )
    with one.connect() as connection:
        connection.execute(f"ALTER DATABASE {one.name} SET DateStyle = 'German'".encode())
        connection.execute(f"ALTER DATABASE {one.name} SET TimeZone = 'Asia/Tokyo'".encode())
    name, decoder = _slot(), Decoder()
    async with sessions_of(one.uri) as sessions:
        position = await prepare(sessions, one, "t", "full_rows", slot=name)
        one.run(
            "INSERT INTO t VALUES (1, '2024-02-03 04:05:06.7+00', 'ä'), (2, NULL, NULL)",
            "UPDATE t SET id = 3, note = 'x' WHERE id = 2",
            "DELETE FROM t WHERE id = 3",
            "INSERT INTO full_rows VALUES ('a')",
            "UPDATE full_rows SET a = 'b'",
            "TRUNCATE t, full_rows",
            "SELECT pg_logical_emit_message(true, 'dsync', 'mark')",
        )
        async with streaming(sessions, name, position) as connection:
            found = await read_until(connection, LogicalMessage, decoder)
    rows = [(change.kind, change.old, change.new, change.old_is_full) for change in changes(found)]
    first_record = changes(found)[0].record
    assert [chr(kind) for kind, *_ in rows] == ["I", "I", "U", "D", "I", "U"]
    first, moved, full = rows[0][2], rows[2], rows[5]
    assert first is not None
    assert first.key == (b"1",)
    assert b"2024-02-03 04:05:06.7+00" in first_record
    assert moved[1] is not None
    assert moved[2] is not None
    assert (moved[1].key, moved[2].key) == ((b"2",), (b"3",))
    assert full[3]
    assert sum(isinstance(message, Truncate) for message in found) == 1


async def test_only_what_is_acknowledged_may_be_discarded(database: DatabaseFactory) -> None:
    """Reading moves nothing at the server; `acknowledge` does, and a stream begun again goes on from there."""
    one = database()
    one.run("CREATE TABLE t (id int PRIMARY KEY)")
    name = _slot()

    async def confirmed() -> int:
        slot = await find_slot(sessions, name)
        assert slot is not None
        return slot.confirmed_lsn

    async with sessions_of(one.uri) as sessions:
        position = await prepare(sessions, one, "t", slot=name)
        one.run("INSERT INTO t VALUES (1)", "INSERT INTO t VALUES (2)")
        async with streaming(sessions, name, position) as connection:
            found = await read_until(connection, Commit, Decoder(), count=2)
            assert connection.received_lsn > position
            assert await confirmed() == position
            end = next(message.end_lsn for message in found if isinstance(message, Commit))
            connection.acknowledge(end)
            connection.acknowledge(position)
            await wait_for_async(lambda: _equals(confirmed, end), what="the server has taken note")
        async with streaming(sessions, name, end) as connection:
            again = await read_until(connection, Change, Decoder())
    assert [change.new.key for change in changes(again) if change.new] == [(b"2",)]


async def _equals(ask: object, value: int) -> bool:
    return await ask() == value  # type: ignore[operator, no-any-return]


async def test_a_consumer_that_takes_nothing_costs_no_connection_and_no_memory(own_servers: PgServers) -> None:
    """Far beyond wal_sender_timeout: the status is sent all the same, and the buffer stays as small as it was told."""
    server = own_servers.own(18, settings={"wal_sender_timeout": "1s"})
    server.execute("CREATE TABLE t (id int PRIMARY KEY, x text)")
    limit = 256 * 1024
    async with sessions_of(server.uri()) as sessions:
        position = await prepare(sessions, Database(server=server, name="postgres"), "t", slot="slow")
        server.execute("INSERT INTO t SELECT i, repeat('x', 1000) FROM generate_series(1, 40000) i")
        async with streaming(sessions, "slow", position, buffer_bytes=limit) as connection:
            # The sink is busy for four times the server's patience, and the server is asked how long that was.
            with server.connect() as admin:
                await wait_for_async(lambda: _is_older(admin, connection.pid, seconds=4), what="4 s have passed")
            decoder, rows = Decoder(), 0
            while rows < 40000:
                taken = await connection.read()
                assert sum(map(len, taken)) < 2 * limit
                messages = [decoder.decode(data, HEADER_BYTES) for data in taken if data[0] == DATA]
                rows += len(changes(messages))
            reader = await find_slot(sessions, "slow")
            assert reader is not None
            assert reader.active_pid == connection.pid


def _is_older(admin: psycopg.Connection, pid: int, *, seconds: int) -> bool:
    query = "SELECT clock_timestamp() - backend_start > %s * interval '1 s' FROM pg_stat_activity WHERE pid = %s"
    row = admin.execute(query, [seconds, pid]).fetchone()
    assert row is not None, "the server has ended the connection"
    return bool(row[0])


async def test_a_connection_that_ends_says_so_after_everything_that_came(database: DatabaseFactory) -> None:
    """A killed sender is worth a retry; what came before is not lost."""
    one = database()
    one.run("CREATE TABLE t (id int PRIMARY KEY)")
    name = _slot()
    async with sessions_of(one.uri) as sessions:
        position = await prepare(sessions, one, "t", slot=name)
        async with streaming(sessions, name, position) as connection:
            one.run("INSERT INTO t VALUES (1)")
            await wait_for_async(lambda: connection.received_lsn > position, what="the row has come")
            with pytest.raises(SlotBusyError):
                async with streaming(sessions, name, position):
                    pass
            with one.connect() as admin:
                admin.execute("SELECT pg_terminate_backend(%s)", [connection.pid])
            found: list[bytes] = []
            with pytest.raises(errors.ServerUnavailableError):
                while True:
                    found += await connection.read()
    assert {data[0] for data in found} <= {DATA, KEEPALIVE}
    assert any(data[HEADER_BYTES : HEADER_BYTES + 1] == b"I" for data in found)


@pytest.mark.parametrize("pg", VERSIONS, indirect=True)
async def test_a_stream_without_slot_or_publication_says_so(database: DatabaseFactory) -> None:
    """Both are named, with what to do; neither is worth a retry."""
    one = database()
    one.run("CREATE TABLE t (id int PRIMARY KEY)")
    name = _slot()
    async with sessions_of(one.uri) as sessions:
        with pytest.raises(SlotMissingError, match=name):
            async with streaming(sessions, name, 1):
                pass
        position = await prepare(sessions, one, "t", slot=name)
        await remove_publication(sessions, name)
        one.run("INSERT INTO t VALUES (1)")
        with pytest.raises(PublicationMissingError, match=name):
            async with streaming(sessions, name, position) as connection:
                while True:
                    # On no version a transaction that lacks its changes.
                    assert all(data[HEADER_BYTES : HEADER_BYTES + 1] != b"C" for data in await connection.read())
