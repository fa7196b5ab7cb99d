"""Writing records: WriteData, once and again, nothing and much, and what is no record."""

from __future__ import annotations

import asyncio

from dsync.conformance.check import check
from dsync.conformance.needs import READ_BACK, SCRATCH
from dsync.conformance.outcomes import FailedError, expect, status_of
from dsync.conformance.reading import RECORD_TYPES
from dsync.conformance.subject import Subject
from dsync.protocol.errors import DsyncError, RetryableError
from dsync.protocol.types import PageType

_WRITE = "adiom.v1 WriteData"
_A_PAGE = 100


@check("write.arrives", SCRATCH, READ_BACK, stands_on=f"{_WRITE}: succeeds only once durable")
async def keeps_what_it_takes(subject: Subject) -> None:
    """A page of records is written, and each is there once, with its fields.

    The coordinator's checkpoint says that they have arrived: nobody will ever send them again.
    """
    items = subject.scratch.items(_A_PAGE)
    await subject.scratch.write(items)
    await subject.scratch.expect_held(items, after="WriteData")


@check("write.twice", SCRATCH, READ_BACK, stands_on=f"{_WRITE}: applying one twice changes nothing")
async def writes_twice_as_once(subject: Subject) -> None:
    """The same page is written twice, and each record is there once.

    An answer that was lost is a page that is sent again. That happens in every longer flow.
    """
    items = subject.scratch.items(10)
    for _ in range(2):
        await subject.scratch.write(items)
    await subject.scratch.expect_held(items, after="writing the same page twice")


@check("write.replaces", SCRATCH, READ_BACK, stands_on=f"{_WRITE}: records are written by id")
async def replaces_by_id(subject: Subject) -> None:
    """A record is written with the id of one that is there, and takes its place.

    Pages are read again under a later moment when a snapshot was lost: the older state must not stay.
    """
    items = subject.scratch.items(2)
    await subject.scratch.write(items)
    newer = subject.scratch.changed(items[0], text="newer")
    await subject.scratch.write([newer])
    await subject.scratch.expect_held([newer, items[1]], after="writing a record again")


@check("write.duplicates", SCRATCH, READ_BACK, stands_on=f"{_WRITE}: records are written by id")
async def bears_duplicates(subject: Subject) -> None:
    """A page has the same record twice, and it is there once.

    Sources that read while others write give a record that has moved twice; it must not stop the flow.
    """
    (first, second) = subject.scratch.items(2)
    await subject.scratch.write([first, second, first])
    await subject.scratch.expect_held([first, second], after="writing a page that has one record twice")


@check("write.empty", SCRATCH, stands_on=f"{_WRITE}: repeated bytes data")
async def bears_empty_pages(subject: Subject) -> None:
    """A page without records is written, and that is success.

    An empty partition is an empty page, and coordinators send it.
    """
    await subject.scratch.write([])


@check("write.large", SCRATCH, READ_BACK, stands_on="gRPC's messages: 4 MiB are taken by every library")
async def takes_large_records(subject: Subject) -> None:
    """A record of 3 MiB is written, and is there as it was.

    A record that is cut is wrong; one that is refused has to say so as a record, and stops nothing else.
    """
    large = subject.scratch.item(subject.scratch.number(), text="x" * subject.options.large_bytes)
    await subject.scratch.write([large])
    await subject.scratch.expect_held([large], after="writing a large record")


@check("write.parallel", SCRATCH, READ_BACK, stands_on=f"{_WRITE}: partitions are written side by side")
async def writes_side_by_side(subject: Subject) -> None:
    """Four pages are written at once, and all of their records are there.

    Partitions are copied in parallel: a sink whose calls share their state mixes pages up or drops some.
    """
    parts = [subject.scratch.items(10) for _ in range(4)]
    await asyncio.gather(*(subject.scratch.write(part) for part in parts))
    await subject.scratch.expect_held([item for part in parts for item in part], after="writing four pages at once")


@check("write.garbage", SCRATCH, stands_on="adiom.v1: other codes than the four are not worth a retry")
async def refuses_garbage(subject: Subject) -> str | None:
    """A record that is cut off is refused for good.

    An answer of success would be a record lost without a word; a status that asks for a retry repeats it for ever.
    """
    (item,) = subject.scratch.items(1)
    return await _refused(subject, item.record[:-3], subject.scratch.type, "a record that is cut off")


@check("write.unknown-type", SCRATCH, stands_on="adiom.v1 Capabilities.Sink: supported_data_types")
async def refuses_unknown_types(subject: Subject) -> str | None:
    """Records of no type, and of one that is not declared, are refused for good.

    Bytes of a type that is not known can only be written wrongly, or dropped.
    """
    assert subject.info.sink is not None, "a sink"
    (item,) = subject.scratch.items(1)
    undeclared = [kind for kind in RECORD_TYPES if kind not in subject.info.sink.data_types]
    said = [
        await _refused(subject, item.record, kind, f"records of type {kind.name}")
        for kind in (PageType.UNKNOWN, *undeclared)
    ]
    return said[0]


async def _refused(subject: Subject, record: bytes, kind: PageType, what: str) -> str:
    try:
        await subject.scratch.write_records([record], type=kind)
    except DsyncError as error:
        expect(
            not isinstance(error, RetryableError),
            expected=f"{what}: a status that is not worth a retry, as INVALID_ARGUMENT",
            seen=status_of(error),
        )
        return f"refused with {status_of(error)}"
    raise FailedError(expected=f"{what}: a refusal, as INVALID_ARGUMENT", seen="success")
