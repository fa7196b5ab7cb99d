"""How far all followers of one spool have come: only what is before the last of them may be forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

from dsync.coordinator.stream.intake import order_of
from dsync.coordinator.stream.lanes import MAIN
from dsync.coordinator.stream.position import Position
from dsync.spool import Spool


@dataclass(slots=True, kw_only=True)
class Horizon:
    """What the spool keeps, and what the source is told, is the lowest of the followers' durable positions."""

    spool: Spool
    acknowledge: Callable[[Position], Awaitable[None]]
    """Tell the source that everything up to there is durable."""
    record: Callable[[Position], Awaitable[None]]
    """Keep what the source is about to be told, durably."""
    told: Position = field(default_factory=Position)
    """What it has been told, by any earlier life."""

    _held: dict[str, Position] = field(default_factory=dict, init=False)
    _telling: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)

    @property
    def lowest(self) -> Position:
        """Everybody has everything up to there; the start where nobody follows."""
        return min(self._held.values(), key=lambda position: position.place, default=Position())

    @property
    def start(self) -> Position:
        """Where the source has to go on for the last of them.

        A follower that stands amid a frame has the cursor of the frame before, and of one that was cut otherwise
        then: the source may have been told a later one, as others have got it.
        """
        lowest = self.lowest
        is_told = bool(self.told.cursor) and self.told.place <= lowest.place
        return replace(lowest, cursor=self.told.cursor) if is_told else lowest

    def hold(self, follower: str, position: Position) -> None:
        """Whoever has this name goes on from there: what comes after it is kept from now on.

        To be called before it is recorded that somebody does, and with a position that somebody else holds still.
        """
        self._held[follower] = position

    async def moved(self, follower: str, position: Position) -> None:
        """This one has everything up to there, durably, and so the store says."""
        self._held[follower] = position
        await self._tell()

    async def let_go(self, follower: str) -> None:
        """This one follows no more. Repeatable."""
        if self._held.pop(follower, None) is not None:
            await self._tell()

    async def _tell(self) -> None:
        async with self._telling:
            lowest = self.lowest
            if lowest == self.told or not lowest.cursor or lowest.place < self.told.place:
                return
            if lowest.place == self.told.place and lowest != self._held.get(MAIN):
                # The main follower has been there, and what it had heard by then was the later word.
                return
            await self.record(lowest)
            self.told = lowest
            await self.acknowledge(lowest)
            await self.spool.trim(order_of(lowest.place))
