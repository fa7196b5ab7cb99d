"""The source half of the connector: snapshot, partitions, pages, description.

What is held lives in this process: the snapshot of one plan a flow, and the tables as it sees them. Partitions and
cursors say the rest, so that any process can go on with them once `resume_plan` has judged them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

from dsync.sdk import PluginContext, errors, types
from dsync_postgres import large_objects as large
from dsync_postgres.definition import encode_positions
from dsync_postgres.documents import (
    Encoder,
    LineEncoder,
    RowEncoder,
    TypeBook,
    read_own_types,
    split_documents,
    split_lines,
)
from dsync_postgres.identity import Identity, read_identity
from dsync_postgres.schema import read_positions
from dsync_postgres.schema.names import TableName
from dsync_postgres.schema.relation import find_relation
from dsync_postgres.schema.steps import BuildStep
from dsync_postgres.sessions import Connection, Sessions, begin_reading, snapshot_lost
from dsync_postgres.source import large_objects
from dsync_postgres.source.check import check_source
from dsync_postgres.source.cursors import PageCursor, PartitionCursor
from dsync_postgres.source.description import DIALECT, Describer
from dsync_postgres.source.followed import open_followed_plan
from dsync_postgres.source.joining import join_stream
from dsync_postgres.source.openplan import OpenPlan, look, open_plan, tables_of
from dsync_postgres.source.overlap import Overlap
from dsync_postgres.source.pages import CopiedPage, PageRead, RewrittenError, changed
from dsync_postgres.source.planned import PlannedTable
from dsync_postgres.source.reader import Limits, TableReader
from dsync_postgres.source.resume import Judge, require_same_endpoint
from dsync_postgres.source.snapshots import Holder, Snapshot

_COPY_TYPES = (types.PageType.PG_COPY_BINARY, types.PageType.PG_COPY_TEXT)
_DOCUMENT_TYPES = (types.PageType.BSON, types.PageType.JSON)
_ENVELOPE_BYTES = 64 * 1024
"""What a message holds beside the page's body, generously."""
_NO_CHANGES = "planning: this release does not tell PostgreSQL's changes by adiom.v1; follow them by dsync.v1"
# Rows become larger as documents: field names, and numbers at their full width.
_DOCUMENT_RATIO = 2


