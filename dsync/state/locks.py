"""Which process is in the way of an SQLite file, and what to do about it.

The locks of a process end with it, however it ends: one that is in the way is alive. It may be stopped, though, and
then it keeps them for as long as that lasts.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from dsync.state import holder

_ASK_TIMEOUT_S = 5.0
# Asks the system (F_GETLK) who would be in the way of a lock. In a process of its own: closing any descriptor of
# these files would drop the locks that SQLite holds on them in ours. WAL's locks are the bytes 120 to 122 of the
# -shm file (write, checkpoint, recover; walformat, "WAL-Index Locks"), the others from 0x40000000 on in the file.
_ASK = """
import fcntl, struct, sys
def ask(path, start, length):
    try:
        file = open(path, "r+b")
    except OSError:
        return 0
    if sys.platform == "darwin":
        given = struct.pack("qqihh", start, length, 0, fcntl.F_WRLCK, 0)
        found = struct.unpack("qqihh", fcntl.fcntl(file, fcntl.F_GETLK, given))
        return 0 if found[3] == fcntl.F_UNLCK else found[2]
    given = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, start, length, 0)
    found = struct.unpack("hhqqi4x", fcntl.fcntl(file, fcntl.F_GETLK, given))
    return 0 if found[0] == fcntl.F_UNLCK else found[4]
shm, path = sys.argv[1] + "-shm", sys.argv[1]
print(ask(shm, 120, 1) or ask(shm, 121, 2) or ask(path, 0x40000000, 512))
"""


def process_in_the_way(path: Path) -> int | None:
    """The process whose lock keeps us from writing this file; None where the system does not tell, or none is left."""
    if not sys.executable:
        return None
    try:
        asked = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _ASK, str(path)],
            capture_output=True,
            text=True,
            timeout=_ASK_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    answer = asked.stdout.strip()
    # Processes of other containers have no number here.
    return int(answer) if answer.isdigit() and int(answer) > 0 else None


def blame(pid: int | None, waited_s: float) -> str:
    """A sentence: who has kept us waiting, and what to do."""
    if pid is None:
        return (
            f"another process has kept it locked for {waited_s:g} s; `lsof` or `fuser` on the file names those that "
            "have it open: end the one that hangs, what it has not recorded is repeated"
        )
    if pid == os.getpid():
        return f"another connection of this very process ({pid}) has kept it locked for {waited_s:g} s"
    who = f"process {pid}" + (f" ({name})" if (name := holder.name_of(pid)) else "")
    if holder.is_stopped(pid):
        return (
            f"{who} has kept it locked for {waited_s:g} s and is stopped (by SIGSTOP, Ctrl-Z or a debugger): let it go "
            f"on with `kill -CONT {pid}`, or end it with `kill -9 {pid}`; what it has not recorded is repeated"
        )
    return (
        f"{who} has kept it locked for {waited_s:g} s: see what it waits for, or end it with `kill -9 {pid}`; what it "
        "has not recorded is repeated"
    )
