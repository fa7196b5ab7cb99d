"""Memory for pages in flight, counted in bytes."""

from __future__ import annotations

import asyncio
from collections import deque

from dsync.protocol.errors import CapacityError


class ByteBudget:
    """Bounds the bytes of all pages between being asked for and being durable; first come, first served.

    This bound is the backpressure of a copy: a slow sink holds its pages, so nobody may read more.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, size_bytes: int) -> None:
        """Wait until this many bytes are free, then hold them."""
        if size_bytes > self.limit_bytes:
            raise CapacityError(
                f"one page may weigh {size_bytes} bytes, the memory limit leaves {self.limit_bytes} for pages; "
                "raise --memory-limit or lower --page-bytes"
            )
        if not self._waiting and self.used_bytes + size_bytes <= self.limit_bytes:
            self.used_bytes += size_bytes
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size_bytes, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give_back(size_bytes)
            else:
                # Those behind a waiter that gave up may fit by now.
                self._wake()
            raise

    def adjust(self, taken_bytes: int, actual_bytes: int) -> None:
        """A page weighs other than expected. May exceed the limit for a moment rather than deadlock."""
        self.used_bytes += actual_bytes - taken_bytes
        self._wake()

    def give_back(self, size_bytes: int) -> None:
        self.used_bytes -= size_bytes
        self._wake()

    def _wake(self) -> None:
        while self._waiting:
            size_bytes, turn = self._waiting[0]
            if turn.done():
                self._waiting.popleft()
                continue
            if self.used_bytes + size_bytes > self.limit_bytes and self.used_bytes > 0:
                return
            self._waiting.popleft()
            self.used_bytes += size_bytes
            turn.set_result(None)
