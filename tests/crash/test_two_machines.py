"""Two coordinators on two machines and one flow: only one writes, whatever befalls the other.

Neither can look for the other's process: what decides is the lease, by the clock of the state's server, and the fence
at the sink.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.crash.conftest import MakeFlow
from tests.crash.lives import Flow, Life
from tests.crash.machines import Machine, NoMachinesError, at, two_machines
from tests.crash.oracles import check_copy, contents, row_places
from tests.crash.test_servers_fail import database_on
from tests.crash.test_silence import open_to_everybody
from tests.support.databases import PgServers
from tests.support.waiting import wait_for

_SLOW = "sink.before_commit:delay=0.05@*"


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[tuple[Machine, Machine]]:
    try:
        with two_machines(tmp_path) as both:
            yield both
    except NoMachinesError as exc:
        pytest.skip(str(exc))


@pytest.fixture
def flow(make_flow: MakeFlow, own_servers: PgServers, machines: tuple[Machine, Machine]) -> Flow:
    server = own_servers.own(18)
    open_to_everybody(server)
    return make_flow(
        source=database_on(server, "shop", filled=True),
        sink=database_on(server, "copy"),
        state_db=database_on(server, "state"),
    )


def start_on(machine: Machine, flow: Flow, *, fail: str = "", once: bool = False) -> Life:
    """The same command, with a lease of six seconds, on one of the machines."""
    flow.inside = machine.inside
    flow.source_uri = f"{at(flow.source.uri, machine.databases)}?partition_bytes=1048576"
    flow.sink_uri = at(flow.sink.uri, machine.databases)
    assert flow.state_db is not None
    return flow.start(
        "--flow", "shop", "--state", at(flow.state_db.uri, machine.state), short="lease:6", fail=fail, once=once
    )


def check(flow: Flow, life: Life) -> None:
    """All that a copy promises; the oracles look from here."""
    flow.source_uri, flow.sink_uri = f"{flow.source.uri}?partition_bytes=1048576", flow.sink.uri
    ending = life.wait()
    assert ending.exit_code == 0, ending.log[-6000:]
    check_copy(flow, ending)


def coordinator(life: Life) -> psutil.Process:
    """What has been started there, which is a child of what was started here."""
    (found,) = psutil.Process(life.pid).children()
    return found


def holder(flow: Flow) -> str:
    assert flow.state_db is not None
    ((found,),) = flow.state_db.rows("SELECT holder->>'host' FROM dsync_state.leases")
    return str(found)


def test_the_second_is_refused_as_long_as_the_first_renews_its_lease(
    flow: Flow, machines: tuple[Machine, Machine]
) -> None:
    """It waits for the lease to end, sees that it does not, and names who runs the flow."""
    one, other = machines
    first = start_on(one, flow, fail="sink.before_commit:stop@20", once=True)
    plugin = flow.paused_at("sink.before_commit")
    second = start_on(other, flow)
    second.wait_for_log('"lease_awaited"')
    refused = second.wait()
    plugin.resume()
    assert refused.exit_code == 3
    assert refused.error["class"] == "LeaseHeldError"
    assert f"on {one.name}" in refused.message
    check(flow, first)


def test_one_that_is_cut_off_from_the_state_stops_and_the_other_goes_on(
    flow: Flow, machines: tuple[Machine, Machine]
) -> None:
    """Its sink stands between the rows of a page and their commit: with its lease it loses the right to them."""
    one, other = machines
    first = start_on(one, flow, fail="sink.before_commit:stop@20", once=True)
    flow.paused_at("sink.before_commit")
    assert holder(flow) == one.name
    one.cut_from_state()
    lost = first.wait(60)
    assert lost.exit_code == 3, lost.log[-6000:]
    assert lost.error["class"] == "LeaseLostError", lost.log[-6000:]
    second = start_on(other, flow)
    check(flow, second)


def test_one_that_slept_while_it_was_cut_off_is_refused_by_the_sink(
    flow: Flow, machines: tuple[Machine, Machine]
) -> None:
    """It cannot ask the state whether it still holds the flow, and need not: the sink knows."""
    one, other = machines
    first = start_on(one, flow, fail="sink.before_commit:stop@20", once=True)
    plugin = flow.paused_at("sink.before_commit")
    sleeper = coordinator(first)
    sleeper.suspend()
    wait_for(lambda: sleeper.status() == psutil.STATUS_STOPPED, what="the first coordinator to sleep")
    one.cut_from_state()
    ending = _take_over(other, flow).wait()
    assert ending.exit_code == 0, ending.log[-6000:]
    before, places = contents(flow.sink), row_places(flow.sink)

    plugin.resume()
    sleeper.resume()
    # nsenter stops with what it has started, and does not wake by itself.
    first.signal(signal.SIGCONT)
    woken = first.wait(60)
    assert woken.exit_code == 3, woken.log[-6000:]
    assert woken.error["class"] in ("FencedError", "LeaseLostError"), woken.log[-6000:]
    assert contents(flow.sink) == before == contents(flow.source)
    assert row_places(flow.sink) == places
    one.join_state()
    flow.source_uri, flow.sink_uri = f"{flow.source.uri}?partition_bytes=1048576", flow.sink.uri
    check_copy(flow, ending)


def _take_over(machine: Machine, flow: Flow) -> Life:
    """Begin there as often as it takes for the first one's lease to end."""
    while True:
        life = start_on(machine, flow)
        if life.comes_to('"copying"') or life.wait().exit_code != 3:
            return life
        assert life.wait().error["class"] == "LeaseHeldError", life.log[-6000:]


def test_of_two_that_begin_at_once_one_copies_all(flow: Flow, machines: tuple[Machine, Machine]) -> None:
    """Whoever comes second waits, and is refused or finds the copy done; either may be first."""
    lives = [start_on(machine, flow, fail=_SLOW) for machine in machines]
    endings = [life.wait() for life in lives]
    codes = sorted(ending.exit_code for ending in endings)
    assert codes in ([0, 0], [0, 3]), [ending.log[-3000:] for ending in endings]
    for ending in endings:
        if ending.exit_code:
            assert ending.error["class"] == "LeaseHeldError", ending.log[-6000:]
    moved = [ending for ending in endings if ending.exit_code == 0 and not ending.result["moved_nothing"]]
    assert len(moved) == 1
    flow.source_uri, flow.sink_uri = f"{flow.source.uri}?partition_bytes=1048576", flow.sink.uri
    check_copy(flow, moved[0])
