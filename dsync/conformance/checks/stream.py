"""Changes and positions: StreamUpdates from planned and from later cursors, StreamLSN."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise

from dsync.conformance.changes import A_ROUND, SeenUpdate, content_of, fill
from dsync.conformance.check import check
from dsync.conformance.needs import LSN, MAKES_CHANGES, NO_LSN, SCRATCH, SOURCE, STREAM
from dsync.conformance.outcomes import FailedError, SkippedError, expect, final_status
from dsync.conformance.records import Id, id_of, number_key
from dsync.conformance.subject import Subject
from dsync.protocol.errors import DsyncError
from dsync.protocol.types import LsnPosition, PageType, StreamRequest, UpdateType

_STREAM = "adiom.v1 StreamUpdates"
_FOREIGN_CURSOR = b"\xff\x00dsync-conformance: a cursor of nobody\x00\xff"


@check("stream.from-plan", SOURCE, STREAM, MAKES_CHANGES, stands_on="adiom.v1 GeneratePlan: a position before any read")
async def begins_at_the_plan(subject: Subject) -> None:
    """Changes are made after the plan and before the stream is opened, and come all the same.

    Pages are read in between, for hours: a stream that begins when it is opened has a gap of that length.
    """
    partitions = await subject.changes.plan()
    await subject.changes.make(A_ROUND)
    found = await subject.changes.collect_all(partitions, A_ROUND)
    count = sum(len(history.updates) for _, history in found)
    expect(
        count >= A_ROUND,
        expected=f"the {A_ROUND} changes made since the plan",
        seen=f"{count} within {subject.options.wait_s:g} s",
    )


@check("stream.form", SOURCE, STREAM, stands_on="adiom.v1 Update: id, type, data")
async def gives_whole_changes(subject: Subject) -> None:
    """Every change has a kind and an id with its BSON type; an insert or an update carries the record of that id.

    Sinks write by the id and the kind. A record under another id is written beside the one that was meant.
    """
    _, history = await subject.changes.history()
    for batch in history.batches:
        for update in batch.updates:
            ids = [Id(value.type, value.data) for value in update.id]
            shown = f"a change of {', '.join(map(str, ids)) or 'no id'}"
            expect(update.type is not UpdateType.UNKNOWN, expected=f"{shown}: a kind", seen="UNKNOWN")
            expect(bool(ids) and all(id.type for id in ids), expected="ids with their BSON types", seen=shown)
            if update.type in (UpdateType.INSERT, UpdateType.UPDATE):
                inside = id_of(update.data, subject.read_type)
                expect(inside is not None, expected=f"{shown}: a whole record", seen="something else, or no id in it")
                if len(ids) == 1 and subject.read_type is PageType.BSON and inside is not None:
                    expect(
                        number_key(inside) == number_key(ids[0]),
                        expected=f"{shown}: a record with this id",
                        seen=f"one with {inside}",
                    )


@check("stream.namespace", SOURCE, STREAM, stands_on=f"{_STREAM}: namespaces, namespace")
async def keeps_to_its_namespaces(subject: Subject) -> None:
    """Every answer with changes names a namespace that was asked for.

    Changes of another one would be written into a table that nobody follows.
    """
    partition, history = await subject.changes.history()
    for batch in history.batches:
        expect(
            not batch.updates
            or (bool(batch.namespace) and batch.namespace in (partition.namespaces or (batch.namespace,))),
            expected=f"changes of {', '.join(partition.namespaces) or 'a namespace that is named'}",
            seen=f"changes of {batch.namespace or 'no namespace'}",
        )


@check("stream.cursors", SOURCE, STREAM, stands_on=f"{_STREAM}: next_cursor")
async def moves_its_cursor(subject: Subject) -> None:
    """Answers carry cursors, and not the same one for ever.

    Only a cursor can be kept: without, a flow that is stopped begins at its plan again, if the source still can.
    """
    partition, history = await subject.changes.history()
    cursors = [batch.next_cursor for batch in history.batches if batch.updates and batch.next_cursor]
    expect(bool(cursors), expected="a next_cursor with the changes", seen="none in any answer")
    moving = set(cursors) - {partition.cursor}
    expect(bool(moving), expected="a cursor behind the planned one", seen="the planned one in every answer")
    expect(
        len(cursors) == 1 or len(moving) > 1,
        expected=f"other cursors in {len(cursors)} answers with changes",
        seen="one and the same",
    )


@check("stream.resume", SOURCE, STREAM, stands_on=f"{_STREAM}: resumes after the cursor it is given")
async def goes_on_after_its_cursors(subject: Subject) -> None:
    """The stream is opened anew at each of its cursors, and gives the changes that came after that one, in their order.

    This is how a flow goes on after a restart. A change before the cursor undoes a newer one; one that is left out is
    lost.
    """
    partition, history = await subject.changes.history()
    cuts = [number for number, batch in enumerate(history.batches) if batch.next_cursor and history.after(number)]
    if not cuts:
        raise SkippedError("all changes came in one answer: there is no cursor with changes behind it")
    for number in cuts:
        wanted = history.after(number)
        again = await subject.changes.collect(partition, history.batches[number].next_cursor, len(wanted))
        _expect_updates(again.updates, wanted, f"after the cursor of answer {number + 1}")


@check("stream.twice", SOURCE, STREAM, stands_on=f"{_STREAM}: cursor")
async def opens_twice(subject: Subject) -> None:
    """The stream is opened twice from one cursor, side by side: both give the same changes, with the same content.

    A connection that was lost without a word is still open at the source when the next one comes. One that takes
    changes away from the other loses them; one that is refused for ever stops the flow.
    """
    partition, history = await subject.changes.history()
    wanted = history.updates
    found = await asyncio.gather(*(subject.changes.collect(partition, partition.cursor, len(wanted)) for _ in range(2)))
    for number, again in enumerate(found, 1):
        _expect_updates(again.updates, wanted, f"in stream {number} of two")
    first, second = ([content_of(update) for batch in one.batches for update in batch.updates] for one in found)
    shared = min(len(first), len(second))
    expect(first[:shared] == second[:shared], expected="the same content in both", seen="it differs")


@check("stream.slow", SOURCE, STREAM, stands_on="gRPC: flow control")
async def bears_a_slow_reader(subject: Subject) -> None:
    """A reader looks away after the first answer, and then finds every change in its order.

    A slow sink slows the source: what is thrown away meanwhile, or a stream that is closed, would be a gap or no end
    of restarts.
    """
    partition, history = await subject.changes.history()
    async with subject.changes.open(partition, partition.cursor) as stream:
        slow = type(history)()
        await fill(slow, stream, batches=1)
        await asyncio.sleep(subject.options.pause_s)
        await fill(slow, stream, updates=len(history.updates))
    expect(not slow.has_ended, expected="a stream that stays open", seen="it has ended")
    _expect_updates(slow.updates, history.updates, "read slowly")


@check("stream.cancel", SOURCE, STREAM, stands_on="gRPC: a caller may cancel a call at any time")
async def bears_closed_streams(subject: Subject) -> None:
    """The stream is closed after its first answer, several times, and then opened again and read.

    Every restart of a flow does so. What a closed stream keeps (a slot, a connection, a lock) refuses the next one.
    """
    partition, history = await subject.changes.history()
    for _ in range(3):
        await subject.changes.collect(partition, partition.cursor, 1)
    again = await subject.changes.collect(partition, partition.cursor, len(history.updates))
    _expect_updates(again.updates, history.updates, "after closed streams")


@check("stream.foreign-cursor", SOURCE, STREAM, stands_on=f"{_STREAM}: cursors are understood by who issued them alone")
async def refuses_foreign_cursors(subject: Subject) -> str | None:
    """A cursor that the source has never given is refused for good.

    A stream that begins somewhere else instead, now for instance, has a gap that nothing shows.
    """
    partition, *_ = await subject.changes.plan()
    try:
        async with subject.changes.open(partition, _FOREIGN_CURSOR) as stream:
            batch = await stream.next()
    except TimeoutError as exc:
        raise FailedError(expected="a refusal, as INVALID_ARGUMENT", seen="an open stream") from exc
    except DsyncError as error:
        status = final_status(error, expected="a status that is not worth a retry, as INVALID_ARGUMENT")
        return f"refused with {status}"
    raise FailedError(
        expected="a refusal, as INVALID_ARGUMENT", seen="the end of the stream" if batch is None else "changes"
    )


@check("stream.deletes", SOURCE, STREAM, SCRATCH, stands_on="adiom.v1 Update: DELETE, and order per key")
async def gives_deletes_in_order(subject: Subject) -> None:
    """A record is inserted, changed and deleted: the stream gives its changes in this order, the delete last.

    A delete that is missing leaves a record at the sink for ever; one that comes early, too.
    """
    if subject.options.change is not None:
        raise SkippedError("changes are made by the author's driver, which makes no deletes")
    scratch = subject.scratch
    partitions = await subject.changes.plan()
    (item,) = scratch.items(1)
    await scratch.apply(scratch.put(UpdateType.INSERT, item))
    await scratch.apply(scratch.put(UpdateType.UPDATE, scratch.changed(item, text="changed")))
    await scratch.apply(scratch.delete(item))
    found = await subject.changes.collect_all(partitions, 3)
    kinds = [
        update.type
        for update in (update for _, history in found for update in history.updates)
        if [number_key(id) for id in update.ids] == [number_key(Id(scratch.key(item).type, scratch.key(item).data))]
    ]
    expect(
        bool(kinds) and kinds[-1] is UpdateType.DELETE and UpdateType.DELETE not in kinds[:-1],
        expected=f"the delete of {item.id} as its last change",
        seen=", ".join(kind.name for kind in kinds) or "no change of it",
    )


@check("lsn.none", SOURCE, NO_LSN, stands_on="adiom.v1 StreamLSN: ends at once with success without lsn_stream")
async def ends_without_positions(subject: Subject) -> None:
    """Where no positions are declared StreamLSN ends at once, with success.

    Some coordinators open it without looking at the capability, and wait for its end.
    """
    async with _positions(subject, b"") as positions:
        try:
            async with asyncio.timeout(subject.options.wait_s):
                found = await anext(positions, None)
        except TimeoutError as exc:
            raise FailedError(expected="the end of the stream", seen="nothing") from exc
    expect(found is None, expected="the end of the stream", seen="a position")


@check("lsn.grows", SOURCE, LSN, stands_on="adiom.v1 StreamLSN: lsn")
async def gives_growing_positions(subject: Subject) -> None:
    """Positions come, and never go back.

    Lag is their difference to what has been applied; a position that goes back makes it look as if nothing were left.
    """
    positions = await _first_positions(subject, b"", count=3)
    for before, after in pairwise(positions):
        expect(after.lsn >= before.lsn, expected=f"positions from {before.lsn} on", seen=str(after.lsn))


@check("lsn.resume", SOURCE, LSN, stands_on="adiom.v1 StreamLSN: cursor, next_cursor")
async def goes_on_with_positions(subject: Subject) -> None:
    """Opened anew at its cursor, StreamLSN gives a position that is not before that one.

    It is opened again whenever the stream of changes is.
    """
    (first,) = await _first_positions(subject, b"", count=1)
    (again,) = await _first_positions(subject, first.next_cursor, count=1)
    expect(again.lsn >= first.lsn, expected=f"a position from {first.lsn} on", seen=str(again.lsn))


async def _first_positions(subject: Subject, cursor: bytes, *, count: int) -> list[LsnPosition]:
    """The first few positions.

    Raises:
        FailedError: there is not even one.
    """
    found: list[LsnPosition] = []
    async with _positions(subject, cursor) as positions:
        try:
            for _ in range(count):
                await subject.changes.make(1)
                async with asyncio.timeout(subject.options.wait_s):
                    position = await anext(positions, None)
                if position is None:
                    break
                found.append(position)
        except TimeoutError:
            # An idle source may keep silent after the first one.
            pass
    expect(bool(found), expected=f"a position within {subject.options.wait_s:g} s", seen="none")
    return found


@asynccontextmanager
async def _positions(subject: Subject, cursor: bytes) -> AsyncIterator[AsyncIterator[LsnPosition]]:
    names = await subject.namespaces()
    positions = subject.connector.stream_lsn(StreamRequest(namespaces=names, type=subject.read_type, cursor=cursor))
    try:
        yield positions
    finally:
        close = getattr(positions, "aclose", None)
        if close is not None:
            await close()


def _expect_updates(found: Sequence[SeenUpdate], wanted: Sequence[SeenUpdate], how: str) -> None:
    """Raises FailedError where the first changes are not these."""
    for number, update in enumerate(wanted):
        seen = str(found[number]) if number < len(found) else "nothing more"
        expect(
            number < len(found) and found[number] == update,
            expected=f"change {number + 1} {how}: {update}",
            seen=seen,
        )
