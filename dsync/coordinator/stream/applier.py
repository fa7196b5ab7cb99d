"""Applying rounds of changes: lanes side by side, or all of them in one transaction where their changes meet."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from dsync.coordinator.retries import Retries
from dsync.coordinator.stream.ahead import Ahead
from dsync.coordinator.stream.lanes import Lane, kept_by_all, left_of, left_of_all
from dsync.coordinator.stream.position import Position
from dsync.coordinator.stream.rounds import Part, Round
from dsync.coordinator.stream.skips import Skips
from dsync.protocol import frames
from dsync.protocol.errors import LanesMeetError, NamespaceChangedError, PluginBugError, RecordError
from dsync.protocol.interface import Connector
from dsync.protocol.types import ChangeFrame, ChangeType, IncompleteChange, Operation, WriteChangesRequest

SMALL_ROUND = 512
"""Up to so many changes are one transaction: starting several costs more than they save."""


@dataclass(slots=True, kw_only=True)
class Applier:
    """Writes rounds to one sink, one after the other. All that must survive is in the sink's ledger."""

    flow: str
    run: str
    sink: Connector
    lanes: Sequence[Lane]
    type: ChangeType
    """What frames of changes the source gives."""
    target_of: Callable[[str], str]
    """The sink's name of a namespace."""
    retries: Retries
    reopen: Callable[[], Awaitable[object]]
    bury: Callable[[ChangeFrame, RecordError], Awaitable[None]]
    """Keep a change that the sink refuses, durably. Raises where more were refused than may be."""
    complete: Callable[[ChangeFrame, tuple[IncompleteChange, ...]], Awaitable[ChangeFrame]]
    """Read these changes again at the source; returns all changes with the whole ones in their place."""
    stop_namespace: Callable[[str, str], Awaitable[None]]
    """Record that none of a namespace's changes is applied any more, with the reason."""
    ahead: Ahead
    """What is newer at the sink than the changes that are applied: they are written by key then."""
    skips: Skips = field(default_factory=Skips)
    columns_of: Callable[[str], frozenset[str]] = lambda namespace: frozenset()
    """What a namespace was copied with: without one of these its rows at the sink would go on having old values."""
    in_one: bool = False
    """Each round is one transaction at the sink."""

    changes: int = field(default=0, init=False)
    """How many were written."""

    @property
    def position(self) -> Position:
        """Everything up to here is durable at the sink."""
        return min((lane.position for lane in self.lanes), key=lambda position: position.place)

    async def apply(self, found: Round) -> None:
        """Make a round durable. Repeating it after a crash writes nothing twice.

        Raises:
            FencedError: another coordinator has the flow.
            NamespaceChangedError: a table at the sink is not what it was, and which one is not said.
        """
        position = Position(place=found.place, cursor=found.cursor)
        waiting = [lane for lane in self.lanes if lane.position.place < position.place]
        if not waiting:
            # Marks, or what was there before.
            return
        if self.in_one or len(waiting) == 1 or len(found) <= SMALL_ROUND:
            await self._apply_in_one(found, waiting, position)
            return
        refused = await self._apply_side_by_side(found, waiting, position)
        if refused:
            await self._apply_in_order(found, refused, position)

    def pass_to(self, position: Position) -> None:
        """There is nothing up to there for any lane."""
        for lane in self.lanes:
            lane.passed(position)

    async def catch_up(self) -> Position:
        """Move the ledger of lanes that had nothing to do; returns what the ledger alone says then of all."""
        position = self.position
        waiting = [lane for lane in self.lanes if lane.is_behind(position)]
        if waiting:
            nothing = ChangeFrame(type=self.type, cursor=b"", transaction=0)
            await self._write(nothing, waiting, position)
        return kept_by_all(self.lanes)

    async def _apply_side_by_side(self, found: Round, lanes: Sequence[Lane], position: Position) -> list[Lane]:
        """Each lane in a transaction of its own; returns those whose changes the sink did not take so."""
        parts = left_of(found, lanes, len(self.lanes), self.skips)
        busy = [(lane, part) for lane, part in zip(lanes, parts, strict=True) if len(part)]
        answers = await asyncio.gather(
            *(self._write(part, [lane], position) for lane, part in busy), return_exceptions=True
        )
        refused = []
        for (lane, _), answer in zip(busy, answers, strict=True):
            if isinstance(answer, LanesMeetError | RecordError):
                refused.append(lane)
            elif isinstance(answer, BaseException):
                raise answer
        for lane, part in zip(lanes, parts, strict=True):
            if not len(part):
                # Its ledger row follows before anything is acknowledged.
                lane.passed(position)
        return refused

    async def _apply_in_one(self, found: Round, lanes: Sequence[Lane], position: Position) -> None:
        changes = left_of_all(found, lanes, len(self.lanes), self.skips)
        try:
            await self._write(changes, lanes, position)
        except (LanesMeetError, RecordError):
            await self._apply_in_order(found, lanes, position)

    async def _apply_in_order(self, found: Round, lanes: Sequence[Lane], position: Position) -> None:
        """In the source's order in one transaction; where a change is refused even so, around it."""
        stack = [found]
        while stack:
            part = stack.pop()
            end = Position(place=part.place, cursor=part.cursor or self.position.cursor)
            changes = left_of_all(part, lanes, len(self.lanes), self.skips)
            try:
                await self._write(changes, lanes, end, in_order=True)
            except RecordError as error:
                if len(changes) > 1:
                    stack += reversed(_halves(part))
                    continue
                await self.bury(changes, error)
                await self._write(frames.cut(changes, 0, 0), lanes, end)

    async def _write(
        self, changes: ChangeFrame, lanes: Sequence[Lane], position: Position, *, in_order: bool = False
    ) -> None:
        changes = await self._without_reshaped(changes)
        while True:
            try:
                incomplete = await self._try(changes, lanes, position, in_order=in_order)
            except NamespaceChangedError as error:
                namespace = error.namespace
                if not any(relation.namespace == namespace for relation in changes.relations):
                    raise
                await self._stop(namespace, str(error))
                changes = self.skips.without_stopped(changes)
                continue
            if not incomplete:
                break
            changes = await self.complete(changes, incomplete)
        for lane in lanes:
            lane.written(position)
        self.changes += len(changes)

    async def _stop(self, namespace: str, reason: str) -> None:
        if not self.skips.has_stopped(namespace):
            self.skips.stop(namespace)
            await self.stop_namespace(namespace, reason)

    async def _without_reshaped(self, changes: ChangeFrame) -> ChangeFrame:
        """Stop namespaces that have lost a column which they were copied with; returns the changes of the others."""
        if Operation.RESHAPE not in changes.operations:
            return changes
        for relation in changes.relations:
            gone = self.columns_of(relation.namespace) - {column.name for column in relation.columns}
            if gone:
                await self._stop(
                    relation.namespace,
                    f"{relation.namespace}: column {min(gone)} was dropped or renamed at the source; run the flow "
                    "again with --again, which copies the table anew",
                )
        return self.skips.without_stopped(changes)

    async def _try(
        self, changes: ChangeFrame, lanes: Sequence[Lane], position: Position, *, in_order: bool
    ) -> tuple[IncompleteChange, ...]:
        """Write; returns the changes that need more than was sent, and then nothing was written."""
        first, *others = lanes
        request = WriteChangesRequest(
            context=first.context(self.flow, self.run, position),
            frame=changes,
            targets=tuple(self.target_of(relation.namespace) for relation in changes.relations),
            overlap=self.ahead.overlaps(changes, position.place[0]),
            in_order=in_order,
            also=tuple(lane.context(self.flow, self.run, position) for lane in others),
        )
        written = await self.retries.call(
            "write changes", lambda: self.sink.write_changes(request), before_repeat=self.reopen
        )
        if written.changes != len(changes) and not written.incomplete:
            raise PluginBugError(
                f"the sink says it wrote {written.changes} of {len(changes)} changes; nothing after them is "
                "acknowledged"
            )
        return written.incomplete


def _halves(found: Round) -> tuple[Round, Round]:
    """Cut between two changes, near the middle."""
    middle = len(found) // 2
    before: list[Part] = []
    after: list[Part] = []
    for part in found.parts:
        size = part.end - part.start
        here = min(max(0, middle), size)
        middle -= size
        if here:
            before.append(Part(part.frame, part.start, part.start + here))
        if here < size:
            after.append(Part(part.frame, part.start + here, part.end))
    return (
        # The cursor is only known of the whole: whoever stops in between goes on from before it.
        Round(parts=tuple(before), cursor=b""),
        Round(parts=tuple(after), cursor=found.cursor),
    )
