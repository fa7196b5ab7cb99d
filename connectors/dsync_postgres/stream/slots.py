"""Replication slots: made with a snapshot, found again after a crash, judged before they are used, removed.

A slot makes the server keep its log from the slot's position on, so one that nobody reads fills the server's disk.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from psycopg import errors as pg

from dsync.sdk import errors, types
from dsync_postgres.sessions import Connection, Session, Sessions
from dsync_postgres.stream.errors import (
    NoSlotFreeError,
    NotLogicalError,
    SlotBusyError,
    SlotLostError,
    SlotMissingError,
    SlotMovedError,
    SlotTimeoutError,
    SlotUnfitError,
    VisibilityError,
)
from dsync_postgres.stream.lsn import format_lsn, parse_lsn

PLUGIN = "pgoutput"
OWN_PREFIX = "dsync_"
"""What the names of flows' own slots and publications begin with."""
_POLL_S = 0.2
_MOST_SHOWN = 5
_NAME = re.compile(r"[a-z0-9_]{1,63}\Z")
# Options in parentheses came with 15; FAILOVER, which lets a standby keep a copy of the slot, with 17.
_PARENTHESES_SINCE, _FAILOVER_SINCE = 15, 17
_XID_MASK, _XID_HALF = (1 << 32) - 1, 1 << 31


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """A replication slot as the server shows it."""

    name: str
    plugin: str
    database: str
    """Empty for a physical slot."""
    is_temporary: bool
    active_pid: int
    """Who reads from it; 0: nobody."""
    reader: str
    """That session's application name, where this role may see it."""
    confirmed_lsn: int
    """Everything that has committed before was acknowledged, and is never sent again."""
    restart_lsn: int
    """The log is kept from here on."""
    wal_status: str
    """reserved, extended, unreserved or lost."""
    reason: str
    """Why it was invalidated (from 17 on); empty: it was not."""
    retained_bytes: int
    """How much log is kept for it."""
    safe_bytes: int | None
    """How much more may be written before it is lost; None: no limit is set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocker:
    """A transaction that keeps a slot from being made."""

    pid: int
    """0 for a prepared transaction."""
    gid: str
    """The name of a prepared transaction."""
    age_s: float
    application: str

    def __str__(self) -> str:
        who = f"prepared transaction {self.gid!r}" if self.gid else f"pid {self.pid}"
        name = f" ({self.application})" if self.application else ""
        return f"{who}{name}, open for {self.age_s:.0f} s"


@dataclass(frozen=True, slots=True, kw_only=True)
class CreatedSlot:
    """A slot that was just made, and the snapshot that goes with it."""

    name: str
    consistent_lsn: int
    """Every transaction that commits after it is in the stream, every one before is in the snapshot."""
    snapshot_name: str
    """Valid until the session that has made it runs another command or ends: import it at once."""


Waiting = Callable[[list[Blocker]], None]
"""Told from time to time what a creation waits for."""


def _ignore(blockers: list[Blocker]) -> None:
    """For those who do not want to know."""


# to_jsonb lets one text read columns that older servers do not have.
_SLOT = b"""
SELECT s.slot_name::text, coalesce(s.plugin, '')::text, coalesce(s.database, '')::text, s.temporary,
       coalesce(s.active_pid, 0), coalesce(a.application_name, '')::text, coalesce(s.confirmed_flush_lsn, '0/0')::text,
       coalesce(s.restart_lsn, '0/0')::text, coalesce(s.wal_status, '')::text,
       coalesce(to_jsonb(s) ->> 'invalidation_reason', ''),
       coalesce((CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END
                 - s.restart_lsn)::int8, 0),
       s.safe_wal_size::int8
FROM pg_replication_slots s LEFT JOIN pg_stat_activity a ON a.pid = s.active_pid
WHERE s.slot_name = %s
"""

_BLOCKERS = b"""
SELECT pid, '', extract(epoch FROM clock_timestamp() - xact_start)::float8, application_name::text,
       backend_xid::text::int8
FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND pid <> %(own)s
UNION ALL
SELECT 0, gid, extract(epoch FROM clock_timestamp() - prepared)::float8, '', transaction::text::int8
FROM pg_prepared_xacts
ORDER BY 3 DESC
"""


def slot_name(flow: str) -> str:
    """The name of a flow's own slot and publication: what slots may be called."""
    return f"{OWN_PREFIX}{re.sub('[^a-z0-9_]', '_', flow.lower())}"[:63]


def require_name(name: str) -> str:
    """The name, if a slot can be called so.

    Raises:
        OptionError: it cannot.
    """
    if not _NAME.match(name):
        raise errors.OptionError(
            f"slot {name!r}: a replication slot's name has up to 63 of lower-case letters, digits and underscores"
        )
    return name


async def find_slot(sessions: Sessions, name: str) -> Slot | None:
    """The slot of that name, None where there is none."""
    return await sessions.run(f"looking at replication slot {name}", lambda connection: read_slot(connection, name))


def read_slot(connection: Connection, name: str) -> Slot | None:
    """As `find_slot`, on a connection."""
    row = connection.execute(_SLOT, [name]).fetchone()
    if row is None:
        return None
    found, plugin, database, temporary, pid, reader, confirmed, restart, status, reason, retained, safe = row
    return Slot(
        name=found,
        plugin=plugin,
        database=database,
        is_temporary=temporary,
        active_pid=pid,
        reader=reader,
        confirmed_lsn=parse_lsn(confirmed),
        restart_lsn=parse_lsn(restart),
        wal_status=status,
        reason=reason,
        retained_bytes=retained,
        safe_bytes=safe,
    )


def require_usable(slot: Slot | None, name: str, *, database: str, position: int | None) -> Slot:
    """The slot, if a stream may go on by it from that position; None: from wherever it stands.

    Raises:
        SlotMissingError, SlotLostError, SlotMovedError: changes after the position are not there any more.
        SlotUnfitError: it is a slot of another kind or database.
        SlotBusyError: somebody reads from it.
    """
    slot = require_whole(slot, name, database=database)
    if position is not None:
        require_not_moved(slot, database=database, position=position)
    if slot.active_pid:
        raise busy(name, slot.active_pid, slot.reader)
    return slot


def require_not_moved(slot: Slot, *, database: str, position: int) -> None:
    """See to it that the server sends all that comes after a position.

    Raises:
        SlotMovedError: it skips some of it.
    """
    if slot.confirmed_lsn > position:
        raise SlotMovedError(
            f"following {database}: replication slot {slot.name} stands at {format_lsn(slot.confirmed_lsn)}, after the "
            f"flow's position {format_lsn(position)}: somebody else has moved or made it, and the server would skip "
            "what lies between; run the flow again with --again, which copies what has changed"
        )


def require_whole(slot: Slot | None, name: str, *, database: str) -> Slot:
    """The slot, if it is one that this database can be followed by, and the log that it needs is there.

    Raises:
        SlotMissingError, SlotLostError: it is not there any more, or the log is not.
        SlotUnfitError: it is a slot of another kind or database.
    """
    if slot is None:
        raise SlotMissingError(
            f"following {database}: replication slot {name} does not exist (any more), and changes after the flow's "
            "position may be gone; run the flow again with --again, which copies what has changed"
        )
    if slot.plugin != PLUGIN or slot.database != database or slot.is_temporary:
        what = f"plug-in {slot.plugin or 'none (physical)'}, database {slot.database or 'none'}"
        raise SlotUnfitError(
            f"following {database}: replication slot {name} is not one of {PLUGIN} for this database ({what}"
            f"{', temporary' if slot.is_temporary else ''}); choose another one with ?slot=, or drop it"
        )
    if slot.wal_status == "lost" or slot.reason:
        raise SlotLostError(
            f"following {database}: replication slot {name} is lost ({slot.reason or 'wal_removed'}): the server has "
            "removed log that it needed; raise max_slot_wal_keep_size, drop the slot (`dsync reset`), and run the flow "
            "again with --again"
        )
    return slot


