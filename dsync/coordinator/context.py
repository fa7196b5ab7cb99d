"""What every part of a run needs: the flow, its two ends, where it is recorded, whom to tell, and when to stop."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

from dsync.coordinator.control import Control
from dsync.coordinator.ends import Agreement, End
from dsync.coordinator.events import EventHandler, PhaseChanged
from dsync.coordinator.journal import Journal
from dsync.coordinator.manifest import RunEnd, encode_manifest
from dsync.coordinator.plan import CopyPlan, Planner
from dsync.coordinator.recovery import Recovery
from dsync.coordinator.retries import Retries
from dsync.coordinator.spec import FlowSpec
from dsync.protocol.page_store import PageStore
from dsync.protocol.types import FlowManifest
from dsync.state import Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class RunContext:
    """One life of a run. All that must survive it is in the journal and the sink's ledger."""

    spec: FlowSpec
    flow_name: str
    fingerprint: str
    source: End
    sink: End
    agreement: Agreement
    journal: Journal
    pages: PageStore | None
    emit: EventHandler
    stopping: asyncio.Event
    again_from: str = ""
    """The finished run whose unchanged namespaces need not be read again."""
    spools: Path | None = None
    """Where the flow's changes wait until they are applied; None: it follows none."""
    control: Control = field(default_factory=Control)
    """What is asked of it meanwhile."""

    @property
    def retries(self) -> Retries:
        return Retries(retry_for_s=self.spec.retry_for_s, emit=self.emit, is_stopping=self.stopping.is_set)

    @property
    def recovery(self) -> Recovery:
        return Recovery(source=self.source, sink=self.sink, journal=self.journal, retries=self.retries, emit=self.emit)

    @property
    def planner(self) -> Planner:
        return Planner(
            source=self.source,
            sink=self.sink,
            spec=self.spec,
            agreement=self.agreement,
            flow=self.journal.flow,
            run=self.journal.run,
        )

    async def reopen_sessions(self) -> None:
        """Tell both plug-ins of the flow again: one that was restarted has forgotten it."""
        await self.source.reopen_session()
        await self.sink.reopen_session()

    async def let_go_of_snapshot(self) -> None:
        """Held on, it would keep the source from removing what was deleted since. Repeatable."""
        await self.retries.call(
            "let go of the snapshot",
            lambda: self.source.connector.close_plan(self.journal.flow),
            before_repeat=self.source.reopen_session,
        )

    async def enter(self, phase: Phase) -> None:
        """Record and tell that the run has come so far."""
        await self.journal.set_phase(phase)
        await self.journal.flush_events()
        self.emit(PhaseChanged(phase=phase.value))

    async def stored_plan(self) -> CopyPlan:
        """The plan as it is recorded now."""
        plan = await self.journal.load_plan()
        assert plan is not None, "a run that copies has a plan"
        return plan

    async def save_manifest(self, plan: CopyPlan, *, end: RunEnd | None = None) -> None:
        """Let the sink know what is planned, for a coordinator that has only the sink's word."""
        if not self.sink.serves("LedgerService"):
            return
        carried = await self.journal.carried(plan)
        manifest = FlowManifest(
            flow=self.journal.flow,
            fingerprint=self.fingerprint,
            name=self.flow_name,
            run=self.journal.run,
            plan=encode_manifest(self.spec, plan, self.source.info.id, carried, end=end),
        )
        await self.retries.call("save the flow's manifest", lambda: self.sink.connector.save_manifest(manifest))
