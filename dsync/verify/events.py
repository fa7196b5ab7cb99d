"""What happens in a verification, for progress and logs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dsync.coordinator.events import Event, EventHandler

__all__ = ["Event", "EventHandler", "NamespaceCompared", "RowsCompared", "RowsSettling"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RowsCompared(Event):
    """A range is done; rows add up over the ranges of a namespace."""

    kept: ClassVar[bool] = False
    rows: int
    estimated_rows: int
    resumed: bool = False
    """Compared by an earlier life of this verification."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowsSettling(Event):
    """Rows that differ are about to be read again."""

    kept: ClassVar[bool] = False
    rows: int
    generation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceCompared(Event):
    """A namespace is done."""

    is_equal: bool
    source_rows: int
    target_rows: int
    elapsed_s: float