def busy(name: str, pid: int, reader: str) -> SlotBusyError:
    """The error for a slot that has a reader."""
    who = ", ".join(([f"pid {pid}"] if pid else []) + ([reader] if reader else []))
    return SlotBusyError(
        f"following by replication slot {name}: another session reads from it ({who}); it is tried again; end that "
        "session if it should not be there (SELECT pg_terminate_backend(…))"
    )


@asynccontextmanager
async def creating_slot(
    sessions: Sessions,
    name: str,
    *,
    major: int,
    timeout_s: float,
    on_waiting: Waiting = _ignore,
    is_temporary: bool = False,
) -> AsyncIterator[CreatedSlot]:
    """Make a slot; inside the context its snapshot can be imported, which is the first thing to do there.

    An error inside leaves the slot: it is found again, and its position is good for an overlapping copy. One that is
    temporary is gone at the end, for the sake of its snapshot alone.

    Raises:
        SlotTimeoutError: open transactions have kept it waiting for so long; nothing of it is left.
        NotLogicalError, NoSlotFreeError, PrivilegeError: the server or the role is not made for it.
        SlotUnfitError: there is one of that name.
    """
    session = await sessions.open("slot", replication=True)
    try:
        command = _command(require_name(name), major, is_temporary=is_temporary)
        yield await _create(sessions, session, name, command, timeout_s, on_waiting)
    finally:
        await asyncio.shield(session.close())


async def _create(
    sessions: Sessions, session: Session, name: str, command: bytes, timeout_s: float, on_waiting: Waiting
) -> CreatedSlot:
    making = asyncio.ensure_future(
        session.run(f"creating replication slot {name}", lambda connection: _create_now(connection, name, command))
    )
    blockers: list[Blocker] = []
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    try:
        while not making.done() and loop.time() < deadline:
            await asyncio.wait({making}, timeout=min(_POLL_S, max(0.0, deadline - loop.time())))
            if not making.done():
                blockers = await find_blockers(sessions, session.pid)
                on_waiting(blockers)
        if making.done():
            return making.result()
    finally:
        if not making.done():
            making.cancel()
            await asyncio.wait({making})
    if not making.cancelled():
        # It was made, or has failed, in the last moment.
        return making.result()
    await asyncio.shield(remove_slot(sessions, name))
    raise SlotTimeoutError(
        f"creating replication slot {name}: transactions that were open at its start did not end within "
        f"{timeout_s:g} s: {_listed(blockers)}; end them, or allow more time with --slot-timeout; nothing of the slot "
        "is left"
    )


def _command(name: str, major: int, *, is_temporary: bool) -> bytes:
    if major >= _PARENTHESES_SINCE:
        failover = ", FAILOVER true" if major >= _FAILOVER_SINCE and not is_temporary else ""
        options = f"(SNAPSHOT 'export'{failover})"
    else:
        options = "EXPORT_SNAPSHOT"
    return f"CREATE_REPLICATION_SLOT {name}{' TEMPORARY' * is_temporary} LOGICAL {PLUGIN} {options}".encode()


def _create_now(connection: Connection, name: str, command: bytes) -> CreatedSlot:
    try:
        row = connection.execute(command).fetchone()
    except pg.DuplicateObject as exc:
        raise SlotUnfitError(
            f"creating replication slot {name}: there is one already; choose another name with ?slot=, or drop it if "
            "nobody needs it (SELECT pg_drop_replication_slot(…))"
        ) from exc
    except pg.ObjectNotInPrerequisiteState as exc:
        raise NotLogicalError(
            f"creating replication slot {name}: the server's wal_level is not logical; set wal_level = logical and "
            "restart it, or choose --mode copy"
        ) from exc
    except pg.ConfigurationLimitExceeded as exc:
        raise NoSlotFreeError(
            f"creating replication slot {name}: all replication slots of the server are in use; drop one that nobody "
            "needs (pg_replication_slots shows them), or raise max_replication_slots"
        ) from exc
    assert row is not None, "the command answers with one row"
    return CreatedSlot(name=name, consistent_lsn=parse_lsn(row[1]), snapshot_name=row[2])


