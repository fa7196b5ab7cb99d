"""The streams that a source serves: one for each choice of tables, under the flow's own slot and publication."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from pathlib import Path

from dsync.sdk import PluginContext, errors, types
from dsync_postgres.schema.names import TableName
from dsync_postgres.sessions import Sessions
from dsync_postgres.stream.begin import Names
from dsync_postgres.stream.follow import Follower, Following
from dsync_postgres.stream.position import Position

# One record may be larger than a frame should be, and has to fit into a message with those before it.
_LARGEST_SHARE = 4


class Streams:
    """Made from the connector's sessions on first use."""

    def __init__(self, sessions: Sessions, context: PluginContext) -> None:
        self._sessions = sessions
        self._context = context
        self._followers: dict[frozenset[str], Follower] = {}

    async def stream(self, request: types.StreamChangesRequest) -> AsyncGenerator[types.ChangeFrame, None]:
        """Changes after the cursor, for ever; what lies before it is durable.

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
        names = Names.of(agreed.flow)
        return Following(
            slot=names.slot,
            publications=(names.publication,),
            tables=tuple(TableName.parse(namespace) for namespace in request.namespaces),
            position=Position.decode(request.cursor),
            folder=folder,
            frame_bytes=min(request.frame_bytes or agreed.page_bytes, agreed.max_message_bytes // _LARGEST_SHARE),
            frame_limit_bytes=agreed.max_message_bytes,
        )
