"""`python -m tests.chaos.run`: a chaos run of `CHAOS_MINUTES` by `CHAOS_SEED`, which says how to have it again."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos.application import at_work
from tests.chaos.faults import Faults
from tests.chaos.schedule import schedule
from tests.chaos.verdict import check_end
from tests.chaos.world import ChaosFound, World, world

_WATCH_EVERY_S = 1.0


def run(seed: int, length_s: float, directory: Path) -> World:
    """Disturb a flow for so long, then let it catch up and compare.

    Raises:
        ChaosFound: with what is wrong; the logs of all lives are in the directory.
    """
    steps = schedule(seed, length_s)
    with world(directory, seed) as found:
        with at_work(found.source, directory, seed=seed):
            faults = Faults(world=found)
            found.keep_alive()
            for step in steps:
                _wait_for(found, faults, step.at_s)
                faults.do(step)
            _wait_for(found, faults, length_s)
            faults.take_back(all_of_them=True)
        found.tell("at rest")
        for line in (found.source_line, found.sink_line):
            line.mend()
        life = found.keep_alive()
        found.expect_end()
        if life.comes_to('"phase": "streaming"', timeout_s=120):
            life.signal(2)
        found.end_of_life()
        check_end(found)
    return found


def _wait_for(found: World, faults: Faults, at_s: float) -> None:
    """Until its time has come, with a life that runs."""
    while True:
        faults.take_back()
        found.keep_alive()
        found.watch()
        left_s = found.began_s + at_s - time.monotonic()
        if left_s <= 0:
            return
        found.rest(min(left_s, _WATCH_EVERY_S))


def main() -> int:
    """One run, as the environment says."""
    seed = int(os.environ.get("CHAOS_SEED") or time.time() % 100_000)
    minutes = float(os.environ.get("CHAOS_MINUTES") or 5)
    directory = Path(tempfile.mkdtemp(prefix=f"dsync-chaos-{seed}-"))
    directory.chmod(0o755)
    print(f"seed {seed}, {minutes:g} minutes; logs in {directory}", flush=True)
    for step in schedule(seed, minutes * 60):
        print(f"  planned {step}", flush=True)
    try:
        found = run(seed, minutes * 60, directory)
    except BaseException as error:
        print(f"FAILED: {error if isinstance(error, ChaosFound) else repr(error)}")
        print(f"logs of all lives: {directory}; again: CHAOS_SEED={seed} CHAOS_MINUTES={minutes:g} make chaos")
        if isinstance(error, ChaosFound):
            return 1
        raise
    print(f"equal after {len(found.flow.lives)} lives; at most {found.peak_bytes >> 20} MiB in all processes")
    shutil.rmtree(directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
