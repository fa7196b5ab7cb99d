"""A later run of a flow whose source was altered: what it has made itself it makes anew, and nothing else."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import psycopg
import pytest

from dsync.sdk import errors, types
from tests.integration.postgres_sink.conftest import OpenSink
from tests.integration.postgres_sink.support import Sink, copy_tables, describe, finish_all, prepare_request
from tests.integration.postgres_sink.test_clear import clearing, copied
from tests.integration.postgres_sink.test_prepare import counts, names, shop
from tests.support.databases import Database, DatabaseFactory, PgServers
from tests.support.waiting import wait_for_async

both = pytest.mark.parametrize("pg_pair", [(16, 16), (18, 18)], indirect=True)


async def first_run(source: Database, sink: Sink) -> None:
    await finish_all(sink, source, await copied(source, sink))


async def next_run(source: Database, run: str = "r2", *, dry_run: bool = False) -> types.PrepareRequest:
    return prepare_request(await describe(source), run=run, on_existing=types.OnExisting.RESUME, dry_run=dry_run)


@both
@pytest.mark.parametrize("as_owner", [False, True], ids=["superuser", "owner"])
async def test_a_table_whose_shape_fits_no_more_is_made_anew(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_sink: OpenSink, as_owner: bool
) -> None:
    """With its key, the view on it and the foreign key that refers to it; the others keep their rows."""
    source, target = source_db(shop), sink_db()
    uri = target.owner_uri() if as_owner else None
    await first_run(source, open_sink(target, uri=uri))
    source.run(
        "ALTER TABLE customer ALTER note TYPE varchar(20)",
        "UPDATE customer SET note = 'longer than nine'",
        "ALTER TABLE log ADD COLUMN level int DEFAULT 3",
    )
    sink = open_sink(target, uri=uri)
    sink.run = "r2"
    prepared = await sink.side.prepare(await next_run(source))
    assert {load.target: (load.anew, load.existed) for load in prepared.namespaces} == {
        "public.customer": (True, False),
        "public.item": (False, True),
        "public.log": (True, False),
        "public.scratch": (False, True),
    }
    assert counts(target) == [(0, 100, 0, 5)]
    key = next(step for step in prepared.steps if "customer_pkey" in step.id)
    (restoring,) = [step for step in prepared.steps if step.kind == "restore"]
    assert key.id in restoring.depends_on
    for load in prepared.namespaces:
        await sink.open(load.target, namespace=load.target)
        if not load.anew:
            await sink.side.clear_namespace(clearing(sink, load.target), load.target, [])
    await copy_tables(sink, source, prepared)
    await finish_all(sink, source, prepared)
    assert counts(target) == counts(source)
    assert names(target) == names(source)
    assert target.value("SELECT count(*) FROM customer WHERE note = 'longer than nine'") == 10
    assert target.value("SELECT sum(level) FROM log") == 150
    assert target.value("SELECT count(*) FROM pg_constraint WHERE contype = 'f' AND convalidated") == 1
    assert target.value("SELECT count(*) FROM _dsync.aside") == 0
    # What the first run had written there counts no more: the same many rows of somebody would pass for ours.
    assert target.rows("SELECT DISTINCT run FROM _dsync.ledger WHERE namespace = 'public.log'") == [("r2",)]


async def test_what_holds_rows_of_others_stays_and_the_message_names_what_helps(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_sink: OpenSink
) -> None:
    """`--on-existing drop` alone would change nothing, since the flow's own claim goes before it."""
    source, target = source_db(shop), sink_db()
    await first_run(source, open_sink(target))
    target.run("INSERT INTO log VALUES (now(), 'theirs')")
    source.run("ALTER TABLE log ADD COLUMN level int DEFAULT 3")
    with pytest.raises(errors.PermanentError, match=r"add it there, or `dsync reset` this flow and copy anew"):
        await open_sink(target).side.prepare(await next_run(source))
    assert counts(target) == [(10, 100, 51, 5)]


async def test_what_somebody_has_built_on_a_table_keeps_it(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_sink: OpenSink
) -> None:
    source, target = source_db(shop), sink_db()
    await first_run(source, open_sink(target))
    target.run("CREATE VIEW theirs AS SELECT line FROM log")
    source.run("ALTER TABLE log ADD COLUMN level int DEFAULT 3")
    for dry_run in (True, False):
        with pytest.raises(
            errors.RequestError, match=r"public\.theirs of the sink depend.*alter the tables at the sink"
        ):
            await open_sink(target).side.prepare(await next_run(source, dry_run=dry_run))
    assert counts(target) == [(10, 100, 50, 5)]


async def test_rows_that_come_at_the_last_moment_are_not_dropped(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_sink: OpenSink
) -> None:
    source, target = source_db(shop), sink_db()
    await first_run(source, open_sink(target))
    source.run("ALTER TABLE log ADD COLUMN level int DEFAULT 3")
    with psycopg.connect(target.uri) as writer:
        writer.execute("INSERT INTO log VALUES (now(), 'theirs')")
        preparing = asyncio.ensure_future(open_sink(target).side.prepare(await next_run(source)))
        await wait_for_async(
            lambda: (
                preparing.done()
                or target.rows("SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query ~ '^LOCK'")
            )
        )
        writer.commit()
        with pytest.raises(errors.ConflictError, match="rows have come"):
            await preparing
    assert counts(target) == [(10, 100, 51, 5)]


async def test_a_table_that_somebody_has_dropped_is_said_to_be_new(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_sink: OpenSink
) -> None:
    """Else an unchanged table would count as copied, though nothing is there."""
    source, target = source_db(shop), sink_db()
    await first_run(source, open_sink(target))
    target.run("DROP TABLE log", "DROP TABLE scratch", "CREATE TABLE log (at timestamptz, line text)")
    prepared = await open_sink(target).side.prepare(await next_run(source))
    assert {load.target: (load.anew, load.existed) for load in prepared.namespaces} == {
        "public.customer": (False, True),
        "public.item": (False, True),
        "public.log": (True, True),
        "public.scratch": (True, False),
    }
    # The same answer once more, from what was kept.
    assert (await open_sink(target).side.prepare(await next_run(source))).namespaces == prepared.namespaces


@pytest.mark.parametrize("major", [15, 18])
async def test_an_unlogged_table_that_a_crash_has_emptied_is_said_to_be_new(
    source_db: DatabaseFactory, own_servers: PgServers, open_sink: OpenSink, major: int
) -> None:
    source, server = source_db(shop), own_servers.own(major)
    target = DatabaseFactory(server, prefix="crash")()
    await first_run(source, open_sink(target))
    await asyncio.to_thread(lambda: server.restart(immediate=True))
    assert counts(target) == [(10, 100, 50, 0)]
    prepared = await open_sink(target).side.prepare(await next_run(source, dry_run=True))
    assert [load.target for load in prepared.namespaces if load.anew] == ["public.scratch"]
    target.run("INSERT INTO scratch VALUES (77)")
    with pytest.raises(errors.SinkNotEmptyError, match=r"public\.scratch"):
        await open_sink(target).side.prepare(replace(await next_run(source), run="r3"))
