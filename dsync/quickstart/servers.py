"""An embedded PostgreSQL server: made in a temporary folder, started on a free port, gone with its owner."""

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Literal, LiteralString, Self
from urllib.parse import quote

import psycopg
from psycopg import sql

from dsync.quickstart.installations import (
    PgInstallation,
    ServerError,
    find_installations,
    find_server,
    memory_folder,
    readable_by_anyone,
    scratch_folder,
)
from dsync.quickstart.process import KeeperHandle, KeptProcess

__all__ = ["EmbeddedPostgres", "PgInstallation", "ServerError", "find_installations", "find_server"]

Auth = Literal["scram-sha-256", "trust"]
StopMode = Literal["smart", "fast", "immediate"]

SUPERUSER = "postgres"
_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 60.0
_POLL_S = 0.02
_PORT_ATTEMPTS = 5
# A longer path does not fit into sockaddr_un: 104 bytes on macOS, 108 on Linux.
_SOCKET_PATH_BYTES = 103
_STOP_SIGNALS: Mapping[StopMode, int] = {
    "smart": signal.SIGTERM,
    "fast": signal.SIGINT,
    "immediate": signal.SIGQUIT,
}
# fsync off loses nothing when a process is killed, only when the machine is. full_page_writes stays on: a
# killed server may leave half a page behind. Dynamic shared memory lies in files of the data directory: what a
# killed server leaves goes with them, and a container's small /dev/shm is enough.
_SETTINGS: Mapping[str, str] = {
    "wal_level": "logical",
    "fsync": "off",
    "dynamic_shared_memory_type": "mmap",
    "shared_buffers": "128MB",
    "max_connections": "100",
    "max_wal_senders": "20",
    "max_replication_slots": "20",
    "max_prepared_transactions": "10",
    "max_wal_size": "2GB",
    "log_timezone": "UTC",
    "timezone": "UTC",
    "log_line_prefix": "%m [%p] %a ",
}


