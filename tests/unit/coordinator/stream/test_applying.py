"""Rounds and lanes: every change once, each key's in its order, whatever is refused, fails or is cut anew."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsync.coordinator.retries import Retries
from dsync.coordinator.stream import applier as applying
from dsync.coordinator.stream.ahead import Ahead
from dsync.coordinator.stream.applier import Applier
from dsync.coordinator.stream.lanes import Lane, kept_by_all
from dsync.coordinator.stream.letters import Letters
from dsync.coordinator.stream.position import Position
from dsync.coordinator.stream.rounds import Rounds, StreamEndedError
from dsync.coordinator.tolerance import Tolerance
from dsync.protocol.errors import CapacityError, PermanentError, ServerUnavailableError
from dsync.protocol.frames import START
from dsync.protocol.page_codec import decode_frame
from dsync.protocol.types import ChangeFrame, ChangeRelation, ChangeType, Operation
from tests.unit.coordinator.stream.histories import Change, FakeJournal, LedgerSink, framed, history_of, stream

if TYPE_CHECKING:
    from dsync.coordinator.journal import Journal

OPERATIONS = st.sampled_from(
    [Operation.INSERT, Operation.UPDATE, Operation.DELETE, Operation.MOVE, Operation.TRUNCATE, Operation.MARK]
)
TRANSACTIONS = st.lists(st.lists(st.tuples(OPERATIONS, st.integers(0, 5)), min_size=1, max_size=8), max_size=8)


class Life:
    """A coordinator that applies until the stream ends or something fails."""

    def __init__(
        self, sink: LedgerSink, *, in_one: bool = False, repeat: bool = False, most: int | None = None
    ) -> None:
        self.journal = FakeJournal()
        self.stopped = dict[str, str]()
        self.applier = Applier(
            ahead=Ahead(all_until=0),
            flow="f",
            run="r",
            sink=sink,
            lanes=sink.open(),
            type=ChangeType.BSON,
            target_of=lambda namespace: namespace,
            retries=Retries(retry_for_s=5 if repeat else 0, emit=lambda _: None, is_stopping=lambda: False),
            reopen=_nothing,
            letters=Letters(
                journal=cast("Journal", self.journal),
                emit=lambda _: None,
                tolerance=Tolerance(of_flow=most),
                lanes=sink.lanes,
            ),
            complete=sink.complete,
            stop_namespace=self._stop,
            in_one=in_one,
        )

    async def _stop(self, namespace: str, reason: str) -> None:
        self.stopped[namespace] = reason

    @property
    def buried(self) -> list[int]:
        """The numbers of the changes that were refused."""
        return sorted(int(bytes(decode_frame(row.payload).body)) for row in self.journal.letters.values())

    async def run(self, history: list[Change], cuts: random.Random, *, limit_bytes: int) -> None:
        rounds = Rounds(limit_bytes=limit_bytes, whole_transactions=self.applier.in_one)
        start = kept_by_all(self.applier.lanes)
        with pytest.raises(StreamEndedError):
            async for found in rounds.of(stream(history, start, cuts), after=start):
                await self.applier.apply(found)
        await self.applier.catch_up()


async def _nothing() -> None:
    """There is no session to open."""


def check(sink: LedgerSink, history: list[Change], *, without: frozenset[int] = frozenset()) -> None:
    """Each change was applied once, and those of a key in their order."""
    expected = [c for c in history if c.operation is not Operation.MARK and c.number not in without]
    assert sorted(number for _, number in sink.applied) == [change.number for change in expected]
    by_key: dict[int, list[int]] = defaultdict(list)
    for key, number in sink.applied:
        by_key[key].append(number)
    assert all(numbers == sorted(numbers) for numbers in by_key.values())
    # What concerns more than one key came after everything before it, and before everything after it.
    order = [number for _, number in sink.applied]
    for change in expected:
        if change.operation in (Operation.MOVE, Operation.TRUNCATE):
            place = order.index(change.number)
            assert all(number < change.number for number in order[:place])
            assert all(number > change.number for number in order[place + 1 :])


@pytest.fixture(params=[0, 512], ids=["side-by-side", "small"], autouse=True)
def small_round(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(applying, "SMALL_ROUND", request.param)


@settings(max_examples=60, deadline=None)
@given(TRANSACTIONS, st.integers(1, 4), st.integers(1, 40), st.randoms(), st.booleans())
async def test_every_change_is_applied_once_and_in_order(
    transactions: list[list[tuple[Operation, int]]], lanes: int, limit: int, chance: random.Random, in_one: bool
) -> None:
    history = history_of(transactions)
    sink = LedgerSink(lanes=lanes, takes_whole=in_one, meet=lambda: in_one and chance.random() < 0.3)
    life = Life(sink, in_one=in_one)
    await life.run(history, chance, limit_bytes=limit)
    check(sink, history)
    if in_one:
        assert set(sink.seen) <= _ends(history), "a reader has seen a part of a transaction"
    counted = [change.place for change in history]
    assert sink.position.place == (counted[-1] if counted else (0, 0))


def _ends(history: list[Change]) -> set[int]:
    """How many changes there are by the end of each transaction; marks are none."""
    numbers = [change.place[0] for change in history if change.operation is not Operation.MARK]
    ends = {n for n in range(1, len(numbers)) if numbers[n] != numbers[n - 1]}
    return {0, *ends, len(numbers)}


async def test_lanes_side_by_side_show_parts_of_a_transaction(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is what `in_one` is for."""
    monkeypatch.setattr(applying, "SMALL_ROUND", 0)
    history = history_of([[(Operation.INSERT, 1), (Operation.INSERT, 2)], [(Operation.DELETE, 1)]])
    torn, whole = LedgerSink(lanes=2), LedgerSink(lanes=2, takes_whole=True)
    await Life(torn).run(history, random.Random(0), limit_bytes=100)
    await Life(whole, in_one=True).run(history, random.Random(0), limit_bytes=100)
    assert set(whole.seen) <= _ends(history)
    assert not set(torn.seen) <= _ends(history)


