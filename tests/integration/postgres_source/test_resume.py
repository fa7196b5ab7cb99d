"""After a lost snapshot: what is called unchanged is what a reader of the new snapshot would copy."""

import dataclasses
import random
from typing import Any, LiteralString

import pytest
from dsync_postgres.options import PostgresOptions
from dsync_postgres.source import openplan
from dsync_postgres.source.resume import written_between
from dsync_postgres.source.snapshots import Snapshot
from psycopg import sql

from dsync.sdk import errors, types
from tests.integration.postgres_source.conftest import OpenSource
from tests.integration.postgres_source.support import MIB, Copy, Source, table_lines
from tests.support.databases import Database, DatabaseFactory

VERSIONS = pytest.mark.parametrize("pg", [15, 16, 18], indirect=True)
CHANGED, UNCHANGED = types.Verdict.CHANGED, types.Verdict.UNCHANGED


def fill(database: Database, rows: int = 3000) -> None:
    """A table of some pages, with room for updates in place and holes."""
    database.run(
        "CREATE TABLE t (id int PRIMARY KEY, a int, filler text) WITH (fillfactor = 80, autovacuum_enabled = off)",
        sql.SQL("INSERT INTO t SELECT i, i, repeat('x', 100) FROM generate_series(1, {}) i").format(sql.Literal(rows)),
        "DELETE FROM t WHERE id BETWEEN 100 AND 120",
        "VACUUM t",
    )


async def part_of(source: Source, plan: types.Plan, pages: int) -> Copy:
    """Copy the first pages of each partition, and lose the process."""
    copy = Copy(partitions=list(plan.partitions))
    for partition in plan.partitions:
        for _ in range(pages):
            await copy.step(source, partition)
    await source.connector.close()
    return copy


def verdict_of(resumed: types.ResumedPlan, namespace: str = "public.t") -> types.NamespaceVerdict:
    """The verdict about one table."""
    (verdict,) = [verdict for verdict in resumed.verdicts if verdict.namespace == namespace]
    return verdict


async def test_while_the_snapshot_is_held_nothing_changes(database: DatabaseFactory, open_source: OpenSource) -> None:
    """The coordinator alone was restarted: the plug-in still has it."""
    made = database()
    fill(made)
    source = await open_source(made)
    plan = await source.plan("public.t")
    copy = Copy(partitions=list(plan.partitions))
    await copy.step(source, plan.partitions[0])
    made.run("DELETE FROM t")

    resumed = await source.connector.resume_plan(plan.snapshot, copy.progress())

    assert resumed == types.ResumedPlan(snapshot=plan.snapshot)
    await copy.finish(source)
    assert sum(copy.lines().values()) == 2979


@VERSIONS
async def test_what_nobody_touched_goes_on_under_the_new_snapshot(
    database: DatabaseFactory, open_source: OpenSource
) -> None:
    """Changes beyond what was copied are simply read; so are rows that were appended."""
    made = database()
    made.run(
        "CREATE TABLE t (id int PRIMARY KEY, a int, filler text) WITH (autovacuum_enabled = off)",
        "INSERT INTO t SELECT i, i, repeat('x', 100) FROM generate_series(1, 3000) i",
    )
    plan = await (source := await open_source(made)).plan("public.t")
    copy = await part_of(source, plan, 2)
    copied = len(copy.lines())
    assert 0 < copied < 2500
    made.run("DELETE FROM t WHERE id > 2900", "INSERT INTO t SELECT i, i, 'new' FROM generate_series(5000, 6000) i")
    made.run("VACUUM t")

    again = await open_source(made)
    resumed = await again.connector.resume_plan(plan.snapshot, copy.progress())

    assert resumed.snapshot != plan.snapshot
    assert verdict_of(resumed).verdict is UNCHANGED
    await copy.finish(again)
    assert copy.lines() == table_lines(made, sql.SQL("TABLE t"))


