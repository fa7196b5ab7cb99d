"""Copying one unit: read a page, prefetch the next, write, checkpoint, until the partition is done.

A page's checkpoint becomes durable while the next page is written: the sink need not wait for the store's disk. No more
than one is under way, so a crash leaves the checkpoint two pages behind the sink at most, and where the sink keeps a
ledger it is the ledger's word that counts.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from dsync.coordinator.budget import ByteBudget
from dsync.coordinator.deliver import PageWriter, UnitProgress
from dsync.coordinator.ends import Agreement, End
from dsync.coordinator.events import EventHandler, PageCopied, PartitionCopied
from dsync.coordinator.pace import Pace, Reader
from dsync.coordinator.retries import Retries
from dsync.coordinator.tasks import StoppedError, task_group
from dsync.failpoints import failpoint
from dsync.protocol.errors import CapacityError, PluginBugError
from dsync.protocol.page_store import PageStore
from dsync.protocol.types import Page, Partition, ReadRequest
from dsync.state import NamespaceRow


class CycleGuard:
    """Notices a source that gives the same cursors for ever (Brent's algorithm: one cursor is kept)."""

    def __init__(self, cursor: bytes) -> None:
        self._kept = cursor
        self._steps = 0
        self._limit = 1

    def step(self, cursor: bytes) -> bool:
        """False where this cursor closes a cycle."""
        if cursor == self._kept:
            return False
        self._steps += 1
        if self._steps == self._limit:
            self._kept, self._steps, self._limit = cursor, 0, self._limit * 2
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitCopier:
    """Copies partitions of one namespace; pages in flight count against the budget until they are durable."""

    namespace: NamespaceRow
    source: End
    writer: PageWriter
    agreement: Agreement
    budget: ByteBudget
    pages: PageStore | None
    retries: Retries
    pace: Pace
    emit: EventHandler
    stopping: asyncio.Event

    async def copy(self, partition: Partition, progress: UnitProgress) -> None:
        """Copy what is left of a partition. Safe to repeat from the progress that the sink's ledger gives.

        Raises:
            StoppedError: between two pages, because the run is stopping.
        """
        started_s = time.monotonic()
        guard = CycleGuard(progress.cursor.source)
        reader = self.pace.reader(row_bytes=self.namespace.size_bytes // max(1, self.namespace.estimated_rows))
        pending: asyncio.Task[Page | None] | None = None
        recording: asyncio.Task[None] | None = None
        try:
            async with task_group() as tasks:
                pending = tasks.create_task(self._read(reader, partition, progress.cursor.source))
                while pending is not None:
                    page, pending = await pending, None
                    if page is None:
                        if recording is not None:
                            await recording
                        raise StoppedError
                    try:
                        if page.next_cursor:
                            self._refuse_cycle(guard, page.next_cursor)
                            pending = tasks.create_task(self._read(reader, partition, page.next_cursor))
                        await self._write(progress, page)
                    finally:
                        self._release(page)
                    if recording is not None:
                        await recording
                    recording = tasks.create_task(self.writer.record(progress))
                    if pending is not None and self.stopping.is_set():
                        await recording
                        pending.cancel()
                        raise StoppedError
        finally:
            if pending is not None and pending.done() and not pending.cancelled() and not pending.exception():
                page = pending.result()
                if page is not None:
                    self._release(page)
        self.emit(
            PartitionCopied(
                namespace=self.namespace.namespace,
                unit=progress.unit,
                rows=progress.rows,
                size_bytes=progress.size_bytes,
                elapsed_s=time.monotonic() - started_s,
            )
        )

    async def _write(self, progress: UnitProgress, page: Page) -> None:
        failpoint("coordinator.before_write")
        rows_before = progress.rows
        await self.writer.write(progress, page)
        failpoint("coordinator.after_page")
        landed_rows = progress.rows - rows_before
        self.emit(PageCopied(namespace=self.namespace.namespace, rows=landed_rows, size_bytes=page.size_bytes))

    def _refuse_cycle(self, guard: CycleGuard, cursor: bytes) -> None:
        if not guard.step(cursor):
            raise PluginBugError(
                f"{self.namespace.namespace}: the source gave the same cursor again and would never end; "
                "this is a fault of its connector"
            )

    async def _read(self, reader: Reader, partition: Partition, cursor: bytes) -> Page | None:
        """None: the run is to stop. No error, which would end the page that is being written meanwhile."""
        try:
            await reader.ready()
        except StoppedError:
            return None
        request = self._request(partition, cursor, page_bytes=reader.page_bytes(self.agreement.page_bytes))
        expected_bytes = self.agreement.page_bytes
        await self.budget.take(expected_bytes)
        try:
            failpoint("coordinator.before_read")
            started_s = time.monotonic()
            page = await self.retries.call(
                "read a page",
                lambda: self.source.read(request),
                namespace=self.namespace.namespace,
                before_repeat=self.source.reopen_session,
            )
            reader.took(page.rows, page.size_bytes, elapsed_s=time.monotonic() - started_s)
            failpoint("coordinator.after_read")
        except BaseException:
            self.budget.give_back(expected_bytes)
            raise
        self.budget.adjust(expected_bytes, page.size_bytes)
        if page.size_bytes > self.agreement.max_page_bytes:
            self._release(page)
            raise CapacityError(
                f"{self.namespace.namespace}: the source sent a page of {page.size_bytes} bytes, over the agreed "
                f"{self.agreement.max_page_bytes}; lower --page-bytes, or this is a fault of its connector"
            )
        return page

    def _request(self, partition: Partition, cursor: bytes, *, page_bytes: int) -> ReadRequest:
        return ReadRequest(
            partition=partition,
            type=self.namespace.page_type,
            cursor=cursor,
            columns=self.namespace.columns,
            by_reference=self.agreement.by_reference,
            page_bytes=page_bytes,
        )

    def _release(self, page: Page) -> None:
        if page.ref is not None and self.pages is not None:
            self.pages.remove(page.ref)
        self.budget.give_back(page.size_bytes)
