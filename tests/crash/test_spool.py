"""A process that spools is killed at every step and at random: what was confirmed is there, in order, without a gap."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from dsync.spool import SpoolHeldError
from tests.crash.spooling import open_spool, order
from tests.support.waiting import wait_for

_ROOT = Path(__file__).parents[2]
_SEEDS = [int(text) for text in os.environ.get("DSYNC_CRASH_SEEDS", "1,2").split(",")]
_STEPS = (
    "spool.before_write",
    "spool.after_write",
    "spool.before_sync",
    "spool.after_sync",
    "spool.segment_made",
    "spool.segment_durable",
    "spool.segment_announced",
    "spool.before_trim",
    "spool.trim_recorded",
    "spool.segment_removed",
)

SPOOL_POINTS = (*_STEPS, "spool.cut")
"""The last is reached by a life that recovers."""


class Spooling:
    """One life of `spooling.py`."""

    def __init__(self, directory: Path, confirmed: int, count: int, *options: str, fail: str = "") -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.spooling", str(directory), str(confirmed), str(count), *options],
            cwd=_ROOT,
            env={**os.environ, "DSYNC_FAIL": fail},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.confirmed = confirmed
        self.opened: int | None = None
        self.said: list[str] = []

    def lines(self) -> Iterator[str]:
        """What it says, as it says it."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            word, _, number = line.strip().partition(" ")
            self.said.append(line.strip())
            if word == "synced":
                assert int(number) >= self.confirmed
                self.confirmed = int(number)
            elif word == "opened":
                self.opened = int(number)
            yield line

    def end(self) -> int:
        """Read the rest, and return how it ended."""
        for _ in self.lines():
            pass
        return self.process.wait(60)

    @property
    def trouble(self) -> str:
        assert self.process.stderr is not None
        return "\n".join(self.said[-5:]) + self.process.stderr.read()


@contextmanager
def spooling(directory: Path, confirmed: int, count: int, *options: str, fail: str = "") -> Iterator[Spooling]:
    life = Spooling(directory, confirmed, count, *options, fail=fail)
    try:
        yield life
    finally:
        life.process.kill()
        life.process.communicate()


@pytest.mark.parametrize("seed", _SEEDS)
def test_a_spool_survives_being_killed_at_any_time(tmp_path: Path, seed: int) -> None:
    """Life after life over the same files; each reads everything that the ones before have left."""
    chance = random.Random(seed)
    confirmed = frames = 0
    for _ in range(8):
        with spooling(tmp_path / "spool", confirmed, 0) as life:
            after = chance.randrange(60)
            for count, _line in enumerate(life.lines()):
                if count >= after:
                    life.process.kill()
                    break
            assert life.end() == -signal.SIGKILL, life.trouble
            assert life.opened is not None
            assert life.opened >= confirmed
            frames = max(frames, life.confirmed)
            confirmed = life.confirmed
    assert frames > 50
    with spooling(tmp_path / "spool", confirmed, 10) as life:
        assert life.end() == 0, life.trouble


@pytest.mark.parametrize("step", _STEPS)
def test_a_spool_survives_being_killed_at_each_step(tmp_path: Path, step: str) -> None:
    """The first time it comes there, and later ones."""
    confirmed = 0
    for time in (1, 2, 5):
        with spooling(tmp_path / "spool", confirmed, 2000, fail=f"{step}:exit@{time}") as life:
            assert life.end() == 137, life.trouble
            confirmed = life.confirmed
    with spooling(tmp_path / "spool", confirmed, 10) as life:
        assert life.end() == 0, life.trouble
        assert life.opened is not None
        assert life.opened >= confirmed


def test_a_spool_survives_being_killed_in_its_recovery(tmp_path: Path) -> None:
    """Again and again, with the end torn each time."""
    with spooling(tmp_path / "spool", 0, 100) as life:
        assert life.end() == 0, life.trouble
        confirmed = life.confirmed
    for _ in range(2):
        last = max((tmp_path / "spool").glob("*.spool"))
        with last.open("ab") as torn:
            torn.write(b"dsR1" + os.urandom(1000))
        with spooling(tmp_path / "spool", confirmed, 0, fail="spool.cut:exit@1") as life:
            assert life.end() == 137, life.trouble
    with spooling(tmp_path / "spool", confirmed, 10) as life:
        assert life.end() == 0, life.trouble
        assert life.opened == confirmed == 100


def test_a_disk_that_refuses_to_flush_ends_it(tmp_path: Path) -> None:
    """The kernel says EIO: nothing is confirmed from there on, and the next life goes on from what had been."""
    with spooling(tmp_path / "spool", 0, 0, "break-fsync") as life:
        status = life.end()
        assert life.process.stderr is not None
        trouble = life.process.stderr.read()
        if "broken" not in life.said:
            pytest.skip("this kernel does not let fsync fail")
        assert status == 1
        assert "SpoolBrokenError: the spool" in trouble
        assert life.said[-1] == "broken"
    with spooling(tmp_path / "spool", life.confirmed, 10) as next_life:
        assert next_life.end() == 0, next_life.trouble
        # What the failed flush covered was taken off: the kernel would now call it durable.
        assert next_life.opened == life.confirmed


async def test_two_processes_never_have_one_spool(tmp_path: Path) -> None:
    """Alive or stopped, the first one is named; dead, it is no obstacle at all."""
    with spooling(tmp_path / "spool", 0, 0, "hold") as life:
        next(life.lines())
        for stopped in (False, True):
            if stopped:
                life.process.send_signal(signal.SIGSTOP)
                wait_for(lambda: psutil.Process(life.process.pid).status() == psutil.STATUS_STOPPED)
            with pytest.raises(SpoolHeldError, match=f"in use by process {life.process.pid}:") as caught:
                await open_spool(tmp_path / "spool", 0)
            assert caught.value.pid == life.process.pid
        life.process.kill()
        life.process.wait(60)
        async with await open_spool(tmp_path / "spool", 0) as spool:
            await spool.append(order(1), [b"x"])
            with pytest.raises(SpoolHeldError, match="this very process"):
                await open_spool(tmp_path / "spool", 0)
            with spooling(tmp_path / "spool", 0, 0) as second:
                assert second.end() == 1
                assert f"in use by process {os.getpid()}:" in second.trouble
