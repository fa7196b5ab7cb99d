"""Asking something of the process that runs a flow, through the store: to pause, to go on, to copy anew, to end."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dsync.app.heeding import DRAIN_S, RequestKind, record_cancelled
from dsync.app.holding import OnWait, holding
from dsync.app.known import KnownFlow, existing_store, find_known_flow, resume_command
from dsync.coordinator.control import Rate
from dsync.protocol.errors import DeadlineError, RequestError
from dsync.protocol.namespaces import Selection

if TYPE_CHECKING:
    from dsync.state import Holder, LeaseRow, RequestRow, RunRow, Store

ANSWER_S = 10.0
"""How long a coordinator that lives may take to notice that it was asked."""
LINGER_S = 5.0
"""How long somebody who asks for what takes its time waits to hear that it has begun."""
_LOOK_EVERY_S = 0.1


class NoAnswerError(DeadlineError):
    """The process that runs the flow has not taken the request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What became of a request."""

    flow: str
    flow_name: str
    holder: Holder | None
    """Who runs the flow and has heeded the request; None: nobody runs it."""
    outcome: Mapping[str, Any]
    """In the words of whoever heeded it."""
    run: RunRow | None
    """The flow's latest run, as it is now."""
    resume_command: str
    """The command that lets it go on."""

    @property
    def title(self) -> str:
        return self.flow_name or self.flow


async def pause(state: str, reference: str) -> Reply:
    """Let the flow pause. Where nobody runs it the next start begins paused. Repeatable.

    Raises:
        NoAnswerError: whoever runs it has not taken the request; it stands, for them or for the next start.
    """
    with existing_store(state, wanted=reference) as store:
        asker = _Asker(_opened(store), reference)
        paused = [row for row in asker.open_requests() if row.kind == RequestKind.PAUSE]
        holder = asker.holder()
        if not paused:
            await asker.ask(RequestKind.PAUSE, until_done=False)
        elif holder is not None:
            await asker.wait(paused[0], until_done=False)
        return asker.reply(was_paused=bool(paused))


async def resume(state: str, reference: str) -> Reply:
    """Let the flow go on. Where nobody runs it nothing is asked: the answer has no holder.

    Raises:
        NoAnswerError: whoever runs it has not taken the request.
    """
    with existing_store(state, wanted=reference) as store:
        asker = _Asker(_opened(store), reference)
        if asker.holder() is None:
            return asker.reply()
        request = await asker.ask(RequestKind.RESUME)
        return asker.reply(**_outcome(request))


async def cancel(state: str, reference: str, on_wait: OnWait) -> Reply:
    """End the flow's run, which a mere repeat of its command does not go on with. Repeatable.

    Raises:
        NoAnswerError: whoever runs it has not taken the request, or not ended in time.
        LeaseHeldError: somebody has begun to run it meanwhile.
    """
    with existing_store(state, wanted=reference) as store:
        asker = _Asker(_opened(store), reference)
        if asker.holder() is not None:
            request = await asker.ask(RequestKind.CANCEL, done_s=ANSWER_S + DRAIN_S)
            if request.done_at is not None:
                return asker.reply(**_outcome(request))
        # Nobody runs it (any more): then its run is ours to end.
        latest = asker.latest_run()
        if latest is None or latest.phase.is_final:
            return asker.reply(heeded=False, reason="there is no run to be cancelled")
        async with holding(asker.store, asker.flow, on_wait):
            await asyncio.to_thread(record_cancelled, asker.store, asker.flow, latest.run)
            for row in asker.open_requests():
                asker.store.complete_request(asker.flow, row.request, {"heeded": True, "ended": "cancelled"})
        return asker.reply(heeded=True)


