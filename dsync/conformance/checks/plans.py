"""dsync.v1.PlanService: one snapshot for all pages, held until it is let go."""

from __future__ import annotations

from dsync.conformance.check import check
from dsync.conformance.needs import PLAN_SERVICE, SCRATCH, SOURCE
from dsync.conformance.outcomes import SkippedError, expect, status_of
from dsync.conformance.subject import Subject
from dsync.protocol.errors import DsyncError, ReplanError
from dsync.protocol.types import CopiedPartition, Plan, Role

_PLANS = "dsync.v1 PlanService"


@check("snapshot.held", SOURCE, PLAN_SERVICE, stands_on=f"{_PLANS}.ResumePlan")
async def knows_a_snapshot_it_holds(subject: Subject) -> None:
    """While a plan's snapshot is held, resuming it gives the same one back and no verdicts.

    A coordinator that restarts goes on under it; being sent to another snapshot for nothing, it would read tables
    again.
    """
    plan = await _open(subject)
    copied = [CopiedPartition(partition=partition) for partition in plan.partitions]
    resumed = await subject.connector.resume_plan(plan.snapshot, copied)
    expect(resumed.snapshot == plan.snapshot, expected="the snapshot that is held", seen="another")
    expect(not resumed.verdicts, expected="no verdicts", seen=f"{len(resumed.verdicts)}")


@check("snapshot.still", SOURCE, PLAN_SERVICE, SCRATCH, stands_on=f"{_PLANS}.OpenPlan: pages of one snapshot")
async def reads_one_moment(subject: Subject) -> None:
    """Records are written after a plan was opened: its pages do not have them.

    Pages are read for hours. Without one moment for all, rows of one table refer to rows of another that were read
    too early.
    """
    scratch = subject.scratch
    before, after = scratch.items(2)
    await scratch.write([before])
    plan = await _open(subject, scratch.namespace)
    await scratch.write([after])
    ids = [id for partition in plan.partitions for page in await subject.read_all(partition) for id in page.ids]
    expect(after.id not in ids, expected="the records of the plan's moment", seen=f"{after.id}, written since")


@check("snapshot.closed", SOURCE, PLAN_SERVICE, stands_on=f"{_PLANS}.ClosePlan")
async def refuses_pages_of_a_closed_plan(subject: Subject) -> str | None:
    """After ClosePlan, called twice, a page of that plan is as it was, or refused so that it is planned anew.

    Cursors are places in a snapshot: under another one they lead somewhere else.
    """
    plan = await _open(subject)
    partition = plan.partitions[0]
    before = await subject.read(partition)
    for _ in range(2):
        await subject.connector.close_plan(subject.flow)
    try:
        again = await subject.read(partition)
    except DsyncError as error:
        expect(
            isinstance(error, ReplanError),
            expected="the same page, or SnapshotLostError",
            seen=status_of(error),
        )
        return f"refused with {status_of(error)}"
    expect(again == before, expected="the same page, or SnapshotLostError", seen="another page")
    return None


async def _open(subject: Subject, *namespaces: str) -> Plan:
    """A plan of these namespaces, or of those that are read.

    Raises:
        SkippedError: it names no snapshot, so there is nothing to keep to.
    """
    await subject.open_session(Role.SOURCE)
    plan = await subject.connector.open_plan(list(namespaces or await subject.namespaces()))
    expect(bool(plan.partitions), expected="a plan with partitions", seen="none")
    if not plan.snapshot:
        raise SkippedError("its plans name no snapshot")
    return plan
