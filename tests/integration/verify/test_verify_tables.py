"""Verification between PostgreSQL servers: tables of every shape, interrupted, live, and without their snapshot."""

from __future__ import annotations

import asyncio

import pytest

from dsync.verify import Kind, RowsCompared, VerifyOptions, verify
from tests.integration.verify.support import MILLION, STILL, OpenEnds, compare, rows_of
from tests.support.databases import DatabaseFactory
from tests.unit.verify.fakes import MemoryProgress

KEYLESS = """
CREATE TABLE bag (a int, b text);
INSERT INTO bag SELECT n % 50, 'text ' || n % 100 FROM generate_series(1, 3000) n;
INSERT INTO bag VALUES (NULL, NULL), (NULL, NULL), (0, NULL);
"""


async def test_rows_without_a_key_compare_as_a_multiset(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_ends: OpenEnds
) -> None:
    """Order does not count, number does: two equal rows more do not cancel out, as they would under XOR."""
    source, target = source_db(), sink_db()
    for database in (source, target):
        database.run(KEYLESS)
    target.run(
        "CREATE TABLE other AS SELECT * FROM bag ORDER BY random()", "DROP TABLE bag", "ALTER TABLE other RENAME TO bag"
    )
    ends = open_ends(source, target)
    assert (await compare(ends, "public.bag")).exit_code == 0

    target.run("INSERT INTO bag SELECT 7, 'twice' FROM generate_series(1, 2)")
    target.run("DELETE FROM bag WHERE ctid IN (SELECT ctid FROM bag WHERE a = 3 LIMIT 4)")
    for options in (STILL, VerifyOptions(settle_delay_s=0)):
        report = await compare(ends, "public.bag", options)
        (namespace,) = report.namespaces
        assert (namespace.counts.missing, namespace.counts.extra, namespace.counts.different) == (4, 2, 0)
        assert [d.rows for d in namespace.differences if d.kind is Kind.EXTRA] == [2]


@pytest.mark.parametrize("pg_pair", [(15, 15), (15, 18)], indirect=True)
async def test_text_keys_compare_under_unlike_collations(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_ends: OpenEnds
) -> None:
    """Their order is another at each end, so they are told apart by hash and not by range."""
    source, target = source_db(), sink_db()
    source.run('CREATE TABLE words (id text COLLATE "de-x-icu" PRIMARY KEY, n int)')
    target.run('CREATE TABLE words (id text COLLATE "C" PRIMARY KEY, n int)')
    for database in (source, target):
        database.run(
            "INSERT INTO words SELECT chr(65 + n % 26) || chr(97 + n % 7) || 'ß' || n, n"
            " FROM generate_series(1, 40000) n"
        )
        database.run("ANALYZE")
    ends = open_ends(source, target)
    assert (await compare(ends, "public.words")).exit_code == 0
    target.run("UPDATE words SET n = -1 WHERE n = 77", "DELETE FROM words WHERE n = 30001")
    report = await compare(ends, "public.words")
    assert rows_of(report) == {("Zaß77",): (Kind.DIFFERENT, ("n",)), ("Xgß30001",): (Kind.MISSING, ())}
    assert max(end.hashed_rows for end in ends) < 10_000


async def test_shapes_that_differ_are_named(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_ends: OpenEnds
) -> None:
    """A lost column, another type and a lost table are differences; a column that only the target has is none."""
    source, target = source_db(), sink_db()
    source.run("CREATE TABLE one (id int PRIMARY KEY, a int, b text, c int)", "CREATE TABLE two (id int)")
    source.run("INSERT INTO one VALUES (1, 2, 'x', 3)")
    target.run(
        "CREATE TABLE one (id int PRIMARY KEY, extra text, b text, a bigint)", "INSERT INTO one VALUES (1, 'e', 'x', 2)"
    )
    ends = open_ends(source, target)
    report = await verify(*ends, {"public.one": "public.one", "public.two": "public.two"}, STILL)
    first, second = report.namespaces
    assert [(d.kind, d.detail) for d in first.differences] == [
        (Kind.TYPE, "the target has no column c (integer)"),
        (Kind.TYPE, "a is integer at the source and bigint at the target"),
    ]
    assert first.counts.faults == 0
    assert "extra" in first.notes[0]
    assert [(d.kind, d.detail) for d in second.differences] == [(Kind.NAMESPACE, "the target has no public.two")]
    assert report.exit_code == 4


