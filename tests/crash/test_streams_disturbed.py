"""A flow that follows goes on by itself through whatever its plug-ins and servers do, and loses nothing."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.crash.conftest import MakeFlow
from tests.crash.followed import Application, contents, fill, working
from tests.crash.lives import Flow, Life
from tests.crash.test_servers_fail import database_on
from tests.crash.test_streams import check_equal
from tests.support.databases import Database, PgServers
from tests.support.waiting import wait_for


@pytest.fixture
def followed(make_flow: MakeFlow) -> Flow:
    return make_flow(prepare=fill, mode="full")


@contextmanager
def following(flow: Flow) -> Iterator[tuple[Life, Application]]:
    """A life that streams while an application works; in the end the sink has everything, and the life goes quietly."""
    with working(flow.source) as application:
        life = flow.start()
        life.wait_for_log('"streaming"')
        yield life, application
    wait_for(
        lambda: contents(flow.sink) == contents(flow.source) or not life.is_running,
        timeout_s=90,
        poll_s=0.5,
        what=lambda: f"the same contents at both ends:\n{life.log[-4000:]}",
    )
    assert life.is_running, life.log[-6000:]
    life.signal(signal.SIGINT)
    assert life.wait().exit_code == 130
    check_equal(flow, flow.run("--until-caught-up"))


@pytest.mark.parametrize("end", ["source", "sink"])
def test_a_plugin_that_is_killed_while_it_streams_is_started_again(followed: Flow, end: str) -> None:
    with following(followed) as (life, application):
        for _ in range(2):
            life.plugin(followed.source if end == "source" else followed.sink).kill()
            application.write_more(60)


def test_a_source_server_that_restarts_is_followed_on(make_flow: MakeFlow, own_servers: PgServers) -> None:
    flow = make_flow(source=database_on(own_servers.own(16), "shop"), mode="full")
    fill(flow.source.uri)
    with _standing_still(flow) as life:
        flow.source.server.restart(immediate=True)
        flow.source.run("UPDATE parents SET version = 77 WHERE id < 500")
        _wait_until_equal(flow, life)
        flow.source.server.restart()
        flow.source.run("DELETE FROM children WHERE id < 100")
        _wait_until_equal(flow, life)


def test_a_sink_server_that_crashes_is_written_to_again(make_flow: MakeFlow, own_servers: PgServers) -> None:
    flow = make_flow(sink=database_on(own_servers.own(18), "copy"), mode="full", prepare=fill)
    with following(flow) as (_, application):
        flow.sink.server.restart(immediate=True)
        application.write_more(60)
        flow.sink.server.restart()
        application.write_more(60)


def test_a_slot_that_was_dropped_ends_the_flow_with_a_way_on(followed: Flow) -> None:
    """Never a silent gap: what was written meanwhile is in no stream any more."""
    with _standing_still(followed) as life:
        life.signal(signal.SIGINT)
        assert life.wait().exit_code == 130
    (slot,) = followed.source.rows("SELECT slot_name FROM pg_replication_slots WHERE database = current_database()")[0]
    followed.source.rows("SELECT pg_drop_replication_slot(%s)", [slot])
    followed.source.run("UPDATE parents SET version = 99 WHERE id < 10")
    refused = followed.run("--until-caught-up")
    assert refused.exit_code == 3
    assert str(slot) in refused.message
    again = followed.run("--until-caught-up", "--again")
    check_equal(followed, again)


def test_changes_are_discarded_by_the_source_once_they_are_durable(followed: Flow) -> None:
    """The slot moves to what the sink has, no further, and not only when the flow ends."""
    with following(followed) as (_, application):
        before = _acknowledged(followed.source)
        application.write_more(50)
        wait_for(lambda: _acknowledged(followed.source) > before, timeout_s=40, what="an acknowledgement")


def _acknowledged(database: Database) -> int:
    return int(
        database.value(
            "SELECT (confirmed_flush_lsn - '0/0')::int8 FROM pg_replication_slots WHERE database = current_database()"
        )
    )


@contextmanager
def _standing_still(flow: Flow) -> Iterator[Life]:
    """A life that streams from a source that nobody else writes to."""
    life = flow.start()
    life.wait_for_log('"streaming"')
    yield life
    if life.is_running:
        life.signal(signal.SIGINT)
        assert life.wait().exit_code == 130
        check_equal(flow, flow.run("--until-caught-up"))


def _wait_until_equal(flow: Flow, life: Life) -> None:
    wait_for(
        lambda: contents(flow.sink) == contents(flow.source) or not life.is_running,
        timeout_s=60,
        poll_s=0.3,
        what=lambda: f"the same contents at both ends:\n{life.log[-4000:]}",
    )
    assert life.is_running, life.log[-6000:]
