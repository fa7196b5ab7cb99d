"""The processes of plug-ins: started when one is needed, or ahead, while nobody knows yet what they are for.

Most of a plug-in's start is imports, and so is ours: side by side they take half the time. A process that was started
ahead waits for its job, whatever that is; one that gets none is ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar

LONGEST_ANSWER_BYTES = 64 * 1024


class ChildProtocol(asyncio.subprocess.SubprocessStreamProtocol):
    """Tells of the process's end when it comes.

    `Process.wait` tells of it when its pipes are closed too, and what it had started may keep them open for ever.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(limit=LONGEST_ANSWER_BYTES, loop=loop)
        self.exited = asyncio.Event()

    def process_exited(self) -> None:
        super().process_exited()
        self.exited.set()


Child = tuple[asyncio.SubprocessTransport, ChildProtocol]

_waiting: ContextVar[list[Child] | None] = ContextVar("_waiting", default=None)


async def take_child() -> Child:
    """A process that waits for its job: one that was started ahead, else a new one.

    Raises:
        OSError: it cannot be started.
    """
    waiting = _waiting.get() or []
    while waiting:
        transport, protocol = waiting.pop()
        if transport.get_returncode() is None:
            return transport, protocol
        transport.close()
    return await _start()


@asynccontextmanager
async def started_ahead(count: int) -> AsyncIterator[None]:
    """Inside the block so many processes are on their way to whoever needs one; those nobody needed end with it."""
    waiting: list[Child] = []
    token = _waiting.set(waiting)
    try:
        # Whoever needs a process is told why there can be none.
        with contextlib.suppress(OSError):
            for _ in range(count):
                waiting.append(await _start())
        yield
    finally:
        _waiting.reset(token)
        for transport, protocol in waiting:
            await asyncio.shield(_end(transport, protocol))


async def _start() -> Child:
    loop = asyncio.get_running_loop()
    # Not the current folder (-P): a stranger's module there must not shadow ours.
    command = [sys.executable, "-P", "-m", "dsync.plugins.child"]
    # Its own group gets no Ctrl-C and can be killed with everything it started. Not its own session: a stopped
    # process whose owner dies is then continued by the kernel, and so can end.
    return await loop.subprocess_exec(lambda: ChildProtocol(loop), *command, process_group=0)


async def _end(transport: asyncio.SubprocessTransport, protocol: ChildProtocol) -> None:
    if transport.get_returncode() is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(transport.get_pid(), signal.SIGKILL)
        await protocol.exited.wait()
    transport.close()