class EmbeddedPostgres:
    """A PostgreSQL server of our own, on loopback, that ends with this process however it ends.

    Its calls block: from a coroutine use `asyncio.to_thread`. Started by root it runs as `nobody`, since
    PostgreSQL refuses root. Without `directory` everything lies in a temporary folder that goes with the
    server; with one the data stays and a later server can continue it. With `auth="trust"` any local user may
    connect.
    """

    def __init__(
        self,
        installation: PgInstallation | int | None = None,
        *,
        settings: Mapping[str, str] | None = None,
        auth: Auth = "scram-sha-256",
        locale: str = "C",
        encoding: str = "UTF8",
        directory: Path | None = None,
        in_memory: bool = False,
        standby_of: "EmbeddedPostgres | None" = None,
    ) -> None:
        """Choose a server by installation or major version (None: the newest) without starting it.

        With `in_memory` the temporary folder lies in memory where the system offers that with a gigabyte to
        spare: databases come and go several times as fast. A standby takes version and passwords from its
        primary, which must run when the standby first starts.
        """
        if standby_of is not None:
            installation, auth = standby_of.installation, standby_of.auth
        if not isinstance(installation, PgInstallation):
            installation = find_server(installation)
        self._user = _server_user()
        self.installation: PgInstallation = installation if self._user is None else readable_by_anyone(installation)
        """What runs; a copy of the one asked for where its user could not read that."""
        self.settings: dict[str, str] = {**_SETTINGS, **(settings or {})}
        """Configuration parameters; a change counts from the next start."""
        self.auth: Auth = auth
        self.port = 0
        """The port on 127.0.0.1, the same over restarts; 0 until the first start."""
        self._locale = locale
        self._encoding = encoding
        self._kept_directory = directory
        self._in_memory = in_memory
        self._folder: Path | None = None
        self._keeper: KeeperHandle | None = None
        self._process: KeptProcess | None = None
        self._primary = standby_of
        self._passwords: dict[str, str] = {} if standby_of is None else standby_of._passwords
        if auth != "trust" and standby_of is None:
            self._passwords[SUPERUSER] = secrets.token_urlsafe(18)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def version(self) -> tuple[int, int]:
        """Major and minor version, as in (18, 4)."""
        return self.installation.version

    @property
    def major(self) -> int:
        """The major version, as in 18."""
        return self.installation.major

    @property
    def folder(self) -> Path:
        """The folder of data and log; there is none before the first start."""
        if self._folder is None:
            raise ServerError("the embedded server has not been started: call start() first")
        return self._folder

    @property
    def data_dir(self) -> Path:
        """PGDATA."""
        return self.folder / "data"

    @property
    def log_file(self) -> Path:
        """The file of the server's messages."""
        return self.folder / "log"

    @property
    def pid(self) -> int | None:
        """The process id of the postmaster, None where it does not run."""
        return self._process.pid if self._process is not None and self.is_running else None

    @property
    def is_running(self) -> bool:
        """True while the postmaster lives, ready or not."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Make the cluster where there is none, start it and return once it takes connections.

        Raises:
            ServerError: it did not come up; the message quotes the end of its log.
        """
        if self.is_running:
            return
        self._prepare_folder()
        if not (self.data_dir / "PG_VERSION").exists():
            self._make_cluster()
        for attempt in range(1, _PORT_ATTEMPTS + 1):
            is_new_port = self.port == 0
            if is_new_port:
                self.port = _free_port()
            self._write_settings()
            log_start = self.log_file.stat().st_size
            self._process = self._run("postgres", "-D", str(self.data_dir), "-c", f"config_file={self._config_file}")
            try:
                self._wait_until_ready(log_start)
                return
            except _PortTakenError:
                # Somebody took the port between our look and the server's bind. A port that URIs name stays.
                if not is_new_port or attempt == _PORT_ATTEMPTS:
                    raise
                self.port = 0

    def stop(self, mode: StopMode = "fast") -> None:
        """Stop the server and keep its data; one that does not stop within a minute is killed."""
        if self._process is None:
            return
        self._process.signal(_STOP_SIGNALS[mode])
        if self._process.wait(_STOP_TIMEOUT_S) is None:
            self.kill()
        self._process = None

    def kill(self) -> None:
        """Kill the postmaster with SIGKILL; returns when it and its backends are gone. The data stays."""
        if self._process is not None:
            self._process.signal(signal.SIGKILL)
            self._process.wait(_STOP_TIMEOUT_S)
            self._process = None

    def restart(self, *, immediate: bool = False) -> None:
        """Stop and start on the same port; immediately means as in a crash, with recovery at start."""
        self.stop("immediate" if immediate else "fast")
        self.start()

    def close(self) -> None:
        """End the server and remove its temporary folder. Repeating it is harmless."""
        if self._kept_directory is not None and self.is_running:
            self.stop()
        if self._keeper is not None:
            if not self.is_running:
                self._free_shared_memory()
            self._keeper.close()
        if self._folder is not None and self._kept_directory is None:
            # The keeper has done so, unless somebody killed it.
            shutil.rmtree(self._folder, ignore_errors=True)
        self._keeper = self._process = self._folder = None

    def uri(self, dbname: str = "postgres", *, user: str = SUPERUSER, password: str | None = None) -> str:
        """Return the URI of a database, with the user's password where this object knows or is given it."""
        password = password if password is not None else self._passwords.get(user)
        account = quote(user, safe="") + ("" if password is None else f":{quote(password, safe='')}")
        return f"postgresql://{account}@127.0.0.1:{self.port}/{quote(dbname, safe='')}"

    def connect(self, dbname: str = "postgres", *, user: str = SUPERUSER) -> psycopg.Connection:
        """Return a connection in autocommit mode."""
        return psycopg.connect(self.uri(dbname, user=user), autocommit=True, connect_timeout=10)

    def execute(self, statement: LiteralString | sql.Composed, *, dbname: str = "postgres") -> None:
        """Run one statement as superuser, outside a transaction block."""
        with self.connect(dbname) as connection:
            connection.execute(statement)

    def create_database(self, name: str, *, template: str | None = None, owner: str | None = None) -> str:
        """Create a database, as a copy of a template where one is named, and return its URI."""
        parts: list[sql.Composable] = [sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name))]
        if template is not None:
            parts.append(sql.SQL("TEMPLATE {}").format(sql.Identifier(template)))
        if owner is not None:
            parts.append(sql.SQL("OWNER {}").format(sql.Identifier(owner)))
        self.execute(sql.SQL(" ").join(parts))
        return self.uri(name)

    def drop_database(self, name: str) -> None:
        """Drop a database together with its connections and slots; one that is not there is no error."""
        with self.connect() as connection:
            connection.execute(
                "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE database = %s",
                [name],
            )
            connection.execute(
                "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
                " WHERE database = %s AND NOT active AND NOT temporary",
                [name],
            )
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def create_role(self, name: str, *, attributes: LiteralString = "LOGIN") -> None:
        """Create a role with a password of its own, which `uri(user=name)` then carries."""
        password = secrets.token_urlsafe(12)
        self.execute(
            sql.SQL("CREATE ROLE {} {} PASSWORD {}").format(
                sql.Identifier(name), sql.SQL(attributes), sql.Literal(password)
            )
        )
        if self.auth != "trust":
            self._passwords[name] = password

    def log_tail(self, *, lines: int = 20, start: int = 0) -> str:
        """Return the last lines of the server's log, from that byte on."""
        with self.log_file.open("rb") as file:
            file.seek(max(start, self.log_file.stat().st_size - 16384))
            return "\n".join(file.read().decode("utf-8", "replace").splitlines()[-lines:])

    @property
    def _config_file(self) -> Path:
        return self.folder / "postgresql.conf"

    def _prepare_folder(self) -> None:
        """Make the folder and the keeper that removes it."""
        if self._keeper is not None and self._keeper.is_gone:
            self._keeper.close()
            self._keeper = None
        if self._keeper is not None:
            return
        if self._kept_directory is not None:
            self._folder = self._kept_directory.resolve()
            self._folder.mkdir(parents=True, exist_ok=True)
        elif self._folder is None:
            parent = (memory_folder() if self._in_memory else None) or scratch_folder()
            self._folder = Path(tempfile.mkdtemp(prefix="dsync-pg-", dir=parent))
        if self._user is not None:
            # The server's user has to pass through; nobody else can list it, and the data stays closed.
            self._folder.chmod(0o711)
        temporary = self._folder if self._kept_directory is None else None
        with self.log_file.open("ab") as log:
            self.log_file.chmod(0o600)
            self._keeper = KeeperHandle(log=log, directory=temporary, user=self._user)

    def _make_cluster(self) -> None:
        self.data_dir.mkdir(mode=0o700, exist_ok=True)
        self._give_to_server(self.data_dir)
        tool, options = ("initdb", self._initdb_options()) if self._primary is None else self._backup_command()
        code = self._run(tool, *options).wait(_START_TIMEOUT_S)
        if self._primary is None:
            self._password_file.unlink(missing_ok=True)
        if code != 0:
            shutil.rmtree(self.data_dir, ignore_errors=True)
            raise ServerError(f"{tool} of PostgreSQL {self.major} failed ({code}):\n{self.log_tail()}")

    def _initdb_options(self) -> list[str]:
        options = ["-D", str(self.data_dir), "-U", SUPERUSER, "--no-sync", f"--auth={self.auth}"]
        options += [f"--encoding={self._encoding}", f"--locale={self._locale}"]
        if self.auth != "trust":
            self._write_password(self._passwords[SUPERUSER])
            options.append(f"--pwfile={self._password_file}")
        return options

    def _backup_command(self) -> tuple[str, list[str]]:
        """Copy the primary and follow it; the password goes through a file, never through the command's line."""
        assert self._primary is not None
        address = f"host=127.0.0.1 port={self._primary.port} user={SUPERUSER}"
        if self.auth != "trust":
            self._write_password(f"*:*:*:{SUPERUSER}:{self._passwords[SUPERUSER]}")
            address += f" passfile='{self._password_file}'"
        return "pg_basebackup", [
            *("-D", str(self.data_dir), "-d", address),
            *("--write-recovery-conf", "--wal-method=stream", "--checkpoint=fast", "--no-sync"),
        ]

    @property
    def _password_file(self) -> Path:
        return self.folder / "password"

    def _write_password(self, text: str) -> None:
        self._password_file.touch(mode=0o600)
        self._password_file.write_text(text, encoding="ascii")
        self._give_to_server(self._password_file)

    def _write_settings(self) -> None:
        """Write our parameters to a file of their own, so that ALTER SYSTEM still has the last word.

        Outside the data directory: root had better not write where the server's user could put a link.
        """
        socket_path = self.data_dir / f".s.PGSQL.{self.port}"
        fits = len(os.fsencode(socket_path)) <= _SOCKET_PATH_BYTES
        ours = {
            "include": str(self.data_dir / "postgresql.conf"),
            **self.settings,
            "port": str(self.port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": str(self.data_dir) if fits else "",
        }
        text = "".join("{} = '{}'\n".format(name, value.replace("'", "''")) for name, value in ours.items())
        self._config_file.write_text(text, encoding="utf-8")
        self._config_file.chmod(0o644)

    def _wait_until_ready(self, log_start: int) -> None:
        assert self._process is not None
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not self._says_ready():
            code = self._process.wait(_POLL_S)
            if code is None and time.monotonic() < deadline:
                continue
            outcome = f"ended with {code}" if code is not None else f"was not ready in {_START_TIMEOUT_S:.0f} s"
            if code is None:
                self.kill()
            tail = self.log_tail(start=log_start)
            kind = _PortTakenError if "could not bind" in tail else ServerError
            raise kind(f"PostgreSQL {self.major} on port {self.port} {outcome}; the end of its log:\n{tail}")
        with self.connect():
            pass

    def _says_ready(self) -> bool:
        """Read the state that the postmaster writes down for pg_ctl: the eighth line of its pid file.

        Asking the file instead of the port keeps refused connections out of the log.
        """
        try:
            lines = (self.data_dir / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return False
        # A pid file of a crashed server stays until the next one has taken over.
        is_ours = self._process is not None and lines[:1] == [str(self._process.pid)]
        return is_ours and len(lines) >= 8 and lines[7].strip() == "ready"

    def _free_shared_memory(self) -> None:
        """Remove the System V segment of a server that was killed: it would stay until the next boot."""
        try:
            key_line = (self.data_dir / "postmaster.pid").read_text(encoding="utf-8").splitlines()[6]
            segment = int(key_line.split()[1])
        except (FileNotFoundError, IndexError, ValueError):
            return
        remover = shutil.which("ipcrm")
        if remover is not None and self._keeper is not None and not self._keeper.is_gone:
            # As the server's user, which cannot remove a segment of anybody else.
            self._keeper.run([remover, "-m", str(segment)]).wait(_START_TIMEOUT_S)

    def _run(self, tool: str, *arguments: str) -> KeptProcess:
        assert self._keeper is not None
        return self._keeper.run([str(self.installation.tool(tool)), *arguments])

    def _give_to_server(self, path: Path) -> None:
        if self._user is not None:
            os.chown(path, *self._user)


class _PortTakenError(ServerError):
    """The port that was free a moment ago is somebody else's now."""


def _server_user() -> tuple[int, int] | None:
    """Return user and group to run servers as, None for our own."""
    if os.geteuid() != 0:
        _require_name(os.geteuid())
        return None
    for name in ("nobody", "postgres"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return entry.pw_uid, entry.pw_gid
    raise ServerError("PostgreSQL does not run as root, and there is no user `nobody`: start this as another user")


def _require_name(number: int) -> None:
    try:
        pwd.getpwuid(number)
    except KeyError:
        raise ServerError(
            f"PostgreSQL does not run as user {number}, which has no line in /etc/passwd, as some containers have it: "
            "add one, or start this as another user; copying between servers of yours needs none"
        ) from None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
