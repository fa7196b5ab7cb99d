"""A run that is paused rests between two pages and between two steps, and goes on where it was."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from dsync.coordinator.control import Control
from dsync.coordinator.events import Event, NamespaceCopied, PageCopied, PhaseChanged, StepFinished
from dsync.coordinator.tasks import StoppedError
from dsync.protocol.types import WriteRequest
from dsync.sdk.testing.memory import MemoryConnector
from dsync.state import Store
from tests.support.waiting import wait_for_async
from tests.unit.coordinator.harness import Harness

ROWS = 3000


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "state.db") as opened:
        yield opened


@pytest.fixture
def flow(store: Store) -> Harness:
    harness = Harness(store, partition_rows=100)
    harness.source.serve("shop.orders", ROWS)
    return harness


class Pausing(list[Event]):
    """Pauses a run at the first event of a kind."""

    def __init__(self, control: Control, kind: type[Event]) -> None:
        super().__init__()
        self._control = control
        self._kind = kind

    def append(self, event: Event) -> None:
        super().append(event)
        if isinstance(event, self._kind):
            self._control.pause()

    def count(self, kind: object) -> int:
        return sum(isinstance(event, kind) for event in self)  # type: ignore[arg-type]


async def _settled() -> None:
    """As long as anybody who could go on would have needed to; they are all in this process."""
    for _ in range(200):
        await asyncio.sleep(0.001)


async def test_no_page_is_read_while_the_run_is_paused(flow: Harness) -> None:
    """What is on its way arrives."""
    control = Control()
    flow.events = events = Pausing(control, PageCopied)
    running = asyncio.create_task(flow.run(control=control, parallel=1))
    await wait_for_async(lambda: control.is_paused)
    await _settled()
    # The one that paused it, and the one that was being read meanwhile.
    assert 1 <= events.count(PageCopied) <= 2
    events._kind = PhaseChanged
    control.resume()
    await wait_for_async(lambda: control.is_paused)
    control.resume()
    await running
    assert flow.ids("shop.orders") == list(range(ROWS))


async def test_no_step_is_begun_while_the_run_is_paused(flow: Harness) -> None:
    """An index takes longer than any page."""
    control = Control()
    flow.events = events = Pausing(control, NamespaceCopied)
    running = asyncio.create_task(flow.run(control=control))
    await wait_for_async(lambda: control.is_paused)
    await _settled()
    assert not running.done()
    assert events.count(StepFinished) == 0
    control.resume()
    await running
    assert events.count(StepFinished) > 0


async def test_a_paused_run_that_is_to_stop_stops_and_goes_on_later(flow: Harness) -> None:
    """As one that was not paused."""
    control, stopping = Control(), asyncio.Event()
    flow.events = Pausing(control, PageCopied)
    running = asyncio.create_task(flow.run(control=control, stopping=stopping))
    await wait_for_async(lambda: control.is_paused)
    stopping.set()
    with pytest.raises(StoppedError):
        await running
    flow.events = []
    await flow.run()
    assert flow.ids("shop.orders") == list(range(ROWS))


async def test_every_page_that_is_being_written_is_finished_when_the_run_is_to_stop(
    flow: Harness, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a reader that waits nor another worker that has stopped ends it; what has arrived is recorded."""
    stopping = asyncio.Event()
    begun: list[WriteRequest] = []
    done: list[WriteRequest] = []
    write = MemoryConnector.write_page

    async def slow(self: MemoryConnector, request: WriteRequest) -> int:
        begun.append(request)
        stopping.set()
        await _settled()
        result = await write(self, request)
        done.append(request)
        return result

    monkeypatch.setattr(MemoryConnector, "write_page", slow)
    # Two pieces of several pages each, so that the next one is waited for while one is written.
    flow.partition_rows = 8
    flow.source.serve("shop.logs", 16, record_bytes=40_000)
    with pytest.raises(StoppedError):
        # A rate at which every reader waits.
        await flow.run(stopping=stopping, rate_rows_per_s=2, parallel=2, namespaces=("shop.logs",))

    assert len(done) == len(begun) > 0
    (total,) = store.namespace_totals(flow.flow.flow, flow.row.run)
    assert total.rows == len(flow.ids("shop.logs")) > 0
