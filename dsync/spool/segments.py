"""One segment of a spool: its name, what lies before it, and its records, as somebody reads them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dsync.spool import files
from dsync.spool.errors import CorruptSpoolError, MissingSegmentError
from dsync.spool.layout import BLOCK_BYTES, FRAME, DamagedError, SegmentHeader, seed_of
from dsync.spool.manifest_file import start_anew
from dsync.spool.records import Frame, Place, Walk, heads_from


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A segment with frames, or the one that is written."""

    path: Path
    header: SegmentHeader
    first_order: bytes
    """The order of its first frame; empty while it has none."""
    size_bytes: int
    """Up to the end of its last whole record."""

    @property
    def number(self) -> int:
        return self.header.number

    @property
    def start(self) -> Place:
        """In front of its first record."""
        header = self.header
        return Place(self.number, BLOCK_BYTES, header.chain, header.base_order, header.base_frames)


@dataclass(frozen=True, slots=True)
class Portion:
    """Some frames read in one go."""

    frames: list[tuple[Frame, Place]]
    """Each with the place behind it."""
    place: Place
    """As far as was read."""
    is_end: bool
    """The segment holds no more up to where it was to be read."""


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """A descriptor to read from."""
    with files.translated(f"reading {path}"):
        try:
            descriptor = files.open_file(path, os.O_RDONLY)
        except FileNotFoundError as exc:
            raise gone(path) from exc
        try:
            yield descriptor
        finally:
            os.close(descriptor)


def gone(path: Path) -> MissingSegmentError:
    return MissingSegmentError(
        f"{path} has vanished, and with it the changes in it: put it back where somebody has moved it away, or "
        + start_anew(path.parent),
        file=path.name,
    )


def read_portion(segment: Segment, place: Place, *, after: bytes, max_bytes: int) -> Portion:
    """Frames with orders above `after` from a place on, about as many bytes as asked for and at least one frame.

    Raises:
        CorruptSpoolError: what was written is not what is there.
        SpoolUnavailableError: the disk does not give it.
    """
    seed = seed_of(segment.header.spool_id)
    frames: list[tuple[Frame, Place]] = []
    taken = 0
    with opened(segment.path) as descriptor:
        walk = Walk(descriptor, place, end=segment.size_bytes, seed=seed)
        while taken < max_bytes:
            try:
                frame = walk.next(after=after)
            except DamagedError as exc:
                if frames:
                    # Good as far as they go; the next call says what comes behind them.
                    break
                raise corrupt(segment, walk.place, str(exc), descriptor) from exc
            if frame is None:
                return Portion(frames, walk.place, True)
            if frame.order > after:
                frames.append((frame, walk.place))
                taken += frame.size_bytes + len(frame.order)
        return Portion(frames, walk.place, False)


def corrupt(segment: Segment, place: Place, reason: str, descriptor: int) -> CorruptSpoolError:
    """What is damaged from a place on, how far, and what is on both sides of it."""
    end, after = segment.size_bytes, None
    # From the next byte on: what stands at the place itself is what nobody can trust.
    for offset, head in heads_from(descriptor, place.offset + 1, segment.size_bytes, seed_of(segment.header.spool_id)):
        if head.kind == FRAME:
            end, after = offset, head.order
            break
    return corrupt_error(segment.path, reason, start=place.offset, end=end, before=place.order, after=after)


def corrupt_error(
    path: Path, reason: str, *, start: int, end: int, before: bytes, after: bytes | None
) -> CorruptSpoolError:
    """The error for a damaged range of bytes."""
    where = f"after order {before.hex()}" if before else "from the beginning on"
    until = f", before order {after.hex()}" if after else ""
    return CorruptSpoolError(
        f"{path} is damaged in bytes {start} to {end} ({reason}): the changes {where}{until} cannot be trusted. Copy "
        f"the directory away if you want to find out why the disk did this, then " + start_anew(path.parent),
        file=path.name,
        start=start,
        end=end,
        before=before,
        after=after,
    )
