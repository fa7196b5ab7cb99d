"""Where a flow stands: what the state says of it, held against what its sink remembers. Nothing is changed here.

The state alone is no witness: a sink can be put back to an older state, another coordinator with a state of its own
can have gone on with the flow, and a state can be lost.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from dsync.coordinator.deliver import UnitProgress
from dsync.coordinator.ends import End
from dsync.coordinator.following import Following
from dsync.coordinator.manifest import Manifest, RunEnd, decode_manifest
from dsync.coordinator.places import read_places
from dsync.coordinator.plan import CopyPlan
from dsync.coordinator.spec import Mode
from dsync.protocol.errors import PermanentError, RequestError, SinkNotEmptyError
from dsync.protocol.types import FlowManifest
from dsync.state import NamespaceState, Phase, RunRow, UnitKind

if TYPE_CHECKING:
    from dsync.state import Store

FORGOTTEN = "the sink remembers nothing of what this flow had copied"
PUT_BACK = "the sink holds less than this flow had copied: it was put back to an older state"
PUT_BACK_A_RUN = "the sink was put back to what an earlier run of this flow had copied"


class SinkForgotError(PermanentError):
    """The flow had copied rows, and the sink has rows, but nothing at the sink says whose they are."""


class StateOutrunError(PermanentError):
    """Another coordinator, with a state of its own, has gone further with this run than this state knows."""


class Standing(enum.StrEnum):
    """How a sync would begin."""

    NEW = "new"
    """With a new run, which is planned as for a new flow."""
    GOES_ON = "goes on"
    """Where the latest run was cut off, by the plan that was stored then."""
    FINISHED = "finished"
    """Not at all: the latest run has ended, and nothing asks for another."""
    CANCELLED = "cancelled"
    """Not at all: the latest run was cancelled, and nothing asks for it to go on."""
    AGAIN = "again"
    """With a new run over a finished one, reading again what may have changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkRecord:
    """What the sink remembers of a flow."""

    manifest: FlowManifest
    kept: Manifest

    @property
    def run(self) -> str:
        return self.manifest.run

    @property
    def has_plan(self) -> bool:
        """False: it was being prepared."""
        return bool(self.kept.plan.namespaces or self.kept.plan.units)


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowStanding:
    standing: Standing
    run: RunRow | None = None
    """The latest run that the state knows."""
    record: SinkRecord | None = None
    adopts: bool = False
    """The state has to learn the record's run, or its plan, first."""
    end: RunEnd | None = None
    """How the run ended, where only the sink knows that it has."""
    again_from: str = ""
    """The run whose rows the sink holds, where a new one begins over it."""
    setback: str = ""
    """Why it is not as the state says; empty: it is."""
    places: Mapping[str, UnitProgress] = field(default_factory=dict)
    """What the ledger says, as far as it was asked."""


async def find_record(sink: End, *, flow: str) -> SinkRecord | None:
    """What the sink remembers of a flow; None: nothing, or it keeps no such records."""
    if not sink.serves("LedgerService"):
        return None
    found = await sink.connector.find_manifests(flow=flow)
    return record_of(found[0]) if found else None


async def find_lost(sink: End, store: Store | None, *, name: str, fingerprint: str) -> SinkRecord | None:
    """The flow of this name and fingerprint that the sink remembers and the state does not."""
    if not sink.serves("LedgerService"):
        return None
    for manifest in await sink.connector.find_manifests(fingerprint=fingerprint):
        if manifest.name == name and (store is None or store.find_flow(manifest.flow) is None):
            return record_of(manifest)
    return None


def record_of(manifest: FlowManifest) -> SinkRecord:
    return SinkRecord(manifest=manifest, kept=decode_manifest(manifest.plan))


async def examine(store: Store, flow: str, sink: End, *, again: bool) -> FlowStanding:
    """How a sync of this flow has to begin.

    Raises:
        StateOutrunError: the state is behind what another coordinator has done with the run.
    """
    runs = store.list_runs(flow)
    latest = runs[-1] if runs else None
    if latest is not None and latest.phase is Phase.CANCELLED:
        if not again:
            return FlowStanding(standing=Standing.CANCELLED, run=latest)
        latest = replace(latest, phase=phase_before_cancel(latest))
    record = await find_record(sink, flow=flow)
    if record is None:
        if sink.serves("LedgerService") and any(is_planned(run) for run in runs):
            return FlowStanding(standing=Standing.NEW, run=latest, setback=FORGOTTEN)
        return _as_recorded(latest, again=again)
    if latest is None or record.run not in {run.run for run in runs}:
        return await examine_lost(record, sink, again=again, run=latest)
    if record.run == latest.run:
        return await _same_run(store, latest, record, sink, again=again)
    return _earlier_run(store, latest, record)


