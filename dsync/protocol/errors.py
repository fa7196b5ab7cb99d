"""Errors that say what to do next, and cross gRPC with their class.

A class says what the caller's next move is; its subclass says what happened. On the wire an error is a
gRPC status plus metadata naming the class, from which the other side rebuilds it; a peer that knows only
adiom.v1 sees an ordinary status with the right code.
"""

from __future__ import annotations

from typing import ClassVar, Self

from grpc import StatusCode


class DsyncError(Exception):
    """Base of every error raised on purpose; `status` is its form on the wire.

    The message names the operation, the object and the operator's next step; it never contains a record's
    content or a secret, because it is logged and stored.
    """

    status: ClassVar[StatusCode] = StatusCode.INTERNAL
    exit_code: ClassVar[int] = 1

    def __init_subclass__(
        cls, *, status: StatusCode | None = None, exit_code: int | None = None, **kwargs: object
    ) -> None:
        super().__init_subclass__(**kwargs)
        cls.status = status or cls.status
        cls.exit_code = cls.exit_code if exit_code is None else exit_code

    namespace: str = ""
    """Which namespace is meant, where whoever gets the error has to know: a call may concern several."""

    def about(self, namespace: str) -> Self:
        """The same error, said of a namespace."""
        self.namespace = namespace
        return self


class RetryableError(DsyncError, status=StatusCode.UNAVAILABLE, exit_code=3):
    """Back off, then repeat the same call unchanged."""


class ThrottledError(RetryableError, status=StatusCode.RESOURCE_EXHAUSTED):
    """The server asks for less; repeat more slowly."""


class ConflictError(RetryableError, status=StatusCode.ABORTED):
    """A deadlock or serialisation failure; the same call may succeed when repeated."""


class ServerUnavailableError(RetryableError):
    """The database or the plug-in cannot be reached, is starting or is shutting down."""


class DeadlineError(RetryableError, status=StatusCode.DEADLINE_EXCEEDED):
    """A call did not answer in its time."""


class SinkFullError(RetryableError, status=StatusCode.RESOURCE_EXHAUSTED):
    """The sink has no space left or is read-only for now; retried for `--retry-for`."""


class ReplanError(DsyncError, status=StatusCode.FAILED_PRECONDITION, exit_code=3):
    """Repeating cannot help; planning this partition again can."""


class CursorExpiredError(ReplanError):
    """The source no longer holds the position behind a cursor."""


class SnapshotLostError(ReplanError):
    """The snapshot that all pages of the copy were read from is gone."""


class UnitLostError(ReplanError):
    """A crash of the sink's server has emptied a unit's table and its ledger row with it: open the unit again, and go
    on from where it stands then. Nobody else has taken it over."""


class LanesMeetError(ReplanError):
    """Changes of several lanes meet on a unique index, an exclusion constraint or a foreign key: in order, then."""


class PermanentError(DsyncError, status=StatusCode.FAILED_PRECONDITION, exit_code=3):
    """Only a person can help: stop the flow, keep its checkpoint."""


class FencedError(PermanentError):
    """Another coordinator has taken this unit over; this one must write nothing more."""


class NamespaceChangedError(PermanentError, exit_code=6):
    """A table was dropped, rewritten or altered while it was copied; that namespace stops."""


class NamespaceRewrittenError(NamespaceChangedError):
    """Its records have values that no stream tells: copied anew it can be followed on, as it is at the source now."""


class OtherEndpointError(PermanentError):
    """The server behind the name is not the one this flow was started with."""


class PrivilegeError(PermanentError, status=StatusCode.PERMISSION_DENIED):
    """A privilege is missing."""


class AuthenticationError(PermanentError, status=StatusCode.UNAUTHENTICATED):
    """The server refused the credentials."""


class MissingObjectError(PermanentError, status=StatusCode.NOT_FOUND):
    """A database, schema or tool that is needed does not exist."""


class HiddenRowsError(PermanentError, status=StatusCode.PERMISSION_DENIED):
    """Row security or column privileges would hide data: a smaller copy is refused."""


class CapacityError(PermanentError, status=StatusCode.RESOURCE_EXHAUSTED):
    """A record is larger than the agreed limits allow."""


class RequestError(DsyncError, status=StatusCode.INVALID_ARGUMENT, exit_code=2):
    """The request itself is wrong; it must be changed."""


class OptionError(RequestError):
    """An option is unknown or has a bad value."""


class SinkNotEmptyError(RequestError, status=StatusCode.ALREADY_EXISTS):
    """The sink holds rows that are not ours and nothing said what to do with them."""


class UnsupportedError(DsyncError, status=StatusCode.UNIMPLEMENTED, exit_code=3):
    """The plug-in does not have this capability."""


class RecordError(DsyncError, status=StatusCode.DATA_LOSS, exit_code=5):
    """A record of this page cannot be applied, the others may be: the coordinator narrows it down.

    Raised by a sink after it has rolled the whole page back. The message states the reason (constraint,
    column, error code), never the record.
    """

    change: int = -1
    """Of a frame of changes, which one it is; below 0 where the sink does not know."""

    def at(self, change: int) -> Self:
        """The same error, said of one change of a frame."""
        self.change = change
        return self


class PluginBugError(DsyncError, exit_code=1):
    """A plug-in broke the contract: the same cursor for ever, a page over the limit, a wrong count."""


def _all_classes(root: type[DsyncError]) -> dict[str, type[DsyncError]]:
    found = {root.__name__: root}
    for child in root.__subclasses__():
        found.update(_all_classes(child))
    return found


def error_class(name: str) -> type[DsyncError] | None:
    """The class with this name, also one that a plug-in's own module has added; None where unknown."""
    return _all_classes(DsyncError).get(name)


def class_for_status(status: StatusCode) -> type[DsyncError]:
    """The class for a peer that sends a bare status: only four codes are worth a retry (protocol)."""
    return {
        StatusCode.UNAVAILABLE: ServerUnavailableError,
        StatusCode.ABORTED: ConflictError,
        StatusCode.RESOURCE_EXHAUSTED: ThrottledError,
        StatusCode.DEADLINE_EXCEEDED: DeadlineError,
        StatusCode.UNIMPLEMENTED: UnsupportedError,
        StatusCode.INVALID_ARGUMENT: RequestError,
        StatusCode.UNAUTHENTICATED: AuthenticationError,
        StatusCode.PERMISSION_DENIED: PrivilegeError,
        StatusCode.NOT_FOUND: MissingObjectError,
    }.get(status, PermanentError)
