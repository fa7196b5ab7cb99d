"""The flow of a chaos run: life after life of one command, each end of a life judged by what was done to it."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from dsync.quickstart.servers import EmbeddedPostgres
from tests.chaos.links import Line, lines
from tests.chaos.tables import fill
from tests.crash.lives import COMMAND, KILLED, Ending, Flow, Life, short_directory
from tests.support.databases import Database

NAME = "chaos"
_STREAMING = '"phase": "streaming"'
_SMALL_SPOOL = Path(__file__).with_name("small_spool.py")
_SOURCE_SETTINGS = {
    # Every transaction of some rows comes in parts, while it runs.
    "logical_decoding_work_mem": "64kB",
    "wal_sender_timeout": "20s",
    "shared_buffers": "64MB",
    "max_wal_size": "256MB",
}
_SINK_SETTINGS = {"shared_buffers": "64MB", "max_wal_size": "256MB"}
_DISTURBED_S = 45.0
"""For so long after a server or a line was out of order a life may end with exit code 3."""
_LIMIT_BYTES = 900 << 20
"""More than this all processes of a flow never take together."""


class ChaosFound(AssertionError):
    """What should not happen, whatever is done to a flow."""


@dataclass(kw_only=True, eq=False)
class World:
    """Two servers, the lines to them, and a flow that is kept alive."""

    flow: Flow
    source_line: Line
    sink_line: Line
    chance: random.Random
    directory: Path
    began_s: float = field(default_factory=time.monotonic)
    broken: dict[str, str] = field(default_factory=dict)
    """By table: what was done to it that a stream cannot follow."""
    told: list[str] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)
    life: Life | None = None
    peak_bytes: int = 0
    has_streamed: bool = False
    """The first copy of the present run is over, for all that is known here."""
    _is_to_end: bool = False
    _disturbed_until_s: float = 0.0

    @property
    def source(self) -> Database:
        return self.flow.source

    @property
    def sink(self) -> Database:
        return self.flow.sink

    def tell(self, text: str) -> None:
        """For the account of the run."""
        line = f"{time.monotonic() - self.began_s:7.1f} s  {text}"
        self.told.append(line)
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    def rest(self, seconds: float) -> None:
        """Let it run."""
        self.stopping.wait(seconds)

    def disturbed(self) -> None:
        """A server or a line is out of order, now and a little later."""
        self._disturbed_until_s = time.monotonic() + _DISTURBED_S

    # ------------------------------------------------------------------ lives

    def keep_alive(self, *arguments: str) -> Life:
        """The life that runs, or a new one."""
        if self.life is not None and not self.life.is_running:
            self.end_of_life()
        if self.life is None:
            small = (str(_SMALL_SPOOL),) if self.chance.random() < 0.4 else ()
            self.life = self.flow.start(*arguments, script=small)
            self._is_to_end = False
            self.tell(f"life {len(self.flow.lives)}{' with a small spool' * bool(small)} {' '.join(arguments)}")
        return self.life

    def expect_end(self) -> None:
        """The life is killed or asked to end."""
        self._is_to_end = True

    def end_of_life(self) -> None:
        """Judge how the last life has ended."""
        assert self.life is not None
        ending, self.life = self.life.wait(90), None
        self.judge(ending)

    def judge(self, ending: Ending) -> None:
        said = "" if ending.answer is None or not ending.answer["error"] else ending.message
        self.tell(f"life {len(self.flow.lives)} ended with {ending.exit_code} {said[:1500]}")
        if self._is_to_end and ending.exit_code in (KILLED, 130, 143):
            return
        if ending.exit_code == 3 and (time.monotonic() < self._disturbed_until_s):
            return
        raise ChaosFound(f"life {len(self.flow.lives)} ended by itself with {ending.exit_code}: {ending.answer}")

    def processes(self) -> list[psutil.Process]:
        """Coordinator and plug-ins that run now."""
        if self.life is None or not self.life.is_running:
            return []
        return [psutil.Process(self.life.pid), *self.life.plugins()]

    def plugin(self, line: Line) -> psutil.Process | None:
        """The plug-in that talks through a line now."""
        for process in self.life.plugins() if self.life is not None else []:
            try:
                if any(c.raddr and c.raddr.port == line.port for c in process.net_connections("tcp")):
                    return process
            except psutil.Error:
                # It has ended in this moment.
                continue
        return None

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Another command beside the flow."""
        return subprocess.run(
            [str(COMMAND), *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=self.flow.environment(),
        )

    @property
    def spools(self) -> Path:
        return Path(f"{self.flow.state}.spool")

    @property
    def is_streaming(self) -> bool:
        """The life that runs has come to its stream."""
        return self.life is not None and self.life.is_running and _STREAMING in self.life.log

    # ---------------------------------------------------------------- figures

    def watch(self) -> None:
        """Take the memory of all processes together, and how far they are."""
        self.has_streamed = self.has_streamed or self.is_streaming
        total = 0
        for process in self.processes():
            try:
                total += int(process.memory_full_info().pss)
            except (psutil.Error, OSError):
                # It has ended in this moment.
                continue
        self.peak_bytes = max(self.peak_bytes, total)
        if total > _LIMIT_BYTES:
            raise ChaosFound(f"all processes together take {total >> 20} MiB")


@contextmanager
def world(directory: Path, seed: int) -> Iterator[World]:
    """Servers that are filled, and a flow that has not begun."""
    with ExitStack() as stack:
        source = stack.enter_context(EmbeddedPostgres(16, settings=_SOURCE_SETTINGS, in_memory=True))
        sink = stack.enter_context(EmbeddedPostgres(18, settings=_SINK_SETTINGS, in_memory=True))
        runtime = stack.enter_context(short_directory())
        source_uri = source.create_database("shop", template="template0")
        sink_uri = sink.create_database("copy", template="template0")
        fill(source_uri)
        source_line, sink_line = stack.enter_context(lines(source_uri, sink_uri))
        flow = Flow(
            source=Database(server=source, name="shop"),
            sink=Database(server=sink, name="copy"),
            directory=directory,
            runtime=runtime,
            mode="full",
            arguments=("--flow", NAME),
            source_uri=f"{source_line.through(source_uri)}?partition_bytes=1048576",
            sink_uri=sink_line.through(sink_uri),
        )
        stack.callback(flow.end)
        yield World(
            flow=flow,
            source_line=source_line,
            sink_line=sink_line,
            chance=random.Random(seed),
            directory=directory,
        )
