"""The checksums of the PostgreSQL connector on their own."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing

import psycopg
import pytest
import pytest_asyncio
from dsync_postgres.checksums.checksums import Checksums
from dsync_postgres.source.snapshots import Snapshot

from dsync.protocol.errors import (
    CapacityError,
    HiddenRowsError,
    MissingObjectError,
    PermanentError,
    RequestError,
    UnsupportedError,
)
from dsync.protocol.types import Bucket, ChecksumRequest, KeyRange, RowHash, RowsRequest
from tests.integration.verify.ends import PgEnd, take_snapshot
from tests.support.databases import Database, DatabaseFactory
from tests.support.waiting import wait_for_async

Open = Callable[[str], Checksums]

ALGORITHMS = ("hashtextextended", "md5")
FEW = """
    CREATE TABLE few (id int PRIMARY KEY, note text, amount numeric);
    INSERT INTO few SELECT n, 'note ' || n, n * 1.10 FROM generate_series(1, 2000) n;
"""


@pytest_asyncio.fixture
async def open_checksums() -> AsyncIterator[Open]:
    """Makes the checksums of a database."""
    ends: list[PgEnd] = []

    def open_one(uri: str) -> Checksums:
        ends.append(PgEnd(uri))
        return ends[-1].checksums

    yield open_one
    for end in ends:
        await end.close()


def ask(columns: tuple[str, ...] = ("id", "note", "amount"), **changes: object) -> ChecksumRequest:
    found = {"namespace": "public.few", "columns": columns, "key": ("id",), "algorithm": "hashtextextended", **changes}
    return ChecksumRequest(**found)  # type: ignore[arg-type] # by name, with the types that the field has


async def hashes(checksums: Checksums, request: ChecksumRequest) -> list[RowHash]:
    return [row async for batch in checksums.get_row_hashes(request) for row in batch]


def total(buckets: list[Bucket]) -> tuple[int, int]:
    return sum(bucket.count for bucket in buckets), sum(bucket.sum for bucket in buckets) % 2**128


@pytest.mark.parametrize("pg", [15, 16, 18], indirect=True)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("key", [("id",), ()])
async def test_sums_over_ranges_buckets_and_rows_are_one_sum(
    database: DatabaseFactory, open_checksums: Open, algorithm: str, key: tuple[str, ...]
) -> None:
    """A sum narrows down without being computed again: its parts add up to it, at every level."""
    one = database()
    one.run(FEW)
    checksums = open_checksums(one.uri)
    whole = await checksums.get_checksum(ask(key=key, algorithm=algorithm))
    coarse = await checksums.get_checksum(ask(key=key, algorithm=algorithm, buckets=16))
    chosen = tuple(sorted(bucket.bucket for bucket in coarse)[:3])
    finer = tuple(bucket + 16 * part for bucket in chosen for part in range(8))
    fine = await checksums.get_checksum(ask(key=key, algorithm=algorithm, buckets=128, only_buckets=finer))
    rows = await hashes(checksums, ask(key=key, algorithm=algorithm, buckets=16, only_buckets=chosen))

    assert [bucket.bucket for bucket in whole] == [0]
    assert whole[0].count == 2000
    assert total(coarse) == total(whole)
    assert total(fine) == total([bucket for bucket in coarse if bucket.bucket in chosen])
    assert total(fine)[1] == sum(int.from_bytes(row.hash, "big") * row.count for row in rows) % 2**128
    assert len(rows) == total(fine)[0]


async def test_ranges_are_half_open_and_compared_as_rows(database: DatabaseFactory, open_checksums: Open) -> None:
    """Neighbouring ranges share no row and lose none, for keys of several columns too."""
    one = database()
    one.run("CREATE TABLE two (a int, b uuid, PRIMARY KEY (a, b))")
    one.run("INSERT INTO two SELECT n % 7, gen_random_uuid() FROM generate_series(1, 500) n")
    middle = tuple(str(value) for value in one.rows("SELECT a, b FROM two ORDER BY a, b OFFSET 250 LIMIT 1")[0])
    checksums = open_checksums(one.uri)

    async def count(key_range: KeyRange) -> int:
        asked = ask(("a", "b"), namespace="public.two", key=("a", "b"), range=key_range)
        return total(await checksums.get_checksum(asked))[0]

    assert await count(KeyRange(upper=middle)) == 250
    assert await count(KeyRange(lower=middle)) == 250
    assert await count(KeyRange(lower=middle, upper=middle)) == 0


async def test_an_empty_range_has_one_bucket_of_nothing(database: DatabaseFactory, open_checksums: Open) -> None:
    """Zero rows are an answer, not a missing one; several buckets of nothing are no buckets."""
    one = database()
    one.run("CREATE TABLE few (id int PRIMARY KEY, note text, amount numeric)")
    checksums = open_checksums(one.uri)
    assert await checksums.get_checksum(ask()) == [Bucket(bucket=0, count=0, sum=0)]
    assert await checksums.get_checksum(ask(buckets=8)) == []
    assert await hashes(checksums, ask()) == []


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_rows_of_no_columns_are_counted(database: DatabaseFactory, open_checksums: Open, algorithm: str) -> None:
    """A table may have rows and no columns; they are all alike."""
    one = database()
    one.run("CREATE TABLE bare ()", "INSERT INTO bare DEFAULT VALUES", "INSERT INTO bare DEFAULT VALUES")
    checksums = open_checksums(one.uri)
    request = ask((), namespace="public.bare", key=(), algorithm=algorithm)
    rows = await hashes(checksums, request)
    assert [row.count for row in rows] == [2]
    assert (await checksums.get_checksum(request))[0].count == 2


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_names_mean_columns_whatever_they_are(
    database: DatabaseFactory, open_checksums: Open, algorithm: str
) -> None:
    """Our own aliases, the table's name, quotes, keywords and emoji as column names are still columns."""
    one = database()
    names = ["t", "b", "hi", "lo", "k0", "h", "r", "u", "dsync row", 'a "quoted"', "select", "ctid ", "😀", "odd.\ttab"]
    columns = ", ".join(f"{psycopg.sql.Identifier(name).as_string()} text" for name in names)
    one.run(psycopg.sql.SQL('CREATE TABLE "odd.\ttab" ({}, PRIMARY KEY (t, b))').format(psycopg.sql.SQL(columns)))
    one.run(
        psycopg.sql.SQL('INSERT INTO "odd.\ttab" SELECT {} FROM generate_series(1, 50) n').format(
            psycopg.sql.SQL(", ").join(psycopg.sql.SQL(f"n || 'v{place}'") for place in range(len(names)))
        )
    )
    checksums = open_checksums(one.uri)
    seen = set()
    for left_out in range(len(names) + 1):
        some = tuple(name for place, name in enumerate(names) if place != left_out)
        request = ask(some, namespace='public."odd.\ttab"', key=("t", "b"), algorithm=algorithm, buckets=4)
        buckets = await checksums.get_checksum(request)
        rows = await hashes(checksums, request)
        assert total(buckets) == (50, sum(int.from_bytes(row.hash, "big") for row in rows) % 2**128)
        assert {row.key for row in rows} == {(f"{n}v0", f"{n}v1") for n in range(1, 51)}
        seen.add(total(buckets)[1])
    assert len(seen) == len(names) + 1


