"""A state that cannot be used: named with the ways on, and left as it is, like everything at both ends."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.integration.wrong_input.conftest import Ends
from tests.integration.wrong_input.guarded import GuardedDsync, contents

COPY = ("--mode", "copy")


def from_the_future(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")


def garbage(path: Path) -> None:
    path.write_bytes(b"this was a state once " * 1000)


def a_torn_page(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(2 * 4096)
        file.write(b"\xa5" * 4096)


def somebody_elses(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE theirs (id int)")


@pytest.mark.parametrize(
    ("damage", "exit_code", "said"),
    [
        (from_the_future, 3, ("schema 9999", "a newer one", "--state PATH")),
        (garbage, 3, ("it is damaged", "from a backup", "move state.db")),
        (a_torn_page, 3, ("it is damaged", "from a backup", "move state.db")),
        (somebody_elses, 2, ("another program", "--state PATH")),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_state_that_cannot_be_used_stops_everything(
    dsync: GuardedDsync,
    ends: Ends,
    damage: Callable[[Path], None],
    exit_code: int,
    said: tuple[str, ...],
) -> None:
    """No command makes a new one in its place: a second copy over the first would be the price."""
    assert dsync.here("flows", "--json").exit_code == 0
    refused = dsync.here("sync", *ends.uris, *COPY, "-n", "nothing.*", "--json")
    assert refused.exit_code == 2, "the state has been made by now"
    # Everything is in the file itself, not in its log.
    with closing(sqlite3.connect(dsync.state)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    damage(dsync.state)
    damaged, before = dsync.state.read_bytes(), contents(ends.sink)

    for words in (("sync", *ends.uris, *COPY), ("flows",), ("status",)):
        message = dsync.refused(*words, exit_code=exit_code)
        assert str(dsync.state) in message
        for text in said:
            assert text in message
    assert dsync.state.read_bytes() == damaged
    assert contents(ends.sink) == before
