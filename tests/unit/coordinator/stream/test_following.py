"""Source to spool to sink: nothing is lost, doubled or discarded early, wherever it breaks off and starts again."""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsync.coordinator.pace import Pace
from dsync.coordinator.stream import applier as applying
from dsync.coordinator.stream.acknowledging import Acknowledging, require_whole
from dsync.coordinator.stream.follower import Follower
from dsync.coordinator.stream.horizon import Horizon
from dsync.coordinator.stream.intake import Intake, beside, order_of, place_of
from dsync.coordinator.stream.lanes import MAIN, kept_by_all
from dsync.coordinator.stream.position import Position
from dsync.coordinator.stream.rounds import Round, Rounds
from dsync.coordinator.tasks import StoppedError
from dsync.protocol.errors import DsyncError, PluginBugError, ServerUnavailableError
from dsync.protocol.frames import START, Place
from dsync.protocol.interface import Connector
from dsync.protocol.page_codec import frame_pieces
from dsync.protocol.types import (
    ChangeFrame,
    ChangeType,
    Operation,
    StreamChangesRequest,
    WriteChangesRequest,
    WrittenChanges,
)
from dsync.spool import Spool, SpoolLostError
from tests.support.waiting import wait_for_async
from tests.unit.coordinator.stream.histories import Change, LedgerSink, history_of, stream
from tests.unit.coordinator.stream.test_applying import OPERATIONS, Life, check

MIB = 1024 * 1024


@dataclass(kw_only=True)
class Source(Connector):
    """Streams a history, breaks off now and then, and discards what it is told is durable, as it is opened too."""

    history: Sequence[Change]
    chance: random.Random
    breaks: int = 3
    record_bytes: int = 0
    namespaces: int = 1
    gives_again: bool = False
    """What it was told to discard it has all the same."""
    sent: int = 0
    """Frames with changes."""
    discarded: Place = START
    acknowledged: list[bytes] = field(default_factory=list)

    async def stream_changes(self, request: StreamChangesRequest) -> AsyncGenerator[ChangeFrame, None]:  # type: ignore[override]
        place = _place(request.cursor)
        self.discarded = max(self.discarded, _place(request.cursor if request.durable is None else request.durable))
        assert place >= self.discarded or self.gives_again, "what was discarded is asked for again"
        if (
            place == self.discarded
            and not self.gives_again
            and self.acknowledged
            and self.acknowledged[-1].endswith(b"+")
        ):
            assert request.cursor.endswith(b"+"), "the position has moved since, and that was acknowledged"
        position = Position(place=place, cursor=_plain(request.cursor))
        frames = stream(self.history, position, self.chance, record_bytes=self.record_bytes, namespaces=self.namespaces)
        async for frame in frames:
            self._break()
            self.sent += 1
            yield frame
        last = self.history[-1].place if self.history else START
        while True:
            self._break()
            # Nothing has changed; the position moves on all the same.
            yield ChangeFrame(
                type=ChangeType.BSON,
                cursor=_plain(request.cursor) if not self.history else repr(last).encode() + b"+",
                transaction=last[0],
                index=last[1],
                position=99,
            )
            await asyncio.sleep(0.001)

    def _break(self) -> None:
        if self.breaks and self.chance.random() < 0.2:
            self.breaks -= 1
            raise ServerUnavailableError("the line broke")

    async def acknowledge(self, namespaces: Sequence[str], cursor: bytes) -> None:
        self.acknowledged.append(cursor)
        self.discarded = max(self.discarded, _place(cursor))


def _plain(cursor: bytes) -> bytes:
    return cursor.removesuffix(b"+")


def _place(cursor: bytes) -> Place:
    if not cursor:
        return START
    transaction, index = _plain(cursor).decode().strip("()").split(", ")
    return int(transaction), int(index)


@dataclass
class Told:
    """What is recorded of what the source was told; outlives a coordinator."""

    by_spool: bool = False
    spooled: Position | None = None
    applied: Position = field(default_factory=Position)

    async def note_applied(self, position: Position) -> None:
        self.applied = position

    async def record(self, position: Position | None) -> None:
        self.spooled = position


