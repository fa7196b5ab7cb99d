"""A connector or a transform of ours, served over gRPC.

Each method converts its request, calls the plug-in and converts the answer. Which services of dsync.v1 are served
follows from what the plug-in overrides; adiom.v1 always is, and a plug-in that only reads and writes packed pages
gets ListData and WriteData from them, so that any coordinator can use it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import grpc
from grpc import aio

from dsync.protocol import fallback, page_codec
from dsync.protocol._gen.adiom.v1 import adiom_pb2 as adiom
from dsync.protocol._gen.adiom.v1 import adiom_pb2_grpc as adiom_grpc
from dsync.protocol._gen.dsync.v1 import dsync_pb2 as dsync
from dsync.protocol._gen.dsync.v1 import dsync_pb2_grpc as dsync_grpc
from dsync.protocol.channel import MAX_MESSAGE_BYTES
from dsync.protocol.convert import changes, checksums, cutover, flows, handshake, schema, transforms, values
from dsync.protocol.convert import pages as messages
from dsync.protocol.interface import Connector, Transform, services_of
from dsync.protocol.types import ChangeFrame, Page, ReadRequest, WriteChangesRequest, WriteRequest

_T = TypeVar("_T")


def add_connector(
    server: aio.Server, connector: Connector, *, page_refs: bool = True, max_message_bytes: int = MAX_MESSAGE_BYTES
) -> tuple[str, ...]:
    """Serve a connector; returns the full names of its services, for reflection.

    `page_refs` is false where callers may sit on another machine: a page directory they name is then ignored.
    `max_message_bytes` is what the server takes, declared unless the connector declares less.
    """
    adiom_grpc.add_ConnectorServiceServicer_to_server(_ConnectorServicer(connector), server)
    extensions = _ExtensionServicer(connector, page_refs=page_refs, max_message_bytes=max_message_bytes)
    dsync_grpc.add_ExtensionServiceServicer_to_server(extensions, server)
    served = services_of(connector)
    if "PageService" in served:
        _add_page_service(server, connector)
    if "ChangeService" in served:
        _add_change_service(server, connector)
    if "LedgerService" in served:
        dsync_grpc.add_LedgerServiceServicer_to_server(_LedgerServicer(connector), server)
    if "PlanService" in served:
        dsync_grpc.add_PlanServiceServicer_to_server(_PlanServicer(connector), server)
    if "SchemaService" in served:
        dsync_grpc.add_SchemaServiceServicer_to_server(_SchemaServicer(connector), server)
    if "ChecksumService" in served:
        dsync_grpc.add_ChecksumServiceServicer_to_server(_ChecksumServicer(connector), server)
    if "CutoverService" in served:
        dsync_grpc.add_CutoverServiceServicer_to_server(_CutoverServicer(connector), server)
    ours = sorted({"ExtensionService", *served})
    return ("adiom.v1.ConnectorService", *(f"dsync.v1.{name}" for name in ours))


def add_transform(server: aio.Server, transform: Transform) -> tuple[str, ...]:
    """Serve a transform; returns the full names of its services, for reflection."""
    adiom_grpc.add_TransformServiceServicer_to_server(_TransformServicer(transform), server)
    return ("adiom.v1.TransformService",)


@asynccontextmanager
async def _closing(items: AsyncIterator[_T]) -> AsyncIterator[AsyncIterator[_T]]:
    """Close a plug-in's generator as soon as its caller is gone, not when the collector finds it."""
    try:
        yield items
    finally:
        if isinstance(items, AsyncGenerator):
            await items.aclose()


