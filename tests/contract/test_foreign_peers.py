"""Connectors and coordinators of others, who know adiom.v1 and nothing of ours, work with ours in both directions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import bson
import grpc
import pytest
from grpc import aio
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from dsync.protocol import errors
from dsync.protocol._gen.adiom.v1 import adiom_pb2 as adiom
from dsync.protocol._gen.adiom.v1 import adiom_pb2_grpc as adiom_grpc
from dsync.protocol.channel import Target
from dsync.protocol.client import RemoteConnector, RemoteTransform
from dsync.protocol.interface import Connector, Transform
from dsync.protocol.types import (
    ChangeFrame,
    ChangeRelation,
    ChangeStatus,
    ChangeType,
    Extensions,
    IncompleteChange,
    Info,
    Operation,
    Page,
    PageType,
    Partition,
    PlanRequest,
    ReadRequest,
    SinkCapabilities,
    SourceCapabilities,
    StreamChangesRequest,
    StreamRequest,
    TransformCapabilities,
    TransformInfo,
    TransformOutput,
    TransformRequest,
    TransformResponse,
    Update,
    UpdateBatch,
    UpdateType,
    WriteChangesRequest,
    WriteContext,
    WriteRequest,
    WriteUpdatesRequest,
    WrittenChanges,
)
from dsync.sdk.serve import ServeOptions, serving
from dsync.sdk.testing.memory import MemoryConnector
from tests.contract.foreign import ForeignConnector, foreign_server
from tests.contract.rig import document
from tests.support.waiting import wait_for_async

CONTEXT = WriteContext(flow="f", run="r", unit="ü" * 1000, fence=3, cursor=b"c" * 20_000, seq=4)


def remote(address: str) -> RemoteConnector:
    return RemoteConnector(Target(address=address, name=f"grpc://{address}"))


# ------------------------------------------------- our coordinator, their connector


async def test_a_foreign_source_is_read_page_by_page() -> None:
    """It has no extensions; its records arrive one by one, gzip and unknown enum values are taken."""
    records = [document(number) for number in range(5)]
    async with foreign_server(ForeignConnector(records)) as address:
        connector = remote(address)
        info = await connector.get_info()
        assert info.source is not None
        assert info.source.data_types == (PageType.BSON,)
        assert await connector.get_extensions() == Extensions()
        (partition,) = (await connector.generate_plan(PlanRequest(namespaces=("a",)))).partitions
        found, cursor = [], b""
        while True:
            page = await connector.read_page(ReadRequest(partition=partition, cursor=cursor, by_reference=True))
            found += list(page.records or ())
            cursor = page.next_cursor
            if not cursor:
                break
        assert found == records
        await connector.close()


async def test_calls_for_a_partition_carry_its_header() -> None:
    """A load balancer routes by it; metadata names are lower case on the wire, whatever the source has written."""
    foreign = ForeignConnector([document(1)])
    async with foreign_server(foreign) as address:
        connector = remote(address)
        (partition,) = (await connector.generate_plan(PlanRequest(namespaces=("a",)))).partitions
        assert (partition.header, partition.value) == ("X-Shard", "7")
        await connector.list_data(ReadRequest(partition=partition))
        stream = StreamRequest(namespaces=("a",), header=partition.header, value=partition.value)
        assert len([batch async for batch in connector.stream_updates(stream)]) == 3
        assert [item.lsn async for item in connector.stream_lsn(stream)] == [2**64 - 1]
        assert {foreign.metadata[method]["x-shard"] for method in ("ListData", "StreamUpdates", "StreamLSN")} == {"7"}
        assert "x-shard" not in foreign.metadata.get("GetInfo", {})
        await connector.close()


@pytest.mark.parametrize(("header", "value"), [("no name", "7"), ("x-bin", "7"), ("grpc-timeout", "1"), ("x", "ü")])
async def test_a_header_that_cannot_be_sent_is_the_sources_bug(header: str, value: str) -> None:
    """Named, instead of an error about metadata from deep inside gRPC."""
    async with foreign_server(ForeignConnector([])) as address:
        connector = remote(address)
        with pytest.raises(errors.PluginBugError, match="header"):
            await connector.list_data(ReadRequest(partition=Partition(namespace="a", header=header, value=value)))
        await connector.close()


@pytest.mark.parametrize("page_type", [PageType.BSON, PageType.JSON])
async def test_a_foreign_sink_gets_single_records(page_type: PageType) -> None:
    """A packed page is taken apart, and the write context goes along as metadata that it may ignore."""
    foreign = ForeignConnector([])
    records = [document(1), document(2)] if page_type is PageType.BSON else [b'{"id":1}\n', b'{"id":2}\n']
    async with foreign_server(foreign) as address:
        connector = remote(address)
        page = Page(type=page_type, rows=2, packed=b"".join(records))
        assert await connector.write_page(WriteRequest(namespace="a", page=page, context=CONTEXT)) == 2
        assert foreign.written == [records]
        metadata = foreign.metadata["WriteData"]
        assert (metadata["dsync-flow-bin"], metadata["dsync-seq-bin"]) == (b"f", (4).to_bytes(8, "big"))
        assert len(metadata["dsync-cursor-hash-bin"]) == 16
        assert sum(len(key) + len(value) for key, value in metadata.items()) < 8192
        await connector.write_updates(WriteUpdatesRequest(namespace="a", updates=(), context=CONTEXT))
        assert foreign.metadata["WriteUpdates"]["dsync-fence-bin"] == (3).to_bytes(8, "big")
        await connector.close()


async def test_a_page_for_a_foreign_sink_is_cut_into_messages_it_takes() -> None:
    """A peer that declares nothing takes 4 MiB, as gRPC does by default; order and number stay."""
    foreign = ForeignConnector([])
    records = [document(number, text="x" * 300_000) for number in range(40)]
    async with foreign_server(foreign) as address:
        connector = remote(address)
        page = Page(type=PageType.BSON, rows=len(records), records=records)
        await connector.write_page(WriteRequest(namespace="a", page=page))
        assert len(foreign.written) > 2
        assert [record for batch in foreign.written for record in batch] == records
        await connector.close()


async def test_a_record_over_a_foreign_sinks_limit_is_named() -> None:
    """It goes alone, because the peer might take it after all; the refusal is no throttling and names both sizes."""
    record = document(1, text="x" * 5_000_000)
    async with foreign_server(ForeignConnector([])) as address:
        connector = remote(address)
        page = Page(type=PageType.BSON, rows=1, records=[record])
        with pytest.raises(errors.CapacityError, match=r"5,000,\d+ bytes is over the limit of 4,194,304"):
            await connector.write_page(WriteRequest(namespace="a", page=page))
        await connector.close()


async def test_a_foreign_sources_large_page_is_taken() -> None:
    """Other implementations send pages without a cap of their own: we take them up to our limit."""
    records = [document(1, text="x" * 9_000_000), document(2)]
    async with foreign_server(ForeignConnector(records)) as address:
        connector = remote(address)
        partition = Partition(namespace="a", cursor=b"\x00raw")
        page = await connector.read_page(ReadRequest(partition=partition))
        assert page.size_bytes > 9_000_000
        await connector.close()


async def test_a_foreign_status_becomes_our_error() -> None:
    """ABORTED is one of the four codes that are worth a retry."""
    async with foreign_server(ForeignConnector([])) as address:
        connector = remote(address)
        with pytest.raises(errors.ConflictError, match="somebody else was faster"):
            await connector.count("a")
        with pytest.raises(errors.UnsupportedError):
            await connector.open_units("f", "r", [])
        await connector.close()


async def test_a_server_that_is_down_is_worth_a_retry() -> None:
    """At once, and naming it: whether to wait is the coordinator's decision."""
    async with foreign_server(ForeignConnector([])) as address:
        pass
    connector = remote(address)
    with pytest.raises(errors.ServerUnavailableError, match=address):
        await connector.get_info()
    await connector.close()


