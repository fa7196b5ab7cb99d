"""Each of the three processes is killed at random times, in several lives, with writes going on at the source."""

from __future__ import annotations

import os
import random
import threading

import pytest

from tests.crash.lives import Flow, Life
from tests.crash.oracles import check_copy, check_repeat_moves_nothing, watching
from tests.crash.tables import writing

# Pages take this much longer, so that the copy lasts about as long as starting it.
_SLOWED = "sink.before_commit:delay=0.02@*"
_SEEDS = [int(text) for text in os.environ.get("DSYNC_CRASH_SEEDS", "1,2").split(",")]


@pytest.mark.parametrize("state_kind", ["postgresql"], indirect=True)
@pytest.mark.parametrize("seed", _SEEDS)
def test_processes_killed_at_random_times_lose_and_repeat_nothing(flow: Flow, seed: int) -> None:
    """`DSYNC_CRASH_SEEDS=5,6,7` runs it with others. The state is shared, so its writes can be cut off anywhere."""
    chance = random.Random(seed)
    with writing(flow.source, seed=seed), watching(flow) as watcher:
        for _ in range(3):
            life = flow.start(fail=_SLOWED)
            if not _kill_something(flow, life, chance):
                break
        ending = flow.run()
        history = watcher.history()
    check_copy(flow, ending, expected=history[-1], before=history[:-1])
    check_repeat_moves_nothing(flow, ending)


def _kill_something(flow: Flow, life: Life, chance: random.Random) -> bool:
    """Kill plug-ins, then the coordinator, at random moments; False where it came to its end before."""
    pause = threading.Event()
    # Sometimes before anything is there, mostly in the middle of the pages.
    if chance.random() < 0.8:
        life.wait_for_log('"copying"')
    for database in chance.choice([(), (flow.source,), (flow.sink,), (flow.sink, flow.source)]):
        pause.wait(chance.uniform(0.0, 0.4))
        if not life.is_running:
            break
        victim = life.connected_to(database)
        if victim is not None:
            victim.kill()
    pause.wait(chance.uniform(0.0, 1.2))
    if not life.is_running:
        return False
    life.kill()
    return True
