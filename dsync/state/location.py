"""Where the state is: the value of `--state`, the XDG default, and the private directory and file modes."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, unquote

from dsync.protocol.errors import RequestError
from dsync.sdk.redaction import redact_uri
from dsync.sdk.references import is_reference, resolve
from dsync.state.errors import StateMissingError, StateUnavailableError

DEFAULT_SCHEMA = "dsync_state"
"""Where the tables of a state on a PostgreSQL server are."""

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(?://|$)")
_PRIVATE_DIRECTORY = 0o700
_PRIVATE_FILE = 0o600
# Longer ones are cut off by the server (NAMEDATALEN), with a notice that nobody sees.
_LONGEST_NAME_BYTES = 63


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerPlace:
    """A schema on a PostgreSQL server."""

    uri: str = field(repr=False)
    """For libpq, without our own parameters; may hold a password."""
    schema: str = DEFAULT_SCHEMA

    @property
    def title(self) -> str:
        """For messages."""
        shown = redact_uri(self.uri)
        return shown if self.schema == DEFAULT_SCHEMA else f"{shown} (schema {self.schema})"


def default_directory(environ: Mapping[str, str] = os.environ) -> Path:
    """`$XDG_STATE_HOME/dsync`, or `~/.local/state/dsync`; a relative XDG_STATE_HOME counts as unset.

    https://specifications.freedesktop.org/basedir-spec/latest/
    """
    configured = environ.get("XDG_STATE_HOME", "")
    if configured and os.path.isabs(configured):
        return Path(configured) / "dsync"
    try:
        return Path.home() / ".local" / "state" / "dsync"
    except RuntimeError as exc:
        raise StateUnavailableError(
            "finding the state directory: this user has no home directory; say where with --state PATH"
        ) from exc


def spool_directory(location: str, flow: str) -> Path:
    """Where a flow's changes wait on this machine: beside the state file, or in the default place for a server's.

    Raises RequestError as `parse_location`.
    """
    place = parse_location(location or None)
    beside = place.with_name(f"{place.name}.spool") if isinstance(place, Path) else default_directory() / "spool"
    return beside / flow


def parse_location(value: str | os.PathLike[str] | None, environ: Mapping[str, str] = os.environ) -> Path | ServerPlace:
    """Return the place that `--state` means.

    `sqlite:///PATH` (relative; four slashes: absolute), a path, `postgresql://…[?schema=NAME]`, or `env:NAME` and
    `file:PATH`, which hold one of these.

    Raises RequestError for anything else; its message never repeats the value, which may hold a password.
    """
    if value is None or not os.fspath(value):
        return default_directory(environ) / "state.db"
    given = os.fspath(value)
    if is_reference(given):
        given = resolve(given, what="--state").strip()
    scheme = _SCHEME.match(given)
    if scheme and scheme.group(1).lower() in ("postgresql", "postgres"):
        return _server_of_uri(given)
    if scheme:
        given = _path_of_url(scheme.group(1).lower(), given)
    try:
        return Path(given).expanduser().absolute()
    except RuntimeError as exc:
        raise RequestError(f"--state {given}: there is no such user, or none with a home directory") from exc


def _server_of_uri(uri: str) -> ServerPlace:
    """Take our own parameter out of the URI, and secrets out of where references say they are."""
    base, mark, query = uri.partition("?")
    if not base.lower().startswith(("postgresql://", "postgres://")):
        raise RequestError("--state: write postgresql://[USER@]HOST[:PORT]/DATABASE[?schema=NAME]")
    schema = DEFAULT_SCHEMA
    kept = []
    for parameter in query.split("&") if mark else ():
        name, _, text = parameter.partition("=")
        text = unquote(text)
        if name == "schema":
            schema = text
        elif is_reference(text):
            kept.append(f"{name}={quote(resolve(text, what=f'--state, {name}='), safe='')}")
        else:
            kept.append(parameter)
    if not schema or "\0" in schema or len(schema.encode()) > _LONGEST_NAME_BYTES or schema.lower().startswith("pg_"):
        raise RequestError(
            f"--state: schema= must be the name of a schema, of at most {_LONGEST_NAME_BYTES} bytes and not one of "
            "PostgreSQL's own (pg_…)"
        )
    return ServerPlace(uri=base + ("?" + "&".join(kept) if kept else ""), schema=schema)


def _path_of_url(scheme: str, url: str) -> str:
    if scheme != "sqlite":
        raise RequestError(
            f"--state: {scheme} is not a store that dsync knows: give sqlite:///PATH or a path for a file, or "
            "postgresql://HOST/DATABASE to share the state"
        )
    path = url[len("sqlite:///") :]
    if not url.lower().startswith("sqlite:///") or not path or path == ":memory:" or "?" in path:
        raise RequestError(
            "--state: write sqlite:///PATH with three slashes before a relative path and four before an absolute one; "
            "state in memory and parameters are not supported"
        )
    return path


def prepare_file(path: Path, *, create: bool) -> None:
    """See to it that the file exists, for its owner alone, in a directory that is private where we made it.

    SQLite gives its -wal and -shm files the mode of the file itself. Repeatable, and safe in several processes.

    Raises:
        StateMissingError: it does not exist, and `create` is false.
        StateUnavailableError: the system does not let us.
    """
    try:
        if not path.exists():
            if not create:
                raise StateMissingError(f"there is no state at {path}: no flow has been run with it yet")
            _make_directory(path.parent)
            os.close(open_private(path))
        if path.is_dir():
            raise RequestError(f"--state {path} is a directory: name a file in it, as in --state {path / 'state.db'}")
        _make_private(path, _PRIVATE_FILE)
        if path.parent == default_directory():
            _make_private(path.parent, _PRIVATE_DIRECTORY)
    except OSError as exc:
        raise _unavailable(path, exc) from exc


def open_private(path: Path, *, owner_of: Path | None = None) -> int:
    """A descriptor of a file, which is made for its owner alone where it does not exist.

    Root may work on somebody's state: what it makes beside that file belongs to whom `owner_of` belongs to.
    """
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, _PRIVATE_FILE)
        if owner_of is not None and os.geteuid() == 0:
            owner = owner_of.stat()
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
    except OSError as exc:
        raise _unavailable(path, exc) from exc
    return descriptor


def _unavailable(path: Path, error: OSError) -> StateUnavailableError:
    return StateUnavailableError(
        f"opening the state {path}: {error.strerror}; make it accessible or name another place with --state PATH"
    )


def _make_directory(directory: Path) -> None:
    # os.makedirs would give its mode to the last directory only, and the umask could take the owner's rights away.
    if directory.exists():
        return
    _make_directory(directory.parent)
    directory.mkdir(mode=_PRIVATE_DIRECTORY, exist_ok=True)


def _make_private(path: Path, mode: int) -> None:
    """Take away what others may do; a file or directory of somebody else is used as it is (root may)."""
    found = path.stat()
    if stat.S_IMODE(found.st_mode) & ~mode and found.st_uid == os.geteuid():
        path.chmod(mode)
