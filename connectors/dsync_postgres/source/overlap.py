"""After a snapshot was lost while the database is followed: what is read from now on may be newer than the stream.

Pages of a later snapshot and all changes after the slot's position give the same rows as pages of the slot's own, if
everything up to the position is visible to that snapshot (logged is not enough), and if rows are written by key. So a
table with a key goes on where it was; only a rewritten file is read from its start, because VACUUM FULL moves rows
without a change. One without a key cannot overlap: it is read anew under the snapshot of a temporary slot, and the
changes that this snapshot has are left out of the stream.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dsync.sdk import errors, types
from dsync_postgres.identity import Identity
from dsync_postgres.schema.names import TableName
from dsync_postgres.sessions import Sessions
from dsync_postgres.source.cursors import PartitionCursor
from dsync_postgres.source.followed import telling
from dsync_postgres.source.openplan import OpenPlan, is_as_seen, look, tables_of
from dsync_postgres.source.resume import Judge, changed_for_good
from dsync_postgres.source.snapshots import Holder, Snapshot
from dsync_postgres.stream.begin import Names
from dsync_postgres.stream.connection import ReplicationConnection
from dsync_postgres.stream.errors import SlotTimeoutError, VisibilityError
from dsync_postgres.stream.position import Position
from dsync_postgres.stream.publication import RowIdentity, read_identities
from dsync_postgres.stream.slots import creating_slot, find_slot, require_whole, wait_until_visible, write_out

_WAIT_S = 60.0
_ATTEMPTS = 3
_REWRITTEN = "it was rewritten (VACUUM FULL, CLUSTER, TRUNCATE, ALTER TABLE), which moves rows without a change"
_KEYLESS = "it has no key, so that it cannot be read beside the stream; what it has by now is read from its start"

Pieces = Mapping[TableName, Sequence[types.CopiedPartition]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """One resumption of a flow that follows."""

    sessions: Sessions
    identity: Identity
    old: Snapshot
    pieces: Pieces
    """What of each namespace has arrived, in the coordinator's order."""
    followed: frozenset[TableName]
    identities: Mapping[TableName, RowIdentity]
    """Of those that are followed and there."""

    @classmethod
    async def of(
        cls,
        sessions: Sessions,
        identity: Identity,
        old: Snapshot,
        partitions: Sequence[types.CopiedPartition],
        updates: Sequence[types.UpdatesPartition],
    ) -> Overlap:
        """Look whether the flow can be followed on.

        Raises:
            SlotMissingError, SlotLostError, SlotUnfitError: changes after the position are not there any more.
            OtherEndpointError: this server lacks what the copy has read.
        """
        pieces: dict[TableName, list[types.CopiedPartition]] = {}
        for copied in partitions:
            pieces.setdefault(TableName.parse(copied.partition.namespace), []).append(copied)
        name = Names.kept_by(sessions).slot
        require_whole(await find_slot(sessions, name), name, database=identity.database)
        for partition in updates:
            await _require_history(sessions, old, Position.decode(partition.cursor))
        followed = frozenset(TableName.parse(name) for partition in updates for name in partition.namespaces)
        return cls(
            sessions=sessions,
            identity=identity,
            old=old,
            pieces=pieces,
            followed=followed,
            identities=await sessions.run(
                "looking at what tells rows apart",
                lambda connection: read_identities(connection, [name for name in pieces if name in followed]),
            ),
        )

    # --------------------------------------------------------------- the snapshot

    @property
    def needs_exact(self) -> bool:
        """A table without key has to be read again."""
        return any(self._is_read_anew(name) for name in self.pieces)

    def may_go_on_with(self, plan: OpenPlan) -> bool:
        """Whether a plan that is open already, as after an answer that was lost, has a snapshot that is good for it."""
        if plan.seen_through:
            return True
        return not self.needs_exact and plan.snapshot.xmin >= self.old.xmax

    async def open(self) -> OpenPlan:
        """Take a snapshot that sees everything up to the position.

        Raises:
            VisibilityError: transactions from before it do not end.
            ConflictError: tables are rewritten all the time.
        """
        names = tables_of(self.pieces)
        for _ in range(_ATTEMPTS):
            holder, seen_through = await (self._open_exact() if self.needs_exact else self._open_later())
            try:
                tables = await look(self.sessions, holder.snapshot.name, names)
            except BaseException:
                await asyncio.shield(holder.close())
                raise
            if all(is_as_seen(table) for name, table in tables.items() if name in self.followed):
                return OpenPlan(
                    holder=holder,
                    tables=tables,
                    lineages={self.old.lineage},
                    followed=self.followed,
                    seen_through=seen_through,
                )
            await holder.close()
        raise errors.ConflictError(
            "resuming the copy: tables are rewritten (TRUNCATE, VACUUM FULL, ALTER TABLE) faster than they can be "
            "planned; it is tried again"
        )

    async def _open_later(self) -> tuple[Holder, int]:
        # All that had committed before the position had an id before the old snapshot's end.
        await wait_until_visible(
            self.sessions,
            self.old.xmax,
            timeout_s=_WAIT_S,
            on_waiting=telling("visibility_waiting", Names.kept_by(self.sessions).slot),
        )
        holder = await Holder.open(self.sessions, self.identity, self.old.lineage)
        try:
            await write_out(self.sessions)
        except BaseException:
            await asyncio.shield(holder.close())
            raise
        return holder, 0

    async def _open_exact(self) -> tuple[Holder, int]:
        name = f"{Names.kept_by(self.sessions).slot[:50]}_{secrets.token_hex(4)}"
        try:
            async with creating_slot(
                self.sessions,
                name,
                major=self.identity.major,
                timeout_s=_WAIT_S,
                on_waiting=telling("slot_waiting", name),
                is_temporary=True,
            ) as created:
                holder = await Holder.open(
                    self.sessions,
                    self.identity,
                    self.old.lineage,
                    imported=created.snapshot_name,
                    position=created.consistent_lsn,
                )
        except SlotTimeoutError as exc:
            raise VisibilityError(str(exc)) from exc
        # A transaction is named by where its commit begins, and one that begins at the position comes after it.
        return holder, created.consistent_lsn - 1

    # ----------------------------------------------------------------- the verdicts

    async def judge(self, plan: OpenPlan) -> tuple[types.NamespaceVerdict, ...]:
        """One verdict a namespace, in the order in which they first appear."""
        copied_only = [piece for name, pieces in self.pieces.items() if name not in self.followed for piece in pieces]
        judge = Judge(sessions=self.sessions, old=self.old, new=plan, identity=self.identity)
        found = {verdict.namespace: verdict for verdict in await judge.judge(copied_only)}
        for name in self.pieces:
            if name in self.followed:
                found[name.namespace] = await self._verdict(plan, name)
        return tuple(found[name.namespace] for name in self.pieces)

    async def _verdict(self, plan: OpenPlan, name: TableName) -> types.NamespaceVerdict:
        table, pieces = plan.tables.get(name), self.pieces[name]
        planned = [PartitionCursor.decode(piece.partition.cursor) for piece in pieces]
        if all(piece.done for piece in pieces):
            # Whatever becomes of it is in the stream.
            verdict = types.Verdict.OVERLAPS if self._has_key(name) else types.Verdict.UNCHANGED
            return types.NamespaceVerdict(namespace=name.namespace, verdict=verdict)
        if table is None or table.kind != "r" or name not in self.identities:
            return changed_for_good(name.namespace, "it was dropped")
        if any(part.columns != table.fingerprint for part in planned):
            return changed_for_good(name.namespace, "its columns were altered")
        if self._is_read_anew(name):
            return types.NamespaceVerdict(
                namespace=name.namespace,
                verdict=types.Verdict.CHANGED,
                reason=_KEYLESS,
                partitions=await plan.partitions([name], self.sessions),
                seen_through=plan.seen_through,
            )
        if all((part.oid, part.filenode) == (table.oid, table.filenode) for part in planned):
            return types.NamespaceVerdict(namespace=name.namespace, verdict=types.Verdict.OVERLAPS)
        return types.NamespaceVerdict(
            namespace=name.namespace,
            verdict=types.Verdict.OVERLAPS,
            reason=_REWRITTEN,
            partitions=await plan.partitions([name], self.sessions),
        )

    def _is_read_anew(self, name: TableName) -> bool:
        is_there = name in self.followed and name in self.identities
        return is_there and not self._has_key(name) and not all(piece.done for piece in self.pieces[name])

    def _has_key(self, name: TableName) -> bool:
        return name not in self.identities or self.identities[name].has_key


async def _require_history(sessions: Sessions, old: Snapshot, position: Position) -> None:
    """See to it that what the copy has read has not vanished with a server that was lost.

    Raises:
        OtherEndpointError: a standby was promoted, or a backup recovered, that had not got as far.
    """
    connection = await ReplicationConnection.open(sessions)
    try:
        system = connection.system
        if system.system_id != position.system_id:
            raise errors.OtherEndpointError(
                f"resuming the copy: another server answers for {system.database} than the one it was begun with; give "
                "the right host, or begin a new flow"
            )
        timeline = old.timeline or position.timeline
        end = system.position if timeline == system.timeline else await connection.timeline_end(timeline)
    finally:
        await asyncio.shield(connection.close())
    if end is None or end < max(old.position, position.end_lsn):
        raise errors.OtherEndpointError(
            f"resuming the copy: the server lacks what was read from {system.database} on timeline {timeline}: a "
            "standby was promoted, or a backup recovered, that had not got that far; run the flow again with --again, "
            "which copies what has changed"
        )
