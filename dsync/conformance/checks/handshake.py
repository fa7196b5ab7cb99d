"""Who the connector is, and whether what it declares can be true."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from dsync.conformance.check import check
from dsync.conformance.outcomes import expect
from dsync.conformance.reading import RECORD_TYPES
from dsync.conformance.subject import Subject
from dsync.protocol.errors import DsyncError, UnsupportedError
from dsync.protocol.types import CheckRequest, ChecksumRequest, DescribeRequest, PageType, Partition, ReadRequest, Role

_NOBODY = "dsync-conformance-nobody"


@check("info.roles", stands_on="adiom.v1 GetInfo: at least one of Source and Sink is set")
async def declares_a_role(subject: Subject) -> None:
    """GetInfo names the kind of database, and declares a source, a sink or both.

    Without a role there is nothing that a coordinator could ask for; the kind of database stands in plans and messages.
    """
    expect(
        subject.info.source is not None or subject.info.sink is not None,
        expected="capabilities with a source or a sink",
        seen="neither",
    )
    expect(bool(subject.info.db_type), expected="a db_type", seen="an empty one")


@check("info.types", stands_on="adiom.v1 Capabilities: supported_data_types")
async def declares_types(subject: Subject) -> None:
    """Each role declares at least one type of records that adiom.v1 knows.

    Coordinators choose a type that source and sink share; without any no flow can begin.
    """
    for name, declared in (("source", subject.info.source), ("sink", subject.info.sink)):
        if declared is not None:
            known = [kind for kind in declared.data_types if kind in RECORD_TYPES]
            expect(bool(known), expected=f"the {name} supports MONGO_BSON or JSON_ID", seen="no known type")


@check("info.same-id", stands_on="adiom.v1 GetInfo: id says whether this is the same endpoint as before")
async def keeps_its_id(subject: Subject) -> str | None:
    """Asked several times, GetInfo gives the same id.

    A flow that is resumed stops where the id is another one, because cursors of another endpoint mean nothing there: an
    id that changes ends every flow at its first restart.
    """
    ids = {subject.info.id, *[(await subject.connector.get_info()).id for _ in range(2)]}
    expect(len(ids) == 1, expected="one id, however often it is asked for", seen=f"{len(ids)} different ones")
    return None if subject.info.id else "the id is empty: whether a flow goes on at the same endpoint cannot be told"


@check("info.services", stands_on="dsync.v1 GetExtensions: services")
async def serves_what_it_declares(subject: Subject) -> None:
    """Every service of dsync.v1 that GetExtensions names answers.

    What is declared is relied upon: a service that is not there stops a flow in the middle instead of at its beginning.
    """
    # Of services that have no harmless call nothing is asked.
    for name in sorted(subject.extensions.services & set(_PROBES)):
        expect(
            await _answers(_PROBES[name](subject)),
            expected=f"dsync.v1.{name} answers",
            seen="UNIMPLEMENTED",
        )


async def _answers(call: Awaitable[object]) -> bool:
    """Whether somebody is there; a request about nothing may be refused in any other way."""
    try:
        await call
    except UnsupportedError:
        return False
    except DsyncError:
        return True
    return True


async def _probe_pages(subject: Subject) -> object:
    if subject.info.source is None:
        # Writing nothing is writing all the same; that a service is there is then seen by `page.write`.
        return None
    nobody = Partition(namespace=_NOBODY)
    return await subject.connector.read_page(ReadRequest(partition=nobody, type=PageType.BSON))


_PROBES: dict[str, Callable[[Subject], Awaitable[object]]] = {
    "PageService": _probe_pages,
    "LedgerService": lambda subject: subject.connector.find_manifests(flow=subject.flow),
    "PlanService": lambda subject: subject.connector.close_plan(subject.flow),
    "SchemaService": lambda subject: (
        subject.connector.describe(DescribeRequest(namespaces=(_NOBODY,)))
        if subject.info.source
        else subject.connector.check(CheckRequest(role=Role.SINK))
    ),
    "ChangeService": lambda subject: (
        subject.connector.change_status([_NOBODY])
        if subject.info.source
        else subject.connector.find_manifests(flow=subject.flow)
    ),
    "CutoverService": lambda subject: subject.connector.describe_objects([_NOBODY], whole_database=False),
    "ChecksumService": lambda subject: subject.connector.get_checksum(
        ChecksumRequest(namespace=_NOBODY, columns=(), key=())
    ),
}
"""A harmless call of each service, about nothing."""
