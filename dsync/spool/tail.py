"""The newest frames of a spool, in memory: those not written yet, and as many before them as there is room for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from dsync.spool.layout import RECORD_HEAD_BYTES
from dsync.spool.records import Frame, Place

# What a frame and a piece cost as objects: without it, frames of a few bytes would take any amount.
_FRAME_BYTES, _PIECE_BYTES = 512, 64


@dataclass(slots=True)
class Spot:
    """Where a frame ends on disk, once it is there. A reader keeps this, not the frame."""

    place: Place | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """A frame in memory."""

    frame: Frame
    spot: Spot = field(default_factory=Spot)

    @property
    def record_bytes(self) -> int:
        """What it takes on disk."""
        return RECORD_HEAD_BYTES + len(self.frame.order) + self.frame.size_bytes

    @property
    def memory_bytes(self) -> int:
        """What it takes in memory, about."""
        return memory_bytes_of(self.frame)


def memory_bytes_of(frame: Frame) -> int:
    """What a frame takes in memory, about."""
    return _FRAME_BYTES + _PIECE_BYTES * len(frame.pieces) + frame.size_bytes


class Tail:
    """Frames by their number since the spool was made. Those that are written go, the oldest first, beyond a size."""

    def __init__(self, *, frames: int, last_order: bytes, cache_bytes: int) -> None:
        self.end = frames
        """The number that the next frame gets."""
        self.last_order = last_order
        self.pending_bytes = 0
        """What the frames that are not written will take on disk."""
        self.waiting_bytes = 0
        """What they take in memory."""
        self._cache_bytes = cache_bytes
        self._entries: dict[int, Entry] = {}
        self._first = frames
        self._written = frames
        self._base_order = last_order
        """The order before the oldest one here."""
        self._kept_bytes = 0

    @property
    def kept_bytes(self) -> int:
        """What all frames here take in memory."""
        return self._kept_bytes

    @property
    def has_pending(self) -> bool:
        return self._written < self.end

    def add(self, frame: Frame) -> None:
        """Take the newest frame."""
        entry = Entry(frame)
        self._entries[self.end] = entry
        self.end += 1
        self.last_order = frame.order
        self.pending_bytes += entry.record_bytes
        self.waiting_bytes += entry.memory_bytes
        self._kept_bytes += entry.memory_bytes
        self._shrink()

    def pending(self) -> list[Frame]:
        """What is to be written, in order."""
        return [self._entries[number].frame for number in range(self._written, self.end)]

    def written(self, places: Sequence[Place]) -> None:
        """So many of the pending frames are on disk, ending there."""
        for place in places:
            entry = self._entries[self._written]
            entry.spot.place = place
            self.pending_bytes -= entry.record_bytes
            self.waiting_bytes -= entry.memory_bytes
            self._written += 1
        self._shrink()

    def get(self, number: int) -> Entry | None:
        """The frame with this number; None where it must be read from the disk."""
        return self._entries.get(number)

    def find(self, after: bytes) -> int | None:
        """The number of the first frame with a higher order; None where that may not be in memory any more."""
        if after < self._base_order:
            return None
        if after >= self.last_order:
            return self.end
        return next(number for number in range(self._first, self.end) if self._entries[number].frame.order > after)

    def _shrink(self) -> None:
        while self._kept_bytes > self._cache_bytes and self._first < self._written:
            self._drop_first()

    def _drop_first(self) -> None:
        entry = self._entries.pop(self._first)
        self._first += 1
        self._base_order = entry.frame.order
        self._kept_bytes -= entry.memory_bytes
