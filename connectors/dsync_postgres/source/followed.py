"""Plans of a database whose changes are followed: the slot's own snapshot is what the pages are read from.

Where the slot was there before, or a table was rewritten after the slot's snapshot, pages are read under a later one
and overlap with the stream. That is good for tables with a key alone; for the sake of the others the slot is made anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog

from dsync.sdk import errors
from dsync_postgres.schema.names import TableName
from dsync_postgres.sessions import Sessions
from dsync_postgres.source.openplan import OpenPlan, is_as_seen, look, open_plan, require_readable, require_same_columns
from dsync_postgres.source.planned import PlannedTable
from dsync_postgres.source.snapshots import Holder
from dsync_postgres.stream.begin import Begun, Names, begin_following, end_following
from dsync_postgres.stream.errors import SlotLostError
from dsync_postgres.stream.position import Position
from dsync_postgres.stream.publication import RowIdentity, read_identities, remove_publication
from dsync_postgres.stream.slots import Blocker, find_slot, pass_visibility_barrier, remove_slot, write_out

_log = structlog.get_logger(__name__)

_WAIT_S = 60.0
_ATTEMPTS = 3
_REPEAT_S = 10.0
_MOST_NAMES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowedPlan:
    """An open plan, and where following it begins."""

    plan: OpenPlan
    tables: tuple[TableName, ...]
    """Those that are followed; the others are copied only."""
    position: Position
    overlaps: bool
    """What is read may be newer than the changes that come first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Chosen:
    """The tables of a plan before it is opened."""

    before: Mapping[TableName, PlannedTable]
    """As they were described."""
    followed: tuple[TableName, ...]
    keyless: tuple[TableName, ...]


async def open_followed_plan(
    sessions: Sessions, names: list[TableName], described: Holder | None, *, wait_s: float = 0.0
) -> FollowedPlan:
    """Publish the tables, make the slot or find it, and look at the tables under its snapshot or a later one.

    An error leaves nothing at the server that was not there before.

    Raises:
        NamespaceChangedError: a table was altered since it was described.
        ReplicaIdentityError, NotLogicalError, NoSlotFreeError, PrivilegeError, SlotTimeoutError, …: it cannot be
            followed.
        UnsupportedError: there is nothing to follow, or rows are chosen by a condition, or this is a standby.
    """
    kept, wait_s = Names.kept_by(sessions), wait_s or _WAIT_S
    chosen = await _choose(sessions, names, described)
    for _ in range(_ATTEMPTS):
        try:
            begun = await begin_following(
                sessions, kept, chosen.followed, timeout_s=wait_s, on_waiting=telling("slot_waiting", kept.slot)
            )
        except SlotLostError:
            # Nothing can be followed by it any more, and this plan reads everything.
            if not kept.owns_slot:
                raise
            await remove_slot(sessions, kept.slot)
            continue
        except BaseException:
            await asyncio.shield(_undo_publication(sessions, kept))
            raise
        try:
            plan = await _exact(sessions, names, begun.holder, chosen)
            overlaps = plan is None
            if overlaps and chosen.keyless:
                await _make_way(sessions, kept, chosen.keyless)
                continue
            plan = plan or await _beside(sessions, names, chosen, begun, wait_s)
        except BaseException:
            await asyncio.shield(_undo(sessions, kept, begun))
            raise
        plan.followed = frozenset(chosen.followed)
        return FollowedPlan(plan=plan, tables=chosen.followed, position=begun.position, overlaps=overlaps)
    raise errors.ConflictError(
        "planning the copy: tables are rewritten (TRUNCATE, VACUUM FULL, ALTER TABLE) faster than they can be planned; "
        "try again when that is over"
    )


