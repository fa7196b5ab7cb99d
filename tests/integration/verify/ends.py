"""PostgreSQL databases as ends of a verification: the checksums of the connector, and just enough of a catalogue."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from dsync_postgres.checksums.checksums import Checksums
from dsync_postgres.conninfo import Target
from dsync_postgres.identity import read_identity
from dsync_postgres.options import PostgresOptions
from dsync_postgres.sessions import Connection, Sessions
from dsync_postgres.source.snapshots import Snapshot, current_position

from dsync.protocol.interface import Connector
from dsync.protocol.types import (
    Bucket,
    ChecksumRequest,
    Column,
    DescribeRequest,
    Extensions,
    Info,
    KeyRange,
    NamespaceDescription,
    RowHash,
    RowsRequest,
    SchemaDescription,
    TextRow,
)

_ORDERED = ["int2", "int4", "int8", "numeric", "date", "timestamp", "timestamptz", "uuid"]
_COLUMNS = """
    SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname), a.attname::text,
           format_type(a.atttypid, a.atttypmod), a.attnotnull,
           coalesce(array_position(i.indkey::int2[], a.attnum) + 1, 0),
           t.typname = ANY(%s), greatest(c.reltuples, 0)::int8, pg_relation_size(c.oid), c.relkind::text
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
      LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
      LEFT JOIN pg_type t ON t.oid = a.atttypid
      LEFT JOIN pg_index i ON i.indrelid = c.oid AND i.indisprimary
     WHERE c.relkind IN ('r', 'p') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
     ORDER BY 1, a.attnum
"""


class PgEnd(Connector):
    """One database."""

    def __init__(self, uri: str) -> None:
        self.sessions = Sessions(Target.of(uri), PostgresOptions())
        self.checksums = Checksums(self.sessions)
        self.asked: list[ChecksumRequest] = []
        self.hashed_rows = 0
        self._uri = uri

    async def close(self) -> None:
        await self.sessions.close()

    async def get_info(self) -> Info:
        return Info(id=self._uri, db_type="postgres")

    async def get_extensions(self) -> Extensions:
        return Extensions(
            services=frozenset({"ChecksumService", "SchemaService"}),
            checksum_dialect="postgres",
            schema_dialect="postgres",
        )

    async def describe(self, request: DescribeRequest) -> SchemaDescription:
        found = await self.sessions.run("describing", _describe)
        wanted = request.namespaces or tuple(found)
        return SchemaDescription(namespaces=tuple(found[name] for name in wanted if name in found))

    async def plan_ranges(self, namespace: str, key: Sequence[str], rows_per_range: int) -> list[KeyRange]:
        return await self.checksums.plan_ranges(namespace, key, rows_per_range)

    async def get_checksum(self, request: ChecksumRequest) -> list[Bucket]:
        self.asked.append(request)
        return await self.checksums.get_checksum(request)

    async def get_row_hashes(self, request: ChecksumRequest) -> AsyncIterator[list[RowHash]]:
        async for batch in self.checksums.get_row_hashes(request):
            self.hashed_rows += len(batch)
            yield batch

    async def get_rows(self, request: RowsRequest) -> list[TextRow]:
        return await self.checksums.get_rows(request)

    async def count_rows(self, namespace: str) -> int:
        (bucket,) = await self.get_checksum(ChecksumRequest(namespace=namespace, columns=()))
        return bucket.count

    async def take_snapshot(self) -> bytes:
        """The name that a source's plan would give to what is there now; it is not held."""
        return await self.sessions.run("taking a snapshot", take_snapshot)


def take_snapshot(connection: Connection) -> bytes:
    """As `PgEnd.take_snapshot`."""
    row = connection.execute("SELECT pg_current_snapshot()::text").fetchone()
    assert row is not None
    who = read_identity(connection)
    position = current_position(connection)
    return Snapshot(
        endpoint=who.id, timeline=who.timeline, lineage=b"", name="gone", text=row[0], position=position
    ).encode()


def _describe(connection: Connection) -> dict[str, NamespaceDescription]:
    columns: dict[str, list[Column]] = {}
    facts: dict[str, tuple[int, int, str]] = {}
    for name, column, kind, not_null, position, ordered, rows, size, relkind in connection.execute(
        _COLUMNS, [_ORDERED]
    ).fetchall():
        facts[name] = rows, size, relkind
        columns.setdefault(name, [])
        if column is not None:
            columns[name].append(
                Column(
                    name=column, type=kind, not_null=not_null, key_position=position, orders_everywhere=bool(ordered)
                )
            )
    return {
        name: NamespaceDescription(
            namespace=name,
            columns=tuple(columns[name]),
            estimated_rows=rows,
            size_bytes=size,
            rowless=relkind == "p",
            kind="partitioned table" if relkind == "p" else "table",
        )
        for name, (rows, size, relkind) in facts.items()
    }
