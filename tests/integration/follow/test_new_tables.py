"""Tables that are made while a flow follows: found, published, made at the sink, copied, and followed."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psycopg
import pytest

from dsync.coordinator import resyncing
from tests.crash.inline import InlineFlow
from tests.support.databases import DatabaseFactory
from tests.support.waiting import wait_for_async


def _fill(uri: str) -> None:
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute("CREATE TABLE old (id int PRIMARY KEY, v text)")
        connection.execute("INSERT INTO old SELECT g, 'old' FROM generate_series(1, 100) g")


async def test_a_table_that_is_new_at_the_source_is_followed(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what it had before it was found, and all that comes later; one whose rows cannot be told apart is left."""
    monkeypatch.setattr(resyncing, "LOOK_EVERY_S", 0.2)
    flow = InlineFlow(source_db(_fill), sink_db(), tmp_path / "state.db", ("old", "fresh"))
    running = asyncio.create_task(flow.run(until_caught_up=False))
    try:
        await wait_for_async(lambda: flow._streaming.is_set() or running.done(), timeout_s=60, what="a stream")
        flow.source.run(
            "CREATE TABLE bare (id int)",
            "CREATE TABLE fresh (id int PRIMARY KEY, v text UNIQUE)",
            "INSERT INTO fresh SELECT g, 'fresh ' || g FROM generate_series(1, 500) g",
            "UPDATE old SET v = 'meanwhile' WHERE id < 10",
        )

        def has_arrived() -> bool:
            is_there = flow.sink.value("SELECT to_regclass('fresh') IS NOT NULL")
            return bool(is_there) and flow.sink.value("SELECT count(*) FROM fresh") == 500

        await wait_for_async(lambda: running.done() or has_arrived(), timeout_s=60, what="the new table")
        flow.source.run("UPDATE fresh SET v = v || '!' WHERE id % 2 = 0", "DELETE FROM fresh WHERE id = 1")
        await wait_for_async(
            lambda: running.done() or flow.sink.value("SELECT count(*) FROM fresh WHERE v LIKE '%!'") == 250,
            timeout_s=60,
            what="its changes",
        )
    finally:
        flow._stopping.set()
        await asyncio.gather(running, return_exceptions=True)
    # The application's own UPDATE goes on working where nothing tells rows apart.
    flow.source.run("INSERT INTO bare VALUES (1)", "UPDATE bare SET id = 2", "DELETE FROM fresh WHERE id = 2")
    flow._stopping = asyncio.Event()
    await flow.run()
    flow.require_equal()
    assert flow.sink.value("SELECT count(*) FROM pg_constraint WHERE conrelid = 'fresh'::regclass") >= 2
