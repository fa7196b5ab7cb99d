"""A frame as steps: sets of changes whose order among themselves does not matter, and what has to come between them.

Within a set every key is dealt with once. What concerns more than one key (a row that moves with values that were not
sent, a TRUNCATE, another shape of a table) ends a set.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from dsync.sdk import errors, types
from dsync_postgres.sink.apply.fold import Fold, Key, Tally
from dsync_postgres.sink.apply.records import RESTART_IDENTITY, UNSENT, Values, read_flags, read_record
from dsync_postgres.sink.apply.shape import Shape

Op = types.Operation

ShapeOf = Callable[[int], Shape]
"""The shape of a relation, by its index in the frame."""

_ROWS = frozenset(
    map(int, (Op.INSERT, Op.UPDATE, Op.PARTIAL_UPDATE, Op.MOVE, Op.DELETE)),
)
_INSERT, _DELETE = int(Op.INSERT), int(Op.DELETE)
_TRUNCATE, _RESHAPE, _MARK = int(Op.TRUNCATE), int(Op.RESHAPE), int(Op.MARK)


@dataclass(slots=True)
class Together:
    """Changes in any order."""

    folds: dict[Shape, Fold] = field(default_factory=dict)
    tallies: dict[Shape, Tally] = field(default_factory=dict)
    _shapes: dict[int, Shape] = field(default_factory=dict)
    """The shape of each table, by its oid."""

    def takes(self, shape: Shape) -> bool:
        """Whether changes of this shape may join: two shapes of one table would hide that their keys are the same."""
        return self._shapes.setdefault(shape.table.oid, shape) is shape

    def fold(self, shape: Shape) -> Fold:
        """What becomes of the keys of a table that has some."""
        found = self.folds.get(shape)
        if found is None:
            found = self.folds[shape] = Fold(shape.key_of)
        return found

    def tally(self, shape: Shape) -> Tally:
        """What becomes of the rows of a table without key."""
        return self.tallies.setdefault(shape, Tally())

    def __bool__(self) -> bool:
        return bool(self._shapes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """A row gets another key, and keeps values that only the sink has, or rows that refer to it."""

    shape: Shape
    old: Values
    new: Values
    index: int
    lacks_values: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Truncate:
    """Tables are emptied, all of them at once."""

    shapes: tuple[Shape, ...]
    restarts_identity: bool
    index: int


Step = Together | Move | Truncate


class Change(NamedTuple):
    """One change of a row, as its record says; a tuple, since there is one for each."""

    place: int
    """In the frame."""
    shape: Shape
    old: Values | None
    new: Values | None
    is_update: bool
    lacks_values: bool
    """`new` has columns that were not sent."""

    def keys(self) -> tuple[Key, Key]:
        """The row's key before and after; equal where it has not changed."""
        key_of = self.shape.key_of
        old = None if self.old is None else key_of(self.old)
        new = old if self.new is None else key_of(self.new)
        return (new if self.old is None else old), new


Item = Change | Truncate
"""What a frame is made of; RESHAPE and MARK change nothing."""


def read_items(frame: types.ChangeFrame, shape_of: ShapeOf, reshaped: Callable[[int], None]) -> Iterator[Item]:
    """The frame's changes in their order; `reshaped` hears of each relation that is another from there on.

    Raises:
        PluginBugError: the frame is not what it says.
        NamespaceChangedError: as `shape_of`.
    """
    body = bytes(frame.body)
    count = len(frame)
    relation_of = struct.unpack(f"<{count}H", frame.relation_of)
    sizes = struct.unpack(f"<{count}I", frame.sizes)
    if sum(sizes) != len(body):
        raise errors.PluginBugError("applying changes: a frame's body is not as long as its records")
    if relation_of and max(relation_of) >= len(frame.relations):
        raise errors.PluginBugError("applying changes: a frame has changes of a relation that it does not name")
    end = 0
    emptied: list[Truncate] = []
    # Finding a shape anew for each change would cost more than reading its record.
    shapes: dict[int, Shape] = {}
    for index, (operation, relation, size) in enumerate(zip(frame.operations, relation_of, sizes, strict=True)):
        start, end = end, end + size
        if operation == _TRUNCATE:
            flags = read_flags(body, start, end)
            emptied.append(
                Truncate(shapes=(shape_of(relation),), restarts_identity=bool(flags & RESTART_IDENTITY), index=index)
            )
            continue
        if emptied:
            yield _together(emptied)
            emptied = []
        if operation in _ROWS:
            shape = shapes.get(relation)
            if shape is None:
                shape = shapes[relation] = shape_of(relation)
            yield _read_change(operation, body, start, end, shape, index)
        elif operation == _RESHAPE:
            reshaped(relation)
            shapes.clear()
        elif operation != _MARK:
            raise errors.PluginBugError(f"applying changes: no change is of kind {operation}")
    if emptied:
        yield _together(emptied)


