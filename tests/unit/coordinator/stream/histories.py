"""Histories of a source, framed in any way, and a sink that keeps what it is given as a ledgered database does."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from dsync.coordinator.stream.lanes import MAIN, Lane, opened
from dsync.coordinator.stream.position import Position
from dsync.protocol import frames
from dsync.protocol.errors import FencedError, LanesMeetError, RecordError, ServerUnavailableError
from dsync.protocol.frames import Place
from dsync.protocol.interface import Connector
from dsync.protocol.types import (
    ChangeCommit,
    ChangeFrame,
    ChangeRelation,
    ChangeType,
    IncompleteChange,
    Operation,
    UnitState,
    WriteChangesRequest,
    WrittenChanges,
)
from dsync.state import DeadLetterRow, LetterRef

NAMES = "abc"
"""Of namespaces, one letter each."""


@dataclass(frozen=True, slots=True)
class Change:
    """A change of a key; its record is its number in the history."""

    operation: Operation
    key: int
    number: int
    place: Place


def history_of(transactions: Sequence[Sequence[tuple[Operation, int]]]) -> list[Change]:
    """Operations and keys, transaction by transaction."""
    changes = list[Change]()
    for transaction, members in enumerate(transactions, 1):
        index = 0
        for operation, key in members:
            index += operation not in (Operation.MARK, Operation.RESHAPE)
            changes.append(Change(operation, key, len(changes), (transaction, index)))
    return changes


def framed(
    changes: Sequence[Change],
    *,
    before: Place,
    is_ended: bool,
    record_bytes: int = 0,
    record_of: Callable[[Change], bytes] = lambda change: b"%d" % change.number,
    namespaces: int = 1,
) -> ChangeFrame:
    """These changes as they come after that place; the cursor is the place, as the source's own business.

    The last transaction has no commit yet where it is not ended. Of several namespaces each has some of the keys.
    """
    ends = [
        i for i in range(1, len(changes) + 1) if i == len(changes) or changes[i].place[0] != changes[i - 1].place[0]
    ]
    records = [record_of(change) + b" " * record_bytes for change in changes]
    transaction, index = changes[-1].place
    return ChangeFrame(
        type=ChangeType.BSON,
        cursor=repr(changes[-1].place).encode(),
        transaction=transaction,
        index=index,
        first_index=before[1] if changes[0].place[0] == before[0] else 0,
        relations=tuple(ChangeRelation(namespace=name) for name in NAMES[:namespaces]),
        operations=bytes(change.operation for change in changes),
        relation_of=b"".join((change.key % namespaces).to_bytes(2, "little") for change in changes),
        key_hashes=b"".join(change.key.to_bytes(8, "little") for change in changes),
        sizes=b"".join(len(record).to_bytes(4, "little") for record in records),
        body=b"".join(records),
        commits=tuple(
            ChangeCommit(end=end, transaction=changes[end - 1].place[0]) for end in (ends if is_ended else ends[:-1])
        ),
    )


async def stream(
    history: Sequence[Change],
    position: Position,
    cuts: random.Random,
    *,
    record_bytes: int = 0,
    namespaces: int = 1,
) -> AsyncGenerator[ChangeFrame, None]:
    """What comes after a cursor, cut into frames at random; then the stream ends."""
    places = [repr(change.place).encode() for change in history]
    # The last with this place: a mark has that of the change before it.
    start = len(places) - places[::-1].index(position.cursor) if position.cursor else 0
    before = history[start - 1].place if start else frames.START
    while start < len(history):
        end = min(len(history), start + cuts.randint(1, 6))
        while end < len(history) and history[end].place == history[end - 1].place:
            end += 1
        is_ended = end == len(history) or history[end].place[0] != history[end - 1].place[0]
        yield framed(
            history[start:end], before=before, is_ended=is_ended, record_bytes=record_bytes, namespaces=namespaces
        )
        before, start = history[end - 1].place, end


@dataclass(kw_only=True)
class FakeJournal:
    """Keeps dead letters as a store does, and nothing else."""

    flow: str = "f"
    letters: dict[LetterRef, DeadLetterRow] = field(default_factory=dict)
    """Those that wait."""
    ends: Callable[[], bool] = lambda: False
    """The coordinator ends with what it has recorded."""

    async def add_dead_letter(self, row: DeadLetterRow) -> Mapping[str, int]:
        self.letters[row.ref] = row
        if self.ends():
            raise ServerUnavailableError("killed")
        return Counter(letter.namespace for letter in self.letters.values())

    async def refused_changes(self) -> list[LetterRef]:
        return list(self.letters)

    async def resolve_dead_letters(self, letters: Sequence[LetterRef], resolution: str) -> None:
        for letter in letters:
            del self.letters[letter]


@dataclass(kw_only=True)
class LedgerSink(Connector):
    """Applies changes with the ledger in one step; may refuse, fail before or after, or ask for values."""

    lanes: int
    refuses: frozenset[int] = frozenset()
    """Records it never takes."""
    names: bool = False
    """It says which one it refuses."""
    meet: Callable[[], bool] = lambda: False
    fail: Callable[[], str] = lambda: ""
    incomplete: set[int] = field(default_factory=set)
    """Records that it needs completed."""
    takes_whole: bool = False
    """Frames are transactions: with whatever these have."""
    seen: list[int] = field(default_factory=list)
    """How many changes somebody who looked after each write has seen."""
    applied: list[tuple[int, int]] = field(default_factory=list)
    """Key and number of each change, as they became durable."""
    ledger: dict[str, tuple[int, int, bytes]] = field(default_factory=dict)
    """Unit → fence, seq, cursor."""

    def open(self, follower: str = MAIN, *, start: Position | None = None) -> list[Lane]:
        """The lanes as a coordinator that starts finds them."""
        states = []
        for number in range(self.lanes):
            unit = f"{follower}:{number}"
            fence, seq, cursor = self.ledger.get(unit, (0, 0, b""))
            self.ledger[unit] = (fence + 1, seq, cursor)
            states.append(UnitState(unit=unit, fence=fence + 1, cursor=cursor, seq=seq))
        return opened(states, follower, start=start)

    async def write_changes(self, request: WriteChangesRequest) -> WrittenChanges:
        frame, failure = request.frame, self.fail()
        if failure == "before":
            raise ServerUnavailableError("gone")
        contexts = (request.context, *request.also)
        if any(self.ledger[context.unit][0] != context.fence for context in contexts):
            raise FencedError("another one has it")
        if all(self.ledger[context.unit][1] == context.seq for context in contexts):
            return WrittenChanges(changes=len(frame))
        assert all(self.ledger[context.unit][1] == context.seq - 1 for context in contexts)
        # What concerns several keys ends a set of changes, and other lanes may have some before and after it.
        assert len(frame) < 2 or Operation.MARK not in frame.operations
        if not self.takes_whole:
            assert len(frame) < 2 or not {Operation.MOVE, Operation.TRUNCATE} & set(frame.operations)
        numbers = _numbers(frame)
        if asked := [i for i, number in enumerate(numbers) if number in self.incomplete]:
            return WrittenChanges(changes=0, incomplete=tuple(IncompleteChange(index=i) for i in asked))
        if numbers and not request.in_order and self.meet():
            raise LanesMeetError("two keys on an index")
        if refused := [place for place, number in enumerate(numbers) if number in self.refuses]:
            raise RecordError("not this one").at(refused[0] if request.in_order and self.names else -1)
        keys = [int.from_bytes(frame.key_hashes[8 * i : 8 * i + 8], "little") for i in range(len(frame))]
        self.applied += zip(keys, numbers, strict=True)
        self.seen.append(len(self.applied))
        for context in contexts:
            self.ledger[context.unit] = (context.fence, context.seq, context.cursor)
        if failure == "after":
            raise ServerUnavailableError("gone after all")
        return WrittenChanges(changes=len(frame))

    async def complete(self, frame: ChangeFrame, asked: Sequence[IncompleteChange]) -> ChangeFrame:
        """As the source would, by way of the coordinator."""
        changes = {}
        for item in asked:
            one = frames.cut(frame, item.index, item.index + 1)
            self.incomplete.discard(_numbers(one)[0])
            changes[item.index] = replace(one, operations=bytes([Operation.INSERT]))
        return frames.replaced(frame, changes)

    @property
    def position(self) -> Position:
        """What the ledger has of every lane."""
        cursors = [self.ledger.get(f"stream:{number}", (0, 0, b""))[2] for number in range(self.lanes)]
        return min(map(Position.decode, cursors), key=lambda position: position.place)


def _numbers(frame: ChangeFrame) -> list[int]:
    found, position = [], 0
    for i in range(len(frame)):
        size = int.from_bytes(frame.sizes[4 * i : 4 * i + 4], "little")
        found.append(int(bytes(frame.body[position : position + size])))
        position += size
    return found
