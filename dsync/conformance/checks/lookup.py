"""Records by id: GetByIds, where it is declared and where it is not."""

from __future__ import annotations

import secrets

from dsync.conformance.check import check
from dsync.conformance.needs import LOOKUP, NO_LOOKUP, SOURCE
from dsync.conformance.outcomes import SkippedError, expect, final_status
from dsync.conformance.records import Id, bson_id, id_of
from dsync.conformance.subject import Subject
from dsync.protocol.errors import DsyncError
from dsync.protocol.types import BsonValue, PageType

_GET = "adiom.v1 GetByIds"
_ASKED = 5
_OTHER_TYPES = {8: (0x01, 0x09, 0x11, 0x12), 4: (0x10,), 12: (0x07,)}
"""BSON types whose values have as many bytes."""


@check("lookup.order", SOURCE, LOOKUP, stands_on=f"{_GET}: in the order asked")
async def finds_in_order(subject: Subject) -> None:
    """Records that were read are asked for by their ids, the last one first and one of them twice.

    Answers have no ids of their own: in another order values go to the wrong records.
    """
    name, ids = await _some(subject)
    asked = [*reversed(ids), ids[0]]
    found = await _get(subject, name, asked)
    expect(len(found) == len(asked), expected=f"{len(asked)} answers, as many as ids", seen=str(len(found)))
    for id, answer in zip(asked, found, strict=True):
        expect(answer == id, expected=f"the record {id} in its place", seen=str(answer) if answer else "nothing")


@check("lookup.absent", SOURCE, LOOKUP, stands_on=f"{_GET}: empty bytes where there is none")
async def leaves_gaps(subject: Subject) -> None:
    """An id that there is not is asked for between two that there are: its answer is empty, theirs are not.

    Without the empty place all answers behind it would be taken for other records; an error would stop a stream
    whenever a record has been deleted meanwhile.
    """
    name, ids = await _some(subject)
    nobody = bson_id(secrets.token_hex(12)) if ids[0].type == 0x02 else Id(ids[0].type, _other(ids[0].data))
    found = await _get(subject, name, [ids[0], nobody, ids[-1]])
    expect(
        found == [ids[0], None, ids[-1]],
        expected=f"three answers, the one for {nobody} empty",
        seen=f"{len(found)} answers: {', '.join('empty' if id is None else str(id) for id in found)}",
    )


@check("lookup.type", SOURCE, LOOKUP, stands_on="adiom.v1: ids are BSON values: compare type and bytes together")
async def tells_types_apart(subject: Subject) -> None:
    """The bytes of an id are asked for as another BSON type: no record has that id.

    8 bytes are a whole number, a date or a double: whoever compares bytes alone gives one record for another.
    """
    name, ids = await _some(subject)
    others = _OTHER_TYPES.get(len(ids[0].data), ())
    if ids[0].type not in others or len(others) < 2:
        raise SkippedError(f"no other BSON type has ids of as many bytes as {ids[0]}")
    for kind in others:
        if kind != ids[0].type:
            found = await _get(subject, name, [Id(kind, ids[0].data)])
            expect(found == [None], expected=f"nothing for {Id(kind, ids[0].data)}", seen=f"the record {ids[0]}")


@check("lookup.undeclared", SOURCE, NO_LOOKUP, stands_on="adiom.v1 Capabilities.Source: get_by_ids")
async def refuses_what_it_does_not_declare(subject: Subject) -> str | None:
    """GetByIds is refused for good where it is not declared.

    An answer without records says that they were deleted.
    """
    name, ids = await _some(subject)
    try:
        found = await _get(subject, name, ids)
    except DsyncError as error:
        status = final_status(error, expected="a status that is not worth a retry, as UNIMPLEMENTED")
        return f"refused with {status}"
    expect(found == ids, expected="a refusal, as UNIMPLEMENTED, or every record", seen="records are missing")
    return "it finds records by id although it does not declare it"


async def _some(subject: Subject) -> tuple[str, list[Id]]:
    """A few ids of one namespace that is read."""
    if subject.read_type is not PageType.BSON:
        raise SkippedError("ids are BSON values, and it does not read BSON")
    for partition, pages in await subject.filled():
        ids = [id for page in pages for id in page.ids if id is not None]
        if ids:
            return partition.namespace, list(dict.fromkeys([*ids[:_ASKED], ids[-1]]))
    raise SkippedError("no record has an id")


async def _get(subject: Subject, namespace: str, ids: list[Id]) -> list[Id | None]:
    asked = [(BsonValue(data=id.data, type=id.type, name="_id"),) for id in ids]
    found = await subject.connector.get_by_ids(namespace, asked, subject.read_type)
    return [id_of(record, subject.read_type) if record else None for record in found]


def _other(data: bytes) -> bytes:
    """As many bytes of which most are drawn by lot; what is a length stays."""
    return data[:-4] + secrets.token_bytes(4) if len(data) == 4 else secrets.token_bytes(len(data) - 1) + b"\x3f"
