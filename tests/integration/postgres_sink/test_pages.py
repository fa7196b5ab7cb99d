"""Writing pages: once, whole, by whoever holds the unit."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from dsync.protocol.page_store import PageStore
from dsync.protocol.pages import split_page
from dsync.sdk import errors, types
from dsync.sdk.errors import PageGoneError
from tests.integration.postgres_sink.conftest import OpenSink
from tests.integration.postgres_sink.support import BINARY, TEXT, Sink, page_of
from tests.support.databases import Database, DatabaseFactory, PgServers
from tests.support.fixtures import OpenProxy
from tests.support.waiting import wait_for_async

pytestmark = pytest.mark.parametrize("pg", [16, 18], indirect=True)

ROWS = "SELECT g AS id, 'row ' || g AS note FROM generate_series({}, {}) g"


def rows(db: Database, first: int, last: int, page_type: types.PageType = BINARY) -> types.Page:
    return page_of(db, ROWS.format(first, last), page_type)


@pytest.fixture
def db(database: DatabaseFactory) -> Database:
    made = database()
    made.run("CREATE TABLE t (id int, note text)")
    return made


@pytest.mark.parametrize("page_type", [BINARY, TEXT])
async def test_a_page_and_its_ledger_row_arrive_together(
    db: Database, open_sink: OpenSink, page_type: types.PageType
) -> None:
    sink = open_sink(db)
    await sink.open("u")
    written = await sink.write(sink.request(rows(db, 1, 5000, page_type), cursor=b"next"))
    assert written == sink.count() == 5000
    assert sink.ledger() == [("u", 1, b"next", 5000, False)]
    await sink.write(sink.request(rows(db, 5001, 5003, page_type), cursor=b"", done=True))
    assert sink.ledger() == [("u", 2, b"", 5003, True)]


async def test_a_repeated_page_is_written_once(db: Database, open_sink: OpenSink) -> None:
    """Its answer may have been lost; the same sequence number and cursor are the same write."""
    sink = open_sink(db)
    await sink.open("u")
    request = sink.request(rows(db, 1, 5000))
    assert await sink.write(request) == 5000
    size = db.value("SELECT pg_relation_size('t')")
    assert await sink.side.write_page(request) == 5000
    assert await open_sink(db).side.write_page(request) == 5000
    assert sink.count() == 5000
    assert sink.ledger() == [("u", 1, b"c", 5000, False)]
    # Not written and taken back: not even begun.
    assert db.value("SELECT pg_relation_size('t')") == size


async def test_a_repeated_page_is_recognised_before_its_key_objects(db: Database, open_sink: OpenSink) -> None:
    """Else its rows would be taken for records that the sink refuses."""
    db.run("ALTER TABLE t ADD PRIMARY KEY (id)")
    sink = open_sink(db)
    await sink.open("u")
    request = sink.request(rows(db, 1, 10))
    await sink.write(request)
    assert await sink.side.write_page(request) == 10


@pytest.mark.parametrize("with_key", [True, False])
async def test_a_repeat_that_meets_its_own_first_try_is_one_write(
    db: Database, open_sink: OpenSink, with_key: bool
) -> None:
    """The first try is still being committed when the second looks at the ledger, and then at the key if any."""
    if with_key:
        db.run("ALTER TABLE t ADD PRIMARY KEY (id)")
    first, second = open_sink(db), open_sink(db)
    await first.open("u")
    request = first.request(rows(db, 1, 10))
    with psycopg.connect(db.uri) as holder:
        # The first try gets as far as its ledger row.
        holder.execute("SELECT FROM _dsync.ledger FOR UPDATE")
        tasks = [asyncio.ensure_future(sink.side.write_page(request)) for sink in (first, second)]
        await wait_for_async(
            lambda: db.value("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'") == 2
        )
        holder.rollback()
    assert await asyncio.gather(*tasks) == [10, 10]
    assert sink_rows(first) == list(range(1, 11))


def sink_rows(sink: Sink) -> list[int]:
    return [row[0] for row in sink.database.rows("SELECT id FROM t ORDER BY id")]


async def test_a_page_without_rows_moves_the_ledger_alone(db: Database, open_sink: OpenSink) -> None:
    sink = open_sink(db)
    await sink.open("u")
    request = sink.request(rows(db, 1, 0), cursor=b"", done=True)
    assert await sink.write(request) == 0
    assert await sink.side.write_page(request) == 0
    assert sink.ledger() == [("u", 1, b"", 0, True)]


async def test_whoever_was_replaced_writes_nothing(db: Database, open_sink: OpenSink) -> None:
    """A coordinator that wakes up late (a zombie) finds its fence lower than the ledger's."""
    zombie, heir = open_sink(db), open_sink(db)
    await zombie.open("u")
    await heir.open("u")
    for page in (rows(db, 1, 10), rows(db, 1, 0)):
        with pytest.raises(errors.FencedError, match="another coordinator"):
            await zombie.write(zombie.request(page))
    assert sink_rows(heir) == []
    await heir.write(heir.request(rows(db, 1, 10)))
    assert heir.count() == 10


