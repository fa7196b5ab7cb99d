"""Holding a flow: waiting for its lease, and keeping it alive while the flow runs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING

from dsync.protocol.errors import DsyncError, RetryableError
from dsync.state.errors import LeaseHeldError, LeaseLostError
from dsync.state.rows import DEFAULT_TTL_S, Holder, Lease

if TYPE_CHECKING:
    from dsync.state.store import Store

_BEATS_PER_TTL = 3
_BEATS_PER_TTL_IN_TROUBLE = 12
_LOOK_AGAIN_S = 1.0

Pause = Callable[[float], Awaitable[object]]
"""As asyncio.sleep; tests give one that moves their clock."""


async def acquire(
    store: Store,
    flow: str,
    holder: Holder,
    *,
    ttl_s: float = DEFAULT_TTL_S,
    on_wait: Callable[[LeaseHeldError], None] = lambda _: None,
    pause: Pause = asyncio.sleep,
) -> Lease:
    """Take a flow, waiting for the lease of a process on another host to end, which may be dead.

    `on_wait` is told once, before the wait begins, what is waited for.

    Raises LeaseHeldError: the holder is alive: it runs on this host, or has renewed its lease meanwhile.
    """
    waited_s = 0.0
    patience_s: float | None = None
    while True:
        try:
            return await asyncio.to_thread(store.acquire_lease, flow, holder, ttl_s=ttl_s)
        except LeaseHeldError as exc:
            if exc.here or (patience_s is not None and waited_s > patience_s):
                raise
            if patience_s is None:
                on_wait(exc)
                patience_s = exc.remaining_s
            # Looks at once a second, since the other one may release it any time; a little longer than it runs,
            # since a lease that ends in this microsecond has not ended.
            nap_s = min(_LOOK_AGAIN_S, exc.remaining_s + 0.01)
        await pause(nap_s)
        waited_s += nap_s


@contextlib.asynccontextmanager
async def heartbeats(
    store: Store,
    lease: Lease,
    tasks: asyncio.TaskGroup,
    on_lost: Callable[[DsyncError], None],
    *,
    pause: Pause = asyncio.sleep,
) -> AsyncIterator[None]:
    """Renew a lease three times in its life while inside, in a task of the caller's group; release it at the end.

    `on_lost` is called at most once, from the event loop: with FencedError where another process has taken the flow
    over, with LeaseLostError where it could not be renewed until it ran out. Nothing may be written after that.
    """
    lost: list[DsyncError] = []

    def note_loss(error: DsyncError) -> None:
        lost.append(error)
        on_lost(error)

    beating = tasks.create_task(_beat(store, lease, note_loss, pause), name=f"lease of flow {lease.flow}")
    try:
        yield
    finally:
        beating.cancel()
        # A lease that could not be released ends by itself, and at once with this process. It must not hide how
        # the flow ended. One that is lost is not ours to release, and whoever lost it may wait for nothing more.
        if not lost:
            with contextlib.suppress(DsyncError):
                store.release_lease(lease)


async def _beat(store: Store, lease: Lease, on_lost: Callable[[DsyncError], None], pause: Pause) -> None:
    clock = store.clock
    ttl_us = int(lease.ttl_s * 1_000_000)
    renewed_us = clock.uptime_us()
    pause_s = lease.ttl_s / _BEATS_PER_TTL

    def left_s() -> float:
        return (renewed_us + ttl_us - clock.uptime_us()) / 1_000_000

    while True:
        await pause(pause_s)
        asked_us = clock.uptime_us()
        try:
            # A server that says nothing must not keep us from noticing that the lease is over. Whoever was asleep until
            # then still asks: it is ours as long as nobody has come.
            async with asyncio.timeout(max(left_s(), lease.ttl_s / _BEATS_PER_TTL)):
                await asyncio.to_thread(store.renew_lease, lease)
        except (RetryableError, TimeoutError) as exc:
            pause_s = lease.ttl_s / _BEATS_PER_TTL_IN_TROUBLE
            # The next beat would come too late.
            if left_s() <= pause_s or isinstance(exc, TimeoutError):
                on_lost(_lost(lease, exc))
                return
        except DsyncError as exc:
            on_lost(exc)
            return
        else:
            renewed_us = asked_us
            pause_s = lease.ttl_s / _BEATS_PER_TTL


def _lost(lease: Lease, cause: BaseException) -> LeaseLostError:
    lost = LeaseLostError(
        f"running flow {lease.flow}: its lease could not be renewed for {lease.ttl_s:g} s, so another process may take "
        "it over, and this one stops; the same command goes on once that is mended: "
        f"{str(cause) or 'the state does not answer'}"
    )
    lost.__cause__ = cause
    return lost
