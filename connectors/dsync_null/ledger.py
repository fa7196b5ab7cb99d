"""Where each unit of each flow stands; in memory, so it ends with the process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dsync.sdk.errors import FencedError
from dsync.sdk.types import FlowManifest, UnitRef, UnitState, WriteContext


class Ledger:
    """Fences and cursors of units, and the flows' manifests."""

    def __init__(self) -> None:
        self._units: dict[tuple[str, str], UnitState] = {}
        self._manifests: dict[str, FlowManifest] = {}

    def open_unit(self, flow: str, unit: UnitRef) -> UnitState:
        """Raise the unit's fence and say where it stands."""
        known = self.read_unit(flow, unit)
        opened = self._units[flow, unit.unit] = replace(known, fence=known.fence + 1)
        return opened

    def read_unit(self, flow: str, unit: UnitRef) -> UnitState:
        """Where a unit stands; at the start, with fence 0, where it was never opened."""
        return self._units.get((flow, unit.unit), UnitState(unit=unit.unit, fence=0))

    def require(self, context: WriteContext) -> bool:
        """False where this write has been counted already.

        Raises:
            FencedError: somebody else has opened the unit since.
        """
        known = self._units.get((context.flow, context.unit))
        if known is None or known.fence != context.fence:
            raise FencedError(f"unit {context.unit}: another coordinator has taken it over; stop this one")
        return known.seq < context.seq

    def advance(self, context: WriteContext, *, rows: int, size_bytes: int) -> None:
        """Note a write."""
        known = self._units[context.flow, context.unit]
        self._units[context.flow, context.unit] = replace(
            known,
            cursor=context.cursor,
            seq=context.seq,
            rows=known.rows + rows,
            size_bytes=known.size_bytes + size_bytes,
            done=context.done,
        )

    def reset(self, flow: str, units: Sequence[str]) -> None:
        """Let units begin again; their fences stay."""
        for unit in units:
            known = self._units.get((flow, unit))
            if known is not None:
                self._units[flow, unit] = UnitState(unit=unit, fence=known.fence)

    def save_manifest(self, manifest: FlowManifest) -> None:
        self._manifests[manifest.flow] = manifest

    def manifests(self) -> list[FlowManifest]:
        return list(self._manifests.values())

    def forget(self, flow: str) -> list[str]:
        """Remove a flow; says what was there."""
        units = [key for key in self._units if key[0] == flow]
        for key in units:
            del self._units[key]
        removed = [f"{len(units)} ledger rows of flow {flow}"] if units else []
        if self._manifests.pop(flow, None) is not None:
            removed.append(f"the manifest of flow {flow}")
        return removed
