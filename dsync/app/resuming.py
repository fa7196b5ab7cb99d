"""A flow that goes on from its stored specification: `dsync resume` where nothing runs it."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from dsync.app.known import KnownFlow
from dsync.app.requests import SyncRequest, level_of
from dsync.coordinator.spec import FlowSpec
from dsync.protocol.errors import RequestError

if TYPE_CHECKING:
    from dsync.state import FlowRow, Store


def request_of(
    known: KnownFlow,
    *,
    source: str = "",
    sink: str = "",
    allow_plaintext: bool = False,
    until_caught_up: bool = False,
) -> SyncRequest:
    """What the flow was last run with; `source` and `sink` reach its ends where the state keeps no password.

    Raises:
        RequestError: it keeps none for an end, and none was given.
    """
    # Both hold what the flow is and how it is copied, under the same names.
    kept = {field.name for field in fields(SyncRequest)} & set(FlowSpec.model_fields) - {"source", "sink"}
    return SyncRequest(
        source=known.source(source),
        sink=known.sink(sink),
        allow_plaintext=allow_plaintext,
        until_caught_up=until_caught_up,
        flow=known.flow.name or "",
        resumes=known.flow.flow,
        state=known.state,
        load_level=level_of(known.spec.pause_ratio),
        **{name: getattr(known.spec, name) for name in kept},
    )


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
