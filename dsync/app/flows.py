"""Which flow and which run a command is about: found, taken up again from the sink, or begun."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dsync.coordinator.ends import End
from dsync.coordinator.manifest import Manifest, decode_manifest
from dsync.coordinator.spec import FlowSpec
from dsync.protocol.types import FlowManifest
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


async def find_or_begin_flow(store: Store, *, name: str, fingerprint: str, spec: FlowSpec, sink: End) -> FlowRow:
    """The flow of this name, else of this fingerprint, else one that only the sink remembers, else a new one."""
    known = store.find_flow_by_name(name) if name else None
    if known is None and not (not name and store.find_flows_by_fingerprint(fingerprint)):
        await _take_up_from_sink(store, name=name, fingerprint=fingerprint, sink=sink)
    flow, _ = store.open_flow(name=name or None, fingerprint=fingerprint, spec=spec.model_dump(mode="json"))
    return flow


async def _take_up_from_sink(store: Store, *, name: str, fingerprint: str, sink: End) -> None:
    """Rebuild lost state: the sink's manifest has the plan, its ledger what has arrived.

    A second copy over the first would be the alternative.
    """
    if not sink.serves("LedgerService"):
        return
    for manifest in await sink.connector.find_manifests(fingerprint=fingerprint):
        if manifest.name != name or store.find_flow(manifest.flow) is not None:
            continue
        kept = decode_manifest(manifest.plan)
        spec = kept.spec.model_dump(mode="json")
        store.create_flow(name=name or None, fingerprint=fingerprint, spec=spec, flow=manifest.flow)
        store.new_run(manifest.flow, mode=kept.spec.mode, run=manifest.run)
        store.set_endpoints(manifest.flow, manifest.run, source_id=kept.source_id, sink_ids={})
        if kept.plan.namespaces or kept.plan.units:
            _save_plan(store, manifest, kept)
        return


def _save_plan(store: Store, manifest: FlowManifest, kept: Manifest) -> None:
    units = {row.unit for row in kept.carried}
    carried = sorted({unit.namespace for unit in kept.plan.partitions if unit.unit in units})
    store.save_plan(
        manifest.flow,
        manifest.run,
        kept.plan.namespaces,
        kept.plan.units,
        snapshot=kept.plan.snapshot,
        extra={"planned": True, "rebuilt": True, "carried": carried},
        phase=Phase.COPYING,
        checkpoints=kept.carried,
    )


def choose_run(store: Store, flow: FlowRow, spec: FlowSpec, *, again: bool) -> ChosenRun:
    """The run that is to go on, or a new one; call while holding the flow's lease."""
    latest = store.latest_run(flow.flow)
    if latest is not None and latest.phase.is_final and not again:
        return ChosenRun(flow=flow, run=latest, is_finished=True)
    flow = store.update_spec(flow.flow, spec.model_dump(mode="json"))
    if latest is None:
        return ChosenRun(flow=flow, run=store.new_run(flow.flow, mode=spec.mode))
    if latest.phase.is_final:
        # Kept with the run: should it end before it has a plan, what goes on with it must know whose rows are there.
        run = store.new_run(flow.flow, mode=spec.mode, extra={"again_from": latest.run})
        return ChosenRun(flow=flow, run=run, again_from=latest.run)
    return ChosenRun(flow=flow, run=latest, again_from=str(latest.extra.get("again_from", "")))
