"""What the store keeps, as values: one frozen dataclass a kind of row.

Times are aware UTC datetimes on the store's own clock; a field that the store fills in itself has a default and
is ignored when the row is written. JSON fields hold what `json.dumps` takes, and never a secret.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from dsync.protocol.types import FinishStep, PageType, Partition

JsonObject = Mapping[str, Any]

DEFAULT_WORKSPACE = "default"
DEFAULT_SINK = "1"
"""The key of a flow's first sink; the keys of later ones are the coordinator's to choose."""


class Phase(enum.StrEnum):
    """How far a run has come. A run that was interrupted stays in its phase and holds no lease."""

    CHECKING = "checking"
    PLANNING = "planning"
    PREPARING = "preparing"
    COPYING = "copying"
    FINISHING = "finishing"
    CATCHING_UP = "catching_up"
    """Changes are applied over what was copied while they were made."""
    STREAMING = "streaming"
    VERIFYING = "verifying"
    DONE = "done"
    FAILED = "failed"
    INCONSISTENT = "inconsistent"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Nothing more will be done in this run."""
        return self in _FINAL_PHASES


_FINAL_PHASES = frozenset({Phase.DONE, Phase.INCONSISTENT, Phase.CANCELLED})


class NamespaceState(enum.StrEnum):
    """How far one namespace of a run has come at one sink."""

    PENDING = "pending"
    CLEARING = "clearing"
    """To be read again; the rows of its retired units have to leave the sink first."""
    COPYING = "copying"
    COPIED = "copied"
    CHANGED = "changed"
    """Copied, and changed at the source under a lost snapshot: it stays, and the run is inconsistent."""
    STOPPED = "stopped"