async def test_a_column_that_is_not_there_is_an_error(database: DatabaseFactory, open_checksums: Open) -> None:
    """The table's own name is not taken for its whole row."""
    one = database()
    one.run(FEW)
    with pytest.raises(PermanentError, match='column "few" does not exist'):
        await open_checksums(one.uri).get_checksum(ask(("id", "few")))


async def test_the_order_of_columns_is_the_requests(database: DatabaseFactory, open_checksums: Open) -> None:
    """Tables that list the same columns in another order compare equal."""
    one = database()
    one.run(FEW)
    one.run("CREATE TABLE turned (amount numeric, id int PRIMARY KEY, note text)")
    one.run("INSERT INTO turned SELECT amount, id, note FROM few")
    checksums = open_checksums(one.uri)
    assert await checksums.get_checksum(ask()) == await checksums.get_checksum(ask(namespace="public.turned"))


async def test_inheritance_children_are_not_their_parents_rows(database: DatabaseFactory, open_checksums: Open) -> None:
    """A child is a namespace of its own; a partitioned parent that is asked for means its partitions."""
    one = database()
    one.run(FEW)
    one.run("CREATE TABLE child () INHERITS (few)", "INSERT INTO child VALUES (5000, 'child', 1)")
    one.run("CREATE TABLE parent (id int, note text, amount numeric) PARTITION BY RANGE (id)")
    one.run("CREATE TABLE part PARTITION OF parent FOR VALUES FROM (0) TO (10000)")
    one.run("INSERT INTO parent SELECT * FROM ONLY few")
    checksums = open_checksums(one.uri)
    plain = await checksums.get_checksum(ask())
    assert plain[0].count == 2000
    assert await checksums.get_checksum(ask(namespace="public.parent")) == plain


