"""What makes a stream lack changes is found while it streams, and named with a way on: never a silent gap.

In one process with its plug-ins, since nothing dies here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from dsync.protocol.errors import DsyncError
from tests.crash.inline import InlineFlow
from tests.support.databases import DatabaseFactory
from tests.support.waiting import wait_for_async

_TABLES = ("kept", "whole")
_DEFAULT = "ALTER TABLE {} REPLICA IDENTITY DEFAULT"


def _fill(uri: str) -> None:
    with psycopg.connect(uri, autocommit=True) as connection:
        for statement in (
            "CREATE TABLE kept (id int PRIMARY KEY, other int NOT NULL UNIQUE, word text)",
            "INSERT INTO kept SELECT g, -g, 'word' FROM generate_series(1, 50) g",
            "CREATE TABLE whole (id int, word text)",
            "ALTER TABLE whole REPLICA IDENTITY FULL",
            "INSERT INTO whole SELECT g, 'word' FROM generate_series(1, 50) g",
        ):
            connection.execute(statement.encode())


@pytest.fixture
def flow(source_db: DatabaseFactory, sink_db: DatabaseFactory, tmp_path: Path) -> InlineFlow:
    return InlineFlow(source_db(_fill), sink_db(), tmp_path / "state.db", _TABLES)


async def _until_done(work: Callable[[], object]) -> None:
    """Try it again while the reader is in the way, which comes back after it was ended."""

    def tried() -> bool:
        try:
            work()
        except psycopg.errors.ObjectInUse:
            return False
        return True

    await wait_for_async(lambda: asyncio.to_thread(tried), timeout_s=20, what="a slot that nobody reads from")


def _free(connection: psycopg.Connection, slot: str) -> None:
    connection.execute(
        "SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots WHERE slot_name = %s AND active",
        [slot],
    )


def _drop(flow: InlineFlow) -> None:
    slot = flow.slot
    with flow.source.connect() as connection:
        _free(connection, slot)
        connection.execute("SELECT pg_drop_replication_slot(%s)", [slot])
        connection.execute("INSERT INTO kept VALUES (1000, 1000, 'missed')")


def _make_anew(flow: InlineFlow) -> None:
    slot = flow.slot
    _drop(flow)
    flow.source.rows("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [slot])


def _advance(flow: InlineFlow) -> None:
    slot = flow.slot
    with flow.source.connect() as connection:
        _free(connection, slot)
        connection.execute("INSERT INTO kept SELECT 1000 + max(id), 1000 + max(id), 'missed' FROM kept")
        connection.execute("SELECT pg_replication_slot_advance(%s, pg_current_wal_lsn())", [slot])


_SLOTS: dict[str, tuple[Callable[[InlineFlow], None], str]] = {
    "dropped": (_drop, "SlotMissingError"),
    "dropped and made anew": (_make_anew, "SlotMovedError"),
    "advanced": (_advance, "SlotMovedError"),
}


@pytest.mark.parametrize("how", _SLOTS)
async def test_a_slot_that_somebody_else_has_handled_ends_the_stream(flow: InlineFlow, how: str) -> None:
    work, kind = _SLOTS[how]
    error = await flow.refused_after(lambda: _until_done(lambda: work(flow)))
    _check(error, kind)
    await flow.arrives_again()


def _check(error: DsyncError, kinds: str) -> None:
    assert type(error).__name__ in kinds.split(), error
    assert error.exit_code == 3
    assert "--again" in str(error)


_PUBLICATIONS = {
    "dropped": ("DROP PUBLICATION {name}", "PublicationMissingError"),
    "a table away for a moment": (
        "ALTER PUBLICATION {name} DROP TABLE whole; INSERT INTO whole VALUES (1000, 'missed');"
        " ALTER PUBLICATION {name} ADD TABLE ONLY whole",
        "PublicationChangedError",
    ),
    "no inserts for a moment": (
        "ALTER PUBLICATION {name} SET (publish = 'update, delete, truncate');"
        " INSERT INTO whole VALUES (1000, 'missed');"
        " ALTER PUBLICATION {name} SET (publish = 'insert, update, delete, truncate')",
        "PublicationChangedError",
    ),
    "made anew": (
        "DROP PUBLICATION {name}; INSERT INTO whole VALUES (1000, 'missed');"
        " CREATE PUBLICATION {name} FOR TABLE ONLY kept, ONLY whole",
        # Found by us or, where the server comes to the change first, by it.
        "PublicationChangedError PublicationMissingError",
    ),
}


async def _change_publication(flow: InlineFlow, how: str) -> None:
    name = flow.slot
    with flow.source.connect() as connection:
        for statement in _PUBLICATIONS[how][0].format(name=name).split(";"):
            connection.execute(statement.encode())


@pytest.mark.parametrize("how", ["dropped", "a table away for a moment", "no inserts for a moment"])
async def test_a_publication_that_was_changed_ends_the_stream(
    flow: InlineFlow, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it is by now what it should be: what was changed meanwhile is in no stream."""
    monkeypatch.setattr("dsync_postgres.stream.follow._LOOK_S", 0.2)
    error = await flow.refused_after(lambda: _change_publication(flow, how))
    _check(error, _PUBLICATIONS[how][1])
    await flow.arrives_again()


