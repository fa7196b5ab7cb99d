"""PostgreSQL's errors as the store's."""

from __future__ import annotations

import re

import psycopg

from dsync.protocol.errors import DsyncError
from dsync.sdk.redaction import Redactor, secrets_of_uri
from dsync.state.errors import (
    StateBusyError,
    StateCorruptError,
    StateFullError,
    StateIncompleteError,
    StateUnavailableError,
    StateUnreachableError,
)
from dsync.state.location import ServerPlace

_REPEATED = "what was not recorded is repeated"
_MOST_CHARACTERS = 300

# libpq tells no SQLSTATE for a connection that was not made, so its English words decide. The cause of these only a
# person can mend; everything else may pass.
_REFUSED: tuple[tuple[str, str], ...] = (
    (r"no password supplied|fe_sendauth", "set PGPASSWORD, add a line to ~/.pgpass or use ?password=env:NAME"),
    (r"authentication failed", "check user and password (PGPASSWORD, ~/.pgpass, ?password=env:NAME)"),
    (r"pg_hba\.conf", "add a line for this host, user and database to it, or try sslmode=require"),
    (r'role ".*" does not exist|not permitted to log in', "check the user in the URI"),
    (r'database ".*" does not exist', "check the name after the last / of the URI, or create it"),
    (r"permission denied for database", "GRANT CONNECT ON DATABASE … TO the role"),
    (r"SSL|certificate", "check sslmode, sslrootcert, sslcert and sslkey against the server's certificate"),
    (r"service file|definition of service", "check service= in the URI and ~/.pg_service.conf"),
)

_CLASSES: dict[str, tuple[type[DsyncError], str]] = {
    "40001": (StateBusyError, f"it is repeated, and {_REPEATED}"),
    "40P01": (StateBusyError, f"it is repeated, and {_REPEATED}"),
    "57014": (StateBusyError, f"the server is overloaded, or somebody cancels statements; {_REPEATED}"),
    "53100": (StateFullError, f"free some space at the server ({_REPEATED})"),
    "25006": (StateUnreachableError, f"it takes no writes: is it a standby, or set to read-only? {_REPEATED}"),
    "0A000": (StateUnreachableError, f"it takes no writes: is it a standby, or set to read-only? {_REPEATED}"),
    "42501": (StateUnavailableError, "the role must own the schema and the tables in it"),
    "42P01": (StateIncompleteError, "put the schema back from a backup, or name another one with ?schema=NAME"),
    "3F000": (StateIncompleteError, "put the schema back from a backup, or name another one with ?schema=NAME"),
    "3D000": (StateUnavailableError, "check the name after the last / of the URI, or create it"),
    "XX001": (StateCorruptError, "put the database back from a backup"),
    "XX002": (StateCorruptError, "REINDEX the schema, or put the database back from a backup"),
    "08": (StateUnreachableError, f"check that the server runs and is reachable; {_REPEATED}"),
    "25": (StateUnreachableError, f"this process was stopped, or slow; {_REPEATED}"),
    "28": (StateUnavailableError, "check user and password (PGPASSWORD, ~/.pgpass, ?password=env:NAME)"),
    "53": (StateUnreachableError, f"the server lacks resources: see its log; {_REPEATED}"),
    "57": (StateUnreachableError, f"check that the server runs and is reachable; {_REPEATED}"),
}
"""By SQLSTATE, else by its first two characters (manual, appendix A)."""


def statement_error(error: psycopg.Error, title: str, *, is_lost: bool) -> DsyncError | None:
    """Our error for one that came after the connection was made; None where it is a bug of ours."""
    code = error.sqlstate or ""
    known = _CLASSES.get(code) or _CLASSES.get(code[:2])
    if known is None and (is_lost or (not code and isinstance(error, psycopg.OperationalError))):
        known = _CLASSES["08"]
    if known is None:
        return None
    kind, advice = known
    # The primary message of these classes names objects and settings, never a value.
    said = error.diag.message_primary or "the connection was lost"
    return kind(f"reading or writing the state {title}: {_short(said)}; {advice}")


def connection_error(error: psycopg.Error, place: ServerPlace) -> DsyncError:
    """Our error for a connection that was not made."""
    # A URI in which something was not encoded may make a password look like a host.
    said = Redactor(secrets_of_uri(place.uri)).text(_essence(str(error)))
    prefix = f"connecting to the state {place.title}: {said}"
    for pattern, advice in _REFUSED:
        if re.search(pattern, said):
            return StateUnavailableError(f"{prefix}; {advice}")
    return StateUnreachableError(f"{prefix}; check host and port, and that the server runs")


def _essence(said: str) -> str:
    """The last statement of libpq's message, without its preamble."""
    one_line = " ".join(said.split())
    return _short(re.split(r"failed: (?!.*failed: )", one_line)[-1].removeprefix("FATAL: ").strip())


def _short(said: str) -> str:
    return " ".join(said.split())[:_MOST_CHARACTERS]
