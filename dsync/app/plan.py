"""`dsync plan`: what a sync would do. Asks both ends and changes neither."""

from __future__ import annotations

import enum
import secrets
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from dsync.app.ends import Meeting, meet
from dsync.app.known import KnownFlow, existing_store, known_flow
from dsync.app.requests import SyncRequest
from dsync.app.sync import spec_of
from dsync.coordinator.ends import Agreement, negotiate, open_sessions
from dsync.coordinator.plan import CopyPlan, Planner
from dsync.coordinator.spec import FlowSpec
from dsync.protocol.types import Finding, SessionRequest, Severity
from dsync.state import FlowExistsError, NamespaceTotals, Store


class Standing(enum.StrEnum):
    """How a sync would begin."""

    NEW = "new"
    """With a new run, which is planned here as it would be then."""
    GOES_ON = "goes on"
    """Where the latest run was cut off, by the plan that was stored then."""
    FINISHED = "finished"
    """Not at all: the latest run has ended, and nothing asks for another."""
    AGAIN = "again"
    """With a new run over a finished one, reading again what may have changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedNamespace:
    """What would become of one namespace."""

    namespace: str
    target: str
    page_type: str
    reason: str
    """Why this page type."""
    columns: int
    """How many are named in the copy; 0: the connector does not say."""
    partitions: int
    estimated_rows: int
    bytes: int
    copied_rows: int
    """Already there, where a run goes on."""
    existed: bool
    """The sink has it already."""
    upsert: bool
    """Rows are written by key, since some may be there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanReport:
    """The plan of a copy."""

    standing: Standing
    source: str
    sink: str
    flow: str
    """The id of the flow that goes on; empty for a new one."""
    flow_name: str
    finished_at: datetime | None
    namespaces: tuple[PlannedNamespace, ...]
    steps: Mapping[str, int]
    """What is done after the rows, by kind."""
    ddl: tuple[str, ...]
    """What would be created before the rows; unknown (empty) where a stored plan is used."""
    findings: tuple[Finding, ...]
    page_types: tuple[str, ...]
    """Shared by both ends, cheapest first."""
    by_reference: bool
    """Pages travel as files between processes of this machine."""
    page_bytes: int
    parallel: int

    @property
    def exit_code(self) -> int:
        """3 where a finding would stop the flow or lose data."""
        return 3 if any(finding.severity is Severity.STOP for finding in self.findings) else 0

    @property
    def estimated_rows(self) -> int:
        return sum(item.estimated_rows for item in self.namespaces)

    @property
    def bytes(self) -> int:
        return sum(item.bytes for item in self.namespaces)

    def as_json(self) -> dict[str, Any]:
        """As `--json` prints it, but for the findings."""
        return {
            "standing": self.standing.value,
            "source": self.source,
            "sink": self.sink,
            "flow": self.flow or None,
            "name": self.flow_name or None,
            "finished_at": self.finished_at.isoformat() if self.finished_at else None,
            "estimated_rows": self.estimated_rows,
            "bytes": self.bytes,
            "namespaces": [asdict(item) for item in self.namespaces],
            "steps": dict(self.steps),
            "ddl": list(self.ddl),
            "page_types": list(self.page_types),
            "by_reference": self.by_reference,
            "page_bytes": self.page_bytes,
            "parallel": self.parallel,
        }


async def plan(request: SyncRequest) -> PlanReport:
    """What `sync` with this request would do.

    Raises:
        DsyncError: what the sync would raise before it moves anything.
    """
    with existing_store(request.state) as store:
        async with meet(request) as meeting:
            meeting.refuse_same_ends()
            spec = spec_of(request, meeting)
            known = _known(store, request, spec, meeting)
            standing = _standing(known, again=request.again)
            if store is not None and known is not None:
                meeting.refuse_other_ends(store.list_runs(known.flow.flow))
            planner = await planner_for(meeting, spec, flow=known.flow.flow if known else "")
            findings = await planner.check()
            made = _stored(store, known) if standing in (Standing.GOES_ON, Standing.FINISHED) else None
            if made is None:
                made = await planner.make(dry_run=True, again=standing is Standing.AGAIN)
            return _report(
                spec,
                planner.agreement,
                replace(made, findings=(*findings, *made.findings)),
                standing,
                known,
                _copied(store, known) if standing is Standing.GOES_ON else {},
            )


