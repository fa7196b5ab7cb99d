"""The installed `dsync` as a process, with a state of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DSYNC = str(Path(sys.executable).parent / "dsync")
_LONGEST_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    exit_code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> dict[str, Any]:
        """The one object on stdout; fails where there is anything else."""
        (line,) = self.stdout.splitlines()
        found: dict[str, Any] = json.loads(line)
        assert list(found) == ["command", "ok", "summary", "result", "error"], found
        return found

    @property
    def result(self) -> dict[str, Any]:
        """Of a command that has one."""
        result = self.json["result"]
        assert isinstance(result, dict), self.json
        return result


class Running:
    """A `dsync` that has been started; its output is read as it comes."""

    def __init__(self, arguments: tuple[str, ...], environ: Mapping[str, str]) -> None:
        self.process = subprocess.Popen(
            [DSYNC, *arguments],
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._out: list[str] = []
        self._err: list[str] = []
        self._changed = threading.Condition()
        self._readers = [
            threading.Thread(target=self._read, args=(self.process.stdout, self._out), daemon=True),
            threading.Thread(target=self._read, args=(self.process.stderr, self._err), daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, stream: Any, lines: list[str]) -> None:
        for line in stream:
            with self._changed:
                lines.append(line)
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    @property
    def printed(self) -> str:
        return "".join(self._out + self._err)

    def wait_for(self, text: str) -> None:
        """Until it has printed this."""
        with self._changed:
            found = self._changed.wait_for(
                lambda: text in self.printed or self.process.poll() is not None, timeout=_LONGEST_S
            )
        assert found, f"{text!r} was not printed in time:\n{self.printed}"
        assert text in self.printed, f"it ended ({self.process.poll()}) before it printed {text!r}:\n{self.printed}"

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self) -> Ended:
        """Wait for its end."""
        exit_code = self.process.wait(_LONGEST_S)
        for reader in self._readers:
            reader.join(_LONGEST_S)
        return Ended(exit_code=exit_code, stdout="".join(self._out), stderr="".join(self._err))

    def close(self) -> None:
        """End it, should the test have failed before."""
        if self.process.poll() is None:
            self.process.kill()
        self.end()
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


@dataclass(slots=True, kw_only=True)
class Dsync:
    """Runs `dsync` with the state of one test."""

    directory: Path
    _started: list[Running] = field(default_factory=list)

    @property
    def environ(self) -> dict[str, str]:
        """Without what the developer's own environment might add."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "DSYNC_", "XDG_"))}
        return {**kept, "XDG_STATE_HOME": str(self.directory), "HOME": str(self.directory)}

    @property
    def state(self) -> Path:
        return self.directory / "dsync" / "state.db"

    def start(self, *arguments: str, **environ: str) -> Running:
        running = Running(arguments, {**self.environ, **environ})
        self._started.append(running)
        return running

    def __call__(self, *arguments: str, **environ: str) -> Ended:
        """Run it to its end."""
        return self.start(*arguments, **environ).end()

    def close(self) -> None:
        while self._started:
            self._started.pop().close()
