"""How far a run has come, learnt from its events: totals, rates and when it will be done."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from dsync.app.rates import Rate
from dsync.app.stream_figures import StreamFigures, StreamWatch
from dsync.coordinator.events import (
    ConsistencyReached,
    DeadLetterAdded,
    Event,
    NamespaceCopied,
    NamespacePlanned,
    NamespaceRestarted,
    NamespaceStopped,
    PageCopied,
    PhaseChanged,
    RunPaused,
    RunResumed,
    StepFinished,
    StreamMoved,
)
from dsync.verify.events import NamespaceCompared, RowsCompared

_LEAST_WEIGHT_BYTES = 8192
"""What a table counts for that is empty or of unknown size: it takes a moment all the same."""


@dataclass(slots=True, kw_only=True)
class NamespaceProgress:
    """One line of the table."""

    namespace: str
    estimated_rows: int = 0
    estimated_bytes: int = 0
    weight: float = _LEAST_WEIGHT_BYTES
    rows: int = 0
    size_bytes: int = 0
    dead_letters: int = 0
    is_done: bool = False
    stopped: str = ""
    rate: Rate = field(default_factory=Rate)

    @property
    def share(self) -> float:
        """How much of it is done, from 0 to 1; 1 only at its end, since row counts of catalogues are estimates."""
        if self.is_done or self.stopped:
            return 1.0
        return min(self.rows / max(self.estimated_rows, 1), 0.99) if self.rows else 0.0

    @property
    def has_begun(self) -> bool:
        return self.rows > 0 and not self.is_done and not self.stopped


@dataclass(slots=True, kw_only=True)
class Stage:
    """Copying or comparing: the namespaces with their sums, kept up to date with each event."""

    verb: str
    namespaces: dict[str, NamespaceProgress] = field(default_factory=dict)
    rows: int = 0
    size_bytes: int = 0
    dead_letters: int = 0
    namespaces_done: int = 0
    weight: float = 0.0
    weight_done: float = 0.0
    rate: Rate = field(default_factory=Rate)

    @property
    def share(self) -> float:
        return self.weight_done / self.weight if self.weight else 0.0

    def eta_s(self, at_s: float) -> float | None:
        """Seconds until all of it is done; None where that cannot be told."""
        rates = self.rate.per_second(at_s)
        if not rates or rates[2] <= 0:
            return None
        return (self.weight - self.weight_done) / rates[2]

    def change(self, namespace: str, at_s: float, action: Callable[[NamespaceProgress], None]) -> None:
        """Apply a change to one namespace, and to the sums what it makes of them."""
        entry = self.namespaces.get(namespace)
        if entry is None:
            entry = self.namespaces[namespace] = NamespaceProgress(namespace=namespace)
            self.weight += entry.weight
        self._count(entry, -1)
        action(entry)
        self._count(entry, +1)
        entry.rate.add(at_s, (entry.rows, entry.size_bytes))
        self.rate.add(at_s, (self.rows, self.size_bytes, self.weight_done))

    def _count(self, entry: NamespaceProgress, sign: int) -> None:
        self.rows += sign * entry.rows
        self.size_bytes += sign * entry.size_bytes
        self.dead_letters += sign * entry.dead_letters
        self.namespaces_done += sign * (entry.is_done or bool(entry.stopped))
        self.weight_done += sign * entry.weight * entry.share

    def reweigh(self, entry: NamespaceProgress, weight: float) -> None:
        """Between two `_count`s: what was planned is known now."""
        self.weight += weight - entry.weight
        entry.weight = weight

    def forget_rates(self, at_s: float) -> None:
        """Start measuring anew: what has just been counted did not move just now."""
        self.rate = Rate()
        self.rate.add(at_s, (self.rows, self.size_bytes, self.weight_done))

    def busiest(self, at_s: float) -> Iterator[NamespaceProgress]:
        """Those under way, the one that moves most first."""
        active = [entry for entry in self.namespaces.values() if entry.has_begun]
        active.sort(key=lambda entry: (entry.rate.per_second(at_s) or (0.0,))[0], reverse=True)
        yield from active


class Progress:
    """Subscribes to a run's events. Another thread may read it inside `with progress.lock`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.lock = threading.Lock()
        self.phase = ""
        self.is_paused = False
        self.consistent_at: int | None = None
        """The source's position that the sink first equalled."""
        self._streams = StreamWatch(clock)
        self.steps_done = 0
        self.steps = 0
        self.stage = Stage(verb="copied")
        self.started_s = clock()

    @property
    def stream(self) -> StreamFigures | None:
        """Where the stream stands; None: nothing is followed."""
        return self._streams.latest

    @property
    def is_streaming(self) -> bool:
        """What there is to see is the stream, and no copy any more."""
        return self.phase in ("catching_up", "streaming") and self.stream is not None

    def __call__(self, event: Event) -> None:
        with self.lock:
            self._apply(event, self.clock())

    def _apply(self, event: Event, now_s: float) -> None:
        match event:
            case PhaseChanged():
                self.phase = event.phase
            case RunPaused() | RunResumed():
                self.is_paused = isinstance(event, RunPaused)
                self.stage.forget_rates(now_s)
            case StreamMoved():
                self._streams.note(event)
            case ConsistencyReached():
                self.consistent_at = event.position
            case NamespacePlanned():
                self._plan(event, now_s)
            case PageCopied():
                self.stage.change(event.namespace, now_s, lambda entry: _add_page(entry, event.rows, event.size_bytes))
            case NamespaceCopied():
                self.stage.change(event.namespace, now_s, lambda entry: _finish(entry, event.rows, event.size_bytes))
            case NamespaceStopped():
                self.stage.change(event.namespace, now_s, lambda entry: setattr(entry, "stopped", event.reason))
            case NamespaceRestarted():
                self.stage.change(event.namespace, now_s, _restart)
                self.stage.forget_rates(now_s)
            case DeadLetterAdded():
                self.stage.change(
                    event.namespace, now_s, lambda entry: setattr(entry, "dead_letters", entry.dead_letters + 1)
                )
            case StepFinished():
                self.steps_done, self.steps = event.done, event.total
            case RowsCompared():
                self._compare(event, now_s)
            case NamespaceCompared():
                self._comparing().change(
                    event.namespace, now_s, lambda entry: _finish(entry, max(event.source_rows, entry.rows), 0)
                )

    def _plan(self, event: NamespacePlanned, now_s: float) -> None:
        stage = self.stage

        def plan(entry: NamespaceProgress) -> None:
            entry.estimated_rows, entry.estimated_bytes = event.estimated_rows, event.size_bytes
            entry.rows, entry.size_bytes = event.copied_rows, event.copied_bytes
            entry.rate = Rate()
            stage.reweigh(entry, max(float(event.size_bytes), _LEAST_WEIGHT_BYTES))

        stage.change(event.namespace, now_s, plan)
        stage.forget_rates(now_s)

    def _compare(self, event: RowsCompared, now_s: float) -> None:
        stage = self._comparing()

        def compare(entry: NamespaceProgress) -> None:
            entry.estimated_rows = event.estimated_rows
            entry.rows += event.rows
            stage.reweigh(entry, max(float(event.estimated_rows), 1.0))

        stage.change(event.namespace, now_s, compare)
        if event.resumed:
            stage.forget_rates(now_s)

    def _comparing(self) -> Stage:
        if self.stage.verb != "compared":
            self.stage = Stage(verb="compared")
            self.phase = "verifying"
        return self.stage


def _add_page(entry: NamespaceProgress, rows: int, size_bytes: int) -> None:
    entry.rows += rows
    entry.size_bytes += size_bytes


def _finish(entry: NamespaceProgress, rows: int, size_bytes: int) -> None:
    entry.rows, entry.size_bytes, entry.is_done = rows, size_bytes, True


def _restart(entry: NamespaceProgress) -> None:
    entry.rows, entry.size_bytes, entry.dead_letters, entry.is_done = 0, 0, 0, False
    entry.rate = Rate()
