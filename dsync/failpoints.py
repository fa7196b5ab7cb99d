"""Named points at which a test can make a process die, fail or wait: `DSYNC_FAIL=name:action@n`, comma-separated.

Actions: `exit` (as kill -9 would: no clean-up), `stop` (SIGSTOP to itself), `raise`, `delay=SECONDS`. `@n` means the
n-th time that a process reaches the point (1 where it is not given), `@*` every time. A process that is started again
counts anew: with `DSYNC_FAIL_ONCE=DIRECTORY` a point acts once over all processes that share the directory, which has
a file of its name afterwards. Without `DSYNC_FAIL` a point costs one comparison.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field


class FailpointError(RuntimeError):
    """Raised by a failpoint with the action `raise`."""


@dataclass(slots=True)
class _Point:
    action: str
    at: int
    """0: every time."""
    seen: int = field(default=0)

    def reach(self, name: str) -> None:
        self.seen += 1
        if (self.at and self.seen != self.at) or not _may_act(name):
            return
        if self.action == "exit":
            os._exit(137)
        elif self.action == "stop":
            # To this thread: given to the process, it may reach another one first while this one runs on.
            signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
        elif self.action == "raise":
            raise FailpointError(name)
        elif self.action.startswith("delay="):
            time.sleep(float(self.action.removeprefix("delay=")))


def _may_act(name: str) -> bool:
    directory = os.environ.get("DSYNC_FAIL_ONCE")
    if not directory:
        return True
    try:
        os.close(os.open(os.path.join(directory, name), os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        return False
    return True


def _parse(text: str) -> dict[str, _Point]:
    points = {}
    for item in filter(None, text.split(",")):
        name, _, rest = item.partition(":")
        action, _, at = rest.partition("@")
        points[name] = _Point(action=action or "exit", at=0 if at == "*" else int(at or 1))
    return points


_points = _parse(os.environ.get("DSYNC_FAIL", ""))


def _inactive(name: str) -> None:
    """Nothing is to fail in this process."""


def _active(name: str) -> None:
    point = _points.get(name)
    if point is not None:
        point.reach(name)


failpoint: Callable[[str], None] = _active if os.environ.get("DSYNC_FAIL") else _inactive
