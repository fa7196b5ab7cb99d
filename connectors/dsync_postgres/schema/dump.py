"""Runs pg_dump on the source: the schema alone, under the copy's snapshot, as an archive in memory."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from dsync.sdk import errors
from dsync_postgres.schema.child import ChildResult, run_child
from dsync_postgres.schema.errors import (
    PgDumpConnectionError,
    PgDumpError,
    PgDumpLockError,
    PgDumpPrivilegeError,
)
from dsync_postgres.schema.names import TableName
from dsync_postgres.schema.tools import PgDump

LEDGER_SCHEMA = "_dsync"
_MOST_BYTES = 256 * 1024 * 1024
_MOST_MESSAGE = 1500
# libpq's keywords that hold secrets; only the first has an environment variable.
_SECRETS = ("password", "sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key")
_C_LOCALES = ("", "C", "POSIX")


@dataclass(frozen=True, slots=True, kw_only=True)
class DumpRequest:
    """What to dump, from where, with which binary."""

    tool: PgDump
    conninfo: str = field(repr=False)
    """A libpq connection string or URI, the same that our own sessions use."""
    snapshot: str | None = None
    """As pg_export_snapshot() named it; its transaction must stay open until the dump is done."""
    application_name: str = "dsync"
    """Seen in pg_stat_activity, by which orphans are found."""
    lock_timeout_s: float = 10.0
    """How long to wait for ACCESS SHARE on the tables before giving up."""
    unlike_versions: bool = False
    """The sink is of another major version: quote every name, since the lists of reserved words differ."""
    exclude_tables: tuple[TableName, ...] = ()
    """Tables that nobody asked for and that the role may not read."""
    lc_monetary: str = "C"
    """The source's own setting; pg_dump writes defaults of type money with it."""


async def dump_schema(request: DumpRequest) -> bytes:
    """Return the schema as an archive in custom format, without data, publications and subscriptions.

    Repeatable. Holds ACCESS SHARE on the dumped tables meanwhile.

    Raises:
        PgDumpPrivilegeError: the role may not read something; the message names it.
        PgDumpLockError: somebody holds a table locked.
        SnapshotLostError: the snapshot's transaction is gone.
        AuthenticationError: the server refused the credentials.
        MissingObjectError: there is no such database.
        PgDumpConnectionError: the server cannot be reached.
        PgDumpError: anything else that pg_dump complained about.
    """
    given = {name: str(value) for name, value in conninfo_to_dict(request.conninfo).items() if value is not None}
    secrets = {name: value for name in _SECRETS if (value := given.pop(name, ""))}
    parameters = {**given, "application_name": request.application_name}
    with _environment(request, secrets, parameters) as environment:
        argv = _argv(request, make_conninfo("", **parameters))
        result = await run_child(argv, environment=environment, most_bytes=_MOST_BYTES)
    if result.exit_code != 0:
        raise _error(result, [*secrets.values(), os.environ.get("PGPASSWORD", "")])
    return result.output


def _argv(request: DumpRequest, conninfo: str) -> list[str]:
    argv = [
        str(request.tool.path),
        "--format=custom",
        "--compress=0",
        "--schema-only",
        "--no-publications",
        "--no-subscriptions",
        "--encoding=UTF8",
        # Never asks at a terminal: without credentials the server's refusal is the message.
        "--no-password",
        f"--exclude-schema={LEDGER_SCHEMA}",
        f"--lock-wait-timeout={max(1, round(request.lock_timeout_s * 1000))}",
    ]
    if request.snapshot is not None:
        argv.append(f"--snapshot={request.snapshot}")
    if request.unlike_versions:
        argv.append("--quote-all-identifiers")
    argv += [f"--exclude-table={_pattern(table)}" for table in request.exclude_tables]
    return [*argv, f"--dbname={conninfo}"]


def _pattern(table: TableName) -> str:
    """A pattern that matches this table alone: within double quotes nothing is special but the quote."""
    return ".".join('"' + part.replace('"', '""') + '"' for part in (table.schema, table.name))


