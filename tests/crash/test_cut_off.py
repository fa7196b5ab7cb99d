"""Plug-ins hang and connections break in the middle of a page: it is noticed, repeated, and never half applied."""

from __future__ import annotations

import asyncio
import signal

import pytest

from tests.crash.conftest import MakeFlow
from tests.crash.lives import Flow
from tests.crash.oracles import check_copy, contents, watching
from tests.crash.tables import writing
from tests.support.fixtures import OpenProxy
from tests.support.proxy import Direction


@pytest.mark.parametrize("end", ["source", "sink"])
def test_a_plugin_that_hangs_is_replaced(flow: Flow, end: str) -> None:
    """Nobody wakes it: it is asked whether it lives, killed, and started again."""
    with writing(flow.source), watching(flow) as watcher:
        point = "source.before_copy" if end == "source" else "sink.before_commit"
        life = flow.start(fail=f"{point}:stop@20", once=True, short="answers")
        plugin = flow.paused_at(point)
        ending = life.wait(60)
        history = watcher.history()
    assert not plugin.is_running()
    assert '"plugin_hung"' in ending.log
    check_copy(flow, ending, expected=history[-1], before=history[:-1])


@pytest.mark.parametrize("end", ["source", "sink"])
async def test_a_connection_that_is_cut_in_a_page_is_made_again(
    make_flow: MakeFlow, open_proxy: OpenProxy, end: str
) -> None:
    """The server's connections are cut three times, each time in the middle of rows."""
    flow = make_flow()
    uri = flow.source_uri if end == "source" else flow.sink_uri
    proxy = await open_proxy(uri)
    if end == "source":
        flow.source_uri = proxy.through(uri)
    else:
        flow.sink_uri = proxy.through(uri)
    way = Direction.DOWN if end == "source" else Direction.UP
    life = flow.start(fail="sink.before_commit:delay=0.02@*")
    for _ in range(3):
        proxy.cut_after(700_000, way)
        before = proxy.carried_bytes(way)
        while life.is_running and proxy.carried_bytes(way) < before + 700_000:
            await asyncio.sleep(0.02)
    ending = await asyncio.to_thread(life.wait)
    assert '"call_retried"' in ending.log or '"snapshot_lost"' in ending.log
    await asyncio.to_thread(check_copy, flow, ending)
    assert contents(flow.source) == contents(flow.sink)


def test_a_paused_coordinator_goes_on(flow: Flow) -> None:
    """A laptop's lid: everything of the flow stands still for a moment, and nobody else wanted it."""
    life = flow.start(fail="coordinator.after_write:stop@20")
    life.wait_until_stopped()
    life.signal(signal.SIGCONT)
    check_copy(flow, life.wait())
