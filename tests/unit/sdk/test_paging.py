"""Pages are made by bytes, and travel in a file only where that was agreed upon and pays."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsync.protocol.errors import CapacityError, PluginBugError
from dsync.protocol.page_store import PageStore
from dsync.protocol.types import Page, PageRef, PageType, SessionRequest
from dsync.sdk.paging import PageBuilder, PageExchange

LARGE = 200 * 1024


@given(st.lists(st.binary(max_size=60), max_size=50), st.integers(1, 100))
def test_pages_keep_every_record_in_order_and_their_limit(records: list[bytes], page_bytes: int) -> None:
    """A page weighs at most what it should, or is one record."""
    builder = PageBuilder(PageType.BSON, page_bytes=page_bytes, max_bytes=100)
    pages: list[Page] = []
    for record in records:
        if not builder.add(record):
            pages.append(builder.build(b"more"))
            assert builder.add(record)
    pages.append(builder.build(b""))
    assert b"".join(bytes(page.packed or b"") for page in pages) == b"".join(records)
    assert sum(page.rows for page in pages) == len(records)
    assert all(page.size_bytes <= page_bytes or page.rows == 1 for page in pages)
    assert (builder.rows, builder.size_bytes) == (0, 0)


def test_a_record_over_the_message_limit_is_named_by_its_namespace() -> None:
    """Its content is nobody's business; its size and the limit are."""
    builder = PageBuilder(PageType.BSON, page_bytes=10, max_bytes=1000)
    assert builder.add(bytes(1000))
    with pytest.raises(CapacityError, match=r"a row of shop\.orders of 1,001 bytes is over the limit of 1,000"):
        builder.add(bytes(1001), what="a row of shop.orders")


@pytest.fixture
def store(tmp_path: Path) -> PageStore:
    tmp_path.chmod(0o700)
    return PageStore(tmp_path)


@pytest.fixture
def exchange(store: PageStore) -> PageExchange:
    opened = PageExchange()
    request = SessionRequest(page_directory=str(store.directory), page_probe=store.write_probe(b"proof"))
    assert opened.open(request) == b"proof"
    return opened


def page(exchange: PageExchange, size: int, *, by_reference: bool = True) -> Page:
    parts = [bytes(size // 2), bytes(size - size // 2)]
    return exchange.page(PageType.PG_COPY_TEXT, parts, rows=2, next_cursor=b"c", by_reference=by_reference)


def test_a_large_page_goes_into_a_file(exchange: PageExchange, store: PageStore) -> None:
    """And is read from it by whoever has opened the same session."""
    made = page(exchange, LARGE)
    assert made.ref is not None
    assert (store.directory / made.ref.name).stat().st_size == LARGE
    with exchange.body(made) as body:
        assert body == bytes(LARGE)


def test_a_page_stays_in_the_message_where_a_file_does_not_pay(exchange: PageExchange) -> None:
    """Small, or not asked for by reference."""
    for made in (page(exchange, 1000), page(exchange, LARGE, by_reference=False)):
        assert made.packed is not None
        with exchange.body(made) as body:
            assert len(body) == made.size_bytes


def test_a_page_stays_in_the_message_without_a_common_directory(tmp_path: Path) -> None:
    """A coordinator on another machine names a directory that is not ours; nothing is written there."""
    exchange = PageExchange()
    assert exchange.open(SessionRequest()) == b""
    assert exchange.open(SessionRequest(page_directory=str(tmp_path), page_probe="probe-" + "0" * 32)) == b""
    assert page(exchange, LARGE).packed is not None
    assert list(tmp_path.iterdir()) == []


def test_a_full_file_system_is_no_error(exchange: PageExchange, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page travels by value; another failure is not hidden."""

    def fail(code: int) -> None:
        def write(self: PageStore, parts: object) -> PageRef:
            raise OSError(code, "no")

        monkeypatch.setattr(PageStore, "write", write)

    fail(errno.ENOSPC)
    assert page(exchange, LARGE).size_bytes == LARGE
    fail(errno.EIO)
    with pytest.raises(OSError, match="no"):
        page(exchange, LARGE)


def test_a_reference_without_a_session_is_a_bug_of_its_sender() -> None:
    """There is no directory in which to look for it."""
    made = Page(type=PageType.BSON, rows=1, ref=PageRef(name="page-" + "0" * 32, size_bytes=1))
    with pytest.raises(PluginBugError, match="no page directory"), PageExchange().body(made):
        pass
