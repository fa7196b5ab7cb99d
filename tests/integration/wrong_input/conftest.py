"""What the tests of wrong input share: a watched command and two databases."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from tests.integration.wrong_input.guarded import GuardedDsync, contents, new_login
from tests.support.databases import Database, DatabaseFactory


@dataclass(frozen=True, slots=True, kw_only=True)
class Ends:
    """Two databases, and URIs whose password nobody may see."""

    source: Database
    sink: Database
    source_uri: str
    sink_uri: str

    @property
    def uris(self) -> tuple[str, str]:
        return self.source_uri, self.sink_uri


@pytest.fixture
def dsync(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[GuardedDsync]:
    """The installed `dsync`, with a state that no other test sees."""
    directory = tmp_path / "home"
    directory.mkdir()
    # Sockets have short names.
    with tempfile.TemporaryDirectory(prefix="wi-") as runtime:
        started = GuardedDsync(directory=directory, runtime=Path(runtime), capsys=capsys, monkeypatch=monkeypatch)
        yield started
        started.close()


def fill(uri: str) -> None:
    """A few tables that take milliseconds to copy."""
    with psycopg.connect(uri, autocommit=True) as connection:
        for statement in (
            "CREATE SCHEMA shop",
            "CREATE TABLE shop.orders (id bigint PRIMARY KEY, note text NOT NULL)",
            "INSERT INTO shop.orders SELECT n, 'note ' || n FROM generate_series(1, 500) n",
            "CREATE TABLE shop.log (line text)",
            "INSERT INTO shop.log SELECT 'line ' || n FROM generate_series(1, 20) n",
            "ANALYZE",
        ):
            connection.execute(statement.encode())


@pytest.fixture
def ends(source_db: DatabaseFactory, sink_db: DatabaseFactory) -> Ends:
    """A filled source and an empty sink."""
    source, sink = source_db(fill), sink_db()
    return Ends(source=source, sink=sink, source_uri=new_login(source), sink_uri=new_login(sink))


@pytest.fixture
def untouched(ends: Ends, dsync: GuardedDsync) -> Iterator[None]:
    """Afterwards the sink is as it was, the source too, and no flow is known."""
    before = contents(ends.source), contents(ends.sink)
    yield
    assert (contents(ends.source), contents(ends.sink)) == before
    assert dsync.flows == ()
