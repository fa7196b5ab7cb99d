"""`--progress json`: how far a run has come, one object a line, in names that stay."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from dsync.app.sync import LeaseAwaited
from dsync.cli.answer import write
from dsync.cli.findings import finding_json
from dsync.cli.progress import NamespaceProgress, Progress
from dsync.cli.settings import Settings
from dsync.coordinator.events import (
    CallRetried,
    ConsistencyReached,
    Event,
    EventHandler,
    FindingReported,
    NamespaceRestarted,
    NamespaceStopped,
    PhaseChanged,
    RequestHeeded,
    SnapshotLost,
    SnapshotRenewed,
)

VERSION = 1
"""Rises when a field changes its meaning or goes; new ones may come at any time."""
INTERVAL_S = 1.0

FIELDS = {
    "type": "`progress`",
    "version": f"of these fields: {VERSION}; it rises when one changes its meaning or goes",
    "at": "when the line was written, UTC",
    "elapsed_s": "seconds since the command began",
    "phase": "`checking`, `planning`, `preparing`, `copying`, `finishing`, `verifying`, …; empty before the first",
    "is_paused": "true from a `dsync pause` on until it is resumed",
    "is_last": "true in the last line, which lists every namespace",
    "rows": "copied so far, those of earlier lives of the run too; in `verifying` compared so far",
    "estimated_rows": "of all namespaces, as the source's catalogue has it",
    "bytes": "of the pages copied so far",
    "estimated_bytes": "of all namespaces, as they lie at the source",
    "share": "of the work that is done, 0 to 1, by size",
    "rows_per_s": "over the last ten seconds; null while nothing is known",
    "bytes_per_s": "the same",
    "eta_s": "seconds until the last row at that rate, indexes not counted; null while nothing is known",
    "dead_letters": "records that the sink has refused",
    "namespaces_done": "copied, compared or stopped",
    "namespaces_total": "in all",
    "steps_done": "indexes, constraints and the like that are finished",
    "steps_total": "in all; 0 before they are known",
    "consistent_at": "the source's position that the sink first equalled; null before that, and without a stream",
    "stream": "what is followed, see below; null while nothing is",
    "namespaces": "those that have changed since the line before; all of them in the last line",
}
"""Of a line, with what each means."""

NAMESPACE_FIELDS = {
    "namespace": "its name at the source",
    "state": "`waiting`, `running`, `done` or `stopped`",
    "rows": "as above, of this namespace",
    "estimated_rows": "as above",
    "bytes": "as above",
    "estimated_bytes": "as above",
    "rows_per_s": "as above",
    "bytes_per_s": "as above",
    "eta_s": "as above",
    "dead_letters": "as above",
    "reason": "why it stopped; else empty",
}
"""Of each entry of `namespaces`."""

STREAM_FIELDS = {
    "changes": "applied by this process",
    "changes_per_s": "over the last ten seconds; null while nothing is known",
    "lag_s": "how much older the last change at the sink is than the last word of the source; 0: it has all",
    "lag_bytes": "the same in the source's log",
    "spool_bytes": "changes on disk here that wait to be applied",
    "retained_bytes": "what the source keeps for the stream",
    "safe_bytes": "what may be written at the source before it gives the stream up; null: there is no limit",
    "lost_in_s": "when that is, at the rate of the last two minutes; null: not at that rate",
}
"""Of `stream`."""

_SAID = (
    NamespaceStopped,
    NamespaceRestarted,
    SnapshotLost,
    SnapshotRenewed,
    LeaseAwaited,
    CallRetried,
    FindingReported,
    RequestHeeded,
    ConsistencyReached,
)
"""Events that have a line of their own, `"type": "event"`, since the numbers do not tell them."""


@contextmanager
def showing_json(settings: Settings, interval_s: float = INTERVAL_S) -> Iterator[EventHandler]:
    """A line every second, at each change of the phase, and a last one, also where the run fails."""
    shown = JsonLines(settings, Progress())
    ended = threading.Event()

    def tick() -> None:
        while not ended.wait(interval_s):
            shown.say()

    ticking = threading.Thread(target=tick, name="dsync-progress", daemon=True)
    ticking.start()
    try:
        yield shown
    finally:
        ended.set()
        ticking.join()
        shown.say(is_last=True)


class JsonLines:
    """Writes lines to stderr, without secrets."""

    def __init__(self, settings: Settings, progress: Progress) -> None:
        self._settings = settings
        self._progress = progress
        self._writing = threading.Lock()
        self._said: dict[str, dict[str, Any]] = {}

    def __call__(self, event: Event) -> None:
        self._progress(event)
        if isinstance(event, PhaseChanged):
            self.say()
        elif isinstance(event, _SAID):
            data = finding_json(event.finding) if isinstance(event, FindingReported) else event.data()
            said = {"type": "event", "version": VERSION, "at": _now(), "event": event.name}
            self._write({**said, "namespace": event.namespace, **data})

    def say(self, *, is_last: bool = False) -> None:
        """How far it is."""
        with self._writing:
            self._print(self._line(is_last=is_last))

    def _line(self, *, is_last: bool) -> dict[str, Any]:
        progress = self._progress
        with progress.lock:
            now_s, stage = progress.clock(), progress.stage
            every = {name: _namespace(entry, now_s) for name, entry in stage.namespaces.items()}
            rates = stage.rate.per_second(now_s)
            line = {
                "type": "progress",
                "version": VERSION,
                "at": _now(),
                "elapsed_s": round(now_s - progress.started_s, 3),
                "phase": progress.phase,
                "is_paused": progress.is_paused,
                "is_last": is_last,
                "rows": stage.rows,
                "estimated_rows": sum(entry.estimated_rows for entry in stage.namespaces.values()),
                "bytes": stage.size_bytes,
                "estimated_bytes": sum(entry.estimated_bytes for entry in stage.namespaces.values()),
                "share": round(stage.share, 4),
                "rows_per_s": round(rates[0], 1) if rates else None,
                "bytes_per_s": round(rates[1], 1) if rates else None,
                "eta_s": _rounded(stage.eta_s(now_s)),
                "dead_letters": stage.dead_letters,
                "namespaces_done": stage.namespaces_done,
                "namespaces_total": len(stage.namespaces),
                "steps_done": progress.steps_done,
                "steps_total": progress.steps,
                "consistent_at": progress.consistent_at,
                "stream": progress.stream.as_json() if progress.stream is not None else None,
            }
        line["namespaces"] = [one for name, one in every.items() if is_last or self._said.get(name) != one]
        self._said = every
        return line

    def _write(self, line: dict[str, Any]) -> None:
        with self._writing:
            self._print(line)

    def _print(self, line: dict[str, Any]) -> None:
        # Escapes are JSON's own: a machine reads it, whatever the terminal's encoding.
        write(sys.stderr, json.dumps(self._settings.shown_values(line), default=str))


def _namespace(entry: NamespaceProgress, now_s: float) -> dict[str, Any]:
    rates = entry.rate.per_second(now_s) if entry.has_begun else ()
    left = max(entry.estimated_rows - entry.rows, 0)
    state = "stopped" if entry.stopped else "done" if entry.is_done else "running" if entry.has_begun else "waiting"
    return {
        "namespace": entry.namespace,
        "state": state,
        "rows": entry.rows,
        "estimated_rows": entry.estimated_rows,
        "bytes": entry.size_bytes,
        "estimated_bytes": entry.estimated_bytes,
        "rows_per_s": round(rates[0], 1) if rates else None,
        "bytes_per_s": round(rates[1], 1) if rates else None,
        "eta_s": _rounded(left / rates[0] if rates and rates[0] > 0 else None),
        "dead_letters": entry.dead_letters,
        "reason": entry.stopped,
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
