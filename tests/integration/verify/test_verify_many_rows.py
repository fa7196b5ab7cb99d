"""Verification between PostgreSQL servers: speed and memory on many rows."""

from __future__ import annotations

import asyncio
import gc
import time

import psutil
import pytest

from dsync.verify import Kind, VerifyOptions
from tests.integration.verify.support import MIB, OpenEnds, compare, fill_million, rows_of
from tests.support.databases import DatabaseFactory


@pytest.mark.slow
@pytest.mark.parametrize("keyed", [True, False])
async def test_three_faults_among_a_million_rows_are_found_fast(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_ends: OpenEnds, keyed: bool
) -> None:
    """Next to no row travels: sums find the buckets, and only theirs are looked at one by one."""
    source, target = source_db(fill_million), sink_db(fill_million)
    target.run(
        "UPDATE big SET a = a + 1 WHERE id = 500001",
        "DELETE FROM big WHERE id = 7",
        "INSERT INTO big VALUES (1000001, 1, 'x')",
    )
    if not keyed:
        for database in (source, target):
            database.run("ALTER TABLE big DROP CONSTRAINT big_pkey")
    ends = open_ends(source, target)
    started_at = time.monotonic()
    report = await compare(ends, "public.big")
    elapsed_s = time.monotonic() - started_at
    (namespace,) = report.namespaces
    if keyed:
        assert rows_of(report) == {
            ("7",): (Kind.MISSING, ()),
            ("500001",): (Kind.DIFFERENT, ("a",)),
            ("1000001",): (Kind.EXTRA, ()),
        }
    else:
        assert (namespace.counts.missing, namespace.counts.extra) == (2, 2)
    assert namespace.source_rows == namespace.target_rows == 1_000_000
    assert max(end.hashed_rows for end in ends) < 20_000
    # Both sides on one machine that others use too; alone it takes about two seconds.
    assert elapsed_s < 30


@pytest.mark.slow
async def test_memory_stays_bounded_where_every_row_differs(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_ends: OpenEnds
) -> None:
    """Counts stay exact, the first differences are listed, and what waits for its counterpart waits in a file."""
    source, target = source_db(fill_million), sink_db(fill_million)
    # Without the key both ends are one open range; in the opposite order no row meets its counterpart soon.
    source.run("DELETE FROM big WHERE id > 300000", "ALTER TABLE big DROP CONSTRAINT big_pkey", "ANALYZE big")
    source.run("CREATE UNIQUE INDEX ON big (id)")
    target.run("CREATE TABLE other AS SELECT id, a, note || '!' AS note FROM big WHERE id <= 300000 ORDER BY id DESC")
    target.run(
        "DROP TABLE big", "ALTER TABLE other RENAME TO big", "ALTER TABLE big ADD PRIMARY KEY (id)", "ANALYZE big"
    )
    source.run("ALTER TABLE big ALTER id TYPE text, ADD PRIMARY KEY (id)", "ANALYZE big")
    target.run(
        "ALTER TABLE big DROP CONSTRAINT big_pkey",
        "ALTER TABLE big ALTER id TYPE text, ADD PRIMARY KEY (id)",
        "ANALYZE big",
    )
    ends = open_ends(source, target)
    process = psutil.Process()
    await compare(ends, "public.big", VerifyOptions(live=False, quick=True))
    gc.collect()
    before = process.memory_info().rss
    peaks = [before]

    async def watch() -> None:
        while True:
            peaks.append(process.memory_info().rss)
            await asyncio.sleep(0.02)

    watching = asyncio.create_task(watch())
    report = await compare(ends, "public.big", VerifyOptions(live=False, max_diffs=5, held_bytes=8 * MIB))
    watching.cancel()
    (namespace,) = report.namespaces
    assert namespace.counts.different == 300_000
    assert namespace.counts.missing == namespace.counts.extra == 0
    assert len(namespace.differences) == 5
    assert namespace.unlisted == 299_995
    assert max(peaks) - before < 64 * MIB
