"""Ends for the tests of verification."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.integration.verify.ends import PgEnd
from tests.integration.verify.support import OpenEnds
from tests.support.databases import Database


@pytest_asyncio.fixture
async def open_ends() -> AsyncIterator[OpenEnds]:
    """Makes the ends of two databases."""
    made: list[PgEnd] = []

    def open_both(source: Database, target: Database) -> tuple[PgEnd, PgEnd]:
        made.extend((PgEnd(source.uri), PgEnd(target.uri)))
        return made[-2], made[-1]

    yield open_both
    for end in made:
        await end.close()
