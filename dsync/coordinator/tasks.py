"""Task groups whose failure is one error, so that callers can catch it by class."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

from dsync.protocol.errors import DsyncError

WORST_EXIT_CODES_FIRST = (1, 3, 2, 6, 4, 5)
"""Where several things went wrong, the earliest in this order is what the command exits with."""


class StoppedError(Exception):
    """The run was asked to stop; everything so far is durable and checkpointed."""


@asynccontextmanager
async def task_group() -> AsyncIterator[asyncio.TaskGroup]:
    """An `asyncio.TaskGroup` that raises the worst of its errors instead of a group of them."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except BaseExceptionGroup as errors:
        raise worst(errors) from errors


def worst(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The leaf to report: a bug before an operator's problem before a request to stop."""
    return min(_leaves(errors), key=_rank)


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _rank(error: BaseException) -> int:
    if isinstance(error, StoppedError):
        return len(WORST_EXIT_CODES_FIRST)
    if isinstance(error, DsyncError):
        return WORST_EXIT_CODES_FIRST.index(error.exit_code)
    return -1
