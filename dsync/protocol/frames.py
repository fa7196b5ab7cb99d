"""Cutting, picking and joining change frames without looking into their records."""

from __future__ import annotations

import dataclasses
import sys
from array import array
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate

from dsync.protocol.types import ChangeCommit, ChangeFrame, ChangeRelation, Operation

Place = tuple[int, int]
"""A transaction, and how many of its changes come up to here."""

START: Place = (0, 0)
"""Before every change."""

_UNCOUNTED = bytes((Operation.RESHAPE, Operation.MARK))
_ALONE = bytes((Operation.MOVE, Operation.TRUNCATE, Operation.RESHAPE))


@dataclasses.dataclass(frozen=True, slots=True)
class Stretch:
    """The changes of one transaction in a frame."""

    start: int
    end: int
    transaction: int
    index: int
    """How many changes of the transaction come before `start`."""


def stretches(frame: ChangeFrame) -> Iterator[Stretch]:
    """The frame's changes by transaction; a stretch may be empty."""
    start, index = 0, frame.first_index
    for commit in frame.commits:
        yield Stretch(start, commit.end, commit.transaction, index)
        start, index = commit.end, 0
    if start < len(frame):
        yield Stretch(start, len(frame), frame.transaction, index)


def count_through(frame: ChangeFrame, place: Place) -> int:
    """How many of the frame's changes, from its first one on, are at this place or before it."""
    if place >= frame.place:
        return len(frame)
    found = 0
    for stretch in stretches(frame):
        if stretch.transaction > place[0]:
            break
        if stretch.transaction == place[0]:
            left = place[1] - stretch.index
            return stretch.start + _length_of(frame.operations[stretch.start : stretch.end], left)
        found = stretch.end
    return found


def _length_of(operations: bytes, counted: int) -> int:
    """The length of the shortest beginning that has so many counted operations; all of it where it has fewer."""
    if counted <= 0:
        return 0
    if not operations.translate(None, delete=_COUNTED):
        return min(counted, len(operations))
    for position, operation in enumerate(operations, 1):
        counted -= operation not in _UNCOUNTED
        if not counted:
            return position
    return len(operations)


_COUNTED = bytes(number for number in range(256) if number not in _UNCOUNTED)


def place_at(frame: ChangeFrame, end: int) -> Place:
    """Where the frame would end if it ended after so many changes; at least one."""
    if end >= len(frame):
        return frame.place
    found = (frame.transaction, frame.index)
    for stretch in stretches(frame):
        if end <= stretch.end and end > stretch.start:
            counted = len(frame.operations[stretch.start : end].translate(None, delete=_UNCOUNTED))
            return stretch.transaction, stretch.index + counted
    return found


def runs(frame: ChangeFrame, *, start: int = 0) -> Iterator[tuple[int, int, bool]]:
    """(start, end, alone) of the stretches that lanes may share, and of the changes that need all lanes drained.

    Marks are no changes to write; they stay in the stretch in which they stand.
    """
    operations = frame.operations
    if not operations.translate(None, delete=_ALL_BUT_ALONE):
        if start < len(operations):
            yield start, len(operations), False
        return
    for position in range(start, len(operations)):
        if operations[position] in _ALONE:
            if start < position:
                yield start, position, False
            yield position, position + 1, True
            start = position + 1
    if start < len(operations):
        yield start, len(operations), False


_ALL_BUT_ALONE = bytes(number for number in range(256) if number not in _ALONE)


def lanes_of(frame: ChangeFrame, lanes: int) -> bytes:
    """The lane of each change, one byte each."""
    hashes = array("Q", frame.key_hashes)
    if sys.byteorder == "big":
        hashes.byteswap()
    return bytes([number % lanes for number in hashes])


def pick(frame: ChangeFrame, indices: Sequence[int]) -> ChangeFrame:
    """The frame with these changes alone, in this order; where it ends, and its transactions, are left out."""
    ends = list(accumulate(_sizes(frame)))
    body = memoryview(frame.body)
    olds = [_old_key(frame, i) for i in indices if frame.operations[i] == Operation.MOVE] if frame.moved_from else []
    records = [body[ends[i - 1] if i else 0 : ends[i]] for i in indices]
    return _plain(
        frame,
        operations=bytes([frame.operations[i] for i in indices]),
        relation_of=b"".join([frame.relation_of[2 * i : 2 * i + 2] for i in indices]),
        key_hashes=b"".join([frame.key_hashes[8 * i : 8 * i + 8] for i in indices]),
        moved_from=b"".join(olds),
        sizes=b"".join([frame.sizes[4 * i : 4 * i + 4] for i in indices]),
        body=b"".join(records),
    )


