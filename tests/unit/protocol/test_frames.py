"""Frames are cut, picked and joined so that every change keeps its record, its relation and its place."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsync.protocol import frames
from dsync.protocol.frames import Place
from dsync.protocol.types import ChangeCommit, ChangeFrame, ChangeRelation, ChangeType, Operation

PLAIN = (Operation.INSERT, Operation.UPDATE, Operation.DELETE, Operation.PARTIAL_UPDATE)
COUNTED = (*PLAIN, Operation.MOVE, Operation.TRUNCATE)
RELATIONS = tuple(ChangeRelation(namespace=name) for name in "abc")

Change = tuple[Operation, str, int, bytes, Place]
"""Operation, namespace, key's hash, record, and where a frame that ends with it ends."""


@st.composite
def histories(draw: st.DrawFn) -> list[Change]:
    """Several transactions, some of them empty."""
    changes = list[Change]()
    transaction = 0
    for length in draw(st.lists(st.integers(0, 5), max_size=5)):
        transaction += draw(st.integers(1, 3))
        index = 0
        for _ in range(length):
            operation = draw(st.sampled_from(list(Operation)[1:]))
            index += operation in COUNTED
            record = draw(st.binary(max_size=4))
            changes.append(
                (operation, draw(st.sampled_from("abc")), draw(st.integers(0, 3)), record, (transaction, index))
            )
    return changes


def framed(
    changes: list[Change], *, before: Place = (0, 0), relations: tuple[ChangeRelation, ...] = RELATIONS
) -> ChangeFrame:
    """These changes as a source would send them after that place, the last transaction committed where it is told."""
    names = [relation.namespace for relation in relations]
    ends = [i for i in range(1, len(changes)) if changes[i][4][0] != changes[i - 1][4][0]]
    transaction, index = changes[-1][4] if changes else before
    is_going_on = bool(changes) and changes[0][4][0] == before[0]
    return ChangeFrame(
        type=ChangeType.BSON,
        cursor=b"c",
        transaction=transaction,
        index=index,
        first_index=before[1] if is_going_on else 0,
        relations=relations,
        operations=bytes(change[0] for change in changes),
        relation_of=b"".join(names.index(change[1]).to_bytes(2, "little") for change in changes),
        key_hashes=b"".join(change[2].to_bytes(8, "little") for change in changes),
        sizes=b"".join(len(change[3]).to_bytes(4, "little") for change in changes),
        body=b"".join(change[3] for change in changes),
        commits=tuple(ChangeCommit(end=end, transaction=changes[end - 1][4][0]) for end in ends),
    )


def content(frame: ChangeFrame) -> list[tuple[int, str, int, bytes]]:
    """What each change is, without its place."""
    found, position = [], 0
    for i, operation in enumerate(frame.operations):
        size = int.from_bytes(frame.sizes[4 * i : 4 * i + 4], "little")
        name = frame.relations[int.from_bytes(frame.relation_of[2 * i : 2 * i + 2], "little")].namespace
        number = int.from_bytes(frame.key_hashes[8 * i : 8 * i + 8], "little")
        found.append((operation, name, number, bytes(frame.body[position : position + size])))
        position += size
    assert position == len(frame.body)
    return found


def plain(changes: list[Change]) -> list[tuple[int, str, int, bytes]]:
    return [(int(change[0]), *change[1:4]) for change in changes]


@given(histories(), st.data())
def test_what_a_place_has_is_the_same_however_a_history_is_cut(history: list[Change], data: st.DataObject) -> None:
    """A lane that stands at a place goes on with the first change after it, whatever the frame it finds it in."""
    cut = data.draw(st.integers(0, len(history)))
    before = history[cut - 1][4] if cut else (0, 0)
    frame = framed(history[cut:], before=before)
    assert frames.is_well_formed(frame)
    place = data.draw(st.sampled_from([(0, 0), (99, 0), *(change[4] for change in history)]))
    counted = [i for i, change in enumerate(history[cut:]) if change[0] in COUNTED]
    expected = [i for i in counted if history[cut + i][4] <= place]
    through = frames.count_through(frame, place)
    assert [i for i in counted if i < through] == expected


