"""A followed database, as far as a test needs it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from dsync_postgres.conninfo import Target
from dsync_postgres.options import PostgresOptions
from dsync_postgres.schema.names import TableName
from dsync_postgres.sessions import Sessions
from dsync_postgres.stream.connection import DATA, HEADER_BYTES, ReplicationConnection, StreamSettings
from dsync_postgres.stream.decoder import Decoder
from dsync_postgres.stream.messages import Change, Message
from dsync_postgres.stream.publication import create_publication
from dsync_postgres.stream.slots import creating_slot, find_slot

from dsync.sdk import types
from tests.support.databases import Database
from tests.support.waiting import wait_for_async

FLOW = "a1b2c3"
VERSIONS = [15, 16, 18]


def table(name: str, schema: str = "public") -> TableName:
    return TableName(schema=schema, name=name)


@asynccontextmanager
async def sessions_of(uri: str, *, flow: str = FLOW) -> AsyncIterator[Sessions]:
    """The sessions of one life of a source."""
    sessions = Sessions(Target.of(uri), PostgresOptions())
    sessions.configure(types.SessionRequest(flow=flow, role=types.Role.SOURCE))
    try:
        yield sessions
    finally:
        await sessions.close()


async def prepare(sessions: Sessions, database: Database, *tables: str, slot: str) -> int:
    """Publish the tables under the slot's name and make the slot; returns its position."""
    await create_publication(sessions, slot, [table(name) for name in tables])
    async with creating_slot(sessions, slot, major=database.server.major, timeout_s=30) as created:
        return created.consistent_lsn


@asynccontextmanager
async def streaming(
    sessions: Sessions, slot: str, start_lsn: int, *, buffer_bytes: int = 8 * 1024 * 1024
) -> AsyncIterator[ReplicationConnection]:
    """A connection that streams what the slot and the publication of that name give."""
    connection, is_reader = await ReplicationConnection.open(sessions), False
    try:
        await connection.start(
            StreamSettings(slot=slot, publications=(slot,), start_lsn=start_lsn, buffer_bytes=buffer_bytes)
        )
        is_reader = True
        yield connection
    finally:
        await connection.close()
        # The server takes a moment; a database cannot be dropped before.
        if is_reader:
            await wait_for_async(lambda: _is_free(sessions, slot), what="the slot is free")


async def _is_free(sessions: Sessions, name: str) -> bool:
    slot = await find_slot(sessions, name)
    return slot is None or not slot.active_pid


async def read_until(
    connection: ReplicationConnection, kind: type[Message], decoder: Decoder, *, count: int = 1
) -> list[Message]:
    """Messages until so many of that kind have come, and what came together with the last of them."""
    found: list[Message] = []
    while sum(isinstance(message, kind) for message in found) < count:
        found += [decoder.decode(data, HEADER_BYTES) for data in await connection.read() if data[0] == DATA]
    return found


def changes(messages: list[Message]) -> list[Change]:
    return [message for message in messages if isinstance(message, Change)]
