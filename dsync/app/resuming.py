"""A flow that goes on from its stored specification: `dsync resume` where nothing runs it."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING

from dsync.app.known import KnownFlow
from dsync.app.requests import SyncRequest, level_of
from dsync.coordinator.spec import FlowSpec
from dsync.protocol.errors import RequestError

if TYPE_CHECKING:
    from dsync.coordinator.control import Rate
    from dsync.state import FlowRow, Store


def request_of(
    known: KnownFlow,
    *,
    state: str = "",
    source: str = "",
    sink: str = "",
    allow_plaintext: bool = False,
    until_caught_up: bool = False,
    rate: Rate | None = None,
) -> SyncRequest:
    """What the flow was last run with; `source` and `sink` reach its ends where the state keeps no password.

    `state` is where the flow was found: what that is called elsewhere has no password.

    Raises:
        RequestError: it keeps none for an end, and none was given.
    """
    # Both hold what the flow is and how it is copied, under the same names.
    kept = {field.name for field in fields(SyncRequest)} & set(FlowSpec.model_fields) - {"source", "sink"}
    request = SyncRequest(
        source=known.source(source),
        sink=known.sink(sink),
        allow_plaintext=allow_plaintext,
        until_caught_up=until_caught_up,
        flow=known.flow.name or "",
        resumes=known.flow.flow,
        state=state,
        load_level=level_of(known.spec.pause_ratio),
        **{name: getattr(known.spec, name) for name in kept},
    )
    if rate is None:
        return request
    return replace(request, rate_rows_per_s=rate.rows_per_s, rate_bytes_per_s=rate.bytes_per_s)


def flow_to_resume(store: Store, flow: str, fingerprint: str) -> FlowRow:
    """The flow of this id.

    Raises:
        RequestError: the ends that were given are not its own.
    """
    found = store.get_flow(flow)
    if found.fingerprint != fingerprint:
        spec = FlowSpec.model_validate(found.spec)
        raise RequestError(
            f"flow {found.name or flow} runs from {spec.source.reference} to {spec.sink.reference}, and --source or"
            " --sink names another server or database: leave out whichever has not moved"
        )
    return found
