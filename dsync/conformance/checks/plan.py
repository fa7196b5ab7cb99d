"""Plans: what GeneratePlan cuts namespaces into, and what it does with names that it does not know."""

from __future__ import annotations

import secrets

from dsync.conformance.check import check
from dsync.conformance.needs import DEFAULT_PLAN, SEVERAL, SOURCE
from dsync.conformance.outcomes import expect, final_status
from dsync.conformance.subject import Subject
from dsync.protocol.errors import DsyncError
from dsync.protocol.types import PlanRequest, ReadRequest

_PLAN = "adiom.v1 GeneratePlan"


@check("plan.one", SOURCE, stands_on=f"{_PLAN}: exactly one namespace unless multi_namespace_plan")
async def plans_one(subject: Subject) -> None:
    """Each namespace can be planned alone, and the plan is of that one only.

    A coordinator writes what a partition holds into the place of its namespace: a partition of another one would
    put rows where nobody asked for them.
    """
    for name in await subject.namespaces():
        plan = await subject.connector.generate_plan(PlanRequest(namespaces=(name,)))
        expect(bool(plan.partitions), expected=f"a partition of {name} at least", seen="none")
        others = {partition.namespace for partition in plan.partitions} - {name}
        expect(not others, expected=f"partitions of {name} alone", seen=f"some of {', '.join(sorted(others))}")


@check("plan.several", SOURCE, SEVERAL, stands_on=f"{_PLAN}: multi_namespace_plan")
async def plans_several(subject: Subject) -> None:
    """Several namespaces planned at once give partitions of each of them.

    One plan is one moment: a namespace that is missing is not copied, and nobody is told.
    """
    names = set(await subject.namespaces())
    plan = await subject.connector.generate_plan(PlanRequest(namespaces=tuple(sorted(names))))
    found = {partition.namespace for partition in plan.partitions}
    expect(
        found == names,
        expected=f"partitions of {', '.join(sorted(names))}",
        seen=f"partitions of {', '.join(sorted(found)) or 'nothing'}",
    )


@check("plan.default", SOURCE, DEFAULT_PLAN, stands_on=f"{_PLAN}: no namespace, where default_plan is declared")
async def plans_everything(subject: Subject) -> None:
    """A plan without namespaces has partitions, each with its namespace.

    It stands for "everything": an empty plan would be an empty copy that counts as done.
    """
    plan = await subject.connector.generate_plan(PlanRequest(namespaces=()))
    expect(bool(plan.partitions), expected="partitions of every namespace", seen="none")
    nameless = sum(not partition.namespace for partition in plan.partitions)
    expect(not nameless, expected="a namespace in each partition", seen=f"{nameless} without")


@check("plan.counts", SOURCE, stands_on="adiom.v1 GetNamespaceMetadata: count")
async def counts(subject: Subject) -> str | None:
    """GetNamespaceMetadata answers for every namespace that is planned, and not with 0 where there are records.

    Progress and its estimate of the time are made of it; exact it need not be.
    """
    seen_rows: dict[str, int] = {}
    for partition, pages in await subject.filled():
        rows = sum(page.rows for page in pages)
        seen_rows[partition.namespace] = seen_rows.get(partition.namespace, 0) + rows
    for name, rows in seen_rows.items():
        count = await subject.connector.count(name)
        expect(count > 0, expected=f"a count of {name}, which has {rows} records at least", seen=str(count))
    return None


@check(
    "plan.unknown",
    SOURCE,
    stands_on="adiom.v1: Unavailable, Aborted, ResourceExhausted and DeadlineExceeded are worth a retry",
)
async def refuses_unknown_namespaces(subject: Subject) -> str | None:
    """A namespace that does not exist is refused for good, or planned as an empty one.

    With a status that asks for a retry (or an answer that never comes) the coordinator repeats a request that can only
    fail, for a quarter of an hour; with records it copies what nobody has.
    """
    name = f"dsync_conformance_{secrets.token_hex(6)}"
    try:
        plan = await subject.connector.generate_plan(PlanRequest(namespaces=(name,)))
        for partition in plan.partitions:
            page = await subject.connector.list_data(ReadRequest(partition=partition, type=subject.read_type))
            expect(
                page.rows == 0, expected="no records of a namespace that does not exist", seen=f"{page.rows} records"
            )
    except DsyncError as error:
        status = final_status(error, expected="a status that is not worth a retry, as NOT_FOUND or INVALID_ARGUMENT")
        return f"refused with {status}"
    return "a namespace that does not exist is planned as an empty one"
