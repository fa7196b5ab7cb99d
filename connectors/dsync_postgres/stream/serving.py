"""The streams that a source serves: one for each choice of tables, under the flow's own slot and publication."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from pathlib import Path

from dsync.sdk import PluginContext, errors, types
from dsync_postgres.schema.names import TableName
from dsync_postgres.sessions import Connection, Sessions
from dsync_postgres.source.snapshots import current_position
from dsync_postgres.stream.begin import Names, end_following
from dsync_postgres.stream.follow import Follower, Following
from dsync_postgres.stream.frames import MARK_PREFIX
from dsync_postgres.stream.position import Position
from dsync_postgres.stream.publication import read_identities
from dsync_postgres.stream.slots import Slot, read_slot, require_whole

# One record may be larger than a frame should be, and has to fit into a message with those before it.
_LARGEST_SHARE = 4


class Streams:
    """Made from the connector's sessions on first use."""

    def __init__(self, sessions: Sessions, context: PluginContext) -> None:
        self._sessions = sessions
        self._context = context
        self._followers: dict[frozenset[str], Follower] = {}

    async def stream(self, request: types.StreamChangesRequest) -> AsyncGenerator[types.ChangeFrame, None]:
        """Changes after the cursor, for ever; what lies before `durable`, or else before it, may be discarded.

        Raises:
            RequestError: there is no cursor: what is followed is begun by planning.
            UnsupportedError: changes were asked for in a form, or with a condition on rows, that there is not.
        """
        self._require_possible(request)
        namespaces = frozenset(request.namespaces)
        folder = Path(tempfile.mkdtemp(prefix="stream-", dir=self._context.private_directory))
        follower = Follower(self._sessions, self._following(request, folder))
        self._followers[namespaces] = follower
        try:
            async with aclosing(follower.frames()) as frames:
                async for frame in frames:
                    yield frame
        finally:
            if self._followers.get(namespaces) is follower:
                del self._followers[namespaces]
            shutil.rmtree(folder, ignore_errors=True)

    async def acknowledge(self, namespaces: Sequence[str], cursor: bytes) -> None:
        """Everything up to the cursor is durable. Without that stream nothing happens: it begins with what is durable.

        Raises:
            RequestError: the cursor is none of this connector's.
        """
        position = Position.decode(cursor)
        follower = self._followers.get(frozenset(namespaces))
        if follower is not None:
            follower.acknowledge(position)

    async def mark(self, content: bytes) -> int:
        """Write a mark into the log, in a transaction of its own; returns where it is.

        What has committed before lies before it, and so before it in the stream.
        """

        def work(connection: Connection) -> int:
            row = connection.execute(
                "SELECT pg_logical_emit_message(true, %s, %s::bytea) - pg_lsn '0/0'", [MARK_PREFIX, content]
            ).fetchone()
            assert row is not None, "a SELECT without FROM gives one row"
            return int(row[0])

        return await self._sessions.run("marking a place in the log", work)

    async def status(self, namespaces: Sequence[str] = ()) -> types.ChangeStatus:
        """What the server keeps for the flow's slot, and which of these tables it does not have any more.

        Raises:
            SlotMissingError, SlotLostError, SlotUnfitError: the stream cannot go on by it.
        """
        name = Names.kept_by(self._sessions).slot

        tables = [TableName.parse(namespace) for namespace in namespaces]

        def work(connection: Connection) -> tuple[Slot | None, str, int, list[TableName]]:
            row = connection.execute("SELECT current_database()").fetchone()
            assert row is not None, "a SELECT without FROM gives one row"
            there = read_identities(connection, tables)
            gone = [table for table in tables if table not in there]
            return read_slot(connection, name), row[0], current_position(connection), gone

        found, database, position, gone = await self._sessions.run(f"looking at replication slot {name}", work)
        slot = require_whole(found, name, database=database)
        return types.ChangeStatus(
            position=position,
            acknowledged=slot.confirmed_lsn,
            retained_bytes=slot.retained_bytes,
            safe_bytes=slot.safe_bytes,
            active=slot.active_pid != 0,
            name=f"replication slot {name}",
            gone=tuple(table.namespace for table in gone),
        )

    async def release(self, flow: str) -> list[str]:
        """Remove the flow's own slot and publication, and end who of the flow reads by them. Repeatable."""
        return await end_following(self._sessions, Names.kept_by(self._sessions, flow), flow=flow)

    def _require_possible(self, request: types.StreamChangesRequest) -> None:
        if request.type is not types.ChangeType.PG_OUTPUT:
            raise errors.UnsupportedError(
                f"following changes: they come in PostgreSQL's own form only, not as {request.type.name}; follow them "
                "into a PostgreSQL sink, or choose --mode copy"
            )
        if self._sessions.request.row_filters:
            raise errors.UnsupportedError(
                "following changes: rows that stop meeting a --filter would have to be removed, which is not done; "
                "leave --filter out, or choose --mode copy"
            )
        if not request.cursor:
            raise errors.RequestError(
                "following changes: no position was given, and none can be guessed without a gap; plan the flow again"
            )

    def _following(self, request: types.StreamChangesRequest, folder: Path) -> Following:
        agreed = self._sessions.request
        names = Names.kept_by(self._sessions)
        return Following(
            slot=names.slot,
            publications=(names.publication,),
            tables=tuple(TableName.parse(namespace) for namespace in request.namespaces),
            position=Position.decode(request.cursor),
            durable_lsn=Position.decode(request.durable or request.cursor).end_lsn,
            folder=folder,
            frame_bytes=min(request.frame_bytes or agreed.page_bytes, agreed.max_message_bytes // _LARGEST_SHARE),
            frame_limit_bytes=agreed.max_message_bytes,
        )
