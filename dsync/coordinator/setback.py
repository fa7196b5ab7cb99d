"""A sink that was put back to an older state, or has lost its unlogged tables in a crash.

What was recorded here is then ahead of what is there. A table that was only filled goes on from where its ledger says.
One that was emptied and begun anew since may hold the rows from before that, and one that stays though it has changed
is of a snapshot that nobody remembers: their rows cannot be gone on with, only removed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from dsync.coordinator.deliver import UnitProgress
from dsync.coordinator.plan import CopyPlan
from dsync.protocol.types import Partition
from dsync.state import NamespaceRow, NamespaceState

REASON = "the sink was put back to an older state"

Pieces = Mapping[str, tuple[Partition, ...]]
"""By namespace: how it is read again."""


def begun_anew_since(plan: CopyPlan, kept: CopyPlan | None) -> Pieces:
    """Namespaces that the sink, by the plan that it remembers, does not know as begun anew."""
    known = {row.namespace: row for row in kept.namespaces} if kept is not None else {}
    return _pieces(plan, [row.namespace for row in plan.namespaces if _is_news(row, known.get(row.namespace))])


def _is_news(row: NamespaceRow, known: NamespaceRow | None) -> bool:
    if row.state in (NamespaceState.CLEARING, NamespaceState.STOPPED):
        return False
    if known is None or known.generation < row.generation:
        return row.generation > 0
    # Not even the first generation is free of old rows: it may have begun over those of an earlier run.
    return known.generation == row.generation and known.state is NamespaceState.CLEARING


def changed_and_incomplete(plan: CopyPlan, progress: Mapping[str, UnitProgress]) -> Pieces:
    """Namespaces that were finished, have changed at the source, and are not whole at the sink any more."""
    return _pieces(plan, _incomplete(plan, progress, NamespaceState.CHANGED))


def copied_and_incomplete(plan: CopyPlan, progress: Mapping[str, UnitProgress]) -> list[str]:
    """Namespaces that were finished and are not whole at the sink any more: they are gone on with."""
    return _incomplete(plan, progress, NamespaceState.COPIED)


def _incomplete(plan: CopyPlan, progress: Mapping[str, UnitProgress], state: NamespaceState) -> list[str]:
    unfinished = {unit.namespace for unit in plan.partitions if not progress[unit.unit].done}
    return [row.namespace for row in plan.namespaces if row.state is state and row.namespace in unfinished]


def _pieces(plan: CopyPlan, names: Collection[str]) -> Pieces:
    """With those that share a table with one of them: emptying it takes their rows too."""
    emptied = {row.target for row in plan.namespaces if row.namespace in names}
    return {
        row.namespace: tuple(
            unit.partition for unit in plan.partitions if unit.namespace == row.namespace and unit.partition is not None
        )
        for row in plan.namespaces
        if row.target in emptied
    }
