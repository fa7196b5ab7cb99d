"""A connector in this very process, behaving towards its caller as one behind gRPC does.

The same fallbacks between records and packed pages, the same deadlines, and no exceptions but DsyncErrors; what it
saves is the copying. A hang in C code or a crash takes the coordinator along: hence processes are the default.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

from dsync.protocol import fallback
from dsync.protocol.channel import MAX_MESSAGE_BYTES, Deadlines
from dsync.protocol.errors import DeadlineError, DsyncError
from dsync.protocol.errors_wire import unexpected
from dsync.protocol.interface import Connector
from dsync.protocol.types import (
    ChangeFrame,
    ChecksumRequest,
    Extensions,
    LsnPosition,
    Page,
    ReadRequest,
    RowHash,
    StreamChangesRequest,
    StreamRequest,
    UpdateBatch,
    WriteRequest,
)

_T = TypeVar("_T")

_CONTACT = ("get_info",)
_SESSION = ("open_session",)
_DATA = (
    "count",
    "write_updates",
    "acknowledge",
    "complete_changes",
    "mark",
    "change_status",
    "close_plan",
    "write_changes",
    "get_by_ids",
    "open_units",
    "read_units",
    "save_manifest",
    "find_manifests",
)
_WORK = (
    "generate_plan",
    "check",
    "clear_namespace",
    "forget_flow",
    "release_changes",
    "open_plan",
    "join_plan",
    "resume_plan",
    "describe",
    "get_finish_data",
    "prepare",
    "finish",
    "plan_ranges",
    "get_checksum",
    "get_rows",
    "count_rows",
    "freeze",
    "thaw",
    "describe_objects",
    "get_sequences",
    "set_sequences",
    "refresh_views",
)


class InlineConnector(Connector):
    """Guards a connector object; closing it closes the object."""

    speaks_for_another = True

    def __init__(self, connector: Connector, *, name: str, deadlines: Deadlines | None = None) -> None:
        self.inner = connector
        self.name = name
        self.deadlines = deadlines or Deadlines()

    async def close(self) -> None:
        await self.guard("close", self.deadlines.contact_s, self.inner.close())

    async def get_extensions(self) -> Extensions:
        call = fallback.extensions_of(self.inner)
        extensions = await self.guard("get_extensions", self.deadlines.contact_s, call)
        limit = min(extensions.max_message_bytes or MAX_MESSAGE_BYTES, MAX_MESSAGE_BYTES)
        # Inside one process a body is passed as the object it is: no file could be cheaper.
        return dataclasses.replace(extensions, max_message_bytes=limit, page_refs=False)

    async def read_page(self, request: ReadRequest) -> Page:
        return await self.guard("read_page", self.deadlines.data_s, fallback.read_page(self.inner, request))

    async def write_page(self, request: WriteRequest) -> int:
        return await self.guard("write_page", self.deadlines.data_s, fallback.write_page(self.inner, request))

    async def list_data(self, request: ReadRequest) -> Page:
        call = fallback.list_records(self.inner, request)
        records, next_cursor = await self.guard("list_data", self.deadlines.data_s, call)
        return Page(type=request.type, rows=len(records), records=records, next_cursor=next_cursor)

    async def write_data(self, request: WriteRequest) -> None:
        await self.guard("write_data", self.deadlines.data_s, fallback.write_records(self.inner, request))

    def stream_updates(self, request: StreamRequest) -> AsyncIterator[UpdateBatch]:
        return self._stream("stream_updates", lambda: self.inner.stream_updates(request))

    async def stream_lsn(self, request: StreamRequest) -> AsyncIterator[LsnPosition]:
        # A source without positions ends at once, and that is success.
        if fallback.overrides(self.inner, "stream_lsn"):
            async for position in self._stream("stream_lsn", lambda: self.inner.stream_lsn(request)):
                yield position

    def stream_changes(self, request: StreamChangesRequest) -> AsyncIterator[ChangeFrame]:
        return self._stream("stream_changes", lambda: self.inner.stream_changes(request))

    def get_row_hashes(self, request: ChecksumRequest) -> AsyncIterator[list[RowHash]]:
        return self._stream("get_row_hashes", lambda: self.inner.get_row_hashes(request))

    async def guard(self, method: str, timeout_s: float | None, call: Awaitable[_T]) -> _T:
        """Await a call of the connector under a deadline; whatever it raises comes out as a DsyncError."""
        try:
            async with asyncio.timeout(timeout_s) as scope:
                return await call
        except DsyncError:
            raise
        except TimeoutError as exc:
            if scope.expired():
                raise DeadlineError(f"{self.name} did not answer {method} within {timeout_s:g} s") from exc
            raise unexpected(exc, method) from exc
        except Exception as exc:
            raise unexpected(exc, method) from exc

    async def _stream(self, method: str, start: Callable[[], AsyncIterator[_T]]) -> AsyncIterator[_T]:
        try:
            items: Any = start()
            if hasattr(items, "aclose"):
                async with aclosing(items):
                    async for item in items:
                        yield item
            else:
                async for item in items:
                    yield item
        except DsyncError:
            raise
        except Exception as exc:
            raise unexpected(exc, method) from exc


def _delegate(method: str, timeout_s: Callable[[Deadlines], float | None]) -> Callable[..., Awaitable[Any]]:
    async def call(self: InlineConnector, *args: Any, **kwargs: Any) -> Any:
        awaitable = getattr(self.inner, method)(*args, **kwargs)
        return await self.guard(method, timeout_s(self.deadlines), awaitable)

    call.__name__ = method
    call.__doc__ = getattr(Connector, method).__doc__
    return call


def _delegate_all(methods: Sequence[str], timeout_s: Callable[[Deadlines], float | None]) -> None:
    for method in methods:
        setattr(InlineConnector, method, _delegate(method, timeout_s))


_delegate_all(_CONTACT, lambda deadlines: deadlines.contact_s)
_delegate_all(_SESSION, lambda deadlines: deadlines.session_s)
_delegate_all(_DATA, lambda deadlines: deadlines.data_s)
_delegate_all(_WORK, lambda deadlines: deadlines.work_s)
