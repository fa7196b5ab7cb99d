"""A password is in no process list, output, log, error, state or file, whatever happens."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
from psycopg import sql

from tests.integration.cli.running import Dsync
from tests.support.databases import Database, DatabaseFactory
from tests.support.fixtures import OpenProxy

CANARY = "c4n@ry/9 é"


def _forms() -> tuple[bytes, ...]:
    return tuple(text.encode() for text in (CANARY, quote(CANARY, safe=""), quote(CANARY)))


def _leaks(data: bytes | str) -> bool:
    raw = data.encode() if isinstance(data, str) else data
    return any(form in raw for form in _forms())


@pytest.fixture
def source(source_db: DatabaseFactory) -> Database:
    def fill(uri: str) -> None:
        with psycopg.connect(uri, autocommit=True) as connection:
            connection.execute("CREATE TABLE small (id int PRIMARY KEY, note text)")
            connection.execute("INSERT INTO small SELECT n, repeat('x', 1000) FROM generate_series(1, 2000) n")
            connection.execute("ANALYZE")

    return source_db(fill)


@pytest.fixture
def sink(sink_db: DatabaseFactory) -> Database:
    return sink_db()


@pytest.fixture
def uris(source: Database, sink: Database) -> tuple[str, str]:
    """Both ends with a role whose password is the canary."""
    made = []
    for database in (source, sink):
        role = sql.Identifier(f"canary_{database.name}")
        with database.connect() as connection:
            connection.execute(sql.SQL("CREATE ROLE {} LOGIN SUPERUSER PASSWORD {}").format(role, sql.Literal(CANARY)))
        database._roles.append(f"canary_{database.name}")
        made.append(database.server.uri(database.name, user=f"canary_{database.name}", password=CANARY))
    return made[0], made[1]


def test_no_command_shows_a_password(dsync: Dsync, uris: tuple[str, str]) -> None:
    """As text, as JSON, as log lines of every level, when it works and when it fails."""
    source, sink = uris
    assert _leaks(source)
    wrong = source.replace("127.0.0.1:", "127.0.0.1:1")
    for arguments in (
        ("doctor", source, sink),
        ("plan", source, sink, "--ddl"),
        ("sync", source, sink, "--mode", "copy", "--verify"),
        ("sync", source, sink, "--mode", "copy", "--json"),
        ("verify", source, sink, "--json"),
        ("status",),
        ("flows", "--json"),
        ("doctor", wrong),
        ("doctor", source + "x"),
        ("sync", source, sink, "--mode", "copy", "--page-bytes", source),
        ("sync", f"{source}?nonsense={quote(CANARY)}", sink, "--mode", "copy"),
        ("doctor", "env:SOURCE"),
        ("doctor", "env:WRONG", "--json"),
        ("serve", source, "--listen", "256.0.0.1:1"),
    ):
        ended = dsync(*arguments, "-vv", "--log-format", "json", SOURCE=source, WRONG=wrong, PGPASSWORD=CANARY)
        assert not _leaks(ended.stdout), arguments
        assert not _leaks(ended.stderr), arguments
        assert ended.exit_code in (0, 2, 3), (arguments, ended.stderr)
    for path in dsync.directory.rglob("*"):
        if path.is_file():
            assert not _leaks(path.read_bytes()), path


async def test_nobody_reads_a_password_in_the_list_of_processes(
    dsync: Dsync, uris: tuple[str, str], open_proxy: OpenProxy
) -> None:
    """Neither the coordinator's own line, from its first moments on, nor those of its plug-ins."""
    source, sink = uris
    proxy = await open_proxy(source)
    proxy.bytes_per_s = 200_000.0
    running = dsync.start("sync", proxy.through(source), sink, "--mode", "copy", "--page-bytes", "64KiB")
    await asyncio.to_thread(running.wait_for, "phase=copying")
    processes = [running.process.pid, *_children(running.process.pid)]
    shown = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in processes]
    environments = [Path(f"/proc/{pid}/environ").read_bytes() for pid in processes]
    running.send(signal.SIGINT)
    ended = await asyncio.to_thread(running.end)

    assert ended.exit_code == 130, ended.stderr
    assert len(processes) >= 3
    assert not any(map(_leaks, shown))
    assert not any(map(_leaks, environments))
    # The rest of the line is as it was typed.
    assert b"--page-bytes\x0064KiB" in shown[0]


def _children(pid: int) -> list[int]:
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                fields = Path(f"/proc/{entry}/stat").read_bytes().rpartition(b")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == pid:
                found.append(int(entry))
    return found
