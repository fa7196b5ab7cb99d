"""`dsync cutover`: take a flow over, bring its sink to the source's end, prove it, and only then say that it is safe.

Repeatable after a kill at any step: each is done again or found done. What must not be lost in between, how the source
was before it was made read-only, is kept with the run before anything is changed.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass

from dsync.app.asking import hand_over
from dsync.app.cutover_report import CutoverReport
from dsync.app.cutover_reverse import FlowBack, pause
from dsync.app.cutover_steps import CUT_OVER, CutoverGivenUpError, Procedure, Reversing
from dsync.app.known import KnownFlow, existing_store, find_known_flow, resume_command
from dsync.app.one_end import meet_one
from dsync.app.resuming import request_of
from dsync.app.sync import sync
from dsync.coordinator.events import EventHandler
from dsync.coordinator.following import Following
from dsync.protocol.errors import RequestError
from dsync.protocol.types import Frozen, Role, SessionRequest
from dsync.state import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class CutoverRequest:
    flow: str
    state: str = ""
    source: str = ""
    """What reaches the source; empty: the stored reference."""
    sink: str = ""
    freezes: bool = False
    timeout_s: float = 300.0
    """How long each wait may take: for what is written until then, and for open transactions."""
    reverses: bool = False
    allow_plaintext: bool = False


async def who_is_connected(request: CutoverRequest) -> Frozen:
    """Whom `--freeze` would end at the source, before anybody is asked whether that is meant.

    Raises:
        PrivilegeError: the role may not make it read-only.
    """
    with existing_store(request.state, wanted=request.flow) as store:
        assert store is not None, "a flow that is wanted is looked for in a state that exists"
        known = find_known_flow(store, request.flow)
        reference = known.source(request.source)
    async with meet_one(
        reference, Role.SOURCE, attach=known.spec.attach, allow_plaintext=request.allow_plaintext
    ) as one:
        _require_service(one.end.serves("CutoverService"), one.end.info.db_type)
        await one.end.open_session(SessionRequest(flow=known.flow.flow, role=Role.SOURCE))
        return await one.end.connector.freeze(dry_run=True)


async def cut_over(request: CutoverRequest, emit: EventHandler, stopping: asyncio.Event) -> CutoverReport:
    """Do it; the report says whether it is safe to switch, and if not, every reason that was found.

    Raises:
        RequestError: the flow does not follow, or has not arrived yet.
        NoAnswerError: whoever runs it does not hand it over.
        DsyncError: what keeps the flow itself from running. The source is writable again, if we made it read-only.
    """
    reversing = Reversing()
    with existing_store(request.state, wanted=request.flow) as store:
        assert store is not None, "a flow that is wanted is looked for in a state that exists"
        known = find_known_flow(store, request.flow)
        _require_following(known)
        resumed_by = resume_command(known.title, known.state)
        if (earlier := _done_before(store, known, resumed_by)) is not None:
            pause(request.state, known.flow.flow)
            return earlier
        running = request_of(
            known,
            state=request.state,
            source=request.source,
            sink=request.sink,
            allow_plaintext=request.allow_plaintext,
            until_caught_up=True,
        )
        if request.reverses:
            reversing = FlowBack.of(
                store,
                known,
                source=running.source,
                sink=running.sink,
                allow_plaintext=request.allow_plaintext,
                freezes=request.freezes,
            )
    if isinstance(reversing, FlowBack):
        await reversing.begin()
    await hand_over(request.state, known.flow.flow)
    report = CutoverReport(flow=known.flow.flow, flow_name=known.flow.name or "", resume_command=resumed_by)
    procedure = Procedure(
        report=report, freezes=request.freezes, timeout_s=request.timeout_s, reversing=reversing, emit=emit
    )
    with contextlib.suppress(CutoverGivenUpError):
        await sync(running, emit, stopping, cut_over=procedure)
    if report.is_safe and report.reverse:
        # Both ways at once, changes would go round in a circle.
        pause(request.state, known.flow.flow)
    return report


def _require_following(known: KnownFlow) -> None:
    kept = known.run.extra.get("following") if known.run is not None else None
    if kept is None:
        raise RequestError(
            f"flow {known.title} does not follow its source, so what is written there until the end would be missing: "
            f"follow it first (`{known.command}` with --mode full)"
        )
    if Following.of_json(kept).consistent_at is None:
        raise RequestError(
            f"flow {known.title} has not copied everything yet: wait until `dsync status {known.title}` says streaming"
        )


def _require_service(is_served: bool, db_type: str) -> None:
    if not is_served:
        raise RequestError(f"{db_type} cannot be cut over from or to: its connector does not serve that")


def _done_before(store: Store, known: KnownFlow, resumed_by: str) -> CutoverReport | None:
    """A cut-over with a flow back that is there and may be in use already: doing it again would remove that."""
    kept = known.run.extra.get(CUT_OVER) if known.run is not None else None
    if not kept or not kept.get("reverse") or store.find_flow_by_name(kept["reverse"]) is None:
        return None
    return CutoverReport.of_earlier(kept, resume_command=resumed_by)