def _together(emptied: list[Truncate]) -> Truncate:
    """Tables that were emptied one after the other are emptied at once: foreign keys among them are in nobody's way."""
    shapes = {shape.table.oid: shape for one in emptied for shape in one.shapes}
    return Truncate(
        shapes=tuple(shapes.values()),
        restarts_identity=any(one.restarts_identity for one in emptied),
        index=emptied[0].index,
    )


def _read_change(operation: int, body: bytes, start: int, end: int, shape: Shape, index: int) -> Change:
    old, new, lacks_values = read_record(body, start, end, shape.width)
    if (
        (new is None) != (operation == _DELETE)
        or (operation == _INSERT and (old is not None or lacks_values))
        or (operation == _DELETE and old is None)
    ):
        raise errors.PluginBugError(
            f"applying changes: change {index} of {shape.table.name} is said to be of kind {operation}, which its "
            "record is not"
        )
    if new is not None and lacks_values and shape.key:
        new = _with_key(shape, old, new, index)
    is_update = new is not None and operation != _INSERT
    return Change(index, shape, old, new, is_update, lacks_values)


def _with_key(shape: Shape, old: Values | None, new: Values, index: int) -> Values:
    """A key that was not sent has not changed, and then the old one was."""
    if not any(new[place] is UNSENT for place in shape.key):
        return new
    if old is None:
        raise errors.PluginBugError(
            f"applying changes: change {index} of {shape.table.name} came without its key; update the source's server "
            "to its newest minor release"
        )
    return [old[place] if place in shape.key else value for place, value in enumerate(new)]


def fold_steps(items: Iterator[Item], *, overlap: bool) -> Iterator[Step]:
    """The changes as few steps as possible."""
    together = Together()
    for item in items:
        if isinstance(item, Truncate):
            if together:
                yield together
            together = Together()
            yield item
            continue
        shape = item.shape
        if not together.takes(shape):
            yield together
            together = Together()
            together.takes(shape)
        if not shape.key:
            _count(together.tally(shape), item)
            continue
        move = _fold(together.fold(shape), item, overlap=overlap)
        if move is not None:
            yield together
            together = Together()
            yield move
    if together:
        yield together


def _fold(fold: Fold, change: Change, *, overlap: bool) -> Move | None:
    """Add a change to the sum; what cannot be added is given back."""
    old, new, index = change.old, change.new, change.place
    if new is None:
        assert old is not None, "a DELETE has an old row, or it was refused"
        fold.drop(fold.key_of(old), old, index)
        return None
    key = fold.key_of(new)
    if old is not None and (before := fold.key_of(old)) != key:
        is_kept = change.shape.is_referred and change.shape.can_move and not overlap
        if is_kept:
            return Move(shape=change.shape, old=old, new=new, index=index, lacks_values=change.lacks_values)
        if not change.lacks_values:
            fold.drop(before, old, index)
            fold.put(key, new, index)
        elif overlap:
            # Neither the sink's row of the old key nor one that was read again is surely the one that has moved.
            fold.lose(before, old, new, index)
        elif not fold.move(before, old, new, index):
            if change.shape.can_move:
                return Move(shape=change.shape, old=old, new=new, index=index, lacks_values=True)
            fold.lose(before, old, new, index)
    elif change.lacks_values:
        fold.patch(key, new, index)
    else:
        fold.put(key, new, index)
    return None


def tally_of(change: Change) -> Tally:
    """One change of a table without key."""
    tally = Tally()
    _count(tally, change)
    return tally


def _count(tally: Tally, change: Change) -> None:
    if change.new is not None and (change.lacks_values or (change.old is None and change.is_update)):
        raise errors.PluginBugError(
            f"applying changes: change {change.place} of {change.shape.table.name}, which has no key, lacks its old "
            "row or values; such a table can only be followed with REPLICA IDENTITY FULL"
        )
    if change.old is not None:
        tally.count(change.old, -1, change.place)
    if change.new is not None:
        tally.count(change.new, +1, change.place)
