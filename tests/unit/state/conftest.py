"""Fixtures of the store's tests: a clock, and an empty state of each kind, in a file and on a server."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dsync.state import Store
from tests.support.databases import PgServers
from tests.unit.state.support import HandClock

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def empty_state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file without flows; migrating takes longer than most tests, so it is done once."""
    path = tmp_path_factory.mktemp("empty") / "state.db"
    Store.open(path).close()
    return path


@pytest.fixture
def state_file(empty_state: Path, tmp_path: Path) -> Path:
    """For tests that look at the file itself."""
    path = tmp_path / "state.db"
    shutil.copy(empty_state, path)
    return path


@pytest.fixture
def state_server(pg_servers: PgServers) -> Iterator[str]:
    """A schema of the test's own, in one database on the server of this test process; there are no tables in it yet."""
    server = pg_servers.shared(18)
    schema = f"state_{next(_numbers)}"
    yield f"{server.uri()}?schema={schema}"
    if server.is_running:
        with server.connect() as connection:
            connection.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE".encode())


@pytest.fixture(params=["sqlite", "postgresql"])
def state(request: pytest.FixtureRequest) -> str:
    """What `--state` would be given: every test that asks for it runs with both kinds."""
    return str(request.getfixturevalue("state_file" if request.param == "sqlite" else "state_server"))


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def open_store(state: str, clock: HandClock) -> Iterator[Callable[[], Store]]:
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
