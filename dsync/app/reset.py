"""`dsync reset`: forget a flow, here, at its sink and at the source that it follows. The rows it has copied stay."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal

from dsync.app.holding import OnWait, holding
from dsync.app.known import KnownFlow, existing_store, find_known_flow
from dsync.app.one_end import meet_one
from dsync.coordinator.ends import End
from dsync.protocol.errors import OtherEndpointError, RequestError
from dsync.protocol.types import FlowManifest, Role
from dsync.spool import remove_spools
from dsync.state import DEFAULT_SINK, FlowNotFoundError, Store
from dsync.state.location import spool_directory


@dataclass(frozen=True, slots=True, kw_only=True)
class ResetRequest:
    flow: str = ""
    """Name, id or beginning of an id; may be left out where the sink is given and remembers one flow only."""
    sink: str = ""
    """What reaches the sink; empty: the stored reference."""
    source: str = ""
    """What reaches the source, which keeps something for a flow that follows it; empty: the stored reference."""
    state_only: bool = False
    """Contact no sink: it is gone, or another server has taken its name."""
    state: str = ""
    attach: Literal["process", "inline"] = "process"
    allow_plaintext: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ResetReport:
    flow: str
    flow_name: str
    at_sink: tuple[str, ...]
    """What the sink has removed, in its own words."""
    at_source: tuple[str, ...] = ()
    """What the source has removed."""
    from_state: Mapping[str, int]
    """Rows of the state by table; empty where the state did not know the flow."""
    left_behind: tuple[str, ...] = ()
    """What was not looked for at the sink, and may still be there."""


def describe_reset(request: ResetRequest) -> str:
    """What is about to be forgotten, for a question; contacts no server.

    Raises:
        RequestError: no flow is named, or there is none of this name.
    """
    with existing_store(request.state) as store:
        known = _find(store, request)
        if known is not None:
            # Nobody is asked about what could not be done anyway.
            if not request.state_only:
                known.sink(request.sink)
                if _follows(store, known):
                    known.source(request.source)
            return f"flow {known.title} ({known.spec.source.reference} → {known.spec.sink.reference})"
    return f"flow {request.flow}, which only the sink remembers" if request.flow else "what the sink remembers"


async def reset(request: ResetRequest, on_wait: OnWait = lambda _: None) -> ResetReport:
    """Remove what the source keeps for the flow, its ledger and manifest at the sink, then its state.

    Repeatable after a failure in between.

    Raises:
        LeaseHeldError: it is running.
        OtherEndpointError: its sink is another server now.
        RequestError: there is no such flow, or its sink cannot be reached without `--sink`.
    """
    with existing_store(request.state) as store:
        known = _find(store, request)
        if known is None:
            return await _reset_at_sink_only(request)
        assert store is not None, "what is known stands in a state"
        if request.state_only:
            return await _reset_state_only(store, known, request, on_wait)
        return await _reset_known(store, known, request, on_wait)


def _find(store: Store | None, request: ResetRequest) -> KnownFlow | None:
    """The flow as the state knows it; None where the sink is to be asked."""
    if request.state_only and (request.sink or not request.flow):
        raise RequestError("--state-only forgets a flow without asking its sink: name the FLOW, and leave --sink out")
    if not request.flow:
        if not request.sink:
            raise RequestError("name the flow (`dsync flows` lists them), or give --sink URI to ask the sink")
        return None
    try:
        if store is not None:
            return find_known_flow(store, request.flow)
    except FlowNotFoundError:
        if not request.sink:
            raise
    if not request.sink:
        raise FlowNotFoundError(
            f"there is no flow {request.flow}: there is no state yet; where state was lost, give --sink URI too"
        )
    return None


async def _reset_known(store: Store, known: KnownFlow, request: ResetRequest, on_wait: OnWait) -> ResetReport:
    flow = known.flow.flow
    reference = known.sink(request.sink)
    follows = _follows(store, known)
    source_reference = known.source(request.source) if follows else ""
    async with holding(store, flow, on_wait), _sink(request, reference) as end:
        _refuse_other_sink(end, known)
        # First what fills a server's disk as long as it is there.
        at_source = await _release(request, known, source_reference) if follows else []
        at_sink = await end.connector.forget_flow(flow) if end.serves("LedgerService") else []
        await remove_spools(spool_directory(request.state, flow))
        removed = await asyncio.to_thread(store.delete_flow, flow)
    return ResetReport(
        flow=flow,
        flow_name=known.flow.name or "",
        at_sink=tuple(at_sink),
        at_source=tuple(at_source),
        from_state={table: count for table, count in removed.items() if count},
    )


def _follows(store: Store | None, known: KnownFlow) -> bool:
    """A run of it may have left something at its source."""
    return store is not None and any(run.mode != "copy" for run in store.list_runs(known.flow.flow))


async def _release(request: ResetRequest, known: KnownFlow, reference: str) -> list[str]:
    async with meet_one(reference, Role.SOURCE, attach=request.attach, allow_plaintext=request.allow_plaintext) as one:
        try:
            one.end.check_same(known.run.source_id if known.run is not None else "")
        except OtherEndpointError as error:
            raise OtherEndpointError(
                f"{error}; where that source is gone for good, `dsync reset {known.title} --state-only` forgets the "
                "flow here"
            ) from error
        return await one.end.connector.release_changes(known.flow.flow) if one.end.serves("ChangeService") else []


def _refuse_other_sink(end: End, known: KnownFlow) -> None:
    """What another server keeps is not this flow's to remove."""
    try:
        end.check_same(known.run.sink_ids.get(DEFAULT_SINK, "") if known.run is not None else "")
    except OtherEndpointError as error:
        raise OtherEndpointError(
            f"{error}; where that sink is gone for good, `dsync reset {known.title} --state-only` forgets the flow here"
        ) from error


