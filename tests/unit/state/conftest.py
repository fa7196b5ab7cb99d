"""Fixtures of the store's tests: a clock, an empty store, and a store file made once and copied."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dsync.state import Store
from tests.unit.state.support import HandClock


@pytest.fixture(scope="session")
def empty_state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state without flows; migrating takes longer than most tests, so it is done once."""
    path = tmp_path_factory.mktemp("empty") / "state.db"
    Store.open(path).close()
    return path


@pytest.fixture
def state(empty_state: Path, tmp_path: Path) -> Path:
    path = tmp_path / "state.db"
    shutil.copy(empty_state, path)
    return path


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def open_store(state: Path, clock: HandClock) -> Iterator[Callable[[], Store]]:
    """Opens the same state again, as another process would; closed at the end."""
    opened: list[Store] = []

    def one_more() -> Store:
        opened.append(Store.open(state, clock=clock))
        return opened[-1]

    yield one_more
    for store in opened:
        store.close()


@pytest.fixture
def store(open_store: Callable[[], Store]) -> Store:
    return open_store()
