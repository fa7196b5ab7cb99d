"""The snapshot that all pages of a copy are read from, and the session that holds it."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass

import msgpack

from dsync.sdk import errors, failpoint
from dsync_postgres.identity import Identity
from dsync_postgres.sessions import Connection, Session, Sessions, begin_reading

_VERSION = 1
_HEARTBEAT_S = 15.0
_LINEAGE_BYTES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What is remembered of a snapshot: enough to judge later whether something has changed since."""

    endpoint: str
    """`Identity.id` of the database."""
    timeline: int
    lineage: bytes
    """Shared by all snapshots of one plan, and carried by its partitions."""
    name: str
    """As pg_export_snapshot() gave it; other sessions import it while its holder lives."""
    text: str
    """As pg_current_snapshot() prints it: xmin:xmax:running."""
    position: int
    """The write-ahead log's position when the snapshot was taken: everything it sees lies before."""

    @property
    def xmin(self) -> int:
        """The 64-bit id of the oldest transaction that was running; all before it had ended."""
        return int(self.text.split(":")[0])

    @property
    def xmax(self) -> int:
        """The first id that was not given to a transaction yet."""
        return int(self.text.split(":")[1])

    def encode(self) -> bytes:
        """The form that travels."""
        packed: bytes = msgpack.packb(
            [_VERSION, self.endpoint, self.timeline, self.lineage, self.name, self.text, self.position]
        )
        return packed

    @classmethod
    def decode(cls, data: bytes) -> Snapshot:
        """The inverse of `encode`.

        Raises:
            RequestError: these bytes are not a snapshot of this connector.
        """
        try:
            version, endpoint, timeline, lineage, name, text, position = msgpack.unpackb(data)
        except (ValueError, TypeError, msgpack.UnpackException) as exc:
            raise errors.RequestError("resuming a plan: its snapshot was not named by a PostgreSQL source") from exc
        if version != _VERSION:
            raise errors.RequestError(
                f"resuming a plan: version {version} of its snapshot is not known here; use the release that began it"
            )
        return cls(endpoint=endpoint, timeline=timeline, lineage=lineage, name=name, text=text, position=position)


class Holder:
    """A session that keeps a snapshot alive: in a transaction, without any lock on a table, with a heartbeat."""

    def __init__(self, session: Session, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        """What it holds."""
        self._session = session
        self._is_lost = False
        # The connector's close() is its parent: it outlives the calls that need it.
        self._heartbeat = asyncio.create_task(self._beat())

    @classmethod
    async def open(
        cls, sessions: Sessions, identity: Identity, lineage: bytes = b"", *, imported: str = "", position: int = 0
    ) -> Holder:
        """Take a snapshot and hold it; without a lineage it begins one.

        `imported` names one that another session has exported, a slot's, to be held in place of a new one; its
        `position` is the slot's.
        """
        session = await sessions.open("holder")
        try:
            name, text, current = await session.run(
                "exporting a snapshot", lambda connection: _export(connection, imported)
            )
            failpoint("source.after_snapshot")
        except BaseException:
            await asyncio.shield(session.close())
            raise
        snapshot = Snapshot(
            endpoint=identity.id,
            timeline=identity.timeline,
            lineage=lineage or secrets.token_bytes(_LINEAGE_BYTES),
            name=name,
            text=text,
            position=position if imported else current,
        )
        return cls(session, snapshot)

    @property
    def is_held(self) -> bool:
        """False once the session has ended, and the snapshot with it."""
        return not self._is_lost and self._session.is_alive

    async def _beat(self) -> None:
        """Keep firewalls and address translators from forgetting a connection that is silent for hours."""
        while not self._is_lost:
            await asyncio.sleep(_HEARTBEAT_S)
            try:
                await self._session.run("holding the snapshot", lambda connection: connection.execute("SELECT"))
            except errors.DsyncError:
                self._is_lost = True

    async def close(self) -> None:
        """Let go of the snapshot. Repeatable."""
        self._is_lost = True
        self._heartbeat.cancel()
        await asyncio.wait({self._heartbeat})
        await self._session.close()


def _export(connection: Connection, imported: str) -> tuple[str, str, int]:
    """Begin the holder's transaction. Functions only: a table, even of the catalogue, would be locked to its end."""
    begin_reading(connection, imported)
    row = connection.execute("SELECT pg_export_snapshot(), pg_current_snapshot()::text").fetchone()
    assert row is not None, "a SELECT without FROM gives one row"
    return row[0], row[1], current_position(connection)


def current_position(connection: Connection) -> int:
    """Where the write-ahead log ends now (on a standby: how far it has been replayed), in bytes."""
    row = connection.execute(
        "SELECT coalesce(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()"
        " ELSE pg_current_wal_insert_lsn() END, '0/0') - pg_lsn '0/0'"
    ).fetchone()
    assert row is not None, "a SELECT without FROM gives one row"
    return int(row[0])
