"""Marks are passed where they stand, and what counts is what comes after the one that was said, however it is cut."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from dsync.coordinator.stream.between import Between
from dsync.coordinator.stream.rounds import Part, Round
from dsync.protocol.frames import START
from dsync.protocol.types import Operation
from tests.unit.coordinator.stream.histories import Change, framed, history_of

_OPERATIONS = st.sampled_from([Operation.INSERT, Operation.DELETE, Operation.RESHAPE, Operation.TRUNCATE])


def _content(change: Change) -> bytes:
    """Of a mark its key, which says which one it is."""
    return b"mark %d" % change.key if change.operation is Operation.MARK else b"%d" % change.number


@settings(max_examples=100, deadline=None)
@given(
    before=st.lists(_OPERATIONS, max_size=4),
    between=st.lists(_OPERATIONS, max_size=4),
    after=st.lists(_OPERATIONS, max_size=4),
    cuts=st.sets(st.integers(1, 13)),
)
def test_only_changes_after_the_mark_count(
    before: list[Operation], between: list[Operation], after: list[Operation], cuts: set[int]
) -> None:
    """Not a relation that is told again, and not what came before in the same round."""
    ends, proof = (Operation.MARK, 1), (Operation.MARK, 2)
    told = [[(op, 9) for op in before], [ends], [(op, 9) for op in between], [proof], [(op, 9) for op in after]]
    history = history_of([members for members in told if members])
    watch = Between()
    assert watch.written == {}
    reached = watch.expect(b"mark 1", counts_after=True)
    proved = watch.expect(b"mark 2")
    edges = sorted({0, len(history)} | {cut for cut in cuts if cut < len(history)})
    place = START
    for start, end in pairwise(edges):
        frame = framed(history[start:end], before=place, is_ended=True, record_of=_content)
        place = history[end - 1].place
        watch.saw(Round(parts=(Part(frame, 0, len(frame)),), cursor=frame.cursor))
        assert reached.is_set() == any(c.key == 1 for c in history[:end])
        assert proved.is_set() == any(c.key == 2 for c in history[:end])
    counted = sum(op is not Operation.RESHAPE for op in between + after)
    assert dict(watch.written) == ({"a": counted} if counted else {})


def test_counting_begins_anew_with_each_mark_that_counts() -> None:
    """A second attempt must not be held responsible for what the first one has seen."""
    watch = Between()
    history = history_of([[(Operation.MARK, 1)], [(Operation.INSERT, 9)], [(Operation.MARK, 2)]])
    frame = framed(history, before=START, is_ended=True, record_of=_content)
    watch.expect(b"mark 1", counts_after=True)
    watch.saw(Round(parts=(Part(frame, 0, 2),), cursor=b""))
    assert watch.written == {"a": 1}
    again = watch.expect(b"mark 2", counts_after=True)
    assert not watch.written
    watch.saw(Round(parts=(Part(frame, 2, 3),), cursor=b""))
    assert again.is_set()
    assert not watch.written