async def find_blockers(sessions: Sessions, own_pid: int, before: int | None = None) -> list[Blocker]:
    """Transactions that have written and not ended, oldest first; of `before`, those that were begun before that id."""

    def work(connection: Connection) -> list[Blocker]:
        rows = connection.execute(_BLOCKERS, {"own": own_pid}).fetchall()
        return [
            Blocker(pid=pid, gid=gid, age_s=age or 0.0, application=name or "")
            for pid, gid, age, name, xid in rows
            if before is None or full_xid(xid, before) < before
        ]

    return await sessions.run("looking for open transactions", work)


def _listed(blockers: list[Blocker]) -> str:
    more = len(blockers) - _MOST_SHOWN
    text = "; ".join(map(str, blockers[:_MOST_SHOWN])) or "none that this role may see"
    return f"{text}; and {more} more" if more > 0 else text


async def running_transactions(sessions: Sessions) -> tuple[int, ...]:
    """The 64-bit ids of all transactions that have not ended; to be read and kept once the slot is made.

    A commit is logged before it becomes visible, and may wait for a standby in between: a snapshot taken then lacks a
    row that lies before the slot's position, and the stream lacks it too. `pass_visibility_barrier` waits these out
    before anything but the slot's own snapshot is read.

    From the locks that each transaction holds on its own id, until after it is visible: a snapshot does not list the
    newest of them, those from its xmax on (seen: `750:750:` while 750 waited for a standby).
    """

    def work(connection: Connection) -> tuple[int, ...]:
        row = connection.execute("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::int8").fetchone()
        assert row is not None, "a SELECT without FROM gives one row"
        rows = connection.execute(
            "SELECT DISTINCT transactionid::text::int8 FROM pg_locks WHERE locktype = 'transactionid' AND granted"
        ).fetchall()
        return tuple(sorted(full_xid(xid, row[0]) for (xid,) in rows))

    return await sessions.run("looking at running transactions", work)


def full_xid(xid: int, near: int) -> int:
    """The 64-bit id whose lower half is `xid` and that is nearest to another one: ids wrap around every 2**32."""
    candidate = near - (near & _XID_MASK) + xid
    if candidate > near + _XID_HALF:
        return candidate - _XID_MASK - 1
    return candidate + _XID_MASK + 1 if candidate < near - _XID_HALF else candidate