async def test_a_text_tells_values_apart_that_compare_equal(database: DatabaseFactory, open_checksums: Open) -> None:
    """Scale, signs of zero, NULL and nothing, spacing, padding: each its own hash; a session's settings: none."""
    one = database()
    one.run("CREATE TABLE few (id int PRIMARY KEY, a numeric, b float8, c text, d json, e char(3), f timestamptz)")
    rows = [
        "1.0, 0.0, '', '{\"a\":1}', 'x', '2024-01-01 00:00+00'",
        "1.00, 0.0, '', '{\"a\":1}', 'x', '2024-01-01 00:00+00'",
        "1.0, '-0', '', '{\"a\":1}', 'x', '2024-01-01 00:00+00'",
        "1.0, 0.0, NULL, '{\"a\":1}', 'x', '2024-01-01 00:00+00'",
        "1.0, 0.0, '', '{\"a\": 1}', 'x', '2024-01-01 00:00+00'",
        "1.0, 0.0, '', '{\"a\":1}', 'y', '2024-01-01 00:00+00'",
        "1.0, 'NaN', '', '{\"a\":1}', 'x', '2024-01-01 00:00+00'",
        "1.0, 0.0, '', '{\"a\":1}', 'x', '2024-01-01 01:00+00'",
        "1.0, 0.0, '', '{\"a\":1}', 'x', '2024-01-01 01:00+01'",
    ]
    for number, values in enumerate(rows):
        one.run(psycopg.sql.SQL(f"INSERT INTO few VALUES ({number}, {values})"))  # type: ignore[arg-type]
    for setting in ("timezone = 'Asia/Tokyo'", "datestyle = 'SQL, DMY'", "extra_float_digits = -5"):
        one.run(psycopg.sql.SQL(f"ALTER DATABASE {one.name} SET {setting}"))  # type: ignore[arg-type]
    found = await hashes(open_checksums(one.uri), ask(("a", "b", "c", "d", "e", "f")))
    assert len({row.hash for row in found}) == len(rows) - 1


async def test_a_key_is_the_servers_text(database: DatabaseFactory, open_checksums: Open) -> None:
    """As the type writes itself, so that it can be asked for again: padding stays, dates are ISO."""
    one = database()
    one.run("CREATE TABLE few (a char(4), b date, c bool, note text, PRIMARY KEY (a, b, c))")
    one.run("INSERT INTO few VALUES ('x', '2024-02-29', true, E'line\\nbreak\\t\\\\N')")
    checksums = open_checksums(one.uri)
    (row,) = await hashes(checksums, ask(("note",), key=("a", "b", "c")))
    assert row.key == ("x   ", "2024-02-29", "t")
    asked = RowsRequest(namespace="public.few", columns=("note",), key=("a", "b", "c"), keys=(row.key,))
    assert await checksums.get_rows(asked) == [("x   ", "2024-02-29", "t", "line\nbreak\t\\N")]


