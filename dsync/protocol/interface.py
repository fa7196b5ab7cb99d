"""A plug-in as the coordinator sees it, in process or over gRPC.

`Connector` has every method of adiom.v1 and dsync.v1; each raises `UnsupportedError` until a subclass overrides it,
and what is overridden is what a plug-in is said to serve. `dsync.protocol.client.RemoteConnector` is the same class
spoken over a channel, so the coordinator does not know the difference.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import ClassVar

from dsync.protocol.errors import UnsupportedError
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


class Connector:
    """One end of a flow: a source, a sink, or both.

    Calls may run concurrently. Each raises `DsyncError`s; any other exception is a bug of the plug-in.
    """

    speaks_for_another: ClassVar[bool] = False
    """It hands its calls on: what it overrides says nothing about what is served."""

    async def close(self) -> None:
        """Let go of every connection. Repeatable."""

    # ------------------------------------------------------------ adiom.v1

    async def get_info(self) -> Info:
        """Who this is and what it can do. The first call to the server: fails within 10 s where it is down."""
        raise _unsupported(self, "GetInfo")

    async def count(self, namespace: str) -> int:
        """The number of records in a namespace, exact or estimated (GetNamespaceMetadata)."""
        raise _unsupported(self, "GetNamespaceMetadata")

    async def generate_plan(self, request: PlanRequest) -> Plan:
        """Fix a position, then cut the namespaces into partitions."""
        raise _unsupported(self, "GeneratePlan")

    async def list_data(self, request: ReadRequest) -> Page:
        """One page of a partition; the last rows come with an empty next_cursor."""
        raise _unsupported(self, "ListData")

    async def write_data(self, request: WriteRequest) -> None:
        """Make the page's records durable; applying one twice changes nothing."""
        raise _unsupported(self, "WriteData")

    async def write_updates(self, request: WriteUpdatesRequest) -> None:
        """Apply changes in order; durable on return, and applying them twice changes nothing."""
        raise _unsupported(self, "WriteUpdates")

    def stream_updates(self, request: StreamRequest) -> AsyncIterator[UpdateBatch]:
        """Changes after the cursor, for ever."""
        raise _unsupported(self, "StreamUpdates")

    def stream_lsn(self, request: StreamRequest) -> AsyncIterator[LsnPosition]:
        """The source's own position; ends at once where it has none."""
        raise _unsupported(self, "StreamLSN")

    async def get_by_ids(
        self, namespace: str, ids: Sequence[tuple[BsonValue, ...]], page_type: PageType
    ) -> list[bytes]:
        """Records by id, in the order asked; empty bytes where there is none."""
        raise _unsupported(self, "GetByIds")

    # ------------------------------------------------- dsync.v1 ExtensionService

    async def get_extensions(self) -> Extensions:
        """What of dsync.v1 this serves; nothing, for a plug-in that knows only adiom.v1."""
        return Extensions()

    async def open_session(self, request: SessionRequest) -> bytes:
        """Take note of the flow and its limits; returns the page probe's content (empty: cannot be read)."""
        raise _unsupported(self, "OpenSession")

    async def close_session(self) -> None:
        """Let go of what only the caller's session needs. Nothing to do for a plug-in that serves one coordinator."""

    async def check(self, request: CheckRequest) -> tuple[Finding, ...]:
        """What would stop the flow or lose data, and what a person should know."""
        raise _unsupported(self, "Check")

    # ------------------------------------------------------ dsync.v1 PageService

    async def read_page(self, request: ReadRequest) -> Page:
        """As list_data, in any page type of `Extensions.read_types`, packed or by reference."""
        raise _unsupported(self, "ReadPage")

    async def write_page(self, request: WriteRequest) -> int:
        """As write_data, with the ledger row of `request.context` in the same transaction where there is a ledger.

        Returns the number of rows written. Raises RecordError, after rolling back, where a row was refused.
        """
        raise _unsupported(self, "WritePage")

    # ---------------------------------------------------- dsync.v1 LedgerService

    async def open_units(self, flow: str, run: str, units: Sequence[UnitRef]) -> list[UnitState]:
        """Raise each unit's fence and say where it stands, in the order asked."""
        raise _unsupported(self, "OpenUnits")

    async def read_units(self, flow: str, run: str, units: Sequence[UnitRef]) -> list[UnitState]:
        """Say where each unit stands, in the order asked, and change nothing; fence 0: the ledger does not know it."""
        raise _unsupported(self, "ReadUnits")

    async def save_manifest(self, manifest: FlowManifest) -> None:
        raise _unsupported(self, "SaveManifest")

    async def find_manifests(self, *, flow: str = "", fingerprint: str = "") -> list[FlowManifest]:
        """Manifests that match every non-empty argument; all of them where both are empty."""
        raise _unsupported(self, "FindManifests")

    async def clear_namespace(self, context: WriteContext, namespace: str, units: Sequence[str]) -> None:
        """Remove this flow's rows from a namespace that it alone has filled, and reset those units."""
        raise _unsupported(self, "ClearNamespace")

    async def forget_flow(self, flow: str) -> list[str]:
        """Remove what the sink keeps for a flow (never its rows); says what was removed."""
        raise _unsupported(self, "ForgetFlow")

    # ------------------------------------------------------ dsync.v1 PlanService

    async def open_plan(self, namespaces: Sequence[str], *, updates: bool = False, wait_s: float = 0.0) -> Plan:
        """As generate_plan, for several namespaces and under one snapshot, which it names and holds.

        With `updates` the position from which changes are followed is fixed first, waiting so long for transactions
        that are open (0: as long as the source finds right). Repeatable: what was begun is found again.
        """
        raise _unsupported(self, "OpenPlan")

    async def join_plan(
        self, namespaces: Sequence[str], stream: UpdatesPartition, *, wait_s: float = 0.0
    ) -> JoinedPlan:
        """Namespaces that join a stream while it is followed, under a snapshot that fits a place in it. Repeatable.

        The snapshot of an earlier call, if it is still held, is let go.
        """
        raise _unsupported(self, "JoinPlan")

    async def resume_plan(
        self,
        snapshot: bytes,
        partitions: Sequence[CopiedPartition],
        updates_partitions: Sequence[UpdatesPartition] = (),
    ) -> ResumedPlan:
        """After a restart: is the snapshot still held, and if not, what may stay under a new one?

        What the updates partitions name is followed from them on, and only has to be read to its end.
        """
        raise _unsupported(self, "ResumePlan")

    async def close_plan(self, flow: str) -> None:
        """Every page was read: let go of the flow's snapshot; checksums and counts see the present. Repeatable."""
        raise _unsupported(self, "ClosePlan")

    # ---------------------------------------------------- dsync.v1 SchemaService

    async def describe(self, request: DescribeRequest) -> SchemaDescription:
        raise _unsupported(self, "DescribeNamespaces")

    async def get_finish_data(self, step: FinishStep) -> bytes:
        """What a finish step needs from the source, read as late as possible (sequence positions)."""
        raise _unsupported(self, "GetFinishData")

    async def prepare(self, request: PrepareRequest) -> Prepared:
        """Create what is missing and say how each namespace is to be loaded. Repeatable."""
        raise _unsupported(self, "PrepareNamespaces")

    async def finish(self, context: WriteContext, step: FinishStep, source_data: bytes) -> None:
        """Do one finish step; a step that is done is not done again."""
        raise _unsupported(self, "FinishNamespaces")

    # -------------------------------------------------- dsync.v1 ChecksumService

    async def plan_ranges(self, namespace: str, key: Sequence[str], rows_per_range: int) -> list[KeyRange]:
        """Cut a namespace into key ranges of about that many rows; one open range where the key cannot be cut."""
        raise _unsupported(self, "PlanRanges")

    async def get_checksum(self, request: ChecksumRequest) -> list[Bucket]:
        raise _unsupported(self, "GetChecksum")

    def get_row_hashes(self, request: ChecksumRequest) -> AsyncIterator[list[RowHash]]:
        """Key and hash of each row in the buckets asked for, in batches, in no order."""
        raise _unsupported(self, "GetRowHashes")

    async def get_rows(self, request: RowsRequest) -> list[TextRow]:
        """The rows with these keys, as text: the key's columns, then the request's; absent rows are left out."""
        raise _unsupported(self, "GetRows")

    async def count_rows(self, namespace: str) -> int:
        """Exact, under the copy's snapshot while that is held."""
        raise _unsupported(self, "CountRows")

    # ---------------------------------------------------- dsync.v1 ChangeService

    def stream_changes(self, request: StreamChangesRequest) -> AsyncIterator[ChangeFrame]:
        """Changes after the cursor in the source's order, for ever; a frame without changes where there are none."""
        raise _unsupported(self, "StreamChanges")

    async def acknowledge(self, namespaces: Sequence[str], cursor: bytes) -> None:
        """Everything up to this cursor of `stream_changes` is durable: the source may discard it. Repeatable."""
        raise _unsupported(self, "Acknowledge")

    async def complete_changes(self, frame: ChangeFrame) -> ChangeFrame:
        """The same changes in their order, each with all values that its record has by now, as an insert.

        Of a MOVE it is an update that still has the old key, or that record would stay behind. Where there is no such
        record any more, a delete of its old key. The answer's `position` is one at which they were so.
        """
        raise _unsupported(self, "CompleteChanges")

    async def mark(self, namespaces: Sequence[str], content: bytes) -> int:
        """Write a mark into the source's history, which `stream_changes` gives as the record of a MARK.

        Returns the source's position: every change that was committed before comes before the mark.
        """
        raise _unsupported(self, "Mark")

    async def change_status(self, namespaces: Sequence[str]) -> ChangeStatus:
        """What the source keeps for a stream."""
        raise _unsupported(self, "GetChangeStatus")

    async def release_changes(self, flow: str) -> list[str]:
        """Remove what the source keeps for a flow, never what others have made; says what was removed. Repeatable."""
        raise _unsupported(self, "ReleaseChanges")

    async def write_changes(self, request: WriteChangesRequest) -> WrittenChanges:
        """Apply changes with the ledger row of `request.context` in the same transaction; durable on return.

        Raises:
            LanesMeetError: after rolling back, where they meet other changes on a unique index or a foreign key.
            RecordError: after rolling back, where a change was refused.
        """
        raise _unsupported(self, "WriteChanges")

    # --------------------------------------------------- dsync.v1 CutoverService

    async def freeze(self, *, dry_run: bool, wait_s: float = 0.0) -> Frozen:
        """Let nobody write to a source any more who does not insist, and end the sessions from before. Repeatable.

        Transactions that are open may take `wait_s` to end. A dry run looks, and changes nothing; its token is the
        same, to be kept before anything is changed.
        """
        raise _unsupported(self, "Freeze")

    async def thaw(self, token: bytes) -> None:
        """Take `freeze` back. Repeatable."""
        raise _unsupported(self, "Thaw")

    async def describe_objects(self, namespaces: Sequence[str], *, whole_database: bool) -> list[SchemaObject]:
        """What of a schema can be compared with another: of these namespaces, or what belongs to none as well."""
        raise _unsupported(self, "DescribeObjects")

    async def get_sequences(self, namespaces: Sequence[str], *, whole_database: bool) -> list[SequenceState]:
        """Where the sequences of a source stand that belong to these namespaces, or to the whole database."""
        raise _unsupported(self, "GetSequences")

    async def set_sequences(self, sequences: Sequence[SequenceState]) -> list[str]:
        """Move a sink's sequences forward to there, never back; returns those that there are not. Repeatable."""
        raise _unsupported(self, "SetSequences")

    async def refresh_views(self, namespaces: Sequence[str], *, whole_database: bool) -> list[str]:
        """Compute anew what a sink stores of these namespaces elsewhere; returns what that was, in its order."""
        raise _unsupported(self, "RefreshViews")