class FollowingLife:
    """A coordinator that follows until everything is applied, it is stopped, or something fails."""

    def __init__(
        self,
        source: Source,
        sink: LedgerSink,
        spool: Spool,
        *,
        repeat: bool,
        every_s: float = 0,
        told: Told | None = None,
    ) -> None:
        self.source, self.sink = source, sink
        self.stopping = asyncio.Event()
        self.checkpoints = list[Position]()
        applier = Life(sink, repeat=repeat).applier
        request = StreamChangesRequest(type=ChangeType.BSON)
        self.told = told or Told()
        self.acknowledging = Acknowledging(
            spool=spool,
            by_spool=self.told.by_spool,
            spooled=self.told.spooled,
            record=self.told.record,
            tell=lambda cursor: source.acknowledge([], cursor),
        )
        horizon = Horizon(
            spool=spool, acknowledge=self._acknowledge, record=self.told.note_applied, told=self.told.applied
        )
        horizon.hold(MAIN, kept_by_all(applier.lanes))
        self.follower = Follower(
            spool=spool,
            intake=Intake(
                source=source,
                spool=spool,
                request=request,
                start=horizon.start,
                emit=lambda _: None,
                reopen=_nothing,
                confirm=self.acknowledging.confirm if self.told.by_spool else None,
                confirmed=self.told.spooled or Position(),
            ),
            applier=applier,
            rounds=Rounds(limit_bytes=30),
            checkpoint=self._checkpoint,
            horizon=horizon,
            stopping=self.stopping,
            acknowledge_every_s=every_s,
        )

    async def run(self, *, until: Callable[[], bool] = lambda: False) -> None:
        """Follow, and read beside it."""
        await beside(self.follower.intake, self.follower.run(until=until))

    async def _checkpoint(self, position: Position) -> None:
        assert self.sink.position.place >= position.place, "checkpointed before it was durable"
        self.checkpoints.append(position)

    async def _acknowledge(self, position: Position) -> None:
        assert self.checkpoints[-1].cursor == position.cursor, "acknowledged before it was checkpointed"
        await self.acknowledging.applied(kept_by_all(self.follower.applier.lanes), self.follower.intake.quiet)

    def is_done(self) -> bool:
        last = self.source.history[-1].place if self.source.history else START
        # The spool gives a frame before the intake has noted that it is there.
        return min(self.follower.applier.position.place, self.follower.intake.quiet.place) >= last


async def _nothing() -> None:
    """There is no session to open."""


def short_waits(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("dsync.coordinator.stream.intake._WAIT_INITIAL_S", 0.001)
    patch.setattr("dsync.coordinator.stream.intake._WAIT_MAX_S", 0.002)
    patch.setattr(applying, "SMALL_ROUND", 2)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.lists(st.tuples(OPERATIONS, st.integers(0, 5)), min_size=1, max_size=6), min_size=1, max_size=6),
    st.integers(1, 3),
    st.integers(0, 2**32),
    st.booleans(),
)
async def test_a_history_arrives_whatever_breaks(
    transactions: list[list[tuple[Operation, int]]], lanes: int, seed: int, keeps_spool: bool
) -> None:
    """The line to the source, the sink before and after its commit, the coordinator with or without its spool."""
    history = history_of(transactions)
    chance = random.Random(seed)
    left = [3]

    def fail() -> str:
        found = chance.choice(["", "", "before", "after"]) if left[0] else ""
        left[0] -= bool(found)
        return found

    sink = LedgerSink(lanes=lanes, fail=fail, meet=lambda: chance.random() < 0.2)
    source, told = Source(history=history, chance=chance), Told()
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        short_waits(patch)
        number = 0
        while True:
            place = Path(folder, "spool" if keeps_spool else str(number))
            number += 1
            async with await Spool.open(place, flow="f", limit_bytes=8 * MIB, segment_bytes=MIB) as spool:
                life = FollowingLife(source, sink, spool, repeat=False, told=told)
                try:
                    await life.run(until=life.is_done)
                except ServerUnavailableError:
                    continue
                break
    check(sink, history)
    assert life.checkpoints, "the end of a stream is recorded and acknowledged"
    assert source.discarded == sink.position.place == history[-1].place


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.lists(st.tuples(OPERATIONS, st.integers(0, 5)), min_size=1, max_size=6), min_size=1, max_size=6),
    st.integers(0, 2**32),
)
async def test_a_history_arrives_also_where_the_source_has_discarded_what_was_spooled(
    transactions: list[list[tuple[Operation, int]]], seed: int
) -> None:
    """In lives that tell it one or the other; a source is never asked for what it was told to discard."""
    history = history_of(transactions)
    chance = random.Random(seed)
    left = [4]

    def fail() -> str:
        found = chance.choice(["", "before", "after"]) if left[0] else ""
        left[0] -= bool(found)
        return found

    sink = LedgerSink(lanes=2, fail=fail)
    source = Source(history=history, chance=chance)
    told = Told()
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        short_waits(patch)
        patch.setattr("dsync.coordinator.stream.intake.CONFIRM_EVERY_S", 0)
        while True:
            told.by_spool = chance.random() < 0.7
            async with await Spool.open(Path(folder, "s"), flow="f", limit_bytes=8 * MIB, segment_bytes=MIB) as spool:
                require_whole(spool, sink.position, told.spooled)
                life = FollowingLife(source, sink, spool, repeat=False, told=told)
                try:
                    await life.run(until=life.is_done)
                except ServerUnavailableError:
                    continue
                break
    check(sink, history)


