"""What other commands ask of a run is heeded once, in order, and what cannot be is answered."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dsync.app import asking
from dsync.app.asking import NoAnswerError
from dsync.app.ends import Meeting
from dsync.app.heeding import RequestKind, heeding, set_right
from dsync.app.known import find_known_flow
from dsync.app.resuming import request_of
from dsync.app.stream_figures import StreamWatch
from dsync.app.sync import spec_of
from dsync.coordinator.control import Control, Rate, RunCancelledError
from dsync.coordinator.events import Event, StreamMoved
from dsync.coordinator.spec import EndpointIdentity, FlowSpec
from dsync.coordinator.tasks import StoppedError
from dsync.protocol.errors import RequestError, ServerUnavailableError
from dsync.state import Phase, Store, this_process
from tests.support.waiting import wait_for_async

SPEC = FlowSpec(
    source=EndpointIdentity(reference="env:A", address="postgresql://a/shop"),
    sink=EndpointIdentity(reference="env:B", address="postgresql://b/shop"),
)


@pytest.fixture
def state(tmp_path: Path) -> str:
    return str(tmp_path / "state.db")


@pytest.fixture
def store(state: str) -> Iterator[Store]:
    with Store.open(state) as opened:
        yield opened


class Runner:
    """A flow and the process that runs it, as far as requests go."""

    def __init__(self, store: Store, spec: FlowSpec = SPEC) -> None:
        self.store = store
        self.flow = store.create_flow(name="shop", fingerprint="f", spec=spec.model_dump(mode="json")).flow
        self.run = store.new_run(self.flow, mode="copy", phase=Phase.COPYING).run
        self.events: list[Event] = []
        self.stopping = asyncio.Event()
        self.streams = StreamWatch()
        self.looks = 0

    async def pause(self, _seconds: float) -> None:
        self.looks += 1
        await asyncio.sleep(0.001)

    def heeding(self, **more: Any) -> Any:
        return heeding(
            self.store,
            flow=self.flow,
            run=self.run,
            title="shop",
            emit=self.events.append,
            stopping=self.stopping,
            streams=self.streams,
            pause=self.pause,
            **more,
        )

    async def looked(self) -> None:
        """Until it has looked once more after this moment."""
        seen = self.looks
        await wait_for_async(lambda: self.looks > seen + 2)

    @property
    def said(self) -> list[str]:
        return [event.name for event in self.events]

    def outcomes(self) -> list[dict[str, Any]]:
        return [dict(row.outcome or {}) for row in self.store.list_requests(self.flow)]


@pytest.fixture
async def runner(store: Store) -> Runner:
    return Runner(store)


async def test_a_pause_stands_until_a_resume_ends_it(runner: Runner, store: Store) -> None:
    """It is open for as long as it is in force; asked twice it is one."""
    async with runner.heeding() as control:
        store.add_request(runner.flow, RequestKind.PAUSE)
        store.add_request(runner.flow, RequestKind.PAUSE)
        await wait_for_async(lambda: control.is_paused)
        await runner.looked()
        assert [row.done_at for row in store.list_requests(runner.flow)] == [None, None]
        store.add_request(runner.flow, RequestKind.RESUME)
        await wait_for_async(lambda: not control.is_paused)
        await wait_for_async(lambda: not store.open_requests(runner.flow))

    assert runner.said == ["run_paused", "run_resumed"]
    assert [outcome.get("was_paused") for outcome in runner.outcomes()] == [None, None, True]


async def test_a_flow_that_was_paused_begins_so(runner: Runner, store: Store) -> None:
    """Nothing of the run happens before it goes on, whoever had taken the pause before."""
    store.add_request(runner.flow, RequestKind.PAUSE)
    store.take_requests(runner.flow)
    entered = asyncio.Event()

    async def run() -> None:
        async with runner.heeding():
            entered.set()

    running = asyncio.create_task(run())
    await wait_for_async(lambda: runner.looks > 3)
    assert not entered.is_set()
    store.add_request(runner.flow, RequestKind.RESUME)
    await running
    assert entered.is_set()


async def test_one_that_is_paused_and_stopped_stays_paused(runner: Runner, store: Store) -> None:
    """Ctrl-C is no resume."""
    store.add_request(runner.flow, RequestKind.PAUSE)
    runner.stopping.set()
    with pytest.raises(StoppedError):
        async with runner.heeding():
            raise AssertionError("it has begun")
    assert [row.kind for row in store.open_requests(runner.flow)] == ["pause"]


async def test_the_run_s_own_end_ends_a_pause_and_answers_a_cancel(runner: Runner, store: Store) -> None:
    """What came too late is told so, and does not surprise the next run."""
    async with runner.heeding() as control:
        store.add_request(runner.flow, RequestKind.PAUSE)
        store.add_request(runner.flow, RequestKind.CANCEL)
        await wait_for_async(lambda: control.is_paused and runner.stopping.is_set())
    assert store.open_requests(runner.flow) == ()
    assert [outcome["heeded"] for outcome in runner.outcomes()] == [True, False]


async def test_a_run_that_fails_leaves_its_pause_in_force(runner: Runner, store: Store) -> None:
    """A server that is down resumes nothing."""
    with pytest.raises(ServerUnavailableError):
        async with runner.heeding() as control:
            store.add_request(runner.flow, RequestKind.PAUSE)
            await wait_for_async(lambda: control.is_paused)
            raise ServerUnavailableError("nothing listens there")
    assert [row.kind for row in store.open_requests(runner.flow)] == ["pause"]


async def test_another_rate_reaches_the_run(runner: Runner, store: Store) -> None:
    """And is done with."""
    async with runner.heeding() as control:
        assert control.rate is None
        store.add_request(runner.flow, RequestKind.RATE, {"rows_per_s": 5, "bytes_per_s": 7})
        await wait_for_async(lambda: control.rate == Rate(rows_per_s=5, bytes_per_s=7))
        await wait_for_async(lambda: not store.open_requests(runner.flow))
    assert runner.said == ["rate_changed"]


async def test_a_cancelled_run_drains_and_is_recorded_so(runner: Runner, store: Store) -> None:
    """By the block's own StoppedError, as for a signal."""
    with pytest.raises(RunCancelledError, match="dsync resume shop"):
        async with runner.heeding():
            store.add_request(runner.flow, RequestKind.CANCEL)
            await runner.stopping.wait()
            raise StoppedError
    latest = store.latest_run(runner.flow)
    assert latest is not None
    assert latest.phase is Phase.CANCELLED
    assert runner.outcomes() == [{"heeded": True, "phase": "cancelled", "run": runner.run}]


