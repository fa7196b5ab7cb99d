"""The coordinator is killed at each of its named steps, while the source is written to; the same command goes on."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.crash.conftest import MakeFlow, both_kinds
from tests.crash.lives import Flow
from tests.crash.oracles import (
    abandoned_directories,
    check_copy,
    check_repeat_moves_nothing,
    contents,
    watching,
)
from tests.crash.tables import BUSY_ROWS, writing
from tests.crash.test_following import FOLLOWING_POINTS
from tests.crash.test_plugins_die import SINK_POINTS, SOURCE_POINTS, UPSERT_POINTS
from tests.crash.test_refused_changes import LETTER_POINTS
from tests.crash.test_resync_dies import RESYNC_POINTS
from tests.crash.test_spool import SPOOL_POINTS
from tests.crash.test_streams import STREAM_POINTS
from tests.integration.follow.test_cutover import CUTOVER_POINTS

STEPS = {
    "coordinator.before_plan": 1,
    "coordinator.after_prepare": 1,
    "coordinator.after_plan": 1,
    "coordinator.after_manifest": 1,
    "coordinator.before_read": 9,
    "coordinator.after_read": 14,
    "coordinator.before_write": 7,
    "coordinator.after_write": 21,
    "coordinator.before_checkpoint": 33,
    "coordinator.after_checkpoint": 46,
    "coordinator.after_page": 60,
    "coordinator.before_copied": 5,
    "coordinator.before_finish": 1,
    "coordinator.before_step": 2,
    "coordinator.after_step": 4,
    "coordinator.before_end": 1,
}
"""At which step, and the how many-th time it is reached there: from the first page to the last finish step."""

RECOVERY_STEPS = (
    "coordinator.before_verdicts",
    "coordinator.after_verdicts",
    "coordinator.before_clear",
    "coordinator.after_clear",
)
"""Reached only by a life that goes on with an earlier one's work."""

_WITH_PAGES = frozenset(step for step, time in STEPS.items() if time > 5)

_MIDDLE = "coordinator.after_write:exit@12"


@pytest.mark.parametrize(("state_kind", "step"), both_kinds(STEPS), indirect=["state_kind"])
def test_a_coordinator_killed_at_any_step_is_gone_on_with(make_flow: MakeFlow, step: str) -> None:
    """Nothing is lost or repeated, and tables that changed under the lost snapshot are read again or named.

    Where no page is on its way its plug-ins have nothing to lose, and are in its own process: that starts sooner.
    """
    flow = make_flow(arguments=() if step in _WITH_PAGES else ("--attach", "inline"))
    with writing(flow.source) as writer:
        flow.run_until_killed(f"{step}:exit@{STEPS[step]}")
        writer.write_more()
    ending = flow.run()
    check_copy(flow, ending)
    check_repeat_moves_nothing(flow, ending)


@pytest.mark.parametrize(("state_kind", "step"), both_kinds(RECOVERY_STEPS), indirect=["state_kind"])
def test_a_coordinator_killed_again_while_it_recovers_is_gone_on_with(flow: Flow, step: str) -> None:
    with writing(flow.source) as writer:
        flow.run_until_killed(_MIDDLE)
        writer.write_more()
        flow.run_until_killed(f"{step}:exit")
        writer.write_more()
    ending = flow.run()
    check_copy(flow, ending)


def test_a_flow_is_done_however_many_of_its_lives_are_killed(flow: Flow) -> None:
    """Each life comes a little further; what it leaves behind is removed by the next one."""
    killed_at = (
        "coordinator.after_read:exit@5",
        "coordinator.before_verdicts:exit",
        "coordinator.after_write:exit@9",
        "coordinator.after_clear:exit",
        "coordinator.before_checkpoint:exit@13",
        "coordinator.after_step:exit",
    )
    with writing(flow.source) as writer:
        for step in killed_at:
            flow.run_until_killed(step)
            writer.write_more(20)
    left = abandoned_directories()
    assert left, "nobody who was killed has left pages behind: the check below would say nothing"
    ending = flow.run()
    assert not left & abandoned_directories()
    check_copy(flow, ending)

    again = flow.run("--again")
    assert again.exit_code == 0
    check_copy(flow, again)