async def test_a_spool_that_is_gone_and_was_all_there_was_is_missed(tmp_path: Path) -> None:
    """The source gives nothing again of what it was told to discard: going on would be a gap."""
    history = history_of([[(Operation.INSERT, key)] for key in range(5)])
    gate = asyncio.Event()

    class Blocked(LedgerSink):
        async def write_changes(self, request: WriteChangesRequest) -> WrittenChanges:
            await gate.wait()
            raise AssertionError("it is never let through")

    sink, source, told = (
        Blocked(lanes=1),
        Source(history=history, chance=random.Random(1), breaks=0),
        Told(by_spool=True),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dsync.coordinator.stream.intake.CONFIRM_EVERY_S", 0)
        async with await Spool.open(tmp_path / "s", flow="f", limit_bytes=8 * MIB) as spool:
            life = FollowingLife(source, sink, spool, repeat=False, told=told)
            task = asyncio.create_task(life.run())
            async with asyncio.timeout(20):
                while source.discarded < history[-1].place:
                    await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    assert sink.position.place == START
    async with await Spool.open(tmp_path / "s", flow="f", limit_bytes=8 * MIB) as spool:
        require_whole(spool, sink.position, told.spooled)
    async with await Spool.open(tmp_path / "another", flow="f", limit_bytes=8 * MIB) as spool:
        with pytest.raises(SpoolLostError, match="--again"):
            require_whole(spool, sink.position, told.spooled)
        require_whole(spool, Position(place=history[-1].place), told.spooled)


async def test_a_source_without_changes_may_discard_what_others_have_written(tmp_path: Path) -> None:
    """The cursor moves without a change: the ledger has it first, and it is acknowledged."""
    history = history_of([[(Operation.INSERT, 1)]])
    sink, source = LedgerSink(lanes=2), Source(history=history, chance=random.Random(1), breaks=0)
    async with await Spool.open(tmp_path / "s", flow="f", limit_bytes=8 * MIB) as spool:
        life = FollowingLife(source, sink, spool, repeat=False)
        await asyncio.wait_for(life.run(until=lambda: b"(1, 1)+" in source.acknowledged), 20)
    assert [Position.decode(cursor).cursor for _, _, cursor in sink.ledger.values()] == [b"(1, 1)+"] * 2


async def test_what_an_earlier_life_has_applied_is_told_once_the_stream_has_begun(tmp_path: Path) -> None:
    """Until then the stream may be opened again, where it was asked for the first time."""
    history = history_of([[(Operation.INSERT, 1)], [(Operation.INSERT, 2)]])

    class Late(Source):
        calls = 0

        async def stream_changes(self, request: StreamChangesRequest) -> AsyncGenerator[ChangeFrame, None]:  # type: ignore[override]
            self.calls += 1
            frames = super().stream_changes(request)
            first = await anext(frames)
            if self.calls == 1:
                # As long as whoever is in a hurry takes to tell.
                for _ in range(100):
                    await asyncio.sleep(0)
                raise ServerUnavailableError("the line broke")
            yield first
            async for frame in frames:
                yield frame

    sink = LedgerSink(lanes=2)
    async with await Spool.open(tmp_path / "first", flow="f", limit_bytes=8 * MIB) as spool:
        earlier = FollowingLife(Source(history=history, chance=random.Random(1), breaks=0), sink, spool, repeat=False)
        await earlier.run(until=earlier.is_done)
    told = Told(applied=Position(place=history[0].place, cursor=repr(history[0].place).encode()))
    source = Late(history=history, chance=random.Random(1), breaks=0, discarded=history[0].place)
    async with await Spool.open(tmp_path / "second", flow="f", limit_bytes=8 * MIB) as spool:
        life = FollowingLife(source, sink, spool, repeat=True, told=told)
        await asyncio.wait_for(life.run(until=lambda: source.discarded == history[-1].place), 20)
    assert source.calls == 2


async def test_one_that_is_stopped_has_told_what_it_has_done(tmp_path: Path) -> None:
    """Between two rounds; what was applied is acknowledged on the way out."""
    history = history_of([[(Operation.INSERT, key)] for key in range(20)])
    sink, source = LedgerSink(lanes=2), Source(history=history, chance=random.Random(1), breaks=0)
    async with await Spool.open(tmp_path / "s", flow="f", limit_bytes=8 * MIB) as spool:
        life = FollowingLife(source, sink, spool, repeat=False, every_s=1000)
        task = asyncio.create_task(life.run())
        while not life.is_done():
            await asyncio.sleep(0)
        assert source.acknowledged == []
        life.stopping.set()
        with pytest.raises(StoppedError):
            await asyncio.wait_for(task, 20)
    assert source.discarded == history[-1].place
    assert len(life.checkpoints) == 1


async def test_a_limit_holds_the_stream_back(tmp_path: Path) -> None:
    """Behind each frame, with what that has: the source keeps the next one meanwhile."""
    history = history_of([[(Operation.INSERT, key), (Operation.MARK, 0)] for key in range(20)])
    sink, source = LedgerSink(lanes=2), Source(history=history, chance=random.Random(1), breaks=0)
    spent, gate = list[int](), asyncio.Event()

    class Gate(Pace):
        async def spend(self, rows: int, size_bytes: int) -> None:
            spent.append(rows)
            await gate.wait()

    async with await Spool.open(tmp_path / "s", flow="f", limit_bytes=8 * MIB) as spool:
        life = FollowingLife(source, sink, spool, repeat=False)
        life.follower.intake.pace = Gate(stopping=life.stopping)
        task = asyncio.create_task(life.run(until=life.is_done))
        async with asyncio.timeout(20):
            while not spent:
                await asyncio.sleep(0)
            for _ in range(100):
                await asyncio.sleep(0)
            assert source.sent == 1, "the next frame was not asked for"
            gate.set()
            await task
    assert sum(spent) == 20
    check(sink, history)


async def test_nothing_is_applied_while_the_run_is_paused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even what was being waited for when the pause came; changes go on into the spool."""
    history = history_of([[(Operation.INSERT, key)] for key in range(20)])
    sink, source = LedgerSink(lanes=2), Source(history=history, chance=random.Random(1), breaks=0)
    wait, paused = Follower._news, asyncio.Event()

    async def news(self: Follower, pending: asyncio.Task[Round], timeout_s: float) -> None:
        await wait(self, pending, timeout_s)
        if pending.done() and not paused.is_set():
            paused.set()
            self.control.pause()

    monkeypatch.setattr(Follower, "_news", news)
    async with await Spool.open(tmp_path / "s", flow="f", limit_bytes=8 * MIB) as spool:
        life = FollowingLife(source, sink, spool, repeat=False)
        task = asyncio.create_task(life.run(until=life.is_done))
        async with asyncio.timeout(20):
            await paused.wait()
            while spool.last_order < order_of(history[-1].place):
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        assert sink.position.place == START
        life.follower.control.resume()
        await asyncio.wait_for(task, 20)
    check(sink, history)


@pytest.mark.parametrize("is_stopped", [True, False])
async def test_one_that_is_paused_has_told_what_it_has_done(tmp_path: Path, is_stopped: bool) -> None:
    """So that the source need not keep it for as long as the pause lasts; and it can be stopped."""
    history = history_of([[(Operation.INSERT, key)] for key in range(20)])
    sink, source = LedgerSink(lanes=2), Source(history=history, chance=random.Random(1), breaks=0)
    async with await Spool.open(tmp_path / "s", flow="f", limit_bytes=8 * MIB) as spool:
        life = FollowingLife(source, sink, spool, repeat=False, every_s=1000)
        task = asyncio.create_task(life.run())
        while not life.is_done():
            await asyncio.sleep(0)
        assert source.acknowledged == []
        life.follower.control.pause()
        if is_stopped:
            life.stopping.set()
        async with asyncio.timeout(20):
            while source.discarded != history[-1].place:
                await asyncio.sleep(0.01)
        life.stopping.set()
        with pytest.raises(StoppedError):
            await asyncio.wait_for(task, 20)


async def test_a_spool_that_is_full_holds_the_source_back(tmp_path: Path) -> None:
    """And lets it go on once the sink has taken what was there."""
    history = history_of([[(Operation.INSERT, key)] for key in range(40)])
    gate = asyncio.Event()

    class Blocked(LedgerSink):
        async def write_changes(self, request: WriteChangesRequest) -> WrittenChanges:
            await gate.wait()
            return await LedgerSink.write_changes(self, request)

    sink = Blocked(lanes=1)
    source = Source(history=history, chance=random.Random(1), breaks=0, record_bytes=MIB // 4)
    async with await Spool.open(tmp_path / "s", flow="f", limit_bytes=4 * MIB, segment_bytes=MIB) as spool:
        life = FollowingLife(source, sink, spool, repeat=False)
        task = asyncio.create_task(life.run(until=life.is_done))
        sent = -1
        while sent < source.sent or not sent:
            sent = source.sent
            await asyncio.sleep(0.3)
        assert sent * (MIB // 4) <= spool.limit_bytes
        assert spool.size_bytes <= spool.limit_bytes
        gate.set()
        await asyncio.wait_for(task, 20)
    check(sink, history)


async def test_what_a_sink_inside_of_a_frame_has_asked_for_again_is_not_taken_twice(tmp_path: Path) -> None:
    """Its cursor is that of the frame before: what the spool has by then comes once more, and is passed over."""
    history = history_of([[(Operation.INSERT, 1)], [(Operation.INSERT, 2)], [(Operation.INSERT, 3)]])
    source = Source(history=history, chance=random.Random(1), breaks=0)
    second = history[1].place
    async with await Spool.open(tmp_path / "s", flow="f", limit_bytes=8 * MIB) as spool:
        async for frame in stream(history[:2], Position(), random.Random(2)):
            await spool.append(order_of(frame.place), frame_pieces(frame))
        intake = Intake(
            source=source,
            spool=spool,
            request=StreamChangesRequest(type=ChangeType.BSON),
            start=Position(place=second, cursor=b""),
            emit=lambda _: None,
            reopen=_nothing,
        )
        reading = asyncio.create_task(intake.run())
        await wait_for_async(lambda: intake.quiet.place == history[2].place or reading.done(), what="the last change")
        assert not reading.done(), reading
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        places = []
        async with aclosing(spool.read(b"")) as kept:
            async for item in kept:
                places.append(place_of(item.order))
                if places[-1] == history[2].place:
                    break
    assert places == sorted(set(places))


class Ending(Source):
    """Ends its stream."""

    async def stream_changes(self, request: StreamChangesRequest) -> AsyncGenerator[ChangeFrame, None]:  # type: ignore[override]
        async for frame in stream(self.history, Position(), self.chance):
            yield frame


class Repeating(Source):
    """Goes back to the start."""

    async def stream_changes(self, request: StreamChangesRequest) -> AsyncGenerator[ChangeFrame, None]:  # type: ignore[override]
        for _ in range(2):
            async for frame in stream(self.history, Position(), self.chance):
                yield frame


@pytest.mark.parametrize(("kind", "said"), [(Ending, "ended its stream"), (Repeating, "went back")])
async def test_a_source_that_does_what_no_source_may_is_named(tmp_path: Path, kind: type[Source], said: str) -> None:
    history = history_of([[(Operation.INSERT, 1)]])
    source = kind(history=history, chance=random.Random(1), breaks=0)
    async with await Spool.open(tmp_path / "s", flow="f", limit_bytes=8 * MIB) as spool:
        life = FollowingLife(source, LedgerSink(lanes=1), spool, repeat=False)
        with pytest.raises(PluginBugError, match=said) as caught:
            await asyncio.wait_for(life.run(), 20)
    assert isinstance(caught.value, DsyncError)


@given(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)), st.tuples(st.integers(0, 9), st.integers(0, 9)))
def test_places_compare_as_their_orders_do(first: Place, second: Place) -> None:
    assert place_of(order_of(first)) == first
    assert (order_of(first) < order_of(second)) == (first < second)
    assert place_of(b"") == START
