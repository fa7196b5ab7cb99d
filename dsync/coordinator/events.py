"""What happens in a run, as values: progress, logs, metrics and the store's record all subscribe to these."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from dsync.protocol.types import Finding


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Base of all events; `kept` ones are appended to the store's record of the run."""

    kept: ClassVar[bool] = True
    namespace: str = ""

    @property
    def name(self) -> str:
        """Past tense, snake case: `partition_copied`."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", type(self).__name__).lower()

    def data(self) -> dict[str, Any]:
        """The event's own values, ready for JSON."""
        return {key: value for key, value in asdict(self).items() if key != "namespace"}


EventHandler = Callable[[Event], None]
"""Called in the coordinator's loop for every event; must not block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseChanged(Event):
    phase: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingReported(Event):
    finding: Finding


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespacePlanned(Event):
    target: str
    page_type: str
    reason: str
    partitions: int
    estimated_rows: int
    size_bytes: int
    copied_rows: int = 0
    """What an earlier life of this run has copied already."""
    copied_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PageCopied(Event):
    kept: ClassVar[bool] = False
    rows: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionCopied(Event):
    unit: str
    rows: int
    size_bytes: int
    elapsed_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceCopied(Event):
    rows: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceStopped(Event):
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceRestarted(Event):
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceRejoined(Event):
    """It was copied anew beside the others, has caught up, and is followed with them again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterAdded(Event):
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRetried(Event):
    operation: str
    error: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkPutBack(Event):
    """What the state says of the flow is not what the sink has."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotLost(Event):
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotRenewed(Event):
    unchanged: int
    changed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFinished(Event):
    step: str
    kind: str
    elapsed_s: float
    done: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsistencyReached(Event):
    """The sink equals the source as it was at a position, and from now on as of each later one in turn."""

    position: int
    """The source's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamMoved(Event):
    """Where a stream stands; said every second or so while one is followed."""

    kept: ClassVar[bool] = False
    changes: int
    """Written by this process."""
    lag_s: float
    """How much older the last change that the sink has is than the last word of the source; 0: it has all."""
    lag_bytes: int
    """The same in the source's own positions."""
    spool_bytes: int
    retained_bytes: int
    """What the source keeps for the stream."""
    safe_bytes: int | None = None
    """How much more may be written at the source before it gives the stream up; None: there is no limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestHeeded(Event):
    """Base of what follows from requests, which the store keeps by themselves."""

    kept: ClassVar[bool] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPaused(RequestHeeded):
    """Nothing new is read; what is on its way is finished."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResumed(RequestHeeded):
    """It was paused, and goes on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RateChanged(RequestHeeded):
    rows_per_s: int
    """0: as many as there are."""
    bytes_per_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelAsked(RequestHeeded):
    """The run ends once what is on its way is finished."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFinished(Event):
    rows: int
    size_bytes: int
    elapsed_s: float
    consistent: bool | None
