"""Pages: the right rows once, in sizes that were agreed upon, the same for the same cursor."""

import random
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import LiteralString

import pytest
from dsync_postgres.source.copyout import run_copy
from psycopg import sql

from dsync.protocol.page_store import PageStore
from dsync.sdk import errors, types
from tests.integration.postgres_source.conftest import OpenSource
from tests.integration.postgres_source.support import (
    BINARY,
    BSON,
    MIB,
    TEXT,
    body_lines,
    restore,
    start_of,
    table_lines,
)
from tests.support.databases import Database, DatabaseFactory

VERSIONS = pytest.mark.parametrize("pg", [15, 16, 18], indirect=True)
KIB = 1024


def every_type(database: Database) -> None:
    """A table of all kinds of values, hostile ones among them."""
    database.run(
        "CREATE TYPE mood AS ENUM ('sad', 'so ''so''', '')",
        "CREATE TYPE pair AS (a int, b text)",
        "CREATE DOMAIN short AS varchar(20)",
        """CREATE TABLE t (
            a int, b bigint, c numeric, d numeric(14,4), e real, f double precision, g text, h short, i char(5),
            j bytea, k boolean, l date, m time, n timetz, o timestamp, p timestamptz, q interval, r uuid, s json,
            t jsonb, u int[], v text[][], w mood, x pair, y int4range, z tsvector, aa inet, ab money, ac bit varying,
            ad point, ae pg_lsn, af oid)""",
        r"""INSERT INTO t SELECT
            n, n * 10000000000::bigint, CASE n % 7 WHEN 0 THEN 'NaN' WHEN 1 THEN 'Infinity' ELSE n * 1e-20 END, n / 3.0,
            CASE WHEN n % 11 = 0 THEN 'NaN' ELSE n / 7.0 END, CASE WHEN n % 13 = 0 THEN '-Infinity' ELSE n / 7.0 END,
            CASE n % 5 WHEN 0 THEN E'tab\tnew\nline\\ \u2603 😀' WHEN 1 THEN '' WHEN 2 THEN '\N' ELSE NULL END,
            'dom' || n, 'x', decode(repeat('00ff5c0a', n % 9), 'hex'), n % 2 = 0,
            (CASE n % 3 WHEN 0 THEN 'infinity' WHEN 1 THEN '4713-01-01 BC' ELSE '2026-01-01' END)::date,
            '24:00', '12:00+05:30',
            (CASE WHEN n % 3 = 0 THEN '-infinity' ELSE '0044-03-15 12:00:00 BC' END)::timestamp,
            '2026-01-01 00:00:00.000001+00',
            '1 year -2 days 03:04:05.6', md5(n::text)::uuid, '{"a":  1, "a": 2}', '{"b": [1, null, "\u00e9"]}',
            ARRAY[n, NULL, -n], '{{a,NULL},{"c,d","\"e"}}', 'so ''so''', ROW(n, E'x"y')::pair, int4range(n, n + 5),
            to_tsvector('simple', 'cats and dogs'), '10.0.0.1/8', n * 1.01, B'10110', point(n, -n), '16/B374D848', n
            FROM generate_series(1, 3000) n""",
    )


@VERSIONS
async def test_every_value_arrives_as_it_was(database: DatabaseFactory, open_source: OpenSource) -> None:
    """In binary and in text, over many pages."""
    made = database()
    every_type(made)
    made.run("CREATE TABLE restored (LIKE t)")
    source = await open_source(made, page_bytes=20 * KIB)
    plan = await source.plan("public.t")

    pages = await source.pages(plan.partitions[0], form=BINARY)
    restore(made, "restored", pages)

    assert len(pages) > 10
    assert sum(page.rows for page in pages) == 3000
    expected = table_lines(made, sql.SQL("TABLE t"))
    assert table_lines(made, sql.SQL("TABLE restored")) == expected
    assert await source.lines(plan) == expected


