"""The connector's own streams, as a coordinator calls them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from dsync_postgres.connector import PostgresConnector
from dsync_postgres.options import PostgresOptions
from dsync_postgres.stream.begin import Names, begin_following, end_following
from dsync_postgres.stream.position import Position
from dsync_postgres.stream.slots import find_slot

from dsync.sdk import PluginContext, errors, types
from tests.integration.stream.support import sessions_of, table
from tests.integration.stream.test_follow import first_values
from tests.support.databases import Database, DatabaseFactory
from tests.support.waiting import wait_for_async

MIB = 1024 * 1024


@asynccontextmanager
async def _serving(
    database: Database, folder: Path, *, max_message_bytes: int = 4 * MIB, filters: dict[str, str] | None = None
) -> AsyncIterator[tuple[PostgresConnector, bytes, str]]:
    """A connector with a session, the cursor that following begins at, and the slot's name."""
    flow = f"flow{os.getpid()}{os.urandom(4).hex()}"
    names = Names.of(flow)
    async with sessions_of(database.uri, flow=flow) as sessions:
        begun = await begin_following(sessions, names, [table("t")])
        assert begun.holder is not None
        await begun.holder.close()
        connector = PostgresConnector(database.uri, PostgresOptions(), PluginContext(private_directory=folder))
        await connector.open_session(
            types.SessionRequest(
                flow=flow,
                role=types.Role.SOURCE,
                max_message_bytes=max_message_bytes,
                row_filters=filters or {},
            )
        )
        try:
            yield connector, begun.position.encode(), names.slot
        finally:
            await connector.close()
            await end_following(sessions, names)


def _request(cursor: bytes, kind: types.ChangeType = types.ChangeType.PG_OUTPUT) -> types.StreamChangesRequest:
    return types.StreamChangesRequest(namespaces=("public.t",), type=kind, cursor=cursor)


async def test_a_coordinator_streams_and_acknowledges(database: DatabaseFactory, tmp_path: Path) -> None:
    """Frames after the cursor; the server may discard what was acknowledged; nothing stays in the folder."""
    one = database()
    one.run("CREATE TABLE t (id int PRIMARY KEY)")
    async with _serving(one, tmp_path) as (connector, cursor, slot), sessions_of(one.uri) as sessions:
        one.run("INSERT INTO t VALUES (1)")
        frames = connector.stream_changes(_request(cursor))
        async with asyncio.timeout(30):
            frame = await anext(frames)
            while not first_values([frame]):
                frame = await anext(frames)
        assert first_values([frame]) == [1]
        await connector.acknowledge(("public.t",), frame.cursor)

        async def has_moved() -> bool:
            found = await find_slot(sessions, slot)
            return found is not None and found.confirmed_lsn >= Position.decode(frame.cursor).end_lsn

        await wait_for_async(has_moved, what="the slot has moved")
        await frames.aclose()  # type: ignore[attr-defined]
        # After its end there is nothing to tell anybody, and that is no error.
        await connector.acknowledge(("public.t",), frame.cursor)
        assert list(tmp_path.iterdir()) == []


async def test_a_stream_that_is_opened_again_lets_go_of_nothing_that_may_be_lost(
    database: DatabaseFactory, tmp_path: Path
) -> None:
    """It goes on after what a coordinator has read, and the server keeps all that is not durable yet."""
    one = database()
    one.run("CREATE TABLE t (id int PRIMARY KEY)")
    async with _serving(one, tmp_path) as (connector, start, slot), sessions_of(one.uri) as sessions:
        one.run("INSERT INTO t VALUES (1)")
        cursor = start
        for first in (1, 2):
            frames = connector.stream_changes(replace(_request(cursor), durable=start))
            async with asyncio.timeout(30):
                frame = await anext(frames)
                while not first_values([frame]):
                    frame = await anext(frames)
            assert first_values([frame]) == [first]
            cursor = frame.cursor
            # Its end is told as well.
            await frames.aclose()  # type: ignore[attr-defined]
            one.run("INSERT INTO t VALUES (2)") if first == 1 else None
            found = await find_slot(sessions, slot)
            assert found is not None
            assert found.confirmed_lsn == Position.decode(start).end_lsn


async def test_what_cannot_be_streamed_is_refused(database: DatabaseFactory, tmp_path: Path) -> None:
    """Without a cursor, with one of somebody else, in another form, or with a condition on rows."""
    one = database()
    one.run("CREATE TABLE t (id int PRIMARY KEY)")
    async with _serving(one, tmp_path) as (connector, cursor, _):
        for request, kind in (
            (_request(b""), errors.RequestError),
            (_request(b"no cursor"), errors.RequestError),
            (_request(cursor, types.ChangeType.BSON), errors.UnsupportedError),
        ):
            with pytest.raises(kind):
                await anext(connector.stream_changes(request))
        with pytest.raises(errors.RequestError):
            await connector.acknowledge(("public.t",), b"no cursor")
    async with _serving(one, tmp_path, filters={"public.t": "id > 3"}) as (connector, cursor, _):
        with pytest.raises(errors.UnsupportedError, match="filter"):
            await anext(connector.stream_changes(_request(cursor)))


async def test_a_change_larger_than_a_message_says_so(database: DatabaseFactory, tmp_path: Path) -> None:
    """It is named before anybody tries to send it; rows that fit come before it."""
    one = database()
    one.run("CREATE TABLE t (id int PRIMARY KEY, x text)")
    async with _serving(one, tmp_path, max_message_bytes=MIB) as (connector, cursor, _):
        one.run("INSERT INTO t VALUES (1, 'small')", "INSERT INTO t VALUES (2, repeat('x', 2000000))")
        with pytest.raises(errors.CapacityError, match=r"public\.t.*--exclude"):
            async with asyncio.timeout(30):
                async for _frame in connector.stream_changes(_request(cursor)):
                    pass