async def hand_over(state: str, reference: str) -> Reply:
    """Let whoever runs the flow end, so that this process can go on with it; returns once they have let go of it.

    Raises:
        NoAnswerError: whoever runs it has not taken the request, or not ended in time; it does not stand.
        RequestError: they cannot be asked for that.
    """
    with existing_store(state, wanted=reference) as store:
        asker = _Asker(_opened(store), reference)
        if asker.holder() is None:
            return asker.reply()
        request = await asker.ask(RequestKind.HAND_OVER, done_s=ANSWER_S + DRAIN_S, stands=False)
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + DRAIN_S
        while (lease := asker.holder()) is not None:
            if (request.outcome or {}).get("heeded") is False or loop.time() > deadline_s:
                assert lease.holder is not None, "only a holder is waited for"
                raise RequestError(
                    f"flow {asker.known.title} is run by process {lease.holder.pid} on {lease.holder.host}, which does "
                    "not hand it over: end that process, and run this command again"
                )
            await asyncio.sleep(_LOOK_EVERY_S)
        return asker.reply(**_outcome(request))


async def change_rate(state: str, reference: str, rate: Rate) -> Reply:
    """Let whoever runs the flow read at this rate from now on.

    Raises:
        RequestError: nobody runs it; a rate belongs to a process.
        NoAnswerError: whoever runs it has not taken the request, which does not stand.
    """
    with existing_store(state, wanted=reference) as store:
        asker = _Asker(_opened(store), reference)
        args = {"rows_per_s": rate.rows_per_s, "bytes_per_s": rate.bytes_per_s}
        holder = asker.holder()
        request = await asker.ask(RequestKind.RATE, args, stands=False) if holder is not None else None
        if request is None or request.done_at is None:
            raise RequestError(
                f"flow {asker.known.title} is not running, and a rate belongs to the process that runs it: give"
                " --rate-limit to the command that starts it"
            )
        return asker.reply(**_outcome(request))


async def resync(state: str, reference: str, tables: Sequence[str]) -> Reply:
    """Have these tables copied anew while the flow follows all others. Where nobody runs it its next start does that.

    Raises:
        RequestError: the flow does not follow them, or whoever runs it says that they cannot be.
        NoAnswerError: whoever runs it has not taken the request; it stands, for them or for the next start.
    """
    with existing_store(state, wanted=reference) as store:
        asker = _Asker(_opened(store), reference)
        names = await asyncio.to_thread(_followed_among, asker, tables)
        args = {"namespaces": list(names)}
        if asker.holder() is None:
            same = [row for row in asker.open_requests() if row.kind == RequestKind.RESYNC and row.args == args]
            if not same:
                await asker.ask(RequestKind.RESYNC, args, until_done=False)
            return asker.reply(tables=names)
        request = await asker.ask(RequestKind.RESYNC, args, until_done=False)
        # It is answered once it has begun, which waits for what is copied before; an answer at once says more.
        request = await asker.linger(request)
        outcome = _outcome(request)
        if outcome.get("reason"):
            raise RequestError(f"resync of flow {asker.known.title}: {outcome['reason']}")
        return asker.reply(tables=names, has_begun=bool(outcome.get("heeded")))


def _followed_among(asker: _Asker, tables: Sequence[str]) -> tuple[str, ...]:
    """The flow's namespaces that are meant."""
    run = asker.latest_run()
    following = run.extra.get("following") if run is not None else None
    if run is None or not following:
        raise RequestError(
            f"flow {asker.known.title} follows nothing: what it has copied is read again by `{asker.known.command} "
            "--again`"
        )
    names = [row.namespace for row in asker.store.load_namespaces(asker.flow, run.run)]
    meant = tuple(Selection(include=tuple(tables)).of(names))
    if unfollowed := sorted(set(meant) - set(following["namespaces"])):
        raise RequestError(
            f"flow {asker.known.title} has copied {unfollowed[0]} and does not follow it: `{asker.known.command} "
            "--again` reads it again"
        )
    return meant


def _opened(store: Store | None) -> Store:
    assert store is not None, "a flow that is wanted is looked for in a state that exists"
    return store


