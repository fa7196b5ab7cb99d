"""Where a stream stands, in words: for `status` and for the progress table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dsync.cli.text import approximate_bytes, approximate_count, counted, duration

if TYPE_CHECKING:
    from dsync.app.stream_figures import StreamFigures


def lag(figures: StreamFigures) -> str:
    """How far behind it is."""
    if not figures.lag_bytes and not figures.lag_s:
        return "nothing behind"
    return f"{duration(figures.lag_s)} and {approximate_bytes(figures.lag_bytes)} behind"


def applied(figures: StreamFigures) -> str:
    """How much it moves."""
    rate = "" if figures.changes_per_s is None else f", {approximate_count(figures.changes_per_s)}/s"
    return f"{counted(figures.changes, 'change')} applied{rate}"


def kept(figures: StreamFigures) -> str:
    """What the source keeps for it, and for how long that can go on."""
    said = approximate_bytes(figures.retained_bytes)
    if figures.safe_bytes is None:
        return f"{said}, without a limit but its disk"
    said += f"; gives it up after another {approximate_bytes(figures.safe_bytes)}"
    return f"{said}, in {duration(figures.lost_in_s)} at this rate" if figures.lost_in_s is not None else said