class Transform:
    """Changes records on their way; a process of its own, as connectors are."""

    async def close(self) -> None:
        """Let go of everything. Repeatable."""

    async def get_transform_info(self) -> TransformCapabilities:
        raise _unsupported(self, "GetTransformInfo")

    async def transform(self, request: TransformRequest) -> TransformResponse:
        raise _unsupported(self, "GetTransform")


SERVICE_METHODS = {
    "PageService": ("read_page", "write_page"),
    "LedgerService": ("open_units", "read_units", "save_manifest", "find_manifests", "clear_namespace", "forget_flow"),
    "PlanService": ("open_plan", "join_plan", "resume_plan", "close_plan"),
    "SchemaService": ("describe", "get_finish_data", "prepare", "finish"),
    "ChangeService": (
        "stream_changes",
        "acknowledge",
        "complete_changes",
        "mark",
        "change_status",
        "release_changes",
        "write_changes",
    ),
    "CutoverService": ("freeze", "thaw", "describe_objects", "get_sequences", "set_sequences", "refresh_views"),
    "ChecksumService": ("plan_ranges", "get_checksum", "get_row_hashes", "get_rows", "count_rows"),
}
"""Which methods make up which dsync.v1 service; one overridden method means that the service is served."""


def services_of(connector: Connector) -> frozenset[str]:
    """The dsync.v1 services that this connector's class overrides methods of; none of one that speaks for another."""
    if connector.speaks_for_another:
        return frozenset()
    return frozenset(
        service
        for service, methods in SERVICE_METHODS.items()
        if any(getattr(type(connector), name) is not getattr(Connector, name) for name in methods)
    )


def _unsupported(plugin: object, method: str) -> UnsupportedError:
    return UnsupportedError(f"{type(plugin).__name__} does not serve {method}")
