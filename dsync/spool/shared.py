"""What the writer's side and the readers of one spool both look at, in the event loop."""

from __future__ import annotations

import asyncio
from pathlib import Path

from dsync.spool.errors import SpoolBrokenError, SpoolClosedError
from dsync.spool.log import Standing
from dsync.spool.tail import Tail


class Signal:
    """Wakes all who wait for a change."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    async def wait(self) -> None:
        """Until the next `notify`. Nothing between looking and this call may await, or a change is missed."""
        await self._event.wait()

    def notify(self) -> None:
        self._event.set()
        self._event = asyncio.Event()


class Shared:
    """One spool's present state."""

    def __init__(self, directory: Path, standing: Standing, cache_bytes: int) -> None:
        self.directory = directory
        self.standing = standing
        self.tail = Tail(frames=standing.frames, last_order=standing.last_order, cache_bytes=cache_bytes)
        self.broken: SpoolBrokenError | None = None
        self.is_closed = False
        self.grown = Signal()
        """There are more frames, or more durable ones, or there will be none any more."""
        self.freed = Signal()
        """There may be room."""

    def require_usable(self) -> None:
        """Raises SpoolBrokenError or SpoolClosedError."""
        if self.broken is not None:
            # A new one each time: a raised error collects the frames of whoever it passes.
            raise SpoolBrokenError(str(self.broken)) from self.broken
        if self.is_closed:
            raise SpoolClosedError(f"the spool {self.directory} was closed while it was still in use: a bug of dsync")

    def notify(self) -> None:
        """Let everybody look again."""
        self.grown.notify()
        self.freed.notify()