async def test_whoever_is_replaced_in_the_middle_of_a_page_writes_nothing(db: Database, open_sink: OpenSink) -> None:
    """The fence counts when the page commits, not when it begins; and the heir does not have to wait for it."""
    zombie, heir = open_sink(db), open_sink(db)
    await zombie.open("u")
    with psycopg.connect(db.uri) as holder:
        # Its COPY waits before the first row, and therefore before the ledger.
        holder.execute("LOCK TABLE t IN SHARE MODE")
        writing = asyncio.ensure_future(zombie.write(zombie.request(rows(db, 1, 10))))
        await wait_for_async(
            lambda: db.value("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'") == 1
        )
        async with asyncio.timeout(5):
            await heir.open("u")
        holder.rollback()
    with pytest.raises(errors.FencedError):
        await writing
    assert heir.count() == 0


async def test_a_unit_that_the_ledger_lost_is_not_written(db: Database, open_sink: OpenSink) -> None:
    sink = open_sink(db)
    await sink.open("u")
    db.run("DELETE FROM _dsync.ledger")
    with pytest.raises(errors.FencedError, match="no such unit"):
        await sink.write(sink.request(rows(db, 1, 10)))
    assert sink.count() == 0


async def test_a_write_out_of_order_is_a_bug_of_the_caller(db: Database, open_sink: OpenSink) -> None:
    sink = open_sink(db)
    await sink.open("u")
    request = sink.request(rows(db, 1, 10))
    assert request.context is not None
    skipping = replace(request, context=replace(request.context, seq=2))
    with pytest.raises(errors.PluginBugError, match="does not follow"):
        await sink.side.write_page(skipping)
    await sink.write(request)
    with pytest.raises(errors.PluginBugError, match="does not follow"):
        await sink.side.write_page(replace(request, context=replace(request.context, cursor=b"other")))
    assert sink.count() == 10


async def test_a_wrong_row_count_is_found_before_the_commit(db: Database, open_sink: OpenSink) -> None:
    sink = open_sink(db)
    await sink.open("u")
    page = replace(rows(db, 1, 10), rows=11)
    with pytest.raises(errors.PluginBugError, match="11 rows brought 10"):
        await sink.write(sink.request(page))
    assert (sink.count(), sink.ledger()) == (0, [("u", 0, b"", 0, False)])


async def test_a_stream_that_was_cut_short_is_refused(db: Database, open_sink: OpenSink) -> None:
    """COPY itself takes a binary stream that ends between two rows for a whole one."""
    sink = open_sink(db)
    await sink.open("u")
    whole = rows(db, 1, 10)
    assert isinstance(whole.packed, bytes)
    with pytest.raises(errors.PluginBugError, match="cut short"):
        await sink.write(sink.request(replace(whole, packed=whole.packed[:-2])))
    with pytest.raises(errors.PluginBugError):
        await sink.write(sink.request(replace(whole, packed=whole.packed[:-9] + b"\xff\xff")))
    assert sink.count() == 0


async def test_a_page_may_come_by_reference(db: Database, open_sink: OpenSink, tmp_path: Path) -> None:
    directory = tmp_path / "pages"
    directory.mkdir(mode=0o700)
    store = PageStore(directory)
    sink = open_sink(db)
    request = replace(
        sink.sessions.request, page_directory=str(directory), page_probe=store.write_probe(b"same file system")
    )
    sink.sessions.configure(request)
    page = rows(db, 1, 20000)
    assert isinstance(page.packed, bytes)
    ref = store.write(page.packed)
    await sink.open("u")
    assert await sink.write(sink.request(replace(page, packed=None, ref=ref))) == 20000
    assert sink.count() == 20000
    store.remove(ref)
    with pytest.raises(PageGoneError):
        await sink.write(sink.request(replace(page, packed=None, ref=ref)))