# ------------------------------------------------- their coordinator, our connector


async def test_a_foreign_coordinator_copies_with_our_connector() -> None:
    """ListData and WriteData work although the connector itself has only packed pages; compression is taken."""
    memory = MemoryConnector()
    memory.serve("a", 250, record_bytes=500)
    async with (
        serving(memory, ServeOptions(address="127.0.0.1:0")) as address,
        aio.insecure_channel(address, compression=grpc.Compression.Gzip) as channel,
    ):
        stub = adiom_grpc.ConnectorServiceStub(channel)
        info = await stub.GetInfo(adiom.GetInfoRequest())
        assert list(info.capabilities.source.supported_data_types) == [adiom.DATA_TYPE_MONGO_BSON]
        plan = await stub.GeneratePlan(adiom.GeneratePlanRequest(namespaces=["a"], initial_sync=True))
        for partition in plan.partitions:
            cursor = b""
            while True:
                page = await stub.ListData(
                    adiom.ListDataRequest(partition=partition, type=adiom.DATA_TYPE_MONGO_BSON, cursor=cursor)
                )
                await stub.WriteData(
                    adiom.WriteDataRequest(namespace="b", data=page.data, type=adiom.DATA_TYPE_MONGO_BSON)
                )
                cursor = page.next_cursor
                if not cursor:
                    break
        assert memory.documents("b") == memory.documents("a")
        assert [item async for item in stub.StreamLSN(adiom.StreamLSNRequest())] == []


