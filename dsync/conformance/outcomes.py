"""What may become of a check, and how it says so."""

from __future__ import annotations

import enum

from dsync.protocol.errors import DsyncError, RetryableError


class Outcome(enum.Enum):
    """What became of a check."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


class FailedError(Exception):
    """The connector does not keep the promise. Neither text quotes a record beyond its id."""

    def __init__(self, *, expected: str, seen: str) -> None:
        super().__init__(f"expected {expected}; seen: {seen}")
        self.expected = expected
        self.seen = seen


class SkippedError(Exception):
    """The promise cannot be tried here, and why."""


def expect(condition: bool, *, expected: str, seen: str) -> None:
    """Go on where the condition holds.

    Raises:
        FailedError: it does not.
    """
    if not condition:
        raise FailedError(expected=expected, seen=seen)


def status_of(error: DsyncError) -> str:
    """An error as a report shows it: its status and our class of it, without its text, which may quote a record."""
    return f"{type(error).status.name} ({type(error).__name__})"


def final_status(error: DsyncError, *, expected: str) -> str:
    """The status of a refusal, as a report shows it.

    Raises:
        FailedError: it asks for a retry, which would be made for as long as a flow retries.
    """
    expect(not isinstance(error, RetryableError), expected=expected, seen=status_of(error))
    return status_of(error)
