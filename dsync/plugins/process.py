"""One process of one plug-in: started with a job over a pipe, asked whether it lives, stopped with all it started."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import structlog
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from dsync.plugins.ahead import LONGEST_ANSWER_BYTES, ChildProtocol, take_child
from dsync.plugins.logs import forward_logs
from dsync.protocol.channel import MAX_MESSAGE_BYTES, Target, open_channel
from dsync.protocol.errors import DeadlineError, DsyncError, ServerUnavailableError
from dsync.protocol.errors_wire import rebuild
from dsync.sdk.redaction import Redactor

_log = structlog.get_logger("dsync.plugins")


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What is started, and how patiently."""

    spec: str
    """The connector's `module:attribute`."""
    reference: str = field(repr=False)
    """The URI or the reference to it: goes through the pipe, never into arguments or the environment."""
    name: str
    """As messages and logs call it: "source postgres"."""
    options: Mapping[str, str] = field(default_factory=dict, repr=False)
    application_name: str = "dsync"
    max_message_bytes: int = MAX_MESSAGE_BYTES
    log_level: int = 20
    start_s: float = 10.0
    """Within this time it must answer."""
    grace_s: float = 10.0
    """How long it may take to stop before it is killed."""


class PluginProcess:
    """A running child. It never outlives us: the end of its input, which is our death, is its order to stop."""

    def __init__(
        self,
        launch: Launch,
        transport: asyncio.SubprocessTransport,
        protocol: ChildProtocol,
        socket: Path,
        redactor: Redactor,
    ) -> None:
        self.launch = launch
        self.pid = transport.get_pid()
        self.socket = socket
        self.started_at = time.monotonic()
        self._transport = transport
        self._exited = protocol.exited
        self._process = asyncio.subprocess.Process(transport, protocol, asyncio.get_running_loop())
        self._redactor = redactor
        self._is_over = False

    @classmethod
    async def start(cls, launch: Launch, *, directory: Path, generation: int, redactor: Redactor) -> PluginProcess:
        """Start a child and wait until it answers; `directory` is private and gets its socket and its files.

        Raises:
            DeadlineError: it did not answer in time.
            ServerUnavailableError: it could not be started, or ended before it answered.
            DsyncError: it says why it cannot serve: an option is wrong, a module is missing.
        """
        socket = directory / f"{generation}.sock"
        try:
            transport, protocol = await take_child()
        except OSError as exc:
            raise ServerUnavailableError(f"{launch.name}: its process cannot be started ({exc.strerror})") from exc
        child = cls(launch, transport, protocol, socket, redactor)
        try:
            await child._hand_over(directory)
            await child._await_answer()
        except BaseException:
            await asyncio.shield(child.kill())
            child.let_go()
            raise
        return child

    @property
    def target(self) -> Target:
        return Target(address=f"unix:{self.socket}", name=f"{self.launch.name} (process {self.pid})", keepalive=True)

    async def forward_logs(self) -> None:
        """Pass on what it logs, until it ends."""
        assert self._process.stderr is not None
        await forward_logs(self._process.stderr, plugin=self.launch.name, redactor=self._redactor)

    def let_go(self) -> None:
        """Close our ends of its pipes, once its last words have been read."""
        self._transport.close()

    async def wait(self) -> str:
        """Wait for its end and say how it came about."""
        await self._exited.wait()
        code = self._transport.get_returncode() or 0
        return f"ended with {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"

    async def is_alive(self, *, timeout_s: float) -> bool:
        """Ask it; False where there is no answer in time."""
        channel = open_channel(self.target)
        try:
            stub = health_pb2_grpc.HealthStub(channel)
            await stub.Check(health_pb2.HealthCheckRequest(), timeout=timeout_s)
        except aio.AioRpcError:
            return False
        finally:
            await channel.close()
        return True

    async def stop(self) -> None:
        """Let calls in flight end and connections close; kill what does not end in time, and all it started."""
        self._close_input()
        self._signal(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.launch.grace_s):
                await self._exited.wait()
        await self.kill()

    async def kill(self) -> None:
        """End it and everything in its group at once; once it has ended, end what it left behind. Repeatable."""
        self._signal(signal.SIGKILL)
        await self._exited.wait()
        self._is_over = True
        self.socket.unlink(missing_ok=True)

    def _signal(self, number: int) -> None:
        """Signal the whole group, which may have members when its first is gone.

        Only until it is over: a number without a group may be given to a stranger's.
        """
        if not self._is_over:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    def _close_input(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()

    async def _hand_over(self, directory: Path) -> None:
        job = {
            "spec": self.launch.spec,
            "reference": self.launch.reference,
            "options": dict(self.launch.options),
            "application_name": self.launch.application_name,
            "private_directory": str(directory),
            "socket": str(self.socket),
            "max_message_bytes": self.launch.max_message_bytes,
            "grace_s": self.launch.grace_s,
            "log_level": self.launch.log_level,
            "owner_pid": os.getpid(),
        }
        assert self._process.stdin is not None
        # A child that died at once leaves a broken pipe; waiting for its answer finds the reason.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._process.stdin.write(json.dumps(job).encode() + b"\n")
            await self._process.stdin.drain()

    async def _await_answer(self) -> None:
        assert self._process.stdout is not None
        name = self.launch.name
        try:
            async with asyncio.timeout(self.launch.start_s):
                line = await self._process.stdout.readline()
        except TimeoutError as exc:
            raise DeadlineError(f"{name}: its process did not start within {self.launch.start_s:g} s") from exc
        if not line:
            how = await self.wait()
            output = await self._last_output()
            raise ServerUnavailableError(
                f"{name}: its process {how} before it could answer{output}; give the same command again, with -v if it "
                "does not help"
            )
        answer = json.loads(line[:LONGEST_ANSWER_BYTES])
        if "error" in answer:
            names, message = answer["error"]
            raise rebuild(names, f"{message}") or DsyncError(message)
        _log.debug("plugin_started", plugin=name, pid=self.pid, elapsed_s=round(time.monotonic() - self.started_at, 3))

    async def _last_output(self) -> str:
        """The last line it printed: often the only hint why a process died at its start."""
        assert self._process.stderr is not None
        output = self._redactor.text((await self._process.stderr.read(LONGEST_ANSWER_BYTES)).decode("utf-8", "replace"))
        lines = output.strip().splitlines()
        return f": {lines[-1][:500]}" if lines else ""
