"""The disk under the state file is full, or fails: nothing is acknowledged that is not recorded."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.crash.conftest import Disk, MakeFlow
from tests.crash.lives import Flow
from tests.crash.oracles import check_copy, check_nothing_left

_FAILING_FSYNC = Path(__file__).with_name("failing_fsync.py")
_MIDDLE = "coordinator.after_write:stop@20"


def test_a_state_on_a_full_disk_ends_the_run_resumably(make_flow: MakeFlow, disk: Disk) -> None:
    """What cannot be recorded is not done; once there is space, the same command goes on."""
    flow = make_flow(state_directory=disk.path)
    life = flow.start(fail=_MIDDLE, once=True)
    life.wait_until_stopped()
    disk.leave_free(0)
    life.signal(signal.SIGCONT)
    ended = life.wait(60)
    assert ended.exit_code == 3, ended.log[-6000:]
    assert ended.error["class"] == "StateFullError"
    assert str(flow.state) in ended.message
    assert "free some space" in ended.message
    check_nothing_left(flow)

    disk.leave_free(50 * 1024 * 1024)
    ending = flow.run()
    assert 0 < ending.result["moved_rows"] < ending.result["rows"]
    check_copy(flow, ending)


def test_a_failed_fsync_ends_the_run_resumably(flow: Flow, tmp_path: Path) -> None:
    """Nobody knows what of the state is on the disk then; the same command goes on from what it finds there."""
    trigger = tmp_path / "fail"
    life = flow.start(fail=_MIDDLE, once=True, script=(str(_FAILING_FSYNC), str(trigger)))
    life.wait_until_stopped()
    trigger.touch()
    life.signal(signal.SIGCONT)
    ended = life.wait(60)
    if trigger.with_suffix(".refused").exists():
        pytest.skip("this kernel does not let fsync fail")
    assert ended.exit_code == 3, ended.log[-6000:]
    assert ended.error["class"] == "StateUnavailableError"
    assert str(flow.state) in ended.message
    check_nothing_left(flow)

    ending = flow.run()
    assert 0 < ending.result["moved_rows"] < ending.result["rows"]
    check_copy(flow, ending)
