"""Reading one page: a range of rows that weighs what a page should, checked in the transaction that reads it.

Where a page ends depends on its cursor and on the snapshot alone, never on what the process has seen before: a range of
blocks by the density that the cursor carries; where that is too much, the rows that fitted; where one block is more
than a page, rows by the length that the server knows without fetching them. A row that could be over the message limit
is measured before it is read.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import psycopg
from psycopg import errors as pg
from psycopg import pq, sql

from dsync.sdk import errors, failpoint
from dsync_postgres.errors import translate
from dsync_postgres.sessions import AS_BYTES, Connection, begin_reading, keeps_bytes, snapshot_lost
from dsync_postgres.source.copyout import HEADER_BYTES, CopyResult, columns_of, run_copy, values
from dsync_postgres.source.cursors import PageCursor, PartitionCursor, Tid
from dsync_postgres.source.planned import PlannedTable
from dsync_postgres.source.reader import Limits, TableReader

_MOST_BLOCKS = 512
# Rows in the order of their place, one process, no plan that costs more to make than to run.
_SETTINGS = tuple(
    f"SET LOCAL {setting}".encode()
    for setting in (
        "enable_seqscan = off",
        "enable_tidscan = on",
        "max_parallel_workers_per_gather = 0",
        "synchronize_seqscans = off",
        "jit = off",
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CopiedPage:
    """A page's rows as COPY gave them."""

    body: bytes
    rows: int
    next_cursor: bytes