async def test_a_transaction_that_is_too_large_to_be_held_is_refused_by_its_size() -> None:
    history = history_of([[(Operation.INSERT, key) for key in range(200)]])
    rounds = Rounds(limit_bytes=10, whole_transactions=True, most_bytes=5000)
    found = rounds.of(stream(history, Position(), random.Random(0)), after=Position())
    with pytest.raises(CapacityError, match=r"more than 5,000 bytes.*--apply lanes"):
        await anext(found)


async def test_a_transaction_is_cut_where_a_table_gets_another_shape_in_the_midst_of_it() -> None:
    """What it has written before goes into the table as it was then, and other tables stay together."""
    old, new, other = ChangeRelation(namespace="a"), ChangeRelation(namespace="a", full_old_row=True), "b"
    changes = history_of([[(Operation.INSERT, key) for key in range(6)]])
    frame = replace(
        framed(changes, before=START, is_ended=True),
        relations=(old, ChangeRelation(namespace=other), new),
        relation_of=b"".join(number.to_bytes(2, "little") for number in (0, 1, 0, 2, 1, 2)),
    )

    async def frames() -> AsyncGenerator[ChangeFrame, None]:
        yield frame

    found = Rounds(limit_bytes=10, whole_transactions=True).of(frames(), after=Position())
    assert [len(await anext(found)) for _ in range(2)] == [3, 3]


async def test_a_table_with_another_shape_begins_a_round_with_its_transaction() -> None:
    """And not in the midst of it, behind what that has written to other tables."""
    old, new, other = ChangeRelation(namespace="a"), ChangeRelation(namespace="a", full_old_row=True), "b"
    changes = history_of([[(Operation.INSERT, key) for key in range(size)] for size in (2, 3, 1)])
    frame = replace(
        framed(changes, before=START, is_ended=True),
        relations=(old, ChangeRelation(namespace=other), new),
        relation_of=b"".join(number.to_bytes(2, "little") for number in (0, 1, 1, 1, 2, 2)),
    )

    async def frames() -> AsyncGenerator[ChangeFrame, None]:
        yield frame

    found = Rounds(limit_bytes=10, whole_transactions=True).of(frames(), after=Position())
    assert [len(await anext(found)) for _ in range(2)] == [2, 4]


