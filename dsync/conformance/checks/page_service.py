"""dsync.v1.PageService: packed pages, in every type that is declared and of the size that was agreed upon."""

from __future__ import annotations

from dsync.conformance.check import check
from dsync.conformance.needs import PAGE_SERVICE, READ_BACK, SCRATCH, SOURCE
from dsync.conformance.outcomes import FailedError, SkippedError, expect
from dsync.conformance.reading import RECORD_TYPES, seen
from dsync.conformance.records import Id, digest
from dsync.conformance.subject import Subject
from dsync.protocol import pages
from dsync.protocol.errors import DsyncError
from dsync.protocol.types import Page, Partition, Role, WriteRequest

_READ = "dsync.v1 PageService.ReadPage"
_WRITE = "dsync.v1 PageService.WritePage"


@check("page.records", SOURCE, PAGE_SERVICE, stands_on=f"{_READ}: as ListData")
async def gives_what_list_data_gives(subject: Subject) -> None:
    """A partition read by ReadPage has the records that it has by ListData, in the same order.

    Which of the two is used depends on the coordinator: a copy that is verified by the other way must agree.
    """
    await subject.open_session(Role.SOURCE)
    for partition, its in await subject.filled():
        listed = [id for page in its for id in page.ids]
        read, complete = await _ids(subject, partition, len(listed))
        wanted = listed if its[-1].is_last and complete else listed[: len(read)]
        expect(
            read[: len(wanted)] == wanted and (len(read) == len(wanted) or not its[-1].is_last),
            expected=f"{partition.namespace}: the {len(wanted)} records that ListData gives",
            seen=f"{len(read)} records" if len(read) != len(wanted) else "others, or another order",
        )


async def _ids(subject: Subject, partition: Partition, enough: int) -> tuple[list[Id | None], bool]:
    """The first ids of a partition, and whether those are all."""
    found: list[Id | None] = []
    cursor = b""
    while True:
        page = await subject.read_page(partition, cursor)
        found += seen(page).ids
        if not page.next_cursor or page.next_cursor == cursor:
            return found, True
        if len(found) > enough:
            return found, False
        cursor = page.next_cursor


@check("page.rows", SOURCE, PAGE_SERVICE, stands_on="dsync.v1 Page: rows")
async def counts_its_rows(subject: Subject) -> None:
    """In every type that is declared a page holds as many records as it says.

    The coordinator adds these numbers up, and compares them with what the sink has written.
    """
    await subject.open_session(Role.SOURCE)
    kinds = subject.extensions.read_types or (subject.read_type,)
    for partition in await subject.plan():
        for kind in kinds:
            page = await subject.read_page(partition, type=kind)
            held = pages.count_rows(page.type, pages.body_of(page))
            expect(
                page.type is kind and held == page.rows,
                expected=f"{partition.namespace}: a {kind.name} page of {page.rows} records, as it says",
                seen=f"a {page.type.name} page of {held}",
            )


@check("page.repeat", SOURCE, PAGE_SERVICE, stands_on=f"{_READ}: asking twice with one cursor gives the same page")
async def gives_the_same_page_again(subject: Subject) -> None:
    """Each page is asked for twice with one cursor.

    A call whose answer was lost is repeated; another page then is a gap or a repeat that nobody notices.
    """
    await subject.open_session(Role.SOURCE)
    for partition in await subject.plan():
        cursor, more = b"", subject.options.max_pages
        while more:
            first, again = [await subject.read_page(partition, cursor) for _ in range(2)]
            expect(
                (again.rows, again.next_cursor, _digest(again)) == (first.rows, first.next_cursor, _digest(first)),
                expected=f"{partition.namespace}: the same page for the same cursor",
                seen=f"{again.rows} records instead of {first.rows}"
                if again.rows != first.rows
                else "other records or another next_cursor",
            )
            cursor, more = first.next_cursor, more - 1 if first.next_cursor else 0


@check("page.bytes", SOURCE, PAGE_SERVICE, stands_on="dsync.v1 OpenSession: page_bytes")
async def keeps_the_size_agreed_upon(subject: Subject) -> None:
    """No page weighs much more than the session has asked for, unless it is a single record.

    The memory of a flow is bounded by this number and the count of pages in flight.
    """
    session = await subject.open_session(Role.SOURCE, page_bytes=64 * 1024)
    for partition in await subject.plan():
        page = await subject.read_page(partition)
        expect(
            page.size_bytes <= 2 * session.page_bytes or page.rows == 1,
            expected=f"{partition.namespace}: a page of about {session.page_bytes:,} bytes",
            seen=f"{page.rows} records of {page.size_bytes:,} bytes",
        )