async def test_rows_come_by_key_and_absent_ones_are_left_out(database: DatabaseFactory, open_checksums: Open) -> None:
    """Key columns first, then what was asked for, NULL as None; no keys, no rows."""
    one = database()
    one.run(FEW, "UPDATE few SET note = NULL WHERE id = 2")
    checksums = open_checksums(one.uri)
    asked = RowsRequest(namespace="public.few", columns=("amount", "note"), key=("id",), keys=(("1",), ("2",), ("-7",)))
    assert sorted(await checksums.get_rows(asked)) == [("1", "1.10", "note 1"), ("2", "2.20", None)]
    none = RowsRequest(namespace="public.few", columns=("note",), key=("id",), keys=())
    assert await checksums.get_rows(none) == []


@pytest.mark.parametrize("pg", [15], indirect=True)
async def test_keys_of_an_extensions_type_are_found(database: DatabaseFactory, open_checksums: Open) -> None:
    """Its operators lie in a schema that our sessions do not search."""
    one = database()
    one.run("CREATE EXTENSION citext", "CREATE EXTENSION ltree")
    one.run("CREATE TABLE few (id citext, path ltree, note text, PRIMARY KEY (id, path))")
    one.run("INSERT INTO few VALUES ('Ab', 'top.sub', 'found'), ('other', 'top', 'not')")
    asked = RowsRequest(
        namespace="public.few", columns=("note",), key=("id", "path"), keys=(("Ab", "top.sub"), ("no", "top"))
    )
    assert await open_checksums(one.uri).get_rows(asked) == [("Ab", "top.sub", "found")]


async def test_rows_that_weigh_too_much_together_are_refused(database: DatabaseFactory, open_checksums: Open) -> None:
    """One alone always comes; the caller asks for fewer at a time."""
    one = database()
    one.run("CREATE TABLE few (id int PRIMARY KEY, note text)")
    one.run("INSERT INTO few SELECT n, repeat('x', 9000000) FROM generate_series(1, 2) n")
    checksums = open_checksums(one.uri)

    def asked(*keys: str) -> RowsRequest:
        return RowsRequest(namespace="public.few", columns=("note",), key=("id",), keys=tuple((key,) for key in keys))

    with pytest.raises(CapacityError, match="ask for fewer"):
        await checksums.get_rows(asked("1", "2"))
    ((key, note),) = await checksums.get_rows(asked("2"))
    assert (key, len(note or "")) == ("2", 9_000_000)


async def test_a_stream_that_is_closed_leaves_nothing_running(database: DatabaseFactory, open_checksums: Open) -> None:
    """Row hashes are fetched as they are asked for: nothing runs on for a caller that is gone."""
    one = database()
    one.run("CREATE TABLE few AS SELECT n AS id, 'x' AS note, 1.0 AS amount FROM generate_series(1, 20000) n")
    checksums = open_checksums(one.uri)
    async with aclosing(checksums.get_row_hashes(ask())) as batches:
        batch = await anext(batches)
        assert 0 < len(batch) < 20000
    assert states(one) == ["idle"]
    assert total(await checksums.get_checksum(ask()))[0] == 20000


async def test_a_cancelled_checksum_is_cancelled_at_the_server(database: DatabaseFactory, open_checksums: Open) -> None:
    """A scan of hours must not go on for a caller that has given up."""
    one = database()
    one.run("CREATE VIEW slow AS SELECT n AS id, pg_sleep(1)::text AS note FROM generate_series(1, 600) n")
    checksums = open_checksums(one.uri)
    task = asyncio.create_task(checksums.get_checksum(ask(("id", "note"), namespace="public.slow", key=())))
    await wait_for_async(lambda: states(one) == ["active"], what="the statement runs")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert "active" not in states(one)


