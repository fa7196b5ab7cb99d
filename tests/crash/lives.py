"""One `dsync sync` command in several lives: each a process tree of its own, over one state."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.support.databases import Database
from tests.support.waiting import wait_for

KILLED = 137
"""What a failpoint exits with, and what a shell says of kill -9."""

_TOKEN = "DSYNC_CRASH_TEST"
COMMAND = Path(sysconfig.get_path("scripts")) / "dsync"
_IMPATIENT = Path(__file__).with_name("impatient.py")
_LIFE_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a life ended."""

    exit_code: int
    answer: dict[str, Any] | None
    """The object that --json prints; None where it was killed."""
    log: str

    @property
    def result(self) -> dict[str, Any]:
        assert self.answer is not None, f"exit code {self.exit_code} without an answer\n{self.log}"
        assert self.answer["result"] is not None, f"exit code {self.exit_code}: {self.answer['error']}\n{self.log}"
        found: dict[str, Any] = self.answer["result"]
        return found

    @property
    def error(self) -> dict[str, Any]:
        assert self.answer is not None, f"exit code {self.exit_code} without an answer\n{self.log}"
        assert self.answer["error"] is not None, f"exit code {self.exit_code} without an error\n{self.log}"
        found: dict[str, Any] = self.answer["error"]
        return found

    @property
    def message(self) -> str:
        return str(self.error["message"])

    @property
    def named(self) -> dict[str, str]:
        """The tables that the answer says did not arrive as they are, with the reason."""
        return {
            item["namespace"]: item["reason"]
            for item in self.result["namespaces"]
            if item["state"] in ("stopped", "changed")
        }

    def events(self, name: str) -> list[dict[str, Any]]:
        """Log lines of that name."""
        return [line for line in _log_lines(self.log) if line.get("event") == name]


class Life:
    """A running command."""

    def __init__(self, process: subprocess.Popen[bytes], output: Path, log: Path) -> None:
        self.process = process
        self.pid = process.pid
        self._output = output
        self._log = log

    @property
    def is_running(self) -> bool:
        return self.process.poll() is None

    @property
    def log(self) -> str:
        return self._log.read_text("utf-8", "replace")

    def wait(self, timeout_s: float = _LIFE_TIMEOUT_S) -> Ending:
        """Wait for its end."""
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the command did not end within {timeout_s:g} s:\n{self.log[-6000:]}") from None
        text = self._output.read_text("utf-8")
        return Ending(
            exit_code=code if code >= 0 else 128 - code,
            answer=json.loads(text) if text.strip() else None,
            log=self.log,
        )

    def kill(self) -> Ending:
        """Kill -9 the coordinator."""
        self.process.kill()
        return self.wait()

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    @property
    def is_stopped(self) -> bool:
        """Whether the coordinator has been stopped by a signal, and not continued."""
        return self.is_running and psutil.Process(self.pid).status() == psutil.STATUS_STOPPED

    def wait_until_stopped(self) -> None:
        """Wait until the coordinator has been stopped, or fail where the command ends before."""
        wait_for(
            lambda: self.is_stopped or not self.is_running,
            timeout_s=60,
            what=lambda: f"a coordinator that stands still:\n{self.log[-4000:]}",
        )
        assert self.is_running, f"the command ended before it was stopped:\n{self.log[-6000:]}"

    def comes_to(self, *texts: str, timeout_s: float = 60.0) -> bool:
        """Wait until the log has one of these texts; False where the command ends before."""
        wait_for(
            lambda: self._has_logged(texts) or not self.is_running,
            timeout_s=timeout_s,
            what=lambda: f"{' or '.join(map(repr, texts))} in the log:\n{self.log[-4000:]}",
        )
        return self._has_logged(texts)

    def _has_logged(self, texts: Sequence[str]) -> bool:
        return any(text in self.log for text in texts)

    def wait_for_log(self, text: str) -> None:
        """Wait until the log has that text, or fail where the command ends before."""
        assert self.comes_to(text), f"the command ended before it logged {text!r}:\n{self.log[-6000:]}"

    def plugins(self) -> list[psutil.Process]:
        """The processes of the plug-ins, those that have ended not among them."""
        try:
            return psutil.Process(self.pid).children()
        except psutil.NoSuchProcess:
            return []

    def connected_to(self, database: Database) -> psutil.Process | None:
        """The plug-in that talks to this database's server now; source and sink are on servers of their own."""
        for plugin in self.plugins():
            try:
                if any(c.raddr and c.raddr.port == database.server.port for c in plugin.net_connections("tcp")):
                    return plugin
            except psutil.Error:
                # It has ended in this moment.
                continue
        return None

    def plugin(self, database: Database) -> psutil.Process:
        """The same, once there is one."""
        found = wait_for(
            lambda: self.connected_to(database) or not self.is_running, timeout_s=60, what="the plug-in's process"
        )
        assert isinstance(found, psutil.Process), f"the command has ended:\n{self.log[-6000:]}"
        return found