async def planner_for(meeting: Meeting, spec: FlowSpec, *, flow: str = "") -> Planner:
    """A planner over two ends that have been told of a flow: its own id where there is one, else one for the moment."""
    flow, run = flow or secrets.token_hex(8), secrets.token_hex(6)
    agreement = negotiate(meeting.source, meeting.sink, spec)
    agreement = await open_sessions(
        meeting.source,
        meeting.sink,
        agreement,
        meeting.pages,
        SessionRequest(
            flow=flow,
            run=run,
            page_bytes=agreement.page_bytes,
            memory_bytes=spec.memory_limit,
            parallel=spec.parallel,
            # A run of this very flow may be at work.
            end_orphans=False,
        ),
    )
    return Planner(source=meeting.source, sink=meeting.sink, spec=spec, agreement=agreement, flow=flow, run=run)


def _known(store: Store | None, request: SyncRequest, spec: FlowSpec, meeting: Meeting) -> KnownFlow | None:
    """The flow that the sync would go on with.

    Raises:
        FlowExistsError: as the sync would: the name is another flow's, or several could be meant.
    """
    if store is None:
        return None
    fingerprint = spec.fingerprint(meeting.source.info.id, meeting.sink.info.id)
    if request.flow:
        named = store.find_flow_by_name(request.flow)
        if named is not None and named.fingerprint != fingerprint:
            raise FlowExistsError(
                f"flow {request.flow} exists with other ends, namespaces or transforms: choose another --flow name, or"
                f" forget that one with `dsync reset {request.flow}`"
            )
        return known_flow(store, named) if named is not None else None
    found = store.find_flows_by_fingerprint(fingerprint)
    if len(found) > 1 and found[0].name is not None:
        names = ", ".join(str(flow.name) for flow in found)
        raise FlowExistsError(f"{len(found)} flows run between these ends ({names}): say which one with --flow NAME")
    return known_flow(store, found[0]) if found else None


def _standing(known: KnownFlow | None, *, again: bool) -> Standing:
    if known is None or known.run is None:
        return Standing.NEW
    if not known.run.phase.is_final:
        return Standing.GOES_ON
    return Standing.AGAIN if again else Standing.FINISHED


def _stored(store: Store | None, known: KnownFlow | None) -> CopyPlan | None:
    """The plan of the latest run; None where it was cut off before it had one."""
    if store is None or known is None or known.run is None or not known.run.extra.get("planned"):
        return None
    flow, run = known.flow.flow, known.run.run
    return CopyPlan(
        namespaces=store.load_namespaces(flow, run), units=store.load_units(flow, run), snapshot=known.run.snapshot
    )


def _copied(store: Store | None, known: KnownFlow | None) -> dict[str, NamespaceTotals]:
    if store is None or known is None or known.run is None:
        return {}
    return {total.namespace: total for total in store.namespace_totals(known.flow.flow, known.run.run)}


def _report(
    spec: FlowSpec,
    agreement: Agreement,
    made: CopyPlan,
    standing: Standing,
    known: KnownFlow | None,
    copied: Mapping[str, NamespaceTotals],
) -> PlanReport:
    partitions: defaultdict[str, int] = defaultdict(int)
    for unit in made.partitions:
        partitions[unit.namespace] += 1
    return PlanReport(
        standing=standing,
        source=spec.source.reference,
        sink=spec.sink.reference,
        flow=known.flow.flow if known else "",
        flow_name=(known.flow.name or "") if known else "",
        finished_at=known.run.finished_at if known and known.run and standing is Standing.FINISHED else None,
        namespaces=tuple(
            PlannedNamespace(
                namespace=row.namespace,
                target=row.target,
                page_type=row.page_type.name,
                reason=row.reason,
                columns=len(row.columns),
                partitions=partitions[row.namespace],
                estimated_rows=row.estimated_rows,
                bytes=row.size_bytes,
                copied_rows=copied[row.namespace].rows if row.namespace in copied else 0,
                existed=row.existed,
                upsert=row.upsert,
            )
            for row in made.namespaces
        ),
        steps=Counter(unit.step.kind for unit in made.steps if unit.step is not None),
        ddl=made.ddl,
        findings=made.findings,
        page_types=tuple(kind.name for kind in agreement.page_types),
        by_reference=agreement.by_reference,
        page_bytes=agreement.page_bytes,
        parallel=spec.parallel,
    )
