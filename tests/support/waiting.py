"""Waiting in tests: for a condition with a deadline, never for a fixed time."""

import asyncio
import inspect
import threading
import time
from collections.abc import Awaitable, Callable
from typing import NoReturn, TypeVar, overload

T = TypeVar("T")

_POLL_S = 0.02


def wait_for(
    condition: Callable[[], T],
    *,
    timeout_s: float = 10.0,
    what: str | Callable[[], str] = "",
    poll_s: float = _POLL_S,
) -> T:
    """Ask until the condition is truthy and return what it gave; fail the test after the timeout.

    `what` says what was waited for; a callable is asked only at the end, for the state as it is then.
    """
    deadline = time.monotonic() + timeout_s
    pause = threading.Event()
    while True:
        last = condition()
        if last:
            return last
        if time.monotonic() > deadline:
            _fail(condition, what, timeout_s, last)
        pause.wait(poll_s)


@overload
async def wait_for_async(
    condition: Callable[[], Awaitable[T]],
    *,
    timeout_s: float = ...,
    what: str | Callable[[], str] = ...,
    poll_s: float = ...,
) -> T: ...
@overload
async def wait_for_async(
    condition: Callable[[], T],
    *,
    timeout_s: float = ...,
    what: str | Callable[[], str] = ...,
    poll_s: float = ...,
) -> T: ...
async def wait_for_async(
    condition: Callable[[], object],
    *,
    timeout_s: float = 10.0,
    what: str | Callable[[], str] = "",
    poll_s: float = _POLL_S,
) -> object:
    """Do what `wait_for` does without holding up the event loop; the condition may be a coroutine function."""
    deadline = time.monotonic() + timeout_s
    while True:
        answer = condition()
        last = await answer if inspect.isawaitable(answer) else answer
        if last:
            return last
        if time.monotonic() > deadline:
            _fail(condition, what, timeout_s, last)
        await asyncio.sleep(poll_s)


def _fail(condition: Callable[[], object], what: str | Callable[[], str], timeout_s: float, last: object) -> NoReturn:
    said = what() if callable(what) else what
    name = said or getattr(condition, "__qualname__", repr(condition))
    raise AssertionError(f"waited {timeout_s:g} s for: {name}; the last answer was {last!r}")