@settings(max_examples=90, deadline=None)
@given(
    TRANSACTIONS,
    st.integers(1, 4),
    st.randoms(),
    st.sets(st.integers(0, 40)),
    st.sets(st.integers(0, 40)),
    st.sampled_from(["named", "nameless", "in one"]),
)
async def test_changes_that_meet_are_refused_or_want_values_hold_up_nothing(
    transactions: list[list[tuple[Operation, int]]],
    lanes: int,
    chance: random.Random,
    refused: set[int],
    incomplete: set[int],
    way: str,
) -> None:
    """Whether or not the sink says which change it refuses; where it has to say it, no transaction is torn."""
    history = history_of(transactions)
    changes = [change for change in history if change.operation not in (Operation.MARK, Operation.TRUNCATE)]
    bad = frozenset(change.number for change in changes if change.number in refused)
    sink = LedgerSink(
        lanes=lanes,
        refuses=bad,
        names=way != "nameless",
        meet=lambda: chance.random() < 0.4,
        incomplete=incomplete,
        takes_whole=way == "in one",
    )
    life = Life(sink, in_one=way == "in one")
    await life.run(history, chance, limit_bytes=30)
    check(sink, history, without=bad)
    if way == "in one":
        assert set(sink.seen) <= _ends([change for change in history if change.number not in bad])
    assert life.buried == sorted(bad)


async def test_more_refused_changes_than_are_borne_stop_their_table_alone() -> None:
    history = history_of([[(Operation.INSERT, key)] for key in range(10)])
    sink = LedgerSink(lanes=1, refuses=frozenset({1, 3, 5, 7}), names=True)
    life = Life(sink, most=2)
    await life.run(history, random.Random(0), limit_bytes=1)
    assert life.buried == [1, 3, 5]
    assert "more than the 2 allowed" in life.stopped["a"]
    assert "dsync resync f --table a" in life.stopped["a"]
    check(sink, history, without=frozenset({1, 3, 5, 6, 7, 8, 9}))
    assert sink.position.place == history[-1].place, "the others go on"


async def test_a_table_that_cannot_be_emptied_stops() -> None:
    """What was there before would stay for ever, and no later change heals that."""
    history = history_of([[(Operation.INSERT, 1)], [(Operation.TRUNCATE, 0)], [(Operation.INSERT, 2)]])
    sink = LedgerSink(lanes=2, refuses=frozenset({1}))
    life = Life(sink)
    await life.run(history, random.Random(0), limit_bytes=1)
    assert "it was emptied at the source" in life.stopped["a"]
    assert not life.buried
    check(sink, history, without=frozenset({1, 2}))


@settings(max_examples=60, deadline=None)
@given(TRANSACTIONS, st.integers(1, 4), st.randoms(), st.booleans())
async def test_a_coordinator_that_ends_anywhere_is_gone_on_from_the_ledger(
    transactions: list[list[tuple[Operation, int]]], lanes: int, chance: random.Random, repeat: bool
) -> None:
    """Before or after a write is durable; the source cuts its frames anew each time."""
    history = history_of(transactions)
    left = [3]

    def fail() -> str:
        found = chance.choice(["", "before", "after"]) if left[0] else ""
        left[0] -= bool(found)
        return found

    sink = LedgerSink(lanes=lanes, fail=fail, meet=lambda: chance.random() < 0.2)
    while True:
        try:
            await Life(sink, repeat=repeat and not left[0]).run(history, chance, limit_bytes=chance.randint(1, 40))
        except ServerUnavailableError:
            continue
        break
    check(sink, history)


def test_a_position_survives_its_bytes() -> None:
    position = Position(place=(2**63, 7), cursor=b"\0c")
    assert Position.decode(position.encode()) == position
    assert Position.decode(b"") == Position()


@pytest.mark.parametrize("data", [b"\xc1", b"\x94\x02\x01\x01\xc4\x00", b"\x91\x01", b"junk"])
def test_a_damaged_position_is_not_taken_for_a_start(data: bytes) -> None:
    with pytest.raises(PermanentError):
        Position.decode(data)


def test_a_lane_never_goes_back() -> None:
    """One that is ahead of the others stays there while the source gives again what only they need."""
    ahead = Position(place=(2, 1), cursor=b"2")
    lane = Lane(number=0, fence=1, seq=1, position=ahead, kept=ahead)
    lane.passed(Position(place=(1, 1), cursor=b"1"))
    assert lane.position == ahead
    assert not lane.is_behind(Position(place=(1, 1), cursor=b"1"))
    assert lane.is_behind(Position(place=(2, 1), cursor=b"3"))