@pytest.mark.parametrize("form", [BINARY, TEXT, BSON])
async def test_the_same_cursor_gives_the_same_page(
    database: DatabaseFactory, open_source: OpenSource, form: types.PageType
) -> None:
    """Whatever was read before and whatever is written meanwhile: pages depend on cursor and snapshot alone."""
    made = database()
    made.run(
        "CREATE TABLE t (id int PRIMARY KEY, filler text)",
        "INSERT INTO t SELECT i, repeat(md5(i::text), 1 + (i % 400) / 10) FROM generate_series(1, 4000) i",
    )
    source = await open_source(made, page_bytes=50 * KIB)
    (partition,) = (await source.plan("public.t")).partitions
    pages = await source.pages(partition, form=form)
    cursors = [b"", *(page.next_cursor for page in pages[:-1])]
    assert len(pages) > 10

    made.run("UPDATE t SET filler = 'changed'", "DELETE FROM t WHERE id % 3 = 0", "VACUUM t")
    order = list(enumerate(cursors))
    random.Random(1).shuffle(order)

    for index, cursor in order:
        again = await source.page(partition, cursor, form=form)
        assert again == pages[index]


async def test_pages_weigh_what_was_asked_for(database: DatabaseFactory, open_source: OpenSource) -> None:
    """After the first one, which has only the size on disk to go by, the density of the page before is known."""
    made = database()
    made.run("CREATE TABLE t AS SELECT i, i * 2 AS j, repeat('x', 50) AS filler FROM generate_series(1, 100000) i")
    source = await open_source(made, page_bytes=256 * KIB)
    (partition,) = (await source.plan("public.t")).partitions

    sizes = [page.size_bytes for page in await source.pages(partition, form=BINARY)]

    assert all(200 * KIB < size < 270 * KIB for size in sizes[1:-1])
    assert sizes[0] < 270 * KIB


async def test_a_page_may_be_asked_to_weigh_something_else(database: DatabaseFactory, open_source: OpenSource) -> None:
    """Under --load-level or a rate the coordinator changes its mind from page to page."""
    made = database()
    made.run("CREATE TABLE t AS SELECT i, repeat('x', 50) AS filler FROM generate_series(1, 100000) i")
    source = await open_source(made, page_bytes=256 * KIB)
    (partition,) = (await source.plan("public.t")).partitions

    small = await source.page(partition, page_bytes=16 * KIB)
    large = await source.page(partition, page_bytes=MIB)

    assert small.size_bytes < 20 * KIB
    assert large.size_bytes > 600 * KIB


async def test_dense_blocks_after_thin_ones_do_not_make_a_huge_page(
    database: DatabaseFactory, open_source: OpenSource
) -> None:
    """The estimate of the page before can be a hundred times too low; the page is cut where it has its weight."""
    made = database()
    made.run(
        "CREATE TABLE t (i int, filler text)",
        "ALTER TABLE t ALTER filler SET STORAGE MAIN",
        "INSERT INTO t SELECT i, repeat('x', 30) FROM generate_series(1, 50000) i",
        # Compressed to a few bytes in the row itself, without anything outside.
        "INSERT INTO t SELECT i, repeat('y', 200000) FROM generate_series(1, 500) i",
        "INSERT INTO t SELECT i, repeat('z', 30) FROM generate_series(1, 50000) i",
    )
    source = await open_source(made, page_bytes=100 * KIB)
    (partition,) = (await source.plan("public.t")).partitions

    pages = await source.pages(partition, form=BINARY)

    assert sum(page.rows for page in pages) == 100_500
    assert max(page.size_bytes for page in pages) <= 420 * KIB
    assert len(pages) < 900