async def test_a_foreign_coordinator_sees_ordinary_statuses() -> None:
    """A code from the contract and a plain text: enough to act on without our metadata."""
    async with (
        serving(MemoryConnector(), ServeOptions(address="127.0.0.1:0")) as address,
        aio.insecure_channel(address) as channel,
    ):
        stub = adiom_grpc.ConnectorServiceStub(channel)
        with pytest.raises(aio.AioRpcError) as caught:
            await stub.ListData(adiom.ListDataRequest(partition=adiom.Partition(namespace="größe", cursor=b":0:0")))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "gr??e" in str(caught.value.details())


async def test_reflection_names_what_is_served() -> None:
    """How tools, and coordinators that do not know GetExtensions, find the services."""
    async with (
        serving(MemoryConnector(), ServeOptions(address="127.0.0.1:0")) as address,
        aio.insecure_channel(address) as channel,
    ):
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
        (answer,) = [item async for item in call]
        names = {service.name for service in answer.list_services_response.service}
        assert {"adiom.v1.ConnectorService", "dsync.v1.ExtensionService", "dsync.v1.LedgerService"} <= names
        assert {"grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"} <= names


# -------------------------------------------------- what the memory connector has not


class Stream(Connector):
    """A source of changes that knows adiom.v1's methods only."""

    def __init__(self) -> None:
        self.closed = False

    async def get_info(self) -> Info:
        return Info(id="s", db_type="stream", source=SourceCapabilities())

    async def stream_updates(self, request: StreamRequest):  # type: ignore[no-untyped-def, override]
        try:
            number = int(request.cursor or b"0")
            while True:
                number += 1
                update = Update(id=(), type=UpdateType.INSERT, data=bson.encode({"_id": number}))
                yield UpdateBatch(updates=(update,), namespace="a", next_cursor=b"%d" % number)
        finally:
            self.closed = True


async def test_a_stream_goes_on_after_a_cursor_and_ends_with_its_reader() -> None:
    """Closing the iterator ends the call at the source, which lets go of its connection."""
    source = Stream()
    async with serving(source, ServeOptions(address="127.0.0.1:0", grace_s=5)) as address:
        connector = remote(address)
        assert (await connector.get_extensions()).services == frozenset()
        batches = connector.stream_updates(StreamRequest(cursor=b"41"))
        assert (await anext(batches)).next_cursor == b"42"
        await batches.aclose()  # type: ignore[attr-defined]
        await wait_for_async(lambda: source.closed, what="the source to let go")
        await connector.close()


class Framed(Connector):
    """Both ends of change frames: gives numbered ones, and keeps what it is given."""

    def __init__(self) -> None:
        self.closed = False
        self.acknowledged: list[tuple[Sequence[str], bytes]] = []
        self.marks: list[tuple[Sequence[str], bytes]] = []
        self.written: list[WriteChangesRequest] = []

    async def get_info(self) -> Info:
        return Info(id="f", db_type="framed", source=SourceCapabilities(), sink=SinkCapabilities())

    async def stream_changes(self, request: StreamChangesRequest):  # type: ignore[no-untyped-def, override]
        try:
            number = int(request.cursor or b"0")
            while True:
                number += 1
                yield frame(number, body=b"x" * request.frame_bytes)
        finally:
            self.closed = True

    async def acknowledge(self, namespaces: Sequence[str], cursor: bytes) -> None:
        self.acknowledged.append((namespaces, cursor))

    async def complete_changes(self, frame: ChangeFrame) -> ChangeFrame:
        return replace(frame, position=7)

    async def mark(self, namespaces: Sequence[str], content: bytes) -> int:
        self.marks.append((namespaces, content))
        return 43

    async def change_status(self, namespaces: Sequence[str]) -> ChangeStatus:
        return ChangeStatus(position=44, acknowledged=42, retained_bytes=2, safe_bytes=None, name=namespaces[0])

    async def release_changes(self, flow: str) -> list[str]:
        return [f"what {flow} had"]

    async def write_changes(self, request: WriteChangesRequest) -> WrittenChanges:
        if self.written:
            raise errors.LanesMeetError("two changes meet on an index").about("a")
        self.written.append(request)
        return WrittenChanges(changes=len(request.frame), incomplete=(IncompleteChange(index=0, reason="no row"),))


