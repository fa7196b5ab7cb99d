"""One connector for several coordinators at a time: each session has an instance of its own.

A session decides what pages weigh, which rows count, and which snapshot is held: none of that may be another flow's.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from dsync.protocol.errors import ServerUnavailableError
from dsync.protocol.fallback import overrides
from dsync.protocol.interface import Connector
from dsync.protocol.session import current_session
from dsync.protocol.types import SessionRequest

FORGOTTEN_AFTER_S = 6 * 3600.0
"""A session that nobody has used for so long is over: its coordinator was killed, and was not started again."""

_OWN = ("close", "close_session", "open_session")


@dataclass(slots=True)
class _Session:
    connector: Connector
    calls: int = 0
    """In flight."""
    used_at_s: float = 0.0


class SharedConnector(Connector):
    """Gives each call to its session's connector, or to one that all others share. Made by `share`."""

    def __init__(self, make: Callable[[], Connector], common: Connector, clock: Callable[[], float]) -> None:
        self._make = make
        self._common = _Session(common)
        self._clock = clock
        self._sessions: dict[str, _Session] = {}

    async def close(self) -> None:
        for name in list(self._sessions):
            await self._end(name)
        await self._common.connector.close()

    async def open_session(self, request: SessionRequest) -> bytes:
        name = current_session.get()
        for other in [key for key, session in self._sessions.items() if key != name and self._is_over(session)]:
            await self._end(other)
        if name and name not in self._sessions:
            self._sessions[name] = _Session(self._make())
        with self._called() as connector:
            return await connector.open_session(request)

    async def close_session(self) -> None:
        await self._end(current_session.get())

    def _is_over(self, session: _Session) -> bool:
        return not session.calls and self._clock() - session.used_at_s > FORGOTTEN_AFTER_S

    async def _end(self, name: str) -> None:
        session = self._sessions.pop(name, None)
        if session is not None:
            await session.connector.close()

    @contextmanager
    def _called(self) -> Iterator[Connector]:
        name = current_session.get()
        session = self._sessions.get(name) if name else self._common
        if session is None:
            # What was agreed is gone: nothing may be read or written by somebody else's terms, or by none.
            raise ServerUnavailableError("this plug-in does not know the session (any more): open it again")
        session.calls += 1
        try:
            yield session.connector
        finally:
            session.calls -= 1
            session.used_at_s = self._clock()


def share(make: Callable[[], Connector], *, clock: Callable[[], float] = time.monotonic) -> Connector:
    """A connector for any number of sessions; it serves what those that `make` gives do."""
    common = make()
    names = [name for name in vars(Connector) if not name.startswith("_") and name not in _OWN]
    served: dict[str, Any] = {name: _passing_on(name) for name in names if overrides(common, name)}
    kind = type(f"Shared{type(common).__name__}", (SharedConnector,), served)
    shared: Connector = kind(make, common, clock)
    return shared


def _passing_on(name: str) -> Callable[..., Any]:
    """The method that gives the call to the session's connector; which services are served is seen by such methods."""
    if inspect.iscoroutinefunction(getattr(Connector, name)):

        async def call(self: SharedConnector, *args: Any, **kwargs: Any) -> Any:
            with self._called() as connector:
                return await getattr(connector, name)(*args, **kwargs)

        return call

    async def stream(self: SharedConnector, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        with self._called() as connector:
            async for item in getattr(connector, name)(*args, **kwargs):
                yield item

    return stream
