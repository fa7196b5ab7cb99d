"""The steps of a cut-over, done while the flow follows: each may be done again, so a repeated command goes on.

What is proved: everything up to an end mark is at the sink; between that mark and a second one, after all other steps,
no change of a followed table came in the stream, no sequence was moved and no definition altered. Whether the source
was made read-only makes no difference to the proof, which holds for sessions that insist on writing as well.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from dsync.app.cutover_drift import Drift, compare_schemas
from dsync.app.cutover_events import CutoverStepDone, SourceFrozen, SourceLeftFrozen, SourceThawed
from dsync.app.cutover_report import CutoverReport
from dsync.coordinator.context import RunContext
from dsync.coordinator.events import EventHandler
from dsync.coordinator.plan import choose
from dsync.coordinator.tasks import StoppedError
from dsync.failpoints import failpoint
from dsync.protocol.errors import DsyncError
from dsync.protocol.types import DescribeRequest, SchemaObject, SequenceState
from dsync.state import NamespaceState

if TYPE_CHECKING:
    from dsync.coordinator.stream.session import Stream
    from dsync.verify import VerifyReport

FROZEN = "frozen"
"""Under which name a run keeps how the source was before it was made read-only."""
CUT_OVER = "cut_over"
"""Under which name a run keeps what its cut-over came to."""
_NAMED = 5


class CutoverGivenUpError(StoppedError):
    """What is to be applied does not arrive in time: the run ends without waiting for it; the report says why."""


class Reversing:
    """Makes the flow back; of a cut-over without one, nothing."""

    async def make(self, stopping: asyncio.Event) -> tuple[str, str]:
        """Make it and pass a mark through it; returns its name and the command that lets it go on."""
        return "", ""

    async def unmake(self) -> None:
        """Remove it again: the cut-over has not come to a safe end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Schema:
    """What of the source is compared, and followed."""

    targets: Mapping[str, str]
    """The sink's name of each namespace, those without rows of their own included."""
    unplanned: tuple[str, ...]
    """Chosen by the flow's patterns, with rows, and no part of what was planned."""


