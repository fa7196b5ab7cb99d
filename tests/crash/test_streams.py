"""A flow that follows is killed at each of its named steps while its source is written to, and gone on with."""

from __future__ import annotations

import pytest

from tests.crash.conftest import MakeFlow
from tests.crash.followed import contents, fill, working
from tests.crash.lives import Ending, Flow
from tests.crash.oracles import check_nothing_left, check_schema

STEPS = {
    "coordinator.after_prepare": 1,
    "coordinator.after_manifest": 1,
    "coordinator.before_lanes": 1,
    "coordinator.after_lanes": 1,
    "coordinator.after_read": 9,
    "coordinator.after_write": 14,
    "coordinator.before_step": 2,
    "coordinator.before_consistent": 1,
    "coordinator.after_consistent": 1,
    "coordinator.before_stream_checkpoint": 1,
    "coordinator.after_stream_checkpoint": 1,
    "coordinator.before_acknowledge": 1,
    "coordinator.after_acknowledge": 1,
}
"""At which step, and the how many-th time it is reached there, in a first life."""
OVERLAP_STEPS = ("coordinator.before_verdicts", "coordinator.after_verdicts", "coordinator.before_consistent")
"""Of a life that goes on under another snapshot."""

_MIDDLE = "coordinator.after_write:exit@12"


@pytest.fixture
def followed(make_flow: MakeFlow) -> Flow:
    return make_flow(prepare=fill, mode="full", arguments=("--until-caught-up",))


@pytest.mark.parametrize("step", STEPS)
def test_a_coordinator_killed_at_any_step_of_a_stream_is_gone_on_with(followed: Flow, step: str) -> None:
    with working(followed.source) as application:
        followed.run_until_killed(f"{step}:exit@{STEPS[step]}")
        application.write_more()
    check_equal(followed, followed.run())


@pytest.mark.parametrize("step", OVERLAP_STEPS)
def test_one_killed_again_under_a_later_snapshot_is_gone_on_with(followed: Flow, step: str) -> None:
    with working(followed.source) as application:
        followed.run_until_killed(_MIDDLE)
        application.write_more()
        followed.run_until_killed(f"{step}:exit")
        application.write_more()
    check_equal(followed, followed.run())


def test_a_stream_lives_through_many_deaths_and_is_exact(followed: Flow) -> None:
    """Each life comes a little further; what was written between two of them is not lost."""
    with working(followed.source) as application:
        for step in (
            "coordinator.after_plan:exit",
            "coordinator.after_write:exit@9",
            "coordinator.after_write:exit@9",
            "coordinator.before_consistent:exit",
            "coordinator.before_step:exit@2",
            "coordinator.after_stream_checkpoint:exit",
            "coordinator.before_acknowledge:exit",
        ):
            followed.run_until_killed(step)
            application.write_more(20)
        check_running(followed.run())
    check_equal(followed, followed.run())


def check_running(ending: Ending) -> None:
    """It has caught up with a source that is written to: nobody can say what that is equal to."""
    assert ending.exit_code == 0, f"{ending.answer}\n{ending.log[-6000:]}"
    assert ending.result["consistent"] is True
    assert ending.result["consistent_at"] > 0


def check_equal(flow: Flow, ending: Ending) -> None:
    """The source stands still and the sink has caught up: all of it is there, once."""
    check_running(ending)
    at_source, at_sink = contents(flow.source), contents(flow.sink)
    assert at_sink == at_source, ending.log[-6000:]
    check_schema(flow)
    check_nothing_left(flow)
