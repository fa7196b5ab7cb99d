"""Which form progress takes: a table on a terminal, log lines elsewhere, objects, or nothing; and the log file's."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from dsync.cli.lines import Lines
from dsync.cli.logs import progress_logger
from dsync.cli.progress import Progress
from dsync.cli.settings import Settings
from dsync.coordinator.events import Event, EventHandler

if TYPE_CHECKING:
    from dsync.app.metrics import MetricsAddress

Choice = Literal["auto", "bar", "plain", "json", "none"]


@contextmanager
def observing(settings: Settings, choice: Choice, metrics: MetricsAddress | None) -> Iterator[EventHandler]:
    """Where a run's events go: its progress, and its metrics where they are asked for."""
    if metrics is None:
        with showing_progress(settings, choice) as show:
            yield show
        return
    from dsync.app.metrics import RunMetrics, serving_metrics

    def say(url: str) -> None:
        progress_logger(settings).info("metrics_served", url=url)

    count = RunMetrics()
    with serving_metrics(count, metrics, say), showing_progress(settings, choice) as show:

        def show_and_count(event: Event) -> None:
            show(event)
            count(event)

        yield show_and_count


@contextmanager
def showing_progress(settings: Settings, choice: Choice) -> Iterator[EventHandler]:
    """Where a run's events go; the logging has been configured before."""
    form = _resolved(settings, choice)
    with _shown(settings, form) as show:
        if settings.log is None or form == "plain":
            # Log lines reach the log file as all others do.
            yield show
            return
        keep = Lines(progress_logger(settings, to_stderr=False), Progress())

        def show_and_keep(event: Event) -> None:
            show(event)
            keep(event)

        yield show_and_keep


@contextmanager
def _shown(settings: Settings, form: Choice) -> Iterator[EventHandler]:
    if form == "bar":
        from dsync.cli.bar import showing_bar

        with showing_bar() as progress:
            yield progress
    elif form == "json":
        from dsync.cli.progress_json import showing_json

        with showing_json(settings) as lines:
            yield lines
    elif form == "plain":
        yield Lines(progress_logger(settings), Progress())
    else:
        yield _nothing


def _nothing(event: Event) -> None:
    """Nobody looks."""


def _resolved(settings: Settings, choice: Choice) -> Choice:
    if choice != "auto":
        return choice
    if settings.is_quiet:
        return "none"
    # Log lines that a machine is to read are not for a screen that is drawn over.
    return "bar" if sys.stderr.isatty() and settings.log_format == "console" else "plain"
