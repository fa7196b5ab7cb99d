"""The sink half of the connector: ledger, pages, schema.

Every write is one transaction with its ledger row, so a repeat is a write once and a coordinator that was replaced
writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, TypeVar

from dsync.sdk import PluginContext, errors, types
from dsync_postgres import large_objects as large
from dsync_postgres.documents import Decoder, LineDecoder, RowDecoder, read_own_types
from dsync_postgres.schema.names import TableName
from dsync_postgres.sessions import Connection, Sessions
from dsync_postgres.sink import aside, claims, large_objects, ledger, manifests, writer
from dsync_postgres.sink.check import check_sink
from dsync_postgres.sink.destinations import Destinations
from dsync_postgres.sink.finish import finish
from dsync_postgres.sink.ledger import Guard
from dsync_postgres.sink.prepare import prepare
from dsync_postgres.sink.remembered import blank_shapes
from dsync_postgres.sink.staging import Stages, has_key, unsettable
from dsync_postgres.sink.targets import TargetTable

if TYPE_CHECKING:
    from dsync_postgres.sink.apply.side import ApplySide

T = TypeVar("T")


class SinkSide:
    """One database as a sink; made from the connector's sessions on first use."""

    def __init__(self, sessions: Sessions, context: PluginContext) -> None:
        self._sessions = sessions
        self._context = context
        self._stages = Stages()
        self._destinations = Destinations()
        self._decoders: dict[tuple[int, tuple[str, ...], types.PageType], Decoder] = {}

    async def close(self) -> None:
        """Close the sessions that changes are applied in. Repeatable."""
        if "_changes" in self.__dict__:
            await self._changes.close()

    @cached_property
    def _changes(self) -> ApplySide:
        # A copy needs none of it, and every command waits for the imports.
        from dsync_postgres.sink.apply.side import ApplySide

        return ApplySide(self._sessions, self._destinations)

    def _forget_shapes(self) -> None:
        """A table may have been made anew, or altered."""
        if "_changes" in self.__dict__:
            self._changes.forget()

    # ------------------------------------------------------------------ ledger

    async def open_units(self, flow: str, run: str, units: Sequence[types.UnitRef]) -> list[types.UnitState]:
        """Raise each unit's fence and say where it stands, in the order asked; one round trip."""
        # A table may have been made anew since the last life of these units.
        self._destinations.forget()
        self._forget_shapes()
        self._destinations.expect(ref.namespace for ref in units)
        return await self._with_ledger("opening units", partial(ledger.open_units, flow=flow, run=run, units=units))

    async def read_units(self, flow: str, run: str, units: Sequence[types.UnitRef]) -> list[types.UnitState]:
        """Say where each unit stands, in the order asked; looks without changing anything."""
        return await self._sessions.run(
            "reading the ledger", partial(ledger.read_units, flow=flow, run=run, units=units)
        )

    async def save_manifest(self, manifest: types.FlowManifest) -> None:
        """Remember a flow, so that lost state can be rebuilt. Repeatable."""
        await self._with_ledger("saving the flow's manifest", partial(manifests.save_manifest, manifest=manifest))

    async def find_manifests(self, *, flow: str = "", fingerprint: str = "") -> list[types.FlowManifest]:
        """The flows that this database remembers; looks without creating anything."""
        return await self._sessions.run(
            "looking for the flow's manifest",
            partial(manifests.find_manifests, flow=flow, fingerprint=fingerprint),
        )

    async def clear_namespace(self, context: types.WriteContext, namespace: str, units: Sequence[str]) -> None:
        """Remove the flow's rows from a table that it alone has filled, and reset those units.

        Raises:
            SinkNotEmptyError: it holds rows that are not the flow's; nothing was removed.
        """
        name = TableName.parse(namespace)
        self._destinations.forget(namespace)

        def work(connection: Connection) -> None:
            if name == large.NAME:
                large_objects.clear(connection, context, units)
                return
            as_replica = self._destinations.can_be_replica(connection)
            claims.clear(connection, context, name, units, as_replica=as_replica)
            blank_shapes(connection, context.flow, namespace)

        await self._with_ledger(f"clearing {namespace}", work)

    async def forget_flow(self, flow: str) -> list[str]:
        """Remove every trace of a flow but its rows, put back what it has set aside, and say what was done."""

        def work(connection: Connection) -> list[str]:
            if not ledger.examine(connection).complete:
                return []
            ledger.check_format(connection)
            with connection.transaction():
                said = [
                    line
                    for one in aside.pending(connection, flow)
                    for line in aside.put_back(connection, flow, one.step_id, unchecked=True)
                ]
                return said + manifests.forget(connection, flow)

        return await self._sessions.run(f"removing what the sink keeps for flow {flow}", work)

    # ------------------------------------------------------------------ schema

    async def check(self, request: types.CheckRequest) -> tuple[types.Finding, ...]:
        """What would stop a flow into this database, and what a person should know."""
        return await check_sink(self._sessions)

    async def prepare(self, request: types.PrepareRequest) -> types.Prepared:
        """Create what is missing and say how each namespace is to be loaded. Repeatable."""
        self._destinations.forget()
        self._forget_shapes()
        work = partial(
            prepare,
            request=request,
            options=self._sessions.options,
            source_sessions=self._sessions.prefix_of(types.Role.SOURCE),
        )
        return await self._sessions.run("preparing the sink", work)

    async def finish(self, context: types.WriteContext, step: types.FinishStep, source_data: bytes) -> None:
        """Do one finish step; a step that is done is not done again."""
        work = partial(
            finish,
            context=context,
            step=step,
            source_data=source_data,
            maintenance_work_mem=self._sessions.options.maintenance_work_mem,
        )
        await self._sessions.run(f"finishing {step.name}", work)
        self._destinations.forget_key(step.namespace)
        self._forget_shapes()

    # ------------------------------------------------------------------- pages

    async def write_data(self, request: types.WriteRequest) -> None:
        """As write_page, for a coordinator that knows adiom.v1 alone."""
        await self.write_page(request)

    async def write_page(self, request: types.WriteRequest) -> int:
        """Write a page and its ledger row in one transaction; returns the number of rows.

        Raises:
            RecordError: a row was refused, and nothing of the page is there.
            FencedError: another coordinator has the unit.
            NamespaceChangedError: the table was dropped or altered.
        """
        write = self._write_large_objects if request.namespace == large.NAMESPACE else self._write
        try:
            return await self._sessions.run(f"writing {request.namespace}", partial(write, request))
        except errors.NamespaceChangedError:
            self._destinations.forget(request.namespace)
            self._decoders.clear()
            raise

    async def write_changes(self, request: types.WriteChangesRequest) -> types.WrittenChanges:
        """Apply changes with the lane's ledger row in one transaction; durable on return.

        Raises:
            LanesMeetError, RecordError, FencedError, NamespaceChangedError: nothing of the frame is there.
        """
        return await self._changes.write_changes(request)

    def _write(self, request: types.WriteRequest, connection: Connection) -> int:
        table = self._destinations.table(connection, request.namespace)
        context = request.context
        by_key = request.upsert and not request.insert_only
        columns = request.columns or table.written
        if by_key and not has_key(table, columns):
            # It may have been made since we looked, by another process too.
            self._destinations.forget(request.namespace)
            table = self._destinations.table(connection, request.namespace)
        with self._sessions.pages.body(request.page) as body:
            page_type, rows = request.page.type, request.page.rows
            text_columns: frozenset[str] = frozenset()
            if page_type in (types.PageType.BSON, types.PageType.JSON):
                decoder = self._decoder(connection, table, columns, page_type)
                body, rows = _decode(decoder, table, body)
                page_type, text_columns = types.PageType.PG_COPY_BINARY, decoder.text_columns
            load = writer.Load(
                table=table,
                columns=columns,
                page_type=page_type,
                rows=rows,
                body=body,
                text_columns=text_columns,
                guard=None if context is None else Guard(context=context, unlogged=table.unlogged),
                # Into a table in use a row goes as anybody's INSERT does: what fires, fires.
                as_replica=not request.insert_only and self._as_replica(connection, table, request, columns),
            )
            if by_key:
                return writer.upsert(connection, load, self._stages)
            return writer.insert(connection, load, self._stages)

    def _as_replica(
        self, connection: Connection, table: TargetTable, request: types.WriteRequest, columns: tuple[str, ...]
    ) -> bool:
        if self._destinations.as_replica(connection, table, request.context):
            return True
        # Where a row is replaced by deleting it, what refers to it must not go with it.
        replaces = request.upsert and bool(unsettable(table, columns)) and table.is_referenced
        return replaces and self._destinations.can_be_replica(connection)

    def _write_large_objects(self, request: types.WriteRequest, connection: Connection) -> int:
        if request.insert_only:
            raise errors.UnsupportedError(f"writing {large.NAMESPACE}: an object's pieces come together or not at all")
        columns = request.columns or large.CONTENT
        with self._sessions.pages.body(request.page) as body:
            page_type, rows = request.page.type, request.page.rows
            if page_type in (types.PageType.BSON, types.PageType.JSON):
                make = RowDecoder if page_type is types.PageType.BSON else LineDecoder
                body, rows = make(large.columns(columns)).decode(body)
                page_type = types.PageType.PG_COPY_BINARY
            is_binary = page_type is types.PageType.PG_COPY_BINARY
            return large_objects.write(connection, request, columns, body, is_binary=is_binary, rows=rows)

    def _decoder(
        self, connection: Connection, table: TargetTable, columns: tuple[str, ...], page_type: types.PageType
    ) -> Decoder:
        """What turns documents into rows of these columns of the table."""
        key = (table.oid, columns, page_type)
        if key not in self._decoders:
            make = RowDecoder if page_type is types.PageType.BSON else LineDecoder
            self._decoders[key] = make(_document_columns(table, columns), read_own_types(connection))
        return self._decoders[key]

    async def _with_ledger(self, operation: str, work: Callable[[Connection], T]) -> T:
        """Run `work` where the ledger exists, creating it on first use."""

        def prepared(connection: Connection) -> T:
            ledger.install(connection)
            return work(connection)

        return await self._sessions.run(operation, prepared)


def _decode(decoder: Decoder, table: TargetTable, documents: types.Buffer) -> tuple[types.Buffer, int]:
    """Documents as a COPY stream."""
    try:
        return decoder.decode(documents)
    except errors.RecordError as exc:
        raise errors.RecordError(f"writing {table.name}: {exc}") from exc


def _document_columns(table: TargetTable, columns: tuple[str, ...]) -> list[types.Column]:
    """The columns as the document mapping wants to know them.

    Raises:
        NamespaceChangedError: the table has no such column.
    """
    found = []
    for name in columns:
        column = table.column(name)
        if column is None:
            raise errors.NamespaceChangedError(f"writing {table.name}: the sink's table has no column {name}")
        position = table.key.index(name) + 1 if name in table.key else 0
        found.append(types.Column(name=name, type=column.type, key_position=position))
    return found
