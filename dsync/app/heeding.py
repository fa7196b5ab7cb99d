"""Heeding what other commands ask of the flow that runs here: its requests in the store, looked for every second.

A pause is in force as long as its request is open, whoever runs the flow: a coordinator that dies while it is paused
leaves a flow that is paused. Everything else is done with when it was heeded.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dsync.app.known import resume_command
from dsync.app.standing import phase_before_cancel
from dsync.app.stream_figures import StreamFigures, StreamWatch
from dsync.coordinator.control import Control, Rate, RunCancelledError
from dsync.coordinator.events import CancelAsked, EventHandler, RateChanged, RunPaused, RunResumed
from dsync.coordinator.tasks import StoppedError, task_group
from dsync.state import Phase, StateBusyError, StateUnreachableError

if TYPE_CHECKING:
    from dsync.state import RequestRow, Store


class RequestKind(enum.StrEnum):
    """What can be asked of a run."""

    PAUSE = "pause"
    RESUME = "resume"
    CANCEL = "cancel"
    RATE = "rate"
    HAND_OVER = "hand_over"
    """To end, because another process goes on with the flow."""
    RESYNC = "resync"


LOOK_EVERY_S = 1.0
NOTE_EVERY = 10
"""So many looks."""
DRAIN_S = 25.0
"""How long what is on its way may take after a cancel, before the run ends without it."""

Pause = Callable[[float], Awaitable[object]]
"""As asyncio.sleep; tests give one that moves their clock."""


@dataclass(slots=True, kw_only=True)
class _Heeder:
    store: Store
    flow: str
    run: str
    way_on: str
    """The command that lets it go on."""
    emit: EventHandler
    stopping: asyncio.Event
    control: Control
    on_cancel: Callable[[], None]
    streams: StreamWatch
    cancel: RequestRow | None = field(default=None, init=False)
    """Whose end the run is coming to."""
    _pauses: list[RequestRow] = field(default_factory=list, init=False)
    """In force."""
    _wishes: dict[int, tuple[RequestRow, asyncio.Future[str]]] = field(default_factory=dict, init=False)
    """What was asked to be copied anew, and has not begun."""
    _seen: int = field(default=0, init=False)
    _noted: StreamFigures | None = field(default=None, init=False)

    async def look(self) -> None:
        """Heed what was asked since the last time."""
        for request in await asyncio.to_thread(self.store.take_requests, self.flow, since=self._seen):
            await self._heed(request)
            # Not before: what could not be recorded is heeded once more, which changes nothing.
            self._seen = request.request
        await self.answer_wishes()

    async def answer_wishes(self) -> None:
        """Say of what has begun since that it has. What has not stays asked for, whoever runs the flow then."""
        for number, (request, answer) in list(self._wishes.items()):
            if answer.done() and not answer.cancelled():
                reason = answer.result()
                await self.complete(request, heeded=not reason, **({"reason": reason} if reason else {}))
                del self._wishes[number]

    async def watch(self, pause: Pause) -> None:
        for second in itertools.count():
            await pause(LOOK_EVERY_S)
            # What keeps the state away is said by whoever has something to record, and ends with the lease.
            with contextlib.suppress(StateBusyError, StateUnreachableError):
                await self.look()
                if second % NOTE_EVERY == 0:
                    await self.note_stream()

    async def note_stream(self) -> None:
        """Keep where the stream stands, for `dsync status` of another process."""
        figures = self.streams.latest
        if figures is None or figures is self._noted:
            return
        await asyncio.to_thread(self.store.note_stream, self.flow, self.run, figures.as_json())
        self._noted = figures

    async def _heed(self, request: RequestRow) -> None:
        match request.kind:
            case RequestKind.PAUSE:
                self._pauses.append(request)
                if not self.control.is_paused:
                    self.control.pause()
                    self.emit(RunPaused(reason=f"as `dsync pause` asked; `{self.way_on}` lets it go on"))
            case RequestKind.RESUME:
                await self._go_on(request)
            case RequestKind.RATE:
                rate = Rate(
                    rows_per_s=int(request.args.get("rows_per_s", 0)),
                    bytes_per_s=int(request.args.get("bytes_per_s", 0)),
                )
                self.control.limit(rate)
                self.emit(RateChanged(rows_per_s=rate.rows_per_s, bytes_per_s=rate.bytes_per_s))
                await self.complete(request, heeded=True)
            case RequestKind.RESYNC:
                if request.request not in self._wishes:
                    names = tuple(map(str, request.args.get("namespaces", ())))
                    self._wishes[request.request] = request, self.control.wish_resync(names)
            case RequestKind.CANCEL | RequestKind.HAND_OVER:
                if self.cancel is not None:
                    await self.complete(request, heeded=True)
                    return
                self.cancel = request
                self.emit(CancelAsked())
                self.stopping.set()
                self.on_cancel()
            case other:
                # Of a newer dsync, which is told so rather than kept waiting.
                await self.complete(request, heeded=False, reason=f"this version does not know {other!r}")

    async def _go_on(self, request: RequestRow) -> None:
        was_paused = bool(self._pauses)
        await self.end_pauses("resumed")
        if was_paused:
            self.control.resume()
            self.emit(RunResumed())
        await self.complete(request, heeded=True, was_paused=was_paused)

    async def end_pauses(self, how: str) -> None:
        while self._pauses:
            await self.complete(self._pauses[0], heeded=True, ended=how)
            del self._pauses[0]

    async def complete(self, request: RequestRow, *, heeded: bool, **more: Any) -> None:
        await asyncio.to_thread(
            self.store.complete_request, self.flow, request.request, {"heeded": heeded, **more, "run": self.run}
        )

    async def end_as_cancelled(self) -> RunCancelledError:
        """Record it; a run that was cancelled is not gone on with by a mere repeat of its command."""
        assert self.cancel is not None, "only a run that was cancelled ends so"
        if self.cancel.kind == RequestKind.HAND_OVER:
            await self.complete(self.cancel, heeded=True)
            return RunCancelledError(
                "another process has taken the flow over (`dsync cutover`); what has arrived is durable, and the same "
                "command goes on from there once that process has ended"
            )
        await asyncio.to_thread(record_cancelled, self.store, self.flow, self.run)
        await self.end_pauses("cancelled")
        await self.complete(self.cancel, heeded=True, phase=Phase.CANCELLED.value)
        return RunCancelledError(
            f"cancelled by `dsync cancel`; what has arrived is durable, and `{self.way_on}` goes on from there"
        )


@asynccontextmanager
async def heeding(
    store: Store,
    *,
    flow: str,
    run: str,
    title: str,
    emit: EventHandler,
    stopping: asyncio.Event,
    streams: StreamWatch,
    pause: Pause = asyncio.sleep,
    drain_s: float = DRAIN_S,
) -> AsyncIterator[Control]:
    """What is asked meanwhile is heeded inside, and what is known of its stream recorded.

    Where the flow is paused the block begins when it goes on. Call while holding the flow.

    Raises:
        RunCancelledError: somebody asked for the run's end; that is recorded.
        StoppedError: `stopping` was set while it was paused.
    """
    runner = asyncio.current_task()
    assert runner is not None, "coroutines run in tasks"
    overdue: list[asyncio.TimerHandle] = []
    is_overdue = False

    def give_up() -> None:
        nonlocal is_overdue
        is_overdue = True
        runner.cancel()

    def on_cancel() -> None:
        overdue.append(asyncio.get_running_loop().call_later(drain_s, give_up))

    heeder = _Heeder(
        store=store,
        flow=flow,
        run=run,
        way_on=resume_command(title, store.named),
        emit=emit,
        stopping=stopping,
        control=Control(),
        on_cancel=on_cancel,
        streams=streams,
    )
    try:
        await heeder.look()
        async with task_group() as tasks:
            watching = tasks.create_task(heeder.watch(pause), name=f"requests of flow {flow}")
            try:
                await heeder.control.wait_while_paused(stopping)
                if heeder.cancel is not None:
                    raise StoppedError
                yield heeder.control
            finally:
                watching.cancel()
    except StoppedError:
        await _note_last(heeder)
        if heeder.cancel is None:
            raise
        raise await heeder.end_as_cancelled() from None
    except asyncio.CancelledError:
        if not is_overdue:
            raise
        runner.uncancel()
        raise await heeder.end_as_cancelled() from None
    else:
        await _settle(heeder)
    finally:
        for timer in overdue:
            timer.cancel()


async def _note_last(heeder: _Heeder) -> None:
    with contextlib.suppress(StateBusyError, StateUnreachableError):
        await heeder.note_stream()
        await heeder.answer_wishes()


async def _settle(heeder: _Heeder) -> None:
    """The run has come to its own end: what was asked too late is answered."""
    await _note_last(heeder)
    with contextlib.suppress(StateBusyError, StateUnreachableError):
        await heeder.end_pauses("finished")
        if heeder.cancel is not None:
            await heeder.complete(heeder.cancel, heeded=False, reason="the run had come to its end")


def set_right(store: Store, flow: str, *, again: bool, resumes: bool, emit: EventHandler) -> None:
    """Before a run is chosen: what an earlier coordinator left open, and a run that was cancelled.

    Whoever types `resume` or `--again` means it more than what was asked before. A rate belonged to a process.
    """
    overruled = {RequestKind.RATE}
    overruled |= {RequestKind.CANCEL} if again or resumes else set()
    # Whoever asked has waited for its answer, and has gone on or given up.
    overruled |= {RequestKind.HAND_OVER}
    # A new run reads all of them again.
    overruled |= {RequestKind.RESYNC} if again else set()
    overruled |= {RequestKind.PAUSE, RequestKind.RESUME} if resumes else set()
    was_paused = False
    for request in store.open_requests(flow):
        if request.kind in overruled:
            store.complete_request(flow, request.request, {"heeded": False, "reason": "the flow was started anew"})
            was_paused |= request.kind == RequestKind.PAUSE
    if was_paused:
        emit(RunResumed())
    latest = store.latest_run(flow)
    if (again or resumes) and latest is not None and latest.phase is Phase.CANCELLED:
        store.set_phase(flow, latest.run, phase_before_cancel(latest))


def record_cancelled(store: Store, flow: str, run: str) -> None:
    """The run has ended without being done; how much had arrived is kept with it."""
    planned = {(row.namespace, row.sink): row for row in store.load_namespaces(flow, run)}
    totals = store.namespace_totals(flow, run)
    summary = {
        "rows": sum(total.rows for total in totals),
        "bytes": sum(total.size_bytes for total in totals),
        "dead_letters": sum(total.dead_letters for total in totals),
        "namespaces": [
            {
                "namespace": total.namespace,
                "target": planned[total.namespace, total.sink].target,
                "rows": total.rows,
                "bytes": total.size_bytes,
                "state": planned[total.namespace, total.sink].state.value,
                "reason": "",
                "dead_letters": total.dead_letters,
            }
            for total in totals
        ],
    }
    store.finish_run(flow, run, Phase.CANCELLED, summary=summary)
