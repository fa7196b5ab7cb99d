"""`dsync verify`: both ends of a flow, or any two, compared row by row. Goes on where an earlier one was stopped."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dsync.app.ends import Meeting, meet
from dsync.app.heeding import RequestKind
from dsync.app.known import existing_store, find_known_flow
from dsync.app.lag import Lag
from dsync.app.requests import VerifyRequest, load_of
from dsync.coordinator.events import EventHandler
from dsync.coordinator.following import Following
from dsync.coordinator.plan import choose, row_filters
from dsync.protocol import namespaces
from dsync.protocol.errors import RequestError
from dsync.protocol.namespaces import Selection
from dsync.protocol.types import DescribeRequest, PlanRequest, SessionRequest
from dsync.state import DEFAULT_SINK, RunRow, Store, VerifyRow
from dsync.verify import VerifyOptions, VerifyReport
from dsync.verify import verify as compare


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowEnds:
    """What the state says of a flow that is to be verified."""

    source: str
    sink: str
    names: Mapping[str, str]
    """Source namespace → target, as the flow has planned them; empty: it has no plan."""
    selection: Selection
    filters: tuple[str, ...]
    run: RunRow | None
    following: Following | None = None
    """None: it follows no source."""


def ends_of_flow(state: str, reference: str, *, source: str = "", sink: str = "") -> FlowEnds:
    """How a flow's ends are reached: by what is given, else by what is stored.

    Raises:
        FlowNotFoundError: there is no such flow.
        RequestError: an end had a password, which the state does not keep.
    """
    with existing_store(state, wanted=reference) as store:
        assert store is not None, "a flow that is wanted is looked for in a state that exists"
        known = find_known_flow(store, reference)
        planned = store.load_namespaces(known.flow.flow, known.run.run) if known.run else ()
        kept = known.run.extra.get("following") if known.run else None
        return FlowEnds(
            following=Following.of_json(kept) if kept else None,
            source=known.source(source),
            sink=known.sink(sink),
            names={row.namespace: row.target for row in planned if row.sink == DEFAULT_SINK},
            selection=known.spec.selection,
            filters=known.spec.filters,
            run=known.run,
        )


async def verify(request: VerifyRequest, emit: EventHandler, *, flow: FlowEnds | None = None) -> VerifyReport:
    """Compare the ends of a request, live. With `flow` the request's ends are that flow's.

    Raises:
        DsyncError: an end cannot be reached or read, or the request is wrong.
    """
    async with meet(request) as meeting:
        if flow is not None and flow.run is not None:
            meeting.source.check_same(flow.run.source_id)
            meeting.sink.check_same(flow.run.sink_ids.get(DEFAULT_SINK, ""))
        chosen = await _choose(meeting, request, flow)
        options = options_of(request)
        asked = request.filters or (flow.filters if flow is not None else ())
        selection = request.selection if flow is None or not flow.names else flow.selection
        filters = await row_filters(meeting.source, selection, asked)
        for end, own in ((meeting.source, filters), (meeting.sink, {})):
            await end.open_session(SessionRequest(role=end.role, parallel=options.parallel, row_filters=own))
        with Store.open(request.state or None) as store:
            return await compare(
                meeting.source.connector,
                meeting.sink.connector,
                chosen,
                options,
                progress=StoredProgress(store, pair=_pair(meeting), variant=_variant(request, filters)),
                emit=emit,
                catch_up=_catch_up(store, meeting, flow),
            )


def _catch_up(store: Store, meeting: Meeting, flow: FlowEnds | None) -> Callable[[], Awaitable[None]] | None:
    """What waits until the flow's lag has passed; None where nobody runs it, and so nothing passes."""
    if flow is None or flow.run is None or flow.following is None:
        return None
    run, following = flow.run, flow.following

    def is_followed() -> bool:
        lease = store.get_lease(run.flow)
        is_held = lease is not None and lease.holder is not None and lease.remaining_s > 0
        return is_held and not any(row.kind == RequestKind.PAUSE for row in store.open_requests(run.flow))

    if following.consistent_at is None or not is_followed():
        return None
    lag = Lag(
        source=meeting.source.connector,
        sink=meeting.sink.connector,
        flow=run.flow,
        run=run.run,
        following=following,
        is_followed=is_followed,
    )
    return lag.pass_by


