"""What a verification is asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

Key = tuple[str, ...]
"""A row's key, as its end writes the values; the row's hash where there is no key."""

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyOptions:
    """How two ends are compared."""

    quick: bool = False
    """Compare the numbers of rows only."""
    max_diffs: int = 100
    """At most so many differences of a namespace are listed; all are counted."""
    show_values: bool = False
    """Put the differing values into the report; else the names of their columns only."""
    live: bool = True
    """Either end may be written to meanwhile: what differs is read again before it is reported."""
    snapshot_lost: bool = False
    """Live: a copy is judged without the snapshot it was read from; what may have changed since is reported apart."""
    lost_snapshot: bytes = b""
    """The copy's snapshot, by which a source that has lost it may tell rows written since; empty: any may be."""
    changed: frozenset[str] = frozenset()
    """Source namespaces in which any row may have been written since it was copied, under whatever snapshot."""
    generations: int = 3
    """Live: how often rows that differ are read again before they count as different."""
    settle_delay_s: float = 1.0
    """Live: how long to wait before each time."""
    settled_rows: int = 10_000
    """Live: of more differing rows than this, whole ranges are compared again instead."""
    parallel: int = 2
    """How many ranges are compared at a time."""
    rows_per_range: int = 250_000
    """About so many rows make a range, the unit in which an interrupted verification goes on."""
    pulled_rows: int = 20_000
    """Buckets that differ are divided until they hold no more rows than this together."""
    held_bytes: int = 64 * MIB
    """Memory for rows that wait for their counterpart; beyond it they wait in a file."""
    spill_directory: Path | None = None
    """Where that file lies; None: the system's folder for temporary files."""
    page_bytes: int = 2 * MIB
    """Streamed: what a page should weigh."""
    retry_for_s: float = 60.0
    """How long a failing call is repeated where that can help."""

    def __post_init__(self) -> None:
        for name in ("max_diffs", "generations", "settled_rows"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} cannot be negative")
        for name in ("parallel", "rows_per_range", "pulled_rows", "held_bytes", "page_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive")

    @property
    def listed_rows(self) -> int:
        """How many differing rows of a namespace are remembered."""
        return max(self.max_diffs, self.settled_rows) if self.live else self.max_diffs


NO_OPTIONS = VerifyOptions()
"""A full comparison of two live ends."""
