"""The network between a plug-in and its server falls silent: no packet, no reset, for as long as it likes."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

import pytest

from dsync.quickstart.servers import EmbeddedPostgres
from tests.crash.conftest import MakeFlow
from tests.crash.lives import Flow
from tests.crash.oracles import check_copy, sessions
from tests.crash.test_servers_fail import database_on
from tests.support.databases import PgServers
from tests.support.waiting import wait_for

# In earnest it takes 25 s; each of these is the user's to choose.
_IMPATIENT = "keepalives_idle=1&keepalives_interval=1&keepalives_count=2&tcp_user_timeout=3000&connect_timeout=2"


def run_ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"ip {' '.join(words)}: {done.stderr.strip()}")


@dataclass(frozen=True, slots=True, kw_only=True)
class FarAway:
    """A network of its own, with one line to this one."""

    name: str
    near: str
    """Our address, seen from there."""
    far: str

    @property
    def inside(self) -> tuple[str, ...]:
        """What runs a command there."""
        return ("ip", "netns", "exec", self.name)

    def uri(self, uri: str) -> str:
        """The same database, seen from there."""
        parts = urlsplit(uri)
        account = parts.netloc.rpartition("@")[0]
        return urlunsplit(parts._replace(netloc=f"{account}@{self.near}:{parts.port}"))

    def silence(self) -> None:
        """From now on nothing that is sent there arrives, and nobody is told."""
        run_ip("route", "add", "blackhole", f"{self.far}/32")

    def speak(self) -> None:
        run_ip("route", "del", "blackhole", f"{self.far}/32")


@pytest.fixture
def far_away() -> Iterator[FarAway]:
    """A network that can be made silent; skips where this user may not make one."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("a network of its own needs root and iproute2")
    # Of the range that is for tests of networks; four addresses for each process that tests.
    pid = os.getpid()
    net = f"198.18.{pid // 64 % 256}.{pid % 64 * 4}".rpartition(".")
    near, far = (f"{net[0]}.{int(net[2]) + number}" for number in (1, 2))
    name = f"dsync-{pid}"
    with ExitStack() as made:
        try:
            run_ip("netns", "add", name)
            made.callback(run_ip, "netns", "del", name)
            run_ip("link", "add", f"dsn{pid}", "type", "veth", "peer", "name", "line", "netns", name)
            run_ip("address", "add", f"{near}/30", "dev", f"dsn{pid}")
            run_ip("link", "set", f"dsn{pid}", "up")
            for words in (("address", "add", f"{far}/30", "dev", "line"), ("link", "set", "line", "up")):
                run_ip("-n", name, *words)
            run_ip("-n", name, "link", "set", "lo", "up")
        except OSError as exc:
            pytest.skip(f"a network of its own cannot be made here: {exc}")
        yield FarAway(name=name, near=near, far=far)


def open_to_everybody(server: EmbeddedPostgres) -> None:
    """Let a server listen at every address."""
    server.execute("ALTER SYSTEM SET listen_addresses = '*'")
    with (server.data_dir / "pg_hba.conf").open("a") as file:
        file.write("host all all 198.18.0.0/15 scram-sha-256\n")
    server.restart()


@pytest.fixture
def flow(make_flow: MakeFlow, own_servers: PgServers, far_away: FarAway) -> Flow:
    server = own_servers.own(18)
    open_to_everybody(server)
    made = make_flow(
        source=database_on(server, "shop", filled=True), sink=database_on(server, "copy"), inside=far_away.inside
    )
    made.source_uri = f"{far_away.uri(made.source.uri)}?partition_bytes=1048576&{_IMPATIENT}"
    made.sink_uri = f"{far_away.uri(made.sink.uri)}?{_IMPATIENT}"
    return made


@pytest.mark.parametrize("point", ["sink.before_commit", "source.before_copy"])
def test_both_ends_give_a_silent_connection_up(flow: Flow, far_away: FarAway, point: str) -> None:
    """The server lets go of the page's locks, so that the page can be sent again when the network is back."""
    life = flow.start(fail=f"{point}:stop@20", once=True)
    plugin = flow.paused_at(point)
    assert sessions(flow)
    far_away.silence()
    try:
        plugin.resume()
        wait_for(lambda: not sessions(flow), timeout_s=20, what=lambda: f"the server to give up {sessions(flow)}")
        wait_for(
            lambda: any(text in life.log for text in ('"call_retried"', '"snapshot_lost"')),
            timeout_s=20,
            what=lambda: f"the plug-in to notice:\n{life.log[-4000:]}",
        )
    finally:
        far_away.speak()
    ending = life.wait(60)
    assert ending.exit_code == 0, ending.log[-6000:]
    check_copy(flow, ending)
