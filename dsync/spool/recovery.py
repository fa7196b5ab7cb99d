"""What of a spool is there when it is opened: everything that was confirmed, or a named error.

Behind what was confirmed, a crash may leave anything: a part of a record, zeros, pages that reached the disk while
those before them did not. That is cut off, and the source gives it again. Each record says how much was durable when
it was written, which tells such an end from damage to what had been durable.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dsync.failpoints import failpoint
from dsync.spool import files
from dsync.spool.errors import OtherFlowsSpoolError, SpoolLostError
from dsync.spool.layout import BLOCK_BYTES, MAX_ORDER_BYTES, DamagedError, SegmentHeader, seed_of
from dsync.spool.manifest_file import ManifestFile, start_anew
from dsync.spool.records import BrokenChainError, Place, Walk, heads_from
from dsync.spool.segments import Segment, corrupt, corrupt_error, gone, opened

# Above every order: the walk reads heads only.
_NO_PAYLOAD = b"\xff" * (MAX_ORDER_BYTES + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """What was cut off the end of a spool, because it was not written completely before a crash."""

    file: str
    start: int
    end: int
    last_order: bytes
    """The order of the last frame that is left: read on from here at the source. Empty where none was ever taken."""
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered:
    """A spool as it was found."""

    segments: tuple[Segment, ...]
    end: Place
    """Behind the last record."""
    is_marked: bool
    """The last record says that everything before it is durable."""
    cut: Cut | None


def recover(directory: Path, manifest: ManifestFile, confirmed: bytes) -> Recovered:
    """Read what is there and cut off what a crash has left behind it.

    Raises:
        CorruptSpoolError: something that was durable is damaged or missing. Nothing has been changed.
        SpoolLostError: the spool ends before `confirmed`. Nothing has been changed.
        OSError: the disk refuses.
    """
    numbers = _present(directory, manifest)
    headers = [_header(files.segment_path(directory, number), number, manifest) for number in numbers]
    sealed = [_sealed(directory, header, following) for header, following in itertools.pairwise(headers)]
    _check_first(directory, manifest, headers)
    now = manifest.current
    if not headers:
        found = Recovered(
            segments=(),
            end=Place(now.last, 0, now.chain, now.base_order, now.base_frames),
            is_marked=True,
            cut=None,
        )
    else:
        found = _last(directory, headers[-1], tuple(sealed))
    if found.end.order < confirmed:
        raise SpoolLostError(
            f"{directory} ends at order {found.end.order.hex() or '(none)'}, but everything up to {confirmed.hex()} "
            "had been confirmed: has it been put back to an older copy, or have files been removed? Put the right ones "
            "back, or " + start_anew(directory)
        )
    if headers and headers[-1].number > now.last:
        manifest.replace(now.next(last=headers[-1].number))
    if found.cut is not None:
        _cut(directory, found.cut)
    return found


def _present(directory: Path, manifest: ManifestFile) -> list[int]:
    """The segments that count. What a crash has left of trimmed and of half-made ones is removed."""
    now = manifest.current
    there = files.segment_numbers(directory)
    for number in there:
        if number < now.first:
            files.segment_path(directory, number).unlink()
    numbers = [number for number in there if number >= now.first]
    made = max(now.last, now.first - 1)
    if numbers and numbers[-1] == made + 1:
        # It was not announced, so nothing in it can have been confirmed: a crash came in between.
        path = files.segment_path(directory, numbers[-1])
        with opened(path) as descriptor:
            block = os.pread(descriptor, BLOCK_BYTES, 0)
        try:
            SegmentHeader.decode(block, what=str(path))
        except DamagedError:
            path.unlink()
            numbers.pop()
    for number in range(now.first, max([made, *numbers]) + 1):
        if number not in numbers:
            raise gone(files.segment_path(directory, number))
    if numbers and numbers[-1] > made + 1:
        path = files.segment_path(directory, numbers[-1])
        raise corrupt_error(
            path, "the manifest does not know it", start=0, end=path.stat().st_size, before=b"", after=None
        )
    return numbers


def _header(path: Path, number: int, manifest: ManifestFile) -> SegmentHeader:
    with opened(path) as descriptor:
        block = os.pread(descriptor, BLOCK_BYTES, 0)
        size = os.fstat(descriptor).st_size
    reason = ""
    try:
        header = SegmentHeader.decode(block, what=str(path))
    except DamagedError as exc:
        reason = str(exc)
    else:
        if header.flow != manifest.current.flow:
            raise OtherFlowsSpoolError(
                f"{path} belongs to flow {header.flow}, not to {manifest.current.flow}: move it away and put the right "
                "file back, or " + start_anew(path.parent)
            )
        if header.spool_id != manifest.current.spool_id:
            reason = "it belongs to another spool of this flow"
        elif header.number != number:
            reason = f"it is segment {header.number} under another's name"
        else:
            return header
    raise corrupt_error(path, reason, start=0, end=min(size, BLOCK_BYTES), before=b"", after=None)


def _check_first(directory: Path, manifest: ManifestFile, headers: Sequence[SegmentHeader]) -> None:
    now = manifest.current
    if headers and (headers[0].base_order, headers[0].base_frames, headers[0].chain) != (
        now.base_order,
        now.base_frames,
        now.chain,
    ):
        raise corrupt_error(
            files.segment_path(directory, headers[0].number),
            "it does not go on from what was trimmed",
            start=0,
            end=BLOCK_BYTES,
            before=now.base_order,
            after=headers[0].base_order,
        )


def _sealed(directory: Path, header: SegmentHeader, following: SegmentHeader) -> Segment:
    """A segment that has one after it: all of it was durable. Its payloads are checked when they are read."""
    path = files.segment_path(directory, header.number)
    size = path.stat().st_size
    segment = Segment(path=path, header=header, first_order=b"", size_bytes=size)
    with opened(path) as descriptor:
        walk = Walk(descriptor, segment.start, end=size, seed=seed_of(header.spool_id))
        try:
            if size == following.previous_bytes and (first := walk.next(after=_NO_PAYLOAD)) is not None:
                return replace(segment, first_order=first.order)
            # Its end is wrong: find out how far it is right.
            while walk.next() is not None:
                pass
            reason = f"it should have {following.previous_bytes} bytes"
        except DamagedError as exc:
            reason = str(exc)
        error = corrupt(segment, walk.place, reason, descriptor)
    if error.after is not None:
        raise error
    end = max(size, following.previous_bytes)
    raise corrupt_error(
        path, reason, start=walk.place.offset, end=end, before=walk.place.order, after=following.base_order
    )


def _last(directory: Path, header: SegmentHeader, sealed: tuple[Segment, ...]) -> Recovered:
    """The segment that was written last, as far as it is whole."""
    path = files.segment_path(directory, header.number)
    segment = Segment(path=path, header=header, first_order=b"", size_bytes=path.stat().st_size)
    with opened(path) as descriptor:
        walk = Walk(descriptor, segment.start, end=segment.size_bytes, seed=seed_of(header.spool_id))
        first_order, reason = b"", ""
        try:
            while (frame := walk.next()) is not None:
                first_order = first_order or frame.order
        except BrokenChainError as exc:
            raise corrupt(segment, walk.place, str(exc), descriptor) from exc
        except DamagedError as exc:
            reason = str(exc)
            _require_torn(segment, walk.place, reason, descriptor)
    end = walk.place
    cut = None
    if end.offset < segment.size_bytes:
        cut = Cut(file=path.name, start=end.offset, end=segment.size_bytes, last_order=end.order, reason=reason)
    return Recovered(
        segments=(*sealed, replace(segment, first_order=first_order, size_bytes=end.offset)),
        end=end,
        is_marked=walk.is_marked,
        cut=cut,
    )


def _require_torn(segment: Segment, place: Place, reason: str, descriptor: int) -> None:
    """Raise where a later record shows that what is damaged here had been durable."""
    seed = seed_of(segment.header.spool_id)
    for _, head in heads_from(descriptor, place.offset + 1, segment.size_bytes, seed):
        if head.durable_bytes > place.offset:
            raise corrupt(segment, place, reason, descriptor)


def _cut(directory: Path, cut: Cut) -> None:
    descriptor = files.open_file(directory / cut.file, os.O_RDWR)
    try:
        os.ftruncate(descriptor, cut.start)
        failpoint("spool.cut")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
