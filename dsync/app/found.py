"""The flow that a sync would be about, found without changing anything: in the state, or at the sink alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from dsync.app.ends import Meeting
from dsync.app.requests import SyncRequest
from dsync.app.standing import (
    FORGOTTEN,
    FlowStanding,
    Standing,
    examine,
    examine_lost,
    find_lost,
    forgotten,
    in_mode,
    is_planned,
    stored_plan,
)
from dsync.coordinator.plan import CopyPlan, Planner
from dsync.coordinator.spec import FlowSpec
from dsync.protocol.errors import SinkNotEmptyError
from dsync.protocol.types import Finding, Severity
from dsync.state import FlowExistsError, FlowRow, Store


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundFlow:
    standing: Standing = Standing.NEW
    flow: str = ""
    """Empty: a sync would make a new one."""
    name: str = ""
    setback: str = ""
    plan: CopyPlan | None = None
    """What it goes on with, or has finished; None: a sync would plan."""
    finished_at: datetime | None = None
    copied_rows: Mapping[str, int] = field(default_factory=dict)
    """By namespace, where it goes on."""

    @property
    def findings(self) -> tuple[Finding, ...]:
        if not self.setback:
            return ()
        return (
            Finding(
                code="sink-put-back",
                severity=Severity.WARNING,
                object=self.name or self.flow,
                message=self.setback,
                remedy="a sync goes by what the sink has; look why that is before you start it",
            ),
        )


async def plan_of(found: FoundFlow, planner: Planner) -> CopyPlan:
    """What the sync would go on with, or else would plan now.

    Raises:
        SinkForgotError: the flow's tables hold rows of which the sink does not know whose they are.
    """
    if found.plan is not None:
        return found.plan
    try:
        return await planner.make(dry_run=True, again=found.standing is Standing.AGAIN)
    except SinkNotEmptyError as error:
        if found.setback != FORGOTTEN:
            raise
        raise forgotten(found.name or found.flow, error) from error


async def find_flow(store: Store | None, request: SyncRequest, spec: FlowSpec, meeting: Meeting) -> FoundFlow:
    """The flow that the sync would go on with, and how.

    Raises:
        FlowExistsError: as the sync would: the name is another flow's, or several could be meant.
        OtherEndpointError: it has met another source or sink than these.
    """
    fingerprint = spec.fingerprint(meeting.source.info.id, meeting.sink.info.id)
    known = _in_state(store, request.flow, fingerprint)
    if store is not None and known is not None:
        meeting.refuse_other_ends(store.list_runs(known.flow))
        stands = in_mode(
            await examine(store, known.flow, meeting.sink, again=request.again),
            known.name or known.flow,
            mode=request.mode,
            again=request.again,
        )
    else:
        lost = await find_lost(meeting.sink, store, name=request.flow, fingerprint=fingerprint)
        if lost is None:
            return FoundFlow()
        stands = await examine_lost(lost, again=request.again, sink=meeting.sink)
    if stands.adopts and stands.record is not None:
        meeting.source.check_same(stands.record.kept.source_id)
    return _found(store, known, stands)


def _in_state(store: Store | None, name: str, fingerprint: str) -> FlowRow | None:
    if store is None:
        return None
    if name:
        named = store.find_flow_by_name(name)
        if named is not None and named.fingerprint != fingerprint:
            raise FlowExistsError(
                f"flow {name} exists with other ends, namespaces or transforms: choose another --flow name, or"
                f" forget that one with `dsync reset {name}`"
            )
        return named
    found = store.find_flows_by_fingerprint(fingerprint)
    if len(found) > 1 and found[0].name is not None:
        names = ", ".join(str(flow.name) for flow in found)
        raise FlowExistsError(f"{len(found)} flows run between these ends ({names}): say which one with --flow NAME")
    return found[0] if found else None


def _found(store: Store | None, known: FlowRow | None, stands: FlowStanding) -> FoundFlow:
    record, run = stands.record, stands.run
    plan: CopyPlan | None = None
    finished_at = None
    copied: Mapping[str, int] = {}
    if stands.standing in (Standing.GOES_ON, Standing.FINISHED, Standing.CANCELLED):
        if stands.adopts and record is not None:
            plan = record.kept.plan if record.has_plan else None
        elif store is not None and run is not None and is_planned(run):
            plan = stored_plan(store, run)
    if stands.standing in (Standing.FINISHED, Standing.CANCELLED):
        finished_at = stands.end.finished_at if stands.end is not None else run.finished_at if run is not None else None
    elif stands.standing is Standing.GOES_ON and plan is not None:
        copied = _copied_rows(store, stands, plan)
    manifest = record.manifest if record is not None else None
    return FoundFlow(
        standing=stands.standing,
        flow=known.flow if known is not None else manifest.flow if manifest is not None else "",
        name=(known.name or "") if known is not None else manifest.name if manifest is not None else "",
        setback=stands.setback,
        plan=plan,
        finished_at=finished_at,
        copied_rows=copied,
    )


def _copied_rows(store: Store | None, stands: FlowStanding, plan: CopyPlan) -> Mapping[str, int]:
    """By the ledger where it was asked, else by the state."""
    if not stands.places:
        if store is None or stands.run is None:
            return {}
        return {item.namespace: item.rows for item in store.namespace_totals(stands.run.flow, stands.run.run)}
    carried = {row.unit: row.rows for row in stands.record.kept.carried} if stands.record is not None else {}
    rows: defaultdict[str, int] = defaultdict(int)
    for unit in plan.partitions:
        rows[unit.namespace] += carried.get(unit.unit, 0) + stands.places[unit.unit].rows
    return rows
