"""Namespaces that are copied anew beside the others: nothing is lost or doubled, wherever it breaks off."""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsync.coordinator.following import Following, Resync
from dsync.coordinator.retries import Retries
from dsync.coordinator.stream.ahead import Ahead
from dsync.coordinator.stream.applier import Applier
from dsync.coordinator.stream.beside import BESIDE, Beside, skips_of
from dsync.coordinator.stream.follower import Follower
from dsync.coordinator.stream.horizon import Horizon
from dsync.coordinator.stream.intake import Intake, beside
from dsync.coordinator.stream.lanes import MAIN, Lane, kept_by_all
from dsync.coordinator.stream.letters import Letters
from dsync.coordinator.stream.position import Position
from dsync.coordinator.stream.rounds import Rounds
from dsync.coordinator.stream.skips import Skips
from dsync.coordinator.tasks import task_group
from dsync.coordinator.tolerance import Tolerance
from dsync.protocol.errors import ServerUnavailableError
from dsync.protocol.frames import START, Place
from dsync.protocol.types import ChangeType, Operation, StreamChangesRequest, UpdatesPartition
from dsync.spool import Spool
from tests.unit.coordinator.stream.histories import NAMES, Change, FakeJournal, LedgerSink, history_of
from tests.unit.coordinator.stream.test_applying import OPERATIONS
from tests.unit.coordinator.stream.test_following import Source, short_waits

if TYPE_CHECKING:
    from dsync.coordinator.journal import Journal

MIB = 1024 * 1024
AGAIN = ("b",)
"""What is copied anew."""


def namespace_of(key: int) -> str:
    return NAMES[key % len(NAMES)]


@dataclass(kw_only=True)
class Kept:
    """What survives a coordinator."""

    following: Following
    is_done: bool = False


