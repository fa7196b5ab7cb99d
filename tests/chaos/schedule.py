"""What befalls a flow, and when: a function of the seed and the length alone, so that a run can be had again."""

from __future__ import annotations

import random
from dataclasses import dataclass

WEIGHTS = {
    "kill_coordinator": 8,
    "kill_source_plugin": 6,
    "kill_sink_plugin": 6,
    "end_coordinator": 4,
    "interrupt_coordinator": 2,
    "freeze_a_process": 3,
    "end_source_sessions": 3,
    "end_sink_sessions": 4,
    "cancel_sink_statements": 4,
    "end_walsender": 4,
    "restart_source": 3,
    "crash_source": 3,
    "restart_sink": 3,
    "crash_sink": 3,
    "cut_source_link": 4,
    "cut_sink_link": 4,
    "slow_source_link": 2,
    "slow_sink_link": 2,
    "silence_sink_link": 2,
    "pause_and_resume": 2,
    "remove_spool": 3,
    "fill_spool": 2,
    "lock_at_sink": 2,
    "second_coordinator": 1,
    "large_transaction": 5,
    "add_column": 4,
    "rewrite_table": 2,
    "truncate": 4,
    "break_table": 2,
    "begin_again": 1,
}
"""How often one comes, compared with the others."""

_FIRST_S = 1.0
_BUSY_S = 20.0
"""For so long the first copy is disturbed more often than the stream is later."""
_BUSY_PAUSE_S, _PAUSE_S = 2.0, 3.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing that is done to the flow."""

    at_s: float
    """Since the beginning; later where the one before has taken longer."""
    name: str
    seed: int
    """For whatever else is left to chance."""

    def __str__(self) -> str:
        return f"{self.at_s:7.1f} s  {self.name} ({self.seed})"


def schedule(seed: int, length_s: float) -> tuple[Step, ...]:
    """The steps of a run in their order."""
    chance = random.Random(seed)
    names, weights = list(WEIGHTS), list(WEIGHTS.values())
    steps: list[Step] = []
    at_s = _FIRST_S
    while at_s < length_s:
        (name,) = chance.choices(names, weights)
        steps.append(Step(at_s=at_s, name=name, seed=chance.randrange(10_000)))
        at_s += chance.expovariate(1 / (_BUSY_PAUSE_S if at_s < _BUSY_S else _PAUSE_S)) + 0.2
    return tuple(steps)
