"""Going on after a snapshot was lost: what has provably not changed stays, the rest is read again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dsync.coordinator.deliver import UnitProgress
from dsync.coordinator.ends import End
from dsync.coordinator.events import EventHandler, NamespaceRestarted, NamespaceStopped, SnapshotRenewed
from dsync.coordinator.journal import Journal
from dsync.coordinator.plan import CopyPlan
from dsync.coordinator.retries import Retries
from dsync.failpoints import failpoint
from dsync.protocol.errors import SinkNotEmptyError
from dsync.protocol.types import (
    CopiedPartition,
    Partition,
    ResumedPlan,
    UnitRef,
    Verdict,
    WriteContext,
)
from dsync.state import NamespaceRow, NamespaceState, UnitRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    source: End
    sink: End
    journal: Journal
    retries: Retries
    emit: EventHandler

    async def settle(self, plan: CopyPlan, progress: Mapping[str, UnitProgress]) -> bool:
        """Ask the source whether the plan's snapshot still holds, and record what follows where it does not.

        Returns whether anything changed. Repeatable: until the new snapshot is recorded, everything is judged by
        the old one.
        """
        resumed = await self._resume(plan, progress)
        if resumed.snapshot == plan.snapshot:
            return False
        rows = {row.namespace: row for row in plan.namespaces}
        finished = {
            name: all(progress[unit.unit].done for unit in plan.partitions if unit.namespace == name) for name in rows
        }
        again: dict[str, tuple[Partition, ...]] = {}
        changed: dict[str, str] = {}
        reasons: dict[str, str] = {}
        gone: dict[str, str] = {}
        for verdict in resumed.verdicts:
            row = rows[verdict.namespace]
            if verdict.verdict is Verdict.UNCHANGED or row.state in (NamespaceState.STOPPED, NamespaceState.CHANGED):
                continue
            if finished[row.namespace]:
                changed[row.namespace] = verdict.reason
            elif verdict.partitions:
                again[row.namespace] = verdict.partitions
                reasons[row.namespace] = verdict.reason
            else:
                gone[row.namespace] = verdict.reason
        await self._record(resumed, again=again, changed=changed, reasons=reasons, gone=gone)
        self.emit(
            SnapshotRenewed(
                unchanged=len(rows) - len(again) - len(changed) - len(gone),
                changed=len(again) + len(changed) + len(gone),
            )
        )
        return True

    async def _resume(self, plan: CopyPlan, progress: Mapping[str, UnitProgress]) -> ResumedPlan:
        copied = [_copied(unit, progress[unit.unit]) for unit in plan.partitions]
        return await self.retries.call(
            "renew the snapshot",
            lambda: self.source.connector.resume_plan(plan.snapshot, copied),
            before_repeat=self.source.reopen_session,
        )

    async def _record(
        self,
        resumed: ResumedPlan,
        *,
        again: Mapping[str, tuple[Partition, ...]],
        changed: Mapping[str, str],
        reasons: Mapping[str, str],
        gone: Mapping[str, str],
    ) -> None:
        for name, reason in gone.items():
            await self.journal.set_namespace_state(name, NamespaceState.STOPPED, reason)
            self.emit(NamespaceStopped(namespace=name, reason=reason))
        failpoint("coordinator.before_verdicts")
        await self.journal.apply_verdicts(resumed.snapshot, again=again, changed=changed, reasons=reasons)
        failpoint("coordinator.after_verdicts")
        for name in again:
            self.emit(NamespaceRestarted(namespace=name, reason=reasons[name]))

    async def clear(self, row: NamespaceRow) -> None:
        """Remove from the sink what a namespace's retired units have brought. Repeatable.

        A sink that cannot tell those rows from others' keeps them: its pages are written by key.
        """
        retired = await self.journal.retired_units(row.namespace)
        if self.sink.serves("LedgerService"):
            refs = [UnitRef(unit=unit, namespace=row.target) for unit in retired]
            states = await self.sink.connector.open_units(self.journal.flow, self.journal.run, refs)
            context = WriteContext(
                flow=self.journal.flow,
                run=self.journal.run,
                unit=states[0].unit if states else "",
                fence=states[0].fence if states else 0,
                cursor=b"",
                seq=0,
            )
            await self._clear_at_sink(context, row, retired)
        failpoint("coordinator.after_clear")
        await self.journal.namespace_cleared(row.namespace)

    async def _clear_at_sink(self, context: WriteContext, row: NamespaceRow, units: list[str]) -> None:
        try:
            await self.retries.call(
                "clear a table that is read again",
                lambda: self.sink.connector.clear_namespace(context, row.target, units),
                namespace=row.namespace,
                before_repeat=self.sink.reopen_session,
            )
        except SinkNotEmptyError:
            # Rows of others are among ours (--on-existing append): ours are written again by key.
            if not row.upsert:
                raise

    async def carry_over(self, plan: CopyPlan, run: str) -> tuple[CopyPlan, list[UnitProgress]]:
        raise NotImplementedError


def _copied(unit: UnitRow, progress: UnitProgress) -> CopiedPartition:
    assert unit.partition is not None, "only partitions are copied"
    return CopiedPartition(
        partition=unit.partition,
        cursor=progress.cursor.source,
        rows=progress.rows,
        done=progress.done,
    )