class UnitKind(enum.StrEnum):
    PARTITION = "partition"
    FINISH = "finish"
    LANE = "lane"
    """One of those that write the changes of a stream, side by side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowRow:
    flow: str
    """A random id, lower-case hexadecimal."""
    name: str | None
    fingerprint: str
    spec: JsonObject
    spec_revision: int
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRow:
    flow: str
    run: str
    """A random id; unique within the flow at least."""
    number: int
    """1 for the first run of the flow."""
    mode: str
    spec: JsonObject
    """The specification as this run uses it."""
    spec_revision: int
    phase: Phase
    started_at: datetime
    finished_at: datetime | None = None
    consistent: bool | None = None
    error: JsonObject | None = None
    summary: JsonObject | None = None
    snapshot: bytes = b""
    source_id: str = ""
    sink_ids: Mapping[str, str] = field(default_factory=dict)
    """`GetInfo.id` of each sink, by the sink's key."""
    extra: JsonObject = field(default_factory=dict)
    """What else the coordinator must know again after a restart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceRow:
    """One namespace of a run's plan, at one sink."""

    namespace: str
    target: str
    position: int
    """Its place in the order of the plan, from 0."""
    sink: str = DEFAULT_SINK
    page_type: PageType = PageType.BSON
    columns: tuple[str, ...] = ()
    upsert: bool = False
    existed: bool = False
    estimated_rows: int = 0
    size_bytes: int = 0
    state: NamespaceState = NamespaceState.PENDING
    reason: str = ""
    generation: int = 0
    """How many times it has been planned anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitRow:
    """What one holder does from a cursor on: a partition for every sink, a finish step or a lane for one."""

    unit: str
    kind: UnitKind
    namespace: str
    ordinal: int
    """Its place among the units of its kind and namespace, from 0."""
    partition: Partition | None = None
    step: FinishStep | None = None
    sink: str = ""
    """Empty: for every sink."""
    generation: int = 0

    def __post_init__(self) -> None:
        if (self.partition is not None) != (self.kind is UnitKind.PARTITION):
            raise ValueError(f"unit {self.unit}: a partition belongs to a unit of that kind, and to no other")
        if (self.step is not None) != (self.kind is UnitKind.FINISH):
            raise ValueError(f"unit {self.unit}: a step belongs to a finish unit, and to no other")


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointRow:
    """How far a unit has come at a sink; written once the sink has made everything before the cursor durable."""

    unit: str
    sink: str = DEFAULT_SINK
    cursor: bytes = b""
    seq: int = 0
    rows: int = 0
    """All rows of the unit so far."""
    size_bytes: int = 0
    done: bool = False
    updated_at: datetime | None = None


DEFAULT_TTL_S = 30.0
"""How long a lease runs without being renewed: how long another host waits where a machine has died."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """A process that may hold a lease. Made by `dsync.state.holder.this_process`."""

    host: str
    boot_id: str
    """Changes with every start of the machine; empty where the system tells none."""
    pid_namespace: str
    """Process numbers mean something within it only: containers of one machine have one each."""
    pid: int
    started: str
    """The process's start as the system gives it, so that a number used again is not taken for the same process."""
    nonce: str
    """Tells holders within one process apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right to write for a flow (or one unit of it), as long as the fence is the highest given out."""

    flow: str
    unit: str
    """Empty: the whole flow."""
    fence: int
    holder: Holder
    ttl_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRow:
    """Who holds a flow, as `status` shows it."""

    flow: str
    unit: str
    fence: int
    holder: Holder | None
    """None: it was released."""
    expires_at: datetime
    remaining_s: float
    """0 where nobody holds it: released, expired, or the holder is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRow:
    """What another command asks of the coordinator that runs a flow: to pause, to cancel, another rate."""

    flow: str
    request: int
    """Counts within the flow, from 1: the order in which they were made."""
    kind: str
    args: JsonObject
    created_at: datetime
    taken_at: datetime | None = None
    done_at: datetime | None = None
    outcome: JsonObject | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LetterRef:
    """What tells one dead letter from the others of its run."""

    namespace: str
    unit: str
    cursor_digest: bytes
    row_index: int
    sink: str = DEFAULT_SINK


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterRow:
    """A record that a sink refused, in a page or in a stream of changes; the same one added twice is one row."""

    unit: str
    namespace: str
    cursor_digest: bytes
    """Of the cursor its page was asked with; of a change, its transaction and the records it concerns."""
    row_index: int
    """Its place in that page, from 0, or in its transaction."""
    reason: str
    error_class: str
    payload: bytes = field(repr=False)
    """The record; of a change, a frame with nothing else in it."""
    page_type: PageType
    """UNKNOWN of a change: its frame says of which type it is."""
    sink: str = DEFAULT_SINK
    created_at: datetime | None = None
    resolution: str = ""
    """`retried`, `dropped` or `overtaken`; empty while it waits."""
    resolved_at: datetime | None = None

    @property
    def ref(self) -> LetterRef:
        """What tells it from the others."""
        return LetterRef(
            namespace=self.namespace,
            unit=self.unit,
            cursor_digest=self.cursor_digest,
            row_index=self.row_index,
            sink=self.sink,
        )

    @property
    def is_change(self) -> bool:
        """It was refused in a stream of changes, where later ones may have overtaken it."""
        return self.page_type is PageType.UNKNOWN

    @property
    def id(self) -> str:
        """Short, and the same however often it is asked for."""
        key = b"\0".join([self.unit.encode(), self.sink.encode(), self.cursor_digest, str(self.row_index).encode()])
        return hashlib.blake2b(key, digest_size=6).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRow:
    name: str
    namespace: str = ""
    data: JsonObject = field(default_factory=dict)
    run: str = ""
    seq: int = 0
    """Counts within the flow, from 1; given by the store."""
    at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyRow:
    """The result of one range of a verify, so that a stopped one goes on."""

    namespace: str
    ordinal: int
    result: JsonObject


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkTotals:
    sink: str
    rows: int
    size_bytes: int
    units_done: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceTotals:
    namespace: str
    sink: str
    rows: int
    size_bytes: int
    units: int
    """Partitions; finish steps are not counted."""
    units_done: int
    dead_letters: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowSummary:
    """A flow with its latest run, as `flows` lists it."""

    flow: FlowRow
    run: RunRow | None
    totals: tuple[SinkTotals, ...]
    dead_letters: int
    lease: LeaseRow | None


def partition_units(
    namespace: str, position: int, partitions: Iterable[Partition], *, generation: int = 0
) -> tuple[UnitRow, ...]:
    """The units of a namespace's partitions; their ids are short, unique in the run and new in every generation."""
    return tuple(
        UnitRow(
            unit=f"p{position}.{generation}.{ordinal}",
            kind=UnitKind.PARTITION,
            namespace=namespace,
            ordinal=ordinal,
            partition=partition,
            generation=generation,
        )
        for ordinal, partition in enumerate(partitions)
    )


def finish_units(steps: Iterable[FinishStep], *, sink: str = DEFAULT_SINK) -> tuple[UnitRow, ...]:
    """The units of one sink's finish steps, in the order given; their ids contain the steps' own."""
    return tuple(
        UnitRow(
            unit=f"f{sink}.{step.id}",
            kind=UnitKind.FINISH,
            namespace=step.namespace,
            ordinal=ordinal,
            step=step,
            sink=sink,
        )
        for ordinal, step in enumerate(steps)
    )


def lane_units(units: Iterable[str], *, sink: str = DEFAULT_SINK) -> tuple[UnitRow, ...]:
    """The units of one sink's lanes, which bear these ids; they belong to no namespace."""
    return tuple(
        UnitRow(unit=unit, kind=UnitKind.LANE, namespace="", ordinal=ordinal, sink=sink)
        for ordinal, unit in enumerate(units)
    )
