"""Where a stream stands, with what only time tells: how many changes a second, and when the source will give it up."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

from dsync.app.rates import Rate
from dsync.coordinator.events import Event, StreamMoved

_LOSS_WINDOW_S = 120.0
"""A source that was told what is durable keeps less: the trend is what counts, not one such step."""
_LOSS_SAMPLE_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamFigures:
    """One look at a stream; what is None is not known, or has no limit."""

    changes: int
    """Written by the process that says so."""
    changes_per_s: float | None
    lag_s: float
    lag_bytes: int
    spool_bytes: int
    retained_bytes: int
    """What the source keeps for the stream."""
    safe_bytes: int | None
    """How much more may be written at the source before it gives the stream up; None: there is no limit."""
    lost_in_s: float | None
    """When that would be, at the present rate; None: never, at that rate."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> Self:
        """Of what another version has written, as far as both know it."""
        return cls(**{item.name: kept.get(item.name) for item in fields(cls)})  # type: ignore[arg-type]


@dataclass(slots=True)
class StreamWatch:
    """Turns what is said of a stream every second into figures."""

    clock: Callable[[], float] = time.monotonic
    latest: StreamFigures | None = None
    """None: nothing is followed, or not yet."""
    _changes: Rate = field(default_factory=Rate)
    _safe: Rate = field(default_factory=lambda: Rate(window_s=_LOSS_WINDOW_S, sample_s=_LOSS_SAMPLE_S))

    def __call__(self, event: Event) -> None:
        """Subscribes to a run's events."""
        if isinstance(event, StreamMoved):
            self.note(event)

    def note(self, event: StreamMoved) -> StreamFigures:
        """What is known of the stream once this was said."""
        now_s = self.clock()
        self._changes.add(now_s, (event.changes,))
        if event.safe_bytes is None:
            self._safe.samples.clear()
        else:
            self._safe.add(now_s, (event.safe_bytes,))
        rates = self._changes.per_second(now_s)
        self.latest = StreamFigures(
            changes=event.changes,
            changes_per_s=round(rates[0], 1) if rates else None,
            lag_s=round(event.lag_s, 3),
            lag_bytes=event.lag_bytes,
            spool_bytes=event.spool_bytes,
            retained_bytes=event.retained_bytes,
            safe_bytes=event.safe_bytes,
            lost_in_s=self._lost_in_s(event.safe_bytes, now_s),
        )
        return self.latest

    def _lost_in_s(self, safe_bytes: int | None, now_s: float) -> float | None:
        growth = self._safe.per_second(now_s)
        if safe_bytes is None or not growth or growth[0] >= 0:
            return None
        return round(max(0.0, safe_bytes / -growth[0]), 1)