@contextlib.contextmanager
def _environment(
    request: DumpRequest, secrets: Mapping[str, str], parameters: dict[str, str]
) -> Iterator[dict[str, str]]:
    environment = {**os.environ, "LC_ALL": "C"}
    if request.lc_monetary.split(".")[0] not in _C_LOCALES:
        # A default of '1.000,00 €'::money means another sum in the sink's sessions, which are pinned to C. SET
        # would be better (poolers refuse start-up options), but pg_dump's session is not ours.
        options = parameters.pop("options", environment.get("PGOPTIONS", ""))
        environment["PGOPTIONS"] = f"{options} -c lc_monetary=C".strip()
    others = {name: value for name, value in secrets.items() if name != "password"}
    if "password" in secrets:
        environment["PGPASSWORD"] = secrets["password"]
    if not others:
        yield environment
        return
    if parameters.get("service"):
        raise PgDumpError(
            f"running pg_dump: {', '.join(others)} together with service= cannot be handed to it; write it into "
            "the service file instead"
        )
    with tempfile.TemporaryDirectory(prefix="dsync-") as folder:
        environment["PGSERVICEFILE"] = str(_service_file(Path(folder), others))
        parameters["service"] = "dsync"
        yield environment


def _service_file(folder: Path, secrets: Mapping[str, str]) -> Path:
    """Write secrets that have no environment variable where libpq looks for them; the folder is ours alone."""
    path = folder / "pg_service.conf"
    path.touch(mode=0o600)
    lines = ["[dsync]", *(f"{name}={value}" for name, value in secrets.items())]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


_DENIED = re.compile(r"permission denied for .*")
_LOCKED = re.compile(r"canceling statement due to (statement|lock) timeout|could not obtain lock")
_SNAPSHOT = re.compile(
    r"invalid snapshot identifier|could not import the requested snapshot|snapshot .* does not exist"
)
_CREDENTIALS = re.compile(r"authentication failed|no password supplied")
_NO_DATABASE = re.compile(r'database "?.*"? does not exist')
_CONNECTION = re.compile(
    r"connection to server .*failed|server closed the connection|terminating connection|could not translate host name|"
    r"the database system is|too many clients",
    re.DOTALL,
)
_QUERY = re.compile(r"(?im)^.*(detail: |DETAIL: *)?(Query|command) was: (?s:.*)\Z")


def _error(result: ChildResult, secrets: list[str]) -> errors.DsyncError:
    said = _presentable(result.complaints, secrets)
    if (denied := _DENIED.search(said)) is not None:
        return PgDumpPrivilegeError(
            f"dumping the schema: {denied.group()}; grant the source role SELECT on it and USAGE on its schema, or "
            "choose the other tables with -n"
        )
    if _LOCKED.search(said):
        return PgDumpLockError(
            "dumping the schema: another session holds a lock on one of the tables; see pg_locks at the source for "
            "who holds an ACCESS EXCLUSIVE lock"
        )
    if _SNAPSHOT.search(said):
        return errors.SnapshotLostError("dumping the schema: the snapshot is gone, so the plan has to be made again")
    if _CREDENTIALS.search(said):
        return errors.AuthenticationError(f"dumping the schema: pg_dump was refused: {said}")
    if (missing := _NO_DATABASE.search(said)) is not None:
        return errors.MissingObjectError(f"dumping the schema: {missing.group()} at the source; check the URI")
    if _CONNECTION.search(said):
        return PgDumpConnectionError(f"dumping the schema: pg_dump lost or never had its connection: {said}")
    how = f"ended by signal {-result.exit_code}" if result.exit_code < 0 else f"exit code {result.exit_code}"
    return PgDumpError(f"dumping the schema: pg_dump failed ({how}): {said}")


def _presentable(text: str, secrets: list[str]) -> str:
    """What pg_dump said, without secrets and without the query it was running, which may name thousands of tables."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, "***")
    text = _QUERY.sub("", text).strip()
    return text if len(text) <= _MOST_MESSAGE else "… " + text[-_MOST_MESSAGE:]
