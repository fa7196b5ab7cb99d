"""The file of `--log-file`: JSON lines, for its owner alone, opened anew when somebody has moved it away.

Nothing here rotates it. SIGHUP, at which other programs open their log again, ends a run, as it should when a terminal
is closed; so the file is looked at before each line instead, and logrotate needs to signal nobody.
"""

from __future__ import annotations

import json
import os
import stat
import sys
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

_MODE = 0o600


class LogFile:
    """Appends lines; each is one write, so that several processes may share the file."""

    def __init__(self, path: str) -> None:
        """Raises OSError where it cannot be opened."""
        self.path = os.path.abspath(os.path.expanduser(path))
        self._lock = threading.Lock()
        self._has_complained = False
        self._descriptor = self._open()

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY
        descriptor = os.open(self.path, flags, _MODE)
        found = os.fstat(descriptor)
        # A pipe or a device, and what belongs to others (root may log there), stay as they are.
        if stat.S_ISREG(found.st_mode) and found.st_mode & 0o077 and found.st_uid == os.geteuid():
            os.fchmod(descriptor, _MODE)
        return descriptor

    def write(self, level: str, event: str, fields: Mapping[str, Any]) -> None:
        """Append one line; without secrets already. A log that cannot be written stops no copy: it is said once."""
        at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        said = {"timestamp": at, "level": level, "event": event, "pid": os.getpid(), **fields}
        line = json.dumps(said, ensure_ascii=False, default=str).encode("utf-8", "backslashreplace") + b"\n"
        with self._lock:
            try:
                self._reopen_if_moved()
                os.write(self._descriptor, line)
            except OSError as exc:
                self._complain(exc)

    def _reopen_if_moved(self) -> None:
        try:
            there = os.stat(self.path)
            is_ours = os.path.samestat(there, os.fstat(self._descriptor))
        except FileNotFoundError:
            is_ours = False
        if not is_ours:
            fresh = self._open()
            os.close(self._descriptor)
            self._descriptor = fresh

    def _complain(self, error: OSError) -> None:
        if not self._has_complained:
            self._has_complained = True
            sys.stderr.write(f"log file {self.path}: cannot be written ({error.strerror}); dsync goes on without it\n")

    def close(self) -> None:
        with self._lock:
            os.close(self._descriptor)
