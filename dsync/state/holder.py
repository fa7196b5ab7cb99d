"""Who holds a lease: a process, told apart from every other one, past ones and those of other machines included."""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
import socket
import subprocess
import sys
import time
from pathlib import Path

from dsync.state.rows import Holder

_IS_LINUX = sys.platform == "linux"
_PS_TIMEOUT_S = 5.0


def this_process() -> Holder:
    """This process as a new holder: calling it twice gives two, which exclude each other."""
    return Holder(
        host=socket.gethostname(),
        boot_id=boot_id(),
        pid_namespace=pid_namespace(),
        pid=os.getpid(),
        started=_start_of(os.getpid()) or "",
        nonce=secrets.token_hex(8),
    )


def is_here(holder: Holder) -> bool:
    """The holder's process number means the same to it and to us: same machine, same boot, same PID namespace.

    Host names are not asked: they are changed, and shared by machines that were cloned.
    """
    return bool(boot_id()) and (holder.boot_id, holder.pid_namespace) == (boot_id(), pid_namespace())


def is_gone(holder: Holder) -> bool:
    """The holder certainly does not run any more; False where that cannot be known."""
    if not is_here(holder):
        return False
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        # It exists and belongs to somebody else; its start time may still say that it is another one.
        pass
    started = _start_of(holder.pid)
    if not started or not holder.started:
        return started == ""
    return started != holder.started


def is_stopped(pid: int) -> bool:
    """The process is alive and does nothing until somebody lets it go on: SIGSTOP, Ctrl-Z, a debugger."""
    if _IS_LINUX:
        fields = _stat_on_linux(pid)
        return fields is not None and fields[0] in (b"T", b"t")
    return _output_of("ps", "-o", "stat=", "-p", str(pid)).startswith("T")


def name_of(pid: int) -> str:
    """What the process list calls it, without its arguments; empty where it is unknown."""
    if _IS_LINUX:
        with contextlib.suppress(OSError):
            return Path(f"/proc/{pid}/comm").read_text("utf-8", "replace").strip()
        return ""
    return os.path.basename(_output_of("ps", "-o", "comm=", "-p", str(pid)))


@functools.cache
def boot_id() -> str:
    """What changes with every start of this machine and never else; empty where the system tells none."""
    if _IS_LINUX:
        with contextlib.suppress(OSError):
            return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return ""
    return _output_of("sysctl", "-n", "kern.bootsessionuuid")


@functools.cache
def pid_namespace() -> str:
    """The kernel's name for the space that our process number belongs to; empty where there is but one."""
    with contextlib.suppress(OSError):
        return os.readlink("/proc/self/ns/pid")
    return ""


def uptime_us() -> int:
    """Microseconds since this machine started, sleep included: a clock that nobody can set."""
    if _IS_LINUX:
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


def _start_of(pid: int) -> str | None:
    """The start of a process as the system gives it; "" for one that is dead but not reaped, None if unknown."""
    if _IS_LINUX:
        return _start_on_linux(pid)
    # One -o each: in BSD's ps everything behind the first = would be one heading.
    status = _output_of("ps", "-o", "stat=", "-o", "lstart=", "-p", str(pid))
    state, _, started = status.partition(" ")
    if not state:
        return None
    return "" if state.startswith("Z") else " ".join(started.split())


def _start_on_linux(pid: int) -> str | None:
    """Field 22 of /proc/PID/stat, in clock ticks since boot (proc_pid_stat(5))."""
    fields = _stat_on_linux(pid)
    if fields is None:
        return None
    state, started = fields[0], fields[19]
    return "" if state in (b"Z", b"X") else started.decode()


def _stat_on_linux(pid: int) -> list[bytes] | None:
    """/proc/PID/stat from its third field on; the second one is the command's name in parentheses and may itself
    contain spaces and parentheses."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None


def _output_of(*command: str) -> str:
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "TZ": "UTC"}
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=_PS_TIMEOUT_S, check=False, env=environment
        ).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""
