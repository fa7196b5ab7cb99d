"""What may be asked of a run while it runs: to pause, to go on, another rate, to copy tables anew, to end."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable
from dataclasses import dataclass, field

from dsync.coordinator.tasks import StoppedError


class RunCancelledError(StoppedError):
    """Somebody asked for the run's end, and it has ended; everything so far is durable and checkpointed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """How much may be read in a second; 0: as much as there is."""

    rows_per_s: int = 0
    bytes_per_s: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ResyncWish:
    """Namespaces that are to be copied anew while the others are followed."""

    namespaces: tuple[str, ...]
    answer: asyncio.Future[str]
    """Empty once it is recorded that they are; else why they cannot be."""


@dataclass(slots=True, kw_only=True)
class Control:
    """Set by whoever was asked, heeded by whatever moves data, between two pages or rounds.

    One that nobody sets lets everything go on.
    """

    rate: Rate | None = field(default=None, init=False)
    """What was asked since the run began; None: what its specification says holds."""
    wishes: deque[ResyncWish] = field(default_factory=deque, init=False)
    """What is to be copied anew, in the order asked."""
    wished: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    """Set with each wish; whoever waits for one clears it."""
    _going: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    _changed: asyncio.Event = field(default_factory=asyncio.Event, init=False)

    def __post_init__(self) -> None:
        self._going.set()

    @property
    def is_paused(self) -> bool:
        return not self._going.is_set()

    def pause(self) -> None:
        self._going.clear()

    def resume(self) -> None:
        self._going.set()

    def limit(self, rate: Rate) -> None:
        """Another rate, from now on; it also counts for whoever waits because of the one before."""
        self.rate = rate
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def wish_resync(self, namespaces: tuple[str, ...]) -> asyncio.Future[str]:
        """Have these copied anew as soon as the stream has them; what becomes of the wish, see `ResyncWish.answer`."""
        wish = ResyncWish(namespaces=namespaces, answer=asyncio.get_running_loop().create_future())
        self.wishes.append(wish)
        self.wished.set()
        return wish.answer

    async def wait_while_paused(self, stopping: asyncio.Event) -> None:
        """Return at once unless the run is paused, then when it goes on.

        Raises:
            StoppedError: it is to stop while it is paused.
        """
        while self.is_paused:
            if stopping.is_set():
                raise StoppedError
            await first_of(self._going, stopping)

    def until_changed(self, stopping: asyncio.Event) -> Awaitable[None]:
        """Until there is another rate than when this was called, or the run is to stop."""
        # No coroutine itself: which rate it began with must not depend on when it is awaited.
        return first_of(self._changed, stopping)


async def first_of(*events: asyncio.Event) -> None:
    """Until one of these is set."""
    waiters = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waiters, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for waiter in waiters:
            waiter.cancel()
