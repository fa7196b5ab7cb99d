"""A database that nobody writes to any more who does not insist: read-only by default, its old sessions ended.

`default_transaction_read_only` is a default: whoever says SET or BEGIN READ WRITE writes all the same, superuser or
not, and so does a role with a setting of its own. That nothing was written has to be proved by other means.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

import msgpack
import psycopg.errors as pg
from psycopg import sql

from dsync.sdk import errors, types
from dsync_postgres.sessions import Connection, Sessions

_VERSION = 1
_POLL_S = 0.1
_ENDING_S = 15.0
"""How long a session that was told to end may take."""
_SETTING = "default_transaction_read_only"
_LARGE_OBJECTS_HEED_SINCE = 16

_STATE = b"""
SELECT d.datname::text, pg_has_role(d.datdba, 'USAGE'), pg_get_userbyid(d.datdba)::text,
       coalesce((SELECT split_part(c, '=', 2) FROM pg_db_role_setting s, unnest(s.setconfig) c
                 WHERE s.setdatabase = d.oid AND s.setrole = 0 AND c LIKE 'default_transaction_read_only=%%'), '')
FROM pg_database d WHERE d.datname = current_database()
"""
# Of sessions of others, a role without pg_read_all_stats sees neither kind nor start nor state.
_SESSIONS = b"""
SELECT pid, coalesce(usename::text, ''), coalesce(application_name, ''), coalesce(state, ''),
       extract(epoch FROM clock_timestamp() - xact_start)::float8
FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
  AND coalesce(backend_type, 'client backend') = 'client backend'
  AND NOT starts_with(coalesce(application_name, ''), %(own)s)
  AND coalesce(backend_start <= to_timestamp(%(before)s), true)
ORDER BY pid
"""
_PREPARED = b"""
SELECT gid, owner::text, extract(epoch FROM clock_timestamp() - prepared)::float8
FROM pg_prepared_xacts WHERE database = current_database() ORDER BY gid
"""
_EXEMPT = b"""
SELECT DISTINCT r.rolname::text FROM pg_db_role_setting s JOIN pg_roles r ON r.oid = s.setrole
CROSS JOIN unnest(s.setconfig) c
WHERE s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
  AND c ~* '^default_transaction_read_only=(off|false|no|0|f|n)$' ORDER BY 1
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Before:
    """How the database was."""

    database: str
    value: str
    """Of its own setting; empty: it had none."""

    @property
    def undo(self) -> str:
        """For a person, whose session there is read-only as well."""
        return f"BEGIN READ WRITE; {self.statement}; COMMIT"

    @property
    def statement(self) -> str:
        name = sql.Identifier(self.database).as_string(None)
        if not self.value:
            return f"ALTER DATABASE {name} RESET {_SETTING}"
        return f"ALTER DATABASE {name} SET {_SETTING} = {sql.Literal(self.value).as_string(None)}"

    def encode(self) -> bytes:
        packed: bytes = msgpack.packb([_VERSION, self.database, self.value])
        return packed

    @classmethod
    def decode(cls, token: bytes) -> _Before:
        try:
            version, database, value = msgpack.unpackb(token)
            if version != _VERSION or not isinstance(database, str) or not isinstance(value, str):
                raise ValueError
        except (ValueError, TypeError, msgpack.UnpackException) as exc:
            raise errors.RequestError(
                "making the source writable again: what is known of how it was comes from another version; run "
                f"ALTER DATABASE … RESET {_SETTING} there"
            ) from exc
        return cls(database=database, value=value)


async def freeze(sessions: Sessions, *, dry_run: bool, wait_s: float) -> types.Frozen:
    """Make the database read-only by default and end the sessions from before; see `Connector.freeze`.

    Raises:
        PrivilegeError: the role does not own the database.
    """
    before = await sessions.run("looking at whether the source is read-only", _read_before)
    own = sessions.prefix_of(types.Role.SOURCE)
    if not dry_run:
        await sessions.run("making the source read-only", _make_read_only)
    now_s = await sessions.run("reading the server's clock", _clock)

    def look(connection: Connection) -> list[types.ConnectedSession]:
        return _sessions(connection, own, now_s)

    there = await sessions.run("looking at who is connected", look)
    ended, left = (there, []) if dry_run else await _end(sessions, own, now_s, wait_s)
    left += await sessions.run("looking at prepared transactions", _prepared)
    return types.Frozen(
        token=before.encode(),
        undo=before.undo,
        ended=tuple(ended),
        left=tuple(left),
        exempt=tuple(await sessions.run("looking at who may write all the same", _exempt)),
    )


