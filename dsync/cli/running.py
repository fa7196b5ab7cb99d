"""Running a command's coroutine: signals that drain, signals that stop, and nothing left behind."""

from __future__ import annotations

import asyncio
import importlib
import os
import re
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from dsync.cli.answer import write
from dsync.cli.failures import InterruptedRunError
from dsync.cli.settings import Settings
from dsync.plugins.ahead import started_ahead
from dsync.quick_start import end_imports

T = TypeVar("T")

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# grpc:// and grpcs:// lead to a process that somebody else runs, env: and file: to nobody knows what.
_ELSEWHERE = re.compile(r"(?:grpcs?://|(?:env|file):(?!//))", re.IGNORECASE)
_DRAIN_S = 25.0
"""How long a run may take to drain: supervisors (systemd, Kubernetes) kill 30 s after they have asked."""


def run(
    settings: Settings,
    action: Callable[[asyncio.Event], Coroutine[Any, Any, T]],
    *,
    drains: bool = False,
    drain_s: float = _DRAIN_S,
    afterwards: str = "nothing was changed",
    plugins: int = 0,
    imports: str = "",
) -> T:
    """Run `action(stopping)` to its end.

    So many processes for its plug-ins are on their way while the module `imports` is loaded, with all it needs.

    Where it `drains`, the first signal sets `stopping` and a second one, or the end of `drain_s`, cancels it. Else the
    first one does. `afterwards` says how things stand once a signal has ended it.

    Raises:
        InterruptedRunError: a signal ended it.
        RunCancelledError: another command did.
    """
    # gRPC's core prints on stderr what it thinks of lost connections; the calls' errors say the same, once.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")

    async def prepare_and_supervise() -> T:
        async with started_ahead(plugins):
            from dsync.cli.logs import configure_logging

            configure_logging(settings)
            if imports:
                importlib.import_module(imports)
            end_imports()
            return await _supervise(action, drain_s=drain_s if drains else None, afterwards=afterwards)

    return asyncio.run(prepare_and_supervise())


def count_plugins(attach: str, *references: str | None) -> int:
    """How many processes these ends are going to need, as far as that can be seen: a reference may be anything."""
    if attach != "process":
        return 0
    return sum(bool(reference) and not _ELSEWHERE.match(reference or "") for reference in references)


async def _supervise(
    action: Callable[[asyncio.Event], Coroutine[Any, Any, T]], *, drain_s: float | None, afterwards: str
) -> T:
    from dsync.coordinator.control import RunCancelledError
    from dsync.coordinator.tasks import StoppedError

    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    task = asyncio.current_task()
    assert task is not None, "coroutines run in tasks"
    received: list[int] = []
    timers: list[asyncio.TimerHandle] = []

    def on_signal(number: int) -> None:
        received.append(number)
        if len(received) > 1 or drain_s is None:
            task.cancel()
            return
        stopping.set()
        timers.append(loop.call_later(drain_s, task.cancel))
        write(sys.stderr, "stopping: pages in flight are finished first; a second Ctrl-C stops at once")

    # Under nohup a hang-up stays ignored. An interrupt never does, although shells have the background jobs of
    # scripts ignore it: whoever sends it there means us.
    heeded = [number for number in _SIGNALS if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]
    for number in heeded:
        loop.add_signal_handler(number, on_signal, number)
    try:
        return await action(stopping)
    except (StoppedError, asyncio.CancelledError) as error:
        if not received or isinstance(error, RunCancelledError):
            raise
        raise InterruptedRunError(received[0], afterwards) from None
    finally:
        for timer in timers:
            timer.cancel()
        for number in heeded:
            loop.remove_signal_handler(number)
