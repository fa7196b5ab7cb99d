"""What a command costs: wall time, CPU time of its processes, of servers and of the machine, and its peak memory.

Linux only, as it reads /proc: `stat` for CPU time (in ticks), `smaps_rollup` for Pss, the memory of a process in which
a page shared by n processes counts as an n-th. Adding up Pss therefore counts every page once.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_SAMPLE_S = 0.05
_PROC = Path("/proc")
# Fields of /proc/PID/stat behind the name, which may itself contain blanks and parentheses.
_PARENT, _USER, _SYSTEM, _CHILDREN_USER, _CHILDREN_SYSTEM = 1, 11, 12, 13, 14


class CommandFailedError(Exception):
    """A measured command did not end well; its last output is in the message."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one run of one command has cost."""

    elapsed_s: float
    cpu_s: float
    """Of the command and all it started."""
    server_cpu_s: float
    """Of the database servers meanwhile."""
    machine_cpu_s: float
    """Of the whole machine meanwhile, whoever used it."""
    peak_bytes: int
    """The highest sum of Pss over the command's processes, and of their pages in shared memory."""
    stdout: str = field(default="", repr=False)

    def __add__(self, other: Cost) -> Cost:
        """One after the other."""
        return Cost(
            elapsed_s=self.elapsed_s + other.elapsed_s,
            cpu_s=self.cpu_s + other.cpu_s,
            server_cpu_s=self.server_cpu_s + other.server_cpu_s,
            machine_cpu_s=self.machine_cpu_s + other.machine_cpu_s,
            peak_bytes=max(self.peak_bytes, other.peak_bytes),
        )


def run(
    pipeline: Sequence[Sequence[str]], *, servers: Iterable[int] = (), environment: Mapping[str, str] | None = None
) -> Cost:
    """Run commands, each reading what the one before writes, and say what they cost together.

    Raises:
        CommandFailedError: one of them ended with another code than 0.
    """
    postmasters = list(servers)
    server_before = sum(map(_server_cpu_s, postmasters))
    machine_before = _machine_cpu_s()
    started = time.perf_counter()
    processes = _start(pipeline, environment)
    watch = Watch([process.pid for process in processes])
    watch.start()
    stdout, stderr = _drain(processes)
    usage = [_reap(process) for process in processes]
    elapsed_s = time.perf_counter() - started
    watch.stop()
    codes = [process.returncode for process in processes]
    if any(codes):
        raise CommandFailedError(f"{pipeline[0][0]} ended with {codes}: {stderr[-2000:] or stdout[-2000:]}")
    return Cost(
        elapsed_s=elapsed_s,
        # A process that its parent has not waited for is missing from the first sum, the last moments from the second.
        cpu_s=max(sum(usage), watch.cpu_s),
        server_cpu_s=sum(map(_server_cpu_s, postmasters)) - server_before,
        machine_cpu_s=_machine_cpu_s() - machine_before,
        peak_bytes=watch.peak_bytes,
        stdout=stdout,
    )


def _start(pipeline: Sequence[Sequence[str]], environment: Mapping[str, str] | None) -> list[subprocess.Popen[bytes]]:
    processes: list[subprocess.Popen[bytes]] = []
    for position, argv in enumerate(pipeline):
        before = processes[-1].stdout if processes else None
        is_last = position == len(pipeline) - 1
        processes.append(
            subprocess.Popen(
                list(argv),
                stdin=before or subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE if is_last else subprocess.DEVNULL,
                env=None if environment is None else dict(environment),
            )
        )
        if before is not None:
            # Only the reader may hold the pipe's other end, or a writer whose reader died would wait for ever.
            before.close()
    return processes


def _drain(processes: Sequence[subprocess.Popen[bytes]]) -> tuple[str, str]:
    """What the last command writes, both ways at a time."""
    last = processes[-1]
    assert last.stdout is not None
    assert last.stderr is not None
    errors: list[bytes] = []
    reader = threading.Thread(target=lambda: errors.append(last.stderr.read() if last.stderr else b""))
    reader.start()
    output = last.stdout.read()
    reader.join()
    last.stdout.close()
    last.stderr.close()
    return output.decode(errors="replace"), b"".join(errors).decode(errors="replace")


