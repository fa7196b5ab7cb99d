"""The sessions that changes are applied in: beside the pool, since their settings and prepared statements last.

`session_replication_role` is set once for each of them: every change of it makes the server forget all its plans. So
are the planner's settings: a plan that fits a small table must not meet a large one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
from psycopg import pq

from dsync_postgres.sessions import Session, Sessions
from dsync_postgres.sink.apply.pipeline import Connection, Prepared

_SETTINGS = b"""
SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_seqscan = off;
SET plan_cache_mode = force_generic_plan; SET jit = off
"""


class Lane:
    """One session that applies changes, and what it has prepared."""

    def __init__(self, session: Session, *, is_replica: bool) -> None:
        self.session = session
        self.is_replica = is_replica
        """Neither triggers nor foreign keys fire in it, but for those that are meant to fire for a replica."""
        self.prepared = Prepared()


class Lanes:
    """As many sessions as frames are applied at a time; they stay until the connector closes."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._idle: list[Lane] = []
        self._is_closed = False

    @asynccontextmanager
    async def lease(self) -> AsyncIterator[Lane]:
        """Lend a session for one frame."""
        lane = await self._take()
        try:
            yield lane
        finally:
            await asyncio.shield(self._give_back(lane))

    async def _take(self) -> Lane:
        while self._idle:
            lane = self._idle.pop()
            if lane.session.is_usable:
                return lane
            await lane.session.close()
        session = await self._sessions.open("apply")
        try:
            is_replica = await session.run("preparing a session to apply changes", _prepare)
        except BaseException:
            await asyncio.shield(session.close())
            raise
        return Lane(session, is_replica=is_replica)

    async def _give_back(self, lane: Lane) -> None:
        # Whatever has gone wrong in it, a new one costs little.
        if lane.session.is_usable and not self._is_closed:
            self._idle.append(lane)
        else:
            await lane.session.close()

    async def close(self) -> None:
        """Close the sessions that nobody has. Repeatable; those that are lent close when they come back."""
        self._is_closed = True
        idle, self._idle = self._idle, []
        for lane in idle:
            await lane.session.close()


def _prepare(connection: Connection) -> bool:
    """Pin what a session that applies changes needs; returns whether triggers and foreign keys are quiet in it."""
    connection.execute(_SETTINGS)
    try:
        connection.execute("SET session_replication_role = replica")
    except psycopg.errors.InsufficientPrivilege:
        return False
    return connection.pgconn.transaction_status == pq.TransactionStatus.IDLE
