"""Unlogged tables: a crash of the server empties them, and their ledger with them."""

from __future__ import annotations

import asyncio

import pytest

from dsync.sdk import errors
from tests.integration.postgres_sink.conftest import OpenSink
from tests.integration.postgres_sink.support import describe, page_of, prepare_request
from tests.support.databases import DatabaseFactory, PgServers


@pytest.mark.parametrize("major", [15, 18])
async def test_who_writes_after_a_crash_is_told_to_open_its_unit_again(
    own_servers: PgServers, source_db: DatabaseFactory, open_sink: OpenSink, major: int
) -> None:
    """A finish step as well. Where the flow was reset, or another has the table, it is fenced all the same."""
    server = own_servers.own(major)
    source, target = source_db(), DatabaseFactory(server, prefix="crash")()
    source.run("CREATE UNLOGGED TABLE t (i int PRIMARY KEY)", "INSERT INTO t SELECT generate_series(1, 10)")
    sink = open_sink(target)
    prepared = await sink.side.prepare(prepare_request(await describe(source)))
    await sink.open("u")
    key = next(step for step in prepared.steps if step.namespace == "public.t")
    await sink.open("f", namespace="public.t")
    await asyncio.to_thread(lambda: server.restart(immediate=True))

    late = open_sink(target)
    late.units = sink.units
    request = late.request(page_of(source, "SELECT i FROM t"))
    with pytest.raises(errors.UnitLostError):
        await late.side.write_page(request)
    with pytest.raises(errors.UnitLostError):
        await late.side.finish(late.context("f", done=True), key, b"")
    await late.open("u")
    await late.write(late.request(page_of(source, "SELECT i FROM t")))
    assert late.count() == 10

    target.run("TRUNCATE _dsync.ledger_unlogged", "UPDATE _dsync.target SET relation = 0")
    for call in (
        lambda: late.side.write_page(late.request(page_of(source, "SELECT i FROM t"))),
        lambda: late.side.finish(late.context("f", done=True), key, b""),
    ):
        with pytest.raises(errors.FencedError):
            await call()


@pytest.mark.parametrize("major", [15, 16, 18])
async def test_a_crash_empties_table_and_ledger_together(
    own_servers: PgServers, open_sink: OpenSink, major: int
) -> None:
    """Else the unit would go on behind rows that are gone. Logged tables and their rows stay."""
    server = own_servers.own(major)
    database = DatabaseFactory(server, prefix="crash")()
    database.run("CREATE UNLOGGED TABLE t (i int)", "CREATE TABLE kept (i int)")
    sink = open_sink(database)
    (before,) = await sink.open("u")
    await sink.open("k", namespace="public.kept")
    await sink.write(sink.request(page_of(database, "SELECT generate_series(1, 100)")))
    page = page_of(database, "SELECT generate_series(1, 100)")
    await sink.write(sink.request(page, "k", namespace="public.kept"))
    assert sink.ledger("ledger_unlogged") == [("u", 1, b"c", 100, False)]
    assert sink.ledger() == [("k", 1, b"c", 100, False)]

    await asyncio.to_thread(lambda: server.restart(immediate=True))

    assert (sink.count(), sink.count("kept")) == (0, 100)
    assert sink.ledger("ledger_unlogged") == []
    zombie_request = sink.request(page_of(database, "SELECT 1"))
    late = open_sink(database)
    (after,) = await late.open("u")
    assert (after.seq, after.cursor, after.rows) == (0, b"", 0)
    assert after.fence > before.fence
    with pytest.raises(errors.FencedError):
        await late.side.write_page(zombie_request)
    await late.open("k", namespace="public.kept")
    assert late.units["k"].seq == 1
    await late.write(late.request(page_of(database, "SELECT generate_series(1, 7)")))
    assert late.count() == 7
