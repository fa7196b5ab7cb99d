"""Which flow and run a log line is about: known to every task of a command, also to those that began before."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

_KEY = "_dsync_run"


@dataclass(slots=True)
class RunContext:
    """Filled in as soon as it is known.

    Tasks copy the context when they start, and those that read the log lines of plug-ins start before it is known
    which flow is meant: so the context holds this object, and not the names.
    """

    flow: str = ""
    run: str = ""


@contextmanager
def logging_run() -> Iterator[RunContext]:
    """Every line that is logged inside, here or by a task that is started here, names the flow and the run."""
    import structlog

    context = RunContext()
    with structlog.contextvars.bound_contextvars(**{_KEY: context}):
        yield context


def name_run(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A structlog processor, for behind `merge_contextvars`."""
    context = event.pop(_KEY, None)
    if isinstance(context, RunContext):
        names = {"flow": context.flow, "run": context.run}
        for key, value in names.items():
            if value:
                event.setdefault(key, value)
    return event