@dataclass(slots=True, kw_only=True)
class Procedure:
    """One cut-over."""

    report: CutoverReport
    freezes: bool
    timeout_s: float
    reversing: Reversing
    emit: EventHandler
    _token: bytes = field(default=b"", init=False)
    _thaws: bool = field(default=True, init=False)
    _is_late: bool = field(default=False, init=False)

    async def __call__(
        self, context: RunContext, stream: Stream, verify: Callable[[], Awaitable[VerifyReport]]
    ) -> None:
        """Do all steps; the report says what came of it. A source that was made read-only stays so if it is safe.

        Raises:
            CutoverGivenUpError: a mark did not arrive in time.
        """
        await self._learn_frozen(context)
        try:
            await self._work(context, stream, verify)
            self._thaws = not self.report.is_safe
        finally:
            if self._token and self._thaws:
                await asyncio.shield(self._thaw(context))
        if self._is_late:
            # Whoever applies may wait for a lock, for as long as somebody holds that.
            raise CutoverGivenUpError

    async def _work(self, context: RunContext, stream: Stream, verify: Callable[[], Awaitable[VerifyReport]]) -> None:
        report = self.report
        failpoint("cutover.before_catching_up")
        if await self._reach(stream, "catching up with the source") is None:
            return
        if self.freezes or self._token:
            await self._freeze(context)
        report.position = await self._reach(stream, "applying what was written until the end", counts_after=True)
        if report.position is None:
            return
        failpoint("cutover.after_end_mark")
        schema = await self._schema(context)
        sequences = await self._sequences(context, schema)
        objects = await self._compare(context, schema, sequences)
        failpoint("cutover.after_schema")
        report.verify = await verify()
        if not report.verify.is_equal:
            report.refuse("differences", 4, "both ends were compared, and differ")
        self._did("verified", f"{report.verify.source_rows} rows")
        failpoint("cutover.after_verify")
        self._judge_run(await context.journal.count_dead_letters(), await self._stopped(context))
        if not report.reasons:
            report.reverse, report.reverse_command = await self.reversing.make(context.stopping)
            if report.reverse:
                self._did("reversed", report.reverse)
                failpoint("cutover.after_reverse")
        await self._prove(context, stream, schema, sequences, objects)
        report.came_to_its_end = True
        report.finished_at = datetime.now(UTC).isoformat()
        if report.is_safe:
            failpoint("cutover.before_safe")
            await context.journal.note(**{CUT_OVER: report.as_json()})
            failpoint("cutover.after_safe")
        elif report.reverse:
            await self.reversing.unmake()
            report.reverse = report.reverse_command = ""

    # ------------------------------------------------------------------ freezing

    async def _learn_frozen(self, context: RunContext) -> None:
        """An earlier life may have been killed after it had made the source read-only."""
        kept: Mapping[str, Any] = (await context.journal.row()).extra.get(FROZEN) or {}
        if kept:
            self._token = base64.b64decode(kept["token"])
            self.report.undo = kept["undo"]

    async def _freeze(self, context: RunContext) -> None:
        source, report = context.source.connector, self.report
        if not self._token:
            before = await source.freeze(dry_run=True)
            kept = {"token": base64.b64encode(before.token).decode(), "undo": before.undo}
            await context.journal.note(**{FROZEN: kept})
            self._token, report.undo = before.token, before.undo
        failpoint("cutover.before_freeze")
        frozen = await source.freeze(dry_run=False, wait_s=self.timeout_s)
        failpoint("cutover.after_freeze")
        report.is_frozen = True
        report.ended, report.left, report.exempt = frozen.ended, frozen.left, frozen.exempt
        self.emit(SourceFrozen(undo=report.undo, sessions_ended=len(frozen.ended), sessions_left=len(frozen.left)))

    async def _thaw(self, context: RunContext) -> None:
        try:
            await context.source.connector.thaw(self._token)
        except DsyncError as error:
            # The run's own error matters more, and this has to be read whatever that was.
            self.emit(SourceLeftFrozen(undo=self.report.undo, reason=str(error)))
            return
        self.report.is_frozen = False
        await context.journal.note(**{FROZEN: None})
        self.emit(SourceThawed())

    # --------------------------------------------------------------------- marks

    async def _reach(self, stream: Stream, doing: str, *, counts_after: bool = False) -> int | None:
        """The position of a mark that was reached; None: not in time, which is a reason."""
        try:
            async with asyncio.timeout(self.timeout_s):
                position = await stream.reach_mark(counts_after=counts_after)
        except TimeoutError:
            self._is_late = True
            self.report.refuse(
                "lag",
                3,
                f"{doing} has taken more than {self.timeout_s:g} s; let the flow catch up first (`dsync status` shows "
                "its lag), or allow more time with --timeout",
            )
            return None
        self._did("mark passed", f"position {position}")
        return position

    async def _prove(
        self,
        context: RunContext,
        stream: Stream,
        schema: _Schema,
        sequences: list[SequenceState],
        objects: list[SchemaObject],
    ) -> None:
        """Nothing has happened at the source since the end mark, as of a second one."""
        report = self.report
        later = await self._reach(stream, "passing the last mark")
        if later is None:
            return
        report.written = dict(stream.follower.between.written)
        if report.written:
            names = ", ".join(f"{name} ({count})" for name, count in sorted(report.written.items())[:_NAMED])
            report.refuse(
                "written", 6, f"the source was written to after the end mark: {names}; stop what writes there"
            )
        source, whole = context.source.connector, _is_whole(context)
        now = await source.get_sequences(list(schema.targets), whole_database=whole)
        moved = sorted({s.name for s in now} ^ {s.name for s in sequences} | _moved(sequences, now))
        if moved:
            report.refuse(
                "sequences", 6, f"sequences moved at the source after the end mark: {', '.join(moved[:_NAMED])}"
            )
        objects_now = await source.describe_objects(list(schema.targets), whole_database=whole)
        if set(objects_now) != set(objects):
            report.refuse("altered", 6, "the source's schema was altered after the end mark")
        if not report.reasons:
            report.position = later
        self._did("nothing written since" if not report.reasons else "proof failed")

    # -------------------------------------------------------------------- schema

    async def _schema(self, context: RunContext) -> _Schema:
        described = await context.source.connector.describe(DescribeRequest())
        targets = choose(described, context.spec.selection)
        planned = {row.namespace for row in (await context.stored_plan()).namespaces}
        tables = [item for item in described.namespaces if item.namespace in targets]
        unplanned = [
            item.namespace
            for item in tables
            if not item.rowless and item.namespace not in planned and item.kind in ("table", "partition")
        ]
        return _Schema(targets=targets, unplanned=tuple(unplanned))

    async def _sequences(self, context: RunContext, schema: _Schema) -> list[SequenceState]:
        """Where the source's stand once everything is applied; the sink's are moved there."""
        source, sink = context.source.connector, context.sink.connector
        found = await source.get_sequences(list(schema.targets), whole_database=_is_whole(context))
        missing = await sink.set_sequences(
            [replace(s, namespace=schema.targets.get(s.namespace, s.namespace)) for s in found]
        )
        self.report.sequences = len(found) - len(missing)
        self.report.drift += tuple(
            Drift(kind="sequence", object=name, what="missing at the sink", is_unsafe=True) for name in missing
        )
        self._did("sequences moved", f"{len(found)}")
        return found

    async def _compare(
        self, context: RunContext, schema: _Schema, sequences: list[SequenceState]
    ) -> list[SchemaObject]:
        report, whole = self.report, _is_whole(context)
        source, sink = context.source.connector, context.sink.connector
        # A view that is not there yet has nothing to be refreshed; one that is shows what tables hold now.
        report.refreshed = tuple(await sink.refresh_views(list(schema.targets.values()), whole_database=whole))
        self._did("views refreshed", f"{len(report.refreshed)}")
        objects = await source.describe_objects(list(schema.targets), whole_database=whole)
        theirs = await sink.describe_objects(list(schema.targets.values()), whole_database=whole)
        versions = {_major(context.source.info.version), _major(context.sink.info.version)}
        known = {(item.kind, item.object) for item in report.drift}
        found = compare_schemas(objects, theirs, schema.targets, same_version=len(versions) == 1)
        report.drift += tuple(item for item in found if (item.kind, item.object) not in known)
        report.drift += tuple(self._not_followed(context, schema, objects))
        unsafe = [str(item) for item in report.drift if item.is_unsafe]
        if unsafe:
            more = f" and {len(unsafe) - _NAMED} more" if len(unsafe) > _NAMED else ""
            report.refuse(
                "drift", 6, f"the schemas differ where data would be lost: {'; '.join(unsafe[:_NAMED])}{more}"
            )
        self._did("schemas compared", f"{len(report.drift)} differences")
        return objects

    def _not_followed(self, context: RunContext, schema: _Schema, objects: list[SchemaObject]) -> list[Drift]:
        unlogged = {o.namespace for o in objects if o.kind == "table" and o.definition.startswith("unlogged")}
        return [
            Drift(
                kind="table",
                object=name,
                what="cannot be followed" if name in unlogged else "no part of the flow: made since it was planned",
                is_unsafe=name not in unlogged,
            )
            for name in schema.unplanned
        ]

    # ----------------------------------------------------------------------- run

    async def _stopped(self, context: RunContext) -> list[str]:
        rows = (await context.stored_plan()).namespaces
        return [row.namespace for row in rows if row.state is NamespaceState.STOPPED]

    def _judge_run(self, letters: Mapping[str, int], stopped: list[str]) -> None:
        if stopped:
            self.report.refuse("stopped", 6, f"tables are followed no more: {', '.join(stopped[:_NAMED])}")
        if count := sum(letters.values()):
            self.report.refuse(
                "dead_letters", 5, f"{count} records were refused by the sink (`dsync dead-letters list`)"
            )

    def _did(self, step: str, detail: str = "") -> None:
        self.emit(CutoverStepDone(step=step, detail=detail))


def _moved(before: list[SequenceState], now: list[SequenceState]) -> set[str]:
    known = {s.name: (s.last_value, s.is_called) for s in before}
    return {s.name for s in now if s.name in known and known[s.name] != (s.last_value, s.is_called)}


def _is_whole(context: RunContext) -> bool:
    return not context.spec.namespaces


def _major(version: str) -> str:
    """Of `PostgreSQL 18.1 …` or `18.1`: what comes before the first dot of the first number."""
    digits = "".join(c if c.isdigit() or c == "." else " " for c in version).split()
    return digits[0].split(".")[0] if digits else version