class _ConnectorServicer(adiom_grpc.ConnectorServiceServicer):
    def __init__(self, connector: Connector) -> None:
        self._connector = connector

    async def GetInfo(self, request: adiom.GetInfoRequest, context: object) -> adiom.GetInfoResponse:
        return handshake.info_to_pb(await self._connector.get_info())

    async def GetNamespaceMetadata(
        self, request: adiom.GetNamespaceMetadataRequest, context: object
    ) -> adiom.GetNamespaceMetadataResponse:
        return adiom.GetNamespaceMetadataResponse(count=await self._connector.count(request.namespace))

    async def GeneratePlan(self, request: adiom.GeneratePlanRequest, context: object) -> adiom.GeneratePlanResponse:
        return flows.plan_to_pb(await self._connector.generate_plan(flows.plan_request_from_pb(request)))

    async def ListData(self, request: adiom.ListDataRequest, context: object) -> adiom.ListDataResponse:
        asked = messages.list_data_from_pb(request)
        records, next_cursor = await fallback.list_records(self._connector, asked)
        return messages.records_to_pb(records, next_cursor)

    async def WriteData(self, request: adiom.WriteDataRequest, context: object) -> adiom.WriteDataResponse:
        await fallback.write_records(self._connector, messages.write_data_from_pb(request))
        return adiom.WriteDataResponse()

    async def WriteUpdates(self, request: adiom.WriteUpdatesRequest, context: object) -> adiom.WriteUpdatesResponse:
        await self._connector.write_updates(messages.write_updates_from_pb(request))
        return adiom.WriteUpdatesResponse()

    async def StreamUpdates(
        self, request: adiom.StreamUpdatesRequest, context: object
    ) -> AsyncGenerator[adiom.StreamUpdatesResponse, None]:
        async with _closing(self._connector.stream_updates(messages.stream_updates_from_pb(request))) as batches:
            async for batch in batches:
                yield messages.update_batch_to_pb(batch)

    async def StreamLSN(
        self, request: adiom.StreamLSNRequest, context: object
    ) -> AsyncGenerator[adiom.StreamLSNResponse, None]:
        # A source without positions ends the stream at once, and that is success (adiom.v1).
        if not fallback.overrides(self._connector, "stream_lsn"):
            return
        async with _closing(self._connector.stream_lsn(messages.stream_lsn_from_pb(request))) as positions:
            async for position in positions:
                yield messages.lsn_to_pb(position)

    async def GetByIds(self, request: adiom.GetByIdsRequest, context: object) -> adiom.GetByIdsResponse:
        return messages.found_to_pb(await self._connector.get_by_ids(*messages.get_by_ids_from_pb(request)))


class _ExtensionServicer(dsync_grpc.ExtensionServiceServicer):
    def __init__(self, connector: Connector, *, page_refs: bool, max_message_bytes: int) -> None:
        self._connector = connector
        self._page_refs = page_refs
        self._max_message_bytes = max_message_bytes

    async def GetExtensions(self, request: dsync.GetExtensionsRequest, context: object) -> dsync.GetExtensionsResponse:
        extensions = await fallback.extensions_of(self._connector)
        limit = min(extensions.max_message_bytes or self._max_message_bytes, self._max_message_bytes)
        page_refs = extensions.page_refs and self._page_refs
        return handshake.extensions_to_pb(dataclasses.replace(extensions, max_message_bytes=limit, page_refs=page_refs))

    async def OpenSession(self, request: dsync.OpenSessionRequest, context: object) -> dsync.OpenSessionResponse:
        session = handshake.session_from_pb(request)
        if not self._page_refs:
            session = dataclasses.replace(session, page_directory="", page_probe="")
        return dsync.OpenSessionResponse(page_probe_content=await self._connector.open_session(session))

    async def CloseSession(self, request: dsync.CloseSessionRequest, context: object) -> dsync.CloseSessionResponse:
        await self._connector.close_session()
        return dsync.CloseSessionResponse()

    async def Check(self, request: dsync.CheckRequest, context: object) -> dsync.CheckResponse:
        findings = await self._connector.check(handshake.check_from_pb(request))
        return dsync.CheckResponse(findings=map(values.finding_to_pb, findings))


class _PageServicer:
    """PageService by hand: its two methods take and give our types, as `page_codec` makes them."""

    def __init__(self, connector: Connector) -> None:
        self._connector = connector

    async def ReadPage(self, request: ReadRequest, context: object) -> Page:
        return await fallback.read_page(self._connector, request)

    async def WritePage(self, request: WriteRequest, context: object) -> dsync.WritePageResponse:
        return dsync.WritePageResponse(rows=await fallback.write_page(self._connector, request))


