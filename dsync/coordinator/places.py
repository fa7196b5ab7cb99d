"""Where units stand by the sink's own word: read without taking them from whoever may hold them, or taken over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dsync.coordinator.cursor import UnitCursor
from dsync.coordinator.deliver import UnitProgress
from dsync.coordinator.ends import End
from dsync.coordinator.plan import CopyPlan
from dsync.coordinator.retries import Retries
from dsync.protocol.errors import NamespaceChangedError, UnsupportedError
from dsync.protocol.types import UnitRef, UnitState
from dsync.state import UnitRow

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


async def open_places(
    sink: End, retries: Retries, flow: str, run: str, units: Sequence[UnitRow], targets: Mapping[str, str]
) -> tuple[dict[str, UnitProgress], dict[str, str]]:
    """Take units over: their places, and the reasons why the sink refuses namespaces, those that stopped before too."""

    async def some_of(some: Sequence[UnitRow]) -> dict[str, UnitProgress]:
        refs = [UnitRef(unit=unit.unit, namespace=targets.get(unit.namespace, "")) for unit in some]
        states = await retries.call(
            "open units at the sink",
            lambda: sink.connector.open_units(flow, run, refs),
            before_repeat=sink.reopen_session,
        )
        return {state.unit: progress_of(state) for state in states}

    places: dict[str, UnitProgress] = {}
    refused: dict[str, str] = {}
    for start in range(0, len(units), UNITS_AT_ONCE):
        some = units[start : start + UNITS_AT_ONCE]
        try:
            places |= await some_of(some)
        except NamespaceChangedError:
            # Which of them it is about is found out one by one: the others go on.
            for namespace in dict.fromkeys(unit.namespace for unit in some):
                try:
                    places |= await some_of([unit for unit in some if unit.namespace == namespace])
                except NamespaceChangedError as error:
                    refused[namespace] = str(error)
    return places, refused


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