async def thaw(sessions: Sessions, token: bytes) -> None:
    """Put the setting back as it was; sessions that began meanwhile stay read-only until they connect again."""
    before = _Before.decode(token)

    def work(connection: Connection) -> None:
        _write(connection, before.statement)

    await sessions.run("making the source writable again", work)


def _read_before(connection: Connection) -> _Before:
    row = connection.execute(_STATE, {}).fetchone()
    assert row is not None, "a session is in a database"
    database, is_owned, owner, value = row
    if not is_owned:
        name = sql.Identifier(database).as_string(None)
        raise errors.PrivilegeError(
            f"making the source read-only: that takes the owner of database {database} ({owner}); have it run ALTER "
            f"DATABASE {name} SET {_SETTING} = on, end the sessions that are connected, and leave --freeze out"
        )
    return _Before(database=database, value=value)


def _make_read_only(connection: Connection) -> None:
    row = connection.execute("SELECT quote_ident(current_database())").fetchone()
    assert row is not None, "a SELECT without FROM gives one row"
    _write(connection, f"ALTER DATABASE {row[0]} SET {_SETTING} = on")


def _write(connection: Connection, statement: str) -> None:
    """Run it also where this very session is read-only by default."""
    with connection.transaction():
        connection.execute("SET TRANSACTION READ WRITE")
        connection.execute(statement.encode())


def _clock(connection: Connection) -> float:
    row = connection.execute("SELECT extract(epoch FROM clock_timestamp())::float8").fetchone()
    assert row is not None, "a SELECT without FROM gives one row"
    return float(row[0])


def _sessions(connection: Connection, own: str, before_s: float) -> list[types.ConnectedSession]:
    rows = connection.execute(_SESSIONS, {"own": own, "before": before_s}).fetchall()
    return [
        types.ConnectedSession(id=f"pid {pid}", user=user, application=application, state=state, open_s=open_s)
        for pid, user, application, state, open_s in rows
    ]


def _prepared(connection: Connection) -> list[types.ConnectedSession]:
    rows = connection.execute(_PREPARED).fetchall()
    return [
        types.ConnectedSession(id=f"prepared transaction {gid}", user=owner, state="prepared", open_s=open_s)
        for gid, owner, open_s in rows
    ]


def _exempt(connection: Connection) -> list[str]:
    found = [
        f"role {name} has {_SETTING} = off of its own, which wins over the database's (ALTER ROLE … RESET {_SETTING})"
        for (name,) in connection.execute(_EXEMPT).fetchall()
    ]
    if connection.info.server_version // 10000 < _LARGE_OBJECTS_HEED_SINCE:
        found.append("before PostgreSQL 16 functions that write large objects do not heed it")
    return found


async def _end(
    sessions: Sessions, own: str, before_s: float, wait_s: float
) -> tuple[list[types.ConnectedSession], list[types.ConnectedSession]]:
    """End who was connected before: idle ones at once, others once their transaction ends, or the time is over."""
    ended: dict[str, types.ConnectedSession] = {}
    refused: dict[str, types.ConnectedSession] = {}
    patient_until_s = time.monotonic() + wait_s
    while True:
        is_late = time.monotonic() > patient_until_s

        def work(connection: Connection, is_late: bool = is_late) -> list[types.ConnectedSession]:
            found = [one for one in _sessions(connection, own, before_s) if one.id not in refused]
            for one in found:
                if one.open_s is None or is_late:
                    (ended if _terminate(connection, one) else refused)[one.id] = one
            return found

        there = await sessions.run("ending sessions", work)
        if not [one for one in there if one.id not in refused]:
            return list(ended.values()), list(refused.values())
        if time.monotonic() > patient_until_s + _ENDING_S:
            stubborn = [one for one in there if one.id not in refused]
            return [one for one in ended.values() if one.id not in {s.id for s in stubborn}], [
                *refused.values(),
                *stubborn,
            ]
        await asyncio.sleep(_POLL_S)


def _terminate(connection: Connection, one: types.ConnectedSession) -> bool:
    """Whether this role may end it."""
    try:
        connection.execute("SELECT pg_terminate_backend(%s)", [int(one.id.removeprefix("pid "))])
    except pg.InsufficientPrivilege:
        return False
    return True
