"""Making and taking pages: records collected by bytes, bodies by value or in a shared file."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from dsync.protocol.errors import CapacityError, PluginBugError
from dsync.protocol.page_store import PageStore
from dsync.protocol.pages import body_of, join_records
from dsync.protocol.types import Buffer, Page, PageType, SessionRequest

# Below this a file costs more than sending the bytes.
_SMALLEST_REFERENCE_BYTES = 128 * 1024
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})


class PageBuilder:
    """Collects single records until a page weighs what it should.

    A page ends before the record that would carry it over `page_bytes`, so it weighs at most that, or is one record.
    """

    def __init__(self, page_type: PageType, *, page_bytes: int, max_bytes: int) -> None:
        self._type = page_type
        self._page_bytes = min(page_bytes, max_bytes)
        self._max_bytes = max_bytes
        self._records: list[bytes] = []
        self.size_bytes = 0

    @property
    def rows(self) -> int:
        return len(self._records)

    def add(self, record: bytes, *, what: str = "a record") -> bool:
        """Take a record; False where the page is to be built first and the record offered again.

        Raises:
            CapacityError: the record alone is over the limit; `what` names it (a namespace, never its content).
        """
        if len(record) > self._max_bytes:
            raise CapacityError(
                f"{what} of {len(record):,} bytes is over the limit of {self._max_bytes:,} bytes for one message"
            )
        if self._records and self.size_bytes + len(record) > self._page_bytes:
            return False
        self._records.append(record)
        self.size_bytes += len(record)
        return True

    def build(self, next_cursor: bytes) -> Page:
        """The page of what was taken; the builder is empty afterwards."""
        records, self._records, self.size_bytes = self._records, [], 0
        return Page(
            type=self._type, rows=len(records), packed=join_records(self._type, records), next_cursor=next_cursor
        )


class PageExchange:
    """A plug-in's part in pages by reference: open it in `open_session`, then send and take bodies through it."""

    def __init__(self) -> None:
        self._store: PageStore | None = None

    def open(self, request: SessionRequest) -> bytes:
        """Take note of the session's page directory; returns what OpenSession answers."""
        self._store = None
        if not request.page_directory:
            return b""
        store = PageStore(Path(request.page_directory))
        content = store.read_probe(request.page_probe)
        if content:
            self._store = store
        return content

    def page(
        self,
        page_type: PageType,
        body: Buffer | Sequence[Buffer],
        *,
        rows: int,
        next_cursor: bytes,
        by_reference: bool,
    ) -> Page:
        """A page of this body, given whole or in parts; in a file where that was asked for and pays.

        A full file system is no error: the page then travels by value.
        """
        parts = [body] if isinstance(body, (bytes, bytearray, memoryview)) else body
        if by_reference and self._store is not None and sum(map(len, parts)) >= _SMALLEST_REFERENCE_BYTES:
            try:
                ref = self._store.write(parts)
            except OSError as exc:
                if exc.errno not in _NO_SPACE:
                    raise
            else:
                return Page(type=page_type, rows=rows, next_cursor=next_cursor, ref=ref)
        packed = parts[0] if len(parts) == 1 else b"".join(parts)
        return Page(type=page_type, rows=rows, next_cursor=next_cursor, packed=packed)

    @contextmanager
    def body(self, page: Page) -> Iterator[Buffer]:
        """A page's packed body, valid inside the block only.

        Raises:
            PageGoneError: the page's file has been removed.
        """
        if page.ref is None:
            yield body_of(page)
        elif self._store is None:
            raise PluginBugError("a page came by reference although no page directory was agreed upon in OpenSession")
        else:
            with self._store.open(page.ref) as view:
                yield view
