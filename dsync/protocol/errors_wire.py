"""How an error crosses gRPC: a status any peer understands, and metadata from which ours rebuild the class.

The names of the class and of its bases travel, nearest first, so that a class which only the plug-in's own module
knows arrives as the nearest base that the other side knows. Texts are bounded, because gRPC refuses metadata from
8 KiB on and would replace the error by one about its size.
"""

from __future__ import annotations

import asyncio
import re
import traceback
from collections.abc import Iterable
from typing import NamedTuple

import structlog
from grpc import StatusCode, aio

from dsync.protocol.errors import (
    CapacityError,
    DeadlineError,
    DsyncError,
    PluginBugError,
    RecordError,
    ServerUnavailableError,
    class_for_status,
    error_class,
)

CLASS_KEY = "dsync-error-class"
MESSAGE_KEY = "dsync-error-message-bin"
NAMESPACE_KEY = "dsync-error-namespace-bin"
CHANGE_KEY = "dsync-error-change"

_MESSAGE_BYTES = 2048
# Percent-encoding may treble the status text, and both texts travel in one block of metadata.
_DETAILS_CHARACTERS = 1000
_CUT = " …"

_log = structlog.get_logger(__name__)

_TOO_LARGE = re.compile(r"(?:Received|Sent) message larger than max \((\d+) vs\. (\d+)\)")


class WireError(NamedTuple):
    """What a servicer aborts a call with."""

    status: StatusCode
    details: str
    metadata: tuple[tuple[str, str | bytes], ...]


def to_wire(error: DsyncError) -> WireError:
    """The form on the wire of an error raised on purpose."""
    message = str(error)
    metadata: list[tuple[str, str | bytes]] = [
        (CLASS_KEY, ",".join(class_names(error))),
        (MESSAGE_KEY, _bounded_utf8(message)),
    ]
    if error.namespace:
        metadata.append((NAMESPACE_KEY, error.namespace.encode()))
    if isinstance(error, RecordError) and error.change >= 0:
        metadata.append((CHANGE_KEY, str(error.change)))
    return WireError(status=type(error).status, details=_ascii(message), metadata=tuple(metadata))


def class_names(error: DsyncError) -> list[str]:
    """The names of the error's class and of its bases, nearest first."""
    names = [cls.__name__ for cls in type(error).__mro__ if issubclass(cls, DsyncError)]
    return [name for name in names if name.isascii()]


def rebuild(names: Iterable[str], message: str) -> DsyncError | None:
    """An error of the first class that is known here; None where none is."""
    for name in names:
        cls = error_class(name)
        if cls is not None:
            # Without __init__: a plug-in's class may ask for other arguments than the text it ends up with.
            return cls.__new__(cls, message)
    return None


def unexpected(error: BaseException, method: str) -> PluginBugError:
    """What an exception nobody foresaw becomes: its class alone, because its text may hold a record or a secret."""
    _log.error("plugin_failed_unexpectedly", method=method, error=type(error).__qualname__, frames=_frames(error))
    return PluginBugError(
        f"{method} failed with an unexpected {type(error).__qualname__}: a bug of the plug-in, see its log"
    )


def _frames(error: BaseException) -> list[str]:
    """Where it was raised, innermost first: places without values."""
    frames = traceback.extract_tb(error.__traceback__)[-8:]
    return [f"{frame.filename}:{frame.lineno}:{frame.name}" for frame in reversed(frames)]


def _ascii(text: str) -> str:
    """Printable ASCII on one line: some peers show the status text as they get it."""
    plain = "".join(c if " " <= c <= "~" else " " if c.isspace() else "?" for c in text)
    return plain if len(plain) <= _DETAILS_CHARACTERS else plain[: _DETAILS_CHARACTERS - 3] + "..."


def _bounded_utf8(text: str) -> bytes:
    data = text.encode("utf-8", "replace")
    if len(data) <= _MESSAGE_BYTES:
        return data
    kept = data[: _MESSAGE_BYTES - len(_CUT.encode())].decode("utf-8", "ignore")
    return (kept + _CUT).encode()


def from_rpc(error: aio.AioRpcError, *, method: str, peer: str, timeout_s: float | None = None) -> DsyncError:
    """The error that a failed call stands for: the class its sender named, else one that fits the status."""
    metadata = error.trailing_metadata() or ()
    named = _named(metadata)
    if named is not None:
        return named
    status, details = error.code(), error.details() or ""
    if size := _TOO_LARGE.search(details):
        return CapacityError(
            f"{method} at {peer}: a message of {int(size[1]):,} bytes is over the limit of {int(size[2]):,} bytes;"
            " ask for smaller pages (--page-bytes) or raise the limit at both ends"
        )
    if status is StatusCode.DEADLINE_EXCEEDED:
        waited = "in time" if timeout_s is None else f"within {timeout_s:g} s"
        return DeadlineError(f"{peer} did not answer {method} {waited}")
    if status is StatusCode.CANCELLED or "RST_STREAM" in details:
        # The server ended the call, not we: it is going down, or a proxy between has cut the connection.
        return ServerUnavailableError(f"{method} at {peer}: the connection was closed ({_ascii(details)})")
    return class_for_status(status)(f"{method} at {peer}: {_ascii(details) or status.name}")


def _named(metadata: Iterable[tuple[str, str | bytes]]) -> DsyncError | None:
    """The error described by our metadata; None where the peer sent none or no class of it is known here."""
    values = dict(metadata)
    names, message = values.get(CLASS_KEY), values.get(MESSAGE_KEY, b"")
    if not isinstance(names, str) or not isinstance(message, bytes):
        return None
    error = rebuild(names.split(","), message.decode("utf-8", "replace"))
    namespace = values.get(NAMESPACE_KEY, b"")
    if error is not None and isinstance(namespace, bytes):
        error.namespace = namespace.decode("utf-8", "replace")
    change = values.get(CHANGE_KEY, "")
    if isinstance(error, RecordError) and isinstance(change, str) and change.isascii() and change.isdecimal():
        error.change = int(change)
    return error


def is_cancelled_by_caller() -> bool:
    """Whether the running task is being cancelled; a call that ends so on its own was closed with its channel."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
