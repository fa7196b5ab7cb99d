"""Going on after a snapshot was lost: what has provably not changed stays, the rest is read again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from dsync.coordinator.deliver import UnitProgress
from dsync.coordinator.ends import End
from dsync.coordinator.events import EventHandler, NamespaceRestarted, NamespaceStopped, SnapshotRenewed
from dsync.coordinator.following import Following
from dsync.coordinator.journal import Journal, RecordedRun
from dsync.coordinator.places import read_places
from dsync.coordinator.plan import CopyPlan
from dsync.coordinator.retries import Retries
from dsync.failpoints import failpoint
from dsync.protocol.errors import SinkNotEmptyError
from dsync.protocol.types import (
    CopiedPartition,
    Finding,
    Partition,
    ResumedPlan,
    Severity,
    UnitRef,
    Verdict,
    WriteContext,
)
from dsync.state import NamespaceRow, NamespaceState, UnitKind, UnitRow, finish_units, partition_units


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
        followed = frozenset(plan.following.partition.namespaces if plan.following else ())
        again: dict[str, tuple[Partition, ...]] = {}
        beside: dict[str, tuple[Partition, ...]] = {}
        seen_through: dict[str, int] = {}
        changed: dict[str, str] = {}
        reasons: dict[str, str] = {}
        gone: dict[str, str] = {}
        for verdict in resumed.verdicts:
            row = rows[verdict.namespace]
            if verdict.verdict is Verdict.UNCHANGED or row.state in (NamespaceState.STOPPED, NamespaceState.CHANGED):
                continue
            if finished[row.namespace] and row.namespace in followed:
                # Whatever has become of it since is in the stream.
                continue
            if verdict.verdict is Verdict.OVERLAPS:
                if verdict.partitions:
                    beside[row.namespace] = verdict.partitions
                    reasons[row.namespace] = verdict.reason
                continue
            if finished[row.namespace]:
                changed[row.namespace] = verdict.reason
            elif verdict.partitions:
                again[row.namespace] = verdict.partitions
                reasons[row.namespace] = verdict.reason
                if row.namespace in followed:
                    seen_through[row.namespace] = verdict.seen_through
            else:
                gone[row.namespace] = verdict.reason
        self._join_those_that_share_a_table(plan, resumed, again, changed, reasons)
        following = plan.following
        if following is not None:
            seen = {**following.seen_through, **seen_through}
            # What is read again may be older than what it was when it was copied anew last.
            joined = {name: place for name, place in following.joined.items() if finished.get(name, False)}
            following = replace(following, overlaps=True, seen_through=seen, consistent_at=None, joined=joined)
        await self._record(
            resumed, again=again, beside=beside, changed=changed, reasons=reasons, gone=gone, following=following
        )
        self.emit(
            SnapshotRenewed(
                unchanged=len(rows) - len(again) - len(beside) - len(changed) - len(gone),
                changed=len(again) + len(beside) + len(changed) + len(gone),
            )
        )
        return True

    def _join_those_that_share_a_table(
        self,
        plan: CopyPlan,
        resumed: ResumedPlan,
        again: dict[str, tuple[Partition, ...]],
        changed: dict[str, str],
        reasons: dict[str, str],
    ) -> None:
        """Emptying a table for one namespace takes the rows of all that were loaded into it: all are read again."""
        emptied = {row.target: row.namespace for row in plan.namespaces if row.namespace in again}
        anew = {verdict.namespace: verdict.partitions for verdict in resumed.verdicts}
        for row in plan.namespaces:
            name, cause = row.namespace, emptied.get(row.target)
            if cause is None or name in again:
                continue
            planned = tuple(_partition(unit) for unit in plan.partitions if unit.namespace == name)
            again[name] = anew.get(name, ()) or planned
            reasons[name] = changed.pop(name, f"it shares {row.target} with {cause}, which is read again")

    async def _resume(self, plan: CopyPlan, progress: Mapping[str, UnitProgress]) -> ResumedPlan:
        refused = await self.journal.dead_letters_by_unit()
        copied = [_copied(unit, progress[unit.unit], refused.get(unit.unit, 0)) for unit in plan.partitions]
        followed = (plan.following.partition,) if plan.following is not None else ()
        return await self.retries.call(
            "renew the snapshot",
            lambda: self.source.connector.resume_plan(plan.snapshot, copied, followed),
            before_repeat=self.source.reopen_session,
        )

    async def _record(
        self,
        resumed: ResumedPlan,
        *,
        again: Mapping[str, tuple[Partition, ...]],
        beside: Mapping[str, tuple[Partition, ...]],
        changed: Mapping[str, str],
        reasons: Mapping[str, str],
        gone: Mapping[str, str],
        following: Following | None,
    ) -> None:
        for name, reason in gone.items():
            await self.journal.set_namespace_state(name, NamespaceState.STOPPED, reason)
            self.emit(NamespaceStopped(namespace=name, reason=reason))
        failpoint("coordinator.before_verdicts")
        await self.journal.apply_verdicts(
            resumed.snapshot, again=again, changed=changed, reasons=reasons, beside=beside, following=following
        )
        failpoint("coordinator.after_verdicts")
        for name in (*again, *beside):
            self.emit(NamespaceRestarted(namespace=name, reason=reasons[name]))

    async def clear(self, row: NamespaceRow, units: list[str]) -> None:
        """Remove from the sink what a namespace's retired units have brought. Repeatable.

        `units` are those that replace them: the fence of one guards the clearing. A sink that cannot tell those rows
        from others' keeps them: its pages are written by key.
        """
        failpoint("coordinator.before_clear")
        retired = await self.journal.retired_units(row.namespace)
        if self.sink.serves("LedgerService"):
            refs = [UnitRef(unit=unit, namespace=row.target) for unit in retired or units]
            states = await self.retries.call(
                "open units at the sink",
                lambda: self.sink.connector.open_units(self.journal.flow, self.journal.run, refs),
                namespace=row.namespace,
                before_repeat=self.sink.reopen_session,
            )
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
        """For a new run over a finished one: what has provably not changed since keeps its rows and its partitions.

        Returns the plan with those namespaces COPIED, and the others that the finished run had filled CLEARING, and
        with the steps that it could not do; and the places of the units that are carried over.
        """
        before = await self.journal.load_run(run)
        if before is None:
            return plan, []
        before = await self._as_the_sink_has_it(before, run)
        gone = _gone(plan, before)
        plan = replace(_with_missed_steps(plan, before, gone), findings=(*plan.findings, *map(_left_as_it_is, gone)))
        reasons = await self._changed_since(before)
        old = {row.namespace: row for row in before.plan.namespaces}
        # Emptying a table takes the rows of all namespaces that were loaded into it.
        known = {row.namespace for row in plan.namespaces}
        emptied = {
            row.target
            for row in before.plan.namespaces
            if row.namespace in reasons or row.namespace not in known or not _is_whole(row, before)
        } | {
            row.target for row in plan.namespaces if row.namespace in old and not _is_same_load(old[row.namespace], row)
        }
        rows: list[NamespaceRow] = []
        units: list[UnitRow] = [unit for unit in plan.units if unit.kind is UnitKind.FINISH]
        carried: list[UnitProgress] = []
        for row in plan.namespaces:
            earlier = old.get(row.namespace) if row.namespace not in plan.anew else None
            made = [unit for unit in plan.partitions if unit.namespace == row.namespace]
            if earlier is not None and row.target not in emptied and _is_same_load(earlier, row):
                pieces = [unit for unit in before.plan.partitions if unit.namespace == row.namespace]
                made = list(partition_units(row.namespace, row.position, [_partition(unit) for unit in pieces]))
                carried += [
                    replace(before.progress[was.unit], unit=now.unit, fence=0)
                    for was, now in zip(pieces, made, strict=True)
                ]
                row = replace(row, state=NamespaceState.COPIED)
            elif earlier is not None and earlier.target == row.target:
                row = replace(row, state=NamespaceState.CLEARING, reason=reasons.get(row.namespace, ""))
            rows.append(row)
            units += made
        return replace(plan, namespaces=tuple(rows), units=tuple(units)), carried

    async def _as_the_sink_has_it(self, before: RecordedRun, run: str) -> RecordedRun:
        """With the places that the ledger gives: a sink that was put back, or has crashed, may hold less."""
        if not self.sink.serves("LedgerService"):
            return before
        there = await self.retries.call(
            "read the ledger",
            lambda: read_places(self.sink, self.journal.flow, run, before.plan),
            before_repeat=self.sink.reopen_session,
        )
        # What that run had carried over itself stands in the ledger under the run that copied it.
        carried = {unit.unit for unit in before.plan.partitions if unit.namespace in before.carried}
        places = {unit: place if unit in carried else there[unit] for unit, place in before.progress.items()}
        return replace(before, progress=places)

    async def _changed_since(self, before: RecordedRun) -> dict[str, str]:
        """The namespaces that are not provably as that run has read them, with the reasons."""
        if not before.plan.snapshot:
            return {row.namespace: _NO_SNAPSHOT for row in before.plan.namespaces}
        copied = [_copied(unit, before.progress[unit.unit], 0) for unit in before.plan.partitions]
        resumed = await self.retries.call(
            "compare with the run before",
            lambda: self.source.connector.resume_plan(before.plan.snapshot, copied),
            before_repeat=self.source.reopen_session,
        )
        if resumed.snapshot == before.plan.snapshot:
            return {}
        return {item.namespace: item.reason for item in resumed.verdicts if item.verdict is not Verdict.UNCHANGED}


_NO_SNAPSHOT = "its source has no snapshots to compare with"


def _is_whole(row: NamespaceRow, before: RecordedRun) -> bool:
    return all(before.progress[unit.unit].done for unit in before.plan.partitions if unit.namespace == row.namespace)


def _gone(plan: CopyPlan, before: RecordedRun) -> list[NamespaceRow]:
    """What the earlier run has filled and this one does not know."""
    targets = {row.target for row in plan.namespaces}
    return [row for row in before.plan.namespaces if row.target not in targets]


def _left_as_it_is(row: NamespaceRow) -> Finding:
    state = "incomplete" if row.state is NamespaceState.STOPPED else "as the run before has left it"
    return Finding(
        code="no-longer-copied",
        severity=Severity.WARNING,
        object=row.target,
        message=f"the source has no {row.namespace} any more; at the sink it stays, {state}",
        remedy="drop it there if nobody needs it",
    )


def _with_missed_steps(plan: CopyPlan, before: RecordedRun, gone: Sequence[NamespaceRow]) -> CopyPlan:
    """A sink plans nothing for tables that it has, so the key of one that had stopped would never be made."""
    steps = [unit.step for unit in plan.steps if unit.step is not None]
    known = {step.id for step in steps}
    left_out = {row.target for row in gone}
    missed = [
        unit.step
        for unit in before.plan.steps
        if unit.step is not None
        and unit.step.id not in known
        and unit.step.namespace not in left_out
        and not before.progress[unit.unit].done
    ]
    return replace(plan, units=(*plan.partitions, *finish_units([*steps, *missed])))


def _is_same_load(earlier: NamespaceRow, now: NamespaceRow) -> bool:
    return earlier.state is NamespaceState.COPIED and (earlier.target, earlier.columns) == (now.target, now.columns)


def _partition(unit: UnitRow) -> Partition:
    assert unit.partition is not None, "only partitions are copied"
    return unit.partition


def _copied(unit: UnitRow, progress: UnitProgress, refused_rows: int) -> CopiedPartition:
    """What the source is to recount: rows that were refused are still there.

    Rows of a page that was being halved lie behind the cursor, so their number never fits, and all is read again.
    """
    return CopiedPartition(
        partition=_partition(unit),
        cursor=progress.cursor.source,
        rows=progress.rows + refused_rows,
        done=progress.done,
    )