@pytest.mark.parametrize(
    ("statements", "reason"),
    [
        (("DELETE FROM t WHERE id = 5",), "1 rows were deleted"),
        (("DELETE FROM t WHERE id = 5", "VACUUM t"), "1 rows were deleted"),
        (("UPDATE t SET a = -a WHERE id = 5",), "1 rows were written or changed"),
        (("UPDATE t SET a = -a WHERE id = 5", "VACUUM FREEZE t"), "1 rows were written or changed"),
        (("UPDATE t SET filler = repeat('y', 3000) WHERE id = 5",), "rows were"),
        (("INSERT INTO t VALUES (110, 0, 'in a hole')",), "1 rows were written or changed"),
        (("DELETE FROM t WHERE id = 5", "VACUUM t", "INSERT INTO t VALUES (5, 5, repeat('x', 100))"), "written"),
        (("TRUNCATE t",), "truncated, rewritten"),
        (("VACUUM FULL t",), "truncated, rewritten"),
        (("DROP TABLE t",), "dropped"),
        (("ALTER TABLE t RENAME TO u",), "dropped"),
        (("ALTER TABLE t ADD COLUMN b int",), "columns were altered"),
        (("ALTER TABLE t RENAME COLUMN a TO b",), "columns were altered"),
    ],
)
async def test_what_was_touched_is_named(
    database: DatabaseFactory, open_source: OpenSource, statements: tuple[LiteralString, ...], reason: str
) -> None:
    """One row is enough, wherever it went; rows that are read again come with the partitions for it."""
    made = database()
    fill(made)
    plan = await (source := await open_source(made)).plan("public.t")
    copy = await part_of(source, plan, 2)
    made.run(*statements)

    again = await open_source(made)
    verdict = verdict_of(await again.connector.resume_plan(plan.snapshot, copy.progress()))

    assert verdict.verdict is CHANGED
    assert reason in verdict.reason
    if "columns" in reason or reason == "dropped":
        assert verdict.partitions == (), "what the sink has prepared does not fit any more"
    else:
        anew = Copy(partitions=list(verdict.partitions))
        await anew.finish(again)
        assert anew.lines() == table_lines(made, sql.SQL("TABLE t"))


async def test_a_finished_table_that_has_grown_is_changed(database: DatabaseFactory, open_source: OpenSource) -> None:
    """Its last range was open above, so what came there was part of it."""
    made = database()
    fill(made, 50)
    made.run("CREATE TABLE empty (i int)", "CREATE TABLE still AS SELECT 1 AS i", "CREATE TABLE none (i int)")
    names = ("public.t", "public.empty", "public.still", "public.none")
    plan = await (source := await open_source(made)).plan(*names)
    copy = await part_of(source, plan, 100)
    assert len(copy.done) == 4
    made.run("INSERT INTO t VALUES (999, 1, 'x')", "INSERT INTO empty VALUES (1)")

    again = await open_source(made)
    resumed = await again.connector.resume_plan(plan.snapshot, copy.progress())

    assert {v.namespace: v.verdict for v in resumed.verdicts} == {
        "public.t": CHANGED,
        "public.empty": CHANGED,
        "public.still": UNCHANGED,
        "public.none": UNCHANGED,
    }


async def test_of_a_table_that_was_not_begun_the_file_alone_counts(
    database: DatabaseFactory, open_source: OpenSource
) -> None:
    """Its partitions are read under the new snapshot, unless they are of another file."""
    made = database()
    made.run("CREATE TABLE same AS SELECT 1 AS i", "CREATE TABLE other AS SELECT 1 AS i")
    plan = await (source := await open_source(made)).plan("public.same", "public.other")
    copy = await part_of(source, plan, 0)
    made.run("UPDATE same SET i = 2", "TRUNCATE other", "INSERT INTO other VALUES (3)")

    again = await open_source(made)
    resumed = await again.connector.resume_plan(plan.snapshot, copy.progress())

    assert verdict_of(resumed, "public.same") == types.NamespaceVerdict(namespace="public.same", verdict=UNCHANGED)
    other = verdict_of(resumed, "public.other")
    assert other.verdict is CHANGED
    copy.partitions = [plan.partitions[0], *other.partitions]
    await copy.finish(again)
    assert copy.lines() == {b"2": 1, b"3": 1}


async def test_rows_of_a_transaction_that_ran_at_the_time_are_in_doubt(
    database: DatabaseFactory, open_source: OpenSource
) -> None:
    """It may commit later with rows among the copied ones; its number is older than the snapshot itself."""
    made = database()
    fill(made, 300)
    with made.connect() as slow:
        slow.execute("BEGIN")
        slow.execute("INSERT INTO t VALUES (110, 1, 'slow')")
        made.run("CREATE TABLE later ()", "CREATE TABLE later2 ()")
        plan = await (source := await open_source(made)).plan("public.t")
        copy = await part_of(source, plan, 1)
        slow.execute("COMMIT")

    again = await open_source(made)
    verdict = verdict_of(await again.connector.resume_plan(plan.snapshot, copy.progress()))

    assert verdict.verdict is CHANGED


