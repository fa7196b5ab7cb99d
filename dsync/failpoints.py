"""Named points at which a test can make a process die, fail or wait: `DSYNC_FAIL=name:action@n`, comma-separated.

Actions: `exit` (as kill -9 would: no clean-up), `stop` (SIGSTOP to itself), `raise`, `delay=SECONDS`. `@n` means the
n-th time the point is reached (1 where it is not given). Without the variable a point costs one comparison.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field


class FailpointError(RuntimeError):
    """Raised by a failpoint with the action `raise`."""


@dataclass(slots=True)
class _Point:
    action: str
    at: int
    seen: int = field(default=0)

    def reach(self, name: str) -> None:
        self.seen += 1
        if self.seen != self.at:
            return
        if self.action == "exit":
            os._exit(137)
        elif self.action == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif self.action == "raise":
            raise FailpointError(name)
        elif self.action.startswith("delay="):
            time.sleep(float(self.action.removeprefix("delay=")))


def _parse(text: str) -> dict[str, _Point]:
    points = {}
    for item in filter(None, text.split(",")):
        name, _, rest = item.partition(":")
        action, _, at = rest.partition("@")
        points[name] = _Point(action=action or "exit", at=int(at or 1))
    return points


_points = _parse(os.environ.get("DSYNC_FAIL", ""))
NAMES: set[str] = set()
"""Every point this process has passed, for tests that loop over all of them."""


def _inactive(name: str) -> None:
    """Nothing is to fail in this process."""


def _active(name: str) -> None:
    NAMES.add(name)
    point = _points.get(name)
    if point is not None:
        point.reach(name)


failpoint: Callable[[str], None] = _active if os.environ.get("DSYNC_FAIL") else _inactive
