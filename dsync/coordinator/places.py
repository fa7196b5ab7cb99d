"""Where units stand by the sink's own word, read without taking them over from whoever may hold them."""

from __future__ import annotations

from dsync.coordinator.cursor import UnitCursor
from dsync.coordinator.deliver import UnitProgress
from dsync.coordinator.ends import End
from dsync.coordinator.plan import CopyPlan
from dsync.protocol.errors import UnsupportedError
from dsync.protocol.types import UnitRef, UnitState

UNITS_AT_ONCE = 5000
"""How many units one call asks about."""


async def read_places(sink: End, flow: str, run: str, plan: CopyPlan) -> dict[str, UnitProgress]:
    """The place of every unit of a run in the sink's ledger; at the start where it has none. Raises no fence."""
    targets = {row.namespace: row.target for row in plan.namespaces}
    refs = [UnitRef(unit=unit.unit, namespace=targets.get(unit.namespace, "")) for unit in plan.units]
    found: dict[str, UnitProgress] = {}
    for start in range(0, len(refs), UNITS_AT_ONCE):
        for state in await _read(sink, flow, run, refs[start : start + UNITS_AT_ONCE]):
            found[state.unit] = progress_of(state)
    return found


async def _read(sink: End, flow: str, run: str, refs: list[UnitRef]) -> list[UnitState]:
    try:
        return await sink.connector.read_units(flow, run, refs)
    except UnsupportedError:
        # It has nothing weaker: whoever else runs this very run is stopped by it.
        return await sink.connector.open_units(flow, run, refs)


def progress_of(state: UnitState) -> UnitProgress:
    return UnitProgress(
        unit=state.unit,
        fence=state.fence,
        cursor=UnitCursor.decode(state.cursor),
        seq=state.seq,
        rows=state.rows,
        size_bytes=state.size_bytes,
        done=state.done,
    )
