"""The named errors of reading, planning and building a schema."""

from __future__ import annotations

from dsync.sdk import errors


class ArchiveError(errors.PermanentError):
    """The bytes are not a schema archive as pg_dump of PostgreSQL 12 to 18 writes it."""


class DefinitionError(errors.PermanentError):
    """What claims to be a packed definition or step is not one that this version wrote."""


class SelectionError(errors.PermanentError):
    """A table that was asked for is not in the archive."""


class PgDumpMissingError(errors.MissingObjectError):
    """No installed pg_dump is new enough for both servers."""


class PgDumpError(errors.PermanentError):
    """pg_dump ran and failed."""


class PgDumpPrivilegeError(errors.PrivilegeError):
    """The source role may not read something that the schema contains."""


class PgDumpConnectionError(errors.ServerUnavailableError):
    """pg_dump could not reach the server, or lost it."""


class PgDumpLockError(errors.ConflictError):
    """pg_dump waited too long for a table that somebody else has locked."""


class StatementError(errors.PermanentError):
    """The sink refused a statement of the schema."""
