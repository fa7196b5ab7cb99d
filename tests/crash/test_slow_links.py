"""A sink behind a slow line slows the source, instead of filling memory with what waits for it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psutil

from tests.crash.conftest import MakeFlow
from tests.crash.lives import Life
from tests.crash.oracles import check_copy
from tests.support.fixtures import OpenProxy
from tests.support.proxy import Direction

MIB = 1024 * 1024


def page_bytes_under_way(life: Life) -> int:
    """What lies in the directory of pages that the coordinator has locked as its own."""
    try:
        locked = [Path(file.path) for file in psutil.Process(life.pid).open_files() if "dsync-run-" in file.path]
    except psutil.Error:
        return 0
    return sum(_size(page) for lock in locked for page in lock.parent.iterdir() if page != lock)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        # Its reader has just removed it.
        return 0


async def test_a_slow_sink_holds_the_source_back(make_flow: MakeFlow, open_proxy: OpenProxy) -> None:
    """Six megabytes, and at no time more than the pages in flight and those read ahead."""
    flow = make_flow()
    proxy = await open_proxy(flow.sink_uri)
    proxy.bytes_per_s = 1.5 * MIB
    flow.sink_uri = proxy.through(flow.sink_uri)
    life = flow.start()
    peak, samples = 0, 0
    while life.is_running:
        under_way = page_bytes_under_way(life)
        peak, samples = max(peak, under_way), samples + bool(under_way)
        await asyncio.sleep(0.02)
    ending = await asyncio.to_thread(life.wait)
    assert ending.exit_code == 0, ending.log[-4000:]
    assert proxy.carried_bytes(Direction.UP) > 5 * MIB
    assert samples > 20
    # Two in flight, two read ahead, two on their way, each of the asked size and a row.
    assert peak < 1 * MIB, f"{peak:,} bytes under way"
    await asyncio.to_thread(check_copy, flow, ending)
