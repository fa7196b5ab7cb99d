"""The keeper: a small process that runs servers for an owner and ends them with it.

It is started as a script (`python -I -S keeper.py DIRECTORY UID GID`), outside the package, with the standard
library alone: it has to start in a few milliseconds and to outlive whatever happens to its owner.

Why a process between owner and server: a parent-death signal is tied to the *thread* that forked, so a
server started from a worker thread would end with that thread; and other systems than Linux have none. The
keeper reads commands from its standard input, and the end of that pipe, which the kernel brings about however
the owner dies, is the order to end the servers and to remove the directory. Should the keeper itself be
killed, its servers get the parent-death signal: it has one thread only.

One JSON object a line. In: `{"run": [argv]}`, `{"signal": number, "pid": pid}`. Out: `{"started": pid}` and
`{"exited": pid, "code": code}`, in that order for each command.
"""

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import sys
import time
from types import FrameType

_IS_LINUX = sys.platform == "linux"
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_GRACE_S = 10.0


class Keeper:
    """Children of one owner; `serve` returns once the owner is gone and so is every child."""

    def __init__(self, *, directory: str, uid: int, gid: int) -> None:
        self._directory = directory
        self._uid = uid
        self._gid = gid
        self._children: set[int] = set()
        self._ending = False

    def serve(self) -> None:
        """Obey the owner until its pipe ends, then end every child and remove the directory."""
        wake_read, wake_write = os.pipe()
        os.set_blocking(wake_read, False)
        os.set_blocking(wake_write, False)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, _ignore)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._end)
        if _IS_LINUX:
            # Backends of a killed server become our children instead of init's, so that we can end them too.
            _prctl(_PR_SET_CHILD_SUBREAPER, 1)

        pending = b""
        while not self._ending:
            readable, _, _ = select.select([0, wake_read], [], [])
            if wake_read in readable:
                os.read(wake_read, 4096)
                self._reap()
            if 0 in readable:
                chunk = os.read(0, 65536)
                if not chunk:
                    break
                *lines, pending = (pending + chunk).split(b"\n")
                for line in lines:
                    self._obey(json.loads(line))
        self._end_children()
        if self._directory:
            shutil.rmtree(self._directory, ignore_errors=True)

    def _end(self, number: int, frame: FrameType | None) -> None:
        self._ending = True

    def _obey(self, command: dict[str, object]) -> None:
        argv = command.get("run")
        if isinstance(argv, list):
            self._run([str(word) for word in argv])
            return
        pid, number = command.get("pid"), command.get("signal")
        # Only a child that has not been waited for: its number cannot have passed to another process.
        if isinstance(pid, int) and isinstance(number, int) and pid in self._children:
            os.kill(pid, number)

    def _run(self, argv: list[str]) -> None:
        keeper_pid = os.getpid()
        pid = os.fork()
        if pid == 0:
            try:
                self._become(argv, keeper_pid)
            finally:
                os._exit(127)
        self._children.add(pid)
        _report(started=pid)

    def _become(self, argv: list[str], keeper_pid: int) -> None:
        """Turn this forked process into the command; returns only by raising."""
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(2, 1)
        os.closerange(3, 64)
        os.setsid()
        if self._uid >= 0:
            os.setgroups([])
            os.setgid(self._gid)
            os.setuid(self._uid)
        if _IS_LINUX:
            # After the change of user, which clears it. SIGQUIT is PostgreSQL's immediate shutdown.
            _prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT)
            if os.getppid() != keeper_pid:
                return
        os.umask(0o077)
        os.execv(argv[0], argv)  # noqa: S606 - no shell is wanted

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self._children:
                self._children.discard(pid)
                self._end_adopted()
                _report(exited=pid, code=os.waitstatus_to_exitcode(status))

    def _end_children(self) -> None:
        for pid in self._children:
            os.kill(pid, signal.SIGQUIT)
        deadline = time.monotonic() + _GRACE_S
        while self._children and time.monotonic() < deadline:
            self._reap()
            time.sleep(0.01)
        for pid in list(self._children):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            self._children.discard(pid)
        self._end_adopted()

    def _end_adopted(self) -> None:
        """Kill what a dead server left behind: it would keep shared memory that the next start needs."""
        while _IS_LINUX and (orphans := _children_of(os.getpid()) - self._children):
            for pid in orphans:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, 0)


def _ignore(number: int, frame: FrameType | None) -> None:
    """Do nothing: the signal has been written to the wake-up pipe already."""


def _report(**event: int) -> None:
    # An owner that is gone cannot be told; the end of its pipe says so in the next round.
    with contextlib.suppress(BrokenPipeError):
        os.write(1, json.dumps(event).encode() + b"\n")


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def _children_of(parent: int) -> set[int]:
    """Return the process ids below `parent`, from /proc: zombies are left to the next wait."""
    found = set()
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/stat", encoding="ascii", errors="replace") as file:
                # The command may hold spaces and brackets; what follows its last bracket is: state, parent, …
                _, ppid = file.read().rpartition(")")[2].split()[:2]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(ppid) == parent:
            found.add(int(entry))
    return found


if __name__ == "__main__":
    Keeper(directory=sys.argv[1], uid=int(sys.argv[2]), gid=int(sys.argv[3])).serve()
