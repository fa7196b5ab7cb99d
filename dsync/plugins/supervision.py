"""Keeping a plug-in's process alive: one that dies or hangs is replaced, with growing pauses."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from dsync.plugins.process import Launch, PluginProcess
from dsync.protocol.channel import Target
from dsync.protocol.errors import DsyncError
from dsync.sdk.redaction import Redactor

_LAST_WORDS_S = 1.0

_log = structlog.get_logger("dsync.plugins")


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """When a process counts as hung, and how soon a dead one is replaced."""

    ask_every_s: float = 10.0
    answer_within_s: float = 10.0
    """Two questions without an answer in a row, and it is killed."""
    first_pause_s: float = 0.1
    longest_pause_s: float = 10.0
    steady_after_s: float = 60.0
    """A process that lived this long dies of something new: pauses start again from the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginEvent:
    """Something that happened to a plug-in's process."""

    plugin: str
    kind: str
    """"died", "hung", "restarted" or "restart_failed"."""
    pid: int
    reason: str = ""


class Supervisor:
    """Owns the process of one plug-in and its successors."""

    def __init__(
        self,
        launch: Launch,
        *,
        directory: Path,
        redactor: Redactor,
        patience: Patience,
        on_event: Callable[[PluginEvent], None],
    ) -> None:
        self._launch = launch
        self._directory = directory
        self._redactor = redactor
        self._patience = patience
        self._on_event = on_event
        self._generation = 0
        self._stopping = asyncio.Event()
        self.restarts = 0
        self.process: PluginProcess | None = None

    async def start(self) -> Target:
        """Start the first process; a failure is the caller's to report."""
        self.process = await self._start()
        return self.process.target

    async def run(self, move: Callable[[Target], Awaitable[None]]) -> None:
        """Watch the process and replace it whenever it ends, until stopped; `move` makes callers use the successor."""
        pause_s = self._patience.first_pause_s
        while True:
            process = self.process
            assert process is not None
            reason = await self._until_dead(process)
            if self._stopping.is_set():
                return
            if time.monotonic() - process.started_at > self._patience.steady_after_s:
                pause_s = self._patience.first_pause_s
            self._tell("died", process.pid, reason)
            pause_s = await self._replace(pause_s, move)
            if self._stopping.is_set():
                return

    async def stop(self) -> None:
        """Stop the process that runs now; `run` ends with it, after passing on its last words."""
        self._stopping.set()
        if self.process is not None:
            await self.process.stop()

    async def close(self) -> None:
        """Make sure of the end, after `run` has ended or was cancelled: it may have been starting a successor."""
        await self._end_process()

    async def _start(self) -> PluginProcess:
        self._generation += 1
        return await PluginProcess.start(
            self._launch, directory=self._directory, generation=self._generation, redactor=self._redactor
        )

    async def _until_dead(self, process: PluginProcess) -> str:
        """Pass on the process's log lines and ask it now and then; returns how it ended."""
        async with background(process.forward_logs(), linger_s=_LAST_WORDS_S):
            async with background(self._kill_when_hung(process)):
                reason = await process.wait()
            # What it had started may have outlived it, and holds the other end of its log.
            await process.kill()
        process.let_go()
        return reason

    async def _kill_when_hung(self, process: PluginProcess) -> None:
        silent = 0
        while silent < 2:
            await asyncio.sleep(self._patience.ask_every_s)
            silent = 0 if await process.is_alive(timeout_s=self._patience.answer_within_s) else silent + 1
        self._tell("hung", process.pid, f"no answer twice within {self._patience.answer_within_s:g} s: killed")
        await process.kill()

    async def _replace(self, pause_s: float, move: Callable[[Target], Awaitable[None]]) -> float:
        """Start a successor, however often that takes; returns the pause before the next one."""
        while not await self._is_stopped_within(pause_s):
            pause_s = min(pause_s * 2, self._patience.longest_pause_s)
            try:
                self.process = await self._start()
                # The session is opened with the successor before any call can reach it.
                await move(self.process.target)
            except DsyncError as exc:
                self._tell("restart_failed", 0, str(exc))
                await self._end_process()
                continue
            self.restarts += 1
            self._tell("restarted", self.process.pid, "")
            break
        return pause_s

    async def _is_stopped_within(self, pause_s: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._stopping.wait()
        return self._stopping.is_set()

    async def _end_process(self) -> None:
        """End the latest process at once, whatever state it is in. Repeatable."""
        if self.process is not None:
            await self.process.kill()
            self.process.let_go()

    def _tell(self, kind: str, pid: int, reason: str) -> None:
        level = _log.info if kind == "restarted" else _log.warning
        level(f"plugin_{kind}", plugin=self._launch.name, pid=pid, **({"reason": reason} if reason else {}))
        self._on_event(PluginEvent(plugin=self._launch.name, kind=kind, pid=pid, reason=reason))


@asynccontextmanager
async def background(work: Coroutine[None, None, None], *, linger_s: float = 0) -> AsyncIterator[None]:
    """Do work beside a block and end it with the block, `linger_s` later where it is not done by then.

    A task group would do the same but turn the block's own error into a group of one.
    """
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        if linger_s:
            await asyncio.wait([task], timeout=linger_s)
        task.cancel()
        await asyncio.wait([task])
    if not task.cancelled():
        # Its own failure, which nobody else would ever see.
        task.result()
