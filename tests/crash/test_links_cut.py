"""Links to plug-ins that others run are cut at random moments, and once fall silent: retries bring it to its end."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.crash.conftest import MakeFlow
from tests.crash.lives import COMMAND, Flow, Life
from tests.crash.oracles import check_copy, contents
from tests.support.fixtures import OpenProxy
from tests.support.proxy import Direction, FaultyProxy
from tests.support.waiting import wait_for, wait_for_async

_CUTS = 6
_SLOWED = {"DSYNC_FAIL": "sink.before_commit:delay=0.03@*"}


@contextmanager
def serving(uri: str, directory: Path, environment: dict[str, str]) -> Iterator[str]:
    """`dsync serve` of a database; gives the address."""
    directory.mkdir()
    output, log = directory / "out", directory / "err"
    command = [str(COMMAND), "serve", uri, "--listen", "127.0.0.1:0", "--json"]
    with output.open("wb") as out, log.open("wb") as err:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environment)
    try:
        wait_for(
            lambda: "address" in output.read_text() + log.read_text() or process.poll() is not None,
            timeout_s=60,
            what=lambda: f"the address that is served at:\n{log.read_text()}",
        )
        (line,) = [line for line in (output.read_text() + log.read_text()).splitlines() if '"address"' in line]
        yield json.loads(line)["result"]["address"]
    finally:
        process.terminate()
        try:
            process.wait(30)
        finally:
            process.kill()


class Links:
    """A flow whose plug-ins are served, each behind a proxy."""

    def __init__(self, flow: Flow, source: FaultyProxy, sink: FaultyProxy) -> None:
        self.flow = flow
        self.source = source
        self.sink = sink

    async def cut_at_random(self, life: Life, chance: random.Random) -> int:
        """Cut one link or the other, wherever its bytes are just then; returns how often."""
        for count in range(_CUTS):
            proxy = chance.choice([self.source, self.sink])
            way = Direction.DOWN if proxy is self.source else Direction.UP
            before, after = proxy.carried_bytes(way), chance.randrange(1, 600_000)
            proxy.cut_after(after, way)

            def is_cut(proxy: FaultyProxy = proxy, way: Direction = way, limit: int = before + after) -> bool:
                return proxy.carried_bytes(way) >= limit or not life.is_running

            await wait_for_async(is_cut, timeout_s=60, what="bytes to cut")
            if not life.is_running:
                return count
        return _CUTS

    async def fall_silent(self, proxy: FaultyProxy, life: Life) -> None:
        """Swallow everything, until it was given up; what was held back comes late then, when it was sent again."""
        retried = life.log.count('"call_retried"')
        proxy.black_hole()
        await wait_for_async(
            lambda: life.log.count('"call_retried"') > retried or not life.is_running,
            timeout_s=60,
            what="that the silence is noticed",
        )
        proxy.black_hole(False)


async def link(make_flow: MakeFlow, open_proxy: OpenProxy, stack: ExitStack) -> Links:
    flow = make_flow()
    environment = flow.environment()
    ends = [
        (flow.source_uri, environment),
        (flow.sink_uri, environment | _SLOWED),
    ]
    addresses = []
    for number, (uri, environ) in enumerate(ends):
        served = serving(uri, flow.directory / f"served{number}", environ)
        addresses.append(await asyncio.to_thread(stack.enter_context, served))
    source, sink = [await open_proxy(address) for address in addresses]
    flow.source_uri, flow.sink_uri = source.through(addresses[0]), sink.through(addresses[1])
    return Links(flow, source, sink)


@pytest.mark.parametrize("seed", [1])
async def test_links_cut_at_random_moments_lose_and_repeat_nothing(
    make_flow: MakeFlow, open_proxy: OpenProxy, seed: int
) -> None:
    with ExitStack() as stack:
        links = await link(make_flow, open_proxy, stack)
        life = links.flow.start()
        cuts = await links.cut_at_random(life, random.Random(seed))
        ending = await asyncio.to_thread(life.wait)
        again = await asyncio.to_thread(links.flow.run)
    assert cuts >= 2, "it was over before it was cut"
    assert ending.events("call_retried")
    assert not ending.events("snapshot_lost"), "the plug-ins have never stopped"
    assert again.result["moved_nothing"]
    await asyncio.to_thread(check_copy, links.flow, ending)
    assert ending.exit_code == 0
    assert contents(links.flow.source) == contents(links.flow.sink)


@pytest.mark.slow
@pytest.mark.parametrize("end", ["source", "sink"])
async def test_a_link_that_falls_silent_is_given_up_and_what_comes_late_changes_nothing(
    make_flow: MakeFlow, open_proxy: OpenProxy, end: str
) -> None:
    """Half-open: no reset, no end. A page that was held back arrives after it was sent again."""
    with ExitStack() as stack:
        links = await link(make_flow, open_proxy, stack)
        life = links.flow.start()
        proxy = links.source if end == "source" else links.sink
        way = Direction.DOWN if end == "source" else Direction.UP
        await wait_for_async(lambda: proxy.carried_bytes(way) > 500_000, timeout_s=60, what="pages on their way")
        await links.fall_silent(proxy, life)
        ending = await asyncio.to_thread(life.wait)
    assert ending.events("call_retried")
    await asyncio.to_thread(check_copy, links.flow, ending)
    assert ending.exit_code == 0
    assert contents(links.flow.source) == contents(links.flow.sink)