async def _choose(sessions: Sessions, names: list[TableName], described: Holder | None) -> _Chosen:
    """What is to be followed; the description's snapshot is let go, which would only keep VACUUM waiting."""
    if sessions.request.row_filters:
        raise errors.UnsupportedError(
            "planning: rows that stop meeting a --filter would have to be removed from the sink, which is not done; "
            "leave --filter out, or choose --mode copy"
        )
    try:
        before = await look(sessions, described.snapshot.name if described is not None else "", names)
        require_readable(names, before)
    finally:
        if described is not None:
            await asyncio.shield(described.close())
    identities = await sessions.run(
        "looking at what tells rows apart", lambda connection: read_identities(connection, names)
    )
    followed = {name: identities[name] for name in names if name in identities and identities[name].can_be_followed}
    if not followed:
        raise errors.UnsupportedError(
            "planning: none of the chosen tables is one that can be followed (permanent, with rows of its own, and no "
            "extension's); choose --mode copy"
        )
    return _Chosen(before=before, followed=tuple(followed), keyless=tuple(keyless_of(followed)))


def keyless_of(identities: Mapping[TableName, RowIdentity]) -> list[TableName]:
    """Those whose changes are told by whole rows: reading them beside the stream would double rows."""
    return [name for name, facts in identities.items() if not facts.has_key]


async def _exact(sessions: Sessions, names: list[TableName], holder: Holder | None, chosen: _Chosen) -> OpenPlan | None:
    """The plan under the slot's own snapshot; None where there is none that could be read."""
    if holder is None:
        return None
    try:
        tables = await look(sessions, holder.snapshot.name, names)
        require_readable(names, tables)
        require_same_columns(chosen.before, tables)
        if all(is_as_seen(table) for table in tables.values()):
            # A transaction is named by where its commit begins, and one that begins at the position comes after it.
            return OpenPlan(
                holder=holder,
                tables=tables,
                lineages={holder.snapshot.lineage},
                seen_through=holder.snapshot.position - 1,
            )
    except BaseException:
        await asyncio.shield(holder.close())
        raise
    await holder.close()
    return None


async def _beside(sessions: Sessions, names: list[TableName], chosen: _Chosen, begun: Begun, wait_s: float) -> OpenPlan:
    """A plan under a later snapshot, which sees everything up to the position."""
    await pass_visibility_barrier(sessions, begun.running, timeout_s=wait_s)
    plan = await open_plan(sessions, names, None, chosen.before)
    try:
        await write_out(sessions)
    except BaseException:
        await asyncio.shield(plan.holder.close())
        raise
    return plan


async def _make_way(sessions: Sessions, kept: Names, keyless: tuple[TableName, ...]) -> None:
    """Remove a slot whose stream cannot be joined by what is read later.

    Raises:
        UnsupportedError: somebody else has made it.
    """
    if not kept.owns_slot:
        more = f" and {len(keyless) - _MOST_NAMES} more" if len(keyless) > _MOST_NAMES else ""
        raise errors.UnsupportedError(
            f"planning: {', '.join(map(str, keyless[:_MOST_NAMES]))}{more} has no key, so it can be followed only from "
            f"the moment in which a slot is made, and {kept.slot} is there already; add a primary key, leave the table "
            "out with --exclude, or leave ?slot= out"
        )
    await remove_slot(sessions, kept.slot)


async def _undo(sessions: Sessions, kept: Names, begun: Begun) -> None:
    """Leave no slot behind that nobody knows of; one that was there before stays, for it may be known."""
    if begun.holder is not None:
        with contextlib.suppress(errors.DsyncError):
            await end_following(sessions, kept)


async def _undo_publication(sessions: Sessions, kept: Names) -> None:
    """Leave no publication behind without a slot, unless somebody is to make that."""
    if kept.owns_slot and kept.owns_publication:
        with contextlib.suppress(errors.DsyncError):
            if await find_slot(sessions, kept.slot) is None:
                await remove_publication(sessions, kept.publication)


def telling(event: str, slot: str) -> Callable[[list[Blocker]], None]:
    """Says in the log whom something waits for: at once, and then from time to time."""
    next_s = 0.0

    def tell(blockers: list[Blocker]) -> None:
        nonlocal next_s
        now_s = time.monotonic()
        if blockers and now_s >= next_s:
            next_s = now_s + _REPEAT_S
            _log.warning(event, slot=slot, waits_for=[str(blocker) for blocker in blockers[:_MOST_NAMES]])

    return tell
