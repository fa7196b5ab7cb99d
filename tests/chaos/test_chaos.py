"""A short chaos run; `make chaos` has longer ones, by other seeds."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from tests.chaos.run import run
from tests.chaos.schedule import WEIGHTS, schedule

_SECONDS = 20.0


@pytest.mark.slow
def test_a_flow_under_random_writes_and_faults_ends_equal() -> None:
    """Killed, cut off, crashed, altered and cut short: nothing is lost, doubled or invented."""
    with tempfile.TemporaryDirectory(prefix="dsync-chaos-") as directory:
        found = run(2, _SECONDS, Path(directory))
    assert len(found.flow.lives) > 3, found.told


def test_a_seed_is_all_that_a_schedule_depends_on() -> None:
    """What failed once is had again by the number it printed."""
    assert schedule(7, 600) == schedule(7, 600)
    assert schedule(7, 600) != schedule(8, 600)
    assert schedule(7, 600)[:20] == schedule(7, 300)[:20]


def test_a_long_run_has_everything_that_can_befall_a_flow() -> None:
    assert {step.name for step in schedule(1, 3600)} == set(WEIGHTS)
