"""What copies the units of a run: a copier for each namespace, with one budget, one pace and one tolerance."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from dsync.coordinator.budget import ByteBudget
from dsync.coordinator.control import Control
from dsync.coordinator.copier import UnitCopier
from dsync.coordinator.deliver import PageWriter
from dsync.coordinator.ends import Agreement, End
from dsync.coordinator.events import EventHandler
from dsync.coordinator.journal import Journal
from dsync.coordinator.pace import Pace
from dsync.coordinator.retries import Retries
from dsync.coordinator.spec import FlowSpec
from dsync.coordinator.tolerance import Tolerance
from dsync.protocol.page_store import PageStore
from dsync.state import NamespaceRow

_PROCESS_BYTES = 60 * 1024 * 1024
"""What a plug-in process or the coordinator takes before any page (measured as Pss)."""


def make_copiers(
    rows: Mapping[str, NamespaceRow],
    *,
    spec: FlowSpec,
    agreement: Agreement,
    source: End,
    sink: End,
    pages: PageStore | None,
    journal: Journal,
    retries: Retries,
    emit: EventHandler,
    stopping: asyncio.Event,
    control: Control,
) -> dict[str, UnitCopier]:
    """A copier for each of these namespaces, by name."""
    budget = ByteBudget(_page_budget_bytes(spec, agreement))
    tolerance = Tolerance.parse(spec.dead_letters)
    pace = Pace(
        stopping=stopping,
        rows_per_s=spec.rate_rows_per_s,
        bytes_per_s=spec.rate_bytes_per_s,
        pause_ratio=spec.pause_ratio,
        control=control,
    )
    return {
        name: UnitCopier(
            namespace=row,
            source=source,
            writer=PageWriter(
                flow=journal.flow,
                run=journal.run,
                namespace=row,
                sink=sink,
                pages=pages,
                retries=retries,
                emit=emit,
                add_dead_letter=journal.add_dead_letter,
                checkpoint=journal.checkpoint,
                tolerance=tolerance,
            ),
            agreement=agreement,
            budget=budget,
            pages=pages,
            retries=retries,
            pace=pace,
            emit=emit,
            stopping=stopping,
        )
        for name, row in rows.items()
    }


def _page_budget_bytes(spec: FlowSpec, agreement: Agreement) -> int:
    """What the memory limit leaves for pages: each is held up to twice while it crosses a process."""
    processes = 3 if spec.attach == "process" else 1
    left = spec.memory_limit - processes * _PROCESS_BYTES
    copies = 1 if agreement.by_reference or processes == 1 else 3
    return max(left // copies, 2 * agreement.page_bytes)
