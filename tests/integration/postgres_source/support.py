"""A PostgreSQL source in this process, and what a coordinator would do with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dsync_postgres.connector import PostgresConnector
from dsync_postgres.options import PostgresOptions
from dsync_postgres.source.cursors import PageCursor, PartitionCursor
from psycopg import sql

from dsync.sdk import PluginContext, types
from tests.support.databases import Database

BINARY = types.PageType.PG_COPY_BINARY
TEXT = types.PageType.PG_COPY_TEXT
BSON = types.PageType.BSON
DOCUMENTS = (BSON, types.PageType.JSON)
MIB = 1024 * 1024


@dataclass(kw_only=True, eq=False)
class Source:
    """One life of a source plug-in."""

    connector: PostgresConnector
    flow: str

    @classmethod
    async def start(
        cls,
        uri: str,
        folder: Path,
        *,
        flow: str = "a1b2c3",
        page_bytes: int = 64 * 1024,
        max_message_bytes: int = 4 * MIB,
        parallel: int = 2,
        options: PostgresOptions | None = None,
        page_directory: str = "",
        page_probe: str = "",
    ) -> Source:
        """Make the connector and open a session, as after a start."""
        context = PluginContext(private_directory=folder)
        connector = PostgresConnector(uri, options or PostgresOptions(), context)
        await connector.open_session(
            types.SessionRequest(
                flow=flow,
                run="r1",
                role=types.Role.SOURCE,
                page_bytes=page_bytes,
                max_message_bytes=max_message_bytes,
                parallel=parallel,
                page_directory=page_directory,
                page_probe=page_probe,
            )
        )
        return cls(connector=connector, flow=flow)

    async def plan(self, *namespaces: str) -> types.Plan:
        """Open a plan of these tables."""
        return await self.connector.open_plan(namespaces)

    async def page(
        self,
        partition: types.Partition,
        cursor: bytes = b"",
        *,
        form: types.PageType = TEXT,
        columns: Sequence[str] = (),
        page_bytes: int = 0,
        by_reference: bool = False,
    ) -> types.Page:
        """Read one page."""
        return await self.connector.read_page(
            types.ReadRequest(
                partition=partition,
                type=form,
                cursor=cursor,
                columns=tuple(columns),
                page_bytes=page_bytes,
                by_reference=by_reference,
            )
        )

    async def pages(
        self, partition: types.Partition, *, cursor: bytes = b"", form: types.PageType = TEXT
    ) -> list[types.Page]:
        """Read a partition from the cursor to its end."""
        found: list[types.Page] = []
        while True:
            page = await self.page(partition, cursor, form=form)
            found.append(page)
            if not page.next_cursor:
                return found
            assert page.next_cursor != cursor, "the same cursor again would never end"
            cursor = page.next_cursor

    async def lines(self, plan: types.Plan) -> Counter[bytes]:
        """All rows of a plan, as lines of text COPY, with how often each occurs."""
        found: Counter[bytes] = Counter()
        for partition in plan.partitions:
            for page in await self.pages(partition):
                found.update(body_lines(page))
        return found


@dataclass(kw_only=True)
class Copy:
    """A copy in progress: what the sink's ledger would hold of each partition."""

    partitions: list[types.Partition]
    cursors: dict[bytes, bytes] = field(default_factory=dict)
    rows: dict[bytes, list[bytes]] = field(default_factory=dict)
    done: set[bytes] = field(default_factory=set)

    async def step(self, source: Source, partition: types.Partition) -> bool:
        """Copy one page; False where the partition was done."""
        key = partition.cursor
        if key in self.done:
            return False
        page = await source.page(partition, self.cursors.get(key, b""))
        self.rows.setdefault(key, []).extend(body_lines(page))
        self.cursors[key] = page.next_cursor
        if not page.next_cursor:
            self.done.add(key)
        return True

    async def finish(self, source: Source) -> None:
        """Copy all that is left."""
        for partition in self.partitions:
            while await self.step(source, partition):
                pass

    def progress(self) -> list[types.CopiedPartition]:
        """As the coordinator tells it to resume_plan."""
        return [
            types.CopiedPartition(
                partition=partition,
                cursor=self.cursors.get(partition.cursor, b""),
                rows=len(self.rows.get(partition.cursor, ())),
                done=partition.cursor in self.done,
            )
            for partition in self.partitions
        ]

    def lines(self) -> Counter[bytes]:
        """All rows that were copied."""
        return Counter(line for rows in self.rows.values() for line in rows)


def body_lines(page: types.Page) -> list[bytes]:
    """The rows of a page of text COPY."""
    assert page.packed is not None
    lines = bytes(page.packed).split(b"\n")
    assert lines.pop() == b"", "every row ends its line"
    assert len(lines) == page.rows
    return lines


def table_lines(database: Database, query: sql.Composed | sql.SQL) -> Counter[bytes]:
    """What a query gives now, as lines of text COPY under the settings that sessions pin."""
    with database.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'; SET extra_float_digits = 3; SET lc_monetary = 'C'")
        with connection.cursor().copy(sql.SQL("COPY ({}) TO STDOUT").format(query)) as copy:
            return Counter(bytes(block).removesuffix(b"\n") for block in copy)


def blocks_of(partition: types.Partition) -> tuple[int, int | None]:
    """The range of blocks of a partition."""
    cursor = PartitionCursor.decode(partition.cursor)
    return cursor.start_block, cursor.end_block


def start_of(partition: types.Partition, cursor: bytes) -> tuple[int, int]:
    """Where a cursor points."""
    return PageCursor.decode(cursor, PartitionCursor.decode(partition.cursor)).start


def restore(database: Database, table: str, pages: Iterator[types.Page] | Sequence[types.Page]) -> None:
    """Write pages of binary COPY into a table."""
    with database.connect() as connection:
        for page in pages:
            with connection.cursor().copy(
                sql.SQL("COPY {} FROM STDIN (FORMAT binary)").format(sql.Identifier(table))
            ) as copy:
                assert page.packed is not None
                copy.write(page.packed)
