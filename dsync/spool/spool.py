"""A spool: frames from a source, kept on disk in their order until every sink has them.

One writer appends and syncs, readers follow at their own pace, all in one event loop. The disk's work is done in
threads of the spool's own: while an fsync runs, what arrives is collected for the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from dsync.spool import files
from dsync.spool.committer import Committer
from dsync.spool.errors import FrameOrderError, FrameTooLargeError, SpoolFullError
from dsync.spool.files import Hold
from dsync.spool.following import follow
from dsync.spool.layout import (
    BLOCK_BYTES,
    MAX_ORDER_BYTES,
    MAX_PAYLOAD_BYTES,
    RECORD_HEAD_BYTES,
    Buffer,
)
from dsync.spool.log import Log
from dsync.spool.manifest_file import mark_removed
from dsync.spool.records import Frame
from dsync.spool.recovery import Cut
from dsync.spool.shared import Shared
from dsync.spool.tail import memory_bytes_of

SEGMENT_BYTES = 64 * 1024 * 1024
CACHE_BYTES = 8 * 1024 * 1024
_SMALLEST_SEGMENT_BYTES = 4096
# Nobody says when a full disk has space again.
_ASK_DISK_EVERY_S = 0.5


class Spool:
    """An append-only log of frames in a directory of its own. Made by `open`; to be closed, or used in `async with`."""

    def __init__(
        self, directory: Path, hold: Hold, log: Log, *, limit_bytes: int, segment_bytes: int, cache_bytes: int
    ) -> None:
        self.directory = directory
        self.limit_bytes = limit_bytes
        self.cut: Cut | None = log.cut
        """What opening it has cut off its end: say so, and read on at the source from `last_order`."""
        self._hold = hold
        self._segment_bytes = segment_bytes
        self._buffer_bytes = cache_bytes
        self._shared = Shared(directory, log.standing(), cache_bytes)
        self._committer = Committer(self._shared, log)
        self._read_thread = ThreadPoolExecutor(1, thread_name_prefix="spool-read")
        self._waiting_for_room = 0

    @classmethod
    async def open(
        cls,
        directory: Path,
        *,
        flow: str,
        limit_bytes: int,
        segment_bytes: int = SEGMENT_BYTES,
        cache_bytes: int = CACHE_BYTES,
        confirmed: bytes = b"",
    ) -> Spool:
        """The spool in a directory that is its alone; a new one where there is none.

        What a crash has left of the last writes is cut off (`cut`), the rest is durable. `confirmed` is what the
        caller knows a `sync` to have returned: a spool that ends before it is refused, and none of it is changed.

        Raises:
            SpoolHeldError: another process has it open.
            CorruptSpoolError, MissingSegmentError, SpoolLostError: something that had been durable is not there.
            OtherFlowsSpoolError, NotASpoolError, SpoolFromTheFutureError, SpoolPermissionError.
            SpoolFullError, SpoolUnavailableError, SpoolBrokenError: the disk does not allow it.
        """
        segment_bytes = max(min(segment_bytes, limit_bytes // 4), _SMALLEST_SEGMENT_BYTES)

        def blocking() -> Spool:
            hold, log = _open(directory, flow=flow, segment_bytes=segment_bytes, confirmed=confirmed)
            return cls(
                directory, hold, log, limit_bytes=limit_bytes, segment_bytes=segment_bytes, cache_bytes=cache_bytes
            )

        opening = asyncio.ensure_future(asyncio.to_thread(blocking))
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            # The thread goes on: what it opens must not stay open.
            opening.add_done_callback(_let_go)
            raise

    async def __aenter__(self) -> Spool:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def size_bytes(self) -> int:
        """On disk, what waits to be written included."""
        return self._shared.standing.size_bytes + self._shared.tail.pending_bytes

    @property
    def memory_bytes(self) -> int:
        """What frames take in memory, about: at most `cache_bytes`, or one frame where that is larger."""
        return self._shared.tail.kept_bytes

    @property
    def frames(self) -> int:
        """How many it holds."""
        return self._shared.tail.end - self._shared.standing.base_frames

    @property
    def first_order(self) -> bytes:
        """The order of the oldest frame it holds; empty where it holds none."""
        standing = self._shared.standing
        if standing.segments and standing.segments[0].first_order:
            return standing.segments[0].first_order
        entry = self._shared.tail.get(standing.base_frames)
        return entry.frame.order if entry is not None else b""

    @property
    def last_order(self) -> bytes:
        """The order of the newest frame ever appended; empty where there was none."""
        return self._shared.tail.last_order

    @property
    def durable_order(self) -> bytes:
        """Everything up to this order survives whatever becomes of the process or the machine."""
        return self._shared.standing.durable_order

    @property
    def trimmed_order(self) -> bytes:
        """The order of the newest frame that was trimmed; empty where none was."""
        return self._shared.standing.base_order

    async def append(self, order: bytes, pieces: Sequence[Buffer]) -> None:
        """Take a frame. It is durable only after a `sync`; readers have it at once.

        The pieces are kept and written as they are: whoever gave them must not change them any more. Waits while
        frames that are not written yet fill the memory there is for them. To be called by one task.

        Raises:
            SpoolFullError: nothing of it was taken. Wait for `room`, then append it again.
            FrameOrderError: the order does not come after the last one.
            FrameTooLargeError: it can never be taken.
            SpoolBrokenError: nothing can be written any more.
        """
        frame = _frame_of(order, pieces)
        record_bytes = RECORD_HEAD_BYTES + len(order) + frame.size_bytes
        self._shared.require_usable()
        self._require_possible(record_bytes)
        self._require_next(order)
        if not self._fits(record_bytes):
            raise SpoolFullError(
                f"the spool {self.directory} holds {self.size_bytes} bytes and may hold {self.limit_bytes}: the source "
                "waits until the sinks have taken some; raise the limit, or see what keeps the sinks"
            )
        tail = self._shared.tail
        while self._committer.full is not None or (
            tail.has_pending and tail.waiting_bytes + memory_bytes_of(frame) > self._buffer_bytes
        ):
            await self._committer.write()
        self._require_next(order)
        tail.add(frame)
        self._shared.grown.notify()
        self._committer.write_soon()

    async def room(self, payload_bytes: int) -> None:
        """Wait until a frame with a payload of this size would be taken.

        Raises:
            FrameTooLargeError: that will never be.
            SpoolBrokenError: nothing can be written any more.
        """
        record_bytes = RECORD_HEAD_BYTES + MAX_ORDER_BYTES + payload_bytes
        self._require_possible(record_bytes)
        self._waiting_for_room += 1
        self._committer.is_room_wanted = True
        try:
            # Something may be trimmed already, and kept because it was not worth a segment.
            await self._committer.trim(b"")
            while not await self._has_room(record_bytes):
                pass
        finally:
            self._waiting_for_room -= 1
            self._committer.is_room_wanted = self._waiting_for_room > 0

    async def _has_room(self, record_bytes: int) -> bool:
        """Whether there is room; where there is none, only after something has changed."""
        self._shared.require_usable()
        if self._committer.full is None and self._fits(record_bytes):
            return True
        if self._shared.tail.has_pending:
            # Once written, frames take what they take and not what they could.
            await self._write_if_possible()
        else:
            await self._freed(None)
        return False

    async def _write_if_possible(self) -> None:
        """Write what waits; on a full disk, wait until that is worth another try."""
        try:
            await self._committer.write()
        except SpoolFullError:
            await self._freed(_ASK_DISK_EVERY_S)

    async def _freed(self, timeout_s: float | None) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await self._shared.freed.wait()
        except TimeoutError:
            return

    async def sync(self) -> bytes:
        """Make durable everything appended so far; returns the order up to which that is now.

        Those who ask at the same time share one fsync.

        Raises:
            SpoolFullError: the disk is full; nothing is lost, ask again when it is not.
            SpoolBrokenError: the disk failed. That is final: an fsync is never repeated, since the kernel may forget
                what it could not write.
        """
        self._shared.require_usable()
        if self._shared.standing.durable_frames < self._shared.tail.end:
            await self._committer.sync()
        return self.durable_order

    async def trim(self, upto: bytes) -> None:
        """Give up frames with orders up to this one, by whole segments. Repeatable; a lower order changes nothing.

        Raises:
            SpoolBrokenError: the disk failed.
        """
        self._shared.require_usable()
        await self._committer.trim(upto)

    def read(self, after: bytes = b"", *, durable_only: bool = False) -> AsyncGenerator[Frame, None]:
        """The frames with higher orders, in order, then every new one as it comes; it has no end.

        What is still in memory is not read from the disk again. With `durable_only` a frame is given once it is
        durable. A reader holds no file, and no more memory than one frame or 256 KiB.

        Raises:
            SpoolTrimmedError: frames that come after `after`, or after the last one given, were trimmed.
            CorruptSpoolError, MissingSegmentError: the disk does not hold what was written.
            SpoolBrokenError, SpoolClosedError: no frame will come any more.
        """
        return follow(
            self._shared,
            after,
            durable_only=durable_only,
            thread=self._read_thread,
            settled=self._committer.settled,
        )

    async def close(self) -> None:
        """Let the directory go. What no `sync` has confirmed may be lost. Repeatable."""
        await self._end(self._hold.release)

    async def remove(self) -> None:
        """Close it and remove the directory with everything in it. Repeatable."""

        def remove_held() -> None:
            try:
                _remove(self.directory)
            finally:
                self._hold.release()

        await self._end(remove_held)

    async def _end(self, last: Callable[[], None]) -> None:
        if self._shared.is_closed:
            return
        self._shared.is_closed = True
        self._committer.close()
        self._read_thread.shutdown(wait=False)
        self._shared.notify()

        async def when_settled() -> None:
            await self._committer.settled()
            await asyncio.to_thread(last)

        # However often its caller is cancelled: the next one to open the directory needs it.
        await asyncio.shield(asyncio.ensure_future(when_settled()))

    def _fits(self, record_bytes: int) -> bool:
        waiting_bytes = self._shared.tail.pending_bytes + record_bytes
        return self._shared.standing.size_bytes + self._with_headers(waiting_bytes) <= self.limit_bytes

    def _with_headers(self, records_bytes: int) -> int:
        """What so many bytes of records can take at most, with a mark: two segments in a row hold more than one may."""
        return records_bytes + BLOCK_BYTES * (3 + 2 * records_bytes // self._segment_bytes)

    def _require_possible(self, record_bytes: int) -> None:
        if self._with_headers(record_bytes) > self.limit_bytes:
            raise FrameTooLargeError(
                f"a frame of {record_bytes} bytes does not go into the spool {self.directory}, which may hold "
                f"{self.limit_bytes} in all: raise its limit"
            )

    def _require_next(self, order: bytes) -> None:
        if order <= self.last_order:
            raise FrameOrderError(
                f"appending to the spool {self.directory}: order {order.hex()} does not come after "
                f"{self.last_order.hex()}; a bug of the source, or of what makes orders of its positions"
            )


async def remove_spools(directory: Path, *, but: str = "") -> None:
    """Remove all spools in a directory, but for the one of this name, and the directory where it is empty then.

    Raises:
        SpoolHeldError, NotASpoolError: as `remove_spool`.
    """

    def found() -> list[Path]:
        return [path for path in directory.iterdir() if path.name != but] if directory.is_dir() else []

    for spool in await asyncio.to_thread(found):
        await remove_spool(spool)
    if not but:
        with contextlib.suppress(FileNotFoundError):
            await asyncio.to_thread(directory.rmdir)


async def remove_spool(directory: Path) -> None:
    """Remove a spool that need not be whole, nor be ours to read; nothing where there is none.

    Raises:
        SpoolHeldError: a process has it open.
        NotASpoolError: the directory holds something else.
    """

    def blocking() -> None:
        if not directory.exists():
            return
        files.make_directory(directory)
        hold = Hold(directory)
        try:
            _remove(directory)
        finally:
            hold.release()

    await asyncio.to_thread(blocking)


def _open(directory: Path, *, flow: str, segment_bytes: int, confirmed: bytes) -> tuple[Hold, Log]:
    files.make_directory(directory)
    hold = Hold(directory)
    try:
        with files.translated(f"opening the spool {directory}"):
            log = Log.open(directory, flow=flow, segment_bytes=segment_bytes, confirmed=confirmed)
    except BaseException:
        hold.release()
        raise
    return hold, log


def _let_go(opening: asyncio.Future[Spool]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        spool = opening.result()
        spool._committer.close()
        spool._hold.release()


def _remove(directory: Path) -> None:
    with files.translated(f"removing the spool {directory}"):
        mark_removed(directory)
        files.remove_directory(directory)


def _frame_of(order: bytes, pieces: Sequence[Buffer]) -> Frame:
    if not 0 < len(order) <= MAX_ORDER_BYTES:
        raise FrameOrderError(
            f"appending to a spool: an order has 1 to {MAX_ORDER_BYTES} bytes, not {len(order)}; a bug of the source, "
            "or of what makes orders of its positions"
        )
    flat = tuple(piece if isinstance(piece, bytes) else memoryview(piece).cast("B") for piece in pieces)
    size_bytes = sum(map(len, flat))
    if size_bytes > MAX_PAYLOAD_BYTES:
        raise FrameTooLargeError(
            f"appending to a spool: a frame of {size_bytes} bytes, at most {MAX_PAYLOAD_BYTES} are allowed; let the "
            "source send smaller batches"
        )
    return Frame(bytes(order), flat, size_bytes)
