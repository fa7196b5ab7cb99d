"""Changes whose values were not all sent, read again by their key: whole rows, or deletes of what is not there."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from contextlib import aclosing
from typing import LiteralString

import pytest
from dsync_postgres.sink.apply.records import read_record
from dsync_postgres.stream import complete
from dsync_postgres.stream.errors import VisibilityError
from dsync_postgres.stream.keys import key_hash
from dsync_postgres.stream.messages import Relation, RelationColumn

from dsync.protocol import frames
from dsync.sdk import errors, types
from tests.integration.postgres_source.conftest import OpenSource
from tests.integration.postgres_source.following import follow, new_flow
from tests.integration.postgres_source.support import Source
from tests.support.databases import Database, DatabaseFactory, PgServers
from tests.support.waiting import wait_for_async

VERSIONS = pytest.mark.parametrize("pg", [15, 16, 18], indirect=True)
Op = types.Operation
LARGE = "repeat(md5('x'), 300)"
_LACKING = (Op.PARTIAL_UPDATE, Op.MOVE)


def large_table(database: Database, key: LiteralString = "int") -> None:
    """A table whose column `v` is stored outside of its rows."""
    database.run(
        f"CREATE TABLE t (id {key} PRIMARY KEY, n int, v text)",
        "ALTER TABLE t ALTER v SET STORAGE EXTERNAL",
    )


async def lacking(source: Source, updates: types.UpdatesPartition, count: int = 1) -> types.ChangeFrame:
    """The changes that lack values, as the coordinator sends them back."""
    request = types.StreamChangesRequest(
        namespaces=updates.namespaces, type=types.ChangeType.PG_OUTPUT, cursor=updates.cursor
    )
    found: list[types.ChangeFrame] = []
    async with asyncio.timeout(60), aclosing(source.connector.stream_changes(request)) as stream:  # type: ignore[type-var]
        async for frame in stream:
            chosen = [index for index, operation in enumerate(frame.operations) if operation in _LACKING]
            if chosen:
                found.append(frames.pick(frame, chosen))
            if sum(map(len, found)) == count:
                return frames.join(found)
    raise AssertionError("a stream has no end")


def changes(frame: types.ChangeFrame) -> list[tuple[Op, list[bytes | None] | None, list[bytes | None] | None]]:
    """(operation, old, new) of each change; the old row's key columns alone."""
    found, start, body = [], 0, bytes(frame.body)
    for operation, size in zip(frame.operations, struct.unpack(f"<{len(frame)}I", frame.sizes), strict=True):
        old, new, lacks = read_record(body, start, start + size, len(frame.relations[0].columns))
        assert not lacks
        found.append((Op(operation), _list(old), _list(new)))
        start += size
    return found


def _list(values: object) -> list[bytes | None] | None:
    return list(values) if isinstance(values, list) else None


def hashes(frame: types.ChangeFrame) -> tuple[int, ...]:
    return struct.unpack(f"<{len(frame)}Q", frame.key_hashes)


async def begun(source: Source) -> types.UpdatesPartition:
    return (await follow(source, "public.t")).updates_partitions[0]


@VERSIONS
async def test_each_change_gets_the_row_that_its_key_has_by_now(
    database: DatabaseFactory, open_source: OpenSource
) -> None:
    """An update, one whose row is gone, and two that move a row, of which one goes on: order and number stay."""
    one = database()
    large_table(one)
    one.run(f"INSERT INTO t SELECT i, i, {LARGE} FROM generate_series(1, 4) i")
    source = await open_source(one, flow=new_flow())
    updates = await begun(source)
    one.run(
        "UPDATE t SET n = 10 WHERE id = 1",
        "UPDATE t SET n = 20 WHERE id = 2",
        "UPDATE t SET id = 30 WHERE id = 3",
        "UPDATE t SET id = 40 WHERE id = 4",
        "DELETE FROM t WHERE id = 2",
        "UPDATE t SET n = 11, v = NULL WHERE id = 1",
        "DELETE FROM t WHERE id = 40",
    )
    wanted = await lacking(source, updates, 4)
    assert [Op(each) for each in wanted.operations] == [Op.PARTIAL_UPDATE, Op.PARTIAL_UPDATE, Op.MOVE, Op.MOVE]
    before = one.value("SELECT pg_current_wal_insert_lsn() - '0/0'")

    answer = await source.connector.complete_changes(wanted)

    text = str(one.value("SELECT v FROM t WHERE id = 30")).encode()
    assert changes(answer) == [
        (Op.INSERT, None, [b"1", b"11", None]),
        (Op.DELETE, [b"2", None, None], None),
        (Op.UPDATE, [b"3", None, None], [b"30", b"3", text]),
        (Op.DELETE, [b"4", None, None], None),
    ]
    assert answer.relations == wanted.relations
    assert answer.position >= before
    assert hashes(wanted) == tuple(map(hash_of, (1, 2, 30, 40)))
    # The row that goes has the old key, whose lane is another one.
    assert hashes(answer) == tuple(map(hash_of, (1, 2, 30, 4)))


