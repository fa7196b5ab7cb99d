"""Signals end a copy so that it can go on; two coordinators never run one flow at a time."""

from __future__ import annotations

import signal
import socket

import pytest

from tests.crash.lives import Ending, Flow, Life
from tests.crash.oracles import check_copy, check_nothing_left, check_repeat_moves_nothing, contents

# Pages take this much longer, so that a signal finds the copy in its middle.
_SLOWED = "sink.before_commit:delay=0.05@*"


def in_the_middle(flow: Flow) -> Life:
    """A life that has written some pages and has many to go."""
    life = flow.start(fail=f"{_SLOWED},sink.after_commit:delay=0@12", once=True)
    flow.wait_for_failpoint("sink.after_commit")
    return life


def go_on_from(flow: Flow, interrupted: Ending) -> None:
    """The same command finishes it, and copies less than everything."""
    check_nothing_left(flow)
    ending = flow.run()
    assert 0 < ending.result["moved_rows"] < ending.result["rows"]
    check_copy(flow, ending)
    assert ending.exit_code == 0, interrupted.log[-4000:]


@pytest.mark.parametrize(
    ("number", "exit_code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)],
    ids=lambda v: str(int(v)),
)
def test_the_first_signal_drains(flow: Flow, number: int, exit_code: int) -> None:
    """Pages in flight are finished and recorded: what the ledger has is what the checkpoints have."""
    life = in_the_middle(flow)
    life.signal(number)
    ending = life.wait(30)
    assert ending.exit_code == exit_code, ending.log[-4000:]
    assert "same command" in ending.message
    go_on_from(flow, ending)


def test_the_second_signal_stops_at_once_and_loses_nothing(flow: Flow) -> None:
    life = flow.start(fail="sink.before_commit:delay=20@12", once=True, short="grace")
    flow.wait_for_failpoint("sink.before_commit")
    life.signal(signal.SIGINT)
    life.wait_for_log("stopping")
    assert life.is_running, "a page is in flight: the first signal waits for it"
    life.signal(signal.SIGINT)
    ending = life.wait(15)
    assert ending.exit_code == 130, ending.log[-4000:]
    go_on_from(flow, ending)


def test_a_second_coordinator_is_refused_while_the_first_lives(flow: Flow) -> None:
    """It names the process and the host, changes nothing, and goes on at once when the first one is dead."""
    first = flow.start(fail="sink.after_commit:stop@12", once=True)
    flow.paused_at("sink.after_commit")
    refused = flow.run()
    assert refused.exit_code == 3, refused.log[-4000:]
    assert refused.error["class"] == "LeaseHeldError"
    assert str(first.pid) in refused.message
    assert socket.gethostname() in refused.message
    assert first.is_running, "the refused one has ended the first one's work"

    first.kill()
    ending = flow.run(timeout_s=25)
    check_copy(flow, ending)
    assert ending.exit_code == 0
    check_repeat_moves_nothing(flow, ending)
    assert contents(flow.sink) == contents(flow.source)
