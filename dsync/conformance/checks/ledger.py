"""dsync.v1.LedgerService: where a unit stands, told by the sink in the transaction of its records."""

from __future__ import annotations

import secrets

from dsync.conformance.check import check
from dsync.conformance.needs import LEDGER_SERVICE, PAGE_SERVICE, READ_BACK, SCRATCH
from dsync.conformance.outcomes import FailedError, expect, status_of
from dsync.conformance.subject import Subject
from dsync.protocol import pages
from dsync.protocol.errors import DsyncError, FencedError
from dsync.protocol.types import FlowManifest, Page, Role, UnitRef, UnitState, WriteContext, WriteRequest

_LEDGER = "dsync.v1 LedgerService"


@check("ledger.stands", SCRATCH, LEDGER_SERVICE, PAGE_SERVICE, stands_on=f"{_LEDGER}.OpenUnits")
async def knows_where_a_unit_stands(subject: Subject) -> None:
    """A unit is opened, written to twice and opened again: it stands behind the second write, under a higher fence.

    A flow goes on where the ledger says, whatever became of its own checkpoints.
    """
    unit = await _unit(subject)
    expect(
        (unit.cursor, unit.seq, unit.rows, unit.done) == (b"", 0, 0, False),
        expected="a new unit that stands at its beginning",
        seen=_shown(unit),
    )
    items = subject.scratch.items(3)
    await subject.scratch.write_page(items[:2], _context(subject, unit, 1, cursor=b"next"))
    await subject.scratch.write_page(items[2:], _context(subject, unit, 2, cursor=b"end", done=True))
    again = await _open(subject, unit.unit)
    expect(
        (again.cursor, again.seq, again.rows, again.done) == (b"end", 2, 3, True),
        expected="a unit that is done after 2 writes of 3 records",
        seen=_shown(again),
    )
    expect(again.fence > unit.fence, expected=f"a fence above {unit.fence}", seen=str(again.fence))


@check("ledger.read", SCRATCH, LEDGER_SERVICE, PAGE_SERVICE, stands_on=f"{_LEDGER}.ReadUnits")
async def reads_without_taking_over(subject: Subject) -> None:
    """Two units are read: the one that nobody has opened has fence 0, and who holds the other goes on writing.

    Commands look at running flows: looking must not stop them.
    """
    unit = await _unit(subject)
    first, second = subject.scratch.items(2)
    await subject.scratch.write_page([first], _context(subject, unit, 1))
    asked = [UnitRef(unit=_name(), namespace=subject.scratch.namespace), _ref(subject, unit.unit)]
    unknown, known = await subject.connector.read_units(subject.flow, "r", asked)
    expect((unknown.fence, unknown.seq) == (0, 0), expected="fence 0 of an unknown unit", seen=_shown(unknown))
    expect((known.fence, known.seq) == (unit.fence, 1), expected=f"fence {unit.fence}, 1 write", seen=_shown(known))
    await subject.scratch.write_page([second], _context(subject, unit, 2))


@check("ledger.repeat", SCRATCH, READ_BACK, LEDGER_SERVICE, PAGE_SERVICE, stands_on="dsync.v1 WriteContext: seq")
async def notices_a_repeated_write(subject: Subject) -> None:
    """The same write is sent twice: both times it says 2 records, the ledger counts it once, and each is there once.

    Its answer was lost, not its effect.
    """
    unit = await _unit(subject)
    items = subject.scratch.items(2)
    for _ in range(2):
        rows = await subject.scratch.write_page(items, _context(subject, unit, 1))
        expect(rows == 2, expected="2 records written", seen=str(rows))
    again = await _open(subject, unit.unit)
    expect((again.seq, again.rows) == (1, 2), expected="1 write of 2 records", seen=_shown(again))
    await subject.scratch.expect_held(items, after="a repeated write")


