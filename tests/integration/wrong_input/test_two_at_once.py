"""Two coordinators at one time: one of them copies, nothing is written twice."""

from __future__ import annotations

import signal

import psutil
import pytest

from tests.integration.cli.running import Running
from tests.integration.wrong_input.conftest import Ends
from tests.integration.wrong_input.guarded import GuardedDsync, leaks, ledger_text
from tests.support.waiting import wait_for

COPY = ("--mode", "copy")


def stand_still(running: Running) -> None:
    process = psutil.Process(running.process.pid)
    wait_for(lambda: process.status() in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE), timeout_s=60)
    assert process.status() == psutil.STATUS_STOPPED, running.end()


@pytest.fixture
def keyless(ends: Ends) -> Ends:
    """Rows that no key would keep from being there twice."""
    ends.source.run("ALTER TABLE shop.orders DROP CONSTRAINT orders_pkey")
    return ends


def totals(ends: Ends) -> list[tuple[int, int]]:
    return ends.sink.rows("SELECT (SELECT count(*) FROM shop.orders), (SELECT count(*) FROM shop.log)")


def test_the_same_flow_is_refused_to_a_second(dsync: GuardedDsync, keyless: Ends) -> None:
    """Exit 3 with the process that holds it; the first ends as if nothing had been."""
    first = dsync.start("sync", *keyless.uris, *COPY, "--json", DSYNC_FAIL="coordinator.after_page:stop@1")
    stand_still(first)
    try:
        message = dsync.refused("sync", *keyless.uris, *COPY, exit_code=3)
    finally:
        first.send(signal.SIGCONT)
    ended = first.end()

    assert str(first.process.pid) in message
    assert (ended.exit_code, ended.result["rows"]) == (0, 520), ended.stderr
    assert totals(keyless) == [(500, 20)]
    assert not leaks(ledger_text(keyless.sink))


def test_another_flow_into_the_same_tables_is_refused(dsync: GuardedDsync, keyless: Ends) -> None:
    """Also while they are still empty: rows of both would be there, and no key to tell."""
    first = dsync.start(
        "sync", *keyless.uris, *COPY, "--flow", "one", "--json", DSYNC_FAIL="coordinator.before_read:stop@1"
    )
    stand_still(first)
    try:
        second = dsync.here("sync", *keyless.uris, *COPY, "--flow", "two", "--json")
    finally:
        first.send(signal.SIGCONT)
        first.end()

    assert second.exit_code == 2, second.json["summary"]
    assert "flow one is filling 2 table(s)" in second.json["error"]["message"]
    assert totals(keyless) == [(500, 20)]


def test_a_second_with_a_state_of_its_own_takes_over_and_the_first_writes_no_more(
    dsync: GuardedDsync, keyless: Ends
) -> None:
    """The sink's ledger decides: whoever opened the units last writes, the other is told and stops."""
    first = dsync.start("sync", *keyless.uris, *COPY, "--json", DSYNC_FAIL="coordinator.after_page:stop@1")
    stand_still(first)
    try:
        second = dsync.here("sync", *keyless.uris, *COPY, "--state", str(dsync.directory / "other.db"), "--json")
    finally:
        first.send(signal.SIGCONT)
    ended = first.end()

    assert second.exit_code == 0, second.json["summary"]
    assert ended.exit_code in (0, 3), ended.stderr
    assert totals(keyless) == [(500, 20)]


def test_a_flow_that_takes_the_tables_over_keeps_them(dsync: GuardedDsync, keyless: Ends) -> None:
    """The one that had them writes nothing any more, neither going on nor started again, and says why."""
    flow_one = ("sync", *keyless.uris, *COPY, "--flow", "one")
    first = dsync.start(*flow_one, "--json", DSYNC_FAIL="coordinator.before_read:stop@1")
    stand_still(first)
    try:
        second = dsync.here(
            "sync", *keyless.uris, *COPY, "--flow", "two", "--on-existing", "truncate", "--yes", "--json"
        )
    finally:
        first.send(signal.SIGCONT)
    ended = first.end()
    again = dsync.here(*flow_one, "--json")

    assert second.exit_code == 0, second.json["summary"]
    assert ended.exit_code == 3, ended.stderr
    assert again.exit_code == 6, again.json["summary"]
    stopped = {item["namespace"]: item["reason"] for item in again.json["result"]["namespaces"]}
    assert set(stopped) == {"shop.orders", "shop.log"}
    assert all("another flow has taken it over" in reason for reason in stopped.values()), stopped
    assert totals(keyless) == [(500, 20)]
