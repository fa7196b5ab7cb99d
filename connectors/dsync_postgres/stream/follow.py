"""Following a database: frames of changes, for ever, over connections that come and go.

A connection that is lost is opened again at the position after the last frame; where that does not help for a while,
the stream ends with the error, and whoever asked for it goes on from what is durable.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog

from dsync.sdk import errors
from dsync.sdk.types import ChangeFrame
from dsync_postgres.schema.columns import read_columns
from dsync_postgres.schema.names import TableName
from dsync_postgres.sessions import Connection, Sessions
from dsync_postgres.stream.connection import ReplicationConnection, StreamSettings
from dsync_postgres.stream.errors import SlotBusyError
from dsync_postgres.stream.frames import FrameBuilder, TypeName
from dsync_postgres.stream.keys import TableKey, key_of, read_table_keys
from dsync_postgres.stream.messages import Relation
from dsync_postgres.stream.position import Position
from dsync_postgres.stream.publication import find_publication, require_publication, require_told_rows
from dsync_postgres.stream.slots import find_slot, require_not_moved, require_usable
from dsync_postgres.stream.transactions import Transactions

_log = structlog.get_logger(__name__)

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0
# Where nothing is written for us, the position is told so often.
_HEARTBEAT_S = 0.25
# So often it is looked whether all tables are still published.
_LOOK_S = 10.0
# So many events in one go before others of the event loop get their turn.
_EVENTS_A_TURN = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Following:
    """What is followed, and from where."""

    slot: str
    publications: tuple[str, ...]
    tables: tuple[TableName, ...]
    """Those whose changes are wanted; a publication of an administrator's may have more."""
    position: Position
    """Where it goes on."""
    folder: Path
    """Where large transactions wait; there already, and nobody else's."""
    frame_bytes: int = 1024 * 1024
    frame_limit_bytes: int = 64 * 1024 * 1024
    """What a frame may weigh at the most, everything included."""
    retry_for_s: float = 30.0
    durable_lsn: int | None = None
    """Everything up to it is durable; None: up to the position."""