@given(histories())
def test_a_frame_that_ended_earlier_would_have_said_so(history: list[Change]) -> None:
    frame = framed(history)
    for end in range(1, len(history) + 1):
        assert frames.place_at(frame, end) == history[end - 1][4]


@given(histories())
def test_what_concerns_more_than_one_key_stands_alone(history: list[Change]) -> None:
    """The stretches between them are as long as can be, and nothing is left out."""
    frame = framed(history)
    found = list(frames.runs(frame))
    assert [i for start, end, _ in found for i in range(start, end)] == list(range(len(history)))
    for start, end, alone in found:
        operations = {Operation(number) for number in frame.operations[start:end]}
        assert alone == bool(operations & {Operation.MOVE, Operation.TRUNCATE, Operation.RESHAPE})
        assert not alone or end == start + 1
    assert all(first[2] or second[2] for first, second in itertools.pairwise(found))


@given(histories(), st.integers(1, 5))
def test_equal_keys_have_one_lane_and_every_change_has_one(history: list[Change], lanes: int) -> None:
    frame = framed(history)
    lane_of = frames.lanes_of(frame, lanes)
    assert len(lane_of) == len(history)
    assert all(lane == change[2] % lanes for lane, change in zip(lane_of, history, strict=True))


@given(histories(), st.data())
def test_picking_and_cutting_keep_the_records(history: list[Change], data: st.DataObject) -> None:
    frame = framed(history)
    indices = sorted(data.draw(st.sets(st.integers(0, max(0, len(history) - 1)), max_size=len(history))))
    picked = frames.pick(frame, indices)
    assert content(picked) == [plain(history)[i] for i in indices]
    start = data.draw(st.integers(0, len(history)))
    end = data.draw(st.integers(start, len(history)))
    assert content(frames.cut(frame, start, end)) == plain(history[start:end])
    assert picked.place == frame.place


@given(histories(), histories(), st.permutations(RELATIONS))
def test_joined_frames_have_all_changes_under_their_own_relations(
    first: list[Change], second: list[Change], relations: tuple[ChangeRelation, ...]
) -> None:
    """Also where the second numbers its relations in another way."""
    joined = frames.join([framed(first), framed(second, relations=tuple(relations))])
    assert content(joined) == plain(first + second)
    assert len(joined.relations) == 3


@given(histories(), st.data())
def test_a_change_can_be_replaced_by_another(history: list[Change], data: st.DataObject) -> None:
    indices = data.draw(st.sets(st.sampled_from(range(len(history))))) if history else set[int]()
    new = (Operation.INSERT, "z", 9, b"new", (50, 1))
    others = {i: framed([new], relations=(ChangeRelation(namespace="z"),)) for i in indices}
    found = frames.replaced(framed(history), others)
    assert content(found) == plain([new if i in indices else change for i, change in enumerate(history)])
    assert found.place == framed(history).place


@pytest.mark.parametrize(
    "broken",
    [
        {"body": b"xy"},
        {"relations": ()},
        {"commits": (ChangeCommit(end=2, transaction=1),)},
        {"commits": (ChangeCommit(end=1, transaction=1), ChangeCommit(end=0, transaction=1))},
        {"commits": (ChangeCommit(end=1, transaction=2), ChangeCommit(end=1, transaction=1))},
    ],
)
def test_a_frame_that_contradicts_itself_is_found(broken: dict[str, object]) -> None:
    frame = framed([(Operation.INSERT, "a", 1, b"x", (1, 1))])
    assert frames.is_well_formed(frame)
    assert not frames.is_well_formed(dataclasses.replace(frame, **broken))  # type: ignore[arg-type]
