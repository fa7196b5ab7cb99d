"""An open stream of a connector: answers one by one, for which nobody waits longer than is said."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Generic, TypeVar

_T = TypeVar("_T")


class Stream(Generic[_T]):
    """The next answer is waited for by a task of its own, so that giving up on it does not end the call."""

    def __init__(self, answers: AsyncIterator[_T], *, wait_s: float) -> None:
        self._answers = answers
        self._wait_s = wait_s
        self._next: asyncio.Task[_T | None] | None = None

    async def next(self, wait_s: float | None = None) -> _T | None:
        """The next answer; None where the stream has ended.

        Raises:
            TimeoutError: none came in time; the stream stays open.
        """
        if self._next is None:
            self._next = asyncio.create_task(self._one())
        done, _ = await asyncio.wait({self._next}, timeout=self._wait_s if wait_s is None else wait_s)
        if not done:
            raise TimeoutError
        task, self._next = self._next, None
        return task.result()

    async def _one(self) -> _T | None:
        return await anext(self._answers, None)

    async def close(self) -> None:
        """End the call."""
        if self._next is not None:
            self._next.cancel()
            await asyncio.wait({self._next})
        if isinstance(self._answers, AsyncGenerator):
            await self._answers.aclose()
