"""The calls over one channel: deadlines, the token, errors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import TypeVar

from grpc import aio

from dsync.protocol import page_codec
from dsync.protocol._gen.adiom.v1 import adiom_pb2_grpc as adiom_grpc
from dsync.protocol._gen.dsync.v1 import dsync_pb2 as dsync
from dsync.protocol._gen.dsync.v1 import dsync_pb2_grpc as dsync_grpc
from dsync.protocol.channel import Target, open_channel
from dsync.protocol.errors import DsyncError, PluginBugError, ServerUnavailableError
from dsync.protocol.errors_wire import from_rpc, is_cancelled_by_caller
from dsync.protocol.session import KEY as SESSION_KEY
from dsync.protocol.types import ChangeFrame, Page, WriteChangesRequest, WriteRequest

_Q = TypeVar("_Q")
_A = TypeVar("_A")
Metadata = Sequence[tuple[str, str | bytes]]


class Stubs:
    """The stubs of every service over one channel."""

    def __init__(self, channel: aio.Channel) -> None:
        self.connector = adiom_grpc.ConnectorServiceStub(channel)
        self.transform = adiom_grpc.TransformServiceStub(channel)
        self.extension = dsync_grpc.ExtensionServiceStub(channel)
        # By hand: what a message object would copy is a page's body (`page_codec`).
        self.read_page: aio.UnaryUnaryMultiCallable[dsync.ReadPageRequest, Page] = channel.unary_unary(
            "/dsync.v1.PageService/ReadPage",
            request_serializer=dsync.ReadPageRequest.SerializeToString,
            response_deserializer=page_codec.decode_page,
        )
        self.write_page: aio.UnaryUnaryMultiCallable[WriteRequest, dsync.WritePageResponse] = channel.unary_unary(
            "/dsync.v1.PageService/WritePage",
            request_serializer=page_codec.encode_write_request,
            response_deserializer=dsync.WritePageResponse.FromString,
        )
        self.stream_changes: aio.UnaryStreamMultiCallable[dsync.StreamChangesRequest, ChangeFrame] = (
            channel.unary_stream(
                "/dsync.v1.ChangeService/StreamChanges",
                request_serializer=dsync.StreamChangesRequest.SerializeToString,
                response_deserializer=page_codec.decode_frame,
            )
        )
        self.write_changes: aio.UnaryUnaryMultiCallable[WriteChangesRequest, dsync.WriteChangesResponse] = (
            channel.unary_unary(
                "/dsync.v1.ChangeService/WriteChanges",
                request_serializer=page_codec.encode_write_changes,
                response_deserializer=dsync.WriteChangesResponse.FromString,
            )
        )
        self.complete_changes: aio.UnaryUnaryMultiCallable[ChangeFrame, ChangeFrame] = channel.unary_unary(
            "/dsync.v1.ChangeService/CompleteChanges",
            request_serializer=page_codec.encode_frame,
            response_deserializer=page_codec.decode_frame,
        )
        self.change = dsync_grpc.ChangeServiceStub(channel)
        self.ledger = dsync_grpc.LedgerServiceStub(channel)
        self.plan = dsync_grpc.PlanServiceStub(channel)
        self.schema = dsync_grpc.SchemaServiceStub(channel)
        self.checksum = dsync_grpc.ChecksumServiceStub(channel)
        self.cutover = dsync_grpc.CutoverServiceStub(channel)


class Link:
    """One peer; every failure comes out as a DsyncError."""

    def __init__(self, target: Target, *, session: str = "") -> None:
        self.target = target
        self.session = session
        """Goes with every call; empty: there is none yet."""
        self._channel = open_channel(target)
        self._stubs = Stubs(self._channel)

    async def call(
        self,
        select: Callable[[Stubs], aio.UnaryUnaryMultiCallable[_Q, _A]],
        request: _Q,
        *,
        method: str,
        timeout_s: float | None,
        metadata: Metadata = (),
    ) -> _A:
        """Call a method once; never repeated here."""
        callable_ = select(self._stubs)
        try:
            answer: _A | None = await callable_(request, timeout=timeout_s, metadata=self._metadata(metadata))
        except aio.AioRpcError as exc:
            raise from_rpc(exc, method=method, peer=self.target.name, timeout_s=timeout_s) from exc
        except asyncio.CancelledError:
            if is_cancelled_by_caller():
                raise
            raise self._closed(method) from None
        return self._require(answer, method)

    async def stream(
        self,
        select: Callable[[Stubs], aio.UnaryStreamMultiCallable[_Q, _A]],
        request: _Q,
        *,
        method: str,
        metadata: Metadata = (),
    ) -> AsyncGenerator[_A, None]:
        """Call a method whose answers come one by one; closing the iterator ends the call."""
        call = select(self._stubs)(request, metadata=self._metadata(metadata))
        try:
            async for answer in call:
                yield self._require(answer, method)
        except aio.AioRpcError as exc:
            raise from_rpc(exc, method=method, peer=self.target.name) from exc
        except asyncio.CancelledError:
            if is_cancelled_by_caller():
                raise
            raise self._closed(method) from None
        finally:
            call.cancel()

    async def close(self, *, grace_s: float = 0) -> None:
        """End the connection, after calls in flight have had that long to end by themselves."""
        await self._channel.close(grace_s or None)

    def _metadata(self, extra: Metadata) -> aio.Metadata:
        token = [("authorization", f"Bearer {self.target.token}")] if self.target.token else []
        session = [(SESSION_KEY, self.session.encode())] if self.session else []
        return aio.Metadata(*token, *session, *extra)

    def _closed(self, method: str) -> DsyncError:
        return ServerUnavailableError(f"{method} at {self.target.name}: the connection was closed while it ran")

    def _require(self, answer: _A | None, method: str) -> _A:
        # grpc gives None for bytes that are not the message they should be.
        if answer is None:
            raise PluginBugError(f"{method} at {self.target.name}: the answer is not the message that it should be")
        return answer
