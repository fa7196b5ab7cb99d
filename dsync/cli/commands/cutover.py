"""`dsync cutover`."""

from __future__ import annotations

import asyncio
import sys
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from dsync.cli.answer import Answer, write
from dsync.cli.command import DsyncCommand
from dsync.cli.completing import complete_endpoints, complete_flows
from dsync.cli.options import Duration, confirm, metrics_address, metrics_option, progress_option, state_option
from dsync.cli.settings import Settings
from dsync.cli.text import counted, moment

if TYPE_CHECKING:
    from dsync.app.cutover import CutoverRequest
    from dsync.app.cutover_report import CutoverReport
    from dsync.protocol.types import ConnectedSession, Frozen

_MOST_SESSIONS = 20
_AFTERWARDS = "what has arrived is durable, and the source is as it was; the same command begins anew"


@click.command("cutover", cls=DsyncCommand, short_help="Bring a flow to its end, prove it, and say whether to switch.")
@click.argument("flow", metavar="FLOW", shell_complete=complete_flows)
@click.option(
    "--freeze",
    is_flag=True,
    help="Make the source read-only and end the sessions that are connected to it; undone where it is not safe to"
    " switch. Asks first, unless --yes is given.",
)
@click.option(
    "--timeout",
    type=Duration(),
    metavar="TIME",
    default="5m",
    show_default=True,
    help="How long what was written last may take to arrive, and open transactions to end under --freeze.",
)
@click.option(
    "--reverse",
    is_flag=True,
    help="Before it is called safe: make a flow back from the sink to the source, test it, and leave it paused.",
)
@click.option(
    "--source",
    metavar="URI",
    default="",
    shell_complete=complete_endpoints,
    help="How the source is reached, where the state keeps no password for it.",
)
@click.option(
    "--sink",
    metavar="URI",
    default="",
    shell_complete=complete_endpoints,
    help="How the sink is reached, where the state keeps no password for it.",
)
@state_option()
@click.option(
    "--allow-plaintext", is_flag=True, help="Allow grpc:// without TLS to other machines, in a network you trust."
)
@progress_option()
@metrics_option()
@click.pass_context
def cutover(
    ctx: click.Context,
    /,
    flow: str,
    freeze: bool,
    timeout: Any,
    reverse: bool,
    source: str,
    sink: str,
    state: str,
    allow_plaintext: bool,
    progress: Any,
    metrics: str,
) -> Answer:
    """Bring FLOW (a name, an id or its beginning) to its end, and say whether applications may switch to the sink.

    Takes the flow over from whoever runs it, applies everything up to an end mark, moves sequences, refreshes
    materialised views, compares both schemas and every row, and proves by a second mark that nothing was written in
    between. Only then does it say that it is safe, with exit code 0. Else it says why not: 3 it took too long, 4 rows
    differ, 5 the sink refused records, 6 the source was written to, the schemas differ or tables have stopped.
    """
    settings: Settings = ctx.obj
    from dsync.app.cutover import CutoverRequest
    from dsync.cli.running import run

    request = CutoverRequest(
        flow=flow,
        state=state or "",
        source=source or "",
        sink=sink or "",
        freezes=freeze,
        timeout_s=timeout,
        reverses=reverse,
        allow_plaintext=allow_plaintext,
    )
    if freeze and not settings.yes:
        _ask(ctx, settings, request)
    address = metrics_address(metrics, allow_plaintext=allow_plaintext)

    async def do(stopping: asyncio.Event) -> CutoverReport:
        from dsync.app.cutover import cut_over
        from dsync.cli.showing import observing

        with observing(settings, progress, address) as emit:
            return await cut_over(request, emit, stopping)

    report = run(settings, do, drains=True, afterwards=_AFTERWARDS, imports="dsync.app.cutover")
    return answer_of(report)


def _ask(ctx: click.Context, settings: Settings, request: CutoverRequest) -> None:
    from dsync.cli.running import run

    async def look(_: object) -> Frozen:
        from dsync.app.cutover import who_is_connected

        return await who_is_connected(request)

    found = run(settings, look, imports="dsync.app.cutover")
    for line in _sessions(found.ended):
        write(sys.stderr, settings.shown(line))
    confirm(
        settings,
        ctx,
        f"--freeze makes the source read-only and ends {counted(len(found.ended), 'session')} there"
        f" (`{found.undo}` takes it back).",
    )


def _sessions(sessions: tuple[ConnectedSession, ...]) -> list[str]:
    lines = [
        f"  {one.id}: {one.user}{f' ({one.application})' if one.application else ''}, {one.state or 'state unknown'}"
        + (f", in a transaction for {one.open_s:.0f} s" if one.open_s is not None else "")
        for one in sessions[:_MOST_SESSIONS]
    ]
    more = len(sessions) - _MOST_SESSIONS
    return [*lines, f"  … and {more} more"] if more > 0 else lines


def answer_of(report: CutoverReport) -> Answer:
    """The verdict first in JSON, last in text; the drift before it."""
    details = [f"differs: {item}" for item in report.drift]
    if report.verify is not None and not report.verify.is_equal:
        from dsync.verify import render

        details += render(report.verify).splitlines()
    return Answer(
        summary="\n".join(_lines(report)),
        details="\n".join(details),
        result=report.as_json(),
        exit_code=report.exit_code,
        problem="" if report.is_safe else "not safe to switch",
    )


def _lines(report: CutoverReport) -> list[str]:
    if not report.is_safe:
        lines = ["not safe to switch", *(f"  {reason.message}" for reason in report.reasons)]
        lines += _about_sessions(report)
        if report.is_frozen:
            lines.append(f"the source is still read-only: `{report.undo}` there makes it writable again")
        elif report.undo:
            lines.append("the source is writable again")
        return [*lines, f"`{report.resume_command}` lets the flow go on; the same command tries again"]
    if report.was_done_before:
        head = (
            f"flow {report.title} was cut over at {moment(_time(report.finished_at))}, and was safe to switch then;"
            f" nothing was done now. To do it anew, forget the flow back first: `dsync reset {report.reverse}`"
        )
    else:
        compared = counted(report.verify.source_rows, "row") if report.verify is not None else "nothing"
        head = (
            f"safe to switch: everything up to position {report.position} is at the sink, nothing was written at the"
            f" source since; {compared} compared, {counted(report.sequences, 'sequence')} moved,"
            f" {counted(len(report.refreshed), 'view')} refreshed"
        )
    lines = [head, *_about_sessions(report)]
    if report.is_frozen:
        lines.append(f"the source stays read-only; `{report.undo}` there makes it writable again")
    if report.reverse:
        lines.append(
            f"flow {report.reverse} brings changes back from the sink to the source; it is tested and paused:"
            f" `{report.reverse_command}` once applications have switched, and never together with {report.title}"
        )
    lines.append(f"the source keeps its log for {report.title} until `dsync reset {report.title}` lets go of it")
    return lines


def _time(text: str) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _about_sessions(report: CutoverReport) -> list[str]:
    lines = [f"{counted(len(report.ended), 'session')} of the source ended:"] if report.ended else []
    lines += _sessions(report.ended)
    lines += ["could not be ended, and may write:"] if report.left else []
    lines += _sessions(report.left)
    return [*lines, *(f"may write all the same: {sentence}" for sentence in report.exempt)]
