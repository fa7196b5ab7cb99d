"""Plans, and what a sink's ledger keeps of a flow."""

from __future__ import annotations

from collections.abc import Sequence

from dsync.protocol import types as t
from dsync.protocol._gen.adiom.v1 import adiom_pb2 as adiom
from dsync.protocol._gen.dsync.v1 import dsync_pb2 as dsync
from dsync.protocol.convert.values import (
    enum_from_pb,
    partition_from_pb,
    partition_to_pb,
    updates_partition_from_pb,
    updates_partition_to_pb,
)


def plan_request_to_pb(request: t.PlanRequest) -> adiom.GeneratePlanRequest:
    return adiom.GeneratePlanRequest(
        namespaces=request.namespaces, initial_sync=request.initial_sync, updates=request.updates
    )


def plan_request_from_pb(message: adiom.GeneratePlanRequest) -> t.PlanRequest:
    return t.PlanRequest(
        namespaces=tuple(message.namespaces), initial_sync=message.initial_sync, updates=message.updates
    )


def plan_to_pb(plan: t.Plan) -> adiom.GeneratePlanResponse:
    return adiom.GeneratePlanResponse(
        partitions=map(partition_to_pb, plan.partitions),
        updates_partitions=map(updates_partition_to_pb, plan.updates_partitions),
    )


def plan_from_pb(message: adiom.GeneratePlanResponse) -> t.Plan:
    return t.Plan(
        partitions=tuple(map(partition_from_pb, message.partitions)),
        updates_partitions=tuple(map(updates_partition_from_pb, message.updates_partitions)),
    )


def opened_plan_to_pb(plan: t.Plan) -> dsync.OpenPlanResponse:
    return dsync.OpenPlanResponse(
        partitions=map(partition_to_pb, plan.partitions),
        snapshot=plan.snapshot,
        updates_partitions=map(updates_partition_to_pb, plan.updates_partitions),
        overlaps=plan.overlaps,
        position=plan.position,
    )


def opened_plan_from_pb(message: dsync.OpenPlanResponse) -> t.Plan:
    return t.Plan(
        partitions=tuple(map(partition_from_pb, message.partitions)),
        snapshot=message.snapshot,
        updates_partitions=tuple(map(updates_partition_from_pb, message.updates_partitions)),
        overlaps=message.overlaps,
        position=message.position,
    )


def joined_plan_to_pb(plan: t.JoinedPlan) -> dsync.JoinPlanResponse:
    return dsync.JoinPlanResponse(
        partitions=map(partition_to_pb, plan.partitions),
        snapshot=plan.snapshot,
        stream=updates_partition_to_pb(plan.stream),
        seen_through=plan.seen_through,
    )


def joined_plan_from_pb(message: dsync.JoinPlanResponse) -> t.JoinedPlan:
    return t.JoinedPlan(
        stream=updates_partition_from_pb(message.stream),
        partitions=tuple(map(partition_from_pb, message.partitions)),
        snapshot=message.snapshot,
        seen_through=message.seen_through,
    )


def resume_plan_to_pb(
    snapshot: bytes, partitions: Sequence[t.CopiedPartition], updates_partitions: Sequence[t.UpdatesPartition]
) -> dsync.ResumePlanRequest:
    return dsync.ResumePlanRequest(
        snapshot=snapshot,
        partitions=map(_copied_to_pb, partitions),
        updates_partitions=map(updates_partition_to_pb, updates_partitions),
    )


def resume_plan_from_pb(
    message: dsync.ResumePlanRequest,
) -> tuple[bytes, list[t.CopiedPartition], list[t.UpdatesPartition]]:
    followed = list(map(updates_partition_from_pb, message.updates_partitions))
    return message.snapshot, list(map(_copied_from_pb, message.partitions)), followed


def _copied_to_pb(copied: t.CopiedPartition) -> dsync.CopiedPartition:
    return dsync.CopiedPartition(
        partition=partition_to_pb(copied.partition), cursor=copied.cursor, rows=copied.rows, done=copied.done
    )


def _copied_from_pb(message: dsync.CopiedPartition) -> t.CopiedPartition:
    return t.CopiedPartition(
        partition=partition_from_pb(message.partition), cursor=message.cursor, rows=message.rows, done=message.done
    )


def resumed_plan_to_pb(plan: t.ResumedPlan) -> dsync.ResumePlanResponse:
    return dsync.ResumePlanResponse(snapshot=plan.snapshot, verdicts=map(_verdict_to_pb, plan.verdicts))


def resumed_plan_from_pb(message: dsync.ResumePlanResponse) -> t.ResumedPlan:
    return t.ResumedPlan(snapshot=message.snapshot, verdicts=tuple(map(_verdict_from_pb, message.verdicts)))


def _verdict_to_pb(verdict: t.NamespaceVerdict) -> dsync.NamespaceVerdict:
    return dsync.NamespaceVerdict(
        namespace=verdict.namespace,
        verdict=dsync.Verdict.ValueType(int(verdict.verdict)),
        reason=verdict.reason,
        partitions=map(partition_to_pb, verdict.partitions),
        seen_through=verdict.seen_through,
    )


def _verdict_from_pb(message: dsync.NamespaceVerdict) -> t.NamespaceVerdict:
    return t.NamespaceVerdict(
        namespace=message.namespace,
        verdict=enum_from_pb(t.Verdict, message.verdict),
        reason=message.reason,
        partitions=tuple(map(partition_from_pb, message.partitions)),
        seen_through=message.seen_through,
    )


def open_units_to_pb(flow: str, run: str, units: Sequence[t.UnitRef]) -> dsync.OpenUnitsRequest:
    return dsync.OpenUnitsRequest(
        flow=flow, run=run, units=[dsync.UnitRequest(unit=unit.unit, namespace=unit.namespace) for unit in units]
    )


def open_units_from_pb(message: dsync.OpenUnitsRequest) -> tuple[str, str, list[t.UnitRef]]:
    units = [t.UnitRef(unit=unit.unit, namespace=unit.namespace) for unit in message.units]
    return message.flow, message.run, units


def unit_states_to_pb(states: Sequence[t.UnitState]) -> dsync.OpenUnitsResponse:
    return dsync.OpenUnitsResponse(units=map(_unit_state_to_pb, states))


def unit_states_from_pb(message: dsync.OpenUnitsResponse) -> list[t.UnitState]:
    return list(map(_unit_state_from_pb, message.units))


def _unit_state_to_pb(state: t.UnitState) -> dsync.UnitState:
    return dsync.UnitState(
        unit=state.unit,
        fence=state.fence,
        cursor=state.cursor,
        seq=state.seq,
        rows=state.rows,
        done=state.done,
        size_bytes=state.size_bytes,
    )


def _unit_state_from_pb(message: dsync.UnitState) -> t.UnitState:
    return t.UnitState(
        unit=message.unit,
        fence=message.fence,
        cursor=message.cursor,
        seq=message.seq,
        rows=message.rows,
        done=message.done,
        size_bytes=message.size_bytes,
    )


def manifest_to_pb(manifest: t.FlowManifest) -> dsync.FlowManifest:
    return dsync.FlowManifest(
        flow=manifest.flow,
        fingerprint=manifest.fingerprint,
        name=manifest.name,
        run=manifest.run,
        plan=manifest.plan,
    )


def manifest_from_pb(message: dsync.FlowManifest) -> t.FlowManifest:
    return t.FlowManifest(
        flow=message.flow,
        fingerprint=message.fingerprint,
        name=message.name,
        run=message.run,
        plan=message.plan,
    )
