"""What becomes of each key in a stretch of changes: of many changes of one key only the sum is applied.

The sum is one of four: a whole row, a row that goes, values that an existing row gets, or a row that has to be read
again at the source because values of it never came.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from dsync_postgres.sink.apply.records import UNSENT, Value, Values

Key = Value | tuple[Value, ...]


class Part(NamedTuple):
    """A row or some of its values, and where they come from."""

    values: Values
    place: int
    """The last of the changes that it sums up, by its place in the frame."""


class Fold:
    """The changes of one keyed table; every key is in one of the four at most, and in `lost` beside."""

    def __init__(self, key_of: Callable[[Values], Key]) -> None:
        """`key_of` takes the key out of a row."""
        self.key_of = key_of
        self.whole: dict[Key, Part] = {}
        """Rows to write, whatever is there."""
        self.gone: dict[Key, Part] = {}
        """Rows to delete, of which the key counts."""
        self.parts: dict[Key, Part] = {}
        """Values to set where the row is there."""
        self.lost: dict[Key, int] = {}
        """Changes whose values nobody here has."""

    def put(self, key: Key, values: Values, index: int) -> None:
        """The key has this row now."""
        self.whole[key] = Part(values, index)
        if self.gone:
            self.gone.pop(key, None)
        if self.parts:
            self.parts.pop(key, None)
        if self.lost:
            self.lost.pop(key, None)

    def drop(self, key: Key, old: Values, index: int) -> None:
        """The key has no row now."""
        self.gone[key] = Part(old, index)
        self.whole.pop(key, None)
        self.parts.pop(key, None)
        self.lost.pop(key, None)

    def patch(self, key: Key, values: Values, index: int) -> None:
        """The key's row has these values now, and keeps those that were not sent."""
        if (before := self.whole.get(key)) is not None:
            self.whole[key] = Part(_over(before.values, values), index)
        elif key in self.gone:
            # Nobody updates a row that is gone: the row came from where we have not looked.
            self.lost[key] = index
        elif (part := self.parts.get(key)) is not None:
            self.parts[key] = Part(_over(part.values, values), index)
        else:
            self.parts[key] = Part(values, index)

    def move(self, key: Key, old: Values, new: Values, index: int) -> bool:
        """The row has another key now, and keeps the values that were not sent; False where they are not here."""
        before = self.whole.get(key)
        if before is None:
            return False
        self.drop(key, old, index)
        self.put(self.key_of(new), _over(before.values, new), index)
        return True

    def lose(self, key: Key, old: Values, new: Values, index: int) -> None:
        """The row has another key now, and that one has to be read again."""
        self.drop(key, old, index)
        self.lost[self.key_of(new)] = index


def _over(before: Values, values: Values) -> list[Value]:
    return [kept if value is UNSENT else value for kept, value in zip(before, values, strict=True)]


class Tally:
    """The changes of a table without key: how many rows of each kind come or go."""

    def __init__(self) -> None:
        self.rows: dict[tuple[Value, ...], int] = {}
        """Rows to add; below zero, to remove."""
        self.places: dict[tuple[Value, ...], int] = {}
        """The last change of each, by its place in the frame."""

    def count(self, values: Values, change: int, index: int) -> None:
        """Another row of these values (+1), or one less (-1)."""
        row = tuple(values)
        self.rows[row] = self.rows.get(row, 0) + change
        self.places[row] = index
