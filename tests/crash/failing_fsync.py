"""The `dsync` command on a disk that stops accepting writes: fsync fails from the moment its first argument exists.

A script for child processes. The kernel refuses the call, as it does when a device reports an error; where it cannot be
told to, the file gets the suffix `.refused`.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct
import sys
import threading
from pathlib import Path

from dsync.cli.main import main

# By machine: fsync, fdatasync, seccomp (asm/unistd.h).
_CALLS = {"x86_64": (74, 75, 317), "aarch64": (82, 83, 277)}
_LOAD_NUMBER, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _ERROR = 0x7FFF0000, 0x00050000
_NO_NEW_PRIVILEGES, _SET_FILTER, _ALL_THREADS = 38, 1, 1


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def break_fsync() -> None:
    """Let every fsync of this process fail with EIO (seccomp(2)). Raises OSError where that cannot be had."""
    if platform.machine() not in _CALLS or sys.platform != "linux":
        raise OSError("the numbers of this machine's calls are not known")
    fsync, fdatasync, seccomp = _CALLS[platform.machine()]
    instructions = b"".join(
        struct.pack("HBBI", *parts)
        for parts in (
            (_LOAD_NUMBER, 0, 0, 0),
            (_JUMP_IF_EQUAL, 1, 0, fsync),
            (_JUMP_IF_EQUAL, 0, 1, fdatasync),
            (_RETURN, 0, 0, _ERROR | errno.EIO),
            (_RETURN, 0, 0, _ALLOW),
        )
    )
    libc = ctypes.CDLL(None, use_errno=True)
    program = _Program(len(instructions) // 8, instructions)
    if libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) or libc.syscall(
        seccomp, _SET_FILTER, _ALL_THREADS, ctypes.byref(program)
    ):
        raise OSError(ctypes.get_errno(), "seccomp")


def break_once_there(trigger: Path) -> None:
    pause = threading.Event()
    while not trigger.exists():
        pause.wait(0.01)
    try:
        break_fsync()
    except OSError:
        trigger.with_suffix(".refused").touch()


if __name__ == "__main__":
    threading.Thread(target=break_once_there, args=(Path(sys.argv.pop(1)),), daemon=True).start()
    main()
