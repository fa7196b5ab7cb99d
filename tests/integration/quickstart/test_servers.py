"""Embedded servers: what they promise while they run, and that none is left behind."""

import os
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from dsync.quickstart import installations
from dsync.quickstart.installations import PgInstallation, find_server, readable_by_anyone
from dsync.quickstart.servers import EmbeddedPostgres, ServerError
from tests.support.databases import PgServers
from tests.support.waiting import wait_for

ALL_VERSIONS = pytest.mark.parametrize("major", [15, 16, 18])

# Starts a server, says where it is, and waits for its end, with a backend that is busy.
OWNER = """
import sys, threading
from dsync.quickstart.servers import EmbeddedPostgres
server = EmbeddedPostgres(int(sys.argv[1]))
server.start()
busy = server.connect()
threading.Thread(target=lambda: busy.execute("SELECT pg_sleep(1000)"), daemon=True).start()
count = "SELECT count(*) FROM pg_stat_activity WHERE query ~ '^SELECT pg_sleep'"
with server.connect() as connection:
    while connection.execute(count).fetchone() == (0,):
        pass
print(server.pid, server.folder, flush=True)
sys.stdin.read()
"""


def processes_of(postmaster: int) -> list[psutil.Process]:
    """The keeper, the postmaster and everything below it."""
    process = psutil.Process(postmaster)
    keeper = process.parent()
    assert keeper is not None
    return [keeper, process, *process.children(recursive=True)]


def is_alive(process: psutil.Process) -> bool:
    """A zombie is over: whoever adopted it only has not looked yet."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_until_gone(processes: list[psutil.Process]) -> None:
    def survivors() -> list[psutil.Process]:
        return [process for process in processes if is_alive(process)]

    wait_for(lambda: not survivors(), timeout_s=20, what=lambda: f"the end of {survivors()}")


@pytest.fixture
def owner(request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    """Another Python process that owns a server."""
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(getattr(request, "param", 18))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        yield process
        process.kill()


def read_server(owner: subprocess.Popen[str]) -> tuple[list[psutil.Process], Path]:
    assert owner.stdout is not None
    pid, folder = owner.stdout.readline().split()
    return processes_of(int(pid)), Path(folder)


@ALL_VERSIONS
def test_a_server_is_what_was_asked_for(pg_servers: PgServers, major: int) -> None:
    """The right version, on loopback alone, ready for logical decoding, in UTF-8, and not as root."""
    server = pg_servers.shared(major)
    with server.connect() as connection:
        found = connection.execute(
            "SELECT current_setting('server_version_num')::integer / 10000, current_setting('wal_level'),"
            " current_setting('listen_addresses'), current_setting('server_encoding')"
        ).fetchone()
    assert found == (major, "logical", "127.0.0.1", "UTF8")
    assert server.pid is not None
    assert psutil.Process(server.pid).uids().real != 0
    assert stat.S_IMODE(server.data_dir.stat().st_mode) == 0o700


def test_a_password_is_needed(pg18: EmbeddedPostgres) -> None:
    """Any user of the machine can reach the port; without the password none gets in."""
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(pg18.uri(password="wrong"))


def test_trust_needs_no_password(own_servers: PgServers) -> None:
    server = own_servers.own(18, auth="trust")
    assert server.uri() == f"postgresql://postgres@127.0.0.1:{server.port}/postgres"
    with server.connect() as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_names_in_uris_are_escaped(pg18: EmbeddedPostgres) -> None:
    name = 'a b/c?d#e%f@g:h"i🐘'
    uri = pg18.create_database(name)
    try:
        with psycopg.connect(uri) as connection:
            assert connection.info.dbname == name
    finally:
        pg18.drop_database(name)


@ALL_VERSIONS
def test_data_and_address_outlive_every_kind_of_restart(own_servers: PgServers, major: int) -> None:
    server = own_servers.own(major)
    uri = server.create_database("restarted")
    server.execute("CREATE TABLE t AS SELECT 0 AS n", dbname="restarted")

    def crash() -> None:
        server.kill()
        assert not server.is_running
        server.start()

    def crash_politely() -> None:
        server.restart(immediate=True)

    restarts: list[Callable[[], None]] = [server.restart, crash_politely, crash]
    for restart in restarts:
        server.execute("UPDATE t SET n = n + 1", dbname="restarted")
        restart()
    with psycopg.connect(uri) as connection:
        assert connection.execute("SELECT n FROM t").fetchone() == (3,)


def test_settings_count_from_the_next_start(own_servers: PgServers) -> None:
    server = own_servers.own(18, settings={"work_mem": "1234kB", "application_name": "it's"})
    server.settings["work_mem"] = "4321kB"
    with server.connect() as connection:
        assert connection.execute("SHOW work_mem").fetchone() == ("1234kB",)
    server.restart()
    with server.connect() as connection:
        assert connection.execute("SHOW work_mem").fetchone() == ("4321kB",)


def test_a_killed_server_leaves_no_backend(own_servers: PgServers) -> None:
    """Backends of a killed postmaster would write on for a while, and keep its shared memory."""
    server = own_servers.own()
    with server.connect():
        assert server.pid is not None
        _, *processes = processes_of(server.pid)
        server.kill()
        assert [process for process in processes if is_alive(process)] == []


def test_a_server_that_cannot_start_says_why(own_servers: PgServers) -> None:
    with pytest.raises(ServerError, match=r"PostgreSQL 18 .* ended with 1; the end of its log:(.|\n)*nonsense"):
        own_servers.own(18, settings={"shared_buffers": "nonsense"})


def test_a_server_started_by_a_thread_outlives_the_thread(own_servers: PgServers) -> None:
    """A parent-death signal alone would end it with the thread."""
    servers: list[EmbeddedPostgres] = []
    thread = threading.Thread(target=lambda: servers.append(own_servers.own()))
    thread.start()
    thread.join()
    with servers[0].connect() as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    assert servers[0].is_running


@pytest.mark.parametrize("owner", [15, 16, 18], indirect=True)
def test_nothing_is_left_of_an_owner_that_was_killed(owner: subprocess.Popen[str], pg_servers: PgServers) -> None:
    """Neither a process, busy ones included, nor a file."""
    processes, folder = read_server(owner)
    owner.kill()
    wait_until_gone(processes)
    wait_for(lambda: not folder.exists(), what=f"the removal of {folder}")


def test_nothing_is_left_of_an_owner_that_forgot_to_close(owner: subprocess.Popen[str]) -> None:
    processes, folder = read_server(owner)
    assert owner.stdin is not None
    owner.stdin.close()
    owner.wait(20)
    wait_until_gone(processes)
    wait_for(lambda: not folder.exists(), what=f"the removal of {folder}")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's death")
def test_a_server_ends_with_its_keeper_and_can_be_started_again(own_servers: PgServers) -> None:
    server = own_servers.own()
    assert server.pid is not None
    keeper, *processes = processes_of(server.pid)
    keeper.kill()
    wait_until_gone(processes)
    wait_for(lambda: not server.is_running, what="the server to be known as ended")
    server.start()
    with server.connect() as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_directory_of_the_callers_is_kept_and_continued() -> None:
    with tempfile.TemporaryDirectory(prefix="dsync-kept-") as directory:
        with EmbeddedPostgres(18, directory=Path(directory), auth="trust") as server:
            server.execute("CREATE TABLE t AS SELECT 7 AS n")
        again = EmbeddedPostgres(18, directory=Path(directory), auth="trust")
        with again, again.connect() as connection:
            assert connection.execute("SELECT n FROM t").fetchone() == (7,)


def test_a_standby_follows_its_primary(own_servers: PgServers) -> None:
    """It is read-only and takes the primary's roles and passwords."""
    primary = own_servers.own()
    primary.create_role("follower")
    with EmbeddedPostgres(standby_of=primary) as standby, standby.connect(user="follower") as connection:
        primary.execute("CREATE TABLE t AS SELECT 7 AS n")
        wait_for(
            lambda: connection.execute("SELECT to_regclass('t') IS NOT NULL").fetchone() == (True,),
            what="the table at the standby",
        )
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            connection.execute("CREATE TABLE u ()")