@VERSIONS
async def test_one_block_may_hold_many_pages(database: DatabaseFactory, open_source: OpenSource) -> None:
    """Rows of a hundred bytes that point to megabytes each: pages end between them, under the message limit."""
    made = database()
    made.run(
        "CREATE TABLE t (i int, body text)",
        "ALTER TABLE t ALTER body SET STORAGE EXTERNAL",
        "INSERT INTO t SELECT i, repeat(md5(i::text), 30000) FROM generate_series(1, 60) i",
    )
    assert made.value("SELECT pg_relation_size('t')") == 8192
    source = await open_source(made, page_bytes=2 * MIB, max_message_bytes=4 * MIB)
    plan = await source.plan("public.t")

    pages = await source.pages(plan.partitions[0])

    assert [page.rows for page in pages] == [2] * 30
    assert all(page.size_bytes < 4 * MIB for page in pages)
    lines = [line for page in pages for line in body_lines(page)]
    assert sorted(int(line.split(b"\t")[0]) for line in lines) == list(range(1, 61))
    assert len({start_of(plan.partitions[0], page.next_cursor)[0] for page in pages[:-1]}) == 1


async def test_compressed_documents_are_weighed_by_what_they_become(
    database: DatabaseFactory, open_source: OpenSource
) -> None:
    """The server knows a jsonb value's stored length only; the ratio is learnt and carried in the cursor."""
    made = database()
    made.run(
        "CREATE TABLE t (i int, body jsonb)",
        "INSERT INTO t SELECT i, jsonb_build_object('k', repeat(md5(i::text) || repeat('x', 1000), 100))"
        " FROM generate_series(1, 300) i",
    )
    source = await open_source(made, page_bytes=MIB, max_message_bytes=8 * MIB)
    (partition,) = (await source.plan("public.t")).partitions

    pages = await source.pages(partition, form=BINARY)

    assert sum(page.rows for page in pages) == 300
    assert all(page.size_bytes <= 4 * MIB for page in pages)
    assert all(0.5 * MIB < page.size_bytes < 2 * MIB for page in pages[2:-1])


@pytest.mark.parametrize("column", ["text", "bytea", "jsonb", "text[]"])
@pytest.mark.parametrize("form", [BINARY, TEXT])
async def test_a_row_over_the_limit_is_found_before_it_is_read(
    database: DatabaseFactory, open_source: OpenSource, column: LiteralString, form: types.PageType
) -> None:
    """It is named by its place; rows before it have arrived, and nothing of it is in the message."""
    made = database()
    values: dict[str, LiteralString] = {
        "text": "repeat('canary', 1000000)",
        "bytea": "repeat('canary', 1000000)::bytea",
        "jsonb": "to_jsonb(repeat('canary', 1000000))",
        "text[]": "ARRAY[repeat('canary', 500000), repeat('canary', 500000)]",
    }
    made.run(
        sql.SQL("CREATE TABLE t (i int, body {})").format(sql.SQL(column)),
        # Incompressible ones beside it, so that the table has much outside its rows.
        sql.SQL("INSERT INTO t SELECT i, {} FROM generate_series(1, 5) i").format(
            sql.SQL(values[column].replace("1000000", "100000").replace("500000", "50000"))
        ),
        sql.SQL("INSERT INTO t SELECT 6, {}").format(sql.SQL(values[column])),
        "INSERT INTO t SELECT 7, NULL",
    )
    source = await open_source(made, page_bytes=MIB, max_message_bytes=4 * MIB)
    (partition,) = (await source.plan("public.t")).partitions
    cursor, rows = b"", 0

    with pytest.raises(errors.CapacityError, match=r"public\.t: the row at ctid \(0,6\) is over the limit") as caught:
        while True:
            page = await source.page(partition, cursor, form=form)
            cursor, rows = page.next_cursor, rows + page.rows

    assert rows == 5
    assert "canary" not in str(caught.value)


