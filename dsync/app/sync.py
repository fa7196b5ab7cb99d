"""`dsync sync`: a request in, a run and its events out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dsync.app.dead_letters import with_letters_that_wait
from dsync.app.ends import Meeting, opening
from dsync.app.flows import ChosenRun, choose_run, find_or_begin_flow
from dsync.app.heeding import heeding, set_right
from dsync.app.holding import holding
from dsync.app.log_context import logging_run
from dsync.app.requests import SyncRequest, load_of
from dsync.app.resuming import flow_to_resume
from dsync.app.standing import FORGOTTEN, forgotten
from dsync.app.stream_figures import StreamWatch
from dsync.coordinator.context import RunContext
from dsync.coordinator.control import Control
from dsync.coordinator.events import CallRetried, Event, EventHandler, FindingReported, PhaseChanged, SinkPutBack
from dsync.coordinator.journal import Journal
from dsync.coordinator.plan import stop_at
from dsync.coordinator.result import RunResult
from dsync.coordinator.run import Run
from dsync.coordinator.spec import FlowSpec
from dsync.protocol.errors import DsyncError, RequestError, SinkNotEmptyError
from dsync.state import LeaseHeldError, NamespaceState, Phase, RunRow
from dsync.state.location import spool_directory

if TYPE_CHECKING:
    from dsync.coordinator.stream.session import Stream
    from dsync.state import Store
    from dsync.verify import VerifyReport


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseAwaited(Event):
    """Another host holds the flow; we wait until its lease ends."""

    host: str
    pid: int
    remaining_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncOutcome:
    flow: str
    flow_name: str
    run: RunRow
    result: RunResult | None
    """None: the run had ended before, and nothing was moved."""
    verify: VerifyReport | None = None
    state: str = ""
    """What `--state` was given; empty: the default one."""

    @property
    def exit_code(self) -> int:
        from dsync.coordinator.result import worst_exit_code

        codes = {self.result.exit_code if self.result else _exit_code_of(self.run)}
        if self.verify is not None:
            codes.add(self.verify.exit_code)
        return worst_exit_code(codes)


def _exit_code_of(run: RunRow) -> int:
    summary: dict[str, Any] = dict(run.summary or {})
    if run.phase is Phase.CANCELLED or summary.get("consistent") is False:
        return 6
    return 5 if summary.get("dead_letters") else 0


def spec_of(request: SyncRequest, meeting: Meeting) -> FlowSpec:
    load = load_of(request.load_level)
    return FlowSpec(
        source=meeting.source_identity,
        sink=meeting.sink_identity,
        namespaces=request.namespaces,
        exclude=request.exclude,
        filters=request.filters,
        mode=request.mode,
        schema_mode=request.schema_mode,
        on_existing=request.on_existing,
        no_owner=request.no_owner,
        no_privileges=request.no_privileges,
        allow_lossy=request.allow_lossy,
        dead_letters=request.dead_letters,
        data_type=request.data_type,
        attach=request.attach,
        parallel=request.parallel or load.parallel,
        page_bytes=request.page_bytes or load.page_bytes,
        memory_limit=request.memory_limit,
        retry_for_s=request.retry_for_s,
        rate_rows_per_s=request.rate_rows_per_s,
        rate_bytes_per_s=request.rate_bytes_per_s,
        pause_ratio=load.pause_ratio,
        slot_timeout_s=request.slot_timeout_s,
        spool_limit=request.spool_limit,
        apply=request.apply,
        ack=request.ack,
    )


CutOver = Callable[["RunContext", "Stream", Callable[[], Awaitable["VerifyReport"]]], Awaitable[None]]
"""What is done while a flow follows, and then ends it: its run, its stream, and what compares both ends."""


async def sync(
    request: SyncRequest, emit: EventHandler, stopping: asyncio.Event, *, cut_over: CutOver | None = None
) -> SyncOutcome:
    """Copy, going on where an earlier life of the same flow was cut off. Repeatable: a finished copy moves nothing.

    With `cut_over` a flow that follows does that beside, and ends with it.

    Raises:
        StoppedError: `stopping` was set; everything so far is durable.
        RunCancelledError: `dsync cancel` asked for its end.
        DsyncError: with the exit code that says whose move it is.
    """

    def awaited(held: LeaseHeldError) -> None:
        emit(LeaseAwaited(host=held.host, pid=held.pid, remaining_s=held.remaining_s))

    async with AsyncExitStack() as stack:
        logged = stack.enter_context(logging_run())
        met = await stack.enter_async_context(opening(request))
        # While the plug-ins start: the store's imports take as long as theirs, and it is made the first time.
        store = stack.enter_context(await asyncio.to_thread(_open_store, request.state))
        meeting = await met()
        meeting.refuse_same_ends()
        spec = spec_of(request, meeting)
        fingerprint = spec.fingerprint(meeting.source.info.id, meeting.sink.info.id)
        if request.resumes:
            flow = flow_to_resume(store, request.resumes, fingerprint)
        else:
            flow = await find_or_begin_flow(
                store, name=request.flow, fingerprint=fingerprint, spec=spec, sink=meeting.sink
            )
        logged.flow = flow.flow
        await stack.enter_async_context(holding(store, flow.flow, awaited))
        # Before anything is said or begun: on another server a copy is neither finished nor gone on with.
        meeting.refuse_other_ends(store.list_runs(flow.flow))
        set_right(store, flow.flow, again=request.again, resumes=bool(request.resumes), emit=emit)
        chosen = await choose_run(store, flow, spec, meeting.source, meeting.sink, again=request.again)
        logged.run = chosen.run.run
        if chosen.setback:
            emit(SinkPutBack(reason=chosen.setback))
        if chosen.is_finished and (not request.verify or chosen.run.phase is Phase.CANCELLED):
            run = with_letters_that_wait(store, chosen.run)
            return SyncOutcome(flow=flow.flow, flow_name=flow.name or "", run=run, result=None, state=store.named)
        streams = StreamWatch()

        def tell(event: Event) -> None:
            streams(event)
            emit(event)

        async with heeding(
            store,
            flow=flow.flow,
            run=chosen.run.run,
            title=flow.name or flow.flow,
            emit=emit,
            stopping=stopping,
            streams=streams,
        ) as control:
            return await _run(store, request, spec, fingerprint, meeting, chosen, tell, stopping, control, cut_over)


def _open_store(location: str) -> Store:
    from dsync.state.store import Store

    return Store.open(location or None)


async def _run(
    store: Store,
    request: SyncRequest,
    spec: FlowSpec,
    fingerprint: str,
    meeting: Meeting,
    chosen: ChosenRun,
    emit: EventHandler,
    stopping: asyncio.Event,
    control: Control,
    cut_over: CutOver | None,
) -> SyncOutcome:
    flow, run = chosen.flow, chosen.run
    agreement = await meeting.agree(spec, flow=flow.flow, run=run.run, end_orphans=True)
    journal = Journal(store, flow.flow, run.run, on_repeat=lambda error: emit(_repeated(error)))

    def record(event: Event) -> None:
        journal.record(event)
        emit(event)

    try:
        if cut_over is None:
            # Whoever follows on has not switched, and what was safe then is not any more.
            await journal.note(cut_over=None)
        await journal.set_endpoints(meeting.source.info.id, meeting.sink.info.id)
        context = RunContext(
            spec=spec,
            flow_name=flow.name or "",
            fingerprint=fingerprint,
            source=meeting.source,
            sink=meeting.sink,
            agreement=agreement,
            journal=journal,
            pages=meeting.pages,
            emit=record,
            stopping=stopping,
            again_from=chosen.again_from,
            control=control,
            spools=spool_directory(request.state, flow.flow),
        )
        copy = Run(context=context)
        result, report = None, None
        if chosen.is_finished or not spec.follows:
            if not chosen.is_finished:
                await _check(copy, record)
                result = await copy.execute()
            report = await _verify(context, chosen) if request.verify else None
        else:
            reports: list[VerifyReport] = []

            async def when_consistent() -> None:
                if request.verify:
                    reports.append(await _verify(context, chosen))

            async def cut(stream: Stream) -> None:
                assert cut_over is not None, "only what is given is done"
                await cut_over(context, stream, lambda: _verify(context, chosen, catch_up=stream.reach_mark))

            await _check(copy, record)
            result = await copy.execute(
                until_caught_up=request.until_caught_up,
                when_consistent=when_consistent,
                cut_over=cut if cut_over is not None else None,
            )
            report = reports[0] if reports else None
        ended = with_letters_that_wait(store, await journal.row()) if result is None else await journal.row()
        return SyncOutcome(
            flow=flow.flow, flow_name=flow.name or "", run=ended, result=result, verify=report, state=store.named
        )
    except SinkNotEmptyError as error:
        told = forgotten(flow.name or flow.flow, error) if chosen.setback == FORGOTTEN else error
        await journal.fail(told)
        await journal.forget_unplanned()
        raise told from error
    except RequestError as error:
        await journal.fail(error)
        await journal.forget_unplanned()
        raise
    except DsyncError as error:
        await journal.fail(error)
        raise
    finally:
        await journal.close()


def _repeated(error: DsyncError) -> CallRetried:
    return CallRetried(operation="record in the state", error=type(error).__name__, reason=str(error))


async def _check(copy: Run, emit: EventHandler) -> None:
    emit(PhaseChanged(phase="checking"))
    findings = await copy.check()
    for finding in findings:
        emit(FindingReported(finding=finding))
    stop_at(findings)


async def _verify(
    context: RunContext, chosen: ChosenRun, *, catch_up: Callable[[], Awaitable[object]] | None = None
) -> VerifyReport:
    """Judge the copy: by its own snapshot while that is held, else live, with what may have changed since apart.

    What is followed is compared live: rows that differ are read again once the lag has passed.
    """
    # Only for those who ask for it.
    from dsync.app.lag import Lag
    from dsync.verify import VerifyOptions, verify

    context.emit(PhaseChanged(phase=Phase.VERIFYING.value))
    plan = await context.stored_plan()
    rows = [row for row in plan.namespaces if row.state is not NamespaceState.STOPPED]
    changed = frozenset(row.namespace for row in rows if row.state is NamespaceState.CHANGED)
    is_followed = plan.following is not None
    if plan.following is not None and catch_up is None:
        catch_up = Lag(
            source=context.source.connector,
            sink=context.sink.connector,
            flow=context.journal.flow,
            run=context.journal.run,
            following=plan.following,
            # By this very process, which ends what it does here when it ends.
            is_followed=lambda: True,
        ).pass_by
    holds_snapshot = bool(plan.snapshot) and not chosen.is_finished and not is_followed
    return await verify(
        context.source.connector,
        context.sink.connector,
        {row.namespace: row.target for row in rows},
        VerifyOptions(
            live=not holds_snapshot,
            snapshot_lost=not is_followed and (not holds_snapshot or bool(changed)),
            lost_snapshot=plan.snapshot,
            changed=changed,
            parallel=context.spec.parallel,
            retry_for_s=context.spec.retry_for_s,
        ),
        emit=context.emit,
        ready=lambda: context.control.wait_while_paused(context.stopping),
        catch_up=catch_up,
    )
