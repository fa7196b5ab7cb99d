"""Reading a spool from an order on: from memory where the frame is still there, else from the disk."""

from __future__ import annotations

import asyncio
import bisect
from collections.abc import AsyncGenerator, Awaitable, Callable
from concurrent.futures import Executor
from dataclasses import dataclass

from dsync.spool.errors import MissingSegmentError, SpoolTrimmedError
from dsync.spool.manifest_file import start_anew
from dsync.spool.records import Frame, Place
from dsync.spool.segments import Portion, Segment, corrupt_error, read_portion
from dsync.spool.shared import Shared
from dsync.spool.tail import Spot

_READ_BYTES = 256 * 1024


@dataclass(slots=True)
class _Position:
    """How far one reader is."""

    after: bytes
    """The order of the last frame given."""
    number: int
    """Of the frame to give next, or of one before it that is skipped."""
    spot: Spot
    """Where that is on disk, once it is there."""


async def follow(
    shared: Shared,
    after: bytes,
    *,
    durable_only: bool,
    thread: Executor,
    settled: Callable[[], Awaitable[None]],
) -> AsyncGenerator[Frame, None]:
    """Every frame with a higher order, without end; see `Spool.read`."""
    at = _find(shared, after)
    while True:
        shared.require_usable()
        _require_kept(shared, at)
        if at.number >= _limit(shared, durable_only):
            await shared.grown.wait()
            continue
        entry = shared.tail.get(at.number)
        if entry is not None:
            at = _Position(entry.frame.order, at.number + 1, entry.spot)
            yield entry.frame
            continue
        portion = await _from_disk(shared, at, thread, settled)
        for frame, place in portion.frames:
            at.number = place.frames - 1
            shared.require_usable()
            _require_kept(shared, at)
            if at.number >= _limit(shared, durable_only):
                # Read again once it is durable.
                break
            at = _Position(frame.order, place.frames, Spot(place))
            yield frame
        else:
            at = _Position(at.after, portion.place.frames, Spot(portion.place))


def _limit(shared: Shared, durable_only: bool) -> int:
    """The number of the first frame not to be given yet."""
    return shared.standing.durable_frames if durable_only else shared.tail.end


def _find(shared: Shared, after: bytes) -> _Position:
    """In front of the first frame with a higher order, or of one before it in the same segment."""
    number = shared.tail.find(after)
    if number is not None:
        return _Position(after, number, Spot())
    segments = shared.standing.segments
    # The frames before what is in memory are on disk or trimmed.
    index = bisect.bisect_right(segments, after, key=lambda segment: segment.header.base_order) - 1
    if index < 0:
        return _Position(after, -1, Spot())
    return _Position(after, segments[index].header.base_frames, Spot(segments[index].start))


def _require_kept(shared: Shared, at: _Position) -> None:
    if at.number >= shared.standing.base_frames:
        return
    asked = at.after.hex() or "the beginning"
    raise SpoolTrimmedError(
        f"the spool {shared.directory} was asked for the changes after {asked}, it has given up those up to "
        f"{shared.standing.base_order.hex()}: has a sink or the state been put back to an older copy? Put the newer "
        "one back, or " + start_anew(shared.directory)
    )


async def _from_disk(
    shared: Shared, at: _Position, thread: Executor, settled: Callable[[], Awaitable[None]]
) -> Portion:
    """The next frames, read in a thread."""
    # A reader that waited at the end, and has been overtaken since, does not know a place.
    place = at.spot.place or _find(shared, at.after).spot.place
    segments = shared.standing.segments
    if place is None or not segments:
        raise AssertionError("a frame is neither in memory nor on disk")
    segment, place = _segment_at(segments, place)
    loop = asyncio.get_running_loop()

    def blocking() -> Portion:
        return read_portion(segment, place, after=at.after, max_bytes=_READ_BYTES)

    try:
        portion = await loop.run_in_executor(thread, blocking)
    except MissingSegmentError:
        # Trimmed at this very moment? What that means to this reader is seen by whoever called.
        await settled()
        if segment.number in [kept.number for kept in shared.standing.segments]:
            raise
        return Portion([], place, False)
    if portion.place == place:
        raise corrupt_error(
            segment.path, "it ends too early", start=place.offset, end=place.offset, before=place.order, after=None
        )
    return portion


def _segment_at(segments: tuple[Segment, ...], place: Place) -> tuple[Segment, Place]:
    """The segment in which to read on from a place: at the end of one that is the next."""
    index = place.segment - segments[0].number
    if index < 0:
        # It was trimmed, and nothing is missing (see _require_kept).
        return segments[0], segments[0].start
    segment = segments[index]
    if place.offset < segment.size_bytes or index + 1 == len(segments):
        return segment, place
    start = segments[index + 1].start
    if (place.chain, place.order, place.frames) != (start.chain, start.order, start.frames):
        raise corrupt_error(
            segments[index + 1].path,
            "it does not go on from the segment before it",
            start=0,
            end=start.offset,
            before=place.order,
            after=start.order,
        )
    return segments[index + 1], start