async def test_a_cancelled_run_that_does_not_drain_ends_all_the_same(runner: Runner, store: Store) -> None:
    """A server that says nothing keeps nobody."""
    with pytest.raises(RunCancelledError):
        async with asyncio.timeout(30), runner.heeding(drain_s=0.01):
            store.add_request(runner.flow, RequestKind.CANCEL)
            await asyncio.Event().wait()
    latest = store.latest_run(runner.flow)
    assert latest is not None
    assert latest.phase is Phase.CANCELLED


async def test_a_run_that_is_handed_over_ends_and_is_not_cancelled(runner: Runner, store: Store) -> None:
    """The same command goes on with it later; whoever asked goes on at once."""
    with pytest.raises(RunCancelledError, match="taken the flow over"):
        async with runner.heeding():
            store.add_request(runner.flow, RequestKind.HAND_OVER)
            await runner.stopping.wait()
            raise StoppedError
    latest = store.latest_run(runner.flow)
    assert latest is not None
    assert latest.phase is Phase.COPYING
    assert runner.outcomes() == [{"heeded": True, "run": runner.run}]


async def test_a_flow_is_handed_over_once_nobody_holds_it(runner: Runner, state: str, store: Store) -> None:
    """At once where nobody runs it; else its holder ends, and only then does the answer come."""
    assert (await asking.hand_over(state, "shop")).holder is None
    lease = store.acquire_lease(runner.flow, this_process())
    asked = asyncio.create_task(asking.hand_over(state, "shop"))
    with pytest.raises(RunCancelledError):
        async with runner.heeding():
            await runner.stopping.wait()
            raise StoppedError
    await wait_for_async(lambda: not store.open_requests(runner.flow))
    assert not asked.done()
    store.release_lease(lease)
    assert (await asked).outcome["heeded"] is True


async def test_where_a_stream_stands_is_kept_while_it_runs_and_as_it_stops(runner: Runner, store: Store) -> None:
    """For whoever asks for the flow's status in another process; what has not moved is not written again."""

    def kept() -> Any:
        row = store.get_run(runner.flow, runner.run)
        assert row is not None
        return row.extra.get("stream")

    def moved(changes: int) -> None:
        runner.streams(
            StreamMoved(changes=changes, lag_s=0, lag_bytes=0, spool_bytes=1, retained_bytes=2, safe_bytes=None)
        )

    with pytest.raises(StoppedError):
        async with runner.heeding():
            await runner.looked()
            assert kept() is None
            moved(7)
            await wait_for_async(lambda: kept() is not None and kept()["changes"] == 7)
            written = kept()
            for _ in range(8):
                await runner.looked()
            assert kept() == written
            moved(9)
            raise StoppedError
    assert kept()["changes"] == 9