def frame(number: int, *, body: bytes) -> ChangeFrame:
    """One insert."""
    return ChangeFrame(
        type=ChangeType.BSON,
        cursor=b"%d" % number,
        transaction=number,
        index=1,
        relations=(ChangeRelation(namespace="a"),),
        operations=bytes([Operation.INSERT]),
        relation_of=bytes(2),
        key_hashes=bytes(8),
        sizes=len(body).to_bytes(4, "little"),
        body=body,
    )


async def test_frames_of_changes_cross_whole_and_what_is_durable_is_told() -> None:
    """Also larger than what gRPC takes by itself; an error that asks for source order arrives as what it is."""
    plugin = Framed()
    async with serving(plugin, ServeOptions(address="127.0.0.1:0", grace_s=5)) as address:
        connector = remote(address)
        assert (await connector.get_extensions()).services == {"ChangeService"}
        frames = connector.stream_changes(StreamChangesRequest(cursor=b"41", frame_bytes=6_000_000))
        first = await anext(frames)
        assert first == frame(42, body=b"x" * 6_000_000)
        await frames.aclose()  # type: ignore[attr-defined]
        await wait_for_async(lambda: plugin.closed, what="the source to let go")
        await connector.acknowledge(["a"], first.cursor)
        context = WriteContext(flow="f", run="r", unit="lane:0", fence=1, cursor=first.cursor, seq=1)
        request = WriteChangesRequest(context=context, frame=first, targets=("b",), overlap=True)
        written = await connector.write_changes(request)
        assert await connector.complete_changes(first) == replace(first, position=7)
        with pytest.raises(errors.LanesMeetError, match="meet on an index") as refused:
            await connector.write_changes(request)
        assert refused.value.namespace == "a"
        assert await connector.mark(["a"], b"\0 here") == 43
        status = await connector.change_status(["a"])
        assert status == ChangeStatus(position=44, acknowledged=42, retained_bytes=2, safe_bytes=None, name="a")
        assert await connector.release_changes("f") == ["what f had"]
        await connector.close()
    assert plugin.marks == [(["a"], b"\0 here")]
    assert plugin.acknowledged == [(["a"], b"42")]
    assert plugin.written == [request]
    assert written == WrittenChanges(changes=1, incomplete=(IncompleteChange(index=0, reason="no row"),))


class Upper(Transform):
    """Answers for two namespaces."""

    async def get_transform_info(self) -> TransformCapabilities:
        info = TransformInfo(request_type=PageType.JSON, response_types=(PageType.JSON,))
        return TransformCapabilities(transforms=(info,), use_multiple_responses=True)

    async def transform(self, request: TransformRequest) -> TransformResponse:
        upper = TransformOutput(namespace="upper", data=tuple(item.upper() for item in request.data))
        return TransformResponse(outputs=(upper, TransformOutput(namespace="", data=request.data)))


async def test_a_transform_is_served_and_reached() -> None:
    """The same way as a connector; several answers where it has declared them."""
    async with serving(Upper(), ServeOptions(address="127.0.0.1:0")) as address:
        transform = RemoteTransform(Target(address=address, name="upper"))
        request = TransformRequest(
            namespace="a", request_type=PageType.JSON, response_type=PageType.JSON, data=(b'{"id":"x"}',)
        )
        response = await transform.transform(request)
        assert response == await Upper().transform(request)
        assert (await transform.get_transform_info()).use_multiple_responses
        await transform.close()