def _add_page_service(server: aio.Server, connector: Connector) -> None:
    servicer = _PageServicer(connector)
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "ReadPage": grpc.unary_unary_rpc_method_handler(
            servicer.ReadPage,
            request_deserializer=lambda data: messages.read_page_from_pb(dsync.ReadPageRequest.FromString(data)),
            response_serializer=page_codec.encode_page,
        ),
        "WritePage": grpc.unary_unary_rpc_method_handler(
            servicer.WritePage,
            request_deserializer=page_codec.decode_write_request,
            response_serializer=dsync.WritePageResponse.SerializeToString,
        ),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("dsync.v1.PageService", handlers),))


class _ChangeServicer:
    """ChangeService by hand: frames are our types, as `page_codec` makes them."""

    def __init__(self, connector: Connector) -> None:
        self._connector = connector

    async def StreamChanges(
        self, request: dsync.StreamChangesRequest, context: object
    ) -> AsyncGenerator[ChangeFrame, None]:
        async with _closing(self._connector.stream_changes(changes.stream_changes_from_pb(request))) as frames:
            async for frame in frames:
                yield frame

    async def Acknowledge(self, request: dsync.AcknowledgeRequest, context: object) -> dsync.AcknowledgeResponse:
        await self._connector.acknowledge(list(request.namespaces), request.cursor)
        return dsync.AcknowledgeResponse()

    async def CompleteChanges(self, request: ChangeFrame, context: object) -> ChangeFrame:
        return await self._connector.complete_changes(request)

    async def Mark(self, request: dsync.MarkRequest, context: object) -> dsync.MarkResponse:
        return dsync.MarkResponse(position=await self._connector.mark(list(request.namespaces), request.content))

    async def GetChangeStatus(
        self, request: dsync.GetChangeStatusRequest, context: object
    ) -> dsync.GetChangeStatusResponse:
        return changes.change_status_to_pb(await self._connector.change_status(list(request.namespaces)))

    async def ReleaseChanges(
        self, request: dsync.ReleaseChangesRequest, context: object
    ) -> dsync.ReleaseChangesResponse:
        return dsync.ReleaseChangesResponse(removed=await self._connector.release_changes(request.flow))

    async def WriteChanges(self, request: WriteChangesRequest, context: object) -> dsync.WriteChangesResponse:
        return changes.written_to_pb(await self._connector.write_changes(request))


def _add_change_service(server: aio.Server, connector: Connector) -> None:
    servicer = _ChangeServicer(connector)
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "StreamChanges": grpc.unary_stream_rpc_method_handler(
            servicer.StreamChanges,
            request_deserializer=dsync.StreamChangesRequest.FromString,
            response_serializer=page_codec.encode_frame,
        ),
        "Acknowledge": grpc.unary_unary_rpc_method_handler(
            servicer.Acknowledge,
            request_deserializer=dsync.AcknowledgeRequest.FromString,
            response_serializer=dsync.AcknowledgeResponse.SerializeToString,
        ),
        "CompleteChanges": grpc.unary_unary_rpc_method_handler(
            servicer.CompleteChanges,
            request_deserializer=page_codec.decode_frame,
            response_serializer=page_codec.encode_frame,
        ),
        "Mark": grpc.unary_unary_rpc_method_handler(
            servicer.Mark,
            request_deserializer=dsync.MarkRequest.FromString,
            response_serializer=dsync.MarkResponse.SerializeToString,
        ),
        "GetChangeStatus": grpc.unary_unary_rpc_method_handler(
            servicer.GetChangeStatus,
            request_deserializer=dsync.GetChangeStatusRequest.FromString,
            response_serializer=dsync.GetChangeStatusResponse.SerializeToString,
        ),
        "ReleaseChanges": grpc.unary_unary_rpc_method_handler(
            servicer.ReleaseChanges,
            request_deserializer=dsync.ReleaseChangesRequest.FromString,
            response_serializer=dsync.ReleaseChangesResponse.SerializeToString,
        ),
        "WriteChanges": grpc.unary_unary_rpc_method_handler(
            servicer.WriteChanges,
            request_deserializer=page_codec.decode_write_changes,
            response_serializer=dsync.WriteChangesResponse.SerializeToString,
        ),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("dsync.v1.ChangeService", handlers),))


