"""Reading the records of one segment, each checked against its checksum and against the one before it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from dsync.spool.layout import (
    FRAME,
    MARK,
    MAX_ORDER_BYTES,
    MAX_PAYLOAD_BYTES,
    RECORD_HEAD_BYTES,
    RECORD_MAGIC,
    DamagedError,
    RecordHead,
    decode_head,
    payload_checksum,
)

_WINDOW_BYTES = 256 * 1024
_LONGEST_HEAD_BYTES = RECORD_HEAD_BYTES + 255


@dataclass(frozen=True, slots=True)
class Frame:
    """What was appended: an order and a payload."""

    order: bytes
    """The source's position after this frame."""
    pieces: tuple[bytes | bytearray | memoryview, ...]
    """The payload as it was given, or in one piece where it was read from the disk. Not to be changed."""
    size_bytes: int
    """Of the payload."""

    def payload(self) -> bytes:
        """The payload in one piece."""
        return bytes(self.pieces[0]) if len(self.pieces) == 1 else b"".join(self.pieces)


class BrokenChainError(DamagedError):
    """A record that is whole, but is not the one that was written there: no interrupted write looks like this."""


@dataclass(frozen=True, slots=True)
class Place:
    """A point between two records of a spool, and what must hold there."""

    segment: int
    offset: int
    chain: int
    order: bytes
    """The order of the last frame before it."""
    frames: int
    """How many frames come before it, trimmed ones too."""


class Walk:
    """Goes from record to record of an open segment, from a place up to an offset."""

    def __init__(self, descriptor: int, place: Place, *, end: int, seed: int) -> None:
        self.place = place
        """Behind the last good record; moved along."""
        self.is_marked = True
        """No frame comes after the last mark."""
        self._descriptor = descriptor
        self._end = end
        self._seed = seed
        self._window = memoryview(b"")
        self._window_start = 0

    def next(self, *, after: bytes = b"") -> Frame | None:
        """The next frame, None at the end. Of frames up to `after` the payload is neither read nor given.

        Raises:
            DamagedError: the bytes at `place` are not what was written.
            OSError: they cannot be read.
        """
        while self.place.offset < self._end:
            head = self._head()
            if head.kind == MARK:
                self._pass(head)
                continue
            payload = b"" if head.order <= after else self._payload(head)
            self._pass(head)
            return Frame(head.order, (payload,), head.payload_bytes)
        return None

    def _head(self) -> RecordHead:
        start = self.place.offset
        head = decode_head(self._bytes(start, min(_LONGEST_HEAD_BYTES, self._end - start)), self._seed)
        if head is None:
            raise DamagedError("a record's head fails its checksum")
        if start + head.size_bytes > self._end:
            raise DamagedError("a record is incomplete")
        if head.previous != self.place.chain:
            raise BrokenChainError("the record there does not belong behind the one before it")
        if head.kind == FRAME and not self.place.order < head.order:
            raise BrokenChainError("the frame there is not in order")
        return head

    def _payload(self, head: RecordHead) -> bytes:
        payload = bytes(self._bytes(self.place.offset + head.head_bytes, head.payload_bytes))
        if payload_checksum((payload,), self._seed) != head.payload_sum:
            raise DamagedError("a record's payload fails its checksum")
        return payload

    def _pass(self, head: RecordHead) -> None:
        place = self.place
        self.is_marked = head.kind == MARK
        order, frames = (place.order, place.frames) if self.is_marked else (head.order, place.frames + 1)
        self.place = Place(place.segment, place.offset + head.size_bytes, head.chain, order, frames)

    def _bytes(self, start: int, size: int) -> bytes | memoryview:
        inside = start - self._window_start
        if inside >= 0 and inside + size <= len(self._window):
            return self._window[inside : inside + size]
        if size > _WINDOW_BYTES:
            return _read(self._descriptor, start, size)
        self._window = memoryview(_read(self._descriptor, start, min(_WINDOW_BYTES, self._end - start)))
        self._window_start = start
        return self._window[:size]


def heads_from(descriptor: int, start: int, end: int, seed: int) -> Iterator[tuple[int, RecordHead]]:
    """Whole heads anywhere from an offset on, whatever lies between them."""
    offset = start
    while offset < end:
        # The windows overlap by what a head may have before the next one begins.
        window = _read(descriptor, offset, min(_WINDOW_BYTES + _LONGEST_HEAD_BYTES, end - offset), short=True)
        found = window.find(RECORD_MAGIC)
        while 0 <= found < _WINDOW_BYTES:
            head = decode_head(memoryview(window)[found : found + _LONGEST_HEAD_BYTES], seed)
            if head is not None and _is_possible(head):
                yield offset + found, head
            found = window.find(RECORD_MAGIC, found + 1)
        offset += _WINDOW_BYTES


def _is_possible(head: RecordHead) -> bool:
    return len(head.order) <= MAX_ORDER_BYTES and head.payload_bytes <= MAX_PAYLOAD_BYTES


def _read(descriptor: int, start: int, size: int, *, short: bool = False) -> bytes:
    data = os.pread(descriptor, size, start)
    if len(data) == size or short:
        return data
    parts = [data]
    missing = size - len(data)
    while missing:
        # A signal, or the kernel's limit of 2 GiB.
        more = os.pread(descriptor, missing, start + size - missing)
        if not more:
            raise DamagedError("the file ends in the middle of a record")
        parts.append(more)
        missing -= len(more)
    return b"".join(parts)