@dataclass(kw_only=True, eq=False)
class Flow:
    """A command line that is given again and again."""

    source: Database
    sink: Database
    directory: Path
    """For state and logs."""
    runtime: Path
    """XDG_RUNTIME_DIR of its lives: sockets."""
    arguments: tuple[str, ...] = ()
    state_directory: Path | None = None
    """For the state alone, where it is to lie elsewhere."""
    inside: tuple[str, ...] = ()
    """What the command is run by, if not by this process itself: `ip netns exec NAME`."""
    page_bytes: int = 64 * 1024
    parallel: int = 2
    mode: str = "copy"
    token: str = field(default_factory=lambda: secrets.token_hex(8))
    lives: list[Life] = field(default_factory=list)
    source_uri: str = ""
    sink_uri: str = ""
    state_db: Database | None = None
    """Where its state is, if not in a file."""

    def __post_init__(self) -> None:
        # Partitions as small as they may be, so that small tables have several.
        self.source_uri = self.source_uri or f"{self.source.uri}?partition_bytes=1048576"
        self.sink_uri = self.sink_uri or self.sink.uri

    @property
    def state(self) -> Path:
        return (self.state_directory or self.directory) / "state.db"

    @property
    def location(self) -> str:
        """What `--state` is given."""
        return self.state_db.uri if self.state_db else str(self.state)

    @property
    def once(self) -> Path:
        """Where failpoints that act once over all processes leave a file of their name."""
        path = self.directory / "once"
        path.mkdir(exist_ok=True)
        return path

    def start(
        self,
        *arguments: str,
        fail: str = "",
        once: bool = False,
        short: str = "",
        script: tuple[str, ...] = (),
        state: Path | None = None,
        environment: dict[str, str] | None = None,
    ) -> Life:
        """Begin a life. `short`: what takes long in earnest and is short here, as `impatient.py` names it.

        `script`: what is run in the place of the installed command, with arguments of its own before the command's.
        """
        number = len(self.lives) + 1
        output, log = self.directory / f"{number}.out", self.directory / f"{number}.log"
        script = (str(_IMPATIENT), short) if short else script
        command = [sys.executable, *script] if script else [str(COMMAND)]
        command += ["sync", self.source_uri, self.sink_uri, "--mode", self.mode, "--state", str(state or self.location)]
        command += ["--page-bytes", str(self.page_bytes), "--parallel", str(self.parallel)]
        command += ["--json", "--progress", "plain", "--log-format", "json", "-v", *self.arguments, *arguments]
        with output.open("wb") as out, log.open("wb") as err:
            process = subprocess.Popen(
                [*self.inside, *command],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=self.environment(fail, once=once, more=environment),
            )
        life = Life(process, output, log)
        self.lives.append(life)
        return life

    def run(self, *arguments: str, fail: str = "", once: bool = False, timeout_s: float = _LIFE_TIMEOUT_S) -> Ending:
        """A life from its beginning to its end."""
        return self.start(*arguments, fail=fail, once=once).wait(timeout_s)

    def run_until_killed(self, fail: str) -> None:
        """A life that dies at a failpoint; fails where it never comes there."""
        ending = self.run(fail=fail)
        assert ending.exit_code == KILLED, f"{fail} was not reached: {ending.exit_code}\n{ending.log[-6000:]}"

    def wait_for_failpoint(self, name: str) -> None:
        """Wait until a failpoint has acted, of a life that was started with `once`."""
        wait_for(
            (self.once / name).exists, timeout_s=60, what=lambda: f"the failpoint {name}:\n{self.lives[-1].log[-4000:]}"
        )

    def paused_at(self, name: str) -> psutil.Process:
        """Wait until a process has stopped itself at a failpoint, and return it."""
        self.wait_for_failpoint(name)

        def find() -> psutil.Process | None:
            return next((p for p in self.processes() if p.status() == psutil.STATUS_STOPPED), None)

        found = wait_for(find, timeout_s=30, what=f"a process that has stopped itself at {name}")
        assert found is not None
        return found

    def end_sessions(self, database: Database) -> None:
        """End our sessions there, so that new ones begin with the settings that the database has now."""
        database.rows(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name LIKE 'dsync/%'"
        )

    def processes(self) -> list[psutil.Process]:
        """Every process that a life of this flow has started and that still runs."""
        return [process for process in psutil.process_iter() if _has_token(process, self.token)]

    def end(self) -> None:
        """Kill whatever still runs; for the end of a test that has failed."""
        for life in self.lives:
            if life.is_running:
                life.process.send_signal(signal.SIGCONT)
                life.process.kill()
                life.process.wait()
        for process in self.processes():
            process.kill()

    def environment(self, fail: str = "", *, once: bool = False, more: dict[str, str] | None = None) -> dict[str, str]:
        """What its processes see of this machine."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "DSYNC"))}
        failing = {"DSYNC_FAIL": fail} if fail else {}
        if once:
            failing["DSYNC_FAIL_ONCE"] = str(self.once)
        return kept | failing | {"XDG_RUNTIME_DIR": str(self.runtime), _TOKEN: self.token} | (more or {})


def _has_token(process: psutil.Process, token: str) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE and process.environ().get(_TOKEN) == token
    except (psutil.Error, OSError):
        # Gone meanwhile, or somebody else's.
        return False


def _log_lines(log: str) -> Iterator[dict[str, Any]]:
    for line in log.splitlines():
        if line.startswith("{"):
            yield json.loads(line)


@contextmanager
def short_directory() -> Iterator[Path]:
    """A directory whose name leaves room for that of a socket."""
    with tempfile.TemporaryDirectory(prefix="dsync-crash-") as name:
        yield Path(name)
