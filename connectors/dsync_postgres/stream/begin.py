"""Beginning to follow, and letting go: publication first, then the slot, then its snapshot; each found again later.

A crash may fall between any two of them. What is there under the flow's own names is used again; what an administrator
has made and named is used, and never removed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from dsync.sdk import errors, failpoint
from dsync_postgres.identity import Identity, read_identity
from dsync_postgres.schema.names import TableName
from dsync_postgres.sessions import Sessions
from dsync_postgres.source.snapshots import Holder, current_position
from dsync_postgres.stream.connection import ReplicationConnection
from dsync_postgres.stream.errors import SlotMissingError
from dsync_postgres.stream.position import Position
from dsync_postgres.stream.publication import (
    create_publication,
    find_publication,
    remove_publication,
    require_identities,
    require_publication,
)
from dsync_postgres.stream.slots import (
    Blocker,
    Waiting,
    creating_slot,
    find_slot,
    pass_visibility_barrier,
    remove_slot,
    require_usable,
    running_transactions,
    slot_name,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """What a flow keeps at its source."""

    publication: str
    slot: str
    owns_publication: bool
    """dsync has made it and may remove it."""
    owns_slot: bool

    @classmethod
    def of(cls, flow: str, *, publication: str = "", slot: str = "") -> Names:
        """The flow's own names, or an administrator's where they are given."""
        own = slot_name(flow)
        return cls(
            publication=publication or own,
            slot=slot or own,
            owns_publication=not publication,
            owns_slot=not slot,
        )

    @classmethod
    def kept_by(cls, sessions: Sessions, flow: str = "") -> Names:
        """As the connector's options say; of the sessions' own flow, or of another one."""
        options = sessions.options
        return cls.of(flow or sessions.request.flow, publication=options.publication, slot=options.slot)


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """Where following begins."""

    position: Position
    """Every change that commits after it comes in the stream."""
    running: tuple[int, ...]
    """Transactions to be waited for before anything is read under another snapshot than the slot's own."""
    holder: Holder | None
    """Holds the slot's own snapshot, in which everything before the position is; None: the slot was there already, and
    what is read overlaps with the stream."""


def _say_nothing(blockers: list[Blocker]) -> None:
    """For those who do not want to know."""


async def begin_following(
    sessions: Sessions,
    names: Names,
    tables: Sequence[TableName],
    *,
    timeout_s: float = 60.0,
    on_waiting: Waiting = _say_nothing,
) -> Begun:
    """Publish the tables and make the slot, or find both; nothing of the tables may be read before.

    Raises:
        NotLogicalError, NoSlotFreeError, PrivilegeError, ReplicaIdentityError, PublicationChangedError: see there.
        SlotTimeoutError: open transactions have kept the slot from being made.
        SlotMissingError: the slot that an administrator is said to have made is not there.
    """
    identity = await sessions.run("asking the server who it is", read_identity)
    if identity.is_standby:
        raise errors.UnsupportedError(
            f"following {identity.database}: the server is a standby, where nothing can be published; give its "
            "primary, or choose --mode copy"
        )
    was_published = await _publish(sessions, names, tables)
    failpoint("source.after_publication")
    slot = await find_slot(sessions, names.slot)
    if slot is not None:
        found = require_usable(slot, names.slot, database=identity.database, position=None)
        lsn = found.confirmed_lsn if was_published else await _after_publishing(sessions, timeout_s)
        return Begun(
            position=await _position(sessions, identity, lsn),
            running=await running_transactions(sessions),
            holder=None,
        )
    if not names.owns_slot:
        raise SlotMissingError(
            f"following {identity.database}: there is no replication slot {names.slot}; make it (SELECT "
            f"pg_create_logical_replication_slot('{names.slot}', 'pgoutput')), or leave ?slot= out"
        )
    return await _create(sessions, names.slot, identity, timeout_s, on_waiting)


async def _create(sessions: Sessions, name: str, identity: Identity, timeout_s: float, on_waiting: Waiting) -> Begun:
    async with creating_slot(
        sessions, name, major=identity.major, timeout_s=timeout_s, on_waiting=on_waiting
    ) as created:
        failpoint("source.after_slot")
        holder = await Holder.open(sessions, identity, imported=created.snapshot_name, position=created.consistent_lsn)
    try:
        running = await running_transactions(sessions)
        position = await _position(sessions, identity, created.consistent_lsn)
    except BaseException:
        await asyncio.shield(holder.close())
        raise
    return Begun(position=position, running=running, holder=holder)


async def _publish(sessions: Sessions, names: Names, tables: Sequence[TableName]) -> bool:
    """See to it that the tables are published; True where all of them were before."""
    found = await find_publication(sessions, names.publication)
    if names.owns_publication:
        await create_publication(sessions, names.publication, tables)
        # What was taken out and put back is in no stream for as long as it was out.
        return found is not None and found.tables.issuperset(tables) and found.is_untouched
    require_publication(found, names.publication, tables)
    await sessions.run(
        f"looking at what publication {names.publication} publishes",
        lambda connection: require_identities(connection, tables),
    )
    return True


async def _after_publishing(sessions: Sessions, timeout_s: float) -> int:
    """A position behind every change that was made before the tables were published.

    A slot from before does not give those, and may not even pass them: a server looks for a publication where it stood
    when the change was made, and ends the stream where there was none.
    """
    await pass_visibility_barrier(sessions, await running_transactions(sessions), timeout_s=timeout_s)
    return await sessions.run("asking where the log ends", current_position)


async def _position(sessions: Sessions, identity: Identity, lsn: int) -> Position:
    """The position on this server; who it is as WAL senders say, which needs no privilege of its own."""
    if identity.system_id:
        return Position(system_id=str(identity.system_id), timeline=identity.timeline, end_lsn=lsn)
    connection = await ReplicationConnection.open(sessions)
    try:
        return Position(system_id=connection.system.system_id, timeline=connection.system.timeline, end_lsn=lsn)
    finally:
        await asyncio.shield(connection.close())


async def end_following(sessions: Sessions, names: Names, *, flow: str = "") -> list[str]:
    """Remove what is the flow's own; says what was removed, in words.

    `flow` is the flow whose reader of the slot may be ended, where it is not that of the sessions.

    Raises:
        SlotBusyError: somebody else reads from the slot.
    """
    removed: list[str] = []
    # The slot first: it is what fills the server's disk.
    if names.owns_slot:
        removed += await remove_slot(sessions, names.slot, flow=flow)
    if names.owns_publication:
        removed += await remove_publication(sessions, names.publication)
    return removed
