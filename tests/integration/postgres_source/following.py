"""A source that is followed, and what the coordinator would do with it."""

from __future__ import annotations

import asyncio
import os
from contextlib import aclosing

from dsync_postgres.stream.begin import Names
from dsync_postgres.stream.position import Position

from dsync.sdk import types
from tests.integration.postgres_source.support import Source
from tests.integration.stream.test_follow import first_values
from tests.support.databases import Database


def new_flow() -> str:
    """A flow that no other test of this server has: slots belong to the whole server."""
    return f"f{os.getpid()}{os.urandom(4).hex()}"


def names_of(source: Source) -> Names:
    """What the flow keeps at its source."""
    return Names.of(source.flow)


async def follow(source: Source, *namespaces: str, wait_s: float = 30.0) -> types.Plan:
    """Open a plan of these tables and of their changes."""
    return await source.connector.open_plan(namespaces, updates=True, wait_s=wait_s)


def position_of(plan: types.Plan) -> Position:
    """Where the plan's changes begin."""
    (updates,) = plan.updates_partitions
    position = Position.decode(updates.cursor)
    assert plan.position == position.end_lsn
    return position


async def streamed(source: Source, updates: types.UpdatesPartition, until: int) -> list[int]:
    """The first values of the changes, up to and with that one."""
    found: list[int] = []
    request = types.StreamChangesRequest(
        namespaces=updates.namespaces, type=types.ChangeType.PG_OUTPUT, cursor=updates.cursor
    )
    async with asyncio.timeout(30), aclosing(source.connector.stream_changes(request)) as frames:  # type: ignore[type-var]
        async for frame in frames:
            found += first_values([frame])
            if until in found:
                return found
    raise AssertionError("a stream has no end")


def slots(database: Database) -> list[str]:
    """The replication slots of this database."""
    rows = database.rows("SELECT slot_name::text FROM pg_replication_slots WHERE database = current_database()")
    return [name for (name,) in rows]


def publications(database: Database) -> dict[str, list[str]]:
    """What is published, by publication."""
    rows = database.rows(
        "SELECT p.pubname::text, ARRAY(SELECT t.tablename::text FROM pg_publication_tables t"
        " WHERE t.pubname = p.pubname ORDER BY 1) FROM pg_publication p"
    )
    return dict(rows)
