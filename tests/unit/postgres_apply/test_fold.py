"""Folding: whatever happens to keys, applying the sum gives what applying each change gives."""

from __future__ import annotations

from collections.abc import Iterator
from operator import itemgetter

from dsync_postgres.sink.apply.fold import Fold, Tally
from dsync_postgres.sink.apply.records import UNSENT, Value, Values
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

Row = tuple[Value, ...]
Table = dict[Value, Row]

keys = st.sampled_from([b"a", b"b", b"c", b"d"])
values = st.sampled_from([b"1", b"2", None])


def over(before: Values, after: Values) -> Row:
    return tuple(old if new is UNSENT else new for old, new in zip(before, after, strict=True))


class Folding(RuleBasedStateMachine):
    """A source's table changes; the sink had it as it was at the beginning, and gets the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.source: Table = {}
        self.before: Table = {}
        self.fold = Fold(itemgetter(0))
        self.count = 0

    @initialize(rows=st.dictionaries(keys, st.tuples(values, values)))
    def begin(self, rows: dict[bytes, tuple[Value, Value]]) -> None:
        self.source = {key: (key, *row) for key, row in rows.items()}
        self.before = dict(self.source)

    def free(self) -> set[Value]:
        return {b"a", b"b", b"c", b"d"} - self.source.keys()

    @precondition(lambda self: self.free())
    @rule(data=st.data(), x=values, y=values)
    def insert(self, data: st.DataObject, x: Value, y: Value) -> None:
        key = data.draw(st.sampled_from(sorted(self.free(), key=str)))
        self.source[key] = (key, x, y)
        self.fold.put(key, (key, x, y), self.next())

    @precondition(lambda self: self.source)
    @rule(data=st.data(), x=values | st.just(UNSENT), y=values | st.just(UNSENT))
    def update(self, data: st.DataObject, x: Value, y: Value) -> None:
        key = data.draw(st.sampled_from(sorted(self.source, key=str)))
        self.source[key] = over(self.source[key], (key, x, y))
        if x is UNSENT or y is UNSENT:
            self.fold.patch(key, (key, x, y), self.next())
        else:
            self.fold.put(key, (key, x, y), self.next())

    @precondition(lambda self: self.source)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.source, key=str)))
        del self.source[key]
        self.fold.drop(key, (key, None, None), self.next())

    @precondition(lambda self: self.source and self.free())
    @rule(data=st.data(), x=values | st.just(UNSENT))
    def move(self, data: st.DataObject, x: Value) -> None:
        """A change of the key that leaves a value unsent; where the sink's row is needed, a new set begins."""
        old = data.draw(st.sampled_from(sorted(self.source, key=str)))
        new = data.draw(st.sampled_from(sorted(self.free(), key=str)))
        change = (new, x, UNSENT)
        place = self.next()
        row = over(self.source.pop(old), change)
        self.source[new] = row
        if not self.fold.move(old, (old, None, None), change, place):
            self.before = dict(self.applied())
            self.fold = Fold(itemgetter(0))
            self.before[new] = over(self.before.pop(old), change)

    def next(self) -> int:
        self.count += 1
        return self.count

    def applied(self) -> Table:
        """The sink's table after the sum."""
        table = dict(self.before)
        for key in self.fold.gone:
            table.pop(key, None)
        for key, part in self.fold.whole.items():
            table[key] = tuple(part.values)
        for key, part in self.fold.parts.items():
            # Nothing is set in a row that is not there.
            table[key] = over(table[key], part.values)
        return table

    @invariant()
    def the_sum_gives_the_sources_table(self) -> None:
        assert self.applied() == self.source
        assert not self.fold.lost

    @invariant()
    def every_key_is_dealt_with_once(self) -> None:
        groups = (self.fold.whole, self.fold.gone, self.fold.parts)
        assert sum(map(len, groups)) == len(set().union(*groups))

    @invariant()
    def whole_rows_lack_nothing(self) -> None:
        assert not any(value is UNSENT for part in self.fold.whole.values() for value in part.values)


TestFolding = Folding.TestCase
TestFolding.settings = settings(max_examples=150, stateful_step_count=20, deadline=None)


def rows_of(tally: Tally) -> Iterator[tuple[Row, int]]:
    return ((row, count) for row, count in tally.rows.items() if count)


def test_in_an_overlap_a_moved_row_is_lost_until_its_new_key_is_written_whole() -> None:
    """Taken from the sink it could be another row; a later whole row or delete makes it superfluous."""
    fold = Fold(itemgetter(0))
    fold.lose(b"a", (b"a", None), (b"b", UNSENT), 3)
    assert (set(fold.gone), fold.lost) == ({b"a"}, {b"b": 3})
    fold.patch(b"b", (b"b", UNSENT), 4)
    assert fold.lost == {b"b": 3}
    fold.put(b"b", (b"b", b"x"), 5)
    assert not fold.lost
    fold.lose(b"c", (b"c", None), (b"d", UNSENT), 6)
    fold.drop(b"d", (b"d", None), 7)
    assert not fold.lost


def test_values_for_a_row_that_is_gone_are_lost() -> None:
    fold = Fold(itemgetter(0))
    fold.drop(b"a", (b"a", None), 1)
    fold.patch(b"a", (b"a", UNSENT), 2)
    assert fold.lost == {b"a": 2}


def test_rows_without_key_are_counted() -> None:
    tally = Tally()
    for row, change in (([b"x"], 1), ([b"x"], 1), ([b"y"], -1), ([b"y"], 1), ([None], -1), ([b"x"], -1)):
        tally.count(row, change, 0)
    assert dict(rows_of(tally)) == {(b"x",): 1, (None,): -1}
