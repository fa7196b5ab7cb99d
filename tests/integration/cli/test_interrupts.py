"""Ctrl-C, SIGTERM and a second Ctrl-C: each leaves a copy that the same command finishes."""

from __future__ import annotations

import asyncio
import signal

import psycopg
import pytest

from tests.integration.cli.running import Dsync, Running
from tests.support.databases import Database, DatabaseFactory
from tests.support.fixtures import OpenProxy
from tests.support.proxy import FaultyProxy

SLOW_BYTES_PER_S = 400_000.0


def _fill(uri: str) -> None:
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute("CREATE TABLE big (id int PRIMARY KEY, noise text)")
        connection.execute("INSERT INTO big SELECT n, repeat(md5(n::text), 32) FROM generate_series(1, 6000) n")
        connection.execute("ANALYZE")


@pytest.fixture
def source(source_db: DatabaseFactory) -> Database:
    return source_db(_fill)


@pytest.fixture
def sink(sink_db: DatabaseFactory) -> Database:
    return sink_db()


async def _begun(dsync: Dsync, source: Database, sink: Database, proxy: FaultyProxy) -> tuple[Running, list[str]]:
    """A copy with some pages through and many to go."""
    proxy.bytes_per_s = SLOW_BYTES_PER_S
    command = ["sync", proxy.through(source.uri), sink.uri, "--mode", "copy", "--page-bytes", "64KiB", "--json"]
    running = dsync.start(*command)
    await asyncio.to_thread(running.wait_for, "rows_copied")
    return running, command


async def _finish(dsync: Dsync, source: Database, sink: Database, proxy: FaultyProxy, command: list[str]) -> None:
    """The same command goes on, quickly now, and everything is there once."""
    proxy.bytes_per_s = None
    ended = await asyncio.to_thread(dsync, *command)
    assert ended.exit_code == 0, ended.stderr
    assert ended.result["run_number"] == 1
    sums = "SELECT count(*), sum(hashtext(noise)::bigint) FROM big"
    assert sink.rows(sums) == source.rows(sums)


async def test_the_first_signal_finishes_the_page_and_leaves_a_copy_that_goes_on(
    dsync: Dsync, source: Database, sink: Database, open_proxy: OpenProxy
) -> None:
    """The state then says so, with the command. What other signals exit with is shown where processes are killed."""
    proxy = await open_proxy(source.uri)
    running, command = await _begun(dsync, source, sink, proxy)
    running.send(signal.SIGINT)
    ended = await asyncio.to_thread(running.end)

    assert ended.exit_code == 130
    assert ended.json["error"]["class"] == "SIGINT"
    assert "the same command goes on from there" in ended.json["summary"]
    arrived = sink.value("SELECT count(*) FROM big")
    assert 0 < arrived < 6000
    status = await asyncio.to_thread(dsync, "status", "--json")
    (flow,) = status.result["flows"]
    assert (flow["phase"], flow["running"], flow["rows"]) == ("copying", False, arrived)
    assert "this goes on where it was: dsync sync" in flow["next_step"]

    await _finish(dsync, source, sink, proxy, command)


async def test_the_second_signal_stops_at_once(
    dsync: Dsync, source: Database, sink: Database, open_proxy: OpenProxy
) -> None:
    """Also where the page in flight never arrives; no process stays behind."""
    proxy = await open_proxy(source.uri)
    running, command = await _begun(dsync, source, sink, proxy)
    proxy.black_hole()
    running.send(signal.SIGINT)
    await asyncio.to_thread(running.wait_for, "a second Ctrl-C stops at once")
    running.send(signal.SIGINT)
    ended = await asyncio.to_thread(running.end)

    assert ended.exit_code == 130
    assert sink.value("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()") == 1
    proxy.black_hole(False)
    await _finish(dsync, source, sink, proxy, command)


async def test_a_second_coordinator_is_refused_while_the_first_lives(
    dsync: Dsync, source: Database, sink: Database, open_proxy: OpenProxy
) -> None:
    """Naming host and process; once that is gone, the same command goes on at once. `reset` is refused as well."""
    proxy = await open_proxy(source.uri)
    running, command = await _begun(dsync, source, sink, proxy)
    second = await asyncio.to_thread(dsync, *command)
    status = await asyncio.to_thread(dsync, "status", "--json")
    flow = status.result["flows"][0]
    forgetting = await asyncio.to_thread(dsync, "reset", flow["flow"], "--sink", sink.uri, "--yes", "--json")

    for refused in (second, forgetting):
        assert (refused.exit_code, refused.json["error"]["class"]) == (3, "LeaseHeldError")
        assert str(running.process.pid) in refused.json["summary"]
    assert flow["holder"]["pid"] == running.process.pid
    running.send(signal.SIGKILL)
    await asyncio.to_thread(running.end)
    await _finish(dsync, source, sink, proxy, command)