END_STEPS = ("coordinator.after_end_at_sink", "coordinator.after_end")
"""Reached once the sink knows that the run is over, and once the state does."""


@pytest.mark.parametrize(("state_kind", "step"), both_kinds(END_STEPS), indirect=["state_kind"])
def test_a_run_whose_end_is_recorded_is_not_repeated(flow: Flow, step: str) -> None:
    """Killed between its last record and its answer, a run is over: the source may have changed since."""
    with writing(flow.source), watching(flow) as watcher:
        flow.run_until_killed(f"{step}:exit")
        expected = watcher.history()[-1]
    ending = flow.run()
    assert ending.result["moved_nothing"]
    check_copy(flow, ending, expected=expected)


@pytest.mark.parametrize("step", ["coordinator.before_write", "coordinator.before_checkpoint"])
def test_a_restart_repeats_at_most_the_pages_in_flight(make_flow: MakeFlow, step: str) -> None:
    """Tables that nobody writes to go on where they were, however often the copy is cut off."""
    flow = make_flow()
    lives, pages_in_flight = 3, 2
    for _ in range(lives):
        flow.run_until_killed(f"{step}:exit@11")
    check_copy(flow, flow.run())
    # Counts rows that were rolled back, too; backends that have ended have reported.
    written = flow.sink.value("SELECT n_tup_ins FROM pg_stat_user_tables WHERE relname = 'busy'")
    rows_per_page = flow.page_bytes // 380
    assert BUSY_ROWS <= written <= BUSY_ROWS + lives * pages_in_flight * rows_per_page


def test_one_snapshot_for_a_copy_that_nobody_disturbs(flow: Flow) -> None:
    """The source is written to from before the beginning to after the end, and what arrives is of one moment."""
    with writing(flow.source) as writer, watching(flow) as watcher:
        ending = flow.run("--verify")
        writer.write_more()
        (expected,) = watcher.history()
    check_copy(flow, ending, expected=expected)
    assert ending.exit_code == 0
    assert ending.result["verify"]["equal"] is True
    assert ending.result["verify"]["view"] == "snapshot"
    assert contents(flow.source) != expected, "the writer has written nothing since: this shows nothing"


def test_verification_judges_a_copy_whose_snapshot_was_lost_by_the_snapshot_it_has(flow: Flow) -> None:
    """The writer never stops; what the copy names is all that verification may find."""
    with writing(flow.source), watching(flow) as watcher:
        flow.run_until_killed("coordinator.after_write:exit@40")
        ending = flow.run("--verify")
        history = watcher.history()
    check_copy(flow, ending, expected=history[-1], before=history[:-1])
    report = ending.result["verify"]
    unequal = {item["source"] for item in report["namespaces"] if not item["equal"]}
    assert unequal <= set(ending.named)
    assert report["counts"]["missing"] == report["counts"]["extra"] == report["counts"]["different"] == 0


def test_every_named_step_is_killed_somewhere() -> None:
    """A failpoint that no test of this folder uses guards nothing."""
    root = Path(__file__).parents[2]
    found = {
        name
        for folder in ("dsync", "connectors")
        for path in (root / folder).rglob("*.py")
        for name in re.findall(r'\bfailpoint\("([a-z_.]+)"\)', path.read_text("utf-8"))
    }
    copying = {*STEPS, *RECOVERY_STEPS, *END_STEPS, *SINK_POINTS, *SOURCE_POINTS, *UPSERT_POINTS}
    following = {*FOLLOWING_POINTS, *STREAM_POINTS, *LETTER_POINTS, *RESYNC_POINTS, *CUTOVER_POINTS}
    known = {*copying, *SPOOL_POINTS, *following}
    assert found == known
