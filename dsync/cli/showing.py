"""Which form progress takes: a table on a terminal, log lines elsewhere, or nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from dsync.cli.lines import Lines
from dsync.cli.logs import progress_logger
from dsync.cli.progress import Progress
from dsync.cli.settings import Settings
from dsync.coordinator.events import Event, EventHandler

Choice = Literal["auto", "bar", "plain", "none"]


@contextmanager
def showing_progress(settings: Settings, choice: Choice) -> Iterator[EventHandler]:
    """Where a run's events go; the logging has been configured before."""
    if _resolved(settings, choice) == "bar":
        from dsync.cli.bar import showing_bar

        with showing_bar() as progress:
            yield progress
    elif _resolved(settings, choice) == "plain":
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