class _LedgerServicer(dsync_grpc.LedgerServiceServicer):
    def __init__(self, connector: Connector) -> None:
        self._connector = connector

    async def OpenUnits(self, request: dsync.OpenUnitsRequest, context: object) -> dsync.OpenUnitsResponse:
        return flows.unit_states_to_pb(await self._connector.open_units(*flows.open_units_from_pb(request)))

    async def ReadUnits(self, request: dsync.OpenUnitsRequest, context: object) -> dsync.OpenUnitsResponse:
        return flows.unit_states_to_pb(await self._connector.read_units(*flows.open_units_from_pb(request)))

    async def SaveManifest(self, request: dsync.SaveManifestRequest, context: object) -> dsync.SaveManifestResponse:
        await self._connector.save_manifest(flows.manifest_from_pb(request.manifest))
        return dsync.SaveManifestResponse()

    async def FindManifests(self, request: dsync.FindManifestsRequest, context: object) -> dsync.FindManifestsResponse:
        found = await self._connector.find_manifests(flow=request.flow, fingerprint=request.fingerprint)
        return dsync.FindManifestsResponse(manifests=map(flows.manifest_to_pb, found))

    async def ClearNamespace(
        self, request: dsync.ClearNamespaceRequest, context: object
    ) -> dsync.ClearNamespaceResponse:
        write_context = messages.context_from_pb(request.context)
        await self._connector.clear_namespace(write_context, request.namespace, list(request.units))
        return dsync.ClearNamespaceResponse()

    async def ForgetFlow(self, request: dsync.ForgetFlowRequest, context: object) -> dsync.ForgetFlowResponse:
        return dsync.ForgetFlowResponse(removed=await self._connector.forget_flow(request.flow))


class _PlanServicer(dsync_grpc.PlanServiceServicer):
    def __init__(self, connector: Connector) -> None:
        self._connector = connector

    async def OpenPlan(self, request: dsync.OpenPlanRequest, context: object) -> dsync.OpenPlanResponse:
        plan = await self._connector.open_plan(list(request.namespaces), updates=request.updates, wait_s=request.wait_s)
        return flows.opened_plan_to_pb(plan)

    async def JoinPlan(self, request: dsync.JoinPlanRequest, context: object) -> dsync.JoinPlanResponse:
        stream = values.updates_partition_from_pb(request.stream)
        return flows.joined_plan_to_pb(
            await self._connector.join_plan(list(request.namespaces), stream, wait_s=request.wait_s)
        )

    async def ResumePlan(self, request: dsync.ResumePlanRequest, context: object) -> dsync.ResumePlanResponse:
        return flows.resumed_plan_to_pb(await self._connector.resume_plan(*flows.resume_plan_from_pb(request)))

    async def ClosePlan(self, request: dsync.ClosePlanRequest, context: object) -> dsync.ClosePlanResponse:
        await self._connector.close_plan(request.flow)
        return dsync.ClosePlanResponse()


class _SchemaServicer(dsync_grpc.SchemaServiceServicer):
    def __init__(self, connector: Connector) -> None:
        self._connector = connector

    async def DescribeNamespaces(
        self, request: dsync.DescribeNamespacesRequest, context: object
    ) -> dsync.DescribeNamespacesResponse:
        return schema.description_to_pb(await self._connector.describe(schema.describe_from_pb(request)))

    async def GetFinishData(self, request: dsync.GetFinishDataRequest, context: object) -> dsync.GetFinishDataResponse:
        data = await self._connector.get_finish_data(schema.step_from_pb(request.step))
        return dsync.GetFinishDataResponse(data=data)

    async def PrepareNamespaces(
        self, request: dsync.PrepareNamespacesRequest, context: object
    ) -> dsync.PrepareNamespacesResponse:
        return schema.prepared_to_pb(await self._connector.prepare(schema.prepare_from_pb(request)))

    async def FinishNamespaces(
        self, request: dsync.FinishNamespacesRequest, context: object
    ) -> dsync.FinishNamespacesResponse:
        write_context, step = messages.context_from_pb(request.context), schema.step_from_pb(request.step)
        await self._connector.finish(write_context, step, request.source_data)
        return dsync.FinishNamespacesResponse()


