"""What a cut-over tells while it runs."""

from __future__ import annotations

from dataclasses import dataclass

from dsync.coordinator.events import Event


@dataclass(frozen=True, slots=True, kw_only=True)
class CutoverStepDone(Event):
    step: str
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFrozen(Event):
    """It is read-only now; `undo` makes it writable again."""

    undo: str
    sessions_ended: int
    sessions_left: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceThawed(Event):
    """It is as it was, since the cut-over has not come to a safe end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceLeftFrozen(Event):
    """It could not be made writable again: somebody has to run `undo`."""

    undo: str
    reason: str