@pytest.fixture
def closed_installation() -> Iterator[PgInstallation]:
    """PostgreSQL 18 below a folder that only its owner can enter, and an empty folder for temporary files."""
    original = find_server(18)
    with tempfile.TemporaryDirectory(prefix="dsync-closed-", dir=installations.scratch_folder()) as place:
        Path(place).chmod(0o711)
        home = Path(place, "home")
        home.mkdir(mode=0o700)
        temporary = Path(place, "tmp")
        temporary.mkdir()
        prefix = original.bin_dir.parent
        target = home / prefix.parent.name / prefix.name
        for part in ("bin", "lib", "share"):
            shutil.copytree(prefix / part, target / part, symlinks=True)
        libraries = prefix.parent.parent / f"{prefix.parent.name}.libs"
        shutil.copytree(libraries, home / libraries.name, symlinks=True)
        before, tempfile.tempdir = tempfile.tempdir, str(temporary)
        try:
            yield PgInstallation(version=original.version, bin_dir=target / "bin", tools=original.tools, origin="wheel")
        finally:
            tempfile.tempdir = before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root starts servers as another user")
def test_an_installation_below_a_closed_home_works_too(closed_installation: PgInstallation) -> None:
    """Root's home is closed to `nobody`: the server runs from a copy, which is made once and made again if damaged."""
    with EmbeddedPostgres(closed_installation) as server, server.connect() as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
        copy = server.installation
    assert copy.bin_dir != closed_installation.bin_dir

    made_at = copy.tool("postgres").stat().st_mtime_ns, copy.tool("postgres").stat().st_ino
    assert readable_by_anyone(closed_installation) == copy
    assert (copy.tool("postgres").stat().st_mtime_ns, copy.tool("postgres").stat().st_ino) == made_at

    copy.tool("initdb").unlink()
    assert readable_by_anyone(closed_installation).tool("initdb").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
@pytest.mark.parametrize("trap", ["another owner", "open to all", "a link"])
def test_a_copy_that_somebody_else_could_have_planted_is_refused(
    closed_installation: PgInstallation, trap: str
) -> None:
    copy = readable_by_anyone(closed_installation)
    home = copy.bin_dir.parents[2]
    if trap == "another owner":
        os.chown(home, 65534, 65534)
    elif trap == "open to all":
        home.chmod(0o777)
    else:
        home.rename(home.with_name("elsewhere"))
        home.symlink_to("elsewhere")
    with pytest.raises(ServerError, match="not a folder of this user alone"):
        readable_by_anyone(closed_installation)


def test_the_interrupt_key_does_not_reach_the_server(pg18: EmbeddedPostgres) -> None:
    """Ctrl-C goes to every process of the terminal's group; the owner decides when its server stops."""
    assert pg18.pid is not None
    keeper, postmaster, *_ = processes_of(pg18.pid)
    groups = {os.getpgid(process.pid) for process in (keeper, postmaster)}
    assert os.getpgid(0) not in groups
    assert os.getsid(0) not in {os.getsid(process.pid) for process in (keeper, postmaster)}
