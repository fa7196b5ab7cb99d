"""A coordinator that slept past its lease, or knows nothing of its successor, writes nothing when it wakes."""

from __future__ import annotations

import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from tests.crash.lives import Flow, Life
from tests.crash.oracles import check_copy, contents, row_places, watching
from tests.crash.tables import writing
from tests.support.waiting import wait_for


def put_to_sleep(flow: Flow, life: Life) -> None:
    """Stop a coordinator, but not while it writes to its state: nobody else could, as long as it sleeps."""

    def sleeps_harmlessly() -> bool:
        life.signal(signal.SIGSTOP)
        life.wait_until_stopped()
        with closing(sqlite3.connect(flow.state, timeout=0, isolation_level=None)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                life.signal(signal.SIGCONT)
                return False
        return True

    wait_for(sleeps_harmlessly, what="a moment in which the state is not written to")


def wake(life: Life, plugin: psutil.Process) -> None:
    """Let both go on; the plug-in first: a coordinator that has slept may find that it has said nothing for long."""
    plugin.resume()
    life.signal(signal.SIGCONT)


@pytest.mark.parametrize("shares_state", [True, False], ids=["one state", "two states"])
def test_a_zombie_writes_nothing_once_another_has_taken_over(flow: Flow, shares_state: bool) -> None:
    """Its sink stands between the rows of a page and their commit, with all of it stopped, until the copy is done.

    With one state its lease has run out; with a state of its own the successor knows the flow from the sink alone.
    """
    zombie = flow.start(fail="sink.before_commit:stop@20", once=True, short="lease")
    plugin = flow.paused_at("sink.before_commit")
    put_to_sleep(flow, zombie)
    other = None if shares_state else flow.directory / "other.db"
    ending = _take_over(flow, "", state=other).wait()
    assert ending.exit_code == 0, ending.log[-6000:]
    before = contents(flow.sink)
    places = row_places(flow.sink)

    wake(zombie, plugin)
    woken = zombie.wait(60)
    if shares_state or woken.exit_code:
        assert woken.exit_code == 3, woken.log[-6000:]
        # Whoever is quicker tells it: the sink's fence, or the lease that it has slept through.
        assert woken.error["class"] in ("FencedError", "LeaseLostError"), woken.log[-6000:]
    # Without a common state it may open the units anew, by a fence of its own, and find all of them done.
    assert contents(flow.sink) == before == contents(flow.source)
    assert row_places(flow.sink) == places
    if shares_state:
        check_copy(flow, ending)


def test_a_zombie_that_wakes_beside_its_successor_takes_nothing_from_it(flow: Flow) -> None:
    """The successor is in the middle of its pages when the first one comes back."""
    zombie = flow.start(fail="sink.before_commit:stop@20", once=True, short="lease")
    plugin = flow.paused_at("sink.before_commit")
    put_to_sleep(flow, zombie)
    with writing(flow.source), watching(flow) as watcher:
        successor = _take_over(flow, "coordinator.after_write:stop@30")
        successor.wait_until_stopped()
        wake(zombie, plugin)
        successor.signal(signal.SIGCONT)
        woken, ending = zombie.wait(60), successor.wait()
        history = watcher.history()
    assert woken.exit_code == 3, woken.log[-6000:]
    check_copy(flow, ending, expected=history[-1], before=history[:-1])


def _take_over(flow: Flow, fail: str, state: Path | None = None) -> Life:
    """Start a successor; while the lease of a process that is still there runs, it is refused and started again."""
    while True:
        life = flow.start(short="lease", fail=fail, state=state)
        if life.comes_to('"copying"') or life.wait().exit_code != 3:
            return life
        assert life.wait().error["class"] == "LeaseHeldError", life.log[-6000:]
