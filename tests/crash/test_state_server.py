"""The server that keeps the state goes away while a copy is made: waited for, as long as the lease lasts."""

from __future__ import annotations

import pytest

from tests.crash.conftest import MakeFlow
from tests.crash.lives import Flow
from tests.crash.oracles import check_copy, check_repeat_moves_nothing
from tests.crash.test_servers_fail import database_on
from tests.support.databases import PgServers
from tests.support.waiting import wait_for


@pytest.fixture
def flow(make_flow: MakeFlow, own_servers: PgServers) -> Flow:
    """The state has a server of its own."""
    return make_flow(state_db=database_on(own_servers.own(18), "state"))


def test_a_state_that_is_back_before_the_lease_ends_is_waited_for(flow: Flow) -> None:
    """What could not be recorded is recorded then, and nothing is copied twice."""
    assert flow.state_db is not None
    server = flow.state_db.server
    life = flow.start(fail="sink.before_commit:stop@20", once=True)
    plugin = flow.paused_at("sink.before_commit")
    server.stop("immediate")
    plugin.resume()
    life.wait_for_log("record in the state")
    server.start()
    ending = life.wait()
    assert ending.exit_code == 0, ending.log[-6000:]
    assert ending.events("call_retried")[0]["error"] == "StateUnreachableError"
    check_copy(flow, ending)
    check_repeat_moves_nothing(flow, ending)


def test_a_state_that_stays_away_for_longer_ends_the_run_resumably(flow: Flow) -> None:
    assert flow.state_db is not None
    server = flow.state_db.server
    life = flow.start(fail="sink.before_commit:stop@20", once=True, short="lease:4")
    plugin = flow.paused_at("sink.before_commit")
    server.stop("immediate")
    plugin.resume()
    lost = life.wait()
    assert lost.exit_code == 3, lost.log[-6000:]
    assert lost.error["class"] == "LeaseLostError", lost.log[-6000:]
    wait_for(lambda: not flow.processes(), what="the end of all its processes")
    refused = flow.run()
    assert refused.exit_code == 3
    assert refused.error["class"] == "StateUnreachableError"
    server.start()
    ending = flow.run()
    assert 0 < ending.result["moved_rows"] < ending.result["rows"]
    check_copy(flow, ending)


def test_a_flow_whose_schema_is_gone_is_taken_up_from_the_sink(flow: Flow) -> None:
    """As where a file is lost: what has arrived is not copied twice."""
    assert flow.state_db is not None
    flow.run_until_killed("coordinator.after_write:exit@30")
    flow.state_db.run("DROP SCHEMA dsync_state CASCADE")
    ending = flow.run()
    assert 0 < ending.result["moved_rows"] < ending.result["rows"]
    check_copy(flow, ending)
    check_repeat_moves_nothing(flow, ending)
