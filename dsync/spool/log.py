"""A spool's files as its one writer has them: appended to, made durable, given up from the front. Blocking calls."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dsync.failpoints import failpoint
from dsync.spool import files
from dsync.spool.errors import SpoolBrokenError, SpoolFullError
from dsync.spool.layout import (
    BLOCK_BYTES,
    FRAME,
    MARK,
    RECORD_HEAD_BYTES,
    Buffer,
    SegmentHeader,
    encode_head,
    payload_checksum,
    seed_of,
)
from dsync.spool.manifest_file import ManifestFile, open_manifest
from dsync.spool.records import Frame, Place
from dsync.spool.recovery import Cut, Recovered, recover
from dsync.spool.segments import Segment


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What is on the disk at one moment."""

    segments: tuple[Segment, ...]
    size_bytes: int
    base_frames: int
    """Frames that were trimmed, since the spool was made."""
    base_order: bytes
    frames: int
    """All frames that were ever written, trimmed ones too."""
    last_order: bytes
    durable_frames: int
    durable_order: bytes


class Log:
    """The files of one spool, held by this process. To be used by one thread at a time."""

    def __init__(self, directory: Path, manifest: ManifestFile, found: Recovered, *, segment_bytes: int) -> None:
        self._directory = directory
        self._manifest = manifest
        self._segment_bytes = segment_bytes
        self._seed = seed_of(manifest.current.spool_id)
        self._segments = list(found.segments)
        self._end = found.end
        self._durable = found.end
        """Behind the last frame that is on the disk for certain."""
        self._descriptor = -1
        """Of the segment that is written; -1 where the next frame begins one."""
        self.cut: Cut | None = found.cut

    @classmethod
    def open(cls, directory: Path, *, flow: str, segment_bytes: int, confirmed: bytes) -> Log:
        """What is in a directory that this process holds; a new log where there is nothing.

        Raises what `recover` and `open_manifest` do.
        """
        manifest = open_manifest(directory, flow)
        try:
            found = recover(directory, manifest, confirmed)
        except BaseException:
            manifest.close()
            raise
        log = cls(directory, manifest, found, segment_bytes=segment_bytes)
        try:
            log._go_on(found)
        except BaseException:
            log.close()
            raise
        return log

    def _go_on(self, found: Recovered) -> None:
        """What was found may be in memory only: killing a process loses nothing, cutting the power then does."""
        if not self._segments:
            return
        self._descriptor = files.open_file(self._segments[-1].path, os.O_RDWR)
        with self._fatal("making durable what was found"):
            files.flush(self._descriptor)
            files.sync_directory(self._directory)
            if not found.is_marked:
                self._mark()

    def standing(self) -> Standing:
        now = self._manifest.current
        return Standing(
            segments=tuple(self._segments),
            size_bytes=sum(segment.size_bytes for segment in self._segments),
            base_frames=now.base_frames,
            base_order=now.base_order,
            frames=self._end.frames,
            last_order=self._end.order,
            durable_frames=self._durable.frames,
            durable_order=self._durable.order,
        )

    def write(self, frames: Sequence[Frame]) -> tuple[list[Place], SpoolFullError | None]:
        """Append frames; returns the places behind those that were written, and why the others were not.

        What was not written has left nothing behind.

        Raises:
            SpoolBrokenError: the disk failed.
        """
        places: list[Place] = []
        while len(places) < len(frames):
            rest = frames[len(places) :]
            with self._fatal("appending to it"):
                error = self._ready_for(rest[0])
                if error is None:
                    done, error = self._write_run(rest)
                    places += done
            if error is not None:
                return places, self._full(error)
        return places, None

    def _ready_for(self, frame: Frame) -> OSError | None:
        """Begin another segment where this frame does not go into the present one."""
        if self._descriptor >= 0:
            segment = self._segments[-1]
            if not segment.first_order or segment.size_bytes + _record_bytes(frame) <= self._segment_bytes:
                return None
            # All but the last segment are durable, so damage to them is never taken for an interrupted write.
            self._flush()
            os.close(self._descriptor)
            self._descriptor = -1
        return self._begin_segment()

    def _begin_segment(self) -> OSError | None:
        number = self._manifest.current.last + 1
        header = SegmentHeader(
            number=number,
            flow=self._manifest.current.flow,
            spool_id=self._manifest.current.spool_id,
            base_frames=self._end.frames,
            base_order=self._end.order,
            chain=self._end.chain,
            previous_bytes=self._segments[-1].size_bytes if self._segments else 0,
        )
        path = files.segment_path(self._directory, number)
        try:
            descriptor = files.open_file(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        except OSError as exc:
            if files.is_no_space(exc):
                return exc
            raise
        _, error = files.write_all(descriptor, [header.encode()], 0)
        if error is not None:
            os.close(descriptor)
            path.unlink()
            if files.is_no_space(error):
                return error
            raise error
        self._descriptor = descriptor
        failpoint("spool.segment_made")
        # Its header and its name are durable before the manifest speaks of it, that before any frame is in it.
        files.flush(descriptor)
        files.sync_directory(self._directory)
        failpoint("spool.segment_durable")
        self._manifest.replace(self._manifest.current.next(last=number))
        failpoint("spool.segment_announced")
        self._segments.append(Segment(path=path, header=header, first_order=b"", size_bytes=BLOCK_BYTES))
        self._end = self._durable = replace(self._end, segment=number, offset=BLOCK_BYTES)
        return None

    def _write_run(self, frames: Sequence[Frame]) -> tuple[list[Place], OSError | None]:
        """Append as many frames as go into the present segment, at least one."""
        buffers: list[Buffer] = []
        places: list[Place] = []
        end = self._end
        for frame in frames:
            if places and end.offset + _record_bytes(frame) > self._segment_bytes:
                break
            head, chain = encode_head(
                kind=FRAME,
                order=frame.order,
                payload_bytes=frame.size_bytes,
                durable_bytes=self._durable.offset,
                previous=end.chain,
                payload_sum=payload_checksum(frame.pieces, self._seed),
                seed=self._seed,
            )
            buffers.append(head)
            buffers.extend(frame.pieces)
            end = Place(end.segment, end.offset + _record_bytes(frame), chain, frame.order, end.frames + 1)
            places.append(end)
        failpoint("spool.before_write")
        start = self._end.offset
        written, error = files.write_all(self._descriptor, buffers, start)
        failpoint("spool.after_write")
        if error is not None:
            places = [place for place in places if place.offset <= start + written]
            os.ftruncate(self._descriptor, places[-1].offset if places else start)
            if not files.is_no_space(error):
                raise error
        if places:
            segment = self._segments[-1]
            first_order = segment.first_order or frames[0].order
            self._segments[-1] = replace(segment, first_order=first_order, size_bytes=places[-1].offset)
            self._end = places[-1]
        return places, error

    def sync(self) -> None:
        """Make durable what is written.

        Raises:
            SpoolBrokenError: that failed. What was not durable before is cut off: the kernel may have forgotten that
                it did not write it, and would confirm it to whoever asks next.
        """
        if self._durable.frames == self._end.frames:
            return
        with self._fatal("making it durable"):
            failpoint("spool.before_sync")
            self._flush()
            failpoint("spool.after_sync")
            self._mark()

    def _flush(self) -> None:
        try:
            files.flush(self._descriptor)
        except OSError:
            # Where this fails too, nothing is lost that was confirmed.
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, self._durable.offset)
            raise
        self._durable = self._end

    def _mark(self) -> None:
        """Note behind the frames that they are durable, for whoever finds damage there later. It may be missing."""
        head, chain = encode_head(
            kind=MARK,
            order=b"",
            payload_bytes=0,
            durable_bytes=self._end.offset,
            previous=self._end.chain,
            payload_sum=0,
            seed=self._seed,
        )
        start = self._end.offset
        _, error = files.write_all(self._descriptor, [head], start)
        if error is not None:
            os.ftruncate(self._descriptor, start)
            if not files.is_no_space(error):
                raise error
            return
        self._end = replace(self._end, offset=start + len(head), chain=chain)
        self._segments[-1] = replace(self._segments[-1], size_bytes=self._end.offset)

    def trim(self, upto: bytes, *, as_much_as_possible: bool) -> None:
        """Remove the segments whose frames all have orders up to this one.

        The one that is written goes with them if it has some size, or always where as much as possible is asked for.

        Raises:
            SpoolBrokenError: the disk failed.
        """
        ends = [segment.header.base_order for segment in self._segments[1:]] + [self._end.order]
        count = sum(1 for end in ends if end <= upto)
        if count and count == len(self._segments) and not as_much_as_possible:
            count -= self._segments[-1].size_bytes < self._segment_bytes // 8
        if not count:
            return
        with self._fatal("trimming it"):
            self._give_up(count)

    def _give_up(self, count: int) -> None:
        kept = self._segments[count:]
        now = self._manifest.current
        if kept:
            header = kept[0].header
            changed = now.next(
                first=header.number,
                base_frames=header.base_frames,
                base_order=header.base_order,
                chain=header.chain,
            )
        else:
            changed = now.next(
                first=now.last + 1, base_frames=self._end.frames, base_order=self._end.order, chain=self._end.chain
            )
        # First it is recorded that they do not count any more: then they may go in any order, or stay.
        failpoint("spool.before_trim")
        self._manifest.replace(changed)
        failpoint("spool.trim_recorded")
        if not kept:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1
            self._durable = self._end
        removed, self._segments = self._segments[:count], kept
        for segment in removed:
            segment.path.unlink()
            failpoint("spool.segment_removed")

    def close(self) -> None:
        """Repeatable."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        self._manifest.close()

    def _full(self, error: OSError) -> SpoolFullError:
        return SpoolFullError(
            f"appending to the spool {self._directory}: {error.strerror}; free some space on that disk, it goes on by "
            "itself then"
        )

    @contextlib.contextmanager
    def _fatal(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            raise SpoolBrokenError(
                f"the spool {self._directory} failed in {what}: {exc.strerror or exc}. Nothing more is written to it, "
                "what it has confirmed stays; see to that disk, then run the same command again"
            ) from exc


def _record_bytes(frame: Frame) -> int:
    return RECORD_HEAD_BYTES + len(frame.order) + frame.size_bytes
