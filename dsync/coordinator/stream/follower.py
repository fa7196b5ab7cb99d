"""Following: apply what the spool holds, and every so often say what the sink's ledger has of it.

Several followers may read one spool, each with lanes, namespaces and a position of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime

from dsync.coordinator.control import Control
from dsync.coordinator.stream.applier import Applier
from dsync.coordinator.stream.between import Between
from dsync.coordinator.stream.horizon import Horizon
from dsync.coordinator.stream.intake import Intake, spooled_frames
from dsync.coordinator.stream.lanes import MAIN, kept_by_all
from dsync.coordinator.stream.position import Position
from dsync.coordinator.stream.rounds import Round, Rounds, marks_of
from dsync.coordinator.tasks import StoppedError
from dsync.protocol.frames import START, Place
from dsync.spool import Spool

ACKNOWLEDGE_EVERY_S = 10.0


@dataclass(slots=True, kw_only=True)
class Follower:
    """One source into one sink."""

    spool: Spool
    intake: Intake
    applier: Applier
    rounds: Rounds
    checkpoint: Callable[[Position], Awaitable[None]]
    """Record it in the store, durably."""
    horizon: Horizon
    """Where it says what it has."""
    stopping: asyncio.Event
    name: str = MAIN
    acknowledge_every_s: float = ACKNOWLEDGE_EVERY_S
    control: Control = field(default_factory=Control)

    marks: set[bytes] = field(default_factory=set, init=False)
    """What was passed of the marks in the source's history; whoever waits for one takes it out."""
    between: Between = field(default_factory=Between, init=False)
    """For whoever waits for marks while changes are applied."""
    applied_time: datetime | None = field(default=None, init=False)
    """When the last transaction was committed that was applied, by the source's clock."""
    _told: Position = field(default_factory=Position, init=False)
    _applying: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)

    @property
    def place(self) -> Place:
        """Everything up to there is durable at the sink."""
        return self.applier.position.place

    @asynccontextmanager
    async def at_rest(self) -> AsyncIterator[None]:
        """Inside, it stands between two rounds and applies nothing: to be left soon."""
        async with self._applying:
            yield

    @property
    def has_all(self) -> bool:
        """Nothing that the source has sent is left to apply."""
        return self.applier.position.place >= self.intake.quiet.place

    async def run(self, *, until: Callable[[], bool] = lambda: False) -> None:
        """Apply changes until `until` says so after a round, or for ever; the intake runs beside it.

        What was applied is acknowledged at the end too. Repeatable: the ledger says where it goes on.

        Raises:
            StoppedError: between two rounds, because the run is stopping.
            DsyncError: what a person has to deal with.
        """
        start = kept_by_all(self.applier.lanes)
        told_s = time.monotonic()
        pending: asyncio.Task[Round] | None = None
        async with aclosing(self.rounds.of(spooled_frames(self.spool, start.place), after=start)) as rounds:
            try:
                while not until() and not self.stopping.is_set():
                    if self.control.is_paused:
                        await self._rest()
                        continue
                    pending = pending or asyncio.create_task(anext(rounds))
                    await self._news(pending, told_s + self.acknowledge_every_s - time.monotonic())
                    # A pause that came meanwhile holds for what was waited for, too.
                    if pending.done() and not self.control.is_paused:
                        found, pending = pending.result(), None
                        async with self._applying:
                            await self.applier.apply(found)
                        self._has_applied(found)
                    if time.monotonic() - told_s >= self.acknowledge_every_s:
                        await self._tell_news()
                        told_s = time.monotonic()
            finally:
                if pending is not None:
                    pending.cancel()
                    await asyncio.gather(pending, return_exceptions=True)
        await self._tell()
        if self.stopping.is_set():
            raise StoppedError

    async def _rest(self) -> None:
        """Until the run goes on or is to stop; what has been applied need not be kept meanwhile."""
        await self._tell_news()
        with contextlib.suppress(StoppedError):
            await self.control.wait_while_paused(self.stopping)

    def _has_applied(self, found: Round) -> None:
        self.marks.update(marks_of(found))
        self.between.saw(found)
        commits = found.frame.commits
        if commits and commits[-1].time is not None:
            self.applied_time = commits[-1].time

    async def _news(self, pending: asyncio.Task[Round], timeout_s: float) -> None:
        """Until there is a round, the source has said something, or it is time to stop or to acknowledge."""
        self.intake.heard.clear()
        waiters = [asyncio.create_task(event.wait()) for event in (self.intake.heard, self.stopping)]
        try:
            await asyncio.wait((pending, *waiters), timeout=max(0.0, timeout_s), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for waiter in waiters:
                waiter.cancel()

    async def _tell_news(self) -> None:
        """Tell what was applied since the start.

        An earlier life may have ended before it told all. The source is not told of that before the stream has begun:
        were it opened again, it would be asked for what it has just been told to discard.
        """
        if self.intake.has_heard or self.applier.position.place > self.intake.start.place:
            await self._tell()

    async def _tell(self) -> None:
        """Sink, then store, then source: nobody discards what is not durable further on."""
        async with self._applying:
            kept = await self._catch_up()
        if kept == self._told or not kept.cursor:
            return
        await self.checkpoint(kept)
        await self.horizon.moved(self.name, kept)
        self._told = kept

    async def _catch_up(self) -> Position:
        applied = self.applier.position
        if applied.place == self.intake.quiet.place != START:
            # Nothing is on its way, so what the source has said since of having no changes counts too.
            self.applier.pass_to(self.intake.quiet)
        return await self.applier.catch_up()
