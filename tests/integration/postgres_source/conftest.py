"""Sources that let go of their connections at the end of a test."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest_asyncio

from tests.integration.postgres_source.support import Source
from tests.support.databases import Database

OpenSource = Callable[..., Awaitable[Source]]


@pytest_asyncio.fixture
async def open_source(tmp_path: Path) -> AsyncIterator[OpenSource]:
    """Starts sources: `await open_source(database)`, or `open_source(database, uri=database.reader_uri())`."""
    started: list[Source] = []

    async def start(database: Database, *, uri: str | None = None, **settings: Any) -> Source:
        source = await Source.start(uri or database.uri, tmp_path, **settings)
        started.append(source)
        return source

    yield start
    for source in started:
        await source.connector.close()
