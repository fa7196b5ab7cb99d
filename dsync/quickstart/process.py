"""The owner's side of the keeper: a handle on the process that runs servers and ends them with this one."""

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO

from dsync.quickstart import keeper
from dsync.quickstart.installations import ServerError


class KeptProcess:
    """A command run by the keeper; it ends when this process does, however that comes about."""

    def __init__(self, owner: "KeeperHandle", pid: int) -> None:
        self.pid = pid
        self._owner = owner

    def poll(self) -> int | None:
        """Return the exit code, or None while it runs."""
        return self._owner.exit_code(self.pid, timeout_s=0)

    def wait(self, timeout_s: float) -> int | None:
        """Return the exit code, or None where it still runs after that time."""
        deadline = time.monotonic() + timeout_s
        while (left_s := deadline - time.monotonic()) > 0:
            # In slices: between them another thread may send a signal.
            code = self._owner.exit_code(self.pid, timeout_s=min(left_s, 0.1))
            if code is not None:
                return code
        return self.poll()

    def signal(self, number: int) -> None:
        """Send a signal; nothing happens where the process has ended."""
        self._owner.send(signal=number, pid=self.pid)


class KeeperHandle:
    """One keeper process; closing it ends its children and removes its directory. Threads may share it."""

    def __init__(self, *, log: IO[bytes], directory: Path | None, user: tuple[int, int] | None) -> None:
        uid, gid = user or (-1, -1)
        self._lock = threading.RLock()
        self._exit_codes: dict[int, int] = {}
        self._started: list[int] = []
        self._pending = b""
        self._gone = False
        # PYTHON* variables and PG* variables of the owner are not for its servers.
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "LC_ALL": "C",
            "TZ": "UTC",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", keeper.__file__, str(directory or ""), str(uid), str(gid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd="/",
            env=environment,
            start_new_session=True,
        )

    def run(self, argv: list[str]) -> KeptProcess:
        """Start a command; its output goes to the log."""
        with self._lock:
            self.send(run=argv)
            deadline = time.monotonic() + 30
            while not self._started:
                if not self._read_event(deadline - time.monotonic()):
                    raise ServerError(f"starting {argv[0]}: the keeper process gave no answer")
            return KeptProcess(self, self._started.pop())

    def send(self, **command: object) -> None:
        """Write one command to the keeper."""
        assert self._process.stdin is not None
        with self._lock:
            try:
                self._process.stdin.write(json.dumps(command).encode() + b"\n")
                self._process.stdin.flush()
            except (BrokenPipeError, ValueError) as exc:
                raise ServerError("the keeper of the embedded server is gone: start a new server") from exc

    def exit_code(self, pid: int, *, timeout_s: float) -> int | None:
        """Return the exit code of one child, waiting for it for at most that long."""
        deadline = time.monotonic() + timeout_s
        with self._lock:
            while pid not in self._exit_codes:
                if not self._read_event(max(0.0, deadline - time.monotonic())):
                    # The end of the keeper is the end of its children, by the signal that they asked for.
                    return -signal.SIGQUIT if self._gone else None
            return self._exit_codes[pid]

    @property
    def is_gone(self) -> bool:
        """True once the keeper has ended, by itself or because somebody killed it."""
        return self._gone or self._process.poll() is not None

    def close(self) -> None:
        """End every child at once, remove the directory and wait for the keeper. Repeating it is harmless."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._lock:
            self._process.stdin.close()
            self._process.wait()
            self._process.stdout.close()

    def _read_event(self, timeout_s: float) -> bool:
        """Take in the keeper's next event; False where none came in time or the keeper has ended."""
        assert self._process.stdout is not None
        if self._process.stdout.closed:
            self._gone = True
            return False
        descriptor = self._process.stdout.fileno()
        while b"\n" not in self._pending:
            if not select.select([descriptor], [], [], timeout_s)[0]:
                return False
            chunk = os.read(descriptor, 65536)
            if not chunk:
                self._gone = True
                return False
            self._pending += chunk
        line, _, self._pending = self._pending.partition(b"\n")
        event = json.loads(line)
        if "started" in event:
            self._started.append(event["started"])
        else:
            self._exit_codes[event["exited"]] = event["code"]
        return True
