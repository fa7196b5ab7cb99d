"""A plug-in's process is killed at each of its named steps; the command goes on without being given again."""

from __future__ import annotations

import pytest

from tests.crash.conftest import MakeFlow
from tests.crash.lives import Flow
from tests.crash.oracles import check_copy, check_repeat_moves_nothing, contents, watching
from tests.crash.tables import writing

SINK_POINTS = {
    "sink.before_prepare_commit": 1,
    "sink.after_prepare_commit": 1,
    "sink.before_commit": 17,
    "sink.after_commit": 23,
    "sink.before_step_commit": 2,
    "sink.after_step_commit": 3,
    "sink.before_clear_commit": 1,
    "sink.after_clear_commit": 1,
}
SOURCE_POINTS = {
    "source.after_snapshot": 1,
    "source.before_copy": 19,
    "source.after_copy": 30,
    "source.before_verdicts": 1,
}
UPSERT_POINTS = {"sink.before_merge": 3, "sink.after_merge": 4}
_NEEDS_A_LOST_SNAPSHOT = ("sink.before_clear_commit", "sink.after_clear_commit", "source.before_verdicts")
"""Reached once the source has died as well, in the middle of a table that is written to."""

_POINTS = {**SINK_POINTS, **SOURCE_POINTS}


@pytest.mark.parametrize(("step", "time"), _POINTS.items(), ids=_POINTS.keys())
def test_a_plugin_killed_at_any_step_is_replaced(flow: Flow, step: str, time: int) -> None:
    """The writer never stops: what arrives is the source as of the last snapshot, but for the tables that are named."""
    fail = f"{step}:exit@{time}"
    if step in _NEEDS_A_LOST_SNAPSHOT:
        fail += ",source.before_copy:exit@12"
    with writing(flow.source), watching(flow) as watcher:
        ending = flow.run(fail=fail, once=True)
        history = watcher.history()
    assert (flow.once / step).exists(), f"{step} was not reached\n{ending.log[-6000:]}"
    check_copy(flow, ending, expected=history[-1], before=history[:-1])
    check_repeat_moves_nothing(flow, ending)
    if step in SINK_POINTS and step not in _NEEDS_A_LOST_SNAPSHOT:
        assert (ending.exit_code, len(history)) == (0, 1), "the source's snapshot is no business of the sink's process"


@pytest.mark.parametrize(("step", "time"), UPSERT_POINTS.items(), ids=UPSERT_POINTS.keys())
def test_a_sink_killed_while_it_writes_by_key_repeats_nothing(make_flow: MakeFlow, step: str, time: int) -> None:
    """Rows that others have put there stay where the source has no row of that key."""
    flow = make_flow(arguments=("--on-existing", "append", "--schema", "none", "-n", "public.busy"))
    flow.sink.run(
        "CREATE TABLE busy (id bigint PRIMARY KEY, version bigint NOT NULL, filling text NOT NULL)",
        "INSERT INTO busy VALUES (1, -1, 'replaced'), (1000000, -1, 'kept')",
    )
    ending = flow.run(fail=f"{step}:exit@{time}", once=True)
    assert ending.exit_code == 0, ending.log[-6000:]
    assert (flow.once / step).exists()
    flow.sink.run("DELETE FROM busy WHERE id = 1000000 AND filling = 'kept'")
    assert contents(flow.sink, ["public.busy"]) == contents(flow.source, ["public.busy"])


@pytest.mark.parametrize("step", ["sink.after_commit", "source.after_copy"])
def test_plugins_that_die_again_and_again_still_come_to_the_end(flow: Flow, step: str) -> None:
    """Each process copies some pages and dies; each time less is left."""
    ending = flow.run(fail=f"{step}:exit@25")
    assert ending.log.count('"plugin_died"') >= 3, ending.log[-6000:]
    check_copy(flow, ending)
    assert ending.exit_code == 0