async def test_a_target_without_the_key_is_compared_by_it_all_the_same(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_ends: OpenEnds
) -> None:
    """Nothing keeps the key unique there: a row that came twice is one too many, and a NULL is not lost."""
    source, target = source_db(), sink_db()
    source.run(
        "CREATE TABLE one (id int PRIMARY KEY, note text)",
        "INSERT INTO one SELECT n, 'n' FROM generate_series(1, 900) n",
    )
    target.run("CREATE TABLE one (id int, note text)", "INSERT INTO one SELECT n, 'n' FROM generate_series(1, 900) n")
    ends = open_ends(source, target)
    options = VerifyOptions(live=False, rows_per_range=100)
    assert (await compare(ends, "public.one", options)).exit_code == 0
    target.run("INSERT INTO one VALUES (5, 'n'), (NULL, 'n')")
    (namespace,) = (await compare(ends, "public.one", options)).namespaces
    assert (namespace.counts.missing, namespace.counts.extra, namespace.target_rows) == (0, 2, 902)


async def test_a_verification_that_was_stopped_goes_on(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_ends: OpenEnds
) -> None:
    """Finished ranges are not compared again, unless an end or the columns are others."""
    source, target = source_db(), sink_db()
    for database in (source, target):
        database.run(MILLION.format(rows=60_000), "ANALYZE big")
    target.run("DELETE FROM big WHERE id = 59999")
    ends = open_ends(source, target)
    store = MemoryProgress()
    options = VerifyOptions(live=False, rows_per_range=10_000, parallel=1)
    running = asyncio.create_task(compare(ends, "public.big", options, progress=store))

    def stop_after_three() -> None:
        if len(store.saved["public.big"]) == 4:
            running.cancel()

    store.on_save = stop_after_three
    with pytest.raises(asyncio.CancelledError):
        await running
    done = len(ends[0].asked)
    assert done < 6

    events: list[object] = []
    ends[0].asked.clear()
    report = await compare(ends, "public.big", options, progress=store, emit=events.append)
    resumed = [event.rows for event in events if isinstance(event, RowsCompared) and event.resumed]
    assert len(resumed) == 3
    assert rows_of(report) == {("59999",): (Kind.MISSING, ())}
    assert (report.source_rows, report.target_rows) == (60_000, 59_999)
    assert sum(1 for request in ends[0].asked if request.buckets == 1) == 3
    assert store.saved == {}


async def test_rows_in_flight_settle_and_faults_persist(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_ends: OpenEnds
) -> None:
    """Live, a difference is one only if it is still there when the row is read again."""
    source, target = source_db(), sink_db()
    for database in (source, target):
        database.run(MILLION.format(rows=2_000), "ANALYZE big")
    source.run("UPDATE big SET note = 'on its way' WHERE id IN (5, 6)", "INSERT INTO big VALUES (3000, 1, 'new')")
    source.run("DELETE FROM big WHERE id = 9")
    target.run("UPDATE big SET note = 'wrong' WHERE id = 1000")
    ends = open_ends(source, target)

    def arrive(event: object) -> None:
        if type(event).__name__ == "RowsSettling":
            target.run("UPDATE big SET note = 'on its way' WHERE id IN (5, 6)", "DELETE FROM big WHERE id = 9")
            target.run("INSERT INTO big VALUES (3000, 1, 'new') ON CONFLICT DO NOTHING")

    report = await compare(ends, "public.big", VerifyOptions(settle_delay_s=0.01, generations=2), emit=arrive)
    assert rows_of(report) == {("1000",): (Kind.DIFFERENT, ("note",))}
    (namespace,) = report.namespaces
    assert namespace.counts.faults == 1


async def test_after_a_lost_snapshot_only_rows_written_since_are_excused(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_ends: OpenEnds
) -> None:
    """A row that the source has not touched since the copy was copied wrongly; one that it has may have been right."""
    source, target = source_db(), sink_db()
    for database in (source, target):
        database.run(MILLION.format(rows=2_000), "ANALYZE big")
    ends = open_ends(source, target)
    snapshot = await ends[0].take_snapshot()
    source.run("UPDATE big SET note = 'later' WHERE id = 5", "INSERT INTO big VALUES (3000, 1, 'later')")
    source.run("DELETE FROM big WHERE id = 9")
    target.run("UPDATE big SET note = 'wrong' WHERE id = 1000", "DELETE FROM big WHERE id = 1001")
    options = VerifyOptions(settle_delay_s=0, generations=1, snapshot_lost=True, lost_snapshot=snapshot)
    report = await compare(ends, "public.big", options)
    (namespace,) = report.namespaces
    assert {d.key[0]: d.changed_since for d in namespace.differences} == {
        "5": True,
        "3000": True,
        "9": True,
        "1000": False,
        "1001": False,
    }
    assert (namespace.counts.missing, namespace.counts.different, namespace.counts.changed_since) == (1, 1, 3)
    assert report.exit_code == 4

    target.run(
        "UPDATE big SET note = 'note of 1000' WHERE id = 1000", "INSERT INTO big VALUES (1001, 31, 'note of 1001')"
    )
    report = await compare(ends, "public.big", options)
    assert report.exit_code == 0
    assert report.counts.changed_since == 3