def hash_of(key: int) -> int:
    """The stream's own hash of a key of one integer."""
    column = RelationColumn(name="id", type_oid=23, modifier=-1, is_identity=True)
    relation = Relation(oid=0, schema="public", name="t", identity="d", columns=(column,), key=(0,))
    return key_hash(relation, {})((str(key).encode(),))


KEYS: tuple[tuple[LiteralString, LiteralString, LiteralString], ...] = (
    ("char(5)", "'ab'", "'ab'"),
    ("numeric(10,3)", "1.5", "1.50"),
    ("bool", "true", "'t'"),
    ("inet", "'10.0.0.1'", "'10.0.0.1'"),
    ("timestamptz", "'2020-01-02 03:04:05.123456+02'", "'2020-01-02 01:04:05.123456Z'"),
    ("bytea", "'\\x00ff'", "'\\x00ff'"),
    ("int[]", "'{1,NULL,3}'", "'{1,NULL,3}'"),
    ("citext", "'Ab'", "'AB'"),
    ("mood", "'so ''la la'''", "'so ''la la'''"),
    ("positive", "7", "7"),
    ('"an % odd"', "'x'", "'x'"),
    ("ltree", "'a.b.c'", "'a.b.c'"),
)


@pytest.mark.parametrize("pg", [15], indirect=True)
@pytest.mark.parametrize(("kind", "key", "same"), KEYS)
async def test_keys_of_every_kind_find_their_row(
    database: DatabaseFactory, open_source: OpenSource, kind: LiteralString, key: LiteralString, same: LiteralString
) -> None:
    """By the operator of the key's own index, as the type's own text is read; values come as the server prints them."""
    one = database()
    one.run(
        "CREATE EXTENSION citext",
        "CREATE EXTENSION ltree",
        "CREATE TYPE mood AS ENUM ('so ''la la''')",
        "CREATE DOMAIN positive AS int CHECK (VALUE > 0)",
        'CREATE DOMAIN "an % odd" AS text',
    )
    one.run(
        f'CREATE TABLE t ("k %" {kind} PRIMARY KEY, b bool, c char(4), v text)',
        "ALTER TABLE t ALTER v SET STORAGE EXTERNAL",
        f"INSERT INTO t VALUES ({key}, true, 'x', {LARGE})",
    )
    source = await open_source(one, flow=new_flow())
    updates = await begun(source)
    one.run("UPDATE t SET b = false")
    wanted = await lacking(source, updates)

    ((operation, _, new),) = changes(await source.connector.complete_changes(wanted))

    assert operation is Op.INSERT
    assert new is not None
    assert new[1:3] == [b"f", b"x   "]
    assert one.value(f'SELECT count(*) FROM t WHERE "k %" = {same}') == 1
    ((_, old, _),) = changes(await _after(one, "DELETE FROM t", source, wanted))
    assert old == [new[0], None, None, None]


async def _after(
    one: Database, statement: LiteralString, source: Source, frame: types.ChangeFrame
) -> types.ChangeFrame:
    one.run(statement)
    return await source.connector.complete_changes(frame)


