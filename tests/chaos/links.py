"""The lines between a flow and its servers: proxies in a thread of their own, to be cut and slowed from any other."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from tests.support.proxy import FaultyProxy


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One proxy; what is asked of it happens in its thread."""

    proxy: FaultyProxy
    loop: asyncio.AbstractEventLoop

    def through(self, uri: str) -> str:
        return self.proxy.through(uri)

    @property
    def port(self) -> int:
        """What a plug-in is connected to that talks through it."""
        return self.proxy.port

    def do(self, change: Callable[[FaultyProxy], object]) -> None:
        self.loop.call_soon_threadsafe(change, self.proxy)

    def mend(self) -> None:
        """Carry everything, as quickly as it goes."""

        def all_is_well(proxy: FaultyProxy) -> None:
            proxy.black_hole(False)
            proxy.refuse(False)
            proxy.delay_s, proxy.bytes_per_s = 0.0, None

        self.do(all_is_well)


@contextmanager
def lines(*uris: str) -> Iterator[list[Line]]:
    """One for each server that a URI names."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="lines", daemon=True)
    thread.start()
    stack = AsyncExitStack()
    try:
        yield [asyncio.run_coroutine_threadsafe(_open(stack, uri), loop).result(10) for uri in uris]
    finally:
        asyncio.run_coroutine_threadsafe(stack.aclose(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


async def _open(stack: AsyncExitStack, uri: str) -> Line:
    parts = urlsplit(uri)
    assert parts.hostname is not None
    assert parts.port is not None
    proxy = await stack.enter_async_context(FaultyProxy(host=parts.hostname, port_behind=parts.port))
    return Line(proxy=proxy, loop=asyncio.get_running_loop())
