"""Lanes: each key's changes are written by one of them, in their order, and the sink's ledger says how far each is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dsync.coordinator.stream.position import Position
from dsync.coordinator.stream.rounds import Part, Round
from dsync.coordinator.stream.skips import Skips
from dsync.protocol import frames
from dsync.protocol.types import ChangeFrame, Operation, UnitRef, UnitState, WriteContext

MAIN = "stream"
"""The follower that has all namespaces, but for those that others have for a while."""


@dataclass(slots=True, kw_only=True)
class Lane:
    """Where a lane stands at the sink; moved after each durable write."""

    number: int
    fence: int
    seq: int
    position: Position
    """It has everything up to here."""
    kept: Position
    """What its ledger row says; before `position` where there was nothing for it in between."""
    follower: str = MAIN
    """Whose lane it is."""

    @property
    def unit(self) -> str:
        return unit_of(self.number, self.follower)

    def context(self, flow: str, run: str, position: Position) -> WriteContext:
        """Of a write after which the lane stands there."""
        return WriteContext(
            flow=flow, run=run, unit=self.unit, fence=self.fence, cursor=position.encode(), seq=self.seq + 1
        )

    def written(self, position: Position) -> None:
        """A write is durable after which it stands there."""
        self.position = self.kept = position
        self.seq += 1

    def passed(self, position: Position) -> None:
        """There was nothing for it up to there; a lane that is further already stays where it is."""
        if position.place >= self.position.place:
            self.position = position

    def is_behind(self, position: Position) -> bool:
        """Its ledger row does not say yet that it has come so far."""
        return self.kept.place < position.place or (
            self.kept.place == position.place and self.kept.cursor != position.cursor
        )


def unit_of(number: int, follower: str = MAIN) -> str:
    return f"{follower}:{number}"


def unit_refs(lanes: int, follower: str = MAIN) -> list[UnitRef]:
    """What the ledger calls them; they belong to no namespace."""
    return [UnitRef(unit=unit_of(number, follower), namespace="") for number in range(lanes)]


def opened(states: Sequence[UnitState], follower: str = MAIN, *, start: Position | None = None) -> list[Lane]:
    """The lanes as the sink's ledger knows them; those that it does not know stand at `start`."""
    positions = [Position.decode(state.cursor) if state.cursor else start or Position() for state in states]
    return [
        Lane(number=number, fence=state.fence, seq=state.seq, position=position, kept=position, follower=follower)
        for number, (state, position) in enumerate(zip(states, positions, strict=True))
    ]


def kept_by_all(lanes: Iterable[Lane]) -> Position:
    """Where the source has to go on so that no lane misses a change, were the ledger all that is left."""
    return min((lane.kept for lane in lanes), key=lambda position: position.place)


def left_of(found: Round, lanes: Sequence[Lane], count: int, skips: Skips) -> list[ChangeFrame]:
    """For each of these lanes, of `count` in all, what of the round it does not have yet."""
    picked: list[list[ChangeFrame]] = [[] for _ in lanes]
    for part in found.parts:
        for number, frame in enumerate(_left_of_part(part, lanes, count, skips.of(part.frame))):
            if len(frame):
                picked[number].append(frame)
    empty = frames.cut(found.frame, 0, 0)
    return [frames.join(parts) if parts else empty for parts in picked]


def left_of_all(found: Round, lanes: Sequence[Lane], count: int, skips: Skips) -> ChangeFrame:
    """What of the round these lanes do not have yet, in the source's order."""
    parts = [frames.pick(part.frame, _left(part, lanes, count, skips.of(part.frame))) for part in found.parts]
    kept = [part for part in parts if len(part)]
    return frames.join(kept) if kept else frames.cut(found.frame, 0, 0)


def offsets_left(found: Round, lanes: Sequence[Lane], count: int, skips: Skips) -> list[int]:
    """Where in the round each of the changes stands that `left_of_all` gives."""
    offsets: list[int] = []
    before = 0
    for part in found.parts:
        offsets += [before + i - part.start for i in _left(part, lanes, count, skips.of(part.frame))]
        before += part.end - part.start
    return offsets


def _left_of_part(part: Part, lanes: Sequence[Lane], count: int, skipped: frozenset[int]) -> list[ChangeFrame]:
    if count == 1 and not skipped and Operation.MARK not in part.frame.operations:
        start = max(part.start, frames.count_through(part.frame, lanes[0].position.place))
        return [frames.cut(part.frame, min(start, part.end), part.end)]
    return [frames.pick(part.frame, _left(part, [lane], count, skipped)) for lane in lanes]


def _left(part: Part, lanes: Sequence[Lane], count: int, skipped: frozenset[int]) -> list[int]:
    """The changes of a part that are for these lanes and that they do not have."""
    first = {lane.number: frames.count_through(part.frame, lane.position.place) for lane in lanes}
    lane_of = frames.lanes_of(part.frame, count)
    operations = part.frame.operations
    never = part.end
    return [
        i
        for i in range(part.start, part.end)
        if i >= first.get(lane_of[i], never) and operations[i] != Operation.MARK and i not in skipped
    ]
