"""A flow between two memory connectors, run in process, killed and started again."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass, field
from typing import Any

from dsync.coordinator.context import RunContext
from dsync.coordinator.control import Control
from dsync.coordinator.ends import End, negotiate, open_sessions
from dsync.coordinator.events import Event
from dsync.coordinator.journal import Journal
from dsync.coordinator.result import RunResult
from dsync.coordinator.run import Run
from dsync.coordinator.spec import EndpointIdentity, FlowSpec
from dsync.protocol.types import Role, SessionRequest
from dsync.sdk.testing.faults import Faults
from dsync.sdk.testing.memory import MemoryConnector
from dsync.sdk.testing.memory_store import MemoryStore
from dsync.state import FlowRow, RunRow, Store

PAGE_BYTES = 64 * 1024


@dataclass
class Harness:
    """Each `run` is a new life of all three processes: only the stores are kept."""

    store: Store
    source_store: MemoryStore = field(default_factory=MemoryStore)
    sink_store: MemoryStore = field(default_factory=MemoryStore)
    partition_rows: int = 1000
    events: list[Event] = field(default_factory=list)
    cursors_asked: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.spec = FlowSpec(
            source=EndpointIdentity(reference="memory://a", address="memory://a"),
            sink=EndpointIdentity(reference="memory://b", address="memory://b"),
            page_bytes=PAGE_BYTES,
            parallel=2,
            retry_for_s=0,
        )
        self.flow: FlowRow = self.store.create_flow(
            name=None, fingerprint=secrets.token_hex(8), spec=self.spec.model_dump(mode="json")
        )
        self.row: RunRow = self.store.new_run(self.flow.flow, mode="copy")

    @property
    def source(self) -> MemoryConnector:
        return MemoryConnector(self.source_store)

    @property
    def sink(self) -> MemoryConnector:
        return MemoryConnector(self.sink_store)

    def new_run(self) -> str:
        """Begin another run; returns the one before."""
        before = self.row.run
        self.row = self.store.new_run(self.flow.flow, mode="copy")
        return before

    async def run(
        self,
        *,
        source_faults: tuple[str, ...] = (),
        sink_faults: tuple[str, ...] = (),
        stopping: asyncio.Event | None = None,
        again_from: str = "",
        control: Control | None = None,
        **changes: Any,
    ) -> RunResult:
        spec = self.spec.model_copy(update=changes)
        source = MemoryConnector(
            self.source_store, faults=Faults(source_faults), partition_rows=self.partition_rows, endpoint_id="a"
        )
        sink = MemoryConnector(self.sink_store, faults=Faults(sink_faults), endpoint_id="b")
        ends = await End.meet(source, Role.SOURCE), await End.meet(sink, Role.SINK)
        agreement = negotiate(*ends, spec)
        session = SessionRequest(flow=self.flow.flow, run=self.row.run, page_bytes=spec.page_bytes)
        agreement = await open_sessions(*ends, agreement, None, session)
        journal = Journal(self.store, self.flow.flow, self.row.run)
        try:
            context = RunContext(
                spec=spec,
                flow_name="",
                fingerprint="f",
                source=ends[0],
                sink=ends[1],
                agreement=agreement,
                journal=journal,
                pages=None,
                emit=self.events.append,
                stopping=stopping or asyncio.Event(),
                again_from=again_from,
                control=control or Control(),
            )
            return await Run(context=context).execute()
        finally:
            self.cursors_asked += source.cursors_asked
            await journal.close()

    def ids(self, namespace: str) -> list[object]:
        """The sink's documents' ids, sorted as they were served."""
        return sorted(document["_id"] for document in self.sink.documents(namespace))  # type: ignore[type-var]