def states(database: Database) -> list[str]:
    """What our sessions are doing."""
    return [
        str(state)
        for (state,) in database.rows(
            "SELECT state FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'dsync/%%'"
        )
    ]


async def test_the_copys_snapshot_is_what_is_seen(database: DatabaseFactory, open_checksums: Open) -> None:
    """While it is held, rows written since do not count."""
    one = database()
    one.run(FEW)
    checksums = open_checksums(one.uri)
    with one.connect() as holder:
        holder.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        row = holder.execute("SELECT pg_export_snapshot()").fetchone()
        assert row is not None
        checksums._sessions.snapshot_name = row[0]
        before = await checksums.get_checksum(ask())
        one.run("DELETE FROM few WHERE id < 100", "INSERT INTO few VALUES (9999, 'new', 1)")
        assert await checksums.get_checksum(ask()) == before
        assert len(await hashes(checksums, ask())) == 2000
        checksums._sessions.snapshot_name = ""
    assert await checksums.get_checksum(ask()) != before


async def test_hidden_rows_are_an_error(database: DatabaseFactory, open_checksums: Open) -> None:
    """Row security makes no smaller sum."""
    one = database()
    one.run(FEW, "ALTER TABLE few ENABLE ROW LEVEL SECURITY", "CREATE POLICY a_few ON few USING (id < 10)")
    with pytest.raises(HiddenRowsError):
        await open_checksums(one.reader_uri()).get_checksum(ask())


async def test_an_unknown_algorithm_or_table_is_named(database: DatabaseFactory, open_checksums: Open) -> None:
    """Instead of being taken for another one."""
    one = database()
    one.run(FEW)
    checksums = open_checksums(one.uri)
    with pytest.raises(RequestError, match="sha9"):
        await checksums.get_checksum(ask(algorithm="sha9"))
    with pytest.raises(MissingObjectError, match=r"public\.none"):
        await checksums.get_checksum(ask(namespace="public.none"))


async def test_the_portable_algorithm_does_not_depend_on_the_encoding(
    database: DatabaseFactory, open_checksums: Open
) -> None:
    """A LATIN1 database refuses the fast one, and agrees with a UTF-8 one under md5."""
    one = database()
    latin = f"{one.name}_latin1"
    one.server.execute(
        psycopg.sql.SQL("CREATE DATABASE {} ENCODING 'LATIN1' TEMPLATE template0").format(psycopg.sql.Identifier(latin))
    )
    try:
        uris = (one.uri, one.server.uri(latin))
        for uri in uris:
            with psycopg.connect(uri, autocommit=True, client_encoding="utf8") as connection:
                connection.execute("CREATE TABLE few (id text PRIMARY KEY, note text)")
                connection.execute("INSERT INTO few SELECT n || 'ä', 'Größe ' || n FROM generate_series(1, 50) n")
        utf8, latin1 = map(open_checksums, uris)
        with pytest.raises(UnsupportedError, match="md5"):
            await latin1.get_checksum(ask(("id", "note")))
        request = ask(("id", "note"), algorithm="", buckets=8)
        assert sorted(await utf8.get_checksum(request), key=lambda bucket: bucket.bucket) == sorted(
            await latin1.get_checksum(request), key=lambda bucket: bucket.bucket
        )
        for end in (utf8, latin1):
            await end._sessions.close()
    finally:
        one.server.drop_database(latin)


