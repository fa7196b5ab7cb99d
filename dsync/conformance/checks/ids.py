"""Ids: which BSON types a sink takes, and which of them it holds for the same."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Callable
from datetime import UTC, datetime

import bson
from bson.binary import Binary, UuidRepresentation
from bson.int64 import Int64

from dsync.conformance.check import check
from dsync.conformance.needs import READ_BACK, SCRATCH
from dsync.conformance.outcomes import SkippedError, expect, final_status
from dsync.conformance.records import Id, id_of, number_key
from dsync.conformance.scratch import NUMBER, TEXT, Item
from dsync.conformance.subject import Subject
from dsync.protocol.errors import DsyncError
from dsync.protocol.types import PageType, UpdateType

_IDS = "adiom.v1: ids are BSON values: compare type and bytes together"


class _Int32(int):
    """A whole number that is encoded in 32 bits."""


_KINDS: dict[str, Callable[[], object]] = {
    "int32": lambda: _Int32(secrets.randbits(30)),
    "int64": lambda: Int64((1 << 61) + secrets.randbits(40)),
    "string": lambda: f"conformance é 漢 {secrets.token_hex(8)}",
    "objectId": bson.ObjectId,
    "date": lambda: datetime.fromtimestamp(secrets.randbelow(10**9), UTC),
    "uuid": lambda: Binary.from_uuid(uuid.uuid4(), UuidRepresentation.STANDARD),
    "binary": lambda: Binary(secrets.token_bytes(9), 0),
    "double": lambda: secrets.randbits(40) + 0.5,
    "document": lambda: {"a": Int64(secrets.randbits(40)), "b": secrets.token_hex(4)},
}


@check("ids.kinds", SCRATCH, READ_BACK, stands_on=_IDS)
async def takes_ids_of_every_type(subject: Subject) -> str | None:
    """A record is written with an id of each usual BSON type: what is not refused is there under that id, once.

    An id that is converted on its way is another record: its changes and its delete will not find it.
    """
    _require_bson(subject)
    refused = []
    taken = []
    for name, make in _KINDS.items():
        item = subject.scratch.item(make(), text=name)
        if await _is_taken(subject, item):
            taken.append(item)
        else:
            refused.append(name)
    if not taken:
        raise SkippedError("ids of every type are refused")
    await subject.scratch.expect_held(taken, after="writing ids of several types")
    return f"refused, as records: ids of type {', '.join(refused)}" if refused else None


@check("ids.types", SCRATCH, READ_BACK, stands_on=_IDS)
async def tells_types_apart(subject: Subject) -> None:
    """Ids of equal bytes and different BSON types are different records; one is deleted, and the others stay.

    8 bytes are a whole number, a date, a timestamp or a double: whoever compares bytes alone has one record for four.
    """
    _require_bson(subject)
    scratch = subject.scratch
    number = 1_600_000_000_000 + secrets.randbelow(10**11)
    taken = [
        item
        for name, kind in (("int64", 0x12), ("date", 0x09), ("timestamp", 0x11), ("double", 0x01))
        if await _is_taken(subject, item := _typed(subject, number, kind, name))
    ]
    if len(taken) < 2:
        raise SkippedError("ids of one type alone are taken")
    await scratch.expect_held(taken, after="writing ids of equal bytes and different types")
    # A sink that takes no changes has nothing more to show.
    await scratch.apply(scratch.delete(taken[1]))
    await scratch.expect_held(
        [taken[0], *taken[2:]], absent=[taken[1]], after=f"deleting the id {taken[1].id} of the same bytes"
    )


@check("ids.numbers", SCRATCH, READ_BACK, stands_on="adiom.v1 ids; MongoDB: numbers of equal value are equal ids")
async def agrees_about_numbers(subject: Subject) -> str | None:
    """One number is written as int32, int64 and double: that is one record or one for each type, and writing changes
    agrees; to MongoDB they are one.

    Where records and changes disagree a delete misses its record. Coordinators of MongoDB take 1 and 1.0 for one id.
    """
    _require_bson(subject)
    scratch = subject.scratch
    number = secrets.randbits(30)
    kinds = [_Int32(number), Int64(number), float(number)]
    taken = []
    for value in kinds:
        item = scratch.item(value, text="a number")
        if await _is_taken(subject, item):
            taken.append(item)
    if len(taken) < 2:
        raise SkippedError("numbers of one type alone are taken as ids")
    key = number_key(taken[0].id)
    count = len((await scratch.held()).get(key, []))
    are_one = count == 1
    expect(
        count in (1, len(taken)),
        expected=f"one record, or one for each of {len(taken)} types",
        seen=f"{count} records",
    )
    if "mongo" in subject.info.db_type.lower():
        expect(are_one, expected="one record: MongoDB compares numbers by their value", seen=f"{count} records")
    await scratch.apply(scratch.put(UpdateType.UPDATE, taken[0]), scratch.delete(taken[-1]))
    left = len((await scratch.held()).get(key, []))
    expect(
        left == (0 if are_one else count - 1),
        expected=f"{0 if are_one else count - 1} of {count} records after the delete of {taken[-1].id}",
        seen=str(left),
    )
    return "numbers of equal value are one id" if are_one else "each type of number is an id of its own"


def _require_bson(subject: Subject) -> None:
    if subject.scratch.type is not PageType.BSON:
        raise SkippedError("it does not take BSON, and JSON has ids of two types only")


def _typed(subject: Subject, number: int, kind: int, text: str) -> Item:
    """A record whose id has the bytes of a whole number and another type."""
    item = subject.scratch.item(Int64(number), text=text)
    assert item.record[4:9] == b"\x12_id\x00", "the id comes first"
    record = item.record[:4] + bytes([kind]) + item.record[5:]
    id = id_of(record, PageType.BSON)
    assert id == Id(kind, item.id.data), "it has another type and the same bytes"
    subject.scratch.note(id)
    return Item(id, record, {NUMBER: 1, TEXT: text})


async def _is_taken(subject: Subject, item: Item) -> bool:
    """Write a record; False where it is refused for good, as a sink with columns may.

    Raises:
        FailedError: it is refused with a status that asks for a retry.
    """
    try:
        await subject.scratch.write([item])
    except DsyncError as error:
        final_status(error, expected=f"the id {item.id}: success, or a status that is not worth a retry")
        return False
    return True
