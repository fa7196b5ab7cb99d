"""The connector under examination, each of whose calls is known by its name in the protocol when it fails."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

from dsync.conformance.outcomes import status_of
from dsync.protocol.errors import DsyncError
from dsync.protocol.interface import Connector

_STREAMS = ("stream_updates", "stream_lsn", "stream_changes", "get_row_hashes")
_OTHER_NAMES = {
    "count": "GetNamespaceMetadata",
    "stream_lsn": "StreamLSN",
    "describe": "DescribeNamespaces",
    "prepare": "PrepareNamespaces",
    "finish": "FinishNamespaces",
    "change_status": "GetChangeStatus",
}


class Watched(Connector):
    """Hands every call on, and notes in an error which one it was."""

    speaks_for_another = True

    def __init__(self, connector: Connector) -> None:
        self.inner = connector
        self.last_call = ""
        """The method that was called last, as the protocol names it."""


def told(error: DsyncError) -> str:
    """A failed call as a report shows it: method, status and our class of the error, without its text."""
    calls = getattr(error, "__notes__", [])
    return f"{calls[-1]} was answered with {status_of(error)}" if calls else status_of(error)


def rpc_name(method: str) -> str:
    """A method of `Connector` as the protocol names it."""
    return _OTHER_NAMES.get(method) or "".join(part.title() for part in method.split("_"))


def _unary(method: str) -> Callable[..., Any]:
    name = rpc_name(method)

    async def call(self: Watched, *args: Any, **kwargs: Any) -> Any:
        self.last_call = name
        try:
            return await getattr(self.inner, method)(*args, **kwargs)
        except DsyncError as error:
            error.add_note(name)
            raise

    return call


def _stream(method: str) -> Callable[..., AsyncIterator[Any]]:
    name = rpc_name(method)

    async def call(self: Watched, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        self.last_call = name
        items: Any = None
        try:
            items = getattr(self.inner, method)(*args, **kwargs)
            async for item in items:
                yield item
        except DsyncError as error:
            error.add_note(name)
            raise
        finally:
            if isinstance(items, AsyncGenerator):
                await items.aclose()

    return call


for _name in [name for name in vars(Connector) if not name.startswith("_") and name != "speaks_for_another"]:
    setattr(Watched, _name, _stream(_name) if _name in _STREAMS else _unary(_name))