async def test_a_second_loss_is_judged_from_the_second_snapshot(
    database: DatabaseFactory, open_source: OpenSource
) -> None:
    """Partitions keep their name through any number of lives."""
    made = database()
    fill(made)
    plan = await (source := await open_source(made)).plan("public.t")
    copy = await part_of(source, plan, 1)
    snapshot = plan.snapshot
    for _ in range(3):
        again = await open_source(made)
        resumed = await again.connector.resume_plan(snapshot, copy.progress())
        assert verdict_of(resumed).verdict is UNCHANGED
        snapshot = resumed.snapshot
        await copy.step(again, plan.partitions[0])
        made.run("UPDATE t SET a = a + 1 WHERE id = 2990")
        await again.connector.close()

    last = await open_source(made)
    await last.connector.resume_plan(snapshot, copy.progress())
    await copy.finish(last)
    assert copy.lines() == table_lines(made, sql.SQL("TABLE t"))


async def test_a_new_run_asks_what_it_may_keep_of_the_run_before(
    database: DatabaseFactory, open_source: OpenSource
) -> None:
    """Its own snapshot is held already, and everything is judged by that one."""
    made = database()
    made.run("CREATE TABLE same AS SELECT 1 AS i", "CREATE TABLE other AS SELECT 1 AS i")
    before = await (source := await open_source(made)).plan("public.same", "public.other")
    copy = await part_of(source, before, 1)
    made.run("UPDATE other SET i = 2")
    again = await open_source(made)
    plan = await again.plan("public.same", "public.other")

    resumed = await again.connector.resume_plan(before.snapshot, copy.progress())

    assert resumed.snapshot == plan.snapshot
    assert verdict_of(resumed, "public.same").verdict is UNCHANGED
    assert verdict_of(resumed, "public.other").verdict is CHANGED
    assert await again.lines(plan) == {b"1": 1, b"2": 1}