class _CutoverServicer(dsync_grpc.CutoverServiceServicer):
    def __init__(self, connector: Connector) -> None:
        self._connector = connector

    async def Freeze(self, request: dsync.FreezeRequest, context: object) -> dsync.FreezeResponse:
        return cutover.frozen_to_pb(await self._connector.freeze(dry_run=request.dry_run, wait_s=request.wait_s))

    async def Thaw(self, request: dsync.ThawRequest, context: object) -> dsync.ThawResponse:
        await self._connector.thaw(request.token)
        return dsync.ThawResponse()

    async def DescribeObjects(
        self, request: dsync.DescribeObjectsRequest, context: object
    ) -> dsync.DescribeObjectsResponse:
        return cutover.objects_to_pb(
            await self._connector.describe_objects(list(request.namespaces), whole_database=request.whole_database)
        )

    async def GetSequences(self, request: dsync.GetSequencesRequest, context: object) -> dsync.GetSequencesResponse:
        found = await self._connector.get_sequences(list(request.namespaces), whole_database=request.whole_database)
        return dsync.GetSequencesResponse(sequences=cutover.sequences_to_pb(found))

    async def SetSequences(self, request: dsync.SetSequencesRequest, context: object) -> dsync.SetSequencesResponse:
        missing = await self._connector.set_sequences(cutover.sequences_from_pb(request.sequences))
        return dsync.SetSequencesResponse(missing=missing)

    async def RefreshViews(self, request: dsync.RefreshViewsRequest, context: object) -> dsync.RefreshViewsResponse:
        done = await self._connector.refresh_views(list(request.namespaces), whole_database=request.whole_database)
        return dsync.RefreshViewsResponse(refreshed=done)


class _ChecksumServicer(dsync_grpc.ChecksumServiceServicer):
    def __init__(self, connector: Connector) -> None:
        self._connector = connector

    async def PlanRanges(self, request: dsync.PlanRangesRequest, context: object) -> dsync.PlanRangesResponse:
        ranges = await self._connector.plan_ranges(request.namespace, list(request.key), request.rows_per_range)
        return dsync.PlanRangesResponse(ranges=map(checksums.range_to_pb, ranges))

    async def GetChecksum(self, request: dsync.GetChecksumRequest, context: object) -> dsync.GetChecksumResponse:
        asked = checksums.checksum_request_from_pb(request)
        return checksums.buckets_to_pb(await self._connector.get_checksum(asked))

    async def GetRowHashes(
        self, request: dsync.GetChecksumRequest, context: object
    ) -> AsyncGenerator[dsync.GetRowHashesResponse, None]:
        async with _closing(self._connector.get_row_hashes(checksums.checksum_request_from_pb(request))) as batches:
            async for rows in batches:
                yield checksums.row_hashes_to_pb(rows)

    async def GetRows(self, request: dsync.GetRowsRequest, context: object) -> dsync.GetRowsResponse:
        return checksums.rows_to_pb(await self._connector.get_rows(checksums.rows_request_from_pb(request)))

    async def CountRows(self, request: dsync.CountRowsRequest, context: object) -> dsync.CountRowsResponse:
        return dsync.CountRowsResponse(count=await self._connector.count_rows(request.namespace))


class _TransformServicer(adiom_grpc.TransformServiceServicer):
    def __init__(self, transform: Transform) -> None:
        self._transform = transform
        self._multiple: bool | None = None

    async def GetTransformInfo(
        self, request: adiom.GetTransformInfoRequest, context: object
    ) -> adiom.GetTransformInfoResponse:
        capabilities = await self._transform.get_transform_info()
        self._multiple = capabilities.use_multiple_responses
        return transforms.transform_capabilities_to_pb(capabilities)

    async def GetTransform(self, request: adiom.GetTransformRequest, context: object) -> adiom.GetTransformResponse:
        if self._multiple is None:
            self._multiple = (await self._transform.get_transform_info()).use_multiple_responses
        response = await self._transform.transform(transforms.transform_request_from_pb(request))
        return transforms.transform_response_to_pb(response, multiple=self._multiple)
