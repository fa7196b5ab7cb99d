"""Asking the source's catalogue for a description, and pg_dump for the definition that goes with it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import replace

from dsync.sdk import types
from dsync_postgres import large_objects as large
from dsync_postgres.definition import Definition
from dsync_postgres.errors import translating
from dsync_postgres.schema import (
    DumpRequest,
    PgDumpChoice,
    ServerFacts,
    SourceFacts,
    TableFacts,
    TableName,
    TypeFacts,
    choose_pg_dump,
    dump_schema,
    read_extensions,
    read_server,
    read_tables,
    read_types,
)
from dsync_postgres.sessions import Connection, Sessions, begin_reading
from dsync_postgres.sink.routes import read_routes
from dsync_postgres.source import large_objects
from dsync_postgres.source.describe import describe_tables, is_copied, skipped_findings

DIALECT = "postgres"
_INSISTS_ON_TLS = frozenset({"require", "verify-ca", "verify-full"})


class Describer:
    """Describes a database, and remembers the columns of tables that are read as documents."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._columns: dict[tuple[str, TableName], tuple[types.Column, ...]] = {}

    async def describe(self, request: types.DescribeRequest, snapshot_name: str) -> types.SchemaDescription:
        """What a user would copy, as the snapshot sees it (as it is now where the name is empty).

        Raises:
            PgDumpMissingError: a definition was asked for and no fitting pg_dump is installed.
        """
        peer_major = major_of(request.peer_version)
        definition = b""
        server, tables, kinds, objects = await self._sessions.run(
            "reading the catalogue", lambda connection: _read(connection, snapshot_name)
        )
        if request.definition_for == DIALECT:
            definition = await self._define(server, tables, peer_major, snapshot_name)
        chosen = {name: table for name, table in tables.items() if _is_wanted(name, request.namespaces)}
        scattered = await self._scattered(chosen.values())
        described = describe_tables(chosen, kinds, major=server.major, peer_major=peer_major)
        # Whoever asks for them by name is told of none as well.
        if large.NAMESPACE in request.namespaces or (objects.count and not request.namespaces):
            described += (large_objects.describe(objects),)
        return types.SchemaDescription(
            namespaces=tuple(
                replace(item, placed_by_server=True) if item.namespace in scattered else item for item in described
            ),
            dialect=DIALECT,
            definition=definition,
            findings=skipped_findings(chosen.values()),
        )

    async def _scattered(self, tables: Iterable[TableFacts]) -> frozenset[str]:
        """Partitions that would have other rows at another server."""
        partitions = [table.name for table in tables if table.is_partition]
        if not partitions:
            return frozenset()
        routes = await self._sessions.run(
            "reading the partitions", lambda connection: read_routes(connection, partitions, unlike_encodings=False)
        )
        return frozenset(name.namespace for name in routes)

    async def copied_namespaces(self) -> tuple[str, ...]:
        """Every table with rows of its own."""
        _, tables, *_ = await self._sessions.run("reading the catalogue", lambda connection: _read(connection, ""))
        return tuple(name.namespace for name, table in tables.items() if is_copied(table) and table.has_rows)

    async def columns_of(self, name: TableName, snapshot_name: str) -> tuple[types.Column, ...]:
        """A table's columns as the snapshot sees them."""
        key = (snapshot_name, name)
        if key not in self._columns:
            description = await self.describe(types.DescribeRequest(), snapshot_name)
            self._columns = {
                (snapshot_name, TableName.parse(item.namespace)): item.columns for item in description.namespaces
            }
        return self._columns.get(key, ())

    async def choose_tool(self, server_major: int, peer_major: int) -> PgDumpChoice:
        """The pg_dump that fits both servers, or why there is none."""
        sslmode = self._sessions.target.parameters.get("sslmode") or os.environ.get("PGSSLMODE", "")
        folder = self._sessions.options.tools_directory
        return await choose_pg_dump(
            server_major,
            peer_major,
            needs_tls=sslmode in _INSISTS_ON_TLS,
            folders=None if folder is None else [folder],
        )

    async def _define(
        self, server: ServerFacts, tables: dict[TableName, TableFacts], peer_major: int, snapshot_name: str
    ) -> bytes:
        choice = await self.choose_tool(server.major, peer_major)
        extensions = await self._sessions.run("reading the extensions", read_extensions)
        coming = await self._sessions.run(
            "looking at the large objects",
            lambda connection: large_objects.read_for_sink(connection, snapshot_name),
        )
        archive = await dump_schema(
            DumpRequest(
                tool=choice.require(),
                conninfo=self._sessions.target.conninfo,
                snapshot=snapshot_name or None,
                application_name=self._sessions.application_name("schema"),
                unlike_versions=peer_major not in (0, server.major),
                # pg_dump locks every table that it dumps; one that may not be read is refused later, if it is wanted.
                exclude_tables=tuple(
                    name for name, table in tables.items() if not table.can_select and table.kind in "rp"
                ),
                lc_monetary=server.lc_monetary,
            )
        )
        facts = SourceFacts.of(server, extensions, tables)
        return Definition(archive=archive, facts=facts.to_plain(), large_objects=coming).encode()


def major_of(version: str) -> int:
    """The major version in a printed one; 0 where there is none."""
    match = re.match(r"\d+", version)
    return int(match.group()) if match else 0


def _is_wanted(name: TableName, namespaces: tuple[str, ...]) -> bool:
    return not namespaces or name.namespace in namespaces


def _read(
    connection: Connection, snapshot_name: str
) -> tuple[ServerFacts, dict[TableName, TableFacts], dict[int, TypeFacts], large_objects.LargeObjectFacts]:
    with translating("reading the catalogue"):
        begin_reading(connection, snapshot_name)
        try:
            return (
                read_server(connection),
                read_tables(connection),
                read_types(connection),
                large_objects.read_facts(connection),
            )
        finally:
            connection.rollback()