class Life:
    """A coordinator that follows, and copies a namespace anew meanwhile."""

    def __init__(
        self, source: Source, sink: LedgerSink, spool: Spool, kept: Kept, chance: random.Random, fail: Callable[[], str]
    ) -> None:
        self.source, self.sink, self.spool, self.kept, self.chance, self.fail = source, sink, spool, kept, chance, fail
        self.horizon = Horizon(
            spool=spool, acknowledge=self._acknowledge, record=self._record, told=kept.following.told
        )
        lanes = sink.open()
        self.horizon.hold(MAIN, kept_by_all(lanes))
        resync = kept.following.resync
        if resync is not None:
            self.horizon.hold(BESIDE, kept_by_all(sink.open(resync.follower, start=resync.start)))
        self.intake = Intake(
            source=source,
            spool=spool,
            request=StreamChangesRequest(type=ChangeType.BSON),
            start=self.horizon.start,
            emit=lambda _: None,
            reopen=_nothing,
        )
        self.main = self._follower(MAIN, lanes, skips_of(kept.following))
        self.beside = Beside(main=self.main, horizon=self.horizon, change=self._change, make=self._make)

    def _follower(self, name: str, lanes: Sequence[Lane], skips: Skips) -> Follower:
        applier = Applier(
            flow="f",
            run="r",
            sink=self.sink,
            lanes=lanes,
            type=ChangeType.BSON,
            target_of=lambda namespace: namespace,
            retries=Retries(retry_for_s=0, emit=lambda _: None, is_stopping=lambda: False),
            reopen=_nothing,
            letters=Letters(
                journal=cast("Journal", FakeJournal()),
                emit=lambda _: None,
                tolerance=Tolerance(of_flow=0),
                lanes=self.sink.lanes,
            ),
            complete=self.sink.complete,
            stop_namespace=_stop,
            ahead=Ahead(all_until=0),
            skips=skips,
        )
        return Follower(
            name=name,
            spool=self.spool,
            intake=self.intake,
            applier=applier,
            rounds=Rounds(limit_bytes=self.chance.randint(1, 40)),
            checkpoint=self._checkpoint,
            horizon=self.horizon,
            stopping=asyncio.Event(),
            acknowledge_every_s=0,
        )

    async def run(self) -> None:
        """Until all is there, and the namespace that was copied anew is back."""
        await beside(self.intake, self._both())

    async def _both(self) -> None:
        last = self.source.history[-1].place
        async with task_group() as tasks:
            tasks.create_task(self._copy_anew())
            await self.main.run(until=lambda: self.kept.is_done and self.main.place >= last)

    async def _copy_anew(self) -> None:
        if self.kept.is_done:
            return
        for _ in range(self.chance.randint(0, 5)):
            await asyncio.sleep(0)
        if self.kept.following.resync is None and not self.kept.following.joined:
            await self.beside.leave(AGAIN)
        resync = self.kept.following.resync
        if resync is not None:
            await self.beside.rejoin(resync if resync.is_copied else await self._copied(resync))
        self.kept.is_done = True
        self.intake.heard.set()

    async def _copied(self, resync: Resync) -> Resync:
        """Under a snapshot of whole transactions, later than everything that anybody had applied."""
        number = self.kept.following.resyncs + 1
        seen = self.chance.randint(self.main.applier.furthest[0], self.source.history[-1].place[0])
        planned = replace(resync, number=number, seen_through=seen)
        await self._change(lambda following: replace(following, resync=planned, resyncs=number))
        self._break()
        self.sink.applied = [one for one in self.sink.applied if namespace_of(one[0]) not in AGAIN]
        self._break()
        for change in self.source.history:
            if namespace_of(change.key) in AGAIN and change.place[0] <= seen and change.operation != Operation.MARK:
                self.sink.applied.append((change.key, change.number))
                await asyncio.sleep(0)
        self._break()
        done = replace(planned, is_copied=True)
        await self._change(lambda following: replace(following, resync=done))
        return done

    async def _make(self, resync: Resync) -> Follower:
        skips = Skips(only=resync.namespaces)
        skips.leave_out(dict.fromkeys(resync.namespaces, resync.seen_through))
        return self._follower(BESIDE, self.sink.open(resync.follower, start=resync.start), skips)

    def _break(self) -> None:
        if self.fail():
            raise ServerUnavailableError("the coordinator ends")

    async def _change(self, change: Callable[[Following], Following]) -> None:
        if (failure := self.fail()) == "before":
            raise ServerUnavailableError("the store is gone")
        place, changed = self.main.place, change(self.kept.following)
        await asyncio.sleep(0)
        if self.kept.following.resync is not None and changed.resync is None:
            await asyncio.sleep(0.002)
            assert self.main.place == place, "it went on while it took a namespace over"
        self.kept.following = changed
        if failure == "after":
            raise ServerUnavailableError("the store is gone after all")

    async def _checkpoint(self, position: Position) -> None:
        await asyncio.sleep(0)

    async def _record(self, told: Position) -> None:
        self.kept.following = replace(self.kept.following, told=told)

    async def _acknowledge(self, position: Position) -> None:
        await self.source.acknowledge([], position.cursor)


async def _nothing() -> None:
    """There is no session to open."""


async def _stop(namespace: str, reason: str) -> None:
    raise AssertionError(f"{namespace} has no reason to stop ({reason})")


def check(sink: LedgerSink, history: Sequence[Change]) -> None:
    """Each change was applied once, and those of a key in their order, as those of a namespace about one alone."""
    expected = [change for change in history if change.operation is not Operation.MARK]
    assert sorted(number for _, number in sink.applied) == [change.number for change in expected]
    by_key: dict[int, list[int]] = defaultdict(list)
    order: dict[str, list[int]] = defaultdict(list)
    for key, number in sink.applied:
        by_key[key].append(number)
        order[namespace_of(key)].append(number)
    assert all(numbers == sorted(numbers) for numbers in by_key.values())
    for change in expected:
        if change.operation in (Operation.MOVE, Operation.TRUNCATE):
            numbers = order[namespace_of(change.key)]
            place = numbers.index(change.number)
            assert all(number < change.number for number in numbers[:place])
            assert all(number > change.number for number in numbers[place + 1 :])


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.tuples(OPERATIONS, st.integers(0, 8)), min_size=1, max_size=6), min_size=1, max_size=8),
    st.integers(1, 3),
    st.integers(0, 2**32),
    st.booleans(),
)
async def test_a_namespace_that_is_copied_anew_beside_the_others_ends_as_they_do(
    transactions: list[list[tuple[Operation, int]]], lanes: int, seed: int, keeps_spool: bool
) -> None:
    """The source, the sink, the store and the coordinator break at any moment, with the spool or without."""
    history = history_of(transactions)
    chance = random.Random(seed)
    left = [4]

    def fail() -> str:
        found = chance.choice(["", "", "", "before", "after"]) if left[0] else ""
        left[0] -= bool(found)
        return found

    sink = LedgerSink(lanes=lanes, fail=fail, meet=lambda: chance.random() < 0.2)
    # Without its spool a life cuts its frames anew, and may know older cursors than the source was told.
    source = Source(history=history, chance=chance, namespaces=len(NAMES), gives_again=not keeps_spool)
    kept = Kept(following=Following(partition=UpdatesPartition(namespaces=tuple(NAMES)), type=ChangeType.BSON, lanes=1))
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        short_waits(patch)
        number = 0
        while True:
            place = Path(folder, "spool" if keeps_spool else str(number))
            number += 1
            async with await Spool.open(place, flow="f", limit_bytes=8 * MIB, segment_bytes=MIB) as spool:
                try:
                    async with asyncio.timeout(20):
                        await Life(source, sink, spool, kept, chance, fail).run()
                except ServerUnavailableError:
                    continue
                break
    check(sink, history)
    following = Following.of_json(kept.following.as_json())
    assert following == kept.following
    assert (following.resync, list(following.joined)) == (None, list(AGAIN))
    assert source.discarded == sink.position.place == last_place(history)


