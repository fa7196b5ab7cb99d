"""Whether something between us and the server hands our transactions to different backends."""

from __future__ import annotations

import enum
import secrets

from dsync_postgres.sessions import Connection, Session, Sessions


class Pooling(enum.Enum):
    """What sits between a connection and its backend."""

    NONE = "nothing"
    UNKNOWN = "a pooler that kept one backend while we looked"
    TRANSACTION = "a pooler that changes backends between transactions"


async def find_pooling(sessions: Sessions) -> Pooling:
    """Look from two connections: a pooler gives the first one's backend to the second when that one is free.

    The number that the connection was told at its start is the backend's own only where nothing sits in between.
    """
    async with sessions.lease() as first, sessions.lease() as second:
        if first.pid == await first.run("looking for a pooler", _backend):
            return Pooling.NONE
        return Pooling.TRANSACTION if await _changes_backends(first, second) else Pooling.UNKNOWN


async def _changes_backends(first: Session, second: Session) -> bool:
    mark = secrets.token_hex(8)
    await first.run("looking for a pooler", lambda connection: _mark(connection, mark))
    before = await first.run("looking for a pooler", _backend)
    # While the second one is in a transaction the first one's next statement takes another backend, or its own.
    await second.run("looking for a pooler", _begin)
    during = await first.run("looking for a pooler", _backend)
    await second.run("looking for a pooler", _roll_back)
    after = await first.run("looking for a pooler", _backend)
    kept = await first.run("looking for a pooler", _read_mark)
    return len({before, during, after}) > 1 or kept != mark


def _backend(connection: Connection) -> int:
    row = connection.execute("SELECT pg_backend_pid()").fetchone()
    assert row is not None, "a SELECT without FROM gives one row"
    return int(row[0])


def _mark(connection: Connection, mark: str) -> None:
    # A placeholder of our own, which no server keeps beyond the backend.
    connection.execute("SELECT set_config('dsync.mark', %s, false)", [mark])


def _read_mark(connection: Connection) -> str:
    row = connection.execute("SELECT current_setting('dsync.mark', true)").fetchone()
    assert row is not None, "a SELECT without FROM gives one row"
    return row[0] or ""


def _begin(connection: Connection) -> None:
    connection.execute("BEGIN")
    connection.execute("SELECT")


def _roll_back(connection: Connection) -> None:
    connection.rollback()