async def test_a_giant_is_refused_without_being_sent(database: DatabaseFactory, open_source: OpenSource) -> None:
    """A row of 200 MB must not come near a process that has 512 for everything."""
    made = database()
    made.run(
        "CREATE TABLE t (i int, body text)",
        "ALTER TABLE t ALTER body SET STORAGE EXTERNAL",
        "INSERT INTO t SELECT 1, repeat('x', 200000000)",
    )
    source = await open_source(made, page_bytes=MIB, max_message_bytes=4 * MIB)
    (partition,) = (await source.plan("public.t")).partitions

    with peak_memory() as peak, pytest.raises(errors.CapacityError):
        await source.page(partition, form=BINARY)

    assert peak() < 20 * MIB


async def test_a_range_that_is_far_too_much_is_not_read_to_its_end(
    database: DatabaseFactory, open_source: OpenSource
) -> None:
    """Values compressed within their rows give away nothing: reading stops where the page has its weight."""
    made = database()
    made.run(
        "CREATE TABLE t (i int, filler text)",
        "ALTER TABLE t ALTER filler SET STORAGE MAIN",
        "INSERT INTO t SELECT i, repeat('y', 200000) FROM generate_series(1, 1500) i",
    )
    source = await open_source(made, page_bytes=4 * MIB, max_message_bytes=32 * MIB)
    (partition,) = (await source.plan("public.t")).partitions

    with peak_memory() as peak:
        page = await source.page(partition, form=BINARY)

    assert page.size_bytes <= 4 * MIB
    assert peak() < 60 * MIB


async def test_a_page_is_cut_alike_whenever_it_is_noticed(database: DatabaseFactory) -> None:
    """A little over the limit is seen in time or only at the end; the page must be the same."""
    made = database()
    made.run("CREATE TABLE t AS SELECT repeat('x', 1990) AS filler FROM generate_series(1, 50)")
    statement = b"COPY t TO STDOUT"
    with made.connect() as connection:
        whole = run_copy(connection, [statement], page_bytes=10_000, limit_bytes=0, is_binary=False)
        over = run_copy(connection, [statement], page_bytes=10_000, limit_bytes=len(whole.body) - 1, is_binary=False)
        early = run_copy(connection, [statement], page_bytes=10_000, limit_bytes=11_000, is_binary=False)

    assert (whole.rows, whole.is_cut_off) == (50, False)
    assert (over.rows, over.is_cut_off) == (5, True)
    assert (early.rows, early.is_cut_off) == (5, True)


async def test_a_large_row_under_the_limit_is_a_page_of_its_own(
    database: DatabaseFactory, open_source: OpenSource
) -> None:
    """One that could have been over the limit by its stored size, and is not."""
    made = database()
    made.run(
        "CREATE TABLE t (i int, body jsonb)",
        # Three of them compress to a fraction: stored sizes alone cannot tell what they become.
        "INSERT INTO t SELECT i, to_jsonb(repeat(md5(i::text) || repeat('y', 200), 12000))"
        " FROM generate_series(1, 9) i",
    )
    source = await open_source(made, page_bytes=64 * KIB, max_message_bytes=4 * MIB)
    (partition,) = (await source.plan("public.t")).partitions

    pages = await source.pages(partition, form=BINARY)

    assert [page.rows for page in pages] == [1] * 9


async def test_blocks_without_rows_make_no_empty_page(database: DatabaseFactory, open_source: OpenSource) -> None:
    """An empty page means that the partition is done; and the last rows come with an empty cursor."""
    made = database()
    made.run(
        "CREATE TABLE t WITH (autovacuum_enabled = off) AS SELECT i, repeat('x', 1000) AS filler"
        " FROM generate_series(1, 20000) i",
        "DELETE FROM t WHERE i NOT IN (1, 10000, 14000)",
    )
    source = await open_source(made, page_bytes=64 * KIB)
    (partition,) = (await source.plan("public.t")).partitions

    pages = await source.pages(partition)

    assert [line.split(b"\t")[0] for page in pages for line in body_lines(page)] == [b"1", b"10000", b"14000"]
    assert all(page.rows for page in pages)
    assert pages[-1].next_cursor == b""