class Follower:
    """One stream."""

    def __init__(self, sessions: Sessions, following: Following) -> None:
        self._sessions = sessions
        self._following = following
        self._sent = following.position
        durable = following.durable_lsn
        self._durable_lsn = following.position.end_lsn if durable is None else durable
        self._connection: ReplicationConnection | None = None
        self._last_pid = 0
        self._types: dict[TypeName, str] = {}
        self._details: dict[int, tuple[Relation, bytes]] = {}
        """What the catalogue says of each table's columns, by oid, and since which word of the stream."""
        self._frame_at_s = 0.0
        self._checked_at_s = 0.0

    def acknowledge(self, position: Position) -> None:
        """Everything up to a position of this stream is durable: the server may discard it. Repeatable."""
        self._durable_lsn = max(self._durable_lsn, position.end_lsn)
        if self._connection is not None:
            self._connection.acknowledge(self._durable_lsn)

    async def frames(self) -> AsyncGenerator[ChangeFrame, None]:
        """Changes after the position, in the source's order; a frame without any where only the position moves.

        Raises:
            CursorExpiredError, OtherEndpointError, PublicationChangedError, …: only a person can help.
            RetryableError: the server could not be reached for `retry_for_s`.
        """
        loop = asyncio.get_running_loop()
        pause_s, lost_at_s = _FIRST_PAUSE_S, 0.0
        while True:
            try:
                async with aclosing(self._connected()) as frames:
                    async for frame in frames:
                        pause_s, lost_at_s = _FIRST_PAUSE_S, 0.0
                        yield frame
            except errors.RetryableError as exc:
                lost_at_s = lost_at_s or loop.time()
                if loop.time() - lost_at_s > self._following.retry_for_s:
                    raise
                _log.warning("stream_lost", slot=self._following.slot, error=str(exc), pause_s=pause_s)
                if isinstance(exc, SlotBusyError):
                    await self._end_own_sender()
                await asyncio.sleep(pause_s)
                pause_s = min(_LONGEST_PAUSE_S, 2 * pause_s)

    async def _connected(self) -> AsyncGenerator[ChangeFrame, None]:
        """Frames of one connection; ends with an error alone."""
        following = self._following
        tables = await self._sessions.run("reading the tables' keys", read_table_keys)
        connection = await ReplicationConnection.open(self._sessions)
        transactions = Transactions(following.folder, lambda relation: key_of(relation, tables))
        try:
            await self._require_same(connection)
            self._last_pid = connection.pid
            await connection.start(
                StreamSettings(
                    slot=following.slot,
                    publications=following.publications,
                    start_lsn=self._sent.end_lsn,
                    durable_lsn=self._durable_lsn,
                )
            )
            self._connection = connection
            await self._require_not_moved(connection)
            builder = self._builder(tables)
            while True:
                if asyncio.get_running_loop().time() - self._checked_at_s > _LOOK_S:
                    await self._require_published()
                async with aclosing(self._pump(connection, transactions, builder)) as frames:
                    async for frame in frames:
                        self._sent = builder.sent
                        yield frame
        finally:
            self._connection = None
            transactions.close()
            await asyncio.shield(connection.close())

    def _builder(self, tables: dict[int, TableKey]) -> FrameBuilder:
        return FrameBuilder(
            self._sent,
            tables=tables,
            namespaces=[table.namespace for table in self._following.tables],
            frame_bytes=self._following.frame_bytes,
        )

    async def _pump(
        self, connection: ReplicationConnection, transactions: Transactions, builder: FrameBuilder
    ) -> AsyncGenerator[ChangeFrame, None]:
        """Take what has come, once, and make frames of it."""
        received: list[bytes] = []
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_HEARTBEAT_S if builder.has_moved and not len(builder) else None):
                received = await connection.read()
        for number, event in enumerate(transactions.feed(received), start=1):
            builder.add(event)
            if builder.is_full:
                yield await self._frame(connection, builder)
            if not number % _EVENTS_A_TURN:
                await asyncio.sleep(0)
        if not builder.is_between or not builder.has_moved:
            return
        # Changes at once where nothing more is there to wait for; a position alone may wait for company.
        since_s = asyncio.get_running_loop().time() - self._frame_at_s
        if connection.is_idle if len(builder) else since_s >= _HEARTBEAT_S:
            yield await self._frame(connection, builder)

    async def _frame(self, connection: ReplicationConnection, builder: FrameBuilder) -> ChangeFrame:
        unknown = sorted(builder.types - self._types.keys())
        if unknown:
            self._types.update(await self._sessions.run("naming types", lambda found: _name_types(found, unknown)))
        await self._look_at_columns(builder.relations)
        self._frame_at_s = asyncio.get_running_loop().time()
        if builder.size_bytes > self._following.frame_limit_bytes:
            raise errors.CapacityError(
                f"following {', '.join(builder.namespaces)}: a change weighs more than one message may "
                f"({self._following.frame_limit_bytes:,} bytes); shorten the row, or leave its table out with --exclude"
            )
        return builder.flush(
            self._types.__getitem__,
            details_of=lambda relation: self._details[relation.oid][1],
            time=_EPOCH + timedelta(microseconds=connection.sent_at_us) if connection.sent_at_us else None,
            position=connection.received_lsn,
        )

    async def _look_at_columns(self, relations: Sequence[Relation]) -> None:
        """See to it that the details of these tables are known, read after the stream has said what they are now."""
        told = [one for one in relations if one.oid not in self._details or self._details[one.oid][0] is not one]
        if not told:
            return
        names = {one.oid: TableName(schema=one.schema, name=one.name) for one in told}
        found = await self._sessions.run(
            "reading the tables' columns", lambda connection: read_columns(connection, list(names.values()))
        )
        # A table that is not there any more has none, and nobody who needs them will miss the word.
        self._details.update({one.oid: (one, found.get(names[one.oid], b"")) for one in told})

    # ------------------------------------------------------------------- checks

    async def _require_same(self, connection: ReplicationConnection) -> None:
        """Judge server, slot and publication before anything is read by them.

        Raises:
            OtherEndpointError: this is another server, or one whose history has left the position behind.
            SlotMissingError, SlotLostError, SlotMovedError, SlotUnfitError, SlotBusyError: see `require_usable`.
            PublicationMissingError, PublicationChangedError: changes would be left out.
        """
        system, following, sent = connection.system, self._following, self._sent
        if system.system_id != sent.system_id:
            raise errors.OtherEndpointError(
                f"following {system.database}: another server answers than the one this flow has followed so far (its "
                "system identifier is another); give the right host, or begin a new flow"
            )
        await self._require_history(connection)
        slot = await find_slot(self._sessions, following.slot)
        require_usable(slot, following.slot, database=system.database, position=sent.end_lsn)
        await self._require_published()

    async def _require_not_moved(self, connection: ReplicationConnection) -> None:
        """Look once more, now that nobody else can move the slot: it may have been between the look and the start.

        Raises:
            SlotMovedError: the server skips what lies between.
        """
        slot = await find_slot(self._sessions, self._following.slot)
        if slot is not None:
            require_not_moved(slot, database=connection.system.database, position=self._sent.end_lsn)

    async def _require_published(self) -> None:
        """Look from time to time, too: what a publication leaves out from now on, the stream does not tell.

        What was dropped or renamed has left the publication too; whoever follows it learns of that by the status.

        Raises:
            PublicationMissingError, PublicationChangedError: changes would be left out.
            ReplicaIdentityError: a table's writers fail by now.
        """
        self._checked_at_s = asyncio.get_running_loop().time()
        found = [
            require_publication(await find_publication(self._sessions, name), name, ())
            for name in self._following.publications
        ]
        published = frozenset[TableName]().union(*(publication.tables for publication in found))
        whole = frozenset[TableName]().union(*(publication.tables - publication.partial for publication in found))
        merged = replace(found[0], tables=published, partial=published - whole)
        # Afterwards: what is dropped in between was published a moment ago.
        tables = await self._sessions.run(
            "looking at what tells rows apart",
            lambda connection: require_told_rows(connection, self._following.tables),
        )
        require_publication(merged, ", ".join(self._following.publications), tables)

    async def _require_history(self, connection: ReplicationConnection) -> None:
        """After a promotion the position has to lie in what both servers have in common."""
        system, sent = connection.system, self._sent
        if system.timeline == sent.timeline:
            return
        end = await connection.timeline_end(sent.timeline)
        if end is None or end < max(sent.end_lsn, sent.transaction):
            raise errors.OtherEndpointError(
                f"following {system.database}: the server is on timeline {system.timeline} and lacks changes that the "
                f"flow has from timeline {sent.timeline}: a standby was promoted, or a backup recovered, that had not "
                "got that far; run the flow again with --again, which copies what has changed"
            )
        self._sent = Position(
            system_id=sent.system_id,
            timeline=system.timeline,
            end_lsn=sent.end_lsn,
            transaction=sent.transaction,
            index=sent.index,
        )

    async def _end_own_sender(self) -> None:
        """A sender whose line is cut holds the slot until it finds out; if it is ours, end it."""
        pid, prefix = self._last_pid, self._sessions.prefix_of(self._sessions.request.role)
        if pid:
            with contextlib.suppress(errors.DsyncError):
                await self._sessions.run(
                    "ending the sender of a lost connection",
                    lambda connection: connection.execute(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                        " WHERE pid = %s AND starts_with(application_name, %s)",
                        [pid, prefix],
                    ).fetchall(),
                )


def _name_types(connection: Connection, wanted: list[TypeName]) -> dict[TypeName, str]:
    rows = connection.execute(
        "SELECT o::int8, m, format_type(o::oid, m) FROM unnest(%s::int8[], %s::int[]) AS w(o, m)",
        [[oid for oid, _ in wanted], [modifier for _, modifier in wanted]],
    ).fetchall()
    return {(oid, modifier): name for oid, modifier, name in rows}
