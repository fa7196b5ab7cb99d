"""Hands a spool's work to its thread, one job at a time; who asks while a job runs shares the next one.

There is no task behind it: a job is begun by whoever asks first and ended by its own callback, so a caller that is
cancelled takes nothing with it.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

from dsync.protocol.errors import DsyncError
from dsync.spool.errors import SpoolBrokenError, SpoolClosedError, SpoolFullError
from dsync.spool.log import Log, Standing
from dsync.spool.records import Frame, Place
from dsync.spool.shared import Shared

# Frames are written once they amount to this, or when somebody asks: a job for each would cost more than its write.
_WRITE_AT_BYTES = 256 * 1024


@dataclass(slots=True)
class _Waiting:
    """Who waits for what from a job."""

    writes: list[asyncio.Future[None]] = field(default_factory=list)
    syncs: list[asyncio.Future[None]] = field(default_factory=list)
    trims: list[asyncio.Future[None]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.writes or self.syncs or self.trims)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    frames: list[Frame]
    is_synced: bool
    trim_upto: bytes | None
    trims_all: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Done:
    """What a job has brought about."""

    places: list[Place]
    full: SpoolFullError | None
    standing: Standing


class Committer:
    """The writing side of one spool."""

    def __init__(self, shared: Shared, log: Log) -> None:
        self._shared = shared
        self._log = log
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="spool-write")
        self._job: asyncio.Future[_Done] | None = None
        self._next = _Waiting()
        self._trim_upto = b""
        self.full: SpoolFullError | None = None
        """Why frames that were taken are not written yet."""
        self.is_room_wanted = False
        """Trimming gives up what it would otherwise keep until it is worth a segment."""

    def write_soon(self) -> None:
        """Begin to write if it is worth it."""
        if self._shared.tail.pending_bytes >= _WRITE_AT_BYTES and self.full is None:
            self._start()

    async def write(self) -> None:
        """Write what has been taken. Raises SpoolFullError, SpoolBrokenError."""
        await self._ask(self._next.writes)

    async def sync(self) -> None:
        """Write what has been taken and make it durable. Raises SpoolFullError, SpoolBrokenError."""
        await self._ask(self._next.syncs)

    async def trim(self, upto: bytes) -> None:
        """Remove segments. Raises SpoolBrokenError."""
        self._trim_upto = max(self._trim_upto, upto)
        segments = self._shared.standing.segments
        if not segments:
            return
        first_end = segments[1].header.base_order if len(segments) > 1 else self._shared.standing.last_order
        if first_end <= self._trim_upto:
            await self._ask(self._next.trims)

    async def settled(self) -> None:
        """Until no job runs."""
        while self._job is not None:
            await asyncio.wait({self._job})

    def close(self) -> None:
        """Fail those who wait, and let the files go once no job uses them. What is not written is dropped."""
        waiting, self._next = self._next, _Waiting()
        closed = f"the spool {self._shared.directory} was closed before that was done"
        for one in (*waiting.writes, *waiting.syncs, *waiting.trims):
            _fail(one, SpoolClosedError(closed))
        if self._job is None:
            self._log.close()
        else:
            self._job.add_done_callback(lambda _: self._log.close())
        self._thread.shutdown(wait=False)

    async def _ask(self, waiting: list[asyncio.Future[None]]) -> None:
        self._shared.require_usable()
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting.append(answer)
        self._start()
        await answer

    def _start(self) -> None:
        if self._job is not None:
            return
        waiting, self._next = self._next, _Waiting()
        work = _Work(
            frames=self._shared.tail.pending(),
            is_synced=bool(waiting.syncs),
            trim_upto=self._trim_upto if waiting.trims else None,
            trims_all=self.is_room_wanted,
        )
        self._job = asyncio.get_running_loop().run_in_executor(self._thread, self._do, work)
        self._job.add_done_callback(partial(self._finished, waiting))

    def _do(self, work: _Work) -> _Done:
        """In the thread."""
        if work.trim_upto is not None:
            # First: on a full disk it makes the room that the frames need.
            self._log.trim(work.trim_upto, as_much_as_possible=work.trims_all)
        places, full = self._log.write(work.frames)
        if work.is_synced and full is None:
            self._log.sync()
        return _Done(places=places, full=full, standing=self._log.standing())

    def _finished(self, waiting: _Waiting, job: asyncio.Future[_Done]) -> None:
        self._job = None
        error = job.exception()
        if error is not None:
            self._break(waiting, error)
            return
        done = job.result()
        shared = self._shared
        shared.standing, self.full = done.standing, done.full
        shared.tail.written(done.places)
        for one in (*waiting.writes, *waiting.syncs):
            if done.full is None:
                _succeed(one)
            else:
                _fail(one, SpoolFullError(str(done.full)))
        for one in waiting.trims:
            _succeed(one)
        shared.notify()
        if shared.is_closed:
            return
        if self._next:
            self._start()
        else:
            self.write_soon()

    def _break(self, waiting: _Waiting, error: BaseException) -> None:
        """Nothing is repeated: nobody knows any more what is on the disk."""
        known = error if isinstance(error, DsyncError) else None
        reason = str(known or f"writing the spool {self._shared.directory} failed: {error!r}")
        self._shared.broken = SpoolBrokenError(reason)
        self._shared.broken.__cause__ = error
        others, self._next = self._next, _Waiting()
        for some in (waiting, others):
            for one in (*some.writes, *some.syncs, *some.trims):
                _fail(one, SpoolBrokenError(reason))
        self._shared.notify()


def _succeed(answer: asyncio.Future[None]) -> None:
    if not answer.done():
        answer.set_result(None)


def _fail(answer: asyncio.Future[None], error: Exception) -> None:
    if not answer.done():
        answer.set_exception(error)
