"""Tables that join a stream while it is followed: new ones, and such as are copied anew.

They are published first. A temporary slot then gives a snapshot and its place in the log, which the flow's own slot has
still to come to: pages have every transaction up to there, the stream all later ones.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Collection, Mapping

from dsync.sdk import errors
from dsync_postgres.identity import Identity, read_identity
from dsync_postgres.schema.names import TableName
from dsync_postgres.sessions import Sessions
from dsync_postgres.source.followed import telling
from dsync_postgres.source.openplan import OpenPlan, is_as_seen, look, require_readable, require_same_columns
from dsync_postgres.source.planned import PlannedTable
from dsync_postgres.source.snapshots import Holder
from dsync_postgres.stream.begin import Names
from dsync_postgres.stream.publication import (
    add_tables,
    find_publication,
    require_identities,
    require_publication,
)
from dsync_postgres.stream.slots import (
    creating_slot,
    find_slot,
    pass_visibility_barrier,
    require_whole,
    running_transactions,
)

_WAIT_S = 60.0
_ATTEMPTS = 3


async def join_stream(
    sessions: Sessions,
    names: list[TableName],
    followed: Collection[TableName],
    described: Holder | None,
    *,
    wait_s: float = 0.0,
) -> OpenPlan | None:
    """The tables under a snapshot that fits a place in the stream, which follows `followed` by now.

    None: they have only just been published, or are not followed yet. The stream has to be opened anew with them,
    behind everything that had begun before. Repeatable.

    Raises:
        ReplicaIdentityError, UnsupportedError, MissingObjectError: a table cannot be followed.
        PublicationChangedError: an administrator's publication lacks one.
        NamespaceChangedError: a table was altered since it was described.
        SlotTimeoutError: open transactions have kept the temporary slot from being made.
    """
    wait_s = wait_s or _WAIT_S
    try:
        before = await look(sessions, described.snapshot.name if described is not None else "", names)
        require_readable(names, before)
    finally:
        if described is not None:
            await asyncio.shield(described.close())
    kept = Names.kept_by(sessions)
    identity = await sessions.run("asking the server who it is", read_identity)
    require_whole(await find_slot(sessions, kept.slot), kept.slot, database=identity.database)
    was_published = await _publish(sessions, kept, names)
    if not (was_published and followed and set(names) <= set(followed)):
        # What had begun before may be decoded as if the tables were not published, and others after it likewise.
        await pass_visibility_barrier(sessions, await running_transactions(sessions), timeout_s=wait_s)
        return None
    return await _open(sessions, identity, kept, names, before, wait_s)


async def _publish(sessions: Sessions, kept: Names, names: list[TableName]) -> bool:
    """See to it that the tables are published; True where all of them were before."""
    await sessions.run("looking at what tells rows apart", lambda connection: require_identities(connection, names))
    found = await find_publication(sessions, kept.publication)
    if found is not None and found.tables.issuperset(names) and not found.partial.intersection(names):
        return True
    if not kept.owns_publication:
        require_publication(found, kept.publication, names)
    await add_tables(sessions, kept.publication, names)
    return False


async def _open(
    sessions: Sessions,
    identity: Identity,
    kept: Names,
    names: list[TableName],
    before: Mapping[TableName, PlannedTable],
    wait_s: float,
) -> OpenPlan:
    for _ in range(_ATTEMPTS):
        slot = f"{kept.slot[:50]}_{secrets.token_hex(4)}"
        async with creating_slot(
            sessions,
            slot,
            major=identity.major,
            timeout_s=wait_s,
            on_waiting=telling("slot_waiting", slot),
            is_temporary=True,
        ) as created:
            holder = await Holder.open(
                sessions, identity, imported=created.snapshot_name, position=created.consistent_lsn
            )
        try:
            tables = await look(sessions, holder.snapshot.name, names)
            require_readable(names, tables)
            require_same_columns(before, tables)
        except BaseException:
            await asyncio.shield(holder.close())
            raise
        if all(is_as_seen(table) for table in tables.values()):
            return OpenPlan(
                holder=holder,
                tables=tables,
                lineages={holder.snapshot.lineage},
                followed=frozenset(names),
                # A transaction is named by where its commit begins, and one that begins at the position comes after it.
                seen_through=created.consistent_lsn - 1,
            )
        await holder.close()
    raise errors.ConflictError(
        "planning: tables are rewritten (TRUNCATE, VACUUM FULL, ALTER TABLE) faster than they can be planned; it is "
        "tried again"
    )
