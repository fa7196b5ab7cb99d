"""A sink side on a fresh database, and pages to write into it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dsync_postgres.conninfo import Target
from dsync_postgres.definition import encode_positions
from dsync_postgres.options import PostgresOptions
from dsync_postgres.schema import BuildStep, TableName, read_positions
from dsync_postgres.sessions import Sessions
from dsync_postgres.sink.side import SinkSide
from dsync_postgres.source.description import Describer
from psycopg import sql

from dsync.sdk import PluginContext, types
from tests.support.databases import Database

FLOW = "f0000001"
RUN = "r1"
BINARY = types.PageType.PG_COPY_BINARY
TEXT = types.PageType.PG_COPY_TEXT


@dataclass(kw_only=True, eq=False)
class Sink:
    """One life of a sink plug-in's sink half, in process."""

    side: SinkSide
    sessions: Sessions
    database: Database
    flow: str = FLOW
    run: str = RUN
    units: dict[str, Unit] = field(default_factory=dict)

    async def open(self, *units: str, namespace: str = "public.t") -> list[types.UnitState]:
        """Open units as a coordinator does, and remember their fences."""
        refs = [types.UnitRef(unit=unit, namespace=namespace) for unit in units]
        states = await self.side.open_units(self.flow, self.run, refs)
        for state in states:
            self.units[state.unit] = Unit(fence=state.fence, seq=state.seq)
        return states

    def context(self, unit: str, cursor: bytes = b"c", *, done: bool = False) -> types.WriteContext:
        """The context of a unit's next write."""
        known = self.units[unit]
        return types.WriteContext(
            flow=self.flow, run=self.run, unit=unit, fence=known.fence, cursor=cursor, seq=known.seq + 1, done=done
        )

    def request(
        self,
        page: types.Page,
        unit: str | None = "u",
        *,
        namespace: str = "public.t",
        columns: Sequence[str] = (),
        cursor: bytes = b"c",
        done: bool = False,
        upsert: bool = False,
    ) -> types.WriteRequest:
        """A write of the page as the unit's next one."""
        return types.WriteRequest(
            namespace=namespace,
            page=page,
            columns=tuple(columns),
            context=None if unit is None else self.context(unit, cursor, done=done),
            upsert=upsert,
        )

    async def write(self, request: types.WriteRequest) -> int:
        """Write a request and move the unit on."""
        rows = await self.side.write_page(request)
        if request.context is not None:
            self.units[request.context.unit].seq = request.context.seq
        return rows

    def count(self, table: str = "t") -> int:
        """The rows of a table in public."""
        value: int = self.database.value(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier("public", table)))
        return value

    def ledger(self, table: str = "ledger") -> list[tuple[object, ...]]:
        """What the ledger says: unit, seq, cursor, rows, done."""
        query = sql.SQL("SELECT unit, seq, cursor, rows, done FROM {} ORDER BY unit")
        return self.database.rows(query.format(sql.Identifier("_dsync", table)))


@dataclass(slots=True, kw_only=True)
class Unit:
    """What a coordinator knows of a unit."""

    fence: int
    seq: int


def make_sink(
    database: Database, directory: Path, *, uri: str | None = None, options: PostgresOptions | None = None
) -> Sink:
    """A new life of the sink; `uri` for another role than superuser."""
    options = options or PostgresOptions()
    sessions = Sessions(Target.of(uri or database.uri), options)
    sessions.configure(types.SessionRequest(flow=FLOW, run=RUN, role=types.Role.SINK))
    context = PluginContext(private_directory=directory)
    return Sink(side=SinkSide(sessions, context), sessions=sessions, database=database)


def page_of(database: Database, query: str, page_type: types.PageType = BINARY, next_cursor: bytes = b"") -> types.Page:
    """The page that COPY makes of a query's rows."""
    name = "binary" if page_type is BINARY else "text"
    with database.connect() as connection, connection.cursor() as cursor:
        with cursor.copy(f"COPY ({query}) TO STDOUT (FORMAT {name})".encode()) as copy:
            body = b"".join(map(bytes, copy))
        return types.Page(type=page_type, rows=cursor.rowcount, packed=body, next_cursor=next_cursor)


async def describe(source: Database, *, sink_major: int | None = None) -> types.SchemaDescription:
    """What a PostgreSQL source says of a whole database to a PostgreSQL sink."""
    sessions = Sessions(Target.of(source.uri), PostgresOptions())
    request = types.DescribeRequest(definition_for="postgres", peer_version=str(sink_major or source.server.major))
    try:
        return await Describer(sessions).describe(request, "")
    finally:
        await sessions.close()


def prepare_request(
    description: types.SchemaDescription, *names: str, to: dict[str, str] | None = None, **changes: Any
) -> types.PrepareRequest:
    """A request for these namespaces (none: all), some under another name."""
    chosen = names or tuple(item.namespace for item in description.namespaces)
    request = types.PrepareRequest(
        flow=FLOW,
        run=RUN,
        mappings=tuple(types.NamespaceMapping(source=name, target=(to or {}).get(name, name)) for name in chosen),
        description=description,
        whole_database=not names,
        page_types=(BINARY, TEXT, types.PageType.BSON),
    )
    return replace(request, **changes)


async def copy_tables(sink: Sink, source: Database, prepared: types.Prepared) -> None:
    """Copy every namespace as one page, through its own unit."""
    for load in prepared.namespaces:
        await sink.open(load.source, namespace=load.target)
        listed = ", ".join('"' + name.replace('"', '""') + '"' for name in load.columns)
        name = TableName.parse(load.source).identifier.as_string(None)
        page = page_of(source, f"SELECT {listed} FROM ONLY {name}", load.page_type)
        await sink.write(
            sink.request(page, load.source, namespace=load.target, columns=load.columns, upsert=load.upsert, done=True)
        )


async def finish_all(sink: Sink, source: Database, prepared: types.Prepared) -> None:
    """Do every finish step, in the order planned."""
    for step in prepared.steps:
        await sink.open(f"f:{step.id}", namespace=step.namespace)
        data = positions_for(source, step) if step.needs_source else b""
        await sink.side.finish(sink.context(f"f:{step.id}", done=True), step, data)


def positions_for(source: Database, step: types.FinishStep) -> bytes:
    """What a source gives for the step that sets sequences."""
    with source.connect() as connection:
        names = [target.name for target in BuildStep.from_wire(step).sequences]
        return encode_positions(read_positions(connection, names))
