"""`dsync reset`: forget a flow, here and at its sink. The rows it has copied stay."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Literal

from dsync.app.known import KnownFlow, existing_store, find_known_flow
from dsync.app.one_end import meet_one
from dsync.coordinator.ends import End
from dsync.coordinator.tasks import task_group
from dsync.protocol.errors import DsyncError, RequestError
from dsync.protocol.types import FlowManifest, Role
from dsync.state import DEFAULT_SINK, FlowNotFoundError, LeaseHeldError, Store, this_process
from dsync.state.lease import acquire, heartbeats


@dataclass(frozen=True, slots=True, kw_only=True)
class ResetRequest:
    flow: str = ""
    """Name, id or beginning of an id; may be left out where the sink is given and remembers one flow only."""
    sink: str = ""
    """What reaches the sink; empty: the stored reference."""
    state: str = ""
    attach: Literal["process", "inline"] = "process"
    allow_plaintext: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ResetReport:
    flow: str
    flow_name: str
    at_sink: tuple[str, ...]
    """What the sink has removed, in its own words."""
    from_state: Mapping[str, int]
    """Rows of the state by table; empty where the state did not know the flow."""


OnWait = Callable[[LeaseHeldError], None]


def describe_reset(request: ResetRequest) -> str:
    """What is about to be forgotten, for a question; contacts no server.

    Raises:
        RequestError: no flow is named, or there is none of this name.
    """
    with existing_store(request.state) as store:
        known = _find(store, request)
        if known is not None:
            # Nobody is asked about what could not be done anyway.
            known.sink(request.sink)
            return f"flow {known.title} ({known.spec.source.reference} → {known.spec.sink.reference})"
    return f"flow {request.flow}, which only the sink remembers" if request.flow else "what the sink remembers"


async def reset(request: ResetRequest, on_wait: OnWait = lambda _: None) -> ResetReport:
    """Remove the flow's ledger and manifest at the sink, then its state. Repeatable after a failure in between.

    Raises:
        LeaseHeldError: it is running.
        RequestError: there is no such flow, or its sink cannot be reached without `--sink`.
    """
    with existing_store(request.state) as store:
        known = _find(store, request)
        if known is None:
            return await _reset_at_sink_only(request)
        assert store is not None, "what is known stands in a state"
        return await _reset_known(store, known, request, on_wait)


def _find(store: Store | None, request: ResetRequest) -> KnownFlow | None:
    """The flow as the state knows it; None where the sink is to be asked."""
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
    async with _holding(store, flow, on_wait), _sink(request, reference) as end:
        if known.run is not None:
            end.check_same(known.run.sink_ids.get(DEFAULT_SINK, ""))
        at_sink = await end.connector.forget_flow(flow) if end.serves("LedgerService") else []
        removed = await asyncio.to_thread(store.delete_flow, flow)
    return ResetReport(
        flow=flow,
        flow_name=known.flow.name or "",
        at_sink=tuple(at_sink),
        from_state={table: count for table, count in removed.items() if count},
    )


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


@asynccontextmanager
async def _holding(store: Store, flow: str, on_wait: OnWait) -> AsyncIterator[None]:
    """Nobody else runs the flow while it is forgotten."""
    lease = await acquire(store, flow, this_process(), on_wait=on_wait)
    lost: list[DsyncError] = []
    holder = asyncio.current_task()
    assert holder is not None, "coroutines run in tasks"

    def on_lost(error: DsyncError) -> None:
        lost.append(error)
        holder.cancel()

    try:
        async with AsyncExitStack() as stack:
            tasks = await stack.enter_async_context(task_group())
            await stack.enter_async_context(heartbeats(store, lease, tasks, on_lost))
            yield
    except asyncio.CancelledError:
        if lost:
            holder.uncancel()
            raise lost[0] from None
        raise
