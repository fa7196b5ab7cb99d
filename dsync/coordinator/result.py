"""What a run has done, exactly: for the summary, `--json` and the exit code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dsync.coordinator.tasks import WORST_EXIT_CODES_FIRST
from dsync.state import NamespaceState


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceResult:
    namespace: str
    target: str
    rows: int
    size_bytes: int
    state: NamespaceState
    reason: str = ""
    dead_letters: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFailure:
    step: str
    namespace: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    flow: str
    run: str
    namespaces: tuple[NamespaceResult, ...]
    failed_steps: tuple[StepFailure, ...] = ()
    consistent: bool | None = None
    """None: the source has no snapshots, so nothing is claimed."""
    elapsed_s: float = 0.0
    moved_rows: int = 0
    """By this process; rows of earlier lives of the run are in the totals only."""
    moved_bytes: int = 0
    consistent_at: int | None = None
    """The source's position that the sink first equalled, where the flow follows it."""
    changes: int = 0
    """How many were applied by this process."""
    kept_at_source: str = ""
    """What the source keeps for the flow from now on, in words; empty: nothing."""

    @property
    def rows(self) -> int:
        return sum(item.rows for item in self.namespaces)

    @property
    def size_bytes(self) -> int:
        return sum(item.size_bytes for item in self.namespaces)

    @property
    def dead_letters(self) -> int:
        return sum(item.dead_letters for item in self.namespaces)

    @property
    def stopped(self) -> tuple[NamespaceResult, ...]:
        """Namespaces that did not arrive whole, or changed under a lost snapshot."""
        return tuple(item for item in self.namespaces if item.state in (NamespaceState.STOPPED, NamespaceState.CHANGED))

    @property
    def exit_code(self) -> int:
        codes = {0}
        if self.stopped or self.failed_steps:
            codes.add(6)
        if self.dead_letters:
            codes.add(5)
        return worst_exit_code(codes)

    def as_json(self) -> dict[str, Any]:
        return {
            "flow": self.flow,
            "run": self.run,
            "rows": self.rows,
            "bytes": self.size_bytes,
            "moved_rows": self.moved_rows,
            "moved_bytes": self.moved_bytes,
            "consistent": self.consistent,
            "consistent_at": self.consistent_at,
            "changes": self.changes,
            "kept_at_source": self.kept_at_source,
            "elapsed_s": round(self.elapsed_s, 3),
            "dead_letters": self.dead_letters,
            "namespaces": [
                {
                    "namespace": item.namespace,
                    "target": item.target,
                    "rows": item.rows,
                    "bytes": item.size_bytes,
                    "state": item.state.value,
                    "reason": item.reason,
                    "dead_letters": item.dead_letters,
                }
                for item in self.namespaces
            ],
            "failed_steps": [
                {"step": item.step, "namespace": item.namespace, "reason": item.reason} for item in self.failed_steps
            ],
        }


def worst_exit_code(codes: set[int]) -> int:
    """The one to exit with: 1, 3, 2, 6, 4, 5 in this order, else the highest (0, or an interrupt)."""
    for code in WORST_EXIT_CODES_FIRST:
        if code in codes:
            return code
    return max(codes, default=0)
