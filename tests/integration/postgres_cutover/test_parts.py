"""What a cut-over asks of a PostgreSQL server: who may write, where sequences stand, what the schema is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import psycopg
import pytest
import pytest_asyncio
from dsync_postgres.connector import PostgresConnector
from dsync_postgres.options import PostgresOptions

from dsync.protocol.errors import PrivilegeError
from dsync.sdk import PluginContext, types
from tests.support.databases import Database, DatabaseFactory

Connect = Callable[..., Awaitable[PostgresConnector]]

_TABLES = (
    "CREATE TABLE orders (id serial PRIMARY KEY, total numeric DEFAULT 0 CHECK (total >= 0), note text NOT NULL)",
    "CREATE TABLE lines (id bigint GENERATED ALWAYS AS IDENTITY, number int REFERENCES orders)",
    "CREATE SEQUENCE loose",
    "CREATE VIEW large AS SELECT * FROM orders WHERE total > 10",
    "CREATE MATERIALIZED VIEW beta AS SELECT count(*) AS large FROM large",
    "CREATE MATERIALIZED VIEW alpha AS SELECT large + 1 AS more FROM beta",
    "CREATE INDEX by_note ON orders (note) WHERE total > 0",
)


@pytest_asyncio.fixture
async def connect(tmp_path: Path) -> AsyncIterator[Connect]:
    made: list[PostgresConnector] = []

    async def one(uri: str, role: types.Role = types.Role.SOURCE, **options: bool) -> PostgresConnector:
        connector = PostgresConnector(uri, PostgresOptions(**options), PluginContext(private_directory=tmp_path))
        made.append(connector)
        await connector.open_session(
            types.SessionRequest(flow="a1b2c3", run="r1", role=role, max_message_bytes=4 << 20, parallel=2)
        )
        return connector

    yield one
    for connector in made:
        await connector.close()


def _read_only(database: Database, *statements: str) -> bool:
    """Whether a session that begins now may not write."""
    with database.connect() as connection:
        try:
            connection.execute("CREATE TABLE scratch_of_the_test (n int)")
        except psycopg.errors.ReadOnlySqlTransaction:
            return True
        connection.execute("DROP TABLE scratch_of_the_test")
    return False


@pytest.mark.parametrize("pg", [15, 18], indirect=True)
async def test_a_frozen_database_is_read_only_for_old_sessions_too_and_thaws_to_what_it_was(
    database: DatabaseFactory, connect: Connect
) -> None:
    """Idle sessions end at once, one in a transaction after its time; marks can still be written; both repeat."""
    source = database()
    source.run("CREATE TABLE orders (id int PRIMARY KEY)")
    connector = await connect(source.uri)
    before = await connector.freeze(dry_run=True)
    assert not _read_only(source)
    undo = f'BEGIN READ WRITE; ALTER DATABASE "{source.name}" RESET default_transaction_read_only; COMMIT'
    assert (before.ended, before.undo) == ((), undo)

    idle, writing = source.connect(), source.connect()
    writing.execute("BEGIN")
    writing.execute("INSERT INTO orders VALUES (1)")
    frozen = await connector.freeze(dry_run=False, wait_s=0.2)
    assert {one.id for one in frozen.ended} == {f"pid {c.info.backend_pid}" for c in (idle, writing)}
    assert [
        one.open_s is None for one in sorted(frozen.ended, key=lambda one: one.id != f"pid {idle.info.backend_pid}")
    ]
    assert frozen.left == ()
    for connection in (idle, writing):
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
        connection.close()
    assert _read_only(source)
    assert source.value("SELECT count(*) FROM orders") == 0

    fresh = await connect(source.uri)
    again = await fresh.freeze(dry_run=False, wait_s=0.2)
    assert again.ended == ()
    assert await fresh.mark((), b"a mark in a read-only session") > 0
    writer = await connect(source.uri, types.Role.SINK, overrule_read_only=True)
    await writer.set_sequences([])
    await writer.save_manifest(types.FlowManifest(flow="a1b2c3", fingerprint="f", name="", run="r1", plan=b""))
    for _ in range(2):
        await fresh.thaw(before.token)
    assert not _read_only(source)
    await connector.freeze(dry_run=False, wait_s=0.2)
    assert _read_only(source)
    source.run(before.undo.encode())  # type: ignore[arg-type]  # as a person would, in a session that is read-only
    assert not _read_only(source)

    source.run(f"ALTER DATABASE {source.name} SET default_transaction_read_only = off".encode())  # type: ignore[arg-type]
    set_before = await connector.freeze(dry_run=True)
    assert "SET default_transaction_read_only = 'off'" in set_before.undo


async def test_who_could_write_all_the_same_is_named(database: DatabaseFactory, connect: Connect) -> None:
    source = database()
    role = source.new_role("stubborn")
    source.run(f"ALTER ROLE {role} SET default_transaction_read_only = off".encode())  # type: ignore[arg-type]
    found = await (await connect(source.uri)).freeze(dry_run=True)
    assert any(role in sentence for sentence in found.exempt)
    with pytest.raises(PrivilegeError, match="takes the owner"):
        await (await connect(source.reader_uri())).freeze(dry_run=True)


@pytest.mark.parametrize("pg", [15, 18], indirect=True)
async def test_sequences_move_forward_and_never_back(database: DatabaseFactory, connect: Connect) -> None:
    source, sink = database(), database()
    for one in (source, sink):
        one.run(*_TABLES)
    sink.run("ALTER TABLE orders RENAME TO orders_of_others")
    sink.run("DROP SEQUENCE loose", "SELECT setval('lines_id_seq', 90)")
    source.run("SELECT setval('orders_id_seq', 40)", "SELECT setval('lines_id_seq', 7)")
    reading, writing = await connect(source.uri), await connect(sink.uri, types.Role.SINK)
    found = await reading.get_sequences(["public.orders", "public.lines"], whole_database=False)
    assert [(s.name, s.namespace, s.column, s.last_value, s.is_called) for s in found] == [
        ("public.lines_id_seq", "public.lines", "id", 7, True),
        ("public.orders_id_seq", "public.orders", "id", 40, True),
    ]
    everything = await reading.get_sequences(["public.orders"], whole_database=True)
    assert [(s.name, s.last_value, s.is_called) for s in everything][1] == ("public.loose", 1, False)
    mapped = [
        types.SequenceState(
            name=s.name.replace("orders_id", "unlike"),
            namespace=s.namespace.replace("public.orders", "public.orders_of_others"),
            column=s.column,
            last_value=s.last_value,
            is_called=s.is_called,
        )
        for s in everything
    ]
    for _ in range(2):
        assert await writing.set_sequences(mapped) == ["public.loose"]
    assert sink.value("SELECT nextval('orders_id_seq')") == 41
    assert sink.value("SELECT nextval('lines_id_seq')") == 91


@pytest.mark.parametrize("pg", [15, 18], indirect=True)
async def test_stored_views_are_computed_anew_each_after_those_it_reads(
    database: DatabaseFactory, connect: Connect
) -> None:
    """By name they would come the other way round; one that holds nothing is left so, one of other tables alone."""
    sink = database()
    sink.run(
        *_TABLES,
        "CREATE MATERIALIZED VIEW empty AS SELECT * FROM orders WITH NO DATA",
        "CREATE TABLE other (n int)",
        "CREATE MATERIALIZED VIEW of_other AS SELECT count(*) FROM other",
        "INSERT INTO orders VALUES (1, 100, '')",
    )
    connector = await connect(sink.uri, types.Role.SINK)
    refreshed = await connector.refresh_views(["public.orders"], whole_database=False)
    assert refreshed == ["public.beta", "public.alpha"]
    assert sink.value("SELECT more FROM alpha") == 2
    assert await connector.refresh_views([], whole_database=True) == ["public.beta", "public.of_other", "public.alpha"]
    assert sink.value("SELECT relispopulated FROM pg_class WHERE relname = 'empty'") is False


async def test_equal_schemas_have_equal_objects_whatever_the_server(
    pg15: object, pg18: object, database: DatabaseFactory, connect: Connect
) -> None:
    """And each property in which two can differ is an object of its own."""
    factory = DatabaseFactory(pg15, prefix="old")  # type: ignore[arg-type]
    try:
        old, new = factory(), database()
        found = []
        for one in (old, new):
            one.run(*_TABLES)
            connector = await connect(one.uri)
            tables = ["public.orders", "public.lines"]
            found.append(
                {
                    (o.kind, o.namespace, o.name): " ".join(o.definition.split())
                    for o in await connector.describe_objects(tables, whole_database=True)
                    if not o.kind.endswith("query")
                }
            )
            await connector.close()
        assert found[0] == found[1]
        assert {kind for kind, _, _ in found[0]} == {
            "table",
            "column",
            "default",
            "not null",
            "primary key",
            "check constraint",
            "foreign key",
            "index",
            "sequence",
            "view",
            "materialized view",
        }
        assert found[0]["index", "public.orders", "by_note"] == "USING btree (note) WHERE (total > (0)::numeric)"
        assert ("sequence", "", "public.loose") in found[0]
    finally:
        factory.drop_all()
