"""The PostgreSQL connector: every method of the interface, handed on to the part that knows how.

The parts are `SourceSide` (snapshot, partitions, pages), `SinkSide` (ledger, writes, schema) and `Checksums`. Each
is made from the shared `Sessions` on first use, so that a sink never imports what only a source needs.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from dsync.sdk import Connector, PluginContext, types
from dsync_postgres.conninfo import Target
from dsync_postgres.identity import Identity, read_identity
from dsync_postgres.options import MIB, PostgresOptions
from dsync_postgres.sessions import Sessions

if TYPE_CHECKING:
    from dsync_postgres.checksums.checksums import Checksums
    from dsync_postgres.cutover.side import Cutover
    from dsync_postgres.sink.side import SinkSide
    from dsync_postgres.source.side import SourceSide
    from dsync_postgres.stream.complete import Completer
    from dsync_postgres.stream.serving import Streams

DIALECT = "postgres"
_MAX_MESSAGE_BYTES = 64 * MIB
_DOCUMENT_TYPES = (types.PageType.BSON, types.PageType.JSON)
_PAGE_TYPES = (types.PageType.PG_COPY_BINARY, types.PageType.PG_COPY_TEXT, *_DOCUMENT_TYPES)
_CHANGE_TYPES = (types.ChangeType.PG_OUTPUT,)


class PostgresConnector(Connector):
    """One PostgreSQL database, as source, as sink, or as both."""

    def __init__(self, uri: str, options: PostgresOptions, context: PluginContext) -> None:
        """Read the URI; nothing is contacted before the first call."""
        target = Target.of(uri, options.chosen)
        self._sessions = Sessions(target, options)
        self._context = context
        self._identity: Identity | None = None

    @cached_property
    def _source(self) -> SourceSide:
        from dsync_postgres.source.side import SourceSide

        return SourceSide(self._sessions, self._context)

    @cached_property
    def _streams(self) -> Streams:
        from dsync_postgres.stream.serving import Streams

        return Streams(self._sessions, self._context)

    @cached_property
    def _completer(self) -> Completer:
        from dsync_postgres.stream.complete import Completer

        return Completer(self._sessions)

    @cached_property
    def _sink(self) -> SinkSide:
        from dsync_postgres.sink.side import SinkSide

        return SinkSide(self._sessions, self._context)

    @cached_property
    def _cutover(self) -> Cutover:
        from dsync_postgres.cutover.side import Cutover

        return Cutover(self._sessions)

    @cached_property
    def _checksums(self) -> Checksums:
        from dsync_postgres.checksums.checksums import Checksums

        return Checksums(self._sessions)

    async def close(self) -> None:
        """Let go of every connection, and with them of the snapshot. Repeatable."""
        for part in ("_source", "_sink"):
            if part in self.__dict__:
                await self.__dict__[part].close()
        await self._sessions.close()

    # ------------------------------------------------------------- who this is

    async def get_info(self) -> types.Info:
        """Contact the server: who it is, and what can be done with it."""
        identity = await self._sessions.run("asking the server who it is", read_identity)
        return types.Info(
            id=identity.id,
            db_type="postgres",
            version=identity.version_text,
            spec=identity.spec,
            source=types.SourceCapabilities(data_types=_DOCUMENT_TYPES, multi_namespace_plan=True, default_plan=True),
            sink=types.SinkCapabilities(data_types=_DOCUMENT_TYPES),
        )

    async def get_extensions(self) -> types.Extensions:
        """Everything of dsync.v1; nothing is contacted."""
        return types.Extensions(
            read_types=_PAGE_TYPES,
            write_types=_PAGE_TYPES,
            max_message_bytes=_MAX_MESSAGE_BYTES,
            page_refs=True,
            insert_only=True,
            stream_types=_CHANGE_TYPES,
            change_types=_CHANGE_TYPES,
            transactional=True,
            checksum_dialect=DIALECT,
            schema_dialect=DIALECT,
            row_filters=True,
        )

    async def open_session(self, request: types.SessionRequest) -> bytes:
        """Take note of the flow; ends what an earlier life of it still runs, where asked.

        Raises:
            RequestError: a row filter is not one condition on a table's own columns.
        """
        if request.row_filters:
            # The parser takes longer to load than everything else.
            from dsync_postgres.source.filters import read_filter

            for namespace, condition in request.row_filters.items():
                read_filter(namespace, condition)
        probe = self._sessions.configure(request)
        if request.end_orphans:
            await self._sessions.end_orphans()
        return probe

    async def check(self, request: types.CheckRequest) -> tuple[types.Finding, ...]:
        """What would stop the flow or lose data at this end."""
        if request.role is types.Role.SINK:
            return await self._sink.check(request)
        return await self._source.check(request)

    # ------------------------------------------------------------------ source

    async def count(self, namespace: str) -> int:
        return await self._source.count(namespace)

    async def count_rows(self, namespace: str) -> int:
        return await self._source.count_rows(namespace)

    async def generate_plan(self, request: types.PlanRequest) -> types.Plan:
        return await self._source.generate_plan(request)

    async def open_plan(self, namespaces: Sequence[str], *, updates: bool = False, wait_s: float = 0.0) -> types.Plan:
        return await self._source.open_plan(namespaces, updates=updates, wait_s=wait_s)

    async def join_plan(
        self, namespaces: Sequence[str], stream: types.UpdatesPartition, *, wait_s: float = 0.0
    ) -> types.JoinedPlan:
        return await self._source.join_plan(namespaces, stream, wait_s=wait_s)

    async def resume_plan(
        self,
        snapshot: bytes,
        partitions: Sequence[types.CopiedPartition],
        updates_partitions: Sequence[types.UpdatesPartition] = (),
    ) -> types.ResumedPlan:
        return await self._source.resume_plan(snapshot, partitions, updates_partitions)

    async def close_plan(self, flow: str) -> None:
        await self._source.close_plan(flow)

    def stream_changes(self, request: types.StreamChangesRequest) -> AsyncIterator[types.ChangeFrame]:
        return self._streams.stream(request)

    async def acknowledge(self, namespaces: Sequence[str], cursor: bytes) -> None:
        await self._streams.acknowledge(namespaces, cursor)

    async def complete_changes(self, frame: types.ChangeFrame) -> types.ChangeFrame:
        return await self._completer.complete(frame)

    async def mark(self, namespaces: Sequence[str], content: bytes) -> int:
        return await self._streams.mark(content)

    async def change_status(self, namespaces: Sequence[str]) -> types.ChangeStatus:
        return await self._streams.status(namespaces)

    async def release_changes(self, flow: str) -> list[str]:
        return await self._streams.release(flow)

    async def list_data(self, request: types.ReadRequest) -> types.Page:
        return await self._source.list_data(request)

    async def read_page(self, request: types.ReadRequest) -> types.Page:
        return await self._source.read_page(request)

    async def describe(self, request: types.DescribeRequest) -> types.SchemaDescription:
        return await self._source.describe(request)

    async def get_finish_data(self, step: types.FinishStep) -> bytes:
        return await self._source.get_finish_data(step)

    # -------------------------------------------------------------------- sink

    async def write_data(self, request: types.WriteRequest) -> None:
        await self._sink.write_data(request)

    async def write_page(self, request: types.WriteRequest) -> int:
        return await self._sink.write_page(request)

    async def write_changes(self, request: types.WriteChangesRequest) -> types.WrittenChanges:
        return await self._sink.write_changes(request)

    async def open_units(self, flow: str, run: str, units: Sequence[types.UnitRef]) -> list[types.UnitState]:
        return await self._sink.open_units(flow, run, units)

    async def read_units(self, flow: str, run: str, units: Sequence[types.UnitRef]) -> list[types.UnitState]:
        return await self._sink.read_units(flow, run, units)

    async def save_manifest(self, manifest: types.FlowManifest) -> None:
        await self._sink.save_manifest(manifest)

    async def find_manifests(self, *, flow: str = "", fingerprint: str = "") -> list[types.FlowManifest]:
        return await self._sink.find_manifests(flow=flow, fingerprint=fingerprint)

    async def clear_namespace(self, context: types.WriteContext, namespace: str, units: Sequence[str]) -> None:
        await self._sink.clear_namespace(context, namespace, units)

    async def forget_flow(self, flow: str) -> list[str]:
        return await self._sink.forget_flow(flow)

    async def prepare(self, request: types.PrepareRequest) -> types.Prepared:
        return await self._sink.prepare(request)

    async def finish(self, context: types.WriteContext, step: types.FinishStep, source_data: bytes) -> None:
        await self._sink.finish(context, step, source_data)

    # ---------------------------------------------------------------- cut-over

    async def freeze(self, *, dry_run: bool, wait_s: float = 0.0) -> types.Frozen:
        return await self._cutover.freeze(dry_run=dry_run, wait_s=wait_s)

    async def thaw(self, token: bytes) -> None:
        await self._cutover.thaw(token)

    async def describe_objects(self, namespaces: Sequence[str], *, whole_database: bool) -> list[types.SchemaObject]:
        return await self._cutover.describe_objects(namespaces, whole_database=whole_database)

    async def get_sequences(self, namespaces: Sequence[str], *, whole_database: bool) -> list[types.SequenceState]:
        return await self._cutover.get_sequences(namespaces, whole_database=whole_database)

    async def set_sequences(self, sequences: Sequence[types.SequenceState]) -> list[str]:
        return await self._cutover.set_sequences(sequences)

    async def refresh_views(self, namespaces: Sequence[str], *, whole_database: bool) -> list[str]:
        return await self._cutover.refresh_views(namespaces, whole_database=whole_database)

    # --------------------------------------------------------------- checksums

    async def plan_ranges(self, namespace: str, key: Sequence[str], rows_per_range: int) -> list[types.KeyRange]:
        return await self._checksums.plan_ranges(namespace, key, rows_per_range)

    async def get_checksum(self, request: types.ChecksumRequest) -> list[types.Bucket]:
        return await self._checksums.get_checksum(request)

    def get_row_hashes(self, request: types.ChecksumRequest) -> AsyncIterator[list[types.RowHash]]:
        return self._checksums.get_row_hashes(request)

    async def get_rows(self, request: types.RowsRequest) -> list[types.TextRow]:
        return await self._checksums.get_rows(request)
