"""Another server answers under the name of the one that is followed: it is noticed while streaming, and named."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psycopg

from dsync.protocol.errors import DsyncError
from dsync.quickstart.servers import EmbeddedPostgres
from tests.crash.inline import InlineFlow
from tests.support.databases import Database, DatabaseFactory, PgServers
from tests.support.fixtures import OpenProxy


def _shop_on(server: EmbeddedPostgres) -> Database:
    with psycopg.connect(server.create_database("shop", template="template0"), autocommit=True) as connection:
        connection.execute("CREATE TABLE t (id int PRIMARY KEY)")
        connection.execute("INSERT INTO t SELECT generate_series(1, 50)")
    return Database(server=server, name="shop")


async def test_another_server_under_the_same_name_ends_the_stream(
    own_servers: PgServers, sink_db: DatabaseFactory, tmp_path: Path, open_proxy: OpenProxy
) -> None:
    source, other = _shop_on(own_servers.own(16)), _shop_on(own_servers.own(16, auth="trust"))
    proxy = await open_proxy(source.uri)
    flow = InlineFlow(source, sink_db(), tmp_path / "state.db", ("t",), source_uri=proxy.through(source.uri))

    async def answer_from_elsewhere() -> None:
        proxy.port_behind = other.server.port
        proxy.cut()

    error = await flow.refused_after(answer_from_elsewhere)
    _check(error, "OtherEndpointError", "another server")


async def test_a_promoted_standby_without_the_slot_ends_the_stream(
    own_servers: PgServers, sink_db: DatabaseFactory, tmp_path: Path, open_proxy: OpenProxy
) -> None:
    """What was written in between is in no stream."""
    source = _shop_on(own_servers.own(16))
    proxy = await open_proxy(source.uri)
    flow = InlineFlow(source, sink_db(), tmp_path / "state.db", ("t",), source_uri=proxy.through(source.uri))
    standby = EmbeddedPostgres(standby_of=source.server, in_memory=True)

    async def fail_over() -> None:
        await asyncio.to_thread(standby.start)
        await asyncio.to_thread(standby.execute, "SELECT pg_promote()")
        proxy.port_behind = standby.port
        proxy.cut()

    try:
        _check(await flow.refused_after(fail_over), "SlotMissingError", "--again")
    finally:
        await asyncio.to_thread(standby.close)


def _check(error: DsyncError, kind: str, said: str) -> None:
    assert (type(error).__name__, error.exit_code) == (kind, 3), error
    assert said in str(error)
