"""A flow that follows is killed at each of its named steps while its source is written to, and gone on with."""

from __future__ import annotations

import pytest

from tests.crash.conftest import MakeFlow
from tests.crash.followed import contents, fill, working
from tests.crash.lives import Ending, Flow
from tests.crash.oracles import check_nothing_left, check_schema

DEATHS = {
    "before anything is copied": (
        "coordinator.after_prepare",
        "coordinator.after_manifest",
        "coordinator.before_lanes",
        "coordinator.after_lanes",
        "coordinator.after_read@5",
    ),
    "after an exact copy": (
        "coordinator.before_step@2",
        "coordinator.before_consistent",
        "coordinator.after_consistent",
        "coordinator.before_stream_checkpoint",
        "coordinator.after_stream_checkpoint",
        "coordinator.before_acknowledge",
        "coordinator.after_acknowledge",
    ),
    "under a later snapshot": (
        "coordinator.after_write@12",
        "coordinator.before_verdicts",
        "coordinator.after_verdicts",
        "coordinator.after_write@9",
        "coordinator.before_consistent",
        "coordinator.before_step@2",
        "coordinator.after_stream_checkpoint",
    ),
}
"""The steps at which one life after the other is killed."""
STREAM_POINTS = frozenset(step.partition("@")[0] for steps in DEATHS.values() for step in steps)


@pytest.fixture
def followed(make_flow: MakeFlow) -> Flow:
    return make_flow(prepare=fill, mode="full", arguments=("--until-caught-up",))


@pytest.mark.parametrize("when", DEATHS)
def test_a_flow_that_follows_is_gone_on_with_wherever_it_is_killed(followed: Flow, when: str) -> None:
    """Each life comes a little further; what was written meanwhile and between two of them is there, once."""
    with working(followed.source) as application:
        for step in DEATHS[when]:
            name, _, count = step.partition("@")
            followed.run_until_killed(f"{name}:exit@{count or 1}")
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


def test_a_table_that_stops_while_it_is_copied_gets_no_changes(followed: Flow) -> None:
    """Its rows are not all there: what has changed among them would be changed in a table that nobody can use."""
    life = followed.start(fail="source.before_copy:stop@2", once=True)
    process = followed.paused_at("source.before_copy")
    followed.source.run(
        "ALTER TABLE keyless ADD COLUMN later int",
        "INSERT INTO keyless VALUES (77777, 'after', 1)",
        "INSERT INTO parents VALUES (77777, 'after', 0, '')",
    )
    process.resume()
    ending = life.wait()
    assert ending.exit_code == 6, ending.log[-6000:]
    assert set(ending.named) == {"public.keyless"}
    assert followed.sink.value("SELECT count(*) FROM parents WHERE id = 77777") == 1
    assert followed.sink.value("SELECT count(*) FROM keyless WHERE id = 77777") == 0
