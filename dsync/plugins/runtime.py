"""Private directories that end with their owner: for sockets, files of plug-ins, and pages.

A directory has mode 0700 and a lock file on which its owner holds a lock. The kernel lets go of it however the owner
dies, so whoever gets the lock may remove the directory. That holds across containers that share a folder, where
process ids mean nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dsync.protocol.page_store import PageStore

_PREFIX = "dsync-run-"
# Being made: not yet locked, therefore under a name that a sweep leaves alone while it is fresh.
_NEW_PREFIX = ".dsync-new-"
_STALE_AFTER_S = 3600
_LOCK_NAME = "owner.lock"
# A Unix socket's path may have 103 bytes on macOS and 107 on Linux; ours adds a file name to the directory.
_LONGEST_BASE = 60
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - the directory inside has an unguessable name and mode 0700


@contextmanager
def private_directory(base: Path) -> Iterator[Path]:
    """A directory of mode 0700 below `base`, removed at the end and, should we be killed, by the next sweep."""
    name = secrets.token_hex(4)
    fresh = base / (_NEW_PREFIX + name)
    fresh.mkdir(mode=0o700)
    descriptor = os.open(fresh / _LOCK_NAME, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        directory = fresh.rename(base / (_PREFIX + name))
        try:
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)
    finally:
        os.close(descriptor)


@contextmanager
def runtime_directory() -> Iterator[Path]:
    """The directory of one run, for sockets and plug-ins' files; directories of dead runs are removed before."""
    base = _runtime_base()
    sweep(base)
    with private_directory(base) as directory:
        yield directory


@contextmanager
def page_store(runtime: Path, *, need_bytes: int) -> Iterator[PageStore]:
    """Where pages by reference go: shared memory if so much of it is free, else a directory beside the sockets."""
    base = runtime
    if _is_usable(_SHARED_MEMORY) and _free_bytes(_SHARED_MEMORY) >= need_bytes:
        base = _SHARED_MEMORY
        sweep(base)
    with private_directory(base) as directory:
        yield PageStore(directory)


def sweep(base: Path) -> int:
    """Remove what dead owners have left in `base`; returns how many directories that were."""
    removed = 0
    for path in sorted(base.glob(f"{_PREFIX}*")) + sorted(base.glob(f"{_NEW_PREFIX}*")):
        if _is_abandoned(path):
            shutil.rmtree(path, ignore_errors=True)
            removed += 1
    return removed


def _is_abandoned(path: Path) -> bool:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return False
    # Another user's directory is not ours to judge, and a link is nobody's.
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        return False
    try:
        descriptor = os.open(path / _LOCK_NAME, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        # No lock yet, or its owner is just removing it, or died over that.
        return _is_old(status)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    # Between making the file and locking it the owner of a new directory may be alive.
    return not path.name.startswith(_NEW_PREFIX) or _is_old(status)


def _is_old(status: os.stat_result) -> bool:
    return time.time() - status.st_mtime > _STALE_AFTER_S


def _runtime_base() -> Path:
    """XDG_RUNTIME_DIR where it is usable and short enough for a socket's path, else the temporary directory."""
    candidates = [os.environ.get("XDG_RUNTIME_DIR", ""), tempfile.gettempdir(), "/tmp"]  # noqa: S108 - as above
    for candidate in filter(None, candidates):
        path = Path(candidate)
        if len(os.fsencode(path)) <= _LONGEST_BASE and path.is_absolute() and _is_usable(path):
            return path
    raise OSError("no directory for sockets: neither XDG_RUNTIME_DIR nor the temporary directory can be written to")


def _is_usable(path: Path) -> bool:
    return path.is_dir() and os.access(path, os.W_OK | os.X_OK)


def _free_bytes(path: Path) -> int:
    with contextlib.suppress(OSError):
        status = os.statvfs(path)
        return status.f_bavail * status.f_frsize
    return 0