@check("page.reference", SOURCE, PAGE_SERVICE, stands_on="dsync.v1 PageRef, OpenSession: page_directory, page_probe")
async def gives_pages_by_reference(subject: Subject) -> str | None:
    """Pages are asked for by reference: the file has the page that comes by value, and asking twice gives two files.

    The coordinator removes a file once its page was written: one that two answers share would be gone for the second.
    """
    store = await subject.open_shared_session(Role.SOURCE)
    files = 0
    for partition in await subject.plan():
        by_value = await subject.read_page(partition)
        referred = [await subject.read_page(partition, by_reference=True) for _ in range(2)]
        names = [page.ref.name for page in referred if page.ref is not None]
        one_each = f"{partition.namespace}: a file for each answer"
        expect(len(set(names)) == len(names), expected=one_each, seen="one for both")
        for page in referred:
            found = store.loaded(page)
            expect(
                (found.rows, found.next_cursor, _digest(found))
                == (by_value.rows, by_value.next_cursor, _digest(by_value)),
                expected=f"{partition.namespace}: the page that comes by value",
                seen="another one",
            )
            if page.ref is not None:
                files += 1
                store.remove(page.ref)
    return None if files else "every page came by value: they are small"


@check("page.write", SCRATCH, READ_BACK, PAGE_SERVICE, stands_on=f"{_WRITE}: rows")
async def writes_pages(subject: Subject) -> None:
    """A packed page is written twice: both times it says how many records that were, and each is there once.

    The coordinator compares the number with the page's own; without a ledger the id alone keeps a record from being
    doubled.
    """
    await subject.open_session(Role.SINK)
    items = subject.scratch.items(20)
    for _ in range(2):
        rows = await subject.scratch.write_page(items)
        expect(rows == len(items), expected=f"{len(items)} records written", seen=str(rows))
    await subject.scratch.expect_held(items, after="writing a packed page twice")


@check(
    "page.reference-taken",
    SCRATCH,
    READ_BACK,
    PAGE_SERVICE,
    stands_on="dsync.v1 PageRef: a file that both ends see",
)
async def takes_pages_by_reference(subject: Subject) -> None:
    """A page in a file is written twice: its records are there, and the file stays.

    A page whose answer was lost is sent again: the coordinator removes the file once it knows that it was written.
    """
    store = await subject.open_shared_session(Role.SINK)
    items = subject.scratch.items(20)
    body = pages.join_records(subject.scratch.type, [item.record for item in items])
    page = Page(type=subject.scratch.type, rows=len(items), ref=store.write(body))
    for _ in range(2):
        request = WriteRequest(namespace=subject.scratch.namespace, page=page)
        rows = await subject.connector.write_page(request)
        expect(rows == len(items), expected=f"{len(items)} records written", seen=str(rows))
    await subject.scratch.expect_held(items, after="writing a page by reference twice")


@check("page.whole", SCRATCH, READ_BACK, PAGE_SERVICE, stands_on=f"{_WRITE}: all of a page or nothing of it")
async def writes_all_or_nothing(subject: Subject) -> None:
    """A page whose last record is cut off is refused, and none of its records is there.

    The coordinator halves a refused page to find the one bad record: it has to know where it stands.
    """
    if not subject.extensions.transactional:
        raise SkippedError("it does not declare that its writes are transactional")
    await subject.open_session(Role.SINK)
    items = subject.scratch.items(3)
    body = pages.join_records(subject.scratch.type, [item.record for item in items])
    page = Page(type=subject.scratch.type, rows=len(items), packed=body[:-3])
    try:
        await subject.connector.write_page(WriteRequest(namespace=subject.scratch.namespace, page=page))
    except DsyncError:
        await subject.scratch.expect_held([], absent=items, after="a refused page")
        return
    raise FailedError(expected="a refusal of a page whose last record is cut off", seen="success")


@check("page.insert-only", SCRATCH, READ_BACK, PAGE_SERVICE, stands_on="dsync.v1 WritePage: insert_only")
async def leaves_what_is_there(subject: Subject) -> None:
    """With `insert_only` a record whose id is there is refused, and what is there stays.

    Dead letters are written again so: what has their id by now is newer than they are.
    """
    if not subject.extensions.insert_only:
        raise SkippedError("it does not declare insert_only")
    await subject.open_session(Role.SINK)
    scratch = subject.scratch
    there, fresh = scratch.items(2)
    await scratch.write_page([there])
    refused = False
    try:
        await scratch.write_page([scratch.changed(there, text="older")], insert_only=True)
    except DsyncError:
        refused = True
    expect(refused, expected="a refusal of a record that is there", seen="success")
    await scratch.write_page([fresh], insert_only=True)
    await scratch.expect_held([there, fresh], after="writing with insert_only")


def _digest(page: Page) -> bytes:
    if page.type in RECORD_TYPES:
        return digest(list(pages.records_of(page)))
    return digest([bytes(pages.body_of(page))])