@pytest.mark.parametrize("how", ["a table away for a moment", "made anew"])
async def test_a_publication_that_was_changed_while_nobody_looked_is_refused(flow: InlineFlow, how: str) -> None:
    await flow.run()
    await _change_publication(flow, how)
    with pytest.raises(DsyncError) as caught:
        await flow.run()
    _check(caught.value, _PUBLICATIONS[how][1])
    await flow.arrives_again()


_IDENTITIES = {
    "the key dropped": ("kept", "ALTER TABLE kept DROP CONSTRAINT kept_pkey; INSERT INTO kept VALUES (1000, 1000, '')"),
    "no key and no whole rows": (
        "whole",
        "ALTER TABLE whole REPLICA IDENTITY DEFAULT; INSERT INTO whole VALUES (1000, '')",
    ),
}


@pytest.mark.parametrize("how", _IDENTITIES)
async def test_a_table_that_has_lost_what_tells_its_rows_apart_is_named(
    flow: InlineFlow, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dsync_postgres.stream.follow._LOOK_S", 0.2)
    table, statements = _IDENTITIES[how]

    async def change() -> None:
        with flow.source.connect() as connection:
            for statement in statements.split(";"):
                connection.execute(statement.encode())

    error = await flow.refused_after(change)
    assert (type(error).__name__, error.exit_code) == ("ReplicaIdentityError", 3), error
    assert f"public.{table}" in str(error)
    assert "REPLICA IDENTITY FULL" in str(error)


_OTHER_IDENTITIES = (
    ("ALTER TABLE kept REPLICA IDENTITY FULL",),
    ("ALTER TABLE kept REPLICA IDENTITY USING INDEX kept_other_key",),
    ("DELETE FROM whole WHERE id > 1000", "ALTER TABLE whole ADD PRIMARY KEY (id)", _DEFAULT.format("whole")),
    ("ALTER TABLE kept DROP CONSTRAINT kept_pkey, ADD PRIMARY KEY (id, other)", _DEFAULT.format("kept")),
    (),
)
_CHANGES = (
    "UPDATE kept SET word = 'after' WHERE id < 5",
    "UPDATE kept SET id = id + 1000 WHERE id = %(round)s + 10",
    "UPDATE kept SET other = other - 1000 WHERE id = %(round)s + 20",
    "DELETE FROM kept WHERE id = %(round)s + 30",
    "DELETE FROM whole WHERE id = %(round)s + 10",
    "UPDATE whole SET word = 'after' || %(round)s WHERE id BETWEEN 20 AND 30",
    "UPDATE whole SET id = 2000 - id WHERE id = %(round)s + 30",
)


async def test_a_table_whose_rows_are_told_apart_by_something_else_is_followed_on(flow: InlineFlow) -> None:
    """Also its keys change, by the one and by the other; old rows are found by what they are told by now."""
    await flow.run()
    for number, altered in enumerate(_OTHER_IDENTITIES):
        with flow.source.connect() as connection:
            connection.execute("UPDATE kept SET word = 'before' WHERE id < 10")
            for statement in altered:
                connection.execute(statement.encode())
            for statement in _CHANGES:
                connection.execute(statement.encode(), {"round": number})
        outcome = await flow.run()
        assert outcome.exit_code == 0
        flow.require_equal()
