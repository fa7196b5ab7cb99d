"""Pages by reference: bodies in files that both ends of a page see.

The coordinator makes the directory (mode 0700, on shared memory where it fits) and removes it; a source writes
bodies into it, a sink maps them, and the coordinator removes each one once it is durable everywhere. Names cannot be
guessed and are checked before use, because they come from another process.
"""

from __future__ import annotations

import dataclasses
import mmap
import os
import re
import secrets
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from dsync.protocol.errors import PermanentError, PluginBugError
from dsync.protocol.types import Buffer, Page, PageRef

_PAGE_NAME = re.compile(r"page-[0-9a-f]{32}\Z")
_PROBE_NAME = re.compile(r"probe-[0-9a-f]{32}\Z")
_PROBE_BYTES = 64
# The kernel takes no more parts than this in one writev (IOV_MAX, the same on Linux and macOS).
_PARTS_A_CALL = 1024
_CREATE = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW


class PageGoneError(PermanentError):
    """Somebody has removed the file of a page that was on its way; repeating the call cannot bring it back."""


class PageStore:
    """One session's page directory, as seen by one process. Safe to share between threads."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def write(self, parts: Buffer | Sequence[Buffer]) -> PageRef:
        """Store a body, given whole or in parts.

        Raises:
            OSError: there is no space (ENOSPC); nothing is left behind.
        """
        buffers = [parts] if isinstance(parts, (bytes, bytearray, memoryview)) else list(parts)
        name = f"page-{secrets.token_hex(16)}"
        descriptor = os.open(self.directory / name, _CREATE, 0o600)
        try:
            size = _write_all(descriptor, buffers)
        except OSError:
            os.unlink(self.directory / name)
            raise
        finally:
            os.close(descriptor)
        return PageRef(name=name, size_bytes=size)

    @contextmanager
    def open(self, ref: PageRef) -> Iterator[memoryview]:
        """The body of a page, mapped: valid inside the block only.

        Raises:
            PageGoneError: the file has been removed.
            PluginBugError: the reference is not one of ours, or the file has another size.
        """
        with self._file(ref) as descriptor:
            if ref.size_bytes == 0:
                yield memoryview(b"")
                return
            mapping = mmap.mmap(descriptor, ref.size_bytes, prot=mmap.PROT_READ)
        with memoryview(mapping) as view:
            yield view
        # Not where an error is on its way out: its frames may hold parts of the view, closing would put a BufferError
        # in its place, and the mapping ends with the last of them anyway.
        mapping.close()

    def loaded(self, page: Page) -> Page:
        """The same page with its body in memory."""
        if page.ref is None:
            return page
        with self._file(page.ref) as descriptor, os.fdopen(os.dup(descriptor), "rb") as file:
            return dataclasses.replace(page, ref=None, packed=file.read())

    def remove(self, ref: PageRef) -> None:
        """Free a page; one that is gone already is fine."""
        self._require_name(ref)
        (self.directory / ref.name).unlink(missing_ok=True)

    @contextmanager
    def _file(self, ref: PageRef) -> Iterator[int]:
        self._require_name(ref)
        try:
            descriptor = os.open(self.directory / ref.name, _OPEN)
        except FileNotFoundError as exc:
            raise PageGoneError(
                f"{ref.name} has vanished from {self.directory}: does something clean that folder up? Run the same"
                " command again, it goes on from its checkpoint"
            ) from exc
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_size != ref.size_bytes:
                raise PluginBugError(
                    f"{ref.name} has {status.st_size} bytes, its reference says {ref.size_bytes}: a bug of the source"
                )
            yield descriptor
        finally:
            os.close(descriptor)

    def _require_name(self, ref: PageRef) -> None:
        if not _PAGE_NAME.match(ref.name):
            raise PluginBugError("a page reference does not name a page file: a bug of the plug-in that sent it")

    def write_probe(self, content: bytes) -> str:
        """Leave a file whose content proves to whoever reads it that we share a file system; returns its name."""
        name = f"probe-{secrets.token_hex(16)}"
        descriptor = os.open(self.directory / name, _CREATE, 0o600)
        try:
            os.write(descriptor, content[:_PROBE_BYTES])
        finally:
            os.close(descriptor)
        return name

    def read_probe(self, name: str) -> bytes:
        """What the probe holds; empty where the directory is not one that we share with the asker.

        The name comes from outside: only a probe is read, in a directory of our user that nobody else may enter.
        """
        if not _PROBE_NAME.match(name) or not self._is_private():
            return b""
        try:
            descriptor = os.open(self.directory / name, _OPEN)
        except OSError:
            return b""
        try:
            return os.read(descriptor, _PROBE_BYTES)
        finally:
            os.close(descriptor)

    def _is_private(self) -> bool:
        try:
            status = os.lstat(self.directory)
        except OSError:
            return False
        return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and status.st_mode & 0o077 == 0


def _write_all(descriptor: int, buffers: list[Buffer]) -> int:
    """Write every part; returns the bytes written in all."""
    total = 0
    pending = [memoryview(buffer) for buffer in buffers if len(buffer)]
    start = 0
    while start < len(pending):
        written = os.writev(descriptor, pending[start : start + _PARTS_A_CALL])
        total += written
        # A full file system or a signal ends a write early: go on where it stopped.
        while start < len(pending) and written >= len(pending[start]):
            written -= len(pending[start])
            start += 1
        if written:
            pending[start] = pending[start][written:]
    return total
