"""`dsync flows` and `dsync status`: what the state says of flows. Contacts no server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from dsync.app.heeding import RequestKind
from dsync.app.known import KnownFlow, existing_store, find_known_flow, known_flow, letters_command, resume_command
from dsync.app.stream_figures import StreamFigures
from dsync.coordinator.spec import FlowSpec
from dsync.state import FlowSummary, LeaseRow, NamespaceState, Phase, RunRow, Store

_REASONS_READ = 10_000
"""Dead letters that are looked at for their reasons; their number is exact however many there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterGroup:
    """Refused records of one namespace for one reason."""

    namespace: str
    reason: str
    records: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HolderStatus:
    """The process that runs a flow right now."""

    host: str
    pid: int
    lease_s: float
    """How long it still holds the flow if it says nothing more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceStatus:
    namespace: str
    target: str
    state: str
    rows: int
    bytes: int
    partitions: int
    partitions_done: int
    dead_letters: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamStatus:
    """Where a stream stood when its process last said so, every ten seconds or so."""

    figures: StreamFigures
    at: datetime
    age_s: float
    """How long ago that was."""

    def as_json(self) -> dict[str, Any]:
        """The figures, with when they were true."""
        return {**self.figures.as_json(), "at": _iso(self.at), "age_s": self.age_s}


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowStatus:
    """A flow in one line, as `flows` lists it."""

    flow: str
    name: str | None
    source: str
    sink: str
    mode: str
    run: int
    """The number of the latest run; 0 before the first."""
    phase: str
    started_at: datetime | None
    finished_at: datetime | None
    consistent: bool | None
    rows: int
    bytes: int
    dead_letters: int
    holder: HolderStatus | None
    paused: bool
    """Nothing is read, or will be once it is started, until it is resumed."""
    consistent_at: int | None
    """The source's position that the sink of a flow that follows first equalled; None: none yet, or none followed."""
    stream: StreamStatus | None
    """None: nothing is followed, or it has not been said yet."""
    frozen: str
    """What makes the source writable again, which a cut-over has made read-only; empty: none has."""

    @property
    def is_running(self) -> bool:
        return self.holder is not None

    def as_json(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return {
            **asdict(self),
            "running": self.is_running,
            "started_at": _iso(self.started_at),
            "finished_at": _iso(self.finished_at),
            "stream": self.stream.as_json() if self.stream is not None else None,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowDetails(FlowStatus):
    """A flow as `status` shows it."""

    namespaces: tuple[NamespaceStatus, ...]
    dead_letter_reasons: tuple[DeadLetterGroup, ...]
    error: Mapping[str, Any] | None
    """Why the latest run stopped."""
    next_step: str
    """What to do now; empty where there is nothing to do."""
    command: str
    """The command that goes on with the flow."""


def list_flows(state: str) -> tuple[FlowStatus, ...]:
    """Every flow, oldest first; none where there is no state."""
    with existing_store(state) as store:
        if store is None:
            return ()
        paused = _paused(store)
        return tuple(FlowStatus(**_facts(store, summary, paused)) for summary in store.list_flows())


def flow_status(state: str, reference: str) -> FlowDetails:
    """One flow. Raises FlowNotFoundError."""
    with existing_store(state, wanted=reference) as store:
        assert store is not None, "a flow that is wanted is looked for in a state that exists"
        known = find_known_flow(store, reference)
        (summary,) = (summary for summary in store.list_flows() if summary.flow.flow == known.flow.flow)
        return _details(store, summary)


def all_flow_status(state: str) -> tuple[FlowDetails, ...]:
    """Every flow, oldest first."""
    with existing_store(state) as store:
        return () if store is None else tuple(_details(store, summary) for summary in store.list_flows())


def dead_letter_reasons(state: str, flow: str, run: str) -> tuple[DeadLetterGroup, ...]:
    """Why a sink refused records, the most frequent reason first."""
    with existing_store(state) as store:
        return () if store is None else _reasons(store, flow, run)


def _reasons(store: Store, flow: str, run: str) -> tuple[DeadLetterGroup, ...]:
    letters = store.list_dead_letters(flow, run, limit=_REASONS_READ)
    counts = Counter((letter.namespace, letter.reason) for letter in letters)
    return tuple(
        DeadLetterGroup(namespace=namespace, reason=reason, records=records)
        for (namespace, reason), records in counts.most_common()
    )


def _paused(store: Store, flow: str = "") -> frozenset[str]:
    """Flows that were asked to pause, and not to go on since."""
    return frozenset(row.flow for row in store.open_requests(flow) if row.kind == RequestKind.PAUSE)


def _facts(store: Store, summary: FlowSummary, paused: frozenset[str]) -> dict[str, Any]:
    flow, run = summary.flow, summary.run
    spec = FlowSpec.model_validate(flow.spec)
    return {
        "flow": flow.flow,
        "name": flow.name,
        "source": spec.source.reference,
        "sink": spec.sink.reference,
        "mode": run.mode if run else spec.mode,
        "run": run.number if run else 0,
        "phase": run.phase.value if run else "new",
        "started_at": run.started_at if run else None,
        "finished_at": run.finished_at if run else None,
        "consistent": run.consistent if run else None,
        "rows": sum(total.rows for total in summary.totals),
        "bytes": sum(total.size_bytes for total in summary.totals),
        "dead_letters": summary.dead_letters,
        "holder": _holder(summary.lease),
        "paused": flow.flow in paused,
        "consistent_at": run.extra.get("following", {}).get("consistent_at") if run else None,
        "stream": _stream(store, run) if run else None,
        "frozen": run.extra.get("frozen", {}).get("undo", "") if run else "",
    }


def _stream(store: Store, run: RunRow) -> StreamStatus | None:
    noted = run.extra.get("stream")
    if noted is None:
        return None
    return StreamStatus(
        figures=StreamFigures.from_json(noted),
        at=datetime.fromtimestamp(noted["at_us"] / 1_000_000, UTC),
        age_s=round(max(0, store.clock.now_us() - noted["at_us"]) / 1_000_000, 1),
    )


def _holder(lease: LeaseRow | None) -> HolderStatus | None:
    if lease is None or lease.holder is None or lease.remaining_s <= 0:
        return None
    return HolderStatus(host=lease.holder.host, pid=lease.holder.pid, lease_s=round(lease.remaining_s, 1))


def _details(store: Store, summary: FlowSummary) -> FlowDetails:
    known = known_flow(store, summary.flow)
    facts = _facts(store, summary, _paused(store, summary.flow.flow))
    run = summary.run
    return FlowDetails(
        **facts,
        namespaces=_namespaces(store, run) if run else (),
        dead_letter_reasons=_reasons(store, run.flow, run.run) if run and facts["dead_letters"] else (),
        error=run.error if run else None,
        next_step=_next_step(known, facts),
        command=known.command,
    )


def _namespaces(store: Store, run: RunRow) -> tuple[NamespaceStatus, ...]:
    planned = {(row.namespace, row.sink): row for row in store.load_namespaces(run.flow, run.run)}
    return tuple(
        NamespaceStatus(
            namespace=total.namespace,
            target=planned[total.namespace, total.sink].target,
            state=planned[total.namespace, total.sink].state.value,
            rows=total.rows,
            bytes=total.size_bytes,
            partitions=total.units,
            partitions_done=total.units_done,
            dead_letters=total.dead_letters,
            reason=_reason(planned[total.namespace, total.sink].state, planned[total.namespace, total.sink].reason),
        )
        for total in store.namespace_totals(run.flow, run.run)
    )


def _reason(state: NamespaceState, reason: str) -> str:
    """Of a stop, a change or a new beginning; the plan's remark on the page type is `plan`'s to show."""
    return reason if state in (NamespaceState.STOPPED, NamespaceState.CHANGED, NamespaceState.CLEARING) else ""


def _next_step(known: KnownFlow, facts: Mapping[str, Any]) -> str:
    resume = resume_command(known.title, known.state)
    if facts["holder"] is not None:
        return f"this lets it go on: {resume}" if facts["paused"] else ""
    run = known.run
    if run is not None and run.phase is Phase.CANCELLED:
        return f"this goes on where it was: {resume}"
    if facts["paused"] and run is not None and not run.phase.is_final:
        return f"it is paused, and not running; this goes on where it was: {resume}"
    if run is None or not run.phase.is_final:
        return f"it is not running; this goes on where it was: {known.command}"
    if run.phase is Phase.INCONSISTENT:
        return f"this repairs it, reading again what may have changed: {known.command} --again"
    if facts["dead_letters"]:
        command = letters_command(known.title, known.state)
        return f"this lists the records that the sink refused, to be written again or given up: {command}"
    return ""


def _iso(at: datetime | None) -> str | None:
    return at.isoformat() if at else None
