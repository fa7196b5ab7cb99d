"""Errors of the spool: each names the file it is about and what to do next."""

from __future__ import annotations

from grpc import StatusCode

from dsync.protocol.errors import (
    CapacityError,
    DsyncError,
    PermanentError,
    PluginBugError,
    PrivilegeError,
    RequestError,
    RetryableError,
)


class SpoolFullError(RetryableError, status=StatusCode.RESOURCE_EXHAUSTED):
    """The limit is reached or the disk is full: wait for room, then append the same frame again."""


class SpoolBrokenError(PermanentError):
    """The disk failed while the spool was written. Nothing more is written through this one, and what `sync` has not
    confirmed does not count: open it anew and read from the source what it lacks."""


class SpoolTrimmedError(PermanentError):
    """A reader asked for frames that have been given up by `trim`."""


class CorruptSpoolError(PermanentError, status=StatusCode.DATA_LOSS):
    """Frames that had been written are damaged or missing, and later ones are there."""

    def __init__(
        self,
        message: str,
        *,
        file: str = "",
        start: int = 0,
        end: int = 0,
        before: bytes = b"",
        after: bytes | None = None,
    ):
        super().__init__(message)
        self.file = file
        self.start = start
        """First byte that cannot be trusted."""
        self.end = end
        """The byte after the last such one."""
        self.before = before
        """The order of the last good frame before the damage; empty where there is none."""
        self.after = after
        """The order up to which frames may be lost, or of the next good one; None where nothing tells."""


class MissingSegmentError(CorruptSpoolError):
    """A file of the spool is not there any more."""


class SpoolLostError(PermanentError, status=StatusCode.DATA_LOSS):
    """The spool ends before what its user knows to have been confirmed."""


class SpoolFromTheFutureError(PermanentError):
    """The spool was written by a newer dsync, whose format this one does not know."""


class OtherFlowsSpoolError(PermanentError):
    """The directory holds the spool of another flow."""


class NotASpoolError(RequestError):
    """The directory holds somebody else's files; we write nothing into it."""


class SpoolHeldError(PermanentError):
    """Another process has the spool open."""

    def __init__(self, message: str, *, pid: int = 0):
        super().__init__(message)
        self.pid = pid
        """0 where it is not known."""


class SpoolPermissionError(PrivilegeError):
    """The spool may be read or changed by others, or may not be by us."""


class SpoolUnavailableError(PermanentError):
    """The spool cannot be opened or read, and repeating will not change that."""


class SpoolClosedError(DsyncError):
    """The spool was closed while somebody still used it."""


class FrameTooLargeError(CapacityError):
    """A frame that can never be taken: larger than a frame may be, or than the whole spool may become."""


class FrameOrderError(PluginBugError):
    """A source gave a position that does not come after the one before it, or is too long."""
