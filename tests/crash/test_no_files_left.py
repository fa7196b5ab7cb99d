"""A plug-in that may open no more files or connections makes do with those it has."""

from __future__ import annotations

import sys

import psutil
import pytest

from tests.crash.conftest import MakeFlow
from tests.crash.oracles import check_copy

if sys.platform != "linux":
    pytest.skip("limits of another process are Linux's alone", allow_module_level=True)


@pytest.mark.parametrize("point", ["source.before_copy", "sink.before_commit"])
def test_a_plugin_without_files_goes_on_with_fewer_connections(make_flow: MakeFlow, point: str) -> None:
    """Every connection is an open file, and so is every page on its way."""
    flow = make_flow(parallel=16)
    life = flow.start(fail=f"{point}:stop", once=True)
    plugin = flow.paused_at(point)
    _, hard = plugin.rlimit(psutil.RLIMIT_NOFILE)
    plugin.rlimit(psutil.RLIMIT_NOFILE, (plugin.num_fds() + 2, hard))
    plugin.resume()
    ending = life.wait()
    assert not ending.events("plugin_died")
    assert ending.exit_code == 0, ending.log[-6000:]
    check_copy(flow, ending)