def in_mode(stands: FlowStanding, flow: str, *, mode: Mode, again: bool) -> FlowStanding:
    """The same for a command that asks for a mode: what was only copied is copied again under a slot to be followed.

    Raises:
        RequestError: the flow is followed, and a copy alone was asked for; or nothing was to be copied, and what lies
            between the rows at the sink and the changes to come would be missing.
    """
    wanted = mode
    run, record = stands.run, stands.record
    if stands.adopts and record is not None and record.has_plan:
        mode = record.kept.spec.mode
        following, begun = record.kept.plan.following, record.run
        has_failed = False
    elif run is not None and is_planned(run):
        kept = run.extra.get("following")
        mode, following, begun = _mode_of(run), Following.of_json(kept) if kept else None, run.run
        has_failed = run.phase is Phase.FAILED
    elif run is not None and run.mode != mode and stands.standing is Standing.GOES_ON:
        # It never came to a plan, and a run is judged by its mode for good.
        return replace(stands, standing=Standing.NEW)
    else:
        return stands
    if "stream" in (mode, wanted):
        _refuse_gap(stands, flow, mode=mode, wanted=wanted, following=following, again=again)
    if wanted == "copy":
        if mode != "copy":
            raise RequestError(
                f"flow {flow} follows its source: leave --mode copy out and it goes on, or forget it with `dsync reset "
                f"{flow}` and copy anew; another name (--flow) makes another flow of the same ends"
            )
        return stands
    if stands.standing in (Standing.NEW, Standing.AGAIN):
        return stands
    # A run that follows has no end, so what a new one begins over is one that had arrived, or has failed.
    has_arrived = following is not None and following.consistent_at is not None
    is_over = mode == "copy" or (again and (has_arrived or has_failed))
    return replace(stands, standing=Standing.AGAIN, again_from=begun) if is_over else stands


def _mode_of(run: RunRow) -> Mode:
    return "copy" if run.mode == "copy" else "stream" if run.mode == "stream" else "full"


def _refuse_gap(
    stands: FlowStanding, flow: str, *, mode: Mode, wanted: Mode, following: Following | None, again: bool
) -> None:
    """Raise RequestError where a stream without a copy would leave out what was written before it begins."""
    if mode == "copy":
        raise RequestError(
            f"flow {flow} has copied, and what was written since is in no stream that begins now: --mode full reads "
            "again what has changed and then follows. Another name (--flow) makes another flow of the same ends, for "
            "those who know that nothing was written in between"
        )
    if mode == "full" and (again or following is None or following.consistent_at is None):
        why = "--again copies what has changed" if again else "it has not copied everything yet"
        raise RequestError(f"flow {flow} copies and then follows, and {why}: leave --mode stream out, and it goes on")
    if mode == "stream" and (again or stands.standing is Standing.AGAIN or stands.setback):
        why = stands.setback or "--again would begin behind changes that nobody has applied"
        raise RequestError(
            f"flow {flow} follows without having copied, and {why}: what is missing at the sink cannot be known. "
            f"Forget the flow with `dsync reset {flow}`; then either copy anew (--mode full), or bring the sink to the "
            "source's state by other means and begin again"
        )


async def examine_lost(
    record: SinkRecord, sink: End, *, again: bool = False, run: RunRow | None = None
) -> FlowStanding:
    """How a sync has to begin with a run that only the sink knows."""
    places = await read_places(sink, record.manifest.flow, record.run, record.kept.plan)
    end = _end(record, places)
    standing = _ended(again=again) if end is not None else Standing.GOES_ON
    return FlowStanding(
        standing=standing,
        run=run,
        record=record,
        adopts=True,
        end=end,
        again_from=record.run if standing is Standing.AGAIN else "",
        places=places,
    )


def forgotten(flow: str, error: SinkNotEmptyError) -> SinkForgotError:
    """For a flow that had copied its tables, of which the sink knows nothing any more though it holds rows."""
    return SinkForgotError(
        f"flow {flow} has copied into this sink, which has lost its record of that (schema _dsync) and holds rows that "
        f"may be the flow's or others'; nothing was changed ({error}). Compare with `dsync verify`; to copy anew, "
        f"forget the flow with `dsync reset {flow}` and choose --on-existing, or empty those tables"
    )


def phase_before_cancel(run: RunRow) -> Phase:
    """Where a run that was cancelled goes on."""
    return Phase.COPYING if is_planned(run) else Phase.CHECKING


def is_planned(run: RunRow) -> bool:
    return bool(run.extra.get("planned"))


def stored_plan(store: Store, run: RunRow) -> CopyPlan:
    return CopyPlan(
        namespaces=store.load_namespaces(run.flow, run.run),
        units=tuple(unit for unit in store.load_units(run.flow, run.run) if unit.kind is not UnitKind.LANE),
        snapshot=run.snapshot,
    )