def cut(frame: ChangeFrame, start: int, end: int) -> ChangeFrame:
    """The changes from `start` up to `end`; the body is viewed, not copied."""
    if start == 0 and end == len(frame):
        return _plain(frame)
    sizes = _sizes(frame)
    first = sum(sizes[:start])
    last = first + sum(sizes[start:end])
    return _plain(
        frame,
        operations=frame.operations[start:end],
        relation_of=frame.relation_of[2 * start : 2 * end],
        key_hashes=frame.key_hashes[8 * start : 8 * end],
        moved_from=frame.moved_from[8 * _moves(frame, start) : 8 * _moves(frame, end)],
        sizes=frame.sizes[4 * start : 4 * end],
        body=memoryview(frame.body)[first:last],
    )


def join(frames: Sequence[ChangeFrame]) -> ChangeFrame:
    """One frame with the changes of several of one type, in order; it ends where the last one does."""
    if len(frames) == 1:
        return frames[0]
    relations: dict[ChangeRelation, int] = {}
    relation_of = [_renumbered(frame, relations) for frame in frames]
    return _plain(
        frames[-1],
        relations=tuple(relations),
        operations=b"".join([frame.operations for frame in frames]),
        relation_of=b"".join(relation_of),
        key_hashes=b"".join([frame.key_hashes for frame in frames]),
        moved_from=b"".join([frame.moved_from for frame in frames]) if all(map(_tells_old_keys, frames)) else b"",
        sizes=b"".join([frame.sizes for frame in frames]),
        body=b"".join([frame.body for frame in frames]),
    )


def _moves(frame: ChangeFrame, end: int) -> int:
    """How many of the first changes are moves."""
    return frame.operations.count(Operation.MOVE, 0, end)


def _old_key(frame: ChangeFrame, index: int) -> bytes:
    number = _moves(frame, index)
    return frame.moved_from[8 * number : 8 * number + 8]


def _tells_old_keys(frame: ChangeFrame) -> bool:
    return bool(frame.moved_from) or Operation.MOVE not in frame.operations


def old_key_of(frame: ChangeFrame, index: int) -> bytes:
    """The hash of the key that a MOVE takes from its record; empty for others, and where the source does not tell."""
    return _old_key(frame, index) if frame.operations[index] == Operation.MOVE else b""


def keys_of(frame: ChangeFrame, index: int) -> set[tuple[str, bytes]] | None:
    """The keys that a change concerns, as namespace and hash; None where the source does not tell."""
    if frame.operations[index] == Operation.MOVE and not frame.moved_from:
        return None
    namespace = frame.relations[relation_numbers(frame)[index]].namespace
    keys = {(namespace, frame.key_hashes[8 * index : 8 * index + 8])}
    if frame.operations[index] == Operation.MOVE:
        keys.add((namespace, _old_key(frame, index)))
    return keys


def replaced(frame: ChangeFrame, changes: Mapping[int, ChangeFrame]) -> ChangeFrame:
    """The frame with other changes, each in a frame of its own, in the place of some of its own."""
    pieces, start = [], 0
    for index in sorted(changes):
        pieces += [cut(frame, start, index), changes[index]]
        start = index + 1
    return dataclasses.replace(
        join([*pieces, cut(frame, start, len(frame))]), transaction=frame.transaction, index=frame.index
    )


def _renumbered(frame: ChangeFrame, relations: dict[ChangeRelation, int]) -> bytes:
    numbers = [relations.setdefault(relation, len(relations)) for relation in frame.relations]
    if numbers == list(range(len(numbers))):
        return frame.relation_of
    new = array("H", [numbers[number] for number in relation_numbers(frame)])
    if sys.byteorder == "big":
        new.byteswap()
    return new.tobytes()


def relation_numbers(frame: ChangeFrame) -> Sequence[int]:
    """For each change the index of its relation."""
    numbers = array("H", frame.relation_of)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def _sizes(frame: ChangeFrame) -> Sequence[int]:
    sizes = array("I", frame.sizes)
    if sys.byteorder == "big":
        sizes.byteswap()
    return sizes


def _plain(frame: ChangeFrame, **changes: object) -> ChangeFrame:
    commits: tuple[ChangeCommit, ...] = ()
    return dataclasses.replace(frame, commits=commits, first_index=0, **changes)  # type: ignore[arg-type]


def is_well_formed(frame: ChangeFrame) -> bool:
    """Its sizes add up to its body, its changes have relations it names, and its commits are in order."""
    numbers = relation_numbers(frame)
    ends = [commit.end for commit in frame.commits]
    transactions = [stretch.transaction for stretch in stretches(frame)]
    return (
        sum(_sizes(frame)) == len(frame.body)
        and (not numbers or max(numbers) < len(frame.relations))
        and ends == sorted(ends)
        and (not ends or ends[-1] <= len(frame))
        and transactions == sorted(set(transactions))
    )