def last_place(history: Sequence[Change]) -> Place:
    return history[-1].place if history else START


async def test_what_the_source_was_told_never_goes_back(tmp_path: Path) -> None:
    """One that catches up comes to a place with an older cursor than the main one had there: of no use any more."""
    told = list[bytes]()

    async def tell(position: Position) -> None:
        told.append(position.cursor)

    def at(transaction: int, cursor: bytes) -> Position:
        return Position(place=(transaction, 1), cursor=cursor)

    async with await Spool.open(tmp_path / "s", flow="f", limit_bytes=8 * MIB) as spool:
        horizon = Horizon(spool=spool, acknowledge=tell, record=tell)
        horizon.hold(MAIN, at(1, b"1"))
        await horizon.moved(MAIN, at(1, b"1, and nothing since"))
        horizon.hold(BESIDE, at(1, b"1"))
        await horizon.moved(MAIN, at(2, b"2"))
        await horizon.moved(BESIDE, at(1, b"1"))
        assert told == [b"1, and nothing since"] * 2
        assert horizon.start.cursor == b"1, and nothing since"
        await horizon.moved(BESIDE, at(2, b"2"))
        assert told[2:] == [b"2"] * 2


@dataclass
class Moving:
    """A follower that goes on by a change at every turn of the loop, but while it is at rest."""

    skips: Skips
    step: int = 1
    place: Place = (1, 1)
    resting: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def applier(self) -> Moving:
        return self

    @property
    def furthest(self) -> Place:
        return self.place

    @asynccontextmanager
    async def at_rest(self) -> AsyncIterator[None]:
        async with self.resting:
            yield

    async def run(self, *, until: Callable[[], bool] = lambda: False) -> None:
        while not until():
            async with self.resting:
                self.place = (self.place[0] + self.step, 1)
            await asyncio.sleep(0)


async def test_the_main_follower_rests_while_it_takes_a_namespace_over() -> None:
    """Else it would have left out, by the time that it knows, what comes right after the place of the other one."""
    resync = Resync(number=1, namespaces=AGAIN, start=Position())
    kept = Following(partition=UpdatesPartition(), type=ChangeType.BSON, lanes=1, resync=resync)
    main, own = Moving(Skips()), Moving(Skips(), step=3)
    recorded: list[tuple[Following, Place]] = []

    async def change(how: Callable[[Following], Following]) -> None:
        await asyncio.sleep(0.01)
        recorded.append((how(kept), main.place))

    async def make(resync: Resync) -> Follower:
        return cast("Follower", own)

    horizon = cast("Horizon", SimpleNamespace(let_go=lambda name: asyncio.sleep(0)))
    going_on = asyncio.create_task(main.run())
    try:
        moves = Beside(main=cast("Follower", main), horizon=horizon, change=change, make=make)
        assert await asyncio.wait_for(moves.rejoin(resync), 20) == frozenset(AGAIN)
    finally:
        going_on.cancel()
        await asyncio.gather(going_on, return_exceptions=True)
    ((following, place),) = recorded
    assert following.joined[AGAIN[0]] >= place
