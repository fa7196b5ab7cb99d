"""After a snapshot was lost: what of the copied rows a reader of the new snapshot would find just the same.

A place (ctid) means something only in its snapshot: going on by it under another one left 201 rows missing and 202
doubled. So a table counts as unchanged only if each copied range holds, for the new snapshot, as many rows as were
copied, and none that was written by a transaction at or after the oldest that ran when the old snapshot was taken. All
earlier ones had ended by then, so their rows were seen; equal counts mean that none of them has gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from dsync.sdk import errors, failpoint, types
from dsync_postgres import large_objects as large
from dsync_postgres.errors import translating
from dsync_postgres.identity import Identity
from dsync_postgres.schema.names import TableName
from dsync_postgres.sessions import Connection, Sessions, begin_reading
from dsync_postgres.source import large_objects
from dsync_postgres.source.cursors import PageCursor, PartitionCursor, Tid
from dsync_postgres.source.openplan import OpenPlan
from dsync_postgres.source.planned import PlannedTable
from dsync_postgres.source.reader import TableReader
from dsync_postgres.source.snapshots import Snapshot

# Rows carry the low 32 bits of their transaction's id: over more transactions than that they say nothing.
_CIRCLE = 2**32
_FIRST_NORMAL_XID = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """Compares what was copied under an old snapshot with what a new plan's snapshot sees."""

    sessions: Sessions
    old: Snapshot
    new: OpenPlan
    identity: Identity

    async def judge(self, partitions: Sequence[types.CopiedPartition]) -> tuple[types.NamespaceVerdict, ...]:
        """One verdict a namespace, in the order in which they first appear."""
        by_namespace: dict[str, list[types.CopiedPartition]] = {}
        for copied in partitions:
            by_namespace.setdefault(copied.partition.namespace, []).append(copied)
        failpoint("source.before_verdicts")
        limit = asyncio.Semaphore(max(1, self.sessions.request.parallel))

        async def one(namespace: str, pieces: list[types.CopiedPartition]) -> types.NamespaceVerdict:
            async with limit:
                return await self._verdict(namespace, pieces)

        async with asyncio.TaskGroup() as tasks:
            verdicts = [tasks.create_task(one(name, pieces)) for name, pieces in by_namespace.items()]
        return tuple(verdict.result() for verdict in verdicts)

    async def _verdict(self, namespace: str, pieces: list[types.CopiedPartition]) -> types.NamespaceVerdict:
        name = TableName.parse(namespace)
        if name == large.NAME:
            return await self._verdict_on(name, await self._large_difference(pieces))
        table = self.new.tables.get(name)
        planned = [PartitionCursor.decode(piece.partition.cursor) for piece in pieces]
        if table is None or table.kind != "r":
            return changed_for_good(namespace, "it was dropped")
        if any(part.columns != table.fingerprint for part in planned):
            # What the sink has prepared does not fit any more, so reading again would not help.
            return changed_for_good(namespace, "its columns were altered")
        return await self._verdict_on(name, await self._difference(table, pieces, planned))

    async def _verdict_on(self, name: TableName, reason: str) -> types.NamespaceVerdict:
        if not reason:
            return types.NamespaceVerdict(namespace=name.namespace, verdict=types.Verdict.UNCHANGED)
        again = await self.new.partitions([name], self.sessions)
        return types.NamespaceVerdict(
            namespace=name.namespace, verdict=types.Verdict.CHANGED, reason=reason, partitions=again
        )

    async def _large_difference(self, pieces: list[types.CopiedPartition]) -> str:
        """As `_difference`, of large objects."""
        if reason := self._broken_history():
            return reason
        later = written_between(self.old.xmin, self.new.snapshot.xmax)
        return await self.sessions.run(
            f"recounting {large.NAMESPACE}",
            lambda connection: large_objects.difference(connection, self.new.snapshot.name, pieces, later),
        )

    async def _difference(
        self, table: PlannedTable, pieces: list[types.CopiedPartition], planned: list[PartitionCursor]
    ) -> str:
        """What makes this table's copied rows unreliable; empty: nothing."""
        if any((part.oid, part.filenode) != (table.oid, table.filenode) for part in planned):
            return "it was truncated, rewritten, or dropped and made again"
        ranges = [
            (*_range(piece, part), piece.rows)
            for piece, part in zip(pieces, planned, strict=True)
            if piece.rows or piece.done or piece.cursor
        ]
        if not ranges:
            return ""
        if reason := self._broken_history():
            return reason
        return await self.sessions.run(
            f"recounting {table.name}", lambda connection: self._recount(connection, table, ranges)
        )

    def _broken_history(self) -> str:
        """Why row versions of then and now cannot be compared; empty: they can."""
        now = self.new.snapshot
        if self.old.timeline != now.timeline:
            return (
                f"the server was promoted or recovered since (timeline {self.old.timeline} became {now.timeline}), so "
                "transactions that the copy had seen may be gone"
            )
        if now.position < self.old.position:
            return "the server's log ends before the copy's snapshot, so it does not have all that the copy had seen"
        if now.xmax - self.old.xmin >= _CIRCLE:
            return "so many transactions have run since that the age of rows cannot be told"
        return ""

    def _recount(
        self, connection: Connection, table: PlannedTable, ranges: Sequence[tuple[Tid, Tid | None, int]]
    ) -> str:
        reader = TableReader(table=table, columns=(), condition=self.sessions.filter_of(table.name.namespace))
        later_rows = written_between(self.old.xmin, self.new.snapshot.xmax)
        with translating(f"recounting {table.name}"):
            begin_reading(connection, self.new.snapshot.name)
            try:
                connection.execute("SET LOCAL enable_seqscan = off")
                connection.execute("SET LOCAL enable_tidscan = on")
                for start, end, rows in ranges:
                    row = connection.execute(
                        f"SELECT count(*), count(*) FILTER (WHERE {later_rows}) {reader.source}"
                        f" WHERE {reader.within(start, end)}".encode()
                    ).fetchone()
                    assert row is not None, "an aggregate gives one row"
                    found, later = row
                    if later:
                        return f"{later:,} rows were written or changed since"
                    if found != rows:
                        return f"{abs(found - rows):,} rows were {'deleted' if found < rows else 'added'} since"
                return _rewritten(connection, table)
            finally:
                connection.rollback()


