"""What dsync remembers between two commands: flows, runs, plans, checkpoints, leases, requests, dead letters, events.

`Store` is imported when it is first asked for: it brings SQLAlchemy, which many commands do without.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dsync.state.errors import (
    STATE_ERRORS,
    FlowExistsError,
    FlowNotFoundError,
    LeaseHeldError,
    LeaseLostError,
    NotAStateError,
    StateBusyError,
    StateCorruptError,
    StateFromTheFutureError,
    StateFullError,
    StateIncompleteError,
    StateMissingError,
    StateUnavailableError,
    StateUncertainError,
    StateUnreachableError,
    UnitGoneError,
)
from dsync.state.holder import this_process
from dsync.state.rows import (
    DEFAULT_SINK,
    DEFAULT_TTL_S,
    DEFAULT_WORKSPACE,
    CheckpointRow,
    DeadLetterRow,
    EventRow,
    FlowRow,
    FlowSummary,
    Holder,
    JsonObject,
    Lease,
    LeaseRow,
    LetterRef,
    NamespaceRow,
    NamespaceState,
    NamespaceTotals,
    Phase,
    RequestRow,
    RunRow,
    SinkTotals,
    UnitKind,
    UnitRow,
    VerifyRow,
    finish_units,
    lane_units,
    partition_units,
)

if TYPE_CHECKING:
    from dsync.state.store import Store

__all__ = [
    "DEFAULT_SINK",
    "DEFAULT_TTL_S",
    "DEFAULT_WORKSPACE",
    "STATE_ERRORS",
    "CheckpointRow",
    "DeadLetterRow",
    "EventRow",
    "FlowExistsError",
    "FlowNotFoundError",
    "FlowRow",
    "FlowSummary",
    "Holder",
    "JsonObject",
    "Lease",
    "LeaseHeldError",
    "LeaseLostError",
    "LeaseRow",
    "LetterRef",
    "NamespaceRow",
    "NamespaceState",
    "NamespaceTotals",
    "NotAStateError",
    "Phase",
    "RequestRow",
    "RunRow",
    "SinkTotals",
    "StateBusyError",
    "StateCorruptError",
    "StateFromTheFutureError",
    "StateFullError",
    "StateIncompleteError",
    "StateMissingError",
    "StateUnavailableError",
    "StateUncertainError",
    "StateUnreachableError",
    "Store",
    "UnitGoneError",
    "UnitKind",
    "UnitRow",
    "VerifyRow",
    "finish_units",
    "lane_units",
    "partition_units",
    "this_process",
]


def __getattr__(name: str) -> object:
    if name == "Store":
        from dsync.state.store import Store

        return Store
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
