"""Sinks that close their connections at the end of a test."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest_asyncio
from dsync_postgres.options import PostgresOptions

from tests.integration.postgres_sink.support import Sink, make_sink
from tests.support.databases import Database

OpenSink = Callable[..., Sink]


@pytest_asyncio.fixture
async def open_sink(tmp_path: Path) -> AsyncIterator[OpenSink]:
    """Opens sinks: `open_sink(database)`, or `open_sink(database, uri=database.owner_uri())`."""
    opened: list[Sink] = []

    def open_one(database: Database, *, uri: str | None = None, options: PostgresOptions | None = None) -> Sink:
        sink = make_sink(database, tmp_path, uri=uri, options=options)
        opened.append(sink)
        return sink

    yield open_one
    for sink in opened:
        await sink.side.close()
        await sink.sessions.close()