def _range(piece: types.CopiedPartition, part: PartitionCursor) -> tuple[Tid, Tid | None]:
    """Where the copied rows of a partition lie."""
    end: Tid | None = None if part.end_block is None else (part.end_block, 0)
    if not piece.done:
        end = PageCursor.decode(piece.cursor, part).start
    return (part.start_block, 0), end


def written_between(first: int, end: int) -> str:
    """A condition on rows: the id of their transaction is `first` or later, and before `end`.

    Frozen rows keep their number, so one from long ago may look like one of these: rarely, and to the safe side. The
    few without a number (below 3) are older than anything.
    """
    number = "xmin::text::int8"
    ahead = f"(({number} - {first % _CIRCLE}) & {_CIRCLE - 1})"
    return f"{number} >= {_FIRST_NORMAL_XID} AND {ahead} < {end - first}"


def _rewritten(connection: Connection, table: PlannedTable) -> str:
    """The recount is worth something only if it read the file that the plan means."""
    row = connection.execute("SELECT pg_relation_filenode(%s::oid)::int8", [table.oid]).fetchone()
    assert row is not None, "a SELECT without FROM gives one row"
    return "" if row[0] == table.filenode else "it was truncated, rewritten or dropped"


def changed_for_good(namespace: str, what: str) -> types.NamespaceVerdict:
    """It cannot be read again either: what the sink has prepared does not fit."""
    return types.NamespaceVerdict(
        namespace=namespace,
        verdict=types.Verdict.CHANGED,
        reason=f"{what} since the copy began; start a new one (`dsync reset`, then the same command)",
    )


def require_same_endpoint(old: Snapshot, identity: Identity) -> None:
    """Refuse to go on against another database.

    Raises:
        OtherEndpointError: it is another one.
    """
    if old.endpoint != identity.id:
        raise errors.OtherEndpointError(
            f"resuming the copy: this is not the database it was begun with (it was {old.endpoint}, it is "
            f"{identity.id}); point the URI at that one, or begin another flow with --flow"
        )
