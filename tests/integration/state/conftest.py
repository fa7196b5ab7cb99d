"""A database for the state of each test, and stores on it that are closed at its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from dsync.state import Store
from tests.support.databases import Database, DatabaseFactory

OpenStore = Callable[..., Store]


@pytest.fixture
def place(database: DatabaseFactory) -> Database:
    return database()


@pytest.fixture
def open_store(place: Database) -> Iterator[OpenStore]:
    """Opens the state in `place` again, or another one: `open_store(uri)`."""
    opened: list[Store] = []

    def one_more(uri: str = "", *, create: bool = True) -> Store:
        opened.append(Store.open(uri or place.uri, create=create))
        return opened[-1]

    yield one_more
    for store in opened:
        store.close()


@pytest.fixture
def store(open_store: OpenStore) -> Store:
    return open_store()