MANY = "CREATE TABLE many AS SELECT {key} AS id, repeat('x', 60) AS note FROM generate_series(1, 60000) n"


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("n", True),
        ("n::numeric / 7", True),
        ("'2000-01-01'::timestamptz + n * interval '1 hour'", True),
        # Scattered over the table: every range would visit all of its blocks.
        ("md5(n::text)::uuid", False),
        # Collations differ between servers.
        ("lpad(n::text, 9, '0')", False),
    ],
)
async def test_ranges_are_cut_where_that_helps(
    database: DatabaseFactory, open_checksums: Open, key: str, expected: bool
) -> None:
    """Boundaries follow the rows there are, and together the ranges hold every row once."""
    one = database()
    one.run(psycopg.sql.SQL(MANY.format(key=key)))  # type: ignore[arg-type] # from the cases above
    one.run("ALTER TABLE many ADD PRIMARY KEY (id)")
    checksums = open_checksums(one.uri)
    ranges = await checksums.plan_ranges("public.many", ["id"], 10_000)
    counts = [
        total(await checksums.get_checksum(ask(("id", "note"), namespace="public.many", range=key_range)))[0]
        for key_range in ranges
    ]
    assert sum(counts) == 60_000
    assert (len(ranges) > 1) is expected
    assert ranges[0].lower == ranges[-1].upper == ()
    assert all(one.upper == two.lower for one, two in itertools.pairwise(ranges))
    if expected:
        assert 5 <= len(ranges) <= 7
        assert max(counts) < 15_000


async def test_ranges_follow_gaps_and_several_columns(database: DatabaseFactory, open_checksums: Open) -> None:
    """Where one value of the first column has most of the rows, the second one is cut."""
    one = database()
    one.run("CREATE TABLE many (a int, id bigint, note text, PRIMARY KEY (a, id))")
    one.run("INSERT INTO many SELECT 1, n, repeat('x', 60) FROM generate_series(1, 30000) n")
    one.run("INSERT INTO many SELECT 2, n::bigint * 1000000, repeat('x', 60) FROM generate_series(1, 30000) n")
    checksums = open_checksums(one.uri)
    ranges = await checksums.plan_ranges("public.many", ["a", "id"], 10_000)
    counts = [
        total(await checksums.get_checksum(ask(("note",), namespace="public.many", key=("a", "id"), range=one_range)))[
            0
        ]
        for one_range in ranges
    ]
    assert sum(counts) == 60_000
    assert len(ranges) == 6
    assert max(counts) < 15_000


async def test_a_small_or_a_nullable_table_is_one_range(database: DatabaseFactory, open_checksums: Open) -> None:
    """A NULL is in no range, so a key that may be NULL is not cut."""
    one = database()
    one.run(FEW, psycopg.sql.SQL(MANY.format(key="n")), "ALTER TABLE many ADD UNIQUE (id)")  # type: ignore[arg-type]
    checksums = open_checksums(one.uri)
    assert await checksums.plan_ranges("public.few", ["id"], 10_000_000) == [KeyRange()]
    assert await checksums.plan_ranges("public.few", [], 10) == [KeyRange()]
    assert await checksums.plan_ranges("public.many", ["id"], 10_000) == [KeyRange()]


async def test_rows_written_since_a_snapshot_are_told_apart(database: DatabaseFactory, open_checksums: Open) -> None:
    """By the age of their version: what is older than the snapshot was certainly not written since."""
    one = database()
    one.run(FEW)
    checksums = open_checksums(one.uri)

    with one.connect() as connection:
        then = Snapshot.decode(take_snapshot(connection))
    one.run("UPDATE few SET note = 'later' WHERE id = 5", "VACUUM FREEZE few")

    async def written(snapshot: bytes) -> list[str]:
        keys = (("5",), ("6",), ("7777",))
        asked = RowsRequest(namespace="public.few", columns=(), key=("id",), keys=keys, changed_since=snapshot)
        return sorted(row[0] or "" for row in await checksums.get_rows(asked))

    assert await written(then.encode()) == ["5"]
    with one.connect() as connection:
        assert await written(take_snapshot(connection)) == []
    # Of another timeline, or another database, the numbers mean nothing: any row may have been written.
    assert await written(dataclasses.replace(then, timeline=then.timeline + 1).encode()) == ["5", "6"]
    assert await written(dataclasses.replace(then, endpoint="other").encode()) == ["5", "6"]
