"""`--metrics ADDR`: what a run's events say, as Prometheus reads it.

Every figure is this process's own, counted from its start; names carry their units. `METRICS` says what there is, and
docs/operating.md lists it.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from dsync.app.stream_figures import StreamWatch
from dsync.coordinator.events import (
    CallRetried,
    ConsistencyReached,
    DeadLetterAdded,
    Event,
    NamespaceCopied,
    NamespacePlanned,
    NamespaceRestarted,
    NamespaceStopped,
    PageCopied,
    PhaseChanged,
    RunFinished,
    RunPaused,
    RunResumed,
    SnapshotLost,
    StepFinished,
    StreamMoved,
)
from dsync.plugins.endpoint import is_loopback
from dsync.protocol.errors import OptionError, ServerUnavailableError
from dsync.state import Phase

if TYPE_CHECKING:
    from prometheus_client import Metric

_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """One metric."""

    kind: Literal["counter", "gauge"]
    said: str
    label: str = ""


METRICS: Mapping[str, Described] = {
    "dsync_phase": Described(kind="gauge", said="1 for the phase that the run is in, 0 for all others", label="phase"),
    "dsync_paused": Described(kind="gauge", said="1 while the run is paused"),
    "dsync_consistent": Described(
        kind="gauge", said="1 once the sink equals the source as of one moment, 0 where it was found that it will not"
    ),
    "dsync_namespaces": Described(kind="gauge", said="Namespaces by state: waiting, copied or stopped", label="state"),
    "dsync_rows_estimated": Described(
        kind="gauge", said="Rows of a namespace by its source's catalogue", label="namespace"
    ),
    "dsync_rows_copied_total": Described(kind="counter", said="Rows that have arrived in pages", label="namespace"),
    "dsync_bytes_copied_total": Described(kind="counter", said="What these pages weighed", label="namespace"),
    "dsync_dead_letters_total": Described(kind="counter", said="Records that the sink has refused", label="namespace"),
    "dsync_calls_retried_total": Described(kind="counter", said="Calls that were repeated, by error", label="error"),
    "dsync_snapshots_lost_total": Described(kind="counter", said="Snapshots that the source has lost"),
    "dsync_steps_finished": Described(kind="gauge", said="Keys, indexes and the like that are made"),
    "dsync_steps": Described(kind="gauge", said="How many of them there are"),
    "dsync_changes_applied_total": Described(kind="counter", said="Changes that were written to the sink"),
    "dsync_stream_lag_seconds": Described(
        kind="gauge", said="How much older the last change at the sink is than the last word of the source; 0: none"
    ),
    "dsync_stream_lag_bytes": Described(kind="gauge", said="The same in the source's log"),
    "dsync_spool_bytes": Described(kind="gauge", said="Changes on disk here that wait to be applied"),
    "dsync_source_retained_bytes": Described(kind="gauge", said="What the source keeps for the stream"),
    "dsync_source_safe_bytes": Described(
        kind="gauge", said="What may be written at the source before it gives the stream up; absent without a limit"
    ),
    "dsync_source_lost_in_seconds": Described(
        kind="gauge", said="When it would, at the present rate; absent where it would not"
    ),
    "dsync_stream_heard_timestamp_seconds": Described(
        kind="gauge", said="When the figures of the stream were said; old ones mean that nothing moves"
    ),
}
"""By name, in the order in which they are served."""


class RunMetrics:
    """Subscribes to a run's events; a collector of `prometheus_client`, read by the threads of its server."""

    def __init__(self, *, now_s: Callable[[], float] = time.time, watch: StreamWatch | None = None) -> None:
        self._now_s = now_s
        self._lock = threading.Lock()
        self._watch = watch or StreamWatch()
        self._values: dict[str, float] = {"dsync_paused": 0.0}
        self._counts: dict[str, Counter[str]] = {
            name: Counter() for name, it in METRICS.items() if it.label and it.kind == "counter"
        }
        self._states: dict[str, str] = {}
        self._estimated: dict[str, int] = {}
        self._phase = ""

    def __call__(self, event: Event) -> None:
        with self._lock:
            self._apply(event)

    def _apply(self, event: Event) -> None:
        match event:
            case PhaseChanged():
                self._phase = event.phase
            case RunPaused() | RunResumed():
                self._values["dsync_paused"] = float(isinstance(event, RunPaused))
            case NamespacePlanned():
                self._estimated[event.namespace] = event.estimated_rows
                self._states.setdefault(event.namespace, "waiting")
            case NamespaceRestarted():
                self._states[event.namespace] = "waiting"
            case NamespaceCopied():
                self._states[event.namespace] = "copied"
            case NamespaceStopped():
                self._states[event.namespace] = "stopped"
            case PageCopied():
                self._counts["dsync_rows_copied_total"][event.namespace] += event.rows
                self._counts["dsync_bytes_copied_total"][event.namespace] += event.size_bytes
            case DeadLetterAdded():
                self._counts["dsync_dead_letters_total"][event.namespace] += 1
            case CallRetried():
                self._counts["dsync_calls_retried_total"][event.error] += 1
            case SnapshotLost():
                self._add("dsync_snapshots_lost_total", 1)
            case StepFinished():
                self._values["dsync_steps_finished"], self._values["dsync_steps"] = event.done, event.total
            case ConsistencyReached():
                self._values["dsync_consistent"] = 1.0
            case RunFinished() if event.consistent is not None:
                self._values["dsync_consistent"] = float(event.consistent)
            case StreamMoved():
                self._move(event)

    def _add(self, name: str, number: int) -> None:
        self._values[name] = self._values.get(name, 0.0) + number

    def _move(self, event: StreamMoved) -> None:
        figures = self._watch.note(event)
        known = {
            "dsync_changes_applied_total": figures.changes,
            "dsync_stream_lag_seconds": figures.lag_s,
            "dsync_stream_lag_bytes": figures.lag_bytes,
            "dsync_spool_bytes": figures.spool_bytes,
            "dsync_source_retained_bytes": figures.retained_bytes,
            "dsync_source_safe_bytes": figures.safe_bytes,
            "dsync_source_lost_in_seconds": figures.lost_in_s,
            "dsync_stream_heard_timestamp_seconds": self._now_s(),
        }
        for name, value in known.items():
            if value is None:
                self._values.pop(name, None)
            else:
                self._values[name] = float(value)

    def collect(self) -> Iterator[Metric]:
        """All of them as they are now; what is not known is absent."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        with self._lock:
            found = {name: dict(self._samples(name)) for name in METRICS}
        for name, samples in found.items():
            described = METRICS[name]
            family = CounterMetricFamily if described.kind == "counter" else GaugeMetricFamily
            labels = [described.label] if described.label else []
            metric = family(name, described.said, labels=labels)
            for label, value in samples.items():
                metric.add_metric([label] if labels else [], value)
            if samples:
                yield metric

    def _samples(self, name: str) -> Iterable[tuple[str, float]]:
        if name in self._counts:
            return self._counts[name].items()
        match name:
            case "dsync_phase":
                return ((phase.value, float(phase.value == self._phase)) for phase in Phase)
            case "dsync_namespaces":
                states = Counter(self._states.values())
                return ((state, float(states[state])) for state in ("waiting", "copied", "stopped"))
            case "dsync_rows_estimated":
                return ((namespace, float(rows)) for namespace, rows in self._estimated.items())
        return [("", self._values[name])] if name in self._values else []


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsAddress:
    host: str
    port: int
    """0: a free one."""

    @classmethod
    def parse(cls, text: str, *, allow_plaintext: bool) -> MetricsAddress:
        """`PORT`, `:PORT` or `HOST:PORT`; without a host this machine alone can read them.

        Raises:
            OptionError: it is none of these, or others could read them and that was not allowed.
        """
        host, _, port = text.rpartition(":")
        host = host.removeprefix("[").removesuffix("]") or _LOOPBACK
        if not (port.isascii() and port.isdecimal()) or int(port) > 65535:
            raise OptionError(f"--metrics {text}: write PORT, or HOST:PORT as in 127.0.0.1:9090 or [::1]:9090")
        if not is_loopback(host) and not allow_plaintext:
            raise OptionError(
                f"--metrics {text}: whoever reaches {host} could read there which tables there are and how much they"
                " hold: take 127.0.0.1, or give --allow-plaintext in a network you trust"
            )
        return cls(host=host, port=int(port))


@contextmanager
def serving_metrics(
    metrics: RunMetrics, address: MetricsAddress, on_started: Callable[[str], None] = lambda _: None
) -> Iterator[None]:
    """Serve them while inside, in threads of their own; `on_started` is told the URL.

    Raises:
        ServerUnavailableError: the address cannot be listened on.
    """
    # Not before somebody asks for metrics: it would be paid for by every start.
    from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server

    registry = CollectorRegistry()
    registry.register(metrics)
    ProcessCollector(registry=registry)
    try:
        server, thread = start_http_server(address.port, address.host, registry)
    except OSError as exc:
        raise ServerUnavailableError(
            f"--metrics {address.host}:{address.port}: cannot be listened on ({exc.strerror or exc}); choose another"
            " port, or 0 for a free one"
        ) from exc
    try:
        host = f"[{address.host}]" if ":" in address.host else address.host
        on_started(f"http://{host}:{server.server_port}/metrics")
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
