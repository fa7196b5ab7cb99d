"""Progress where there is no terminal: log lines, few enough to be read and often enough to see that it lives."""

from __future__ import annotations

from collections import Counter
from typing import Any

from dsync.app.cutover_events import CutoverStepDone, SourceFrozen, SourceLeftFrozen, SourceThawed
from dsync.app.sync import LeaseAwaited
from dsync.cli.progress import Progress
from dsync.cli.text import duration
from dsync.coordinator.events import (
    CallRetried,
    CancelAsked,
    ConsistencyReached,
    DeadLetterAdded,
    Event,
    FindingReported,
    NamespaceCopied,
    NamespacePlanned,
    NamespaceRestarted,
    NamespaceStopped,
    PageCopied,
    PartitionCopied,
    PhaseChanged,
    RequestHeeded,
    RunPaused,
    SinkPutBack,
    SnapshotLost,
    SnapshotRenewed,
    StepFinished,
    StreamMoved,
)
from dsync.verify.events import NamespaceCompared, RowsCompared, RowsSettling

_PAUSE_S = 5.0
_STREAM_PAUSE_S = 60.0
"""A stream is followed for days."""
_MANY_NAMESPACES = 20
"""More than so many are named one by one only under -v."""
_FINDINGS_OF_A_KIND = 5
"""`dsync doctor` lists them all."""
_AT_ONCE = (
    PhaseChanged,
    NamespaceStopped,
    SinkPutBack,
    SnapshotLost,
    SnapshotRenewed,
    LeaseAwaited,
    RequestHeeded,
    ConsistencyReached,
    CutoverStepDone,
    SourceFrozen,
    SourceThawed,
    SourceLeftFrozen,
)
_GRAVE = (
    NamespaceStopped,
    SinkPutBack,
    SnapshotLost,
    LeaseAwaited,
    CallRetried,
    DeadLetterAdded,
    NamespaceRestarted,
    RunPaused,
    CancelAsked,
    SourceFrozen,
    SourceThawed,
    SourceLeftFrozen,
)


class Lines:
    """Writes events as log lines; of each kind at most one every five seconds, with the count of those left out."""

    def __init__(self, log: Any, progress: Progress) -> None:
        self._log = log
        self._progress = progress
        self._last_s: dict[str, float] = {}
        self._left_out: dict[str, int] = {}
        self._findings: Counter[str] = Counter()

    def __call__(self, event: Event) -> None:
        self._progress(event)
        match event:
            case PageCopied() | RowsCompared():
                self._say_how_far()
            case StreamMoved():
                self._say_stream()
            case NamespacePlanned() | PartitionCopied() | RowsSettling():
                self._log.debug(event.name, **_fields(event))
            case NamespaceCopied():
                few = len(self._progress.stage.namespaces) <= _MANY_NAMESPACES
                (self._log.info if few else self._log.debug)(event.name, **_fields(event))
                self._say_how_far()
            case NamespaceCompared():
                (self._log.debug if event.is_equal else self._log.warning)(event.name, **_fields(event))
                self._say_how_far()
            case FindingReported():
                self._say_finding(event)
            case StepFinished() if event.done == event.total:
                self._log.info(event.name, **_fields(event))
            case _:
                self._say(event)

    def _say(self, event: Event) -> None:
        """One line, unless one of its kind was written a moment ago."""
        if not isinstance(event, _AT_ONCE) and not self._is_due(event.name):
            self._left_out[event.name] = self._left_out.get(event.name, 0) + 1
            return
        fields = _fields(event)
        if left_out := self._left_out.pop(event.name, 0):
            fields["and_before"] = left_out
        (self._log.warning if isinstance(event, _GRAVE) else self._log.info)(event.name, **fields)

    def _say_finding(self, event: FindingReported) -> None:
        finding = event.finding
        self._findings[finding.code] += 1
        if self._findings[finding.code] > _FINDINGS_OF_A_KIND:
            return
        say = {"STOP": self._log.error, "WARNING": self._log.warning}.get(finding.severity.name, self._log.debug)
        say(
            "finding_reported", code=finding.code, object=finding.object, message=finding.message, remedy=finding.remedy
        )

    def _say_how_far(self) -> None:
        if not self._is_due("progress"):
            return
        now_s, stage = self._progress.clock(), self._progress.stage
        rates = stage.rate.per_second(now_s) or (0.0, 0.0, 0.0)
        eta_s = stage.eta_s(now_s)
        moved = {"bytes": stage.size_bytes, "mb_per_s": round(rates[1] / 1e6, 1)} if stage.verb == "copied" else {}
        self._log.info(
            f"rows_{stage.verb}",
            rows=stage.rows,
            rows_per_s=round(rates[0]),
            **moved,
            tables=f"{stage.namespaces_done}/{len(stage.namespaces)}",
            percent=round(100 * stage.share),
            left="unknown" if eta_s is None else duration(eta_s),
            **({"dead_letters": stage.dead_letters} if stage.dead_letters else {}),
        )

    def _say_stream(self) -> None:
        figures = self._progress.stream
        if figures is not None and self._progress.is_streaming and self._is_due("stream", _STREAM_PAUSE_S):
            known = {name: value for name, value in figures.as_json().items() if value is not None}
            self._log.info("changes_applied", **known)

    def _is_due(self, kind: str, pause_s: float = _PAUSE_S) -> bool:
        now_s = self._progress.clock()
        last_s = self._last_s.get(kind)
        if last_s is None and kind == "progress":
            # A copy of a few seconds needs no line in its middle.
            last_s = self._last_s[kind] = self._progress.started_s
        if last_s is not None and now_s - last_s < pause_s:
            return False
        self._last_s[kind] = now_s
        return True


def _fields(event: Event) -> dict[str, Any]:
    fields: dict[str, Any] = {"namespace": event.namespace} if event.namespace else {}
    fields |= {
        name: round(value, 3) if isinstance(value, float) else value
        for name, value in event.data().items()
        if value not in ("", None)
    }
    # Ours are sizes; `event` is what structlog calls the name of the line itself.
    return {{"size_bytes": "bytes", "event": "what"}.get(name, name): value for name, value in fields.items()}