async def test_a_key_of_several_columns_and_another_replica_identity(
    database: DatabaseFactory, open_source: OpenSource
) -> None:
    """The key is what the change names, in whatever order the columns lie."""
    one = database()
    one.run(
        "CREATE TABLE t (v text, b int NOT NULL, id int PRIMARY KEY, a text NOT NULL)",
        "ALTER TABLE t ALTER v SET STORAGE EXTERNAL",
        "CREATE UNIQUE INDEX other ON t (a, b)",
        "ALTER TABLE t REPLICA IDENTITY USING INDEX other",
        f"INSERT INTO t VALUES ({LARGE}, 1, 10, 'x'), ({LARGE}, 2, 20, 'x')",
    )
    source = await open_source(one, flow=new_flow())
    updates = await begun(source)
    one.run("UPDATE t SET id = 21 WHERE b = 2")
    wanted = await lacking(source, updates)
    ((operation, _, new),) = changes(await source.connector.complete_changes(wanted))
    assert (operation, new and new[1:]) == (Op.INSERT, [b"2", b"21", b"x"])


async def test_nothing_is_read_before_the_change_itself_can_be_seen(
    own_servers: PgServers, open_source: OpenSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit that waits for a standby is streamed already: the row of before would undo it at the sink for good."""
    server = own_servers.own(16)
    one = Database(server=server, name="postgres")
    large_table(one)
    one.run(f"INSERT INTO t VALUES (1, 1, {LARGE})")
    source = await open_source(one, flow=new_flow())
    updates = await begun(source)
    monkeypatch.setattr(complete, "_WAIT_S", 0.5)
    one.run("ALTER SYSTEM SET synchronous_standby_names = 'nobody'", "SELECT pg_reload_conf()")
    await _wait(lambda: one.value("SHOW synchronous_standby_names") == "nobody")
    writing = asyncio.create_task(asyncio.to_thread(one.run, "UPDATE t SET n = 2"))
    try:
        wanted = await lacking(source, updates)
        assert one.value("SELECT n FROM t") == 1
        with pytest.raises(VisibilityError):
            await source.connector.complete_changes(wanted)
    finally:
        with server.connect() as connection:
            connection.execute("SET synchronous_commit = local")
            connection.execute("ALTER SYSTEM RESET synchronous_standby_names")
            connection.execute("SELECT pg_reload_conf()")
        await writing
    ((_, _, new),) = changes(await source.connector.complete_changes(wanted))
    assert new is not None
    assert new[1] == b"2"


async def _wait(condition: Callable[[], bool]) -> None:
    await wait_for_async(condition, what="the server's setting")


async def test_an_idle_transaction_keeps_nobody_waiting(
    database: DatabaseFactory, open_source: OpenSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in no commit, so it is none of those that were streamed."""
    one = database()
    large_table(one)
    one.run(f"INSERT INTO t VALUES (1, 1, {LARGE})")
    source = await open_source(one, flow=new_flow())
    updates = await begun(source)
    one.run("UPDATE t SET n = 2")
    wanted = await lacking(source, updates)
    monkeypatch.setattr(complete, "_WAIT_S", 5.0)
    with one.connect() as idle:
        idle.execute("BEGIN")
        idle.execute("INSERT INTO t VALUES (2, 2, 'idle')")
        assert len(await source.connector.complete_changes(wanted)) == 1


async def test_what_cannot_be_had_any_more_is_named(database: DatabaseFactory, open_source: OpenSource) -> None:
    """Another shape of the table, more than a message holds, another form: each an error that says what to do."""
    one = database()
    large_table(one)
    one.run(f"INSERT INTO t SELECT i, 1, {LARGE} FROM generate_series(1, 20) i")
    source = await open_source(one, flow=new_flow())
    updates = await begun(source)
    one.run("UPDATE t SET n = 2")
    wanted = await lacking(source, updates, 20)
    assert len(await source.connector.complete_changes(wanted)) == 20
    await source.connector.open_session(
        types.SessionRequest(flow=source.flow, role=types.Role.SOURCE, max_message_bytes=100_000)
    )
    with pytest.raises(errors.CapacityError, match=r"public\.t"):
        await source.connector.complete_changes(wanted)
    with pytest.raises(errors.UnsupportedError):
        await source.connector.complete_changes(
            types.ChangeFrame(type=types.ChangeType.BSON, cursor=b"", transaction=0)
        )
    one.run("ALTER TABLE t ALTER n TYPE bigint")
    with pytest.raises(errors.NamespaceChangedError, match="column n") as raised:
        await source.connector.complete_changes(wanted)
    assert raised.value.namespace == "public.t"
