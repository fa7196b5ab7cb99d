"""A connector or a transform in another process: our interface spoken over a channel.

`read_page` and `write_page` work with every peer. One that serves adiom.v1 alone gets ListData and WriteData with
single records, cut into messages it can be expected to take.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing

import xxhash

from dsync.protocol import pages
from dsync.protocol._gen.adiom.v1 import adiom_pb2 as adiom
from dsync.protocol._gen.dsync.v1 import dsync_pb2 as dsync
from dsync.protocol.channel import MAX_MESSAGE_BYTES, UNDECLARED_MESSAGE_BYTES, Deadlines, Target
from dsync.protocol.convert import changes, checksums, cutover, flows, handshake, schema, transforms, values
from dsync.protocol.convert import pages as messages
from dsync.protocol.errors import CapacityError, DsyncError, PluginBugError, UnsupportedError
from dsync.protocol.interface import Connector, Transform
from dsync.protocol.link import Link, Metadata
from dsync.protocol.session import session_name
from dsync.protocol.types import (
    BsonValue,
    Bucket,
    ChangeFrame,
    ChangeStatus,
    CheckRequest,
    ChecksumRequest,
    CopiedPartition,
    DescribeRequest,
    Extensions,
    Finding,
    FinishStep,
    FlowManifest,
    Frozen,
    Info,
    JoinedPlan,
    KeyRange,
    LsnPosition,
    Page,
    PageType,
    Plan,
    PlanRequest,
    Prepared,
    PrepareRequest,
    ReadRequest,
    ResumedPlan,
    RowHash,
    RowsRequest,
    SchemaDescription,
    SchemaObject,
    SequenceState,
    SessionRequest,
    StreamChangesRequest,
    StreamRequest,
    TextRow,
    TransformCapabilities,
    TransformRequest,
    TransformResponse,
    UnitRef,
    UnitState,
    UpdateBatch,
    UpdatesPartition,
    WriteChangesRequest,
    WriteContext,
    WriteRequest,
    WriteUpdatesRequest,
    WrittenChanges,
)

# Names, cursor and context beside the body of a message.
_ENVELOPE_BYTES = 64 * 1024
# The tag and the length of one record in a repeated field.
_RECORD_OVERHEAD_BYTES = 8
_LONGEST_NAME_BYTES = 512
_OLD_LINK_GRACE_S = 5.0
_GOOD_BYE_S = 2.0
_HEADER_NAME = re.compile(r"[0-9a-z_.-]+\Z")
_HEADER_VALUE = re.compile(r"[ -~]*\Z")


class RemoteConnector(Connector):
    """A connector reached by gRPC; see `Connector` for what each method does.

    Raises DsyncErrors of the class that the peer raised, DeadlineError where it did not answer in time and
    ServerUnavailableError where the connection is down.
    """

    speaks_for_another = True

    def __init__(self, target: Target, *, deadlines: Deadlines | None = None) -> None:
        self._link = Link(target)
        self._deadlines = deadlines or Deadlines()
        self._extensions: Extensions | None = None
        self._session: SessionRequest | None = None

    @property
    def target(self) -> Target:
        return self._link.target

    async def move(self, target: Target) -> None:
        """Go on with another process that serves the same connector; calls in flight end where they are.

        The session is opened there before the first call can reach it: it has forgotten what its predecessor knew.
        """
        fresh = Link(target, session=self._link.session)
        if self._session is not None:
            try:
                await self._open_session(fresh, self._session)
            except BaseException:
                await fresh.close()
                raise
        old, self._link = self._link, fresh
        await old.close(grace_s=_OLD_LINK_GRACE_S)

    async def close(self) -> None:
        if self._session is not None and not self.target.address.startswith("unix:"):
            # Not a child, which ends now: others may share it. Where it cannot be told, it forgets by itself.
            with contextlib.suppress(DsyncError):
                await self._link.call(
                    lambda s: s.extension.CloseSession,
                    dsync.CloseSessionRequest(),
                    method="CloseSession",
                    timeout_s=_GOOD_BYE_S,
                )
            self._session = None
        await self._link.close()

    # ------------------------------------------------------------ adiom.v1

    async def get_info(self) -> Info:
        answer = await self._link.call(
            lambda s: s.connector.GetInfo,
            adiom.GetInfoRequest(),
            method="GetInfo",
            timeout_s=self._deadlines.contact_s,
        )
        return handshake.info_from_pb(answer)

    async def count(self, namespace: str) -> int:
        answer = await self._link.call(
            lambda s: s.connector.GetNamespaceMetadata,
            adiom.GetNamespaceMetadataRequest(namespace=namespace),
            method="GetNamespaceMetadata",
            timeout_s=self._deadlines.data_s,
        )
        return answer.count

    async def generate_plan(self, request: PlanRequest) -> Plan:
        answer = await self._link.call(
            lambda s: s.connector.GeneratePlan,
            flows.plan_request_to_pb(request),
            method="GeneratePlan",
            timeout_s=self._deadlines.work_s,
        )
        return flows.plan_from_pb(answer)

    async def list_data(self, request: ReadRequest) -> Page:
        answer = await self._link.call(
            lambda s: s.connector.ListData,
            messages.list_data_to_pb(request),
            method="ListData",
            timeout_s=self._deadlines.data_s,
            metadata=_routing(request.partition.header, request.partition.value),
        )
        return messages.records_from_pb(answer, request.type)

    async def write_data(self, request: WriteRequest) -> None:
        limit = await self._limit_bytes()
        metadata = _context_metadata(request.context)
        for records in _batches(pages.records_of(request.page), limit):
            await self._link.call(
                lambda s: s.connector.WriteData,
                messages.write_data_to_pb(request.namespace, records, request.page.type),
                method="WriteData",
                timeout_s=self._deadlines.data_s,
                metadata=metadata,
            )

    async def write_updates(self, request: WriteUpdatesRequest) -> None:
        await self._link.call(
            lambda s: s.connector.WriteUpdates,
            messages.write_updates_to_pb(request),
            method="WriteUpdates",
            timeout_s=self._deadlines.data_s,
            metadata=_context_metadata(request.context),
        )

    async def stream_updates(self, request: StreamRequest) -> AsyncIterator[UpdateBatch]:
        answers = self._link.stream(
            lambda s: s.connector.StreamUpdates,
            messages.stream_updates_to_pb(request),
            method="StreamUpdates",
            metadata=_routing(request.header, request.value),
        )
        async with aclosing(answers):
            async for answer in answers:
                yield messages.update_batch_from_pb(answer)

    async def stream_lsn(self, request: StreamRequest) -> AsyncIterator[LsnPosition]:
        answers = self._link.stream(
            lambda s: s.connector.StreamLSN,
            messages.stream_lsn_to_pb(request),
            method="StreamLSN",
            metadata=_routing(request.header, request.value),
        )
        async with aclosing(answers):
            async for answer in answers:
                yield messages.lsn_from_pb(answer)

    async def get_by_ids(
        self, namespace: str, ids: Sequence[tuple[BsonValue, ...]], page_type: PageType
    ) -> list[bytes]:
        answer = await self._link.call(
            lambda s: s.connector.GetByIds,
            messages.get_by_ids_to_pb(namespace, ids, page_type),
            method="GetByIds",
            timeout_s=self._deadlines.data_s,
        )
        return messages.found_from_pb(answer)

    # ------------------------------------------------- dsync.v1 ExtensionService

    async def get_extensions(self) -> Extensions:
        try:
            answer = await self._link.call(
                lambda s: s.extension.GetExtensions,
                dsync.GetExtensionsRequest(),
                method="GetExtensions",
                timeout_s=self._deadlines.contact_s,
            )
        except UnsupportedError:
            # A peer that speaks adiom.v1 alone.
            self._extensions = Extensions()
            return self._extensions
        self._extensions = handshake.extensions_from_pb(answer)
        if not self.target.keepalive:
            # It is one of ours, so it bears the pings by which a dead connection is noticed.
            old, self._link = self._link, self._with_pings()
            await old.close(grace_s=_OLD_LINK_GRACE_S)
        return self._extensions

    def _with_pings(self) -> Link:
        return Link(dataclasses.replace(self.target, keepalive=True), session=self._link.session)

    async def open_session(self, request: SessionRequest) -> bytes:
        if self._session != request:
            self._link.session = session_name(request)
        try:
            content = await self._open_session(self._link, request)
        except UnsupportedError:
            self._link.session = ""
            raise
        self._session = request
        return content

    async def _open_session(self, link: Link, request: SessionRequest) -> bytes:
        answer = await link.call(
            lambda s: s.extension.OpenSession,
            handshake.session_to_pb(request),
            method="OpenSession",
            timeout_s=self._deadlines.session_s,
        )
        return answer.page_probe_content

    async def check(self, request: CheckRequest) -> tuple[Finding, ...]:
        answer = await self._link.call(
            lambda s: s.extension.Check,
            handshake.check_to_pb(request),
            method="Check",
            timeout_s=self._deadlines.work_s,
        )
        return tuple(map(values.finding_from_pb, answer.findings))

    # ------------------------------------------------------ dsync.v1 PageService

    async def read_page(self, request: ReadRequest) -> Page:
        """As ReadPage, or as ListData where the peer serves adiom.v1 alone: then the page has single records."""
        if "PageService" not in (await self._known_extensions()).services:
            return await self.list_data(request)
        page = await self._link.call(
            lambda s: s.read_page,
            messages.read_page_to_pb(request),
            method="ReadPage",
            timeout_s=self._deadlines.data_s,
            metadata=_routing(request.partition.header, request.partition.value),
        )
        return page if page.type is not PageType.UNKNOWN else dataclasses.replace(page, type=request.type)

    async def write_page(self, request: WriteRequest) -> int:
        """As WritePage, or as WriteData where the peer serves adiom.v1 alone.

        Raises:
            CapacityError: the page is larger than a message may be at this peer.
        """
        if "PageService" not in (await self._known_extensions()).services:
            await self.write_data(request)
            return request.page.rows
        page = pages.packed(request.page)
        limit = await self._limit_bytes()
        if page.ref is None and page.size_bytes + _ENVELOPE_BYTES > limit:
            raise CapacityError(
                f"WritePage of {request.namespace} at {self.target.name}: a page of {page.size_bytes:,} bytes does not"
                f" fit a message of {limit:,} bytes; ask for smaller pages (--page-bytes)"
            )
        answer = await self._link.call(
            lambda s: s.write_page,
            dataclasses.replace(request, page=page),
            method="WritePage",
            timeout_s=self._deadlines.data_s,
        )
        return answer.rows

    # ---------------------------------------------------- dsync.v1 LedgerService

    async def open_units(self, flow: str, run: str, units: Sequence[UnitRef]) -> list[UnitState]:
        answer = await self._link.call(
            lambda s: s.ledger.OpenUnits,
            flows.open_units_to_pb(flow, run, units),
            method="OpenUnits",
            timeout_s=self._deadlines.data_s,
        )
        return flows.unit_states_from_pb(answer)

    async def read_units(self, flow: str, run: str, units: Sequence[UnitRef]) -> list[UnitState]:
        answer = await self._link.call(
            lambda s: s.ledger.ReadUnits,
            flows.open_units_to_pb(flow, run, units),
            method="ReadUnits",
            timeout_s=self._deadlines.data_s,
        )
        return flows.unit_states_from_pb(answer)

    async def save_manifest(self, manifest: FlowManifest) -> None:
        await self._link.call(
            lambda s: s.ledger.SaveManifest,
            dsync.SaveManifestRequest(manifest=flows.manifest_to_pb(manifest)),
            method="SaveManifest",
            timeout_s=self._deadlines.data_s,
        )

    async def find_manifests(self, *, flow: str = "", fingerprint: str = "") -> list[FlowManifest]:
        answer = await self._link.call(
            lambda s: s.ledger.FindManifests,
            dsync.FindManifestsRequest(flow=flow, fingerprint=fingerprint),
            method="FindManifests",
            timeout_s=self._deadlines.data_s,
        )
        return list(map(flows.manifest_from_pb, answer.manifests))

    async def clear_namespace(self, context: WriteContext, namespace: str, units: Sequence[str]) -> None:
        await self._link.call(
            lambda s: s.ledger.ClearNamespace,
            dsync.ClearNamespaceRequest(context=messages.context_to_pb(context), namespace=namespace, units=units),
            method="ClearNamespace",
            timeout_s=self._deadlines.work_s,
        )

    async def forget_flow(self, flow: str) -> list[str]:
        answer = await self._link.call(
            lambda s: s.ledger.ForgetFlow,
            dsync.ForgetFlowRequest(flow=flow),
            method="ForgetFlow",
            timeout_s=self._deadlines.work_s,
        )
        return list(answer.removed)

    # ------------------------------------------------------ dsync.v1 PlanService

    async def open_plan(self, namespaces: Sequence[str], *, updates: bool = False, wait_s: float = 0.0) -> Plan:
        answer = await self._link.call(
            lambda s: s.plan.OpenPlan,
            dsync.OpenPlanRequest(namespaces=namespaces, updates=updates, wait_s=wait_s),
            method="OpenPlan",
            timeout_s=self._deadlines.work_s,
        )
        return flows.opened_plan_from_pb(answer)

    async def join_plan(
        self, namespaces: Sequence[str], stream: UpdatesPartition, *, wait_s: float = 0.0
    ) -> JoinedPlan:
        answer = await self._link.call(
            lambda s: s.plan.JoinPlan,
            dsync.JoinPlanRequest(namespaces=namespaces, stream=values.updates_partition_to_pb(stream), wait_s=wait_s),
            method="JoinPlan",
            timeout_s=self._deadlines.work_s,
        )
        return flows.joined_plan_from_pb(answer)

    async def resume_plan(
        self,
        snapshot: bytes,
        partitions: Sequence[CopiedPartition],
        updates_partitions: Sequence[UpdatesPartition] = (),
    ) -> ResumedPlan:
        answer = await self._link.call(
            lambda s: s.plan.ResumePlan,
            flows.resume_plan_to_pb(snapshot, partitions, updates_partitions),
            method="ResumePlan",
            timeout_s=self._deadlines.work_s,
        )
        return flows.resumed_plan_from_pb(answer)

    async def close_plan(self, flow: str) -> None:
        await self._link.call(
            lambda s: s.plan.ClosePlan,
            dsync.ClosePlanRequest(flow=flow),
            method="ClosePlan",
            timeout_s=self._deadlines.data_s,
        )

    # ---------------------------------------------------- dsync.v1 SchemaService

    async def describe(self, request: DescribeRequest) -> SchemaDescription:
        answer = await self._link.call(
            lambda s: s.schema.DescribeNamespaces,
            schema.describe_to_pb(request),
            method="DescribeNamespaces",
            timeout_s=self._deadlines.work_s,
        )
        return schema.description_from_pb(answer)

    async def get_finish_data(self, step: FinishStep) -> bytes:
        answer = await self._link.call(
            lambda s: s.schema.GetFinishData,
            dsync.GetFinishDataRequest(step=schema.step_to_pb(step)),
            method="GetFinishData",
            timeout_s=self._deadlines.work_s,
        )
        return answer.data

    async def prepare(self, request: PrepareRequest) -> Prepared:
        answer = await self._link.call(
            lambda s: s.schema.PrepareNamespaces,
            schema.prepare_to_pb(request),
            method="PrepareNamespaces",
            timeout_s=self._deadlines.work_s,
        )
        return schema.prepared_from_pb(answer)

    async def finish(self, context: WriteContext, step: FinishStep, source_data: bytes) -> None:
        await self._link.call(
            lambda s: s.schema.FinishNamespaces,
            dsync.FinishNamespacesRequest(
                context=messages.context_to_pb(context), step=schema.step_to_pb(step), source_data=source_data
            ),
            method="FinishNamespaces",
            timeout_s=self._deadlines.work_s,
        )

    # --------------------------------------------------- dsync.v1 CutoverService

    async def freeze(self, *, dry_run: bool, wait_s: float = 0.0) -> Frozen:
        answer = await self._link.call(
            lambda s: s.cutover.Freeze,
            dsync.FreezeRequest(dry_run=dry_run, wait_s=wait_s),
            method="Freeze",
            timeout_s=self._deadlines.work_s,
        )
        return cutover.frozen_from_pb(answer)

    async def thaw(self, token: bytes) -> None:
        await self._link.call(
            lambda s: s.cutover.Thaw, dsync.ThawRequest(token=token), method="Thaw", timeout_s=self._deadlines.data_s
        )

    async def describe_objects(self, namespaces: Sequence[str], *, whole_database: bool) -> list[SchemaObject]:
        answer = await self._link.call(
            lambda s: s.cutover.DescribeObjects,
            dsync.DescribeObjectsRequest(namespaces=namespaces, whole_database=whole_database),
            method="DescribeObjects",
            timeout_s=self._deadlines.work_s,
        )
        return cutover.objects_from_pb(answer)

    async def get_sequences(self, namespaces: Sequence[str], *, whole_database: bool) -> list[SequenceState]:
        answer = await self._link.call(
            lambda s: s.cutover.GetSequences,
            dsync.GetSequencesRequest(namespaces=namespaces, whole_database=whole_database),
            method="GetSequences",
            timeout_s=self._deadlines.work_s,
        )
        return cutover.sequences_from_pb(answer.sequences)

    async def set_sequences(self, sequences: Sequence[SequenceState]) -> list[str]:
        answer = await self._link.call(
            lambda s: s.cutover.SetSequences,
            dsync.SetSequencesRequest(sequences=cutover.sequences_to_pb(sequences)),
            method="SetSequences",
            timeout_s=self._deadlines.work_s,
        )
        return list(answer.missing)

    async def refresh_views(self, namespaces: Sequence[str], *, whole_database: bool) -> list[str]:
        answer = await self._link.call(
            lambda s: s.cutover.RefreshViews,
            dsync.RefreshViewsRequest(namespaces=namespaces, whole_database=whole_database),
            method="RefreshViews",
            timeout_s=self._deadlines.work_s,
        )
        return list(answer.refreshed)

    # -------------------------------------------------- dsync.v1 ChecksumService

    async def plan_ranges(self, namespace: str, key: Sequence[str], rows_per_range: int) -> list[KeyRange]:
        answer = await self._link.call(
            lambda s: s.checksum.PlanRanges,
            dsync.PlanRangesRequest(namespace=namespace, key=key, rows_per_range=rows_per_range),
            method="PlanRanges",
            timeout_s=self._deadlines.work_s,
        )
        return list(map(checksums.range_from_pb, answer.ranges))

    async def get_checksum(self, request: ChecksumRequest) -> list[Bucket]:
        answer = await self._link.call(
            lambda s: s.checksum.GetChecksum,
            checksums.checksum_request_to_pb(request),
            method="GetChecksum",
            timeout_s=self._deadlines.work_s,
        )
        return checksums.buckets_from_pb(answer)

    async def get_row_hashes(self, request: ChecksumRequest) -> AsyncIterator[list[RowHash]]:
        answers = self._link.stream(
            lambda s: s.checksum.GetRowHashes,
            checksums.checksum_request_to_pb(request),
            method="GetRowHashes",
        )
        async with aclosing(answers):
            async for answer in answers:
                yield checksums.row_hashes_from_pb(answer)

    async def get_rows(self, request: RowsRequest) -> list[TextRow]:
        answer = await self._link.call(
            lambda s: s.checksum.GetRows,
            checksums.rows_request_to_pb(request),
            method="GetRows",
            timeout_s=self._deadlines.work_s,
        )
        return checksums.rows_from_pb(answer)

    async def count_rows(self, namespace: str) -> int:
        answer = await self._link.call(
            lambda s: s.checksum.CountRows,
            dsync.CountRowsRequest(namespace=namespace),
            method="CountRows",
            timeout_s=self._deadlines.work_s,
        )
        return answer.count

    async def _known_extensions(self) -> Extensions:
        return self._extensions if self._extensions is not None else await self.get_extensions()

    async def _limit_bytes(self) -> int:
        declared = (await self._known_extensions()).max_message_bytes
        return min(declared or UNDECLARED_MESSAGE_BYTES, MAX_MESSAGE_BYTES)

    # ---------------------------------------------------- dsync.v1 ChangeService

    async def stream_changes(self, request: StreamChangesRequest) -> AsyncIterator[ChangeFrame]:
        answers = self._link.stream(
            lambda s: s.stream_changes,
            changes.stream_changes_to_pb(request),
            method="StreamChanges",
            metadata=_routing(request.header, request.value),
        )
        async with aclosing(answers):
            async for frame in answers:
                yield frame

    async def acknowledge(self, namespaces: Sequence[str], cursor: bytes) -> None:
        await self._link.call(
            lambda s: s.change.Acknowledge,
            changes.acknowledge_to_pb(namespaces, cursor),
            method="Acknowledge",
            timeout_s=self._deadlines.data_s,
        )

    async def complete_changes(self, frame: ChangeFrame) -> ChangeFrame:
        return await self._link.call(
            lambda s: s.complete_changes,
            frame,
            method="CompleteChanges",
            timeout_s=self._deadlines.data_s,
        )

    async def mark(self, namespaces: Sequence[str], content: bytes) -> int:
        answer = await self._link.call(
            lambda s: s.change.Mark,
            dsync.MarkRequest(namespaces=namespaces, content=content),
            method="Mark",
            timeout_s=self._deadlines.data_s,
        )
        return answer.position

    async def change_status(self, namespaces: Sequence[str]) -> ChangeStatus:
        answer = await self._link.call(
            lambda s: s.change.GetChangeStatus,
            dsync.GetChangeStatusRequest(namespaces=namespaces),
            method="GetChangeStatus",
            timeout_s=self._deadlines.data_s,
        )
        return changes.change_status_from_pb(answer)

    async def release_changes(self, flow: str) -> list[str]:
        answer = await self._link.call(
            lambda s: s.change.ReleaseChanges,
            dsync.ReleaseChangesRequest(flow=flow),
            method="ReleaseChanges",
            timeout_s=self._deadlines.work_s,
        )
        return list(answer.removed)

    async def write_changes(self, request: WriteChangesRequest) -> WrittenChanges:
        answer = await self._link.call(
            lambda s: s.write_changes,
            request,
            method="WriteChanges",
            timeout_s=self._deadlines.data_s,
        )
        return changes.written_from_pb(answer)


class RemoteTransform(Transform):
    """A transform reached by gRPC."""

    def __init__(self, target: Target, *, deadlines: Deadlines | None = None) -> None:
        self._link = Link(target)
        self._deadlines = deadlines or Deadlines()
        self._multiple: bool | None = None

    @property
    def target(self) -> Target:
        return self._link.target

    async def move(self, target: Target) -> None:
        """Go on with another process that serves the same transform; calls in flight end where they are."""
        old, self._link = self._link, Link(target)
        await old.close(grace_s=_OLD_LINK_GRACE_S)

    async def close(self) -> None:
        await self._link.close()

    async def get_transform_info(self) -> TransformCapabilities:
        answer = await self._link.call(
            lambda s: s.transform.GetTransformInfo,
            adiom.GetTransformInfoRequest(),
            method="GetTransformInfo",
            timeout_s=self._deadlines.contact_s,
        )
        self._multiple = answer.use_multiple_responses
        return transforms.transform_capabilities_from_pb(answer)

    async def transform(self, request: TransformRequest) -> TransformResponse:
        if self._multiple is None:
            await self.get_transform_info()
        answer = await self._link.call(
            lambda s: s.transform.GetTransform,
            transforms.transform_request_to_pb(request),
            method="GetTransform",
            timeout_s=self._deadlines.data_s,
        )
        return transforms.transform_response_from_pb(answer, multiple=bool(self._multiple))


def _batches(records: Sequence[bytes], limit_bytes: int) -> Iterator[Sequence[bytes]]:
    """The records in order, in messages below the limit; one record over it goes alone and is the peer's to judge.

    At least one batch: writing nothing must still reach a peer that would refuse it.
    """
    budget = limit_bytes - _ENVELOPE_BYTES
    if sum(map(len, records)) + len(records) * _RECORD_OVERHEAD_BYTES <= budget:
        yield records
        return
    start, size = 0, 0
    for index, record in enumerate(records):
        weight = len(record) + _RECORD_OVERHEAD_BYTES
        if index > start and size + weight > budget:
            yield records[start:index]
            start, size = index, 0
        size += weight
    yield records[start:]


def _routing(header: str, value: str) -> Metadata:
    """The metadata by which a load balancer in front of the source routes all calls for one partition."""
    if not header:
        return ()
    name = header.lower()
    if not _HEADER_NAME.match(name) or name.startswith("grpc-") or name.endswith("-bin"):
        raise PluginBugError(f"the source planned the partition header {header!r}, which is no name for metadata")
    if not _HEADER_VALUE.match(value):
        raise PluginBugError(f"the source planned a value for the header {header!r} that is not printable ASCII")
    return ((name, value),)


def _context_metadata(context: WriteContext | None) -> Metadata:
    """Which step of which flow a write belongs to, for sinks without a message for it; they may ignore it."""
    if context is None:
        return ()
    return (
        ("dsync-flow-bin", _short(context.flow)),
        ("dsync-run-bin", _short(context.run)),
        ("dsync-unit-bin", _short(context.unit)),
        ("dsync-fence-bin", context.fence.to_bytes(8, "big")),
        ("dsync-seq-bin", context.seq.to_bytes(8, "big")),
        # gRPC refuses metadata from 8 KiB on, and a cursor may be longer.
        ("dsync-cursor-hash-bin", xxhash.xxh3_128_digest(context.cursor)),
    )


def _short(name: str) -> bytes:
    data = name.encode()
    return data if len(data) <= _LONGEST_NAME_BYTES else xxhash.xxh3_128_digest(data)
