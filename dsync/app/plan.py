"""`dsync plan`: what a sync would do. Asks both ends and changes neither."""

from __future__ import annotations

import secrets
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from dsync.app.ends import Meeting, meet
from dsync.app.found import FoundFlow, find_flow, plan_of
from dsync.app.known import existing_store
from dsync.app.requests import SyncRequest
from dsync.app.standing import Standing
from dsync.app.sync import spec_of
from dsync.coordinator.ends import Agreement
from dsync.coordinator.plan import CopyPlan, Planner
from dsync.coordinator.spec import FlowSpec
from dsync.protocol.types import Finding, Severity


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
            found = await find_flow(store, request, spec, meeting)
            planner = await planner_for(meeting, spec, flow=found.flow)
            findings = (*found.findings, *await planner.check())
            made = await plan_of(found, planner)
            made = replace(made, findings=(*findings, *made.findings))
            return _report(spec, planner.agreement, made, found)


async def planner_for(meeting: Meeting, spec: FlowSpec, *, flow: str = "") -> Planner:
    """A planner over two ends that have been told of a flow: its own id where there is one, else one for the moment."""
    flow, run = flow or secrets.token_hex(8), secrets.token_hex(6)
    # A run of this very flow may be at work.
    agreement = await meeting.agree(spec, flow=flow, run=run, end_orphans=False)
    return Planner(source=meeting.source, sink=meeting.sink, spec=spec, agreement=agreement, flow=flow, run=run)


def _report(
    spec: FlowSpec,
    agreement: Agreement,
    made: CopyPlan,
    found: FoundFlow,
) -> PlanReport:
    partitions: defaultdict[str, int] = defaultdict(int)
    for unit in made.partitions:
        partitions[unit.namespace] += 1
    return PlanReport(
        standing=found.standing,
        source=spec.source.reference,
        sink=spec.sink.reference,
        flow=found.flow,
        flow_name=found.name,
        finished_at=found.finished_at,
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
                copied_rows=found.copied_rows.get(row.namespace, 0),
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