async def test_what_a_newer_dsync_asks_is_answered(runner: Runner, store: Store) -> None:
    """Nobody waits for what nobody here can do."""
    async with runner.heeding():
        store.add_request(runner.flow, "levitate")
        await wait_for_async(lambda: not store.open_requests(runner.flow))
    assert runner.outcomes()[0]["heeded"] is False


async def test_what_an_earlier_process_left_open_is_set_right(runner: Runner, store: Store) -> None:
    """A rate was that process's own; `resume` overrules a pause, and either word a cancel."""
    for kind in (RequestKind.PAUSE, RequestKind.CANCEL, RequestKind.RATE):
        store.add_request(runner.flow, kind)

    def left() -> list[str]:
        return [row.kind for row in store.open_requests(runner.flow)]

    set_right(store, runner.flow, again=False, resumes=False, emit=runner.events.append)
    assert left() == ["pause", "cancel"]
    set_right(store, runner.flow, again=True, resumes=False, emit=runner.events.append)
    assert left() == ["pause"]
    set_right(store, runner.flow, again=False, resumes=True, emit=runner.events.append)
    assert left() == []
    assert runner.said == ["run_resumed"]


async def test_a_cancel_that_nobody_has_come_to_ends_the_next_start(runner: Runner, store: Store) -> None:
    """The process that took it has died; what was asked for still is."""
    store.add_request(runner.flow, RequestKind.CANCEL)
    with pytest.raises(RunCancelledError):
        async with runner.heeding():
            raise AssertionError("it has begun")


async def test_the_next_start_takes_a_cancelled_run_up_where_that_is_asked_for(runner: Runner, store: Store) -> None:
    """Where it was: planned or not."""
    for extra, phase in (({}, Phase.CHECKING), ({"planned": True}, Phase.COPYING)):
        store.set_extra(runner.flow, runner.run, extra)
        store.finish_run(runner.flow, runner.run, Phase.CANCELLED)
        set_right(store, runner.flow, again=False, resumes=False, emit=runner.events.append)
        assert store.list_runs(runner.flow)[0].phase is Phase.CANCELLED
        set_right(store, runner.flow, again=False, resumes=True, emit=runner.events.append)
        assert store.list_runs(runner.flow)[0].phase is phase


async def test_a_holder_that_does_not_answer_is_named(
    runner: Runner, store: Store, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stands, stands; a rate does not, since nobody would know when it came to hold."""
    monkeypatch.setattr(asking, "ANSWER_S", 0.2)
    lease = store.acquire_lease(runner.flow, this_process())
    for ask in (asking.pause(state, "shop"), asking.change_rate(state, "shop", Rate(rows_per_s=1))):
        with pytest.raises(NoAnswerError, match=f"process {this_process().pid} on"):
            await ask
    assert [row.kind for row in store.open_requests(runner.flow)] == ["pause"]
    store.release_lease(lease)
    with pytest.raises(RequestError, match="--rate-limit"):
        await asking.change_rate(state, "shop", Rate(rows_per_s=1))


def test_a_flow_is_resumed_with_all_that_it_was_run_with(store: Store, state: str) -> None:
    """Whatever a specification comes to hold: tuning as well, and the rest of its load level."""
    spec = SPEC.model_copy(
        update={
            "namespaces": ("shop.*",),
            "exclude": ("shop.log",),
            "filters": ("shop.orders=total > 100",),
            "schema_mode": "none",
            "on_existing": "append",
            "no_owner": True,
            "no_privileges": True,
            "allow_lossy": True,
            "data_type": "bson",
            "attach": "inline",
            "parallel": 3,
            "page_bytes": 77_777,
            "memory_limit": 99_999_999,
            "retry_for_s": 12.5,
            "dead_letters": ("shop.orders=0",),
            "rate_rows_per_s": 11,
            "rate_bytes_per_s": 12,
            "pause_ratio": 0.25,
            "mode": "full",
            "slot_timeout_s": 7.5,
            "spool_limit": 88_888_888,
            "apply": "transactional",
            "ack": "spooled",
        }
    )
    assert not set(FlowSpec.model_fields) - spec.model_dump(exclude_defaults=True).keys() - {"version"}
    Runner(store, spec)
    request = request_of(find_known_flow(store, "shop"))
    meeting = Meeting(
        source=None,  # type: ignore[arg-type]  # nobody is asked for
        sink=None,  # type: ignore[arg-type]
        source_identity=spec.source,
        sink_identity=spec.sink,
        pages=None,
    )
    assert spec_of(request, meeting) == spec
    assert (request.source, request.sink, request.flow) == ("env:A", "env:B", "shop")
    assert request.resumes == find_known_flow(store, "shop").flow.flow


def test_a_run_that_nobody_steers_is_not_paused() -> None:
    """The default of every run."""
    control = Control()
    assert not control.is_paused
    assert control.rate is None