def _reap(process: subprocess.Popen[bytes]) -> float:
    """Wait for a process and return its CPU time with that of all descendants that were waited for."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_utime + usage.ru_stime


class Watch:
    """Looks at a tree of processes every few milliseconds."""

    def __init__(self, roots: Sequence[int]) -> None:
        self.peak_bytes = 0
        self._roots = roots
        self._cpu_s: dict[int, float] = {}
        self._page_folders: dict[int, Path | None] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    @property
    def cpu_s(self) -> float:
        """CPU time of all processes seen, as far as it was seen."""
        return sum(self._cpu_s.values())

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            pids = _descendants(self._roots)
            for pid in pids:
                fields = _stat(pid)
                if fields:
                    self._cpu_s[pid] = (fields[_USER] + fields[_SYSTEM]) / _TICKS_PER_S
            self.peak_bytes = max(self.peak_bytes, sum(map(_pss_bytes, pids)) + self._page_bytes(pids))
            if self._ended.wait(_SAMPLE_S):
                return

    def _page_bytes(self, pids: Iterable[int]) -> int:
        """Pages that travel by reference lie in shared memory, where nobody's Pss has them unless mapped."""
        for pid in pids:
            if self._page_folders.get(pid) is None:
                self._page_folders[pid] = _page_folder(pid)
        folders = {folder for folder in self._page_folders.values() if folder is not None}
        return sum(_folder_bytes(folder) for folder in folders)


def _stat(pid: int) -> list[int]:
    """The numbers of /proc/PID/stat from the state on; empty where the process is gone."""
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return []
    return [int(word) if word.lstrip("-").isdigit() else 0 for word in text.rpartition(")")[2].split()]


def _descendants(roots: Iterable[int]) -> list[int]:
    children: dict[int, list[int]] = {}
    for entry in os.listdir(_PROC):
        if entry.isdigit() and (fields := _stat(int(entry))):
            children.setdefault(fields[_PARENT], []).append(int(entry))
    found, pending = [], list(roots)
    while pending:
        pid = pending.pop()
        found.append(pid)
        pending += children.get(pid, [])
    return found


def _pss_bytes(pid: int) -> int:
    try:
        with open(_PROC / str(pid) / "smaps_rollup") as file:
            for line in file:
                if line.startswith("Pss:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        # It has just ended.
        return 0
    return 0


def _page_folder(pid: int) -> Path | None:
    """The folder in shared memory that this process keeps locked for pages."""
    try:
        with os.scandir(_PROC / str(pid) / "fd") as entries:
            targets = [os.readlink(entry.path) for entry in entries]
    except OSError:
        # It has just ended, or a descriptor was closed while we looked.
        return None
    return next((Path(to).parent for to in targets if to.startswith("/dev/shm/") and to.endswith("owner.lock")), None)


def _folder_bytes(folder: Path) -> int:
    total = 0
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                total += entry.stat().st_blocks * 512
    except OSError:
        # A page was removed while we looked.
        return total
    return total


def _server_cpu_s(postmaster: int) -> float:
    """CPU time of a PostgreSQL server since its start: it waits for every backend that ends."""
    fields = _stat(postmaster)
    ticks = sum(fields[at] for at in (_USER, _SYSTEM, _CHILDREN_USER, _CHILDREN_SYSTEM)) if fields else 0
    for pid in _descendants([postmaster])[1:]:
        child = _stat(pid)
        ticks += child[_USER] + child[_SYSTEM] if child else 0
    return ticks / _TICKS_PER_S


def _machine_cpu_s() -> float:
    """CPU time of everything since the machine's start, without idling and waiting."""
    words = (_PROC / "stat").read_text().split("\n", 1)[0].split()[1:9]
    user, nice, system, _idle, _wait, irq, soft_irq, steal = map(int, words)
    return (user + nice + system + irq + soft_irq + steal) / _TICKS_PER_S