async def _reset_state_only(store: Store, known: KnownFlow, request: ResetRequest, on_wait: OnWait) -> ResetReport:
    flow = known.flow.flow
    async with holding(store, flow, on_wait):
        left = await asyncio.to_thread(_left_behind, store, known)
        await remove_spools(spool_directory(request.state, flow))
        removed = await asyncio.to_thread(store.delete_flow, flow)
    return ResetReport(
        flow=flow,
        flow_name=known.flow.name or "",
        at_sink=(),
        from_state={table: count for table, count in removed.items() if count},
        left_behind=left,
    )


def _left_behind(store: Store, known: KnownFlow) -> tuple[str, ...]:
    """What the flow has made at its sink by the state's word."""
    runs = [run for run in store.list_runs(known.flow.flow) if run.sink_ids.get(DEFAULT_SINK)]
    if not runs:
        return ()
    flow, sink, source = known.flow.flow, known.spec.sink.reference, known.spec.source.reference
    ids = dict.fromkeys(run.sink_ids[DEFAULT_SINK] for run in runs)
    targets = dict.fromkeys(row.target for run in runs for row in store.load_namespaces(flow, run.run))
    lines = [f"{sink}, as it was then ({', '.join(ids)}): what it remembers of flow {flow} (ledger, manifest)"]
    lines += [f"{sink}: {target}, with the rows that were copied" for target in targets]
    if _follows(store, known):
        lines.append(f"{source}: what it keeps for flow {flow} (a slot fills its disk: `dsync doctor` lists them)")
    return (*lines, f"should that sink come back, `dsync reset {flow} --sink URI` removes the first of these")


async def _reset_at_sink_only(request: ResetRequest) -> ResetReport:
    async with _sink(request, request.sink) as end:
        if not end.serves("LedgerService"):
            raise RequestError(f"{end.info.db_type} remembers no flows: there is nothing to reset at this sink")
        manifest = _choose(await end.connector.find_manifests(), request.flow)
        at_sink = await end.connector.forget_flow(manifest.flow)
    return ResetReport(flow=manifest.flow, flow_name=manifest.name, at_sink=tuple(at_sink), from_state={})


def _choose(manifests: list[FlowManifest], wanted: str) -> FlowManifest:
    fitting = [m for m in manifests if not wanted or m.name == wanted or m.flow.startswith(wanted)]
    if len(fitting) == 1:
        return fitting[0]
    names = ", ".join(m.name or m.flow for m in (fitting or manifests)) or "none"
    if not fitting:
        raise FlowNotFoundError(f"neither the state nor the sink knows a flow {wanted}; the sink has: {names}")
    raise FlowNotFoundError(f"the sink remembers several flows: {names}; say which one")


@asynccontextmanager
async def _sink(request: ResetRequest, reference: str) -> AsyncIterator[End]:
    async with meet_one(reference, Role.SINK, attach=request.attach, allow_plaintext=request.allow_plaintext) as one:
        yield one.end
