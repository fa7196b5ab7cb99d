"""Errors of the store: each names the file or flow it is about and what to do next."""

from __future__ import annotations

from grpc import StatusCode

from dsync.protocol.errors import (
    FencedError,
    MissingObjectError,
    PermanentError,
    ReplanError,
    RequestError,
    RetryableError,
)


class StateFullError(RetryableError, status=StatusCode.RESOURCE_EXHAUSTED):
    """The disk under the state file is full: nothing was recorded, so nothing may be acknowledged."""


class StateBusyError(RetryableError):
    """Another process kept the state locked for longer than we wait."""


class StateUnreachableError(RetryableError):
    """The server that keeps the state does not answer, or takes no writes at the moment; nothing was recorded."""


class StateUncertainError(PermanentError):
    """The connection was lost while something was recorded, and whether it was could not be found out in time."""


class StateCorruptError(PermanentError):
    """The state is damaged, or is not an SQLite file at all."""


class StateIncompleteError(PermanentError):
    """Some of the state's tables are missing: it was migrated half, restored half, or changed by hand."""


class StateFromTheFutureError(PermanentError):
    """The state was written by a newer dsync, whose schema this one does not know."""


class StateUnavailableError(PermanentError):
    """The state cannot be opened, read or written, and repeating will not change that."""


class StateMissingError(MissingObjectError):
    """There is no state at that place, and the caller asked not to make one."""


class NotAStateError(RequestError):
    """The file or schema is somebody else's; we write nothing into it."""


class FlowNotFoundError(RequestError):
    """No flow has this name, id or beginning of an id, or several have."""


class FlowExistsError(RequestError):
    """The name or the ends belong to another flow already."""


class UnitGoneError(ReplanError):
    """The unit was replaced or removed since it was planned; what was recorded for it no longer counts."""


class LeaseHeldError(PermanentError):
    """Another process holds the flow."""

    def __init__(self, message: str, *, host: str = "", pid: int = 0, remaining_s: float = 0.0, here: bool = False):
        super().__init__(message)
        self.host = host
        self.pid = pid
        self.remaining_s = remaining_s
        """How long the lease still runs if its holder does not renew it."""
        self.here = here
        """The holder is a live process of this host, so waiting for the lease to end makes no sense."""


class LeaseLostError(PermanentError):
    """Our own lease ran out because it could not be renewed; another process may hold the flow by now."""


STATE_ERRORS = (
    StateUncertainError,
    StateCorruptError,
    StateIncompleteError,
    StateFromTheFutureError,
    StateUnavailableError,
    StateMissingError,
    NotAStateError,
    FlowNotFoundError,
    LeaseHeldError,
    LeaseLostError,
)
"""Of the state itself, whatever was to be recorded: no repetition mends them."""

__all__ = [
    "STATE_ERRORS",
    "FencedError",
    "FlowExistsError",
    "FlowNotFoundError",
    "LeaseHeldError",
    "LeaseLostError",
    "NotAStateError",
    "StateBusyError",
    "StateCorruptError",
    "StateFromTheFutureError",
    "StateFullError",
    "StateIncompleteError",
    "StateMissingError",
    "StateUnavailableError",
    "StateUncertainError",
    "StateUnreachableError",
    "UnitGoneError",
]