class SourceSide:
    """One database as a source; made from the connector's sessions on first use."""

    def __init__(self, sessions: Sessions, context: PluginContext) -> None:
        self._sessions = sessions
        self._describer = Describer(sessions)
        self._plans: dict[str, OpenPlan] = {}
        self._described: dict[str, Holder] = {}
        self._planning = asyncio.Lock()

    async def close(self) -> None:
        """Let go of the snapshots. Repeatable."""
        plans, self._plans = self._plans, {}
        described, self._described = self._described, {}
        for holder in [*(plan.holder for plan in plans.values()), *described.values()]:
            await holder.close()

    # --------------------------------------------------------------------- plan

    async def generate_plan(self, request: types.PlanRequest) -> types.Plan:
        """As open_plan, of every table where none is named.

        Raises:
            UnsupportedError: changes were asked for, which are told by dsync.v1 only.
        """
        if request.updates:
            raise errors.UnsupportedError(_NO_CHANGES)
        return await self.open_plan(request.namespaces or await self._describer.copied_namespaces())

    async def open_plan(self, namespaces: Sequence[str], *, updates: bool = False, wait_s: float = 0.0) -> types.Plan:
        """Take a snapshot, hold it and cut the tables into ranges of blocks.

        The flow's snapshot before, if there is one, is let go. With `updates` the snapshot is that of the slot by
        which changes are followed, waiting so long (0: 60 s) for open transactions; see `open_followed_plan`.

        Raises:
            ConflictError: the snapshot that the schema was described under is lost; describe it again.
        """
        names = [TableName.parse(namespace) for namespace in namespaces]
        async with self._planning:
            described = await self._take_described()
            if not updates:
                plan = await open_plan(self._sessions, tables_of(names), described)
                await self._install(plan)
                partitions = await plan.partitions(names, self._sessions)
                return types.Plan(partitions=partitions, snapshot=plan.snapshot.encode())
            followed = await open_followed_plan(self._sessions, tables_of(names), described, wait_s=wait_s)
            await self._install(followed.plan)
            return types.Plan(
                partitions=await followed.plan.partitions(names, self._sessions),
                updates_partitions=(
                    types.UpdatesPartition(
                        namespaces=tuple(name.namespace for name in followed.tables),
                        cursor=followed.position.encode(),
                    ),
                ),
                snapshot=followed.plan.snapshot.encode(),
                overlaps=followed.overlaps,
                position=followed.position.end_lsn,
            )

    async def _take_described(self) -> Holder | None:
        """The snapshot that the schema was read under, for whoever goes on with it."""
        described = self._described.pop(self._flow, None)
        if described is not None and not described.is_held:
            await described.close()
            # What was described may have been altered since, and nothing would tell.
            raise errors.ConflictError(
                "planning the copy: the session that held the moment at which the schema was read has ended; it is "
                "read again"
            )
        return described

    async def join_plan(
        self, namespaces: Sequence[str], stream: types.UpdatesPartition, *, wait_s: float = 0.0
    ) -> types.JoinedPlan:
        """Tables that join a stream while it is followed, under the snapshot of a temporary slot; see `join_stream`.

        Raises:
            ConflictError: the snapshot that the schema was described under is lost; describe it again.
        """
        names = [TableName.parse(namespace) for namespace in namespaces]
        joined = replace(stream, namespaces=tuple(dict.fromkeys((*stream.namespaces, *namespaces))))
        async with self._planning:
            described = await self._take_described()
            followed = frozenset(map(TableName.parse, stream.namespaces))
            plan = await join_stream(self._sessions, tables_of(names), followed, described, wait_s=wait_s)
            if plan is None:
                return types.JoinedPlan(stream=joined)
            # Checksums go on seeing the present: what is followed beside it moves on.
            await self._install(plan, is_shown=False)
            return types.JoinedPlan(
                stream=joined,
                partitions=await plan.partitions(names, self._sessions),
                snapshot=plan.snapshot.encode(),
                seen_through=plan.seen_through,
            )

    async def resume_plan(
        self,
        snapshot: bytes,
        partitions: Sequence[types.CopiedPartition],
        updates_partitions: Sequence[types.UpdatesPartition] = (),
    ) -> types.ResumedPlan:
        """Say what may stay of what was copied: everything while the snapshot is held, else what has not changed.

        What is followed stays in any case, but a table without key, which is read from its start; see `Overlap`.

        Raises:
            OtherEndpointError: this is another database than the one the snapshot was taken of.
            CursorExpiredError: it cannot be followed any more.
            VisibilityError: transactions from before the stream's position do not end.
        """
        old = Snapshot.decode(snapshot)
        async with self._planning:
            plan = self._plans.get(self._flow)
            if plan is not None and plan.holder.is_held and plan.snapshot.name == old.name:
                return types.ResumedPlan(snapshot=snapshot)
            identity = await self._sessions.run("asking the server who it is", read_identity)
            require_same_endpoint(old, identity)
            if updates_partitions:
                return await self._resume_beside(old, identity, partitions, updates_partitions)
            names = tables_of(
                TableName.parse(name) for name in dict.fromkeys(p.partition.namespace for p in partitions)
            )
            # A later plan of this flow is open already when a new run asks what it may keep of the run before.
            if plan is None or not plan.holder.is_held:
                plan = await self._begin_again(old, names)
            else:
                known = await look(
                    self._sessions, plan.snapshot.name, [name for name in names if name not in plan.tables]
                )
                plan.add(known)
            plan.lineages.add(old.lineage)
            judge = Judge(sessions=self._sessions, old=old, new=plan, identity=identity)
            return types.ResumedPlan(snapshot=plan.snapshot.encode(), verdicts=await judge.judge(partitions))

    async def _resume_beside(
        self,
        old: Snapshot,
        identity: Identity,
        partitions: Sequence[types.CopiedPartition],
        updates_partitions: Sequence[types.UpdatesPartition],
    ) -> types.ResumedPlan:
        overlap = await Overlap.of(self._sessions, identity, old, partitions, updates_partitions)
        plan = self._plans.get(self._flow)
        if plan is None or not plan.holder.is_held or not overlap.may_go_on_with(plan):
            plan = await overlap.open()
            await self._install(plan)
        names = [name for name in tables_of(overlap.pieces) if name not in plan.tables]
        plan.add(await look(self._sessions, plan.snapshot.name, names))
        plan.lineages.add(old.lineage)
        return types.ResumedPlan(snapshot=plan.snapshot.encode(), verdicts=await overlap.judge(plan))

    async def close_plan(self, flow: str) -> None:
        """Let go of the flow's snapshot: what is asked for from now on is of the present. Repeatable."""
        async with self._planning:
            for held in (self._plans.pop(flow, None), self._described.pop(flow, None)):
                holder = held.holder if isinstance(held, OpenPlan) else held
                if holder is not None:
                    await holder.close()
            self._sessions.snapshot_name = ""

    async def _begin_again(self, old: Snapshot, names: list[TableName]) -> OpenPlan:
        identity = await self._sessions.run("asking the server who it is", read_identity)
        holder = await Holder.open(self._sessions, identity, old.lineage)
        try:
            tables = await look(self._sessions, holder.snapshot.name, names)
        except BaseException:
            await asyncio.shield(holder.close())
            raise
        plan = OpenPlan(holder=holder, tables=tables, lineages={old.lineage})
        await self._install(plan)
        return plan

    async def _install(self, plan: OpenPlan, *, is_shown: bool = True) -> None:
        before = self._plans.get(self._flow)
        self._plans[self._flow] = plan
        # Checksums and counts see what the copy sees.
        self._sessions.snapshot_name = plan.snapshot.name if is_shown else ""
        if before is not None:
            await before.holder.close()

    @property
    def _flow(self) -> str:
        return self._sessions.request.flow

    # -------------------------------------------------------------------- pages

    async def list_data(self, request: types.ReadRequest) -> types.Page:
        """As read_page, in documents one by one, for a coordinator that knows adiom.v1 alone."""
        if request.type not in _DOCUMENT_TYPES:
            raise errors.UnsupportedError(
                f"reading {request.partition.namespace}: single records come as BSON or JSON only"
            )
        split = split_documents if request.type is types.PageType.BSON else split_lines
        return await self._read(
            request,
            lambda copied: types.Page(
                type=request.type,
                rows=copied.rows,
                next_cursor=copied.next_cursor,
                records=split(copied.body),
            ),
        )

    async def read_page(self, request: types.ReadRequest) -> types.Page:
        """One page of a partition; the same for the same cursor.

        Raises:
            SnapshotLostError: the snapshot is not held any more, or not by this process.
            NamespaceChangedError: the table is not the one that was planned any more.
            CapacityError: a row is over the message limit.
        """
        return await self._read(
            request,
            lambda copied: self._sessions.pages.page(
                request.type,
                copied.body,
                rows=copied.rows,
                next_cursor=copied.next_cursor,
                by_reference=request.by_reference,
            ),
        )

    async def _read(self, request: types.ReadRequest, make: Callable[[CopiedPage], types.Page]) -> types.Page:
        if request.partition.namespace == large.NAMESPACE:
            return await self._read_large_objects(request, make)
        partition = PartitionCursor.decode(request.partition.cursor)
        plan = self._plan_of(partition.lineage)
        table = _table_of(plan, partition, request.partition.namespace)
        try:
            return await self._read_rows(plan, table, partition, request, make)
        except RewrittenError:
            if table.name in plan.followed and await self._is_only_rewritten(table):
                # A later snapshot finds its rows, and the stream tells what lies between.
                await plan.holder.close()
                raise snapshot_lost() from None
            raise

    async def _is_only_rewritten(self, table: PlannedTable) -> bool:
        now = (await look(self._sessions, "", [table.name])).get(table.name)
        return now is not None and (now.oid, now.fingerprint) == (table.oid, table.fingerprint)

    async def _read_rows(
        self,
        plan: OpenPlan,
        table: PlannedTable,
        partition: PartitionCursor,
        request: types.ReadRequest,
        make: Callable[[CopiedPage], types.Page],
    ) -> types.Page:
        """Read the rows and make the page of them in one thread: every change of threads costs a page its time."""
        cursor = PageCursor.decode(request.cursor, partition)
        operation = f"reading {table.name}"
        if request.type in _COPY_TYPES:
            is_binary = request.type is types.PageType.PG_COPY_BINARY
            reader = self._reader(plan, table, request.columns, is_binary=is_binary)
            limits = self._limits(request)

            def work(connection: Connection) -> types.Page:
                return make(PageRead(connection, reader, partition, plan.snapshot.name, limits).read(cursor))

            return await self._sessions.run(operation, work)
        if request.type not in _DOCUMENT_TYPES:
            raise errors.UnsupportedError(
                f"{operation}: pages come as PG_COPY, BSON or JSON, not as {request.type.name}"
            )
        encoder = await self._encoder(plan, table, request.columns, request.type)
        reader = self._reader(
            plan,
            table,
            request.columns,
            is_binary=True,
            with_place=encoder.needs_ctid,
            as_text=encoder.text_columns,
        )
        return await self._sessions.run(
            operation, lambda connection: make(self._documents(connection, plan, reader, encoder, request))
        )

    async def _read_large_objects(
        self, request: types.ReadRequest, make: Callable[[CopiedPage], types.Page]
    ) -> types.Page:
        plan = self._plan_of(large_objects.ObjectRange.decode(request.partition.cursor).lineage)
        limits, encoder = self._limits(request), None
        if request.type in _DOCUMENT_TYPES:
            described = large.columns(request.columns or large.CONTENT)
            encoder = (RowEncoder if request.type is types.PageType.BSON else LineEncoder)(described)
            limits = Limits(
                page_bytes=limits.page_bytes // _DOCUMENT_RATIO, max_bytes=limits.max_bytes // _DOCUMENT_RATIO
            )
        elif request.type not in _COPY_TYPES:
            raise errors.UnsupportedError(
                f"reading {large.NAMESPACE}: pages come as PG_COPY, BSON or JSON, not as {request.type.name}"
            )

        def work(connection: Connection) -> types.Page:
            is_binary = request.type is not types.PageType.PG_COPY_TEXT
            copied = large_objects.read_page(connection, plan.snapshot.name, request, limits, is_binary=is_binary)
            if encoder is not None:
                body, rows = encoder.encode_copy_binary(copied.body)
                copied = CopiedPage(body=body, rows=rows, next_cursor=copied.next_cursor)
            return make(copied)

        return await self._sessions.run(f"reading {large.NAMESPACE}", work)

    def _documents(
        self,
        connection: Connection,
        plan: OpenPlan,
        reader: TableReader,
        encoder: Encoder,
        request: types.ReadRequest,
    ) -> CopiedPage:
        """A page of documents: as many rows as fit into one after they were translated."""
        partition = PartitionCursor.decode(request.partition.cursor)
        cursor = PageCursor.decode(request.cursor, partition)
        limits = self._limits(request)
        page_bytes = max(1, limits.page_bytes // _DOCUMENT_RATIO)
        while True:
            asked = Limits(page_bytes=page_bytes, max_bytes=limits.max_bytes)
            copied = PageRead(connection, reader, partition, plan.snapshot.name, asked, as_documents=True).read(cursor)
            body, rows = encoder.encode_copy_binary(copied.body)
            if len(body) <= limits.max_bytes:
                return CopiedPage(body=body, rows=rows, next_cursor=copied.next_cursor)
            if rows <= 1:
                raise errors.CapacityError(
                    f"reading {reader.table.name}: the row at or after ctid ({cursor.start[0]},{cursor.start[1]}) is, "
                    f"as a document, over the limit of {limits.max_bytes:,} bytes for one message; shorten it or "
                    "choose the other tables with -n"
                )
            page_bytes = max(1, min(page_bytes, len(copied.body)) // (2 * _DOCUMENT_RATIO))

    async def _encoder(
        self, plan: OpenPlan, table: PlannedTable, columns: Sequence[str], page_type: types.PageType
    ) -> Encoder:
        """What turns rows of the table into documents, made once a plan."""
        key = (table.oid, tuple(columns), page_type)
        if key not in plan.encoders:
            described = await self._describer.columns_of(table.name, plan.snapshot.name)
            by_name = {column.name: column for column in described}
            chosen = table.choose(columns)
            if plan.book is None:
                plan.book = await self._sessions.run(
                    "reading the types", lambda connection: _types_of(connection, plan.snapshot.name)
                )
            make = RowEncoder if page_type is types.PageType.BSON else LineEncoder
            plan.encoders[key] = make([by_name[column.name] for column in chosen], plan.book)
        return plan.encoders[key]

    def _reader(
        self,
        plan: OpenPlan,
        table: PlannedTable,
        columns: Sequence[str],
        *,
        is_binary: bool,
        with_place: bool = False,
        as_text: frozenset[str] = frozenset(),
    ) -> TableReader:
        key = (table.oid, tuple(columns), is_binary, with_place, as_text)
        if key not in plan.readers:
            plan.readers[key] = TableReader(
                table=table,
                columns=tuple(table.choose(columns)),
                is_binary=is_binary,
                with_place=with_place,
                as_text=as_text,
                condition=self._sessions.filter_of(table.name.namespace),
            )
        return plan.readers[key]

    def _limits(self, request: types.ReadRequest) -> Limits:
        agreed = self._sessions.request
        # A small limit leaves little room for an envelope, and then has a small one.
        max_bytes = agreed.max_message_bytes - min(_ENVELOPE_BYTES, agreed.max_message_bytes // 16)
        return Limits(page_bytes=min(request.page_bytes or agreed.page_bytes, max_bytes), max_bytes=max_bytes)

    def _plan_of(self, lineage: bytes) -> OpenPlan:
        plan = next((plan for plan in self._plans.values() if lineage in plan.lineages), None)
        if plan is None or not plan.holder.is_held:
            raise snapshot_lost()
        return plan

    # -------------------------------------------------------------- description

    async def describe(self, request: types.DescribeRequest) -> types.SchemaDescription:
        """Columns, keys and forms of the tables, with their definition where it is asked for.

        A definition is dumped under a snapshot that the next `open_plan` goes on with, so that rows and schema are
        of one moment.
        """
        if request.definition_for != DIALECT:
            return await self._describer.describe(request, self._held_name())
        async with self._planning:
            identity = await self._sessions.run("asking the server who it is", read_identity)
            holder = await Holder.open(self._sessions, identity)
            before, self._described[self._flow] = self._described.get(self._flow), holder
            if before is not None:
                await before.close()
        try:
            return await self._describer.describe(request, holder.snapshot.name)
        except BaseException:
            if self._described.get(self._flow) is holder:
                del self._described[self._flow]
            await asyncio.shield(holder.close())
            raise

    async def get_finish_data(self, step: types.FinishStep) -> bytes:
        """Where the step's sequences stand now: sequences know no snapshot, and are read last."""
        names = [target.name for target in BuildStep.from_wire(step).sequences]
        positions = await self._sessions.run(
            "reading where sequences stand", lambda connection: read_positions(connection, names)
        )
        return encode_positions(positions)

    async def check(self, request: types.CheckRequest) -> tuple[types.Finding, ...]:
        """What would stop the flow or lose data at this end, and what a person should know."""
        return await check_source(self._sessions, self._describer, request)

    def _held_name(self) -> str:
        plan = self._plans.get(self._flow)
        return plan.snapshot.name if plan is not None and plan.holder.is_held else ""

    # -------------------------------------------------------------------- counts

    async def count(self, namespace: str) -> int:
        """The number of rows as of the last ANALYZE, exact where there was none."""
        name = TableName.parse(namespace)
        if name == large.NAME:
            return await self.count_rows(namespace)

        found = await self._sessions.run(
            f"counting {name}", lambda connection: find_relation(connection, name, "counting")
        )
        return found.estimated_rows if found.estimated_rows > 0 else await self.count_rows(namespace)

    async def count_rows(self, namespace: str) -> int:
        """Exact; under the copy's snapshot while that is held."""
        name = TableName.parse(namespace)
        if name == large.NAME:
            async with self._sessions.reading() as session:
                return await session.run(f"counting {name}", large_objects.count_pieces)

        def work(connection: Connection) -> int:
            self._sessions.learn_conditions(connection)
            # A partitioned table's rows are its partitions', a parent's are its own.
            only = "ONLY " if find_relation(connection, name, "counting").kind == "r" else ""
            condition = self._sessions.filter_of(namespace)
            where = f" WHERE {condition}" if condition else ""
            row = connection.execute(
                f"SELECT count(*) FROM {only}{name.identifier.as_string(None)}{where}".encode()
            ).fetchone()
            assert row is not None, "an aggregate gives one row"
            return int(row[0])

        async with self._sessions.reading() as session:
            return await session.run(f"counting {name}", work)


def _types_of(connection: Connection, snapshot_name: str) -> TypeBook:
    begin_reading(connection, snapshot_name)
    try:
        return read_own_types(connection)
    finally:
        connection.rollback()


def _table_of(plan: OpenPlan, partition: PartitionCursor, namespace: str) -> PlannedTable:
    table = plan.by_oid(partition.oid)
    if table is None:
        name = TableName.parse(namespace)
        raise errors.NamespaceChangedError(
            f"reading {name}: the table that was planned does not exist any more; copy again what is there now "
            "(`dsync sync … --again`)"
        )
    if (table.filenode, table.fingerprint) != (partition.filenode, partition.columns):
        raise changed(table, "it was rewritten or altered")
    return table
