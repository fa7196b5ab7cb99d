"""Getting one page into the sink: whole if it takes it, else halved until only the bad rows are left."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from dsync.coordinator.cursor import UnitCursor
from dsync.coordinator.ends import End
from dsync.coordinator.events import DeadLetterAdded, EventHandler
from dsync.coordinator.retries import Retries
from dsync.coordinator.tolerance import Tolerance
from dsync.failpoints import failpoint
from dsync.protocol.errors import NamespaceChangedError, PluginBugError, RecordError
from dsync.protocol.page_store import PageStore
from dsync.protocol.pages import body_of, empty_page, split_page
from dsync.protocol.types import Page, WriteContext, WriteRequest
from dsync.state import DeadLetterRow, NamespaceRow


@dataclass(slots=True, kw_only=True)
class UnitProgress:
    """Where a unit stands; advanced by `PageWriter` after each durable write."""

    unit: str
    fence: int
    cursor: UnitCursor
    seq: int = 0
    rows: int = 0
    size_bytes: int = 0
    done: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PageWriter:
    """Writes the pages of one unit, in order."""

    flow: str
    run: str
    namespace: NamespaceRow
    sink: End
    pages: PageStore | None
    retries: Retries
    emit: EventHandler
    add_dead_letter: Callable[[DeadLetterRow], Awaitable[Mapping[str, int]]]
    """Makes it durable; returns how many each namespace of the run has by now."""
    checkpoint: Callable[[UnitProgress], Awaitable[None]]
    tolerance: Tolerance

    async def write(self, progress: UnitProgress, page: Page) -> None:
        """Make the page durable and move `progress` past it, which the caller has recorded then (`record`).

        Repeating it after a crash writes nothing twice.

        Raises:
            NamespaceChangedError: more rows were refused than the namespace, or the flow, may have.
            PluginBugError: the sink wrote another number of rows than it was given.
        """
        start = progress.cursor
        after = UnitCursor(source=page.next_cursor)
        if start.skip_rows:
            # An earlier life of this run had begun to halve this page.
            await self._halve(progress, self._rest(page, start.skip_rows), start, after)
            return
        try:
            await self._send(progress, page, after, done=not page.next_cursor)
        except RecordError as error:
            await self._halve(progress, self._in_memory(page), start, after, refused=error)

    async def record(self, progress: UnitProgress) -> None:
        """Make the unit's place as it is now durable. Calls for one unit keep their order."""
        await self.checkpoint(progress)

    def _rest(self, page: Page, skip_rows: int) -> Page:
        if skip_rows >= page.rows:
            return empty_page(page.type)
        return split_page(self._in_memory(page), skip_rows)[1]

    def _in_memory(self, page: Page) -> Page:
        if page.ref is None:
            return page
        if self.pages is None:
            raise PluginBugError(f"{self.namespace.namespace}: a page came by reference though none was agreed upon")
        return self.pages.loaded(page)

    async def _halve(
        self,
        progress: UnitProgress,
        page: Page,
        start: UnitCursor,
        after: UnitCursor,
        refused: RecordError | None = None,
    ) -> None:
        """Land the good rows of a page; the cursor counts the rows dealt with until the page is through."""
        # A stack instead of recursion, the first rows on top, so that rows are dealt with in their order.
        stack = [(start.skip_rows, page, refused)]
        while stack:
            first, part, error = stack.pop()
            if error is None and part.rows:
                error = await self._try_part(
                    progress, part, UnitCursor(source=start.source, skip_rows=first + part.rows)
                )
            if error is None:
                continue
            if part.rows == 1:
                await self._bury(progress.unit, part, start.source, first, error)
                continue
            middle = part.rows // 2
            left, right = split_page(part, middle)
            stack += [(first + middle, right, None), (first, left, None)]
        await self._send(progress, empty_page(page.type), after, done=not after.source)

    async def _try_part(self, progress: UnitProgress, part: Page, cursor: UnitCursor) -> RecordError | None:
        try:
            await self._send(progress, part, cursor, done=False)
        except RecordError as error:
            return error
        await self.record(progress)
        return None

    async def _bury(self, unit: str, record: Page, cursor: bytes, row: int, error: RecordError) -> None:
        name = self.namespace.namespace
        letters = await self.add_dead_letter(
            DeadLetterRow(
                unit=unit,
                namespace=name,
                cursor_digest=hashlib.blake2b(cursor, digest_size=16).digest(),
                row_index=row,
                reason=str(error),
                error_class=type(error).__name__,
                payload=bytes(body_of(record)),
                page_type=record.type,
            )
        )
        self.emit(DeadLetterAdded(namespace=name, reason=str(error)))
        if exceeded := self.tolerance.exceeded(name, letters):
            raise NamespaceChangedError(
                f"{name}: {exceeded}, the last one because: {error}; `dsync dead-letters list {self.flow}` lists them, "
                "and --dead-letters says how many may be"
            )

    async def _send(self, progress: UnitProgress, page: Page, cursor: UnitCursor, *, done: bool) -> None:
        request = WriteRequest(
            namespace=self.namespace.target,
            page=page,
            columns=self.namespace.columns,
            context=WriteContext(
                flow=self.flow,
                run=self.run,
                unit=progress.unit,
                fence=progress.fence,
                cursor=cursor.encode(),
                seq=progress.seq + 1,
                done=done,
            ),
            upsert=self.namespace.upsert,
        )
        written = await self.retries.call(
            "write a page",
            lambda: self.sink.write(request),
            namespace=self.namespace.namespace,
            before_repeat=self.sink.reopen_session,
        )
        failpoint("coordinator.after_write")
        if written != page.rows:
            raise PluginBugError(
                f"{self.namespace.namespace}: the sink says it wrote {written} rows of a page of {page.rows}; "
                "nothing after this page is acknowledged"
            )
        progress.cursor = cursor
        progress.seq += 1
        progress.rows += page.rows
        progress.size_bytes += page.size_bytes if page.rows else 0
        progress.done = done
