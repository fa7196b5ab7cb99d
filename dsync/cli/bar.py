"""Progress on a terminal: a table that is drawn again and again, with what is busiest on top."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from dsync.cli import stream_text
from dsync.cli.progress import NamespaceProgress, Progress
from dsync.cli.text import approximate_bytes, approximate_count, duration
from dsync.coordinator.events import EventHandler

_REFRESHES_PER_S = 4
_OTHER_LINES = 5
"""Of the screen: heading, totals, and room for the shell's prompt and log lines."""


@contextmanager
def showing_bar(console: Console | None = None) -> Iterator[EventHandler]:
    """A live table on stderr; it disappears at the end, where the summary says the same exactly."""
    console = console or Console(stderr=True)
    progress = Progress()
    with Live(
        get_renderable=lambda: render(progress, height=console.height),
        console=console,
        refresh_per_second=_REFRESHES_PER_S,
        transient=True,
        redirect_stdout=False,
    ):
        yield progress


def render(progress: Progress, *, height: int) -> RenderableType:
    """At most as many lines as fit: the busiest namespaces of a copy first, then where the stream stands."""
    with progress.lock:
        if progress.is_streaming:
            return _stream(progress)
        figures = progress.stream
        table = _copy(progress, height=height - (figures is not None))
        if figures is None:
            return table
        waiting = f"changes made meanwhile wait in the spool: {approximate_bytes(figures.spool_bytes)}"
        return Group(table, Text(waiting, style="dim"))


def _stream(progress: Progress) -> Table:
    figures = progress.stream
    assert figures is not None, "only a stream is shown so"
    phase = progress.phase.replace("_", " ")
    table = Table.grid(padding=(0, 2))
    table.add_row(Text(f"paused ({phase})" if progress.is_paused else phase, style="bold"), stream_text.lag(figures))
    table.add_row("changes", stream_text.applied(figures))
    table.add_row("spool", f"{approximate_bytes(figures.spool_bytes)} here")
    table.add_row("source keeps", stream_text.kept(figures))
    if progress.stage.dead_letters:
        table.add_row("refused", f"{progress.stage.dead_letters:,}")
    return table


def _copy(progress: Progress, *, height: int) -> Table:
    """While the lock is held."""
    now_s = progress.clock()
    stage = progress.stage
    table = Table(box=None, pad_edge=False, expand=False, show_edge=False, header_style="bold")
    table.add_column("table", no_wrap=True, overflow="ellipsis", max_width=48)
    table.add_column("", width=20)
    for name in ("rows", "bytes", "rows/s", "MB/s", "left", "refused"):
        table.add_column(name, justify="right", no_wrap=True)
    room = max(height - _OTHER_LINES, 1)
    busy = list(stage.busiest(now_s))
    for entry in busy[:room]:
        table.add_row(*_line(entry, now_s))
    if len(busy) > room:
        table.add_row(Text(f"… and {len(busy) - room} more", style="dim"))
    table.add_row(*_total(progress, now_s), style="bold")
    return table


def _line(entry: NamespaceProgress, now_s: float) -> tuple[Text | ProgressBar | str, ...]:
    rates = entry.rate.per_second(now_s)
    rows_per_s, bytes_per_s = rates or (0.0, 0.0)
    left = max(entry.estimated_rows - entry.rows, 0)
    return (
        Text(entry.namespace),
        ProgressBar(total=1.0, completed=entry.share, width=20),
        f"{entry.rows:,}" + (f" / {approximate_count(entry.estimated_rows)}" if entry.estimated_rows else ""),
        approximate_bytes(entry.size_bytes) if entry.size_bytes else "",
        approximate_count(rows_per_s) if rates else "",
        f"{bytes_per_s / 1e6:,.1f}" if bytes_per_s else "",
        duration(left / rows_per_s) if rows_per_s > 0 and left else "",
        str(entry.dead_letters or ""),
    )


def _total(progress: Progress, now_s: float) -> tuple[Text | ProgressBar | str, ...]:
    stage = progress.stage
    rates = stage.rate.per_second(now_s) or (0.0, 0.0, 0.0)
    eta_s = stage.eta_s(now_s)
    if progress.phase == "finishing":
        what = f"finishing: {progress.steps_done} of {progress.steps} steps" if progress.steps else "finishing"
        share = progress.steps_done / progress.steps if progress.steps else 0.0
        eta_s = None
    else:
        what = progress.phase or "starting"
        if stage.namespaces:
            what += f": {stage.namespaces_done} of {len(stage.namespaces)} tables"
        share = stage.share
    if progress.is_paused:
        what, eta_s = f"paused ({what})", None
    return (
        Text(what),
        ProgressBar(total=1.0, completed=share, width=20),
        f"{stage.rows:,}",
        approximate_bytes(stage.size_bytes) if stage.size_bytes else "",
        approximate_count(rates[0]),
        f"{rates[1] / 1e6:,.1f}",
        duration(eta_s) if eta_s is not None else "",
        str(stage.dead_letters or ""),
    )
