"""A life that begins to follow a database: `following.py URI FLOW`, for tests that kill it."""

from __future__ import annotations

import asyncio
import sys

from dsync_postgres.conninfo import Target
from dsync_postgres.options import PostgresOptions
from dsync_postgres.schema.names import TableName
from dsync_postgres.sessions import Sessions
from dsync_postgres.stream.begin import Names, begin_following

from dsync.sdk import types


async def main(uri: str, flow: str) -> None:
    """Publish and make the slot."""
    sessions = Sessions(Target.of(uri), PostgresOptions())
    sessions.configure(types.SessionRequest(flow=flow, role=types.Role.SOURCE))
    await begin_following(sessions, Names.of(flow), [TableName.parse("public.t")])


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
