"""Counting what differs, and remembering the first of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dsync.verify.options import Key
from dsync.verify.report import Counts, Kind

_ROW_KINDS = (Kind.MISSING, Kind.EXTRA, Kind.DIFFERENT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A row that differs."""

    kind: Kind
    key: Key
    rows: int = 1


@dataclass(slots=True, kw_only=True)
class Room:
    """For how many differing rows of a namespace there is still room; its ranges share it."""

    left: int


@dataclass(slots=True, kw_only=True)
class Tally:
    """The differing rows of one range: exact counts, and the rows themselves while there is room."""

    room: Room
    counts: dict[Kind, int] = field(default_factory=lambda: dict.fromkeys(_ROW_KINDS, 0))
    found: list[Found] = field(default_factory=list)

    def add(self, kind: Kind, key: Key, rows: int = 1) -> None:
        """Count a row, and remember it where there is room."""
        self.counts[kind] += rows
        self.note(kind, key, rows)

    def count(self, kind: Kind, rows: int) -> None:
        """Count rows whose keys are not known."""
        self.counts[kind] += rows

    def note(self, kind: Kind, key: Key, rows: int = 1) -> None:
        """Remember a row that has been counted already."""
        if self.has_room():
            self.room.left -= 1
            self.found.append(Found(kind=kind, key=key, rows=rows))

    def has_room(self) -> bool:
        """One more row would be remembered."""
        return self.room.left > 0

    def forget(self) -> None:
        """Start again, and give back the room."""
        self.room.left += len(self.found)
        self.found.clear()
        for kind in self.counts:
            self.counts[kind] = 0

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    @property
    def is_complete(self) -> bool:
        """Every row that was counted is remembered."""
        return sum(found.rows for found in self.found) == self.total


def counts_of(totals: Mapping[Kind, int]) -> Counts:
    """Counts as a report carries them."""
    return Counts(missing=totals[Kind.MISSING], extra=totals[Kind.EXTRA], different=totals[Kind.DIFFERENT])


@dataclass(slots=True, kw_only=True)
class RangeResult:
    """What comparing one range gave."""

    source_rows: int
    target_rows: int
    tally: Tally

    @property
    def is_equal(self) -> bool:
        return not self.tally.total

    def as_json(self) -> dict[str, Any]:
        """For the store of an interrupted verification."""
        return {
            "source_rows": self.source_rows,
            "target_rows": self.target_rows,
            "counts": {str(kind): count for kind, count in self.tally.counts.items()},
            "found": [[str(found.kind), list(found.key), found.rows] for found in self.tally.found],
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any], room: Room) -> RangeResult:
        """The inverse of `as_json`; what it lists takes up room."""
        tally = Tally(room=room)
        for kind, count in stored["counts"].items():
            tally.count(Kind(kind), int(count))
        for kind, key, rows in stored["found"]:
            tally.note(Kind(kind), tuple(key), int(rows))
        return cls(source_rows=int(stored["source_rows"]), target_rows=int(stored["target_rows"]), tally=tally)


def merged_counts(results: Iterable[RangeResult]) -> dict[Kind, int]:
    """The counts of all ranges together."""
    totals = dict.fromkeys(_ROW_KINDS, 0)
    for result in results:
        for kind, count in result.tally.counts.items():
            totals[kind] += count
    return totals


def merged_found(results: Sequence[RangeResult]) -> list[Found]:
    """What all ranges remember, in their order."""
    return [found for result in results for found in result.tally.found]
