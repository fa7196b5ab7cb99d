"""A commit that is in the log and that no reader sees yet: the row is neither in the stream nor in a new snapshot."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest

from dsync.sdk import types
from tests.integration.postgres_source.conftest import OpenSource
from tests.integration.postgres_source.following import follow, new_flow, streamed
from tests.integration.postgres_source.support import Copy, body_lines
from tests.support.databases import Database, PgServers
from tests.support.waiting import wait_for_async


@contextmanager
def _waiting_for_nobody(one: Database) -> Iterator[None]:
    """Commits wait for a standby that does not exist."""
    _run_locally(one, "ALTER SYSTEM SET synchronous_standby_names = 'nobody'", "SELECT pg_reload_conf()")
    try:
        yield
    finally:
        _run_locally(one, "ALTER SYSTEM RESET synchronous_standby_names", "SELECT pg_reload_conf()")


def _run_locally(one: Database, *statements: str) -> None:
    with _local(one) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def _local(one: Database) -> psycopg.Connection:
    """A session that waits for no standby."""
    connection = one.connect()
    connection.execute("SET synchronous_commit = local")
    return connection


def _begin(connection: psycopg.Connection, key: int) -> int:
    """Begin a transaction with a row; returns its id."""
    connection.execute("BEGIN")
    connection.execute("INSERT INTO t VALUES (%s)", [key])
    row = connection.execute("SELECT pg_current_xact_id()::xid::text::int8").fetchone()
    assert row is not None
    return int(row[0])


@pytest.mark.parametrize(("major", "is_planned"), [(16, True), (18, True), (18, False)])
async def test_a_row_that_is_logged_and_not_yet_visible_is_not_lost(
    own_servers: PgServers, open_source: OpenSource, major: int, is_planned: bool
) -> None:
    """Three transactions that overlap while the slot is made, the last of which waits for a standby all the time.

    Its commit lies before the slot's position, so the stream lacks it. The slot's own snapshot sees it. That is lost,
    and a new snapshot would lack it too, for as long as the transaction waits: so long nothing may be read. The same
    goes for a plan that finds the slot, because the one that has made it died before it was stored.
    """
    one = Database(server=own_servers.own(major), name="postgres")
    one.run("CREATE TABLE t (id int PRIMARY KEY)")
    first = await open_source(one, flow=(flow := new_flow()))
    with _local(one) as early, _local(one) as late:

        async def is_waited_for(xid: int) -> None:
            query = "SELECT count(*) FROM pg_locks WHERE NOT granted AND transactionid::text::int8 = %s"
            await wait_for_async(lambda: one.value(query, [xid]) == 1, what="the slot waits for a transaction")

        xid = _begin(early, 1)
        planning = asyncio.create_task(follow(first, "public.t"))
        await is_waited_for(xid)
        xid = _begin(late, 2)
        early.execute("COMMIT")
        await is_waited_for(xid)
        with _waiting_for_nobody(one):
            writing = asyncio.create_task(asyncio.to_thread(one.run, "INSERT INTO t VALUES (3)"))
            stuck = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
            await wait_for_async(lambda: one.value(stuck) == 1, what="a commit that waits for the standby")
            late.execute("COMMIT")
            plan = await planning
            assert not plan.overlaps
            copy = Copy(partitions=list(plan.partitions))
            await first.connector.close()
            assert one.value("SELECT count(*) FROM t") == 2

            second = await open_source(one, flow=flow)
            resuming = asyncio.create_task(
                second.connector.resume_plan(plan.snapshot, copy.progress(), plan.updates_partitions)
                if is_planned
                else follow(second, "public.t")
            )
            _, still = await asyncio.wait({resuming}, timeout=1.5)
            assert still, "a snapshot was taken that lacks the row"
        await writing
    found = await resuming
    if isinstance(found, types.Plan):
        assert found.overlaps
        plan = found
    else:
        assert found.verdicts[0].verdict is types.Verdict.OVERLAPS
    read = body_lines(await second.page(plan.partitions[0]))
    one.run("INSERT INTO t VALUES (4)")
    assert read == [b"1", b"2", b"3"]
    assert await streamed(second, plan.updates_partitions[0], 4) == [4]
