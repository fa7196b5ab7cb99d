"""The directory of a spool: private to its owner, held by one process, every file by its name."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from dsync.spool.errors import (
    NotASpoolError,
    SpoolFullError,
    SpoolHeldError,
    SpoolPermissionError,
    SpoolUnavailableError,
)
from dsync.spool.layout import Buffer

LOCK, MANIFEST, NEW_MANIFEST = "lock", "manifest", "manifest.new"
_SEGMENT_NAME = re.compile(r"([0-9]{12})\.spool\Z")
_PRIVATE_DIRECTORY, _PRIVATE_FILE = 0o700, 0o600
_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW
# The kernel takes no more parts than this in one writev (IOV_MAX, the same on Linux and macOS).
_PARTS_A_CALL = 1024
_PID_BYTES = 20
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}
_NOT_PERMITTED = {errno.EACCES, errno.EPERM}


def segment_path(directory: Path, number: int) -> Path:
    return directory / f"{number:012d}.spool"


def segment_numbers(directory: Path) -> list[int]:
    """The segments that are there, in their order."""
    return sorted(int(match[1]) for name in os.listdir(directory) if (match := _SEGMENT_NAME.match(name)))


def is_no_space(error: OSError) -> bool:
    return error.errno in _NO_SPACE


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Errors of the system, from opening and reading, as ours. `what` says what was done to which file."""
    try:
        yield
    except OSError as exc:
        if is_no_space(exc):
            raise SpoolFullError(f"{what}: {exc.strerror}; free some space on that disk") from exc
        if exc.errno in _NOT_PERMITTED:
            raise SpoolPermissionError(
                f"{what}: the system does not allow it ({exc.strerror}); check the owner and mode of the directory "
                "and the files in it, or run as the user who made them"
            ) from exc
        raise SpoolUnavailableError(
            f"{what}: {exc.strerror or exc}; see to that disk, then run the same command again"
        ) from exc


def make_directory(directory: Path) -> None:
    """Make it where it is missing, private; refuse one that others may enter or that holds other files."""
    with translated(f"making the spool's directory {directory}"):
        directory.parent.mkdir(parents=True, mode=_PRIVATE_DIRECTORY, exist_ok=True)
        try:
            directory.mkdir(mode=_PRIVATE_DIRECTORY)
        except FileExistsError:
            pass
        else:
            # The umask may have taken the owner's rights away.
            directory.chmod(_PRIVATE_DIRECTORY)
            sync_directory(directory.parent)
        status = directory.stat()
    if not stat.S_ISDIR(status.st_mode):
        raise NotASpoolError(f"{directory} is not a directory: move it away, a spool is to be made there")
    _require_private(directory, status, _PRIVATE_DIRECTORY)
    names = set(os.listdir(directory))
    strange = sorted(name for name in names if not _is_ours(name))
    if strange:
        raise NotASpoolError(
            f"{directory} holds {strange[0]}, which is no file of a spool: move it away, nothing else may be kept there"
        )


def _is_ours(name: str) -> bool:
    return name in (LOCK, MANIFEST, NEW_MANIFEST) or bool(_SEGMENT_NAME.match(name))


def _require_private(path: Path, status: os.stat_result, mode: int) -> None:
    found = stat.S_IMODE(status.st_mode)
    if status.st_uid != os.geteuid():
        raise SpoolPermissionError(
            f"{path} belongs to the user with number {status.st_uid}, and holds rows of your tables: run as that user, "
            f"or give it to this one with `chown -R {os.geteuid()}` on the spool's directory"
        )
    if found & ~mode:
        raise SpoolPermissionError(
            f"{path} has mode {found:04o}, so that others may use it, and holds rows of your tables: "
            f"run `chmod {mode:o}` on it, if you trust what it holds now"
        )


def open_file(path: Path, flags: int) -> int:
    """A descriptor of a file that is ours alone; made private where the flags make it."""
    descriptor = os.open(path, flags | _FLAGS, _PRIVATE_FILE)
    try:
        if flags & os.O_EXCL:
            os.fchmod(descriptor, _PRIVATE_FILE)
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise NotASpoolError(f"{path} is not a regular file: move it away")
        _require_private(path, status, _PRIVATE_FILE)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def write_all(descriptor: int, buffers: Sequence[Buffer], offset: int) -> tuple[int, OSError | None]:
    """Write the buffers behind each other from this offset; returns how many bytes, and what kept it from more."""
    pending: list[Buffer] = [buffer for buffer in buffers if len(buffer)]
    total = start = 0
    while start < len(pending):
        try:
            written = os.pwritev(descriptor, pending[start : start + _PARTS_A_CALL], offset + total)
        except OSError as exc:
            return total, exc
        total += written
        # A full disk ends a write early: go on where it stopped, to be told why.
        while start < len(pending) and written >= len(pending[start]):
            written -= len(pending[start])
            start += 1
        if written:
            pending[start] = memoryview(pending[start])[written:]
    return total, None


def flush(descriptor: int) -> None:
    """Return once the file's content is on the disk."""
    if sys.platform == "darwin":
        # fsync(2) there leaves it in the disk's own cache.
        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
        return
    os.fdatasync(descriptor)


def sync_directory(directory: Path) -> None:
    """Return once the directory's entries are on the disk."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Hold:
    """This process's hold on a spool's directory; it ends with the process, however that ends (flock(2))."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / LOCK
        with translated(f"locking the spool {directory}"):
            self._descriptor = self._lock()

    def _lock(self) -> int:
        while True:
            descriptor = open_file(self._path, os.O_RDWR | os.O_CREAT)
            try:
                self._take(descriptor)
                if self._is_current(descriptor):
                    _, error = write_all(descriptor, [f"{os.getpid():<{_PID_BYTES}}".encode()], 0)
                    # On a full disk somebody else will not be told who holds it; it can be opened all the same.
                    if error is not None and not is_no_space(error):
                        raise error
                    return descriptor
            except BaseException:
                os.close(descriptor)
                raise
            # Whoever removed the spool meanwhile has taken this file away.
            os.close(descriptor)

    def _take(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            said = os.pread(descriptor, _PID_BYTES, 0).decode("ascii", "replace").strip()
            pid = int(said) if said.isdigit() else 0
            who = "this very process" if pid == os.getpid() else f"process {pid}" if pid else "another process"
            raise SpoolHeldError(
                f"the spool {self._path.parent} is in use by {who}: one process may use it at a time; wait until that "
                "one has ended, or end it",
                pid=pid,
            ) from exc

    def _is_current(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), os.stat(self._path))
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Repeatable."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def remove_directory(directory: Path) -> None:
    """Remove the files of a spool and its directory, which a `Hold` keeps from others. Repeatable."""
    for number in segment_numbers(directory):
        segment_path(directory, number).unlink(missing_ok=True)
    for name in (NEW_MANIFEST, MANIFEST, LOCK):
        (directory / name).unlink(missing_ok=True)
    # Somebody may have put a file there; it is not ours to remove.
    with contextlib.suppress(OSError):
        directory.rmdir()