def options_of(request: VerifyRequest) -> VerifyOptions:
    """What a request means for a comparison."""
    load, usual = load_of(request.load_level), VerifyOptions()
    return VerifyOptions(
        quick=request.quick,
        max_diffs=request.max_diffs,
        show_values=request.show_values,
        parallel=request.parallel or load.parallel,
        page_bytes=request.page_bytes or min(load.page_bytes, usual.page_bytes),
        # Rows that wait are held as objects, which take a few times what they weigh.
        held_bytes=min(usual.held_bytes, request.memory_limit // 8),
        retry_for_s=usual.retry_for_s if request.retry_for_s is None else request.retry_for_s,
    )


async def _choose(meeting: Meeting, request: VerifyRequest, flow: FlowEnds | None) -> dict[str, str]:
    """Source namespace → target."""
    asked = request.selection
    if flow is not None and flow.names:
        wanted = [namespaces.Pattern(text) for text in asked.include]
        unwanted = [namespaces.Pattern(text) for text in asked.exclude]
        chosen = {
            source: target
            for source, target in flow.names.items()
            if (not wanted or any(pattern.matches(source) for pattern in wanted))
            and not any(pattern.matches(source) for pattern in unwanted)
        }
        if not chosen:
            raise RequestError(
                f"{', '.join(asked.include) or 'what is not excluded'} matches no namespace of this flow: "
                "`dsync status FLOW -v` lists them"
            )
        return chosen
    selection = flow.selection if flow is not None and asked == Selection() else asked
    source = meeting.source
    if source.serves("SchemaService"):
        described = await source.connector.describe(DescribeRequest())
        chosen = choose(described, selection)
        rowless = {item.namespace for item in described.namespaces if item.rowless}
        return {source: target for source, target in chosen.items() if source not in rowless}
    if selection.include:
        return selection.of([namespaces.literal(text) for text in selection.include])
    if source.info.source is None or not source.info.source.default_plan:
        raise RequestError(f"{source.info.db_type} cannot list its namespaces: name them with -n")
    plan = await source.connector.generate_plan(PlanRequest(namespaces=()))
    return selection.of(list(dict.fromkeys(partition.namespace for partition in plan.partitions)))


def _variant(request: VerifyRequest, filters: Mapping[str, str]) -> str:
    """What else the result of a range depends on."""
    condition = f" filters={json.dumps(filters, sort_keys=True)}" if filters else ""
    return f"max-diffs={request.max_diffs}{condition}"


def _pair(meeting: Meeting) -> str:
    """Names what is compared, over restarts."""
    facts = [
        [end.info.db_type, end.info.id, identity.address]
        for end, identity in (
            (meeting.source, meeting.source_identity),
            (meeting.sink, meeting.sink_identity),
        )
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


class StoredProgress:
    """Finished ranges in the state, under the pair of ends and one namespace each."""

    def __init__(self, store: Store, *, pair: str, variant: str) -> None:
        self._store = store
        self._pair = pair
        self._variant = variant

    async def load(self, namespace: str) -> Mapping[int, Mapping[str, Any]]:
        """Everything that was saved for a namespace."""
        rows = await asyncio.to_thread(self._store.load_verify_progress, self._pair, self._key(namespace))
        return {row.ordinal: row.result for row in rows if row.namespace == namespace}

    async def save(self, namespace: str, ordinal: int, result: Mapping[str, Any]) -> None:
        """Keep it; durable on return."""
        row = VerifyRow(namespace=namespace, ordinal=ordinal, result=result)
        await asyncio.to_thread(self._store.save_verify_progress, self._pair, self._key(namespace), [row])

    async def clear(self, namespace: str) -> None:
        """Forget a namespace."""
        await asyncio.to_thread(self._store.clear_verify_progress, self._pair, self._key(namespace))

    def _key(self, namespace: str) -> str:
        """The store forgets by this key alone, so a namespace has one of its own; a differing option, too."""
        return hashlib.sha256(f"{self._variant}\0{namespace}".encode()).hexdigest()[:32]
