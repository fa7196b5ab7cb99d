"""How fast numbers grow, learnt from what they have come to at some moments."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field


@dataclass(slots=True)
class Rate:
    """Growth per second over the last seconds, of several numbers at a time."""

    samples: deque[tuple[float, tuple[float, ...]]] = field(default_factory=deque)
    window_s: float = 10.0
    sample_s: float = 0.5
    """What is added sooner than this after the last sample takes its place."""

    def add(self, at_s: float, values: tuple[float, ...]) -> None:
        """Note what the numbers have come to; called as often as one likes."""
        if self.samples and at_s - self.samples[-1][0] < self.sample_s and len(self.samples) > 1:
            self.samples[-1] = (self.samples[-1][0], values)
            return
        self.samples.append((at_s, values))
        while at_s - self.samples[0][0] > self.window_s and len(self.samples) > 2:
            self.samples.popleft()

    def per_second(self, at_s: float) -> tuple[float, ...]:
        """Nothing where nothing is known; falls while nothing happens."""
        if len(self.samples) < 2:
            return ()
        (first_s, first), (_, last) = self.samples[0], self.samples[-1]
        elapsed_s = max(at_s - first_s, 1e-6)
        return tuple((now - then) / elapsed_s for then, now in zip(first, last, strict=True))
