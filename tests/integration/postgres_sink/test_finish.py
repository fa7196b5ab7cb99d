"""Finish steps: once, by whoever holds them, and as a whole or not at all."""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from dsync.sdk import errors, types
from tests.integration.postgres_sink.conftest import OpenSink
from tests.integration.postgres_sink.support import Sink, copy_tables, describe, positions_for, prepare_request
from tests.integration.postgres_sink.test_prepare import shop
from tests.support.databases import Database, DatabaseFactory
from tests.support.waiting import wait_for_async

both = pytest.mark.parametrize("pg_pair", [(16, 16), (18, 18)], indirect=True)


async def ready(source: Database, sink: Sink) -> dict[str, types.FinishStep]:
    """Everything copied, and the finish steps opened but not done, by kind (the last one of each)."""
    prepared = await sink.side.prepare(prepare_request(await describe(source)))
    await copy_tables(sink, source, prepared)
    for step in prepared.steps:
        await sink.open(f"f:{step.id}", namespace=step.namespace)
    return {step.kind: step for step in prepared.steps}


@both
async def test_a_step_that_is_done_is_not_done_again(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_sink: OpenSink
) -> None:
    source, target = source_db(shop), sink_db()
    sink = open_sink(target)
    step = (await ready(source, sink))["index"]
    context = sink.context(f"f:{step.id}", b"", done=True)
    await sink.side.finish(context, step, b"")
    target.run("DROP INDEX item_price")
    await sink.side.finish(context, step, b"")
    assert target.value("SELECT to_regclass('item_price') IS NULL")
    (state,) = await sink.open(f"f:{step.id}", namespace=step.namespace)
    assert (state.done, state.seq) == (True, 1)


@both
async def test_whoever_was_replaced_builds_nothing(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_sink: OpenSink
) -> None:
    """Also where it is replaced while it builds: the fence counts when the step commits."""
    source, target = source_db(shop), sink_db()
    zombie, heir = open_sink(target), open_sink(target)
    step = (await ready(source, zombie))["index"]
    context = zombie.context(f"f:{step.id}", b"", done=True)
    with psycopg.connect(target.uri) as holder:
        holder.execute("LOCK TABLE item IN ROW EXCLUSIVE MODE")
        building = asyncio.ensure_future(zombie.side.finish(context, step, b""))
        await wait_for_async(lambda: target.rows("SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock'"))
        async with asyncio.timeout(5):
            await heir.open(f"f:{step.id}", namespace=step.namespace)
        holder.rollback()
    with pytest.raises(errors.FencedError):
        await building
    assert target.value("SELECT to_regclass('item_price') IS NULL")
    with pytest.raises(errors.FencedError):
        await zombie.side.finish(context, step, b"")
    await heir.side.finish(heir.context(f"f:{step.id}", b"", done=True), step, b"")
    assert target.value("SELECT indisvalid FROM pg_index WHERE indexrelid = 'item_price'::regclass")


async def test_a_step_that_was_never_opened_is_refused(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_sink: OpenSink
) -> None:
    source, target = source_db(shop), sink_db()
    sink = open_sink(target)
    step = (await ready(source, sink))["index"]
    target.run("DELETE FROM _dsync.ledger WHERE unit LIKE 'f:%'")
    with pytest.raises(errors.FencedError):
        await sink.side.finish(sink.context(f"f:{step.id}", b"", done=True), step, b"")
    assert target.value("SELECT to_regclass('item_price') IS NULL")


async def test_rows_that_do_not_satisfy_a_constraint_fail_its_step(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_sink: OpenSink
) -> None:
    """With a name and without a value; the step stays undone and can be repeated once the rows are right."""
    source, target = source_db(shop), sink_db()
    sink = open_sink(target)
    steps = await ready(source, sink)
    for kind in ("constraint", "index"):
        assert kind in steps
    target.run("ALTER TABLE customer ADD PRIMARY KEY (id)", "UPDATE item SET customer = 4711 WHERE id = 1")
    step = steps["fk constraint"]
    context = sink.context(f"f:{step.id}", b"", done=True)
    with pytest.raises(errors.PermanentError, match="item_customer_fkey") as caught:
        await sink.side.finish(context, step, b"")
    assert "4711" not in str(caught.value)
    target.run("UPDATE item SET customer = 1 WHERE id = 1")
    await sink.side.finish(context, step, b"")
    assert target.value("SELECT count(*) FROM pg_constraint WHERE contype = 'f'") == 1


