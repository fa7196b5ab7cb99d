"""dsync.v1.ChangeService at a source: changes in frames, from the plan on, over restarts, until they are let go."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from itertools import pairwise

from dsync.conformance.check import check
from dsync.conformance.frames import SeenChange
from dsync.conformance.needs import CHANGE_SERVICE, PLAN_SERVICE, SCRATCH, SOURCE
from dsync.conformance.outcomes import SkippedError, expect
from dsync.conformance.subject import Subject

_CHANGES = "dsync.v1 ChangeService"
_ALL = (SOURCE, SCRATCH, PLAN_SERVICE, CHANGE_SERVICE)


@check("changes.from-plan", *_ALL, stands_on="dsync.v1 OpenPlan: updates; StreamChanges: cursor")
async def begins_at_the_plan(subject: Subject) -> None:
    """Records are written after a plan that is to be followed: StreamChanges from its position gives a change for each.

    Pages are read in between. What is written meanwhile must not be missing.
    """
    trail = await subject.frames.trail()
    expect(
        len(trail.changes) >= len(trail.items),
        expected=f"a change for each of {len(trail.items)} records that were written",
        seen=f"{len(trail.changes)} within {subject.options.wait_s:g} s",
    )
    foreign = {change.namespace for change in trail.changes} - {subject.scratch.namespace}
    expect(not foreign, expected=f"changes of {subject.scratch.namespace}", seen=f"some of {', '.join(foreign)}")


@check("changes.form", *_ALL, stands_on="dsync.v1 ChangeFrame: sizes, body, key_hashes, relation_of")
async def gives_whole_frames(subject: Subject) -> None:
    """In every frame the sizes add up to the body, relations are there, and keys that are not equal have other hashes.

    Frames are cut and parted by these columns alone. Changes of one record go one way only where its hash is always
    the same; all records of one hash would all go the same way.
    """
    trail = await subject.frames.trail()
    for frame in trail.frames:
        total = sum(int.from_bytes(frame.sizes[at : at + 4], "little") for at in range(0, len(frame.sizes), 4))
        expect(total == len(frame.body), expected=f"sizes that add up to {len(frame.body)} bytes", seen=str(total))
        highest = max(
            (int.from_bytes(frame.relation_of[at : at + 2], "little") for at in range(0, len(frame.relation_of), 2)),
            default=-1,
        )
        expect(highest < len(frame.relations), expected="a relation for each change", seen=f"none of number {highest}")
    hashes = {change.key_hash for change in trail.changes}
    expect(
        len(hashes) >= len(trail.items),
        expected=f"{len(trail.items)} hashes of {len(trail.items)} keys",
        seen=str(len(hashes)),
    )


@check("changes.keys", *_ALL, stands_on="dsync.v1 ChangeFrame: key_hashes, equal for equal keys of a namespace")
async def hashes_keys_alike(subject: Subject) -> None:
    """A record is written again: its changes have one hash, whatever else is in them.

    The hash chooses the lane. Two hashes of one key are two lanes, in which the older change may come last.
    """
    trail = await subject.frames.trail()
    scratch = subject.scratch
    item = trail.items[-1]
    await scratch.write([scratch.changed(item, text="written again")])
    # The last record was the last change so far.
    found = await subject.frames.read(trail.frames[-1].cursor, 1)
    expect(bool(found), expected=f"a change of {item.id}", seen=f"none within {subject.options.wait_s:g} s")
    before = trail.changes[-1].key_hash
    expect(found[-1].key_hash == before, expected=f"the hash that {item.id} had before", seen="another one")


@check("changes.places", *_ALL, stands_on="dsync.v1 ChangeFrame: transaction, index")
async def places_grow(subject: Subject) -> None:
    """Each frame with changes ends at a later place than the one before.

    What has arrived is told from what has not by these places, after a restart too.
    """
    trail = await subject.frames.trail()
    for before, after in pairwise(trail.frames):
        expect(after.place > before.place, expected=f"a place behind {before.place}", seen=str(after.place))


@check("changes.resume", *_ALL, stands_on=f"{_CHANGES}.StreamChanges: cursor, durable")
async def goes_on_after_its_cursors(subject: Subject) -> None:
    """The stream is opened anew at its beginning and at each frame's cursor, the last one first, and gives the changes
    that came after, with the same content.

    Only what is said to be durable may be discarded: whoever opens a stream may have less than its cursor.
    """
    trail = await subject.frames.trail()
    for number in range(len(trail.frames) - 2, -1, -1):
        wanted = trail.after(number)
        found = await subject.frames.read(trail.frames[number].cursor, len(wanted))
        _expect_changes(found, wanted, f"after frame {number + 1}")
    found = await subject.frames.read(trail.partition.cursor, len(trail.changes))
    _expect_changes(found, trail.changes, "from the planned position")


@check("changes.again", *_ALL, stands_on="dsync.v1 OpenPlan: what was begun is found again")
async def finds_what_was_begun(subject: Subject) -> None:
    """The plan is opened again: its position is the one from before, or an earlier one.

    A coordinator that died before it had stored the plan opens it again; a later position would be a gap.
    """
    trail = await subject.frames.trail()
    again = await subject.frames.begin()
    found = await subject.frames.read(again.cursor, len(trail.changes))
    _expect_changes(found, trail.changes, "from the position of a plan that was opened again")


@check("changes.mark", *_ALL, stands_on=f"{_CHANGES}.Mark")
async def gives_marks_in_their_place(subject: Subject) -> None:
    """A record is written, a mark is made, and another record is written: the mark comes between their changes.

    By a mark the coordinator knows that everything committed before it has come.
    """
    trail = await subject.frames.trail()
    content = f"dsync conformance {secrets.token_hex(8)}".encode()
    await subject.scratch.write(subject.scratch.items(1))
    await subject.connector.mark(trail.partition.namespaces, content)
    await subject.scratch.write(subject.scratch.items(1))
    told = await subject.frames.told_after(trail.frames[-1].cursor, content)
    expect(b"mark" in told, expected="the mark in the stream", seen=f"none within {subject.options.wait_s:g} s")
    at = told.index(b"mark")
    expect(b"row" in told[:at], expected="what was written before the mark, before it", seen="the mark first")


@check("changes.acknowledge", *_ALL, stands_on=f"{_CHANGES}: Acknowledge, GetChangeStatus")
async def bears_acknowledgements(subject: Subject) -> None:
    """A frame is acknowledged twice while the stream is open; what comes after it still comes, then and later.

    Acknowledging is how a source learns what it may let go: neither less than that, nor more.
    """
    trail = await subject.frames.trail()
    if len(trail.frames) < 2:
        raise SkippedError("all changes came in one frame: there is none behind it")
    middle = len(trail.frames) // 2 - 1
    cursor = trail.frames[middle].cursor
    stream = subject.frames.open(trail.partition, trail.partition.cursor)
    try:
        await stream.next()
        for _ in range(2):
            await subject.connector.acknowledge(trail.partition.namespaces, cursor)
    finally:
        await stream.close()
    found = await subject.frames.read(cursor, len(trail.after(middle)))
    _expect_changes(found, trail.after(middle), "after an acknowledged frame")
    status = await subject.connector.change_status(trail.partition.namespaces)
    expect(
        status.acknowledged <= status.position,
        expected=f"nothing acknowledged behind {status.position}, where the history ends",
        seen=str(status.acknowledged),
    )


@check("changes.release", *_ALL, stands_on=f"{_CHANGES}.ReleaseChanges")
async def lets_go(subject: Subject) -> None:
    """What the source keeps for the flow is released: it says what that was, and the second time there is nothing.

    What nobody reads any more is kept for ever otherwise, until the source's disk is full.
    """
    await subject.frames.trail()
    connector = subject.connector
    await connector.close_plan(subject.flow)
    removed = await connector.release_changes(subject.flow)
    expect(bool(removed), expected="what was removed", seen="nothing")
    again = await connector.release_changes(subject.flow)
    expect(not again, expected="nothing to remove the second time", seen=f"{len(again)} things")


def _expect_changes(found: Sequence[SeenChange], wanted: Sequence[SeenChange], how: str) -> None:
    """Raises FailedError where the first changes are not these."""
    for number, change in enumerate(wanted):
        there = found[number] if number < len(found) else None
        seen = str(there) if there else "nothing more"
        if there is not None and (there.operation, there.namespace) == (change.operation, change.namespace):
            seen += " of another key" if there.key_hash != change.key_hash else " with other content"
        expect(there == change, expected=f"change {number + 1} {how}: {change}", seen=seen)
