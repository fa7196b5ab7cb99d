"""Whether something between us and the server hands our transactions to different backends."""

from __future__ import annotations

import enum
import secrets

from dsync_postgres.sessions import Connection, Session, Sessions

_LOOKS = 3


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
    """Whether the first connection's statements ever ran on more than one backend, or lost a setting.

    Several looks at each point: poolers hand out the backend that was used last, or take turns.
    """
    mark = secrets.token_hex(8)
    await first.run("looking for a pooler", lambda connection: _mark(connection, mark))
    seen = await _look(first)
    # While the second one is in a transaction the first one's next statement takes another backend, or its own.
    await second.run("looking for a pooler", _begin)
    seen |= await _look(first)
    await second.run("looking for a pooler", _roll_back)
    seen |= await _look(first)
    return len(seen) > 1 or any(kept != mark for _, kept in seen)


async def _look(session: Session) -> set[tuple[int, str]]:
    """Backend and mark, as several transactions see them."""
    return {await session.run("looking for a pooler", _backend_and_mark) for _ in range(_LOOKS)}


def _backend(connection: Connection) -> int:
    row = connection.execute("SELECT pg_backend_pid()").fetchone()
    assert row is not None, "a SELECT without FROM gives one row"
    return int(row[0])


def _mark(connection: Connection, mark: str) -> None:
    # A placeholder of our own, which no server keeps beyond the backend.
    connection.execute("SELECT set_config('dsync.mark', %s, false)", [mark])


def _backend_and_mark(connection: Connection) -> tuple[int, str]:
    row = connection.execute("SELECT pg_backend_pid(), current_setting('dsync.mark', true)").fetchone()
    assert row is not None, "a SELECT without FROM gives one row"
    return int(row[0]), row[1] or ""


def _begin(connection: Connection) -> None:
    connection.execute("BEGIN")
    connection.execute("SELECT")


def _roll_back(connection: Connection) -> None:
    connection.rollback()