@pytest.mark.parametrize("kind", ["index", "constraint", "trigger"])
async def test_a_step_whose_work_is_there_and_valid_counts_as_done(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_sink: OpenSink, kind: str
) -> None:
    """A crash that empties an unlogged ledger leaves the catalogue as it is."""
    source, target = source_db(shop), sink_db()
    sink = open_sink(target)
    step = (await ready(source, sink))[kind]
    await sink.side.finish(sink.context(f"f:{step.id}", b"", done=True), step, b"")
    target.run(
        "UPDATE _dsync.ledger SET done = false, seq = 0", "UPDATE _dsync.ledger_unlogged SET done = false, seq = 0"
    )
    await sink.open(f"f:{step.id}", namespace=step.namespace)
    await sink.side.finish(sink.context(f"f:{step.id}", b"", done=True), step, b"")
    (state,) = await sink.open(f"f:{step.id}", namespace=step.namespace)
    assert state.done


async def test_something_else_of_the_same_name_is_not_taken_for_it(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_sink: OpenSink
) -> None:
    source, target = source_db(shop), sink_db()
    sink = open_sink(target)
    step = (await ready(source, sink))["index"]
    target.run("CREATE INDEX item_price ON log (line)")
    with pytest.raises(errors.PermanentError, match="already exists"):
        await sink.side.finish(sink.context(f"f:{step.id}", b"", done=True), step, b"")


@both
async def test_sequences_stand_where_the_sources_stood(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_sink: OpenSink
) -> None:
    source, target = source_db(shop), sink_db()
    source.run("SELECT setval('customer_id_seq', 4711)")
    sink = open_sink(target)
    step = (await ready(source, sink))["sequences"]
    await sink.side.finish(sink.context(f"f:{step.id}", b"", done=True), step, positions_for(source, step))
    assert target.value("SELECT nextval('customer_id_seq')") == 4712


async def test_an_index_gets_the_memory_it_is_given(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_sink: OpenSink
) -> None:
    source, target = source_db(shop), sink_db()
    sink = open_sink(target)
    step = (await ready(source, sink))["index"]
    # Within the step's own transaction, and nowhere else.
    target.run(
        "CREATE TABLE seen (setting text)",
        "CREATE FUNCTION look() RETURNS event_trigger LANGUAGE plpgsql AS"
        " $$ BEGIN INSERT INTO public.seen VALUES (current_setting('maintenance_work_mem')); END $$",
        "CREATE EVENT TRIGGER look ON ddl_command_end WHEN TAG IN ('CREATE INDEX') EXECUTE FUNCTION look()",
    )
    await sink.side.finish(sink.context(f"f:{step.id}", b"", done=True), step, b"")
    assert target.value("SELECT setting FROM seen") == "256MB"
    async with sink.sessions.lease() as session:
        now = await session.run("looking", lambda c: c.execute("SHOW maintenance_work_mem").fetchone())
    assert now == ("64MB",)


@both
async def test_an_index_build_ends_with_its_client(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_sink: OpenSink, tmp_path: Path
) -> None:
    """The server would build on, and commit, after its client was killed with -9."""
    source, target = source_db(slow_index), sink_db()
    sink = open_sink(target)
    step = (await ready(source, sink))["index"]
    step_file = tmp_path / "step.json"
    fields = {name: getattr(step, name) for name in ("id", "kind", "name", "namespace")}
    step_file.write_text(json.dumps({**fields, "payload": base64.b64encode(step.payload).decode()}))
    unit = f"f:{step.id}"
    arguments = [target.uri, sink.flow, sink.run, unit, str(sink.units[unit].fence), str(step_file)]
    child = subprocess.Popen([sys.executable, "-m", "tests.integration.postgres_sink.finish_child", *arguments])

    def is_building() -> bool:
        return bool(
            target.rows(
                "SELECT FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '%CREATE INDEX%'"
                " AND state = 'active' AND pid <> pg_backend_pid()"
            )
        )

    try:
        await wait_for_async(is_building)
    finally:
        child.kill()
        child.wait()
    await wait_for_async(lambda: not is_building(), timeout_s=15)
    assert target.value("SELECT to_regclass('slow_index') IS NULL")
    (state,) = await sink.open(unit, namespace=step.namespace)
    assert not state.done


def slow_index(uri: str) -> None:
    """A table whose index takes twenty seconds to build once the setting that its function looks at is gone."""
    with psycopg.connect(uri) as connection:
        connection.execute(
            """
            CREATE FUNCTION slow(i int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
              IF current_setting('quick.quick', true) IS NULL THEN PERFORM pg_catalog.pg_sleep(0.05); END IF;
              RETURN i;
            END $$;
            CREATE TABLE t (i int);
            INSERT INTO t SELECT generate_series(1, 400);
            """
        )
        connection.execute("SET quick.quick = 'yes'")
        connection.execute("CREATE INDEX slow_index ON t (slow(i))")
