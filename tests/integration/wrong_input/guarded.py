"""The installed `dsync`, watched for what must never happen: a password anywhere, a process left behind."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, LiteralString
from urllib.parse import quote

import psutil
import pytest
from psycopg import sql

from dsync.cli.main import execute
from dsync.cli.title import secrets_of
from dsync.state import FlowSummary, StateMissingError, Store
from tests.integration.cli.running import Dsync, Ended, Running
from tests.support.databases import Database
from tests.support.waiting import wait_for

CANARY = f"k4n@rienvogel/{os.getpid()} ß"
"""The password of every role that these tests connect with; the characters are those that need quoting.

Each test process has its own: what another one has just typed is not this one's leak.
"""

_FORMS = tuple(text.encode() for text in (CANARY, quote(CANARY, safe=""), quote(CANARY)))
_EVERY_S = 0.05


def leaks(data: bytes | str) -> bool:
    """Whether the password is in there, as it is or as a URI writes it."""
    raw = data.encode() if isinstance(data, str) else data
    return any(form in raw for form in _FORMS)


def new_login(database: Database, attributes: LiteralString = "SUPERUSER") -> str:
    """The URI of a new role with the password; it is dropped with the database."""
    role = f"canary_{len(database._roles)}_{database.name}"
    with database.connect() as connection:
        statement = sql.SQL("CREATE ROLE {} LOGIN {} PASSWORD {}")
        connection.execute(statement.format(sql.Identifier(role), sql.SQL(attributes), sql.Literal(CANARY)))
    database._roles.append(role)
    return database.server.uri(database.name, user=role, password=CANARY)


class CommandLines:
    """Everybody's /proc/*/cmdline, looked at while a command runs."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._wiped = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.shown: set[bytes] = set()
        """Lines that had the password in them."""
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stopping.wait(_EVERY_S):
            for entry in os.listdir("/proc"):
                if entry.isdigit():
                    self._look(int(entry))

    def _look(self, pid: int) -> None:
        try:
            line = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return
        is_shown = leaks(line)
        if pid == self._pid:
            # What was typed is there until the interpreter runs; from then on it has to stay away.
            self._wiped |= b"***" in line
            is_shown = is_shown and self._wiped
        if is_shown:
            self.shown.add(line)


class GuardedRunning(Running):
    """A `dsync` whose output and processes are searched for the password when it ends."""

    def __init__(self, arguments: tuple[str, ...], environ: Mapping[str, str]) -> None:
        super().__init__(arguments, environ)
        self._lines = CommandLines(self.process.pid)

    def end(self) -> Ended:
        ended = super().end()
        return searched(ended, self._lines)


def searched(ended: Ended, lines: CommandLines) -> Ended:
    """What a command printed, once it is clear that the password was nowhere."""
    lines.stop()
    assert not leaks(ended.stdout), "the password is in what was printed"
    assert not leaks(ended.stderr), "the password is in the log"
    assert not lines.shown, f"the password is in the list of processes: {lines.shown}"
    return ended


@dataclass(kw_only=True)
class GuardedDsync(Dsync):
    """Runs `dsync` with many log lines and a state of its own; here where a process would only cost time."""

    runtime: Path
    """XDG_RUNTIME_DIR: where sockets and pages are; empty again when nothing runs."""
    capsys: pytest.CaptureFixture[str]
    monkeypatch: pytest.MonkeyPatch
    _running: list[GuardedRunning] = field(default_factory=list)

    @property
    def environ(self) -> dict[str, str]:
        return {**super().environ, "XDG_RUNTIME_DIR": str(self.runtime)}

    def start(self, *arguments: str, **environ: str) -> Running:
        """Start the installed command."""
        running = GuardedRunning((*arguments, "-v"), {**self.environ, **environ})
        self._running.append(running)
        return running

    def here(self, *arguments: str, **environ: str) -> Ended:
        """Run a command line within this process: its plug-ins are processes as always."""
        wanted = {**self.environ, **environ}
        with self.monkeypatch.context() as patch:
            for name in os.environ.keys() - wanted.keys():
                patch.delenv(name)
            for name, value in wanted.items():
                patch.setenv(name, value)
            self.capsys.readouterr()
            lines = CommandLines(pid=0)
            exit_code = execute([*arguments, "-v"], secrets_of(arguments))
        out, err = self.capsys.readouterr()
        return searched(Ended(exit_code=exit_code, stdout=out, stderr=err), lines)

    def refused(self, *arguments: str, exit_code: int, **environ: str) -> str:
        """Run it, expecting that exit code; returns the message."""
        ended = self.here(*arguments, "--json", **environ)
        assert ended.exit_code == exit_code, (ended.exit_code, ended.json["summary"])
        found = ended.json
        assert (found["ok"], found["error"]["exit_code"]) == (False, exit_code), found
        return str(found["error"]["message"])

    @property
    def flows(self) -> tuple[FlowSummary, ...]:
        """What `dsync flows` would list."""
        return known_flows(self.state)

    def close(self) -> None:
        for running in self._running:
            running.close()
        for path in self.directory.rglob("*"):
            if path.is_file():
                assert not leaks(path.read_bytes()), f"the password is in {path}"
        assert list(self.runtime.iterdir()) == [], "private files were left behind"
        # One that was killed may take a moment to be gone.
        wait_for(lambda: not self._processes(), timeout_s=20, what=lambda: f"the end of {self._processes()}")

    def _processes(self) -> list[psutil.Process]:
        return [process for process in psutil.process_iter() if _is_of(process, str(self.directory))]


def known_flows(state: Path) -> tuple[FlowSummary, ...]:
    """What `dsync flows` would list; nothing where there is no state."""
    try:
        with Store.open(str(state), create=False) as store:
            return tuple(store.list_flows())
    except StateMissingError:
        return ()


def _is_of(process: psutil.Process, home: str) -> bool:
    try:
        return process.environ().get("HOME") == home
    except psutil.Error:
        return False


def contents(database: Database) -> dict[str, Any]:
    """Everything that somebody has made in a database, down to the files behind it and the rows in it."""
    objects = database.rows(
        "SELECT 'schema', nspname::text, 0 FROM pg_namespace WHERE nspname !~ '^pg_'"
        " UNION ALL SELECT c.relkind::text, c.oid::regclass::text, c.relfilenode::int8 FROM pg_class c"
        " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname !~ '^(pg_|information_schema)'"
        " UNION ALL SELECT 'function', p.oid::regprocedure::text, 0 FROM pg_proc p"
        " JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname !~ '^(pg_|information_schema)'"
        " UNION ALL SELECT 'type', t.oid::regtype::text, 0 FROM pg_type t"
        " JOIN pg_namespace n ON n.oid = t.typnamespace WHERE n.nspname !~ '^(pg_|information_schema)'"
        " UNION ALL SELECT 'extension', extname::text, 0 FROM pg_extension ORDER BY 1, 2"
    )
    with database.connect() as connection:
        tables = [name for kind, name, _ in objects if kind == "r"]
        rows = {name: connection.execute(f"SELECT count(*) FROM {name}".encode()).fetchall() for name in tables}
    return {"objects": objects, "rows": rows}


def ledger_text(sink: Database) -> str:
    """All that dsync has written about its flows at the sink."""
    with sink.connect() as connection:
        names = connection.execute(
            "SELECT c.oid::regclass::text FROM pg_class c WHERE relkind = 'r' AND relnamespace = '_dsync'::regnamespace"
        ).fetchall()
        assert names
        return "\n".join(
            str(row) for (name,) in names for row in connection.execute(f"SELECT t::text FROM {name} t".encode())
        )