def _outcome(request: RequestRow) -> dict[str, Any]:
    return dict(request.outcome or {})


class _Asker:
    """Asks of one flow."""

    def __init__(self, store: Store, reference: str) -> None:
        self.store = store
        self.known: KnownFlow = find_known_flow(store, reference)
        self.flow = self.known.flow.flow
        self._answered_by: Holder | None = None

    def holder(self) -> LeaseRow | None:
        """Who runs the flow at this moment."""
        lease = self.store.get_lease(self.flow)
        return lease if lease is not None and lease.holder is not None and lease.remaining_s > 0 else None

    def open_requests(self) -> tuple[RequestRow, ...]:
        return self.store.open_requests(self.flow)

    def latest_run(self) -> RunRow | None:
        return self.store.latest_run(self.flow)

    def reply(self, **outcome: Any) -> Reply:
        return Reply(
            flow=self.flow,
            flow_name=self.known.flow.name or "",
            holder=self._answered_by,
            outcome=outcome,
            run=self.latest_run(),
            resume_command=resume_command(self.known.title, self.known.state),
        )

    async def ask(
        self,
        kind: RequestKind,
        args: Mapping[str, Any] | None = None,
        *,
        until_done: bool = True,
        done_s: float = ANSWER_S,
        stands: bool = True,
    ) -> RequestRow:
        """Ask, and wait for the answer; not done in what is returned: nobody runs the flow (any more)."""
        request = await asyncio.to_thread(self.store.add_request, self.flow, kind.value, args)
        try:
            return await self.wait(request, until_done=until_done, done_s=done_s)
        except (NoAnswerError, asyncio.CancelledError):
            if not stands:
                self._withdraw(request)
            raise

    async def wait(self, request: RequestRow, *, until_done: bool, done_s: float = ANSWER_S) -> RequestRow:
        loop = asyncio.get_running_loop()
        asked_s = loop.time()
        while True:
            found = self.store.get_request(self.flow, request.request)
            if found is None:
                raise RequestError(f"flow {self.known.title} was reset meanwhile")
            # Looked for before the holder: the answer is written before the flow is let go of.
            lease = self.holder()
            if found.done_at is not None or (found.taken_at is not None and not until_done):
                self._answered_by = lease.holder if lease is not None else None
                return found
            if lease is None:
                return found
            waited_s = loop.time() - asked_s
            if waited_s > (done_s if found.taken_at is not None else ANSWER_S):
                raise _no_answer(self.known.title, found, lease)
            await asyncio.sleep(_LOOK_EVERY_S)

    async def linger(self, request: RequestRow) -> RequestRow:
        """As it is when it is done, or after a little while."""
        loop = asyncio.get_running_loop()
        asked_s, found = loop.time(), request
        while found.done_at is None and loop.time() - asked_s < LINGER_S and self.holder() is not None:
            await asyncio.sleep(_LOOK_EVERY_S)
            found = self.store.get_request(self.flow, request.request) or found
        return found

    def _withdraw(self, request: RequestRow) -> None:
        self.store.complete_request(self.flow, request.request, {"heeded": False, "reason": "nobody answered in time"})


def _no_answer(title: str, request: RequestRow, lease: LeaseRow) -> NoAnswerError:
    assert lease.holder is not None, "only a holder is waited for"
    who = f"process {lease.holder.pid} on {lease.holder.host}"
    if request.taken_at is not None:
        return NoAnswerError(
            f"{request.kind} of flow {title}: {who} has taken the request and is not done with it; `dsync status"
            f" {title}` shows how it goes on"
        )
    return NoAnswerError(
        f"{request.kind} of flow {title}: {who} runs it and has not answered within {ANSWER_S:g} s; it is stopped, or"
        f" gone without a word: its lease ends in {lease.remaining_s:.0f} s if nobody renews it. Ask again then"
    )