@check("ledger.fence", SCRATCH, READ_BACK, LEDGER_SERVICE, PAGE_SERVICE, stands_on="dsync.v1 WriteContext: fence")
async def refuses_old_fences(subject: Subject) -> None:
    """A unit is opened by somebody else: a write under the old fence is refused with FencedError, and not there.

    A coordinator that was paused while another took over must not touch the data when it wakes.
    """
    unit, another = await _unit(subject), await _unit(subject)
    await _open(subject, unit.unit)
    await subject.scratch.write_page(subject.scratch.items(1), _context(subject, another, 1))
    items = subject.scratch.items(2)
    try:
        await subject.scratch.write_page(items, _context(subject, unit, 1))
    except FencedError:
        await subject.scratch.expect_held([], absent=items, after="a write under an old fence")
        return
    except DsyncError as error:
        raise FailedError(expected="FencedError", seen=status_of(error)) from error
    raise FailedError(expected="FencedError", seen="success")


@check("ledger.atomic", SCRATCH, LEDGER_SERVICE, PAGE_SERVICE, stands_on="dsync.v1 WritePage: one transaction")
async def stays_where_a_write_is_refused(subject: Subject) -> None:
    """A page that is cut off is refused under a context: the unit stands where it stood.

    A ledger that is ahead of the data skips what is not there.
    """
    unit = await _unit(subject)
    items = subject.scratch.items(2)
    body = pages.join_records(subject.scratch.type, [item.record for item in items])
    page = Page(type=subject.scratch.type, rows=2, packed=body[:-3])
    refused = False
    try:
        await subject.connector.write_page(
            WriteRequest(namespace=subject.scratch.namespace, page=page, context=_context(subject, unit, 1))
        )
    except DsyncError:
        refused = True
    expect(refused, expected="a refusal of a page that is cut off", seen="success")
    again = await _open(subject, unit.unit)
    expect((again.seq, again.rows) == (0, 0), expected="a unit at its beginning", seen=_shown(again))


@check("ledger.manifest", SCRATCH, LEDGER_SERVICE, stands_on=f"{_LEDGER}: SaveManifest, FindManifests, ForgetFlow")
async def keeps_manifests(subject: Subject) -> None:
    """A flow's manifest is saved twice and found once, by flow and by fingerprint; after ForgetFlow it is gone.

    Where the state is lost a flow is found again by what the sink keeps; what is forgotten must not come back.
    """
    await subject.open_session(Role.SINK)
    subject.has_ledger = True
    connector, flow = subject.connector, f"{subject.flow}-{secrets.token_hex(2)}"
    manifest = FlowManifest(flow=flow, fingerprint=f"print of {flow}", name="kit", run="r", plan=b"\x00\xff plan")
    for _ in range(2):
        await connector.save_manifest(manifest)
    try:
        for found in (
            await connector.find_manifests(flow=flow),
            await connector.find_manifests(fingerprint=manifest.fingerprint),
        ):
            expect(found == [manifest], expected="the manifest as it was saved, once", seen=f"{len(found)}, or another")
        elsewhere = await connector.find_manifests(flow=flow, fingerprint="another")
        expect(not elsewhere, expected="nothing where one argument does not fit", seen=str(len(elsewhere)))
    finally:
        removed = await connector.forget_flow(flow)
    expect(bool(removed), expected="ForgetFlow says what it has removed", seen="nothing")
    expect(not await connector.forget_flow(flow), expected="nothing left to forget the second time", seen="something")
    expect(not await connector.find_manifests(flow=flow), expected="no manifest after ForgetFlow", seen="one")


async def _unit(subject: Subject) -> UnitState:
    """A new unit, opened."""
    await subject.open_session(Role.SINK)
    subject.has_ledger = True
    return await _open(subject, _name())


async def _open(subject: Subject, name: str) -> UnitState:
    (state,) = await subject.connector.open_units(subject.flow, "r", [_ref(subject, name)])
    return state


def _name() -> str:
    return f"unit-{secrets.token_hex(4)}"


def _ref(subject: Subject, name: str) -> UnitRef:
    return UnitRef(unit=name, namespace=subject.scratch.namespace)


def _context(subject: Subject, unit: UnitState, seq: int, *, cursor: bytes = b"c", done: bool = False) -> WriteContext:
    return WriteContext(flow=subject.flow, run="r", unit=unit.unit, fence=unit.fence, cursor=cursor, seq=seq, done=done)


def _shown(unit: UnitState) -> str:
    state = "done" if unit.done else "not done"
    return f"fence {unit.fence}, {unit.seq} writes, {unit.rows} records, cursor {unit.cursor!r}, {state}"
