"""Which server and database an endpoint is, so that a flow is not resumed against another one."""

from __future__ import annotations

import json
from dataclasses import dataclass

import psycopg

from dsync_postgres.sessions import Connection


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What tells this database from every other one."""

    system_id: int
    """Given to a cluster by initdb and shared with its physical copies; 0 where the server keeps it to itself."""
    database: str
    database_oid: int
    timeline: int
    """Changes when a standby is promoted or a backup is recovered; 0 where the server keeps it to itself."""
    version: int
    """As in server_version_num: 180004."""
    version_text: str
    encoding: str
    is_standby: bool
    started_at: str
    """When the server process started: tells two physical copies apart that share everything else."""

    @property
    def id(self) -> str:
        """The same for as long as this is the same database."""
        return f"{self.system_id}/{self.database_oid}/{self.database}"

    @property
    def major(self) -> int:
        """The major version, as in 18."""
        return self.version // 10000

    @property
    def spec(self) -> str:
        """For GetInfo: what else is known, as JSON."""
        return json.dumps(
            {
                "database": self.database,
                "encoding": self.encoding,
                "is_standby": self.is_standby,
                "started_at": self.started_at,
                "timeline": self.timeline,
            },
            ensure_ascii=False,
        )


def read_identity(connection: Connection) -> Identity:
    """Ask the server who it is; a few milliseconds."""
    row = connection.execute(
        "SELECT d.datname, d.oid::int8, pg_encoding_to_char(d.encoding), pg_is_in_recovery(),"
        " current_setting('server_version_num')::int, current_setting('server_version'),"
        " pg_postmaster_start_time()::text FROM pg_database d WHERE d.datname = current_database()"
    ).fetchone()
    assert row is not None, "a session is always in a database"
    system_id, timeline = _read_control_file(connection)
    database, oid, encoding, is_standby, version, version_text, started_at = row
    return Identity(
        system_id=system_id,
        timeline=timeline,
        database=database,
        database_oid=oid,
        encoding=encoding,
        is_standby=is_standby,
        version=version,
        version_text=version_text,
        started_at=started_at,
    )


# After a promotion the control file shows the old timeline until the next checkpoint, the log's name does not.
_CONTROL = """
SELECT (SELECT system_identifier FROM pg_control_system()),
       CASE WHEN pg_is_in_recovery() THEN (SELECT timeline_id FROM pg_control_checkpoint())
            ELSE ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int END
"""


def _read_control_file(connection: Connection) -> tuple[int, int]:
    """System identifier and timeline: granted to everybody, though a managed service may have revoked it."""
    try:
        with connection.transaction():
            row = connection.execute(_CONTROL).fetchone()
    except psycopg.errors.InsufficientPrivilege:
        return 0, 0
    assert row is not None, "a SELECT without FROM gives one row"
    return row[0], row[1]
