"""Pages: read once, again, from every cursor, side by side, and with requests that are wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from dsync.conformance.check import check
from dsync.conformance.needs import SOURCE
from dsync.conformance.outcomes import FailedError, expect, final_status
from dsync.conformance.reading import RECORD_TYPES, SeenPage
from dsync.conformance.records import Id
from dsync.conformance.subject import Subject
from dsync.protocol.channel import MAX_MESSAGE_BYTES
from dsync.protocol.errors import DsyncError
from dsync.protocol.types import PageType, Partition, ReadRequest

_LIST = "adiom.v1 ListData"
_FOREIGN_CURSOR = b"\xff\x00dsync-conformance: a cursor of nobody\x00\xff"
_AT_ONCE = 4


@check("pages.end", SOURCE, stands_on=f"{_LIST}: the last rows come with an empty next_cursor")
async def ends_with_the_last_rows(subject: Subject) -> None:
    """Partitions are read page by page until one comes with an empty cursor; no page but that of an empty partition
    is empty.

    The empty cursor is how a coordinator knows that a partition is done. A cursor that comes again has no end; an
    empty page in between is a round trip for nothing, and coordinators may take it for the end.
    """
    for partition in await subject.plan():
        pages = await subject.read_all(partition)
        empty = [number for number, page in enumerate(pages, 1) if not page.rows]
        expect(
            not empty or len(pages) == 1,
            expected=f"{partition.namespace}: an empty page only where the partition is empty",
            seen=f"page {empty[0] if empty else 0} of {len(pages)} is empty",
        )


@check("pages.repeat", SOURCE, stands_on=f"{_LIST}: asking twice with one cursor returns the same page")
async def gives_the_same_page_again(subject: Subject) -> None:
    """Each page is asked for twice with the same cursor, before the next one is.

    A call whose answer was lost is repeated. Where the second answer differs, records are missing or doubled, and
    nothing shows it.
    """
    for partition in await subject.plan():
        cursor, more = b"", subject.options.max_pages
        while more:
            first, again = await subject.read(partition, cursor), await subject.read(partition, cursor)
            _expect_same([again], [first], partition, "asked for with the same cursor again")
            cursor, more = first.next_cursor, more - 1 if first.next_cursor else 0


@check("pages.resume", SOURCE, stands_on=f"{_LIST}: cursor, and the checkpoints made of it")
async def goes_on_from_every_cursor(subject: Subject) -> str | None:
    """A partition is read on from each of its cursors, and gives what followed that cursor the first time.

    A flow that was cut off goes on from the cursor of the last page that had arrived. A source that no longer
    has the place says so; one that gives other records loses some.
    """
    refused = ""
    for partition, pages in await subject.filled():
        for number, page in enumerate(pages[:-1], 1):
            wanted = pages[number : number + 2]
            try:
                rest = [await subject.read(partition, page.next_cursor)]
                rest += [await subject.read(partition, before.next_cursor) for before in wanted[:-1]]
            except DsyncError as error:
                refused = final_status(error, expected="a page, or a status that is not worth a retry")
                continue
            _expect_same(rest, wanted, partition, f"read from the cursor of page {number}")
    return f"cursors from before are refused with {refused}: what was cut off is read anew" if refused else None


@check("pages.once", SOURCE, stands_on="adiom.v1 GeneratePlan: partitions")
async def gives_every_record_once(subject: Subject) -> None:
    """No id comes twice, in one partition or in two of a namespace.

    Partitions are copied side by side and in no order: a record that is in two of them arrives in either state, and
    one that comes twice may lie where another should.
    """
    found: dict[str, set[Id]] = {}
    for partition, pages in await subject.filled():
        ids = found.setdefault(partition.namespace, set())
        for id in (id for page in pages for id in page.ids if id is not None):
            expect(id not in ids, expected=f"{partition.namespace}: every id once", seen=f"{id} again")
            ids.add(id)


@check("pages.records", SOURCE, stands_on="adiom.v1 DataType: a document with _id, an object with id")
async def gives_whole_records(subject: Subject) -> None:
    """Every record is one whole document of the type that was asked for, with its id.

    Sinks write by id and split pages by record: a record that is cut, or has no id, cannot be written or
    told from others.
    """
    name = "_id" if subject.read_type is PageType.BSON else "id"
    for partition, pages in await subject.filled():
        for number, page in enumerate(pages, 1):
            broken = sum(id is None for id in page.ids)
            expect(
                not broken,
                expected=f"{partition.namespace}: whole {subject.read_type.name} records with {name}",
                seen=f"{broken} of the {page.rows} records of page {number} are not",
            )


@check("pages.types", SOURCE, stands_on="adiom.v1 Capabilities.Source: supported_data_types")
async def reads_every_declared_type(subject: Subject) -> str | None:
    """A page is read in every type that is declared, and has the same number of records in each.

    The type is chosen by what the sink takes: one that is declared and cannot be read stops the flow.
    """
    assert subject.info.source is not None, "a source"
    declared = [kind for kind in RECORD_TYPES if kind in subject.info.source.data_types]
    for partition, _ in await subject.filled():
        rows = {}
        for kind in declared:
            pages, cursor = 0, b""
            rows[kind.name] = 0
            while not pages or (cursor and pages < subject.options.max_pages):
                page = await subject.read(partition, cursor, type=kind)
                pages, cursor = pages + 1, page.next_cursor
                rows[kind.name] += page.rows
            if cursor:
                # Pages of different types may end at different places.
                rows.pop(kind.name)
        said = ", ".join(f"{count} as {name}" for name, count in rows.items())
        expect(
            len(set(rows.values())) <= 1, expected=f"{partition.namespace}: the same records in each type", seen=said
        )
    return None if len(declared) > 1 else f"{declared[0].name} is the only type it declares"


@check("pages.size", SOURCE, stands_on="gRPC's messages: coordinators take 64 MiB at the most")
async def keeps_pages_small(subject: Subject) -> None:
    """No page weighs more than a message may.

    A coordinator that gets a larger message gives the call up, and gets the same one again.
    """
    for partition, pages in await subject.filled():
        largest = max(page.size_bytes for page in pages)
        expect(
            largest < MAX_MESSAGE_BYTES,
            expected=f"{partition.namespace}: pages below {MAX_MESSAGE_BYTES:,} bytes",
            seen=f"one of {largest:,} bytes",
        )


@check("pages.bare", SOURCE, stands_on="adiom.v1 Partition: namespace and cursor")
async def reads_bare_partitions(subject: Subject) -> None:
    """A partition that comes back with its namespace and its cursor alone gives the same records.

    Some coordinators keep no more of it: header and value are for load balancers, the count is for progress.
    """
    for partition, pages in await subject.filled():
        bare = Partition(namespace=partition.namespace, cursor=partition.cursor)
        again = await subject.read_all(bare)
        _expect_same(again, pages, partition, "read with namespace and cursor alone")


@check("pages.parallel", SOURCE, stands_on=f"{_LIST}: partitions are slices that can be read alone")
async def reads_side_by_side(subject: Subject) -> None:
    """Partitions read several at a time, the last one first, give what they give one after the other.

    Coordinators do so always. A source whose calls share their place mixes partitions up.
    """
    filled = await subject.filled()
    limit = asyncio.Semaphore(_AT_ONCE)

    async def read(partition: Partition) -> list[SeenPage]:
        async with limit:
            return await subject.read_all(partition)

    # The same one twice where there is but one: two coordinators may retry at once, too.
    chosen = [*reversed(filled), *filled][: max(2, len(filled))]
    tasks = [asyncio.ensure_future(read(partition)) for partition, _ in chosen]
    try:
        for (partition, pages), again in zip(chosen, await asyncio.gather(*tasks), strict=True):
            _expect_same(again, pages, partition, "read beside others")
    finally:
        for task in tasks:
            task.cancel()


@check("pages.cancel", SOURCE, stands_on="gRPC: a caller may cancel a call at any time")
async def bears_cancelled_calls(subject: Subject) -> None:
    """A call is given up half-way, at several moments; the same page can be read afterwards.

    Coordinators give calls up when a flow is stopped, and read again at once when it goes on: a connection or a lock
    that is not given back would hang the flow then.
    """
    partition, pages = (await subject.filled())[0]
    for waits in (0, 1, 3, 10):
        call = asyncio.ensure_future(subject.read(partition))
        for _ in range(waits):
            await asyncio.sleep(0)
        call.cancel()
        await asyncio.wait({call})
    try:
        async with asyncio.timeout(3 * subject.options.wait_s):
            again = await subject.read(partition)
    except TimeoutError as exc:
        raise FailedError(expected="an answer to the call after a cancelled one", seen="none") from exc
    _expect_same([again], pages[:1], partition, "read after cancelled calls")


@check("pages.foreign-cursor", SOURCE, stands_on=f"{_LIST}: cursors are understood by who issued them alone")
async def refuses_foreign_cursors(subject: Subject) -> str | None:
    """A cursor that the source has never given is refused for good.

    Cursors come back from a store that may be old, or another's. One that is taken for the beginning or the end of
    the partition makes a copy with gaps that says it is complete.
    """
    partition, _ = (await subject.filled())[0]
    request = ReadRequest(partition=partition, type=subject.read_type, cursor=_FOREIGN_CURSOR)
    return f"refused with {await _refusal(subject, request)}"


@check("pages.unknown-type", SOURCE, stands_on=f"{_LIST}: type, as negotiated by GetInfo")
async def refuses_unknown_types(subject: Subject) -> str | None:
    """Records of no type, and of one that is not declared, are refused for good.

    Whoever asks for them is wrong. Bytes of another type would be written as if they were what was asked for.
    """
    assert subject.info.source is not None, "a source"
    undeclared = [kind for kind in RECORD_TYPES if kind not in subject.info.source.data_types]
    partition, _ = (await subject.filled())[0]
    requests = [ReadRequest(partition=partition, type=kind) for kind in (PageType.UNKNOWN, *undeclared)]
    refusals = {await _refusal(subject, request) for request in requests}
    return f"refused with {', '.join(sorted(refusals))}"


async def _refusal(subject: Subject, request: ReadRequest) -> str:
    """The status with which a wrong request is refused.

    Raises:
        FailedError: it is not, or with one that asks for a retry.
    """
    try:
        page = await subject.connector.list_data(request)
    except DsyncError as error:
        return final_status(error, expected="a status that is not worth a retry, as INVALID_ARGUMENT")
    raise FailedError(expected="a refusal, as INVALID_ARGUMENT", seen=f"a page of {page.rows} records")


def _expect_same(found: Sequence[SeenPage], wanted: Sequence[SeenPage], partition: Partition, how: str) -> None:
    """Raises FailedError where pages differ, in records or in how they are cut."""
    for number, (page, before) in enumerate(zip(found, wanted, strict=False), 1):
        if page == before:
            continue
        seen = "the same ids with other content"
        if page.ids != before.ids:
            seen = f"{page.rows} records instead of {before.rows}" if page.rows != before.rows else "others"
            missing = [id for id in before.ids if id not in set(page.ids)]
            seen += f", {missing[0]} among them missing" if missing else ", in another order or doubled"
        elif page.digest == before.digest:
            seen = "the same records with another next_cursor"
        raise FailedError(expected=f"{partition.namespace}: page {number} {how} is as before", seen=seen)
    expect(
        len(found) == len(wanted),
        expected=f"{partition.namespace}: {len(wanted)} pages {how}, as before",
        seen=str(len(found)),
    )
