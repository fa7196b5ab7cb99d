"""A plan that is open: its snapshot, held, and its tables as that snapshot sees them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from dsync.sdk import errors, types
from dsync_postgres import large_objects as large
from dsync_postgres.documents import Encoder, TypeBook
from dsync_postgres.identity import read_identity
from dsync_postgres.schema.names import TableName
from dsync_postgres.sessions import Connection, Sessions, begin_reading
from dsync_postgres.source import large_objects
from dsync_postgres.source.partitions import cut, weight_bytes
from dsync_postgres.source.planned import PlannedTable, read_planned
from dsync_postgres.source.reader import TableReader
from dsync_postgres.source.snapshots import Holder, Snapshot

# How often a new snapshot is taken because a table was rewritten between the last one and the look at its size.
_ATTEMPTS = 3
_MOST_NAMES = 5


@dataclass(kw_only=True, eq=False)
class OpenPlan:
    """What reading pages needs; lives as long as the process and its holder."""

    holder: Holder
    tables: dict[TableName, PlannedTable]
    lineages: set[bytes]
    """Plans whose partitions are read under this snapshot."""
    readers: dict[tuple[object, ...], TableReader] = field(default_factory=dict)
    encoders: dict[tuple[object, ...], Encoder] = field(default_factory=dict)
    followed: frozenset[TableName] = frozenset()
    """Tables whose changes are followed: a snapshot that does not do any more for them is no loss."""
    seen_through: int = 0
    """The snapshot has exactly the transactions whose commits lie up to here in the log; 0: it is not a slot's."""
    book: TypeBook | None = None
    """What the tables' types are made of; read when the first documents are asked for."""
    _by_oid: dict[int, PlannedTable] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.add(dict(self.tables))

    def add(self, tables: Mapping[TableName, PlannedTable]) -> None:
        """Take in more tables, as this plan's snapshot sees them."""
        self.tables.update(tables)
        self._by_oid.update({table.oid: table for table in tables.values()})

    @property
    def snapshot(self) -> Snapshot:
        """What is held."""
        return self.holder.snapshot

    def by_oid(self, oid: int) -> PlannedTable | None:
        """The table with this oid, if the snapshot has it."""
        return self._by_oid.get(oid)

    async def partitions(self, names: Iterable[TableName], sessions: Sessions) -> tuple[types.Partition, ...]:
        """Cut these tables; what has no rows of its own (a partitioned parent, a view) has no partitions.

        Large objects are cut too, where they are among the names.
        """
        names = list(names)
        tables = [self.tables[name] for name in tables_of(names) if self.tables[name].kind == "r"]
        total = sum(table.size_bytes + table.outside_bytes for table in tables)
        weight = weight_bytes(total, sessions.options.partition_bytes, sessions.request.parallel)
        found = tuple(part for table in tables for part in cut(table, weight, self.snapshot.lineage))
        if large.NAME not in names:
            return found
        snapshot, weight = self.snapshot, sessions.options.partition_bytes
        return found + await sessions.run(
            "looking at the large objects",
            lambda connection: large_objects.cut(connection, snapshot.name, snapshot.lineage, weight),
        )


def tables_of(names: Iterable[TableName]) -> list[TableName]:
    """Those of them that are tables: large objects have a table's name, but no rows that could be read as its."""
    return [name for name in names if name != large.NAME]


async def open_plan(
    sessions: Sessions,
    names: list[TableName],
    described: Holder | None,
    before: Mapping[TableName, PlannedTable] | None = None,
) -> OpenPlan:
    """Take a snapshot, or go on with the one that the schema was described under, and look at the tables.

    `before` is what they were when that was done under another snapshot.

    Raises:
        MissingObjectError: there is no such table.
        PrivilegeError, HiddenRowsError: this role would not see all of its rows.
        NamespaceChangedError: a table was altered since it was described.
    """
    identity = await sessions.run("asking the server who it is", read_identity)
    holder = described
    for _ in range(_ATTEMPTS):
        holder = holder or await Holder.open(sessions, identity)
        try:
            tables = await look(sessions, holder.snapshot.name, names)
            require_readable(names, tables)
            tables = await _with_filters(sessions, holder.snapshot, tables)
            if before is not None:
                require_same_columns(before, tables)
            if all(is_as_seen(table) for table in tables.values()):
                return OpenPlan(holder=holder, tables=tables, lineages={holder.snapshot.lineage})
        except BaseException:
            await asyncio.shield(holder.close())
            raise
        # What the snapshot sees of a table rewritten since is out of reach: take a later one.
        await holder.close()
        before, holder = (tables if holder is described else before), None
    raise errors.ConflictError(
        "planning the copy: tables are rewritten (TRUNCATE, VACUUM FULL, ALTER TABLE) faster than they can be planned; "
        "try again when that is over"
    )