async def test_an_empty_partition_is_one_empty_page(database: DatabaseFactory, open_source: OpenSource) -> None:
    """Of a table that never had rows, and of one that lost them."""
    made = database()
    made.run("CREATE TABLE never (i int)", "CREATE TABLE once AS SELECT 1 AS i", "DELETE FROM once")
    source = await open_source(made)

    for partition in (await source.plan("public.never", "public.once")).partitions:
        page = await source.page(partition, form=BINARY)
        assert (page.rows, page.next_cursor) == (0, b"")
        assert page.packed is not None
        assert len(page.packed) == 21, "a stream of a header and a trailer"


async def test_a_page_by_reference_is_in_the_directory(
    database: DatabaseFactory, open_source: OpenSource, tmp_path: Path
) -> None:
    """Both ends of one machine see the file; a small page travels by value all the same."""
    made = database()
    made.run("CREATE TABLE t AS SELECT i, repeat('x', 100) AS filler FROM generate_series(1, 10000) i")
    directory = tmp_path / "pages"
    directory.mkdir(mode=0o700)
    store = PageStore(directory)
    source = await open_source(
        made, page_bytes=MIB, page_directory=str(directory), page_probe=store.write_probe(b"content")
    )
    (partition,) = (await source.plan("public.t")).partitions
    by_value = await source.page(partition, form=BINARY)

    page = await source.page(partition, form=BINARY, by_reference=True)

    assert page.ref is not None
    assert page.next_cursor == by_value.next_cursor
    assert store.loaded(page).packed == by_value.packed
    small = await source.page(partition, form=BINARY, by_reference=True, page_bytes=16 * KIB)
    assert small.ref is None


async def test_documents_of_a_table_without_key_are_told_apart_by_their_place(
    database: DatabaseFactory, open_source: OpenSource
) -> None:
    """Equal rows are two rows; single records and packed pages hold the same documents."""
    made = database()
    made.run("CREATE TABLE t (a int, b text)", "INSERT INTO t SELECT 1, 'same' FROM generate_series(1, 500)")
    source = await open_source(made)
    (partition,) = (await source.plan("public.t")).partitions

    packed = await source.pages(partition, form=BSON)
    single = await source.connector.list_data(types.ReadRequest(partition=partition, type=BSON))

    assert sum(page.rows for page in packed) == 500
    assert single.records is not None
    assert len(set(single.records)) == single.rows
    assert packed[0].packed == b"".join(single.records)


async def test_documents_stay_under_the_limit_though_they_are_larger_than_rows(
    database: DatabaseFactory, open_source: OpenSource
) -> None:
    """Field names are in every document: pages are made smaller until they fit."""
    made = database()
    columns = sql.SQL(", ").join(
        sql.SQL("{} bool DEFAULT true").format(sql.Identifier(f"a_rather_long_name_for_a_column_{n}"))
        for n in range(40)
    )
    made.run(
        sql.SQL("CREATE TABLE t (id int PRIMARY KEY, {})").format(columns),
        "INSERT INTO t SELECT i FROM generate_series(1, 3000) i",
    )
    source = await open_source(made, page_bytes=200 * KIB, max_message_bytes=256 * KIB)
    (partition,) = (await source.plan("public.t")).partitions

    pages = await source.pages(partition, form=BSON)

    assert sum(page.rows for page in pages) == 3000
    assert all(page.size_bytes <= 256 * KIB for page in pages)


@contextmanager
def peak_memory() -> Iterator[Callable[[], int]]:
    """Tell how many bytes Python objects took at the most since the block began."""
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    peaks: list[int] = []
    try:
        yield lambda: peaks[-1]
    finally:
        peaks.append(tracemalloc.get_traced_memory()[1] - before)
        tracemalloc.stop()