async def pass_visibility_barrier(sessions: Sessions, xids: Sequence[int], *, timeout_s: float) -> None:
    """Wait until these transactions are visible to new readers, or rolled back.

    Raises:
        SlotTimeoutError: a transaction did not end for so long.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    while left := await _left_of(sessions, xids):
        if loop.time() > deadline:
            blockers = await find_blockers(sessions, 0)
            raise SlotTimeoutError(
                f"reading beside a stream: {left} transaction(s) that were open did not end within "
                f"{timeout_s:g} s: {_listed(blockers)}; end them, or allow more time with --slot-timeout"
            )
        await asyncio.sleep(_POLL_S)


async def wait_until_visible(
    sessions: Sessions, before: int, *, timeout_s: float, on_waiting: Waiting = _ignore
) -> None:
    """Wait until a new reader sees every transaction begun before that 64-bit id, or sees that it was rolled back.

    Raises:
        VisibilityError: one of them did not end for so long.
    """

    def look(connection: Connection) -> bool:
        row = connection.execute("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::int8").fetchone()
        assert row is not None, "a SELECT without FROM gives one row"
        return bool(row[0] >= before)

    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    while not await sessions.run("waiting for transactions to become visible", look):
        blockers = await find_blockers(sessions, 0, before)
        on_waiting(blockers)
        if loop.time() > deadline:
            raise VisibilityError(
                "reading beside a stream: transactions that were open when the stream began have not ended within "
                f"{timeout_s:g} s: {_listed(blockers)}; it is tried again; end them if they should not be there"
            )
        await asyncio.sleep(_POLL_S)


async def committing_transactions(sessions: Sessions) -> tuple[int, tuple[int, ...]]:
    """(position, ids): whatever has committed before that position is visible to new readers once these have ended.

    As `running_transactions`, but for those that wait for their client: they are in no commit.
    """

    def work(connection: Connection) -> tuple[int, tuple[int, ...]]:
        row = connection.execute(
            "SELECT pg_current_wal_insert_lsn() - pg_lsn '0/0', pg_snapshot_xmax(pg_current_snapshot())::text::int8"
        ).fetchone()
        assert row is not None, "a SELECT without FROM gives one row"
        rows = connection.execute(
            "SELECT DISTINCT l.transactionid::text::int8 FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid"
            " WHERE l.locktype = 'transactionid' AND l.granted"
            " AND coalesce(a.state NOT LIKE 'idle in transaction%', true)"
        ).fetchall()
        return int(row[0]), tuple(sorted(full_xid(xid, row[1]) for (xid,) in rows))

    return await sessions.run("looking at transactions that commit", work)


async def wait_until_ended(sessions: Sessions, xids: Sequence[int], *, timeout_s: float) -> None:
    """As `pass_visibility_barrier`, where waiting longer is a matter of trying again.

    Raises:
        VisibilityError: one of the transactions did not end for so long.
    """
    try:
        await pass_visibility_barrier(sessions, xids, timeout_s=timeout_s)
    except SlotTimeoutError as exc:
        raise VisibilityError(str(exc)) from exc


async def _left_of(sessions: Sessions, xids: Sequence[int]) -> int:
    """How many of the transactions a new reader would not see yet."""
    query = (
        b"SELECT count(*) FROM unnest(%s::text[]) x WHERE NOT pg_visible_in_snapshot(x::xid8, pg_current_snapshot())"
    )

    def work(connection: Connection) -> int:
        row = connection.execute(query, [list(map(str, xids))]).fetchone()
        return 0 if row is None else int(row[0])

    return await sessions.run("waiting for transactions to become visible", work) if xids else 0


async def write_out(sessions: Sessions) -> int:
    """Return once all of the log up to now is on the server's disk, and where that is.

    What commits with synchronous_commit off is visible before it is durable. A reader that has copied it while the
    server crashes would have rows that the source never had, and no change would ever tell.
    """

    def work(connection: Connection) -> int:
        with connection.transaction():
            # Not to wait for a standby, only for the disk.
            connection.execute("SET LOCAL synchronous_commit = local")
            row = connection.execute(
                "SELECT pg_logical_emit_message(true, 'dsync.write', '') - pg_lsn '0/0'"
            ).fetchone()
        assert row is not None, "a SELECT without FROM gives one row"
        return int(row[0])

    return await sessions.run("having the log written out", work)


async def remove_slot(sessions: Sessions, name: str, *, flow: str = "") -> list[str]:
    """Drop the slot, ending a reader that belongs to this flow; says what was removed, nothing where there is none.

    Raises:
        SlotBusyError: somebody else reads from it.
    """
    prefix = sessions.prefix_of(types.Role.SOURCE, flow)

    def work(connection: Connection) -> list[str]:
        slot = read_slot(connection, name)
        if slot is None:
            return []
        if slot.active_pid and slot.reader.startswith(prefix):
            # Waits until that session has let go of the slot.
            connection.execute("SELECT pg_terminate_backend(%s, 10000)", [slot.active_pid])
        try:
            connection.execute("SELECT pg_drop_replication_slot(%s)", [name])
        except pg.UndefinedObject:
            return []
        except pg.ObjectInUse as exc:
            raise busy(name, slot.active_pid, slot.reader) from exc
        return [f"replication slot {name}"]

    return await sessions.run(f"dropping replication slot {name}", work)
