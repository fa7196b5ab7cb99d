"""Repeating calls that may succeed later, with a back-off that depends on the class of the error."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TypeVar

import stamina

from dsync.coordinator.events import CallRetried, EventHandler
from dsync.protocol.errors import RetryableError, ThrottledError

T = TypeVar("T")

_THROTTLED_WAIT = timedelta(seconds=2)
_WAIT_INITIAL_S = 0.1
_WAIT_MAX_S = 10.0


class Retries:
    """One policy for all calls of a run.

    A call is repeated while its error is a `RetryableError`, for at most `retry_for_s` seconds since its first
    failure, and not once the run is stopping: what is repeated then is repeated by the next run.
    """

    def __init__(self, *, retry_for_s: float, emit: EventHandler, is_stopping: Callable[[], bool]) -> None:
        self._retry_for_s = retry_for_s
        self._emit = emit
        self._is_stopping = is_stopping

    async def call(
        self,
        operation: str,
        action: Callable[[], Awaitable[T]],
        *,
        namespace: str = "",
        before_repeat: Callable[[], Awaitable[object]] | None = None,
    ) -> T:
        """The result of `action`, repeated unchanged as long as that is worth it; it must be safe to repeat."""

        def should_repeat(error: Exception) -> bool | timedelta:
            if not isinstance(error, RetryableError) or self._is_stopping():
                return False
            self._emit(
                CallRetried(namespace=namespace, operation=operation, error=type(error).__name__, reason=str(error))
            )
            return _THROTTLED_WAIT if isinstance(error, ThrottledError) else True

        attempts = None if self._retry_for_s else 1
        async for attempt in stamina.retry_context(
            on=should_repeat,
            attempts=attempts,
            timeout=self._retry_for_s or None,
            wait_initial=_WAIT_INITIAL_S,
            wait_max=_WAIT_MAX_S,
        ):
            with attempt:
                if attempt.num > 1 and before_repeat is not None:
                    await before_repeat()
                return await action()
        raise AssertionError("a retry context ends by returning or raising")
