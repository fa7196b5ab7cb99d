"""Changes that are refused: no record is other at the sink than at the source without a letter that says so."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, cast

from hypothesis import given, settings
from hypothesis import strategies as st

from dsync.coordinator.retries import Retries
from dsync.coordinator.stream.ahead import Ahead
from dsync.coordinator.stream.applier import Applier
from dsync.coordinator.stream.lanes import kept_by_all
from dsync.coordinator.stream.letters import Letters
from dsync.coordinator.stream.position import Position
from dsync.coordinator.stream.rounds import Part, Round
from dsync.coordinator.tolerance import Tolerance
from dsync.protocol import frames
from dsync.protocol.convert.values import update_to_pb
from dsync.protocol.errors import RecordError, ServerUnavailableError
from dsync.protocol.frames import START
from dsync.protocol.records import update_of
from dsync.protocol.types import (
    BsonValue,
    ChangeFrame,
    ChangeType,
    IncompleteChange,
    Operation,
    Update,
    UpdateType,
    WriteChangesRequest,
    WrittenChanges,
)
from tests.unit.coordinator.stream.histories import Change, FakeJournal, LedgerSink, framed, history_of

if TYPE_CHECKING:
    from dsync.coordinator.journal import Journal

OPERATIONS = st.sampled_from([Operation.INSERT, Operation.UPDATE, Operation.PARTIAL_UPDATE, Operation.DELETE])
KEYS = 3
LARGE, SMALL = 0, 1

Row = tuple[int, int]
"""A large value, which is not sent where it has not changed, and a small one: each the change that has set it."""


def _source(history: Sequence[Change]) -> dict[int, Row]:
    rows: dict[int, Row] = {}
    for change in history:
        if change.operation is Operation.DELETE:
            rows.pop(change.key, None)
        elif change.operation is Operation.PARTIAL_UPDATE and change.key in rows:
            rows[change.key] = (rows[change.key][LARGE], change.number)
        else:
            rows[change.key] = (change.number, change.number)
    return rows


def _record(operation: Operation, key: int, row: Row | None) -> bytes:
    """With the row where it is whole, and the small value alone where it is not."""
    update = Update(
        id=(BsonValue(data=b"%d" % key, type=2),),
        type=UpdateType(int(operation)),
        data=b"" if row is None else b"%d %d" % row,
    )
    return update_to_pb(update).SerializeToString()


@dataclass(kw_only=True)
class Table(LedgerSink):
    """A sink with one table, which refuses some changes whenever they come."""

    rows: dict[int, Row] = field(default_factory=dict)
    source: dict[int, Row] = field(default_factory=dict)

    async def write_changes(self, request: WriteChangesRequest) -> WrittenChanges:
        rows = dict(self.rows)
        for index, operation in enumerate(request.frame.operations):
            update = update_of(request.frame, index)
            key = int(update.id[0].data)
            if operation == Operation.DELETE:
                rows.pop(key, None)
                continue
            large, small = map(int, update.data.split())
            if small in self.refuses and operation != Operation.UNKNOWN:
                raise RecordError("not this one").at(index if request.in_order and self.names else -1)
            if operation != Operation.PARTIAL_UPDATE:
                rows[key] = (large, small)
            elif key in rows:
                rows[key] = (rows[key][LARGE], small)
            else:
                return WrittenChanges(changes=0, incomplete=(IncompleteChange(index=index),))
        self.rows = rows
        return WrittenChanges(changes=len(request.frame))

    async def complete(self, frame: ChangeFrame, asked: Sequence[IncompleteChange]) -> ChangeFrame:
        """The rows as they are at the source once all has happened."""
        changes = {}
        for item in asked:
            one = frames.cut(frame, item.index, item.index + 1)
            key = int(update_of(one, 0).id[0].data)
            row = self.source.get(key)
            operation = Operation.DELETE if row is None else Operation.INSERT
            record = _record(operation, key, row)
            sizes = len(record).to_bytes(4, "little")
            changes[item.index] = replace(one, operations=bytes([operation]), body=record, sizes=sizes)
        return frames.replaced(frame, changes)


def _letters(journal: FakeJournal) -> Letters:
    return Letters(journal=cast("Journal", journal), emit=lambda _: None, tolerance=Tolerance(), lanes=2)


async def _apply(history: Sequence[Change], table: Table, journal: FakeJournal, chance: random.Random) -> None:
    """Over several lives of a coordinator, with a round for each of them."""
    whole: dict[int, bytes] = {}
    for end in range(len(history)):
        change = history[end]
        row = _source(history[: end + 1]).get(change.key)
        whole[change.number] = _record(change.operation, change.key, row)
    before, start = START, 0
    while start < len(history):
        end = min(len(history), start + chance.randint(1, 6))
        while end < len(history) and history[end].place[0] == history[end - 1].place[0]:
            end += 1
        frame = framed(history[start:end], before=before, is_ended=True, record_of=lambda change: whole[change.number])
        letters = _letters(journal)
        await letters.load()
        lanes = table.open()
        for lane in lanes:
            lane.position = lane.kept = Position(place=before)
        applier = Applier(
            flow="f",
            run="r",
            sink=table,
            lanes=lanes,
            type=ChangeType.BSON,
            target_of=lambda namespace: namespace,
            retries=Retries(retry_for_s=0, emit=lambda _: None, is_stopping=lambda: False),
            reopen=_nothing,
            letters=letters,
            complete=table.complete,
            stop_namespace=_never,
            ahead=Ahead(all_until=0),
            in_one=chance.random() < 0.5 and table.names,
        )
        try:
            await applier.apply(Round(parts=(Part(frame, 0, len(frame)),), cursor=frame.cursor))
        except ServerUnavailableError:
            # Another life begins with the same frame: whatever of it is there already comes again.
            continue
        assert kept_by_all(lanes).place == frame.place
        before, start = frame.place, end


async def _nothing() -> None:
    """There is no session to open."""


async def _never(namespace: str, reason: str) -> None:
    raise AssertionError("no table has stopped")


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.lists(st.tuples(OPERATIONS, st.integers(1, KEYS)), min_size=1, max_size=4), max_size=8),
    st.sets(st.integers(0, 31)),
    st.booleans(),
    st.randoms(),
)
async def test_a_record_that_differs_has_a_letter_and_one_that_is_whole_again_has_none(
    transactions: list[list[tuple[Operation, int]]], refused: set[int], names: bool, chance: random.Random
) -> None:
    """Whatever comes after a change that was refused, and whoever applies it."""
    history = history_of(transactions)
    table = Table(lanes=2, refuses=frozenset(refused), names=names, source=_source(history))
    left = [2]

    def ends() -> bool:
        found = bool(left[0]) and chance.random() < 0.3
        left[0] -= found
        return found

    journal = FakeJournal(ends=ends)
    await _apply(history, table, journal, chance)
    waiting = {int(update_of(_change_of(row.payload), 0).id[0].data) for row in journal.letters.values()}
    differs = {key for key in range(1, KEYS + 1) if table.rows.get(key) != table.source.get(key)}
    assert differs <= waiting
    last = {change.key: change for change in history}
    assert not waiting & {key for key, change in last.items() if change.number not in refused}


def _change_of(payload: bytes) -> ChangeFrame:
    from dsync.protocol.page_codec import decode_frame

    return decode_frame(payload)
