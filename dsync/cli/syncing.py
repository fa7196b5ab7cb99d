"""Running a flow in the foreground, for every command that does: progress, signals, and the answer at its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dsync.cli.answer import Answer
from dsync.cli.running import run
from dsync.cli.settings import Settings
from dsync.cli.summary import sync_answer

if TYPE_CHECKING:
    from dsync.app.metrics import MetricsAddress
    from dsync.app.requests import SyncRequest
    from dsync.app.sync import SyncOutcome


def run_flow(
    settings: Settings,
    make_request: Callable[[], SyncRequest],
    *,
    progress: Any,
    metrics: MetricsAddress | None,
    state: str,
    follows: bool,
    plugins: int = 0,
) -> Answer:
    """Run a flow to its end and answer; the request is made once what it needs has been imported.

    `plugins`: how many processes are started ahead.

    Raises:
        InterruptedRunError: a signal ended it.
        RunCancelledError: another command did.
    """

    async def sync_and_show(stopping: asyncio.Event) -> SyncOutcome:
        from dsync.app.sync import sync
        from dsync.cli.showing import observing

        with observing(settings, progress, metrics) as emit:
            return await sync(make_request(), emit, stopping)

    outcome = run(
        settings,
        sync_and_show,
        drains=True,
        afterwards="what has arrived is durable; the same command goes on from there"
        + (", until when the source keeps its log (`dsync reset` lets go of it)" if follows else ""),
        plugins=plugins,
        imports="dsync.app.sync",
    )
    from dsync.app.status import dead_letter_reasons

    reasons = dead_letter_reasons(state, outcome.flow, outcome.run.run) if outcome.exit_code else ()
    return sync_answer(outcome, reasons)