async def look(sessions: Sessions, snapshot_name: str, names: list[TableName]) -> dict[TableName, PlannedTable]:
    """The tables of these names as the snapshot sees them (as they are now without one), with their sizes of now."""

    def work(connection: Connection) -> dict[TableName, PlannedTable]:
        begin_reading(connection, snapshot_name)
        try:
            sessions.learn_conditions(connection)
            return read_planned(connection, names)
        finally:
            connection.rollback()

    return await sessions.run("looking at the tables to be read", work)


async def _with_filters(
    sessions: Sessions, snapshot: Snapshot, tables: dict[TableName, PlannedTable]
) -> dict[TableName, PlannedTable]:
    """Try what rows have to meet, and expect fewer of them.

    Raises:
        RequestError: the server cannot read a condition, or it is not the same at every time.
    """
    if large.NAMESPACE in sessions.request.row_filters:
        raise errors.RequestError(
            f"filter of {large.NAMESPACE}: large objects cannot be chosen by a condition; leave all of them out with "
            f"--exclude {large.NAMESPACE}"
        )
    filters = {name: text for name in tables if (text := sessions.request.row_filters.get(name.namespace, ""))}
    if not filters:
        return tables
    # Only here, since the parser takes long to load.
    from dsync_postgres.source.filters import try_filters

    def work(connection: Connection) -> dict[TableName, int]:
        begin_reading(connection, snapshot.name)
        try:
            return try_filters(connection, filters)
        finally:
            connection.rollback()

    expected = await sessions.run("trying the row filters", work)
    return {
        name: replace(table, estimated_rows=expected[name]) if name in expected else table
        for name, table in tables.items()
    }


def require_readable(names: Iterable[TableName], tables: Mapping[TableName, PlannedTable]) -> None:
    """Refuse a copy that would be smaller than its tables.

    Raises:
        MissingObjectError, PrivilegeError, HiddenRowsError: naming the tables.
    """
    missing = [name for name in names if name not in tables]
    if missing:
        raise errors.MissingObjectError(
            f"planning the copy: the source has no table {_listed(missing)}; check the name (`dsync plan` lists what "
            "there is)"
        )
    wanted = [tables[name] for name in names if tables[name].kind == "r"]
    if unreadable := [table.name for table in wanted if not table.can_select]:
        raise errors.PrivilegeError(
            f"planning the copy: the role may not read {_listed(unreadable)}; GRANT SELECT on the whole table (not on "
            "columns) and USAGE on its schema, or choose the other tables with -n"
        )
    if hidden := [table.name for table in wanted if table.hides_rows]:
        raise errors.HiddenRowsError(
            f"planning the copy: row security would hide rows of {_listed(hidden)} from this role; connect as a role "
            "with BYPASSRLS or as the table's owner, or choose the other tables with -n"
        )


def is_as_seen(table: PlannedTable) -> bool:
    """It was not rewritten since: the snapshot's rows are where they were."""
    return table.kind != "r" or table.filenode == table.current_filenode


def require_same_columns(before: Mapping[TableName, PlannedTable], tables: Mapping[TableName, PlannedTable]) -> None:
    """Refuse rows of another shape than that which was described.

    Raises:
        NamespaceChangedError: naming the tables.
    """
    altered = [name for name, table in tables.items() if before[name].fingerprint != table.fingerprint]
    if altered:
        raise errors.NamespaceChangedError(
            f"planning the copy: {_listed(altered)} was altered while it was planned; repeat the command"
        )


def _listed(names: list[TableName]) -> str:
    more = len(names) - _MOST_NAMES
    text = ", ".join(str(name) for name in names[:_MOST_NAMES])
    return f"{text} and {more} more" if more > 0 else text
