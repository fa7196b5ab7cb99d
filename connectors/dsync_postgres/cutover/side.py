"""The part of the connector that a cut-over speaks to."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from dsync.sdk import types
from dsync_postgres.cutover.freeze import freeze, thaw
from dsync_postgres.cutover.objects import read_objects
from dsync_postgres.cutover.sequences import move_sequences, read_sequences
from dsync_postgres.cutover.views import refresh, views_to_refresh
from dsync_postgres.sessions import Sessions


class Cutover:
    """Of one database, at either end."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    async def freeze(self, *, dry_run: bool, wait_s: float) -> types.Frozen:
        """Make it read-only by default, and end the sessions from before. Repeatable.

        Raises:
            PrivilegeError: the role does not own the database.
        """
        return await freeze(self._sessions, dry_run=dry_run, wait_s=wait_s)

    async def thaw(self, token: bytes) -> None:
        """Put the setting back as it was. Repeatable."""
        await thaw(self._sessions, token)

    async def describe_objects(self, namespaces: Sequence[str], *, whole_database: bool) -> list[types.SchemaObject]:
        """What of the schema can be compared."""
        return await self._sessions.run(
            "reading the schema",
            lambda connection: read_objects(connection, namespaces, whole_database=whole_database),
        )

    async def get_sequences(self, namespaces: Sequence[str], *, whole_database: bool) -> list[types.SequenceState]:
        """Where sequences stand; they know no snapshot."""
        return await self._sessions.run(
            "reading where sequences stand",
            lambda connection: read_sequences(connection, frozenset(namespaces), whole_database=whole_database),
        )

    async def set_sequences(self, sequences: Sequence[types.SequenceState]) -> list[str]:
        """Move them forward, never back; returns the names of those that there are not. Repeatable."""
        return await self._sessions.run("moving sequences", lambda connection: move_sequences(connection, sequences))

    async def refresh_views(self, namespaces: Sequence[str], *, whole_database: bool) -> list[str]:
        """Fill materialised views anew, each after those it reads; returns their names in that order."""
        names = await self._sessions.run(
            "looking for materialised views",
            lambda connection: views_to_refresh(connection, namespaces, whole_database=whole_database),
        )
        for name in names:
            await self._sessions.run(f"refreshing {name}", partial(refresh, name=name))
        return [name.namespace for name in names]
