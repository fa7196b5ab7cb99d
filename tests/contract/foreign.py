"""A peer that speaks adiom.v1 alone, written against the generated stubs as a stranger would."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
from grpc import aio

from dsync.protocol._gen.adiom.v1 import adiom_pb2 as adiom
from dsync.protocol._gen.adiom.v1 import adiom_pb2_grpc as adiom_grpc


class ForeignConnector(adiom_grpc.ConnectorServiceServicer):
    """Serves given records in pages of two, keeps what is written, and remembers what it was called with."""

    def __init__(self, records: list[bytes], *, data_type: int = adiom.DATA_TYPE_MONGO_BSON) -> None:
        self.records = records
        self.data_type = data_type
        self.written: list[list[bytes]] = []
        self.types: list[int] = []
        self.metadata: dict[str, dict[str, str | bytes]] = {}

    def _note(self, method: str, context: Any) -> None:
        self.metadata[method] = dict(context.invocation_metadata())

    async def GetInfo(self, request: adiom.GetInfoRequest, context: Any) -> adiom.GetInfoResponse:
        self._note("GetInfo", context)
        source = adiom.Capabilities.Source(supported_data_types=[self.data_type, 99])
        sink = adiom.Capabilities.Sink(supported_data_types=[self.data_type])
        return adiom.GetInfoResponse(
            id="foreign", db_type="other", capabilities=adiom.Capabilities(source=source, sink=sink)
        )

    async def GetNamespaceMetadata(
        self, request: adiom.GetNamespaceMetadataRequest, context: Any
    ) -> adiom.GetNamespaceMetadataResponse:
        await context.abort(grpc.StatusCode.ABORTED, "somebody else was faster")
        raise AssertionError

    async def GeneratePlan(self, request: adiom.GeneratePlanRequest, context: Any) -> adiom.GeneratePlanResponse:
        partition = adiom.Partition(
            namespace=request.namespaces[0],
            partition_header="X-Shard",
            partition_value="7",
            cursor=b"\x00raw",
            estimated_count=len(self.records),
        )
        return adiom.GeneratePlanResponse(partitions=[partition])

    async def ListData(self, request: adiom.ListDataRequest, context: Any) -> adiom.ListDataResponse:
        self._note("ListData", context)
        assert request.partition.cursor == b"\x00raw"
        self.types.append(request.type)
        start = int(request.cursor or b"0")
        cursor = b"%d" % (start + 2) if start + 2 < len(self.records) else b""
        context.set_compression(grpc.Compression.Gzip)
        return adiom.ListDataResponse(data=self.records[start : start + 2], next_cursor=cursor)

    async def WriteData(self, request: adiom.WriteDataRequest, context: Any) -> adiom.WriteDataResponse:
        self._note("WriteData", context)
        self.written.append(list(request.data))
        return adiom.WriteDataResponse()

    async def WriteUpdates(self, request: adiom.WriteUpdatesRequest, context: Any) -> adiom.WriteUpdatesResponse:
        self._note("WriteUpdates", context)
        return adiom.WriteUpdatesResponse()

    async def StreamUpdates(
        self, request: adiom.StreamUpdatesRequest, context: Any
    ) -> AsyncIterator[adiom.StreamUpdatesResponse]:
        self._note("StreamUpdates", context)
        for number in range(3):
            update = adiom.Update(type=adiom.UPDATE_TYPE_INSERT, data=b"%d" % number)
            yield adiom.StreamUpdatesResponse(updates=[update], namespace="a", next_cursor=b"%d" % number)

    async def StreamLSN(self, request: adiom.StreamLSNRequest, context: Any) -> AsyncIterator[adiom.StreamLSNResponse]:
        self._note("StreamLSN", context)
        yield adiom.StreamLSNResponse(lsn=2**64 - 1, next_cursor=b"1")

    async def GetByIds(self, request: adiom.GetByIdsRequest, context: Any) -> adiom.GetByIdsResponse:
        return adiom.GetByIdsResponse(data=[adiom.GetByIdsResponse.ResponseItem() for _ in request.ids])


@asynccontextmanager
async def foreign_server(connector: ForeignConnector) -> AsyncIterator[str]:
    """Served over plaintext HTTP/2 with gRPC's own defaults; gives `host:port`."""
    server = aio.server()
    adiom_grpc.add_ConnectorServiceServicer_to_server(connector, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)