async def test_the_halves_of_a_refused_page_land_and_the_bad_row_stays_out(db: Database, open_sink: OpenSink) -> None:
    db.run("ALTER TABLE t ADD CHECK (id <> 7)")
    sink = open_sink(db)
    await sink.open("u")
    whole = rows(db, 1, 8)
    refused = 0
    pending = [whole]
    while pending:
        part = pending.pop(0)
        try:
            await sink.write(sink.request(part))
        except errors.RecordError:
            if part.rows == 1:
                refused += 1
            else:
                pending[:0] = split_page(part, part.rows // 2)
    assert refused == 1
    assert sink_rows(sink) == [1, 2, 3, 4, 5, 6, 8]


REFUSALS = [
    ("CREATE TABLE t (id int, note text NOT NULL)", "SELECT 1, NULL::text", "NotNullViolation (23502) column note"),
    ("CREATE TABLE t (id int CHECK (id > 5), note text)", "SELECT 1, 'secret'", "constraint t_id_check"),
    ("CREATE TABLE t (id int PRIMARY KEY, note text)", "SELECT 1, 'secret' UNION ALL SELECT 1, 'b'", "t_pkey"),
    ("CREATE TABLE t (id int, note varchar(3))", "SELECT 1, 'secret'", "row 1 of the page, column note"),
    ("CREATE TABLE t (id int, note int)", "SELECT 1, 'secret'", "row 1 of the page, column note"),
]


@pytest.mark.parametrize(("table", "query", "reason"), REFUSALS)
async def test_a_refused_row_is_named_by_its_reason_never_by_its_content(
    database: DatabaseFactory, open_sink: OpenSink, table: str, query: str, reason: str
) -> None:
    db = database()
    db.run(table.encode())  # type: ignore[arg-type]
    sink = open_sink(db)
    await sink.open("u")
    page = page_of(db, query, TEXT)
    with pytest.raises(errors.RecordError) as caught:
        await sink.write(sink.request(page))
    assert reason in str(caught.value)
    assert "secret" not in str(caught.value)
    assert sink.count() == 0
    assert sink.ledger() == [("u", 0, b"", 0, False)]


async def test_what_the_encoding_of_the_sink_lacks_is_a_refused_row(
    own_servers: PgServers, open_sink: OpenSink, pg: object
) -> None:
    """Not mojibake: the session speaks UTF8, the server converts or refuses."""
    server = own_servers.shared(getattr(pg, "major"))  # noqa: B009
    name = "latin_one"
    server.execute(
        sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'").format(sql.Identifier(name))
    )
    db = Database(server=server, name=name)
    try:
        db.run("CREATE TABLE t (note text)")
        sink = open_sink(db)
        await sink.open("u")
        good = types.Page(type=TEXT, rows=1, packed="grün\n".encode())
        await sink.write(sink.request(good))
        assert db.value("SELECT convert_to(note, 'LATIN1') FROM t") == "grün".encode("latin-1")
        with pytest.raises(errors.RecordError, match="22P05"):
            await sink.write(sink.request(types.Page(type=TEXT, rows=1, packed="😀\n".encode())))
        await sink.sessions.close()
    finally:
        db.drop()


async def test_a_table_that_was_altered_stops_its_namespace(db: Database, open_sink: OpenSink) -> None:
    sink = open_sink(db)
    await sink.open("u")
    await sink.write(sink.request(rows(db, 1, 1), columns=["id", "note"]))
    db.run("ALTER TABLE t DROP COLUMN note")
    with pytest.raises(errors.NamespaceChangedError, match="altered"):
        await sink.write(sink.request(rows(db, 2, 2), columns=["id", "note"]))
    db.run("DROP TABLE t")
    with pytest.raises(errors.NamespaceChangedError):
        await sink.write(sink.request(rows(db, 2, 2), columns=["id", "note"]))


async def test_a_read_only_sink_is_waited_for(db: Database, open_sink: OpenSink) -> None:
    """A service that is out of space makes its database read-only; that is not overruled."""
    sink = open_sink(db)
    await sink.open("u")
    await sink.sessions.close()
    db.run(sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(sql.Identifier(db.name)))
    late = open_sink(db)
    late.units = sink.units
    with pytest.raises(errors.SinkFullError):
        await late.write(late.request(rows(db, 1, 10)))


async def test_a_server_that_dies_under_a_page_leaves_nothing_of_it(db: Database, open_sink: OpenSink) -> None:
    sink = open_sink(db)
    await sink.open("u")
    with psycopg.connect(db.uri) as holder:
        holder.execute("SELECT FROM _dsync.ledger FOR UPDATE")
        request = sink.request(rows(db, 1, 10))
        writing = asyncio.ensure_future(sink.write(request))
        (pid,) = await wait_for_async(
            lambda: db.rows("SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%COMMIT%'")
        )
        db.run(f"SELECT pg_terminate_backend({pid[0]})".encode())  # type: ignore[arg-type]
        with pytest.raises(errors.ServerUnavailableError):
            await writing
        holder.rollback()
    assert sink.count() == 0
    assert await sink.write(request) == 10
    assert sink.count() == 10


async def test_a_commit_whose_answer_was_lost_is_recognised(
    db: Database, open_sink: OpenSink, open_proxy: OpenProxy
) -> None:
    """The kill between data and reply: the rows are there, the caller does not know, and asks again."""
    proxy = await open_proxy(db.uri)
    sink = open_sink(db, uri=proxy.through(db.uri))
    await sink.open("u")
    request = sink.request(rows(db, 1, 10))
    with psycopg.connect(db.uri) as holder:
        holder.execute("SELECT FROM _dsync.ledger FOR UPDATE")
        writing = asyncio.ensure_future(sink.write(request))
        await wait_for_async(
            lambda: db.rows("SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%COMMIT%'")
        )
        proxy.cut_after(1)
        holder.rollback()
    with pytest.raises(errors.ServerUnavailableError):
        await writing
    assert sink.count() == 10
    assert await sink.write(request) == 10
    assert sink.count() == 10


async def test_cancelling_a_write_ends_it_at_the_server(db: Database, open_sink: OpenSink) -> None:
    sink = open_sink(db)
    await sink.open("u")
    with psycopg.connect(db.uri) as holder:
        holder.execute("SELECT FROM _dsync.ledger FOR UPDATE")
        waiting = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        writing = asyncio.ensure_future(sink.write(sink.request(rows(db, 1, 10))))
        await wait_for_async(lambda: db.rows(waiting))
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
        assert db.rows(waiting) == []
        holder.rollback()
    assert sink.count() == 0
    await sink.write(sink.request(rows(db, 1, 10)))
    assert sink.count() == 10


async def test_hostile_names_of_tables_and_columns(database: DatabaseFactory, open_sink: OpenSink) -> None:
    db = database()
    db.run(
        'CREATE SCHEMA "a.b ""q"""',
        'CREATE TABLE "a.b ""q"""."select; 😀, line 7" ("co ""l" int PRIMARY KEY, ": x" int, "dsync_place" int)',
    )
    sink = open_sink(db)
    namespace = '"a.b ""q"""."select; 😀, line 7"'
    columns = ['co "l', ": x", "dsync_place"]
    await sink.open("u'; DROP TABLE _dsync.ledger; --", namespace=namespace)
    unit = "u'; DROP TABLE _dsync.ledger; --"
    page = page_of(db, "SELECT 1, 2, 3 UNION ALL SELECT 4, 5, 6")
    assert await sink.write(sink.request(page, unit, namespace=namespace, columns=columns)) == 2
    again = page_of(db, "SELECT 1, 7, 8 UNION ALL SELECT 1, 9, 9")
    assert await sink.write(sink.request(again, unit, namespace=namespace, columns=columns, upsert=True)) == 2
    assert db.rows('SELECT * FROM "a.b ""q"""."select; 😀, line 7" ORDER BY 1') == [(1, 9, 9), (4, 5, 6)]
    bad = types.Page(type=TEXT, rows=1, packed=b"5\tsecret\t1\n")
    with pytest.raises(errors.RecordError, match=r"in row 1 of the page, column : x$"):
        await sink.write(sink.request(bad, unit, namespace=namespace, columns=columns))


async def test_tables_without_columns_and_without_writable_columns(
    database: DatabaseFactory, open_sink: OpenSink
) -> None:
    db = database()
    db.run("CREATE TABLE none ()", "CREATE TABLE t (g int GENERATED ALWAYS AS (7) STORED)")
    sink = open_sink(db)
    await sink.open("u", "v")
    await sink.write(sink.request(page_of(db, "SELECT FROM generate_series(1, 3)"), namespace="public.none"))
    await sink.write(sink.request(page_of(db, "SELECT FROM generate_series(1, 3)", TEXT), "v"))
    assert db.rows("SELECT (SELECT count(*) FROM none), count(*), min(g) FROM t") == [(3, 3, 7)]


async def test_generated_and_identity_columns(database: DatabaseFactory, open_sink: OpenSink) -> None:
    """Identity values come along as they are, whatever GENERATED ALWAYS says; generated ones are computed."""
    db = database()
    db.run(
        "CREATE TABLE t (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, a int,"
        " twice int GENERATED ALWAYS AS (a * 2) STORED)"
    )
    sink = open_sink(db)
    await sink.open("u")
    await sink.write(sink.request(page_of(db, "SELECT 41, 1"), columns=["id", "a"]))
    await sink.write(sink.request(page_of(db, "SELECT 41, 2 UNION ALL SELECT 42, 3"), columns=["id", "a"], upsert=True))
    assert db.rows("SELECT * FROM t ORDER BY id") == [(41, 2, 4), (42, 3, 6)]
