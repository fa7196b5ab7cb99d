"""Applying rounds of changes: lanes side by side, or all of them in one transaction where their changes meet."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial

from dsync.coordinator.retries import Retries
from dsync.coordinator.stream.ahead import Ahead
from dsync.coordinator.stream.lanes import Lane, kept_by_all, left_of, left_of_all, offsets_left
from dsync.coordinator.stream.letters import Letters, Token
from dsync.coordinator.stream.position import Position
from dsync.coordinator.stream.rounds import Round
from dsync.coordinator.stream.skips import Skips
from dsync.protocol import frames
from dsync.protocol.errors import (
    LanesMeetError,
    NamespaceChangedError,
    NamespaceRewrittenError,
    PluginBugError,
    RecordError,
)
from dsync.protocol.frames import Place
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
    letters: Letters
    """Keeps what the sink refuses."""
    complete: Callable[[ChangeFrame, tuple[IncompleteChange, ...]], Awaitable[ChangeFrame]]
    """Read these changes again at the source; returns all changes with the whole ones in their place."""
    stop_namespace: Callable[[str, str], Awaitable[None]]
    """Record that none of a namespace's changes is applied any more, with the reason."""
    ahead: Ahead
    """What is newer at the sink than the changes that are applied: they are written by key then."""
    skips: Skips = field(default_factory=Skips)
    columns_of: Callable[[str], frozenset[str]] = lambda namespace: frozenset()
    """What a namespace was copied with: without one of these its rows at the sink would go on having old values."""
    wish_anew: Callable[[str], object] = lambda namespace: None
    """Have a namespace that has stopped copied anew, since nothing else stands against following it."""
    in_one: bool = False
    """Each round is one transaction at the sink."""

    changes: int = field(default=0, init=False)
    """How many were written."""

    @property
    def position(self) -> Position:
        """Everything up to here is durable at the sink."""
        return min((lane.position for lane in self.lanes), key=lambda position: position.place)

    @property
    def furthest(self) -> Place:
        """Nothing after it is at the sink: an earlier life may have left lanes that are ahead of the others."""
        return max(lane.position.place for lane in self.lanes)

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
        if not len(changes):
            # Their ledger rows follow before anything is acknowledged.
            for lane in lanes:
                lane.passed(position)
            return
        try:
            await self._write(changes, lanes, position)
        except (LanesMeetError, RecordError):
            await self._apply_in_order(found, lanes, position)

    async def _apply_in_order(self, found: Round, lanes: Sequence[Lane], position: Position) -> None:
        """In the source's order in one transaction; where a change is refused even so, around it.

        What stands before and after it is written in transactions of its own, unless each round has to be one.
        """
        if self.in_one:
            await self._apply_without(found, lanes, position)
            return
        stack = [found]
        while stack:
            part = stack.pop()
            end = Position(place=part.place, cursor=part.cursor or self.position.cursor)
            changes = left_of_all(part, lanes, len(self.lanes), self.skips)
            try:
                await self._write(changes, lanes, end, in_order=True)
            except RecordError as error:
                if len(changes) > 1:
                    stack += reversed(self._around(part, lanes, error))
                    continue
                (offset,) = offsets_left(part, lanes, len(self.lanes), self.skips)
                await self._bury(changes, part.place_of(offset), error)
                await self._write(frames.cut(changes, 0, 0), lanes, end)

    def _around(self, part: Round, lanes: Sequence[Lane], error: RecordError) -> list[Round]:
        """Cut where a change was refused; in the middle where nobody says which."""
        offsets = offsets_left(part, lanes, len(self.lanes), self.skips)
        if not 0 <= error.change < len(offsets):
            return part.cut(offsets[len(offsets) // 2])
        offset = offsets[error.change]
        return part.cut(offset, offset + 1)

    async def _apply_without(self, found: Round, lanes: Sequence[Lane], position: Position) -> None:
        """All in one transaction but for the changes that are refused, each of which the sink names.

        Raises:
            RecordError: what is refused is no single change, or the sink does not say which.
        """
        refused: set[int] = set()
        while True:
            try:
                changes, offsets = self._left_but(found, lanes, refused)
                place_of = partial(_place_at, found, offsets) if refused else None
                await self._write(changes, lanes, position, in_order=True, place_of=place_of)
            except RecordError as error:
                # A namespace may have stopped meanwhile, whose changes the sink was not given then.
                changes, offsets = self._left_but(found, lanes, refused)
                number = 0 if len(changes) == 1 else error.change
                if not 0 <= number < len(changes):
                    raise _whole_refused(found, error) from error
                change = frames.cut(changes, number, number + 1)
                await self._bury(change, found.place_of(offsets[number]), error)
                refused.add(offsets[number])
            else:
                return

    def _left_but(self, found: Round, lanes: Sequence[Lane], refused: Collection[int]) -> tuple[ChangeFrame, list[int]]:
        """What is left of a round but for some changes, and where in it each of them stands."""
        changes = left_of_all(found, lanes, len(self.lanes), self.skips)
        offsets = offsets_left(found, lanes, len(self.lanes), self.skips)
        kept = [number for number, offset in enumerate(offsets) if offset not in refused]
        return frames.pick(changes, kept) if refused else changes, [offsets[number] for number in kept]

    async def _bury(self, change: ChangeFrame, place: Place, error: RecordError) -> None:
        """Keep it, or stop its namespace where it may not have another one."""
        try:
            await self.letters.bury(change, place, error)
        except NamespaceChangedError as stopped:
            await self.stop(stopped.namespace, str(stopped))

    async def _write(
        self,
        changes: ChangeFrame,
        lanes: Sequence[Lane],
        position: Position,
        *,
        in_order: bool = False,
        place_of: Callable[[int], Place] | None = None,
    ) -> None:
        """`place_of` says where each of these changes stands, where some between them were refused."""
        given = len(changes)
        changes = await self._without_reshaped(changes)
        restored: dict[Token, int] = {}
        if broken := self.letters.broken(changes):
            # The sink's record is not the one that these changes were made of.
            restored = self.letters.tokens(changes, [item.index for item in broken])
            changes = await self.complete(changes, broken)
        while True:
            try:
                incomplete = await self._try(changes, lanes, position, in_order=in_order)
            except NamespaceChangedError as error:
                namespace = error.namespace
                if not any(relation.namespace == namespace for relation in changes.relations):
                    raise
                await self.stop(namespace, str(error))
                if isinstance(error, NamespaceRewrittenError):
                    self.wish_anew(namespace)
                changes = self.skips.without_stopped(changes)
                continue
            if not incomplete:
                break
            changes = await self.complete(changes, incomplete)
        for lane in lanes:
            lane.written(position)
        self.changes += len(changes)
        if place_of is None or len(changes) == given:
            # Else some were left out, and which one stands where is not known any more: letters wait on, at worst.
            await self.letters.healed(changes, restored, place_of)

    async def stop(self, namespace: str, reason: str) -> None:
        """Apply none of a namespace's changes from now on, and record that with the reason. Repeatable."""
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
                await self.stop(
                    relation.namespace,
                    f"{relation.namespace}: column {min(gone)} was dropped or renamed at the source; `dsync "
                    f"resync {self.flow} --table {relation.namespace}` copies the table anew",
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


def _place_at(found: Round, offsets: Sequence[int], index: int) -> Place:
    return found.place_of(offsets[index])


def _whole_refused(found: Round, error: RecordError) -> RecordError:
    names = dict.fromkeys(relation.namespace for part in found.parts for relation in part.frame.relations)
    return RecordError(
        f"applying a transaction with changes of {', '.join(names) or 'a namespace'}: the sink refuses it as a whole "
        f"({error}); mend the cause at the sink, or run the same command again without --apply transactional"
    )
