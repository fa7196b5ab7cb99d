"""Writing changes: WriteUpdates in their order, once and again, whole and in part."""

from __future__ import annotations

from dsync.conformance.check import check
from dsync.conformance.needs import READ_BACK, SCRATCH
from dsync.conformance.outcomes import FailedError, final_status, status_of
from dsync.conformance.scratch import NUMBER, TEXT, Item
from dsync.conformance.subject import Subject
from dsync.protocol.errors import DsyncError, UnsupportedError
from dsync.protocol.types import Update, UpdateType

_UPDATES = "adiom.v1 WriteUpdates"


@check("updates.apply", SCRATCH, READ_BACK, stands_on=f"{_UPDATES}: INSERT, UPDATE, DELETE")
async def applies_changes(subject: Subject) -> None:
    """Three records are inserted, one of them is changed and one is deleted; what is there says so.

    A sink that answers with success and does less (it has been seen) loses every change after the copy.
    """
    scratch = subject.scratch
    kept, changed, gone = scratch.items(3)
    await scratch.apply(*(scratch.put(UpdateType.INSERT, item) for item in (kept, changed, gone)))
    await scratch.expect_held([kept, changed, gone], after="inserts by WriteUpdates")
    newer = scratch.changed(changed, text="newer")
    await scratch.apply(scratch.put(UpdateType.UPDATE, newer), scratch.delete(gone))
    await scratch.expect_held([kept, newer], absent=[gone], after="an update and a delete by WriteUpdates")


@check("updates.twice", SCRATCH, READ_BACK, stands_on=f"{_UPDATES}: applying one twice changes nothing")
async def applies_twice_as_once(subject: Subject) -> None:
    """An insert, an update and a delete are sent twice, and what is there is the same as after the first time.

    After every restart the last changes come again, also those that had arrived.
    """
    scratch = subject.scratch
    kept, gone = scratch.items(2)
    newer = scratch.changed(kept, text="newer")
    updates = [
        scratch.put(UpdateType.INSERT, kept),
        scratch.put(UpdateType.INSERT, gone),
        scratch.put(UpdateType.UPDATE, newer),
        scratch.delete(gone),
    ]
    for _ in range(2):
        await scratch.apply(*updates)
    await scratch.expect_held([newer], absent=[gone], after="the same changes sent twice")


@check("updates.order", SCRATCH, READ_BACK, stands_on=f"{_UPDATES}: changes of one id apply in their order")
async def keeps_their_order(subject: Subject) -> None:
    """One call changes the same records many times; the last change of each is what is there.

    Sinks sum up or sort a batch to be quick: whoever does so by anything but the id and the order ends with an older
    state.
    """
    scratch = subject.scratch
    item, gone = scratch.items(2)
    updates = [scratch.put(UpdateType.INSERT, item), scratch.put(UpdateType.INSERT, gone)]
    last = item
    for number in range(5):
        last = scratch.changed(item, text=f"change {number}", number=number)
        updates += [scratch.put(UpdateType.UPDATE, last), scratch.delete(gone), scratch.put(UpdateType.INSERT, gone)]
    await scratch.apply(*updates, scratch.delete(gone))
    await scratch.expect_held([last], absent=[gone], after="many changes of one record in a call")


@check("updates.upsert", SCRATCH, READ_BACK, stands_on=f"{_UPDATES}: changes overlap the copy")
async def meets_what_is_there(subject: Subject) -> None:
    """A record that is there is inserted, and one that is not is updated: both are there with the newer fields.

    The stream begins before the copy does, so pages and changes bring the same records in either order.
    """
    scratch = subject.scratch
    there, absent = scratch.items(2)
    await scratch.write([there])
    newer = scratch.changed(there, text="newer")
    await scratch.apply(scratch.put(UpdateType.INSERT, newer), scratch.put(UpdateType.UPDATE, absent))
    await scratch.expect_held([newer, absent], after="an insert of what is there and an update of what is not")


@check("updates.delete-absent", SCRATCH, READ_BACK, stands_on=f"{_UPDATES}: DELETE of what is not there is success")
async def deletes_what_is_not_there(subject: Subject) -> None:
    """A record that is not there is deleted, between changes of one that is: that is success, and the others apply.

    Deletes come again after a restart, and for records that the copy never saw.
    """
    scratch = subject.scratch
    item, nobody = scratch.items(2)
    newer = scratch.changed(item, text="newer")
    await scratch.apply(
        scratch.put(UpdateType.INSERT, item), scratch.delete(nobody), scratch.put(UpdateType.UPDATE, newer)
    )
    await scratch.expect_held([newer], absent=[nobody], after="a delete of a record that is not there")


@check("updates.partial", SCRATCH, READ_BACK, stands_on="adiom.v1 Update: PARTIAL_UPDATE, partial_update_unset")
async def changes_in_part(subject: Subject) -> None:
    """One field of a record is set by a partial update, then another one is unset: what is not named stays, also when
    they come twice.

    Sources send large values only when they change. A sink that writes the part as the whole loses all other fields.
    """
    scratch = subject.scratch
    (item,) = scratch.items(1)
    await scratch.write([item])
    for _ in range(2):
        await scratch.apply(scratch.part(item, {NUMBER: 77}))
    await scratch.expect_held([_with(item, {**item.fields, NUMBER: 77})], after="a partial update of one field")
    for _ in range(2):
        await scratch.apply(scratch.part(item, {NUMBER: 78}, unset=[TEXT]))
    await scratch.expect_held([_with(item, {NUMBER: 78, TEXT: None})], after="a partial update that unsets a field")


@check("updates.empty", SCRATCH, stands_on=f"{_UPDATES}: repeated Update updates")
async def bears_no_changes(subject: Subject) -> None:
    """A call without changes is success.

    Coordinators send it where a transaction held nothing for the namespace.
    """
    await subject.scratch.apply()


@check("updates.unknown-kind", SCRATCH, stands_on="adiom.v1 UpdateType: 0 is unknown")
async def refuses_unknown_kinds(subject: Subject) -> str | None:
    """A change of no kind is refused for good.

    It may be one of a later protocol. A sink that passes over it loses a change without a word.
    """
    scratch = subject.scratch
    (item,) = scratch.items(1)
    await scratch.apply()
    try:
        await scratch.apply(Update(id=(scratch.key(item),), type=UpdateType.UNKNOWN, data=item.record))
    except UnsupportedError as error:
        return f"refused with {status_of(error)}"
    except DsyncError as error:
        status = final_status(error, expected="a status that is not worth a retry, as INVALID_ARGUMENT")
        return f"refused with {status}"
    raise FailedError(expected="a refusal, as INVALID_ARGUMENT", seen="success")


def _with(item: Item, fields: dict[str, object]) -> Item:
    return Item(item.id, item.record, fields)