async def test_a_table_rewritten_while_it_was_recounted_is_changed(
    database: DatabaseFactory, open_source: OpenSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recount must have read the file that the plan means, or it says nothing."""
    made = database()
    fill(made, 50)
    plan = await (source := await open_source(made)).plan("public.t")
    copy = await part_of(source, plan, 100)

    async def look_then_rewrite(*arguments: Any) -> Any:
        found = await openplan.look(*arguments)
        made.run("VACUUM FULL t")
        return found

    monkeypatch.setattr("dsync_postgres.source.side.look", look_then_rewrite)
    again = await open_source(made)
    verdict = verdict_of(await again.connector.resume_plan(plan.snapshot, copy.progress()))

    assert verdict.verdict is CHANGED
    assert "rewritten" in verdict.reason


async def test_another_database_is_refused(database: DatabaseFactory, open_source: OpenSource) -> None:
    """The same name may lead somewhere else by now."""
    made, other = database(), database()
    fill(made, 10)
    fill(other, 10)
    plan = await (source := await open_source(made)).plan("public.t")
    copy = await part_of(source, plan, 1)

    with pytest.raises(errors.OtherEndpointError, match="another flow"):
        await (await open_source(other)).connector.resume_plan(plan.snapshot, copy.progress())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"timeline": 7}, "promoted or recovered"),
        ({"position": 2**62}, "log ends before"),
        ({"text": f"{-(2**32)}:1:"}, "so many transactions"),
    ],
)
async def test_where_history_cannot_be_compared_everything_copied_is_in_doubt(
    database: DatabaseFactory, open_source: OpenSource, change: dict[str, object], reason: str
) -> None:
    """After a promotion or a recovery numbers of transactions are given out again."""
    made = database()
    fill(made, 10)
    made.run("CREATE TABLE untouched ()")
    plan = await (source := await open_source(made)).plan("public.t")
    copy = await part_of(source, plan, 1)
    altered = dataclasses.replace(Snapshot.decode(plan.snapshot), **change)  # type: ignore[arg-type]

    again = await open_source(made)
    verdict = verdict_of(await again.connector.resume_plan(altered.encode(), copy.progress()))

    assert verdict.verdict is CHANGED
    assert reason in verdict.reason


async def test_numbers_of_transactions_are_compared_around_the_circle(
    database: DatabaseFactory, open_source: OpenSource
) -> None:
    """Rows carry 32 bits: with the snapshot's in the second round, rows just before it are still old ones."""
    made = database()
    fill(made, 300)
    plan = await (source := await open_source(made)).plan("public.t")
    copy = await part_of(source, plan, 1)
    snapshot = Snapshot.decode(plan.snapshot)
    oldest = made.value("SELECT min(xmin::text::bigint) FROM t")
    # As if the snapshot had been taken before the rows were written.
    earlier = dataclasses.replace(snapshot, text=f"{oldest}:{snapshot.xmax}:")

    again = await open_source(made)

    assert verdict_of(await again.connector.resume_plan(earlier.encode(), copy.progress())).verdict is CHANGED
    assert verdict_of(await again.connector.resume_plan(plan.snapshot, copy.progress())).verdict is UNCHANGED


async def test_a_number_counts_as_later_only_within_the_span_between_the_snapshots(database: DatabaseFactory) -> None:
    """Frozen rows keep numbers of earlier rounds, which come again after four billion transactions."""
    made = database()
    chance = random.Random(3)
    with made.connect() as connection:
        for _ in range(400):
            first = chance.randrange(2**34, 2**36)
            end = first + chance.choice([1, 1000, 2**20, 2**31, 2**32 - 1])
            later, older = chance.randrange(first, end), first - chance.randrange(1, 2**33)
            if (older - first) % 2**32 < end - first:
                continue  # The same number twice: rare where the span is short, and to the safe side.
            condition = written_between(first, end)
            assert [
                connection.execute(
                    f"SELECT {condition} FROM (VALUES (%s)) t(xmin)".encode(), [str(number % 2**32)]
                ).fetchall()[0][0]
                for number in (later, older)
            ] == [True, False], (first, end, later, older)
        assert connection.execute(f"SELECT {condition} FROM (VALUES ('2')) t(xmin)".encode()).fetchall() == [(False,)]


STATEMENTS: tuple[LiteralString, ...] = (
    "DELETE FROM t WHERE id = {id}",
    "DELETE FROM t WHERE id = {id}",
    "DELETE FROM t WHERE id = {id}",
    "UPDATE t SET a = a + 1 WHERE id = {id}",
    "UPDATE t SET id = -id WHERE id = {id}",
    "UPDATE t SET filler = repeat('y', 2000) WHERE id = {id}",
    "INSERT INTO t VALUES ({new}, 0, repeat('z', 100))",
    "INSERT INTO t VALUES ({new}, 0, 'small')",
    "BEGIN; INSERT INTO t VALUES ({new}, 0, 'never'); ROLLBACK",
    "BEGIN; DELETE FROM t WHERE id = {id}; ROLLBACK",
    "SELECT * FROM t WHERE id = {id} FOR UPDATE",
    "VACUUM t",
    "VACUUM FREEZE t",
    "ANALYZE t",
    "BEGIN; SAVEPOINT s; UPDATE t SET a = 0 WHERE id = {id}; ROLLBACK TO s; COMMIT",
    "BEGIN; SAVEPOINT s; UPDATE t SET a = 0 WHERE id = {id}; RELEASE s; COMMIT",
)


@pytest.mark.parametrize("pg", [16, 18], indirect=True)
@pytest.mark.parametrize("seed", range(12))
async def test_unchanged_means_equal(database: DatabaseFactory, open_source: OpenSource, seed: int) -> None:
    """Random writes before, between and after losses: what was kept plus what was read then is the table as it is."""
    made = database()
    fill(made, 1200)
    chance = random.Random(seed)
    options = PostgresOptions(partition_bytes=MIB)
    source = await open_source(made, page_bytes=16 * 1024, options=options)
    plan = await source.plan("public.t")
    copy, snapshot = Copy(partitions=list(plan.partitions)), plan.snapshot
    verdicts = set()
    for life in range(6):
        for _ in range(chance.randrange(4)):
            await copy.step(source, chance.choice(copy.partitions))
        await source.connector.close()
        write(made, chance, 1 + life % 3, keep=min_kept(copy) if chance.random() < 0.5 else 0)
        source = await open_source(made, page_bytes=16 * 1024, options=options)
        resumed = await source.connector.resume_plan(snapshot, copy.progress())
        verdict = verdict_of(resumed)
        snapshot = resumed.snapshot
        verdicts.add(verdict.verdict)
        if verdict.verdict is CHANGED:
            copy = Copy(partitions=list(verdict.partitions))
        else:
            assert not copy.lines() - table_lines(made, sql.SQL("TABLE t")), "a row was kept that is not there"
    await copy.finish(source)
    assert copy.lines() == table_lines(made, sql.SQL("TABLE t"))


def min_kept(copy: Copy) -> int:
    """Ids up to here have been copied."""
    return max((int(line.split(b"\t")[0]) for line in copy.lines()), default=0)


def write(database: Database, chance: random.Random, count: int, *, keep: int) -> None:
    """Run some statements, on rows beyond `keep` where that is given."""
    with database.connect() as connection:
        for _ in range(count):
            statement = chance.choice(STATEMENTS)
            for part in statement.split("; "):
                values = {
                    "id": sql.Literal(chance.randint(keep + 1, max(keep + 1, 1200))),
                    "new": sql.Literal(chance.randint(10_000, 10_000_000)),
                }
                connection.execute(sql.SQL(part).format(**values))
