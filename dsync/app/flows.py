"""Which flow and which run a command is about: found, taken up again from the sink, or begun."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dsync.app.standing import (
    FlowStanding,
    SinkRecord,
    Standing,
    examine,
    find_lost,
    in_mode,
    is_planned,
)
from dsync.coordinator.ends import End
from dsync.coordinator.journal import checkpoint_of
from dsync.coordinator.spec import FlowSpec
from dsync.state import FlowRow, Phase, RunRow

if TYPE_CHECKING:
    from dsync.state import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenRun:
    flow: FlowRow
    run: RunRow
    again_from: str = ""
    """The finished run whose unchanged namespaces need not be read again."""
    is_finished: bool = False
    """Nothing is to be done: the run has ended, and no new one was asked for."""
    setback: str = ""
    """Why it does not go on from where the state says; empty: it does."""


async def find_or_begin_flow(store: Store, *, name: str, fingerprint: str, spec: FlowSpec, sink: End) -> FlowRow:
    """The flow of this name, else of this fingerprint, else one that only the sink remembers, else a new one."""
    known = store.find_flow_by_name(name) if name else None
    if known is None and not (not name and store.find_flows_by_fingerprint(fingerprint)):
        lost = await find_lost(sink, store, name=name, fingerprint=fingerprint)
        if lost is not None:
            # Under the id that it had; its run is taken over by whoever holds the flow. A second copy over the first
            # would be the alternative.
            kept = lost.kept.spec.model_dump(mode="json")
            store.create_flow(name=name or None, fingerprint=fingerprint, spec=kept, flow=lost.manifest.flow)
    flow, _ = store.open_flow(name=name or None, fingerprint=fingerprint, spec=spec.model_dump(mode="json"))
    return flow


async def choose_run(store: Store, flow: FlowRow, spec: FlowSpec, source: End, sink: End, *, again: bool) -> ChosenRun:
    """The run that is to go on, or a new one; call while holding the flow's lease.

    Raises:
        OtherEndpointError: what the sink remembers was copied from another source.
        StateOutrunError: another coordinator has gone further with the run than this state knows.
    """
    stands = in_mode(
        await examine(store, flow.flow, sink, again=again), flow.name or flow.flow, mode=spec.mode, again=again
    )
    if stands.adopts and stands.record is not None:
        source.check_same(stands.record.kept.source_id)
    latest = _taken_over(store, flow.flow, stands)
    if stands.standing in (Standing.FINISHED, Standing.CANCELLED) and latest is not None:
        return ChosenRun(flow=flow, run=latest, is_finished=True)
    flow = store.update_spec(flow.flow, spec.model_dump(mode="json"))
    return ChosenRun(
        flow=flow,
        run=_run_to_use(store, flow, spec, stands, latest),
        again_from=stands.again_from,
        setback=stands.setback,
    )


def _run_to_use(store: Store, flow: FlowRow, spec: FlowSpec, stands: FlowStanding, latest: RunRow | None) -> RunRow:
    if stands.standing is Standing.GOES_ON and latest is not None:
        if latest.phase.is_final:
            store.set_phase(flow.flow, latest.run, Phase.COPYING)
        return latest
    # Kept with the run: should it end before it has a plan, what goes on with it must know whose rows are there.
    extra = {"again_from": stands.again_from} if stands.again_from else {}
    if latest is not None and not latest.phase.is_final and not is_planned(latest) and latest.mode == spec.mode:
        store.set_extra(flow.flow, latest.run, extra)
        return latest
    return store.new_run(flow.flow, mode=spec.mode, extra=extra)


# ------------------------------------------------------------------ what only the sink knows


def _taken_over(store: Store, flow: str, stands: FlowStanding) -> RunRow | None:
    """The latest run, once the state knows of it what it has to learn from the sink."""
    record = stands.record
    if record is None or not (stands.adopts or stands.end is not None):
        return stands.run
    if stands.adopts:
        _learn_run(store, flow, record)
    if stands.end is not None:
        _learn_end(store, flow, stands)
    return store.get_run(flow, record.run)


def _learn_run(store: Store, flow: str, record: SinkRecord) -> None:
    """Rebuild lost state: the sink's manifest has the plan, its ledger what has arrived."""
    kept = record.kept
    if store.get_run(flow, record.run) is None:
        store.new_run(flow, mode=kept.spec.mode, run=record.run)
        store.set_endpoints(flow, record.run, source_id=kept.source_id, sink_ids={})
    if not record.has_plan:
        return
    units = {row.unit for row in kept.carried}
    carried = sorted({unit.namespace for unit in kept.plan.partitions if unit.unit in units})
    following = {"following": kept.plan.following.as_json()} if kept.plan.following is not None else {}
    store.save_plan(
        flow,
        record.run,
        kept.plan.namespaces,
        kept.plan.recorded_units,
        snapshot=kept.plan.snapshot,
        extra={"planned": True, "rebuilt": True, "carried": carried} | following,
        phase=Phase.COPYING,
        checkpoints=kept.carried,
    )


def _learn_end(store: Store, flow: str, stands: FlowStanding) -> None:
    record, end = stands.record, stands.end
    assert record is not None, "an end is read from a record"
    assert end is not None, "only an end is learnt here"
    settled = {row.unit for row in record.kept.carried}
    reached = [checkpoint_of(place) for unit, place in stands.places.items() if place.seq and unit not in settled]
    store.save_checkpoints(flow, record.run, reached)
    for row in record.kept.plan.namespaces:
        store.set_namespace_state(flow, record.run, row.namespace, row.state, reason=row.reason)
    store.finish_run(
        flow,
        record.run,
        end.phase,
        consistent=end.consistent,
        summary=end.summary,
        finished_at=end.finished_at,
    )