class PageRead:
    """One page in the making, on one connection."""

    def __init__(
        self,
        connection: Connection,
        reader: TableReader,
        partition: PartitionCursor,
        snapshot_name: str,
        limits: Limits,
        *,
        as_documents: bool = False,
    ) -> None:
        self._connection = connection
        # The text of a document is UTF-8, which the server has to see to.
        self._as_bytes = keeps_bytes(connection) and not as_documents
        self._reader = reader
        self._table = reader.table
        self._partition = partition
        self._snapshot_name = snapshot_name
        self._limits = limits

    def read(self, cursor: PageCursor) -> CopiedPage:
        """Return the page that begins at the cursor; only an empty partition gives an empty one.

        Raises:
            NamespaceChangedError: the table is not the one that was planned any more.
            CapacityError: a row is over the message limit.
            SnapshotLostError: the plan's snapshot is gone.
        """
        failpoint("source.before_copy")
        blocks = max(1, min(_MOST_BLOCKS, self._limits.page_bytes // max(1, cursor.density)))
        while True:
            end: Tid | None = (cursor.start[0] + blocks, 0)
            if cursor.start[0] + blocks >= self._last_block:
                end = self._end
            likely_bytes = 0
            if cursor.density > self._limits.cut_bytes:
                # One block is more than a page: choose rows by their likely weight.
                end, likely_bytes = self._measure(cursor, end)
            copied = self._copy_within(cursor.start, end)
            if copied.rows or not copied.has_more or copied.end is None:
                return self._page(cursor, copied, likely_bytes if copied.end == end else 0)
            # Blocks without visible rows: an empty page would mean that the partition is done.
            cursor = replace(cursor, start=copied.end)
            blocks = _MOST_BLOCKS

    @property
    def _last_block(self) -> int:
        """The first block beyond what the partition holds for this snapshot."""
        return self._table.blocks if self._partition.end_block is None else self._partition.end_block

    @property
    def _end(self) -> Tid | None:
        return None if self._partition.end_block is None else (self._partition.end_block, 0)

    def _page(self, cursor: PageCursor, copied: _Copied, likely_bytes: int) -> CopiedPage:
        failpoint("source.after_copy")
        if not copied.has_more or copied.end is None:
            return CopiedPage(body=copied.body, rows=copied.rows, next_cursor=b"")
        weight = len(copied.body)
        whole_blocks = copied.end[0] - cursor.start[0]
        density = cursor.density
        if not whole_blocks:
            density = max(density, self._limits.cut_bytes + 1)
        elif not cursor.start[1]:
            density = max(1, weight // whole_blocks)
        inflation = max(1, 1000 * weight // likely_bytes) if likely_bytes else cursor.inflation
        after = PageCursor(start=copied.end, density=density, inflation=inflation)
        return CopiedPage(body=copied.body, rows=copied.rows, next_cursor=after.encode())

    # ----------------------------------------------------------------- one range

    def _copy_within(self, start: Tid, end: Tid | None) -> _Copied:
        """Copy the range, or as many of its first rows as make a page."""
        guard_bytes = self._limits.max_bytes if self._reader.may_hold_giants(self._limits) else 0
        cut_bytes = self._limits.cut_bytes
        while True:
            result = self._attempt(start, end, guard_bytes, cut_bytes)
            if isinstance(result.error, pg.DivisionByZero) and guard_bytes:
                giant = self._first_giant(start, end)
                if self._has_rows(start, giant):
                    end = giant
                    continue
                self._require_fit(giant)
                end, guard_bytes, cut_bytes = (giant[0], giant[1] + 1), 0, 0
            elif result.error is not None:
                raise self._translate(result.error, result.completed) from result.error
            elif result.is_cut_off:
                end, cut_bytes = self._place_after(start, end, result.rows) or end, 0
            elif len(result.body) > self._limits.max_bytes:
                if result.rows <= 1:
                    raise self._too_large(self._first_place(start, end))
                end, cut_bytes = self._place_after(start, end, result.rows // 2), 0
            else:
                return self._checked(result, end)

    def _attempt(self, start: Tid, end: Tid | None, guard_bytes: int, cut_bytes: int) -> CopyResult:
        statements = [
            b"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
            sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(self._snapshot_name)).as_bytes(self._connection),
            *_SETTINGS,
            *([AS_BYTES.encode()] if self._as_bytes else []),
            self._reader.copy(start, end, guard_bytes=guard_bytes),
            self._check(end),
            f"SELECT * {self._reader.source} LIMIT 0".encode(),
            b"COMMIT",
        ]
        try:
            return run_copy(
                self._connection,
                statements,
                page_bytes=self._limits.page_bytes,
                limit_bytes=cut_bytes,
                is_binary=self._reader.is_binary,
            )
        finally:
            if self._connection.pgconn.transaction_status != pq.TransactionStatus.IDLE:
                _roll_back(self._connection)

    def _check(self, end: Tid | None) -> bytes:
        """What is asked in the COPY's transaction: the table's file now, and whether rows follow the range."""
        more = "false"
        if end is not None:
            limit = "" if self._end is None else f" AND ctid < '({self._end[0]},{self._end[1]})'::tid"
            after = self._reader.kept(f"ctid >= '({end[0]},{end[1]})'::tid{limit}")
            more = f"EXISTS (SELECT {self._reader.source} WHERE {after})"
        return f"SELECT pg_relation_filenode({self._table.oid}::oid), {more}".encode()

    def _checked(self, result: CopyResult, end: Tid | None) -> _Copied:
        """The COPY's outcome, if the table was the planned one while it ran: it was locked against changes.

        Under one snapshot VACUUM FULL, CLUSTER, TRUNCATE and a type change lose rows without an error.
        """
        check, description = result.results
        ((filenode, has_more),) = values(check)
        if filenode is None or int(filenode) != self._partition.filenode:
            raise RewrittenError(str(changed(self._table, "it was truncated, rewritten or dropped")))
        if not self._has_planned_columns(columns_of(description)):
            raise changed(self._table, "its columns were altered")
        return _Copied(body=result.body, rows=result.rows, end=end, has_more=has_more == "t")

    def _has_planned_columns(self, described: list[tuple[str, int, int, int]]) -> bool:
        """Whether the table has now the columns that it had under the snapshot; domains show their base type."""
        planned = self._table.columns
        return len(described) == len(planned) and all(
            (name, number) == (column.name, column.number)
            and (column.is_domain or (type_oid, modifier) == (column.type_oid, column.modifier))
            for (name, number, type_oid, modifier), column in zip(described, planned, strict=True)
        )

    # ------------------------------------------------------------------ measuring

    def _measure(self, cursor: PageCursor, end: Tid | None) -> tuple[Tid | None, int]:
        """Where rows of a page's likely weight end, and what they likely weigh."""
        target = self._limits.page_bytes * 1000 // cursor.inflation
        rows = self._query(
            "SELECT min(ctid) FILTER (WHERE is_over)::text,"
            " coalesce(max(total) FILTER (WHERE NOT is_over), 0)::int8 FROM ("
            f" SELECT ctid, total, n > 1 AND total > {target} AS is_over FROM ("
            "  SELECT ctid, sum(likely) OVER w AS total, row_number() OVER w AS n FROM ("
            f"   SELECT ctid, {self._reader.likely_bytes} AS likely {self._reader.source}"
            f"   WHERE {self._reader.within(cursor.start, end)}) sized"
            "  WINDOW w AS (ORDER BY ctid ROWS UNBOUNDED PRECEDING)) summed) marked"
        )
        place, likely_bytes = rows[0]
        return (_tid(place) if place else end), int(likely_bytes)

    def _place_after(self, start: Tid, end: Tid | None, rows: int) -> Tid | None:
        """The place of the row that follows the first so many; None: there is none."""
        found = self._query(
            f"SELECT place::text FROM (SELECT ctid AS place {self._reader.source}"
            f" WHERE {self._reader.within(start, end)}) places"
            f" ORDER BY places.place OFFSET {rows} LIMIT 1"
        )
        return _tid(found[0][0]) if found else None

    def _first_place(self, start: Tid, end: Tid | None) -> Tid:
        return _tid(
            self._query(f"SELECT min(ctid)::text {self._reader.source} WHERE {self._reader.within(start, end)}")[0][0]
        )

    def _first_giant(self, start: Tid, end: Tid | None) -> Tid:
        """The first row that may be over the limit."""
        return _tid(
            self._query(
                f"SELECT min(ctid)::text {self._reader.source}"
                f" WHERE {self._reader.within(start, end)} AND {self._reader.most_bytes} > {self._limits.max_bytes}"
            )[0][0]
        )

    def _has_rows(self, start: Tid, end: Tid) -> bool:
        return bool(
            self._query(f"SELECT EXISTS (SELECT {self._reader.source} WHERE {self._reader.within(start, end)})")[0][0]
        )

    def _require_fit(self, place: Tid) -> None:
        """Measure one row at the server.

        Raises:
            CapacityError: it is over the limit, or too large for the server to put together.
        """
        try:
            weight = self._query(
                f"SELECT {self._reader.exact_bytes} {self._reader.source} WHERE ctid = '{_text(place)}'"
            )
        except errors.CapacityError:
            raise self._too_large(place) from None
        if weight[0][0] + HEADER_BYTES > self._limits.max_bytes:
            raise self._too_large(place)

    def _query(self, statement: str) -> list[tuple[Any, ...]]:
        """Run a query under the plan's snapshot, in a transaction of its own, so that no lock stays."""
        begin_reading(self._connection, self._snapshot_name)
        try:
            self._connection.execute(b";".join(_SETTINGS))
            return self._connection.execute(statement.encode()).fetchall()
        except psycopg.Error as exc:
            raise self._translate(exc, _IMPORTED) from exc
        finally:
            _roll_back(self._connection)

    # --------------------------------------------------------------------- errors

    def _translate(self, exc: psycopg.Error, completed: int) -> errors.DsyncError:
        if completed < _IMPORTED and isinstance(exc, _NO_SNAPSHOT):
            return snapshot_lost()
        if isinstance(exc, _CHANGES):
            return changed(self._table, "it was dropped, renamed or altered")
        if isinstance(exc, pg.CharacterNotInRepertoire):
            return errors.UnsupportedError(
                f"reading {self._table.name}: it holds text that is not UTF-8, in a database without an encoding "
                "(SQL_ASCII), and documents hold no other; convert the text, or copy into a PostgreSQL database in "
                "SQL_ASCII"
            )
        if isinstance(exc, pg.ProgramLimitExceeded | pg.OutOfMemory) or "alloc request size" in str(exc):
            return errors.CapacityError(
                f"reading {self._table.name}: the server cannot put a row together, which takes more than 1 GB; find "
                "it by the length of its columns, and shorten it or choose the other tables with -n"
            )
        return translate(exc, f"reading {self._table.name}")

    def _too_large(self, place: Tid) -> errors.CapacityError:
        return errors.CapacityError(
            f"reading {self._table.name}: the row at ctid {_text(place)} is over the limit of "
            f"{self._limits.max_bytes:,} bytes for one message; shorten it (SELECT … WHERE ctid = '{_text(place)}') or "
            "choose the other tables with -n"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Copied:
    """A range that was read."""

    body: bytes
    rows: int
    end: Tid | None
    """None: the partition's end, which is open."""
    has_more: bool
    """Rows follow in the partition."""


# BEGIN and SET TRANSACTION SNAPSHOT.
_IMPORTED = 2
_NO_SNAPSHOT = (pg.InvalidParameterValue, pg.UndefinedObject, pg.ObjectNotInPrerequisiteState)
_CHANGES = (pg.UndefinedTable, pg.UndefinedColumn, pg.InvalidSchemaName, pg.WrongObjectType, pg.UndefinedFunction)


class RewrittenError(errors.NamespaceChangedError):
    """Its rows lie elsewhere now, where the snapshot does not find them, or it was dropped."""


def changed(table: PlannedTable, what: str) -> errors.NamespaceChangedError:
    """What a read gets when the table is not what the plan says."""
    return errors.NamespaceChangedError(
        f"reading {table.name}: {what} while it was copied, so the snapshot's rows cannot be had any more; its rows at "
        "the sink are incomplete until it is copied again (`dsync sync … --again`)"
    )


def _roll_back(connection: Connection) -> None:
    # A broken connection has rolled back by itself; its error is already on its way.
    if connection.pgconn.status == pq.ConnStatus.OK:
        connection.rollback()


def _tid(text: str) -> Tid:
    block, offset = text.strip("()").split(",")
    return int(block), int(offset)


def _text(place: Tid) -> str:
    return f"({place[0]},{place[1]})"
