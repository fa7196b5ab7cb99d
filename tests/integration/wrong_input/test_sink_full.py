"""A sink that takes no more: retried with a warning and gone on with by itself, exit 3 only after that."""

from __future__ import annotations

import asyncio
import os
import pwd
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from dsync.app.requests import SyncRequest
from dsync.app.sync import sync
from dsync.coordinator.events import CallRetried, Event
from dsync.protocol.errors import SinkFullError
from dsync.quickstart.servers import EmbeddedPostgres
from tests.integration.wrong_input.conftest import Ends
from tests.integration.wrong_input.guarded import GuardedDsync, leaks, new_login
from tests.support.databases import Database, DatabaseFactory, PgServers

ROWS = 16_000
COPY = ("--mode", "copy", "--page-bytes", "256KiB")


def _fill(uri: str) -> None:
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute("CREATE TABLE big (id int PRIMARY KEY, noise text)")
        connection.execute(
            f"INSERT INTO big SELECT n, repeat(md5(n::text), 60) FROM generate_series(1, {ROWS}) n".encode()
        )
        connection.execute("ANALYZE")


@pytest.fixture
def source(source_db: DatabaseFactory) -> Database:
    return source_db(_fill)


class Disk:
    """A small file system that can grow."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._mount("size=24m", "-t", "tmpfs", "tmpfs")

    def _mount(self, options: str, *more: str) -> None:
        subprocess.run(["mount", "-o", options, *more, str(self.path)], check=True, capture_output=True)

    def grow(self) -> None:
        self._mount("remount,size=256m")

    def close(self) -> None:
        subprocess.run(["umount", "-l", str(self.path)], check=True, capture_output=True)


@pytest.fixture
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disk]:
    """A full-able disk that the server may write to; needs root, and the right to mount."""
    if os.geteuid() != 0:
        pytest.skip("mounting a file system needs root")
    # Beside pytest's own folders, which the server's user may not enter.
    path = Path("/var/tmp") / f"wi-disk-{os.getpid()}"
    path.mkdir(mode=0o755)
    try:
        made = Disk(path)
    except subprocess.CalledProcessError as exc:
        path.rmdir()
        pytest.skip(f"no file system can be mounted here: {exc.stderr.decode().strip()}")
    user = pwd.getpwnam("nobody")
    os.chown(path, user.pw_uid, user.pw_gid)
    path.chmod(0o700)
    yield made
    made.close()
    path.rmdir()


def test_a_full_disk_is_waited_for_and_gone_on_with(
    dsync: GuardedDsync, source: Database, own_servers: PgServers, disk: Disk
) -> None:
    """A warning names the table and what to do; once there is space, the same run ends well."""
    server = own_servers.own(18)
    server.execute(sql.SQL("CREATE TABLESPACE small LOCATION {}").format(sql.Literal(str(disk.path))))
    server.execute("CREATE DATABASE sink TEMPLATE template0 TABLESPACE small")
    sink = Database(server=server, name="sink")

    running = dsync.start("sync", new_login(source), new_login(sink), *COPY, "--verify", "--json")
    running.wait_for("SinkFullError")
    said = running.printed
    disk.grow()
    ended = running.end()

    assert "(53100)" in said
    assert "free space at the server" in said
    assert (ended.exit_code, ended.result["rows"], ended.result["verify"]["equal"]) == (0, ROWS, True), ended.stderr
    server.stop("immediate")


@pytest.fixture
def read_only(source: Database, own_servers: PgServers) -> Ends:
    """A sink on a server of its own, whose setting changes under open sessions."""
    server = own_servers.own(18)
    server.create_database("sink")
    sink = Database(server=server, name="sink")
    return Ends(source=source, sink=sink, source_uri=new_login(source), sink_uri=new_login(sink))


def refuse_writes(server: EmbeddedPostgres, refusing: bool) -> None:
    """As managed services do when a disk is nearly full."""
    value = "on" if refusing else "off"
    server.execute(f"ALTER SYSTEM SET default_transaction_read_only = {value}".encode())  # type: ignore[arg-type]
    server.execute("SELECT pg_reload_conf()")


async def test_a_sink_that_stays_read_only_ends_the_run_resumably(
    dsync: GuardedDsync, read_only: Ends, tmp_path: Path
) -> None:
    """Exit 3 once the time for retries is over; what had arrived stays, and the same request goes on from there."""
    server = read_only.sink.server
    state = str(tmp_path / "state.db")
    request = SyncRequest(
        source=read_only.source_uri, sink=read_only.sink_uri, state=state, page_bytes=256 * 1024, retry_for_s=1.0
    )
    events: list[Event] = []

    def watch(event: Event) -> None:
        events.append(event)
        if event.name == "page_copied" and sum(e.name == "page_copied" for e in events) == 5:
            refuse_writes(server, True)

    with pytest.raises(SinkFullError) as caught:
        await sync(request, watch, asyncio.Event())
    refuse_writes(server, False)
    arrived = read_only.sink.value("SELECT count(*) FROM big")

    assert caught.value.exit_code == 3
    assert "let it accept writes again" in str(caught.value)
    assert "writing public.big" in str(caught.value)
    assert any(isinstance(event, CallRetried) and event.error == "SinkFullError" for event in events)
    assert not leaks(str(caught.value) + repr(events))
    assert 0 < arrived < ROWS
    outcome = await sync(request, events.append, asyncio.Event())
    assert (outcome.exit_code, outcome.run.number) == (0, 1)
    assert read_only.sink.value("SELECT count(DISTINCT id) FROM big") == ROWS
    assert read_only.sink.value("SELECT count(*) FROM big") == ROWS
