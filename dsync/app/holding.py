"""Holding a flow while something is done with it, so that nobody else runs it meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from dsync.coordinator.tasks import task_group
from dsync.protocol.errors import DsyncError
from dsync.state import LeaseHeldError, this_process
from dsync.state.lease import acquire, heartbeats

if TYPE_CHECKING:
    from dsync.state import Store

OnWait = Callable[[LeaseHeldError], None]


@asynccontextmanager
async def holding(store: Store, flow: str, on_wait: OnWait) -> AsyncIterator[None]:
    """Hold the flow; when the lease is lost, what runs inside is cancelled and the loss is raised.

    Raises:
        LeaseHeldError: somebody else runs it; `on_wait` is told of one on another host, which is waited for.
    """
    lease = await acquire(store, flow, this_process(), on_wait=on_wait)
    lost: list[DsyncError] = []
    holder = asyncio.current_task()
    assert holder is not None, "coroutines run in tasks"

    def on_lost(error: DsyncError) -> None:
        lost.append(error)
        holder.cancel()

    try:
        async with task_group() as tasks, heartbeats(store, lease, tasks, on_lost):
            yield
    except asyncio.CancelledError:
        if lost:
            holder.uncancel()
            raise lost[0] from None
        raise