def _as_recorded(latest: RunRow | None, *, again: bool) -> FlowStanding:
    if latest is None:
        return FlowStanding(standing=Standing.NEW)
    if not latest.phase.is_final:
        return FlowStanding(standing=Standing.GOES_ON, run=latest, again_from=str(latest.extra.get("again_from", "")))
    return FlowStanding(standing=_ended(again=again), run=latest, again_from=latest.run if again else "")


def _ended(*, again: bool) -> Standing:
    return Standing.AGAIN if again else Standing.FINISHED


async def _same_run(store: Store, latest: RunRow, record: SinkRecord, sink: End, *, again: bool) -> FlowStanding:
    """The sink's latest run is the state's."""
    if not is_planned(latest):
        # Taken over from the sink, by a process that was killed before it had the plan.
        taken = await examine_lost(record, sink, again=again, run=latest) if record.has_plan else None
        return taken or _as_recorded(latest, again=again)
    plan = stored_plan(store, latest)
    _refuse_outrun(latest, plan, record)
    checkpoints = store.load_checkpoints(latest.flow, latest.run)
    if not record.has_plan:
        if latest.phase.is_final or checkpoints:
            return FlowStanding(standing=Standing.NEW, run=latest, record=record, setback=FORGOTTEN)
        return _as_recorded(latest, again=again)
    if not latest.phase.is_final and record.kept.end is None:
        return _as_recorded(latest, again=again)
    places = await read_places(sink, latest.flow, latest.run, plan)
    if not latest.phase.is_final:
        end = _end(record, places)
        if end is None:
            return _as_recorded(latest, again=again)
        standing = _ended(again=again)
        return FlowStanding(
            standing=standing,
            run=latest,
            record=record,
            end=end,
            again_from=latest.run if again else "",
            places=places,
        )
    carried = set(latest.extra.get("carried", ()))
    kept = {unit.unit for unit in plan.partitions if unit.namespace in carried}
    done = {unit for (unit, _), row in checkpoints.items() if row.done} - kept
    if all(places[unit].done for unit in done if unit in places):
        return _as_recorded(latest, again=again)
    return FlowStanding(
        standing=Standing.AGAIN if again else Standing.GOES_ON,
        run=latest,
        again_from=latest.run if again else str(latest.extra.get("again_from", "")),
        setback=PUT_BACK,
        places=places,
    )


def _earlier_run(store: Store, latest: RunRow, record: SinkRecord) -> FlowStanding:
    """The sink knows the flow, and not its latest run: that had not come so far, or was taken back with the sink."""
    if is_planned(latest) and not latest.phase.is_final and not _has_begun(store, latest, record):
        return _as_recorded(latest, again=False)
    setback = PUT_BACK_A_RUN if is_planned(latest) else ""
    if not record.has_plan:
        return FlowStanding(standing=Standing.NEW, run=latest, record=record, setback=setback)
    return FlowStanding(standing=Standing.AGAIN, run=latest, record=record, again_from=record.run, setback=setback)


def _has_begun(store: Store, run: RunRow, record: SinkRecord) -> bool:
    """It had written or cleared something at the sink, which only a run that the sink knows may."""
    carried = set(run.extra.get("carried", ()))
    filled = {row.target for row in record.kept.plan.namespaces}
    plan = stored_plan(store, run)
    kept = {unit.unit for unit in plan.partitions if unit.namespace in carried}
    if any(unit not in kept for unit, _ in store.load_checkpoints(run.flow, run.run)):
        return True
    return any(
        row.target in filled and row.namespace not in carried and row.state is not NamespaceState.CLEARING
        for row in plan.namespaces
    )


def _end(record: SinkRecord, places: Mapping[str, UnitProgress]) -> RunEnd | None:
    """How the sink's run ended; None: it has not, or what it had written is not all there any more."""
    end = record.kept.end
    if end is None:
        return None
    settled = {*end.undone, *(row.unit for row in record.kept.carried)}
    is_whole = all(
        unit.unit in places and places[unit.unit].done for unit in record.kept.plan.units if unit.unit not in settled
    )
    return end if is_whole else None


def _refuse_outrun(run: RunRow, plan: CopyPlan, record: SinkRecord) -> None:
    """Units of a generation that was read again since may not be gone on with: their rows would come twice."""
    known = {row.namespace: row.generation for row in plan.namespaces}
    further = [row.namespace for row in record.kept.plan.namespaces if row.generation > known.get(row.namespace, 0)]
    if further:
        raise StateOutrunError(
            f"flow {run.flow}: another coordinator, with a state of its own, has read {further[0]} again since this "
            "state was written; go on with that state (--state), or with a new one, which learns from the sink how far "
            "the flow has come"
        )
