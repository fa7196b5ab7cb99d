"""`dsync pause`, `resume`, `cancel`, `rate`, `resync`: what is asked of a flow, from anywhere that shares its state."""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from dsync.cli.answer import Answer, write
from dsync.cli.command import DsyncCommand
from dsync.cli.completing import complete_endpoints, complete_flows
from dsync.cli.options import RateLimit, metrics_address, metrics_option, progress_option, state_option
from dsync.cli.quantities import Rate, parse_rate
from dsync.cli.settings import Settings
from dsync.cli.sizes import size_text
from dsync.cli.text import duration, moment

if TYPE_CHECKING:
    from dsync.app.asking import Reply
    from dsync.coordinator.control import Rate as AskedRate
    from dsync.state import LeaseHeldError

_ASKED = "what was asked for stands; `dsync status` shows whether it was heeded"


def _flow_argument() -> Callable[[Any], Any]:
    return click.argument("flow", metavar="FLOW", shell_complete=complete_flows)


def _ask(settings: Settings, asked: Callable[[], Coroutine[Any, Any, Reply]]) -> Reply:
    from dsync.cli.running import run

    return run(settings, lambda _: asked(), afterwards=_ASKED)


class _NewRate(RateLimit):
    """A limit, or `none`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Rate:
        if isinstance(value, str) and value.strip().lower() == "none":
            return Rate()
        return super().convert(value, param, ctx)


def _asked_rate(given: Sequence[Rate | str]) -> AskedRate:
    """Of several limits the narrowest holds; those of a flow file are the texts that stand there."""
    from dsync.coordinator.control import Rate as AskedRate

    limits = [parse_rate(limit) if isinstance(limit, str) else limit for limit in given]
    return AskedRate(
        rows_per_s=min((limit.rows_per_s for limit in limits if limit.rows_per_s), default=0),
        bytes_per_s=min((limit.bytes_per_s for limit in limits if limit.bytes_per_s), default=0),
    )


@click.command("pause", cls=DsyncCommand, short_help="Let a flow rest: nothing new is read until it is resumed.")
@_flow_argument()
@state_option()
@click.pass_obj
def pause(settings: Settings, flow: str, state: str) -> Answer:
    """Let FLOW (a name, an id or its beginning) rest: nothing new is read until it is resumed.

    What is on its way is finished. The process that runs it stays, with its snapshot and its hold on the flow. Where
    none runs, the next start begins paused, unless `dsync resume` is what starts it.
    """
    from dsync.app.asking import pause as ask_pause

    reply = _ask(settings, lambda: ask_pause(state, flow))
    way_on = f"`{reply.resume_command}` lets it go on"
    if reply.holder is not None:
        summary = f"flow {reply.title} is paused in process {reply.holder.pid} on {reply.holder.host}; {way_on}"
    else:
        summary = f"flow {reply.title} is not running; its next start begins paused; {way_on}"
    return Answer(summary=summary, result=_result(reply, paused=True))


@click.command("resume", cls=DsyncCommand, short_help="Let a paused flow go on, or run one that was stopped.")
@_flow_argument()
@click.option(
    "--source",
    metavar="URI",
    default="",
    shell_complete=complete_endpoints,
    help="How the source is reached where nothing runs the flow, and the state keeps no password for it.",
)
@click.option(
    "--sink",
    metavar="URI",
    default="",
    shell_complete=complete_endpoints,
    help="How the sink is reached where nothing runs the flow, and the state keeps no password for it.",
)
@state_option()
@click.option(
    "--allow-plaintext", is_flag=True, help="Allow grpc:// without TLS to other machines, in a network you trust."
)
@click.option(
    "--rate-limit",
    type=_NewRate(),
    multiple=True,
    metavar="ROWS/S|SIZE/S|none",
    help="Where nothing runs the flow: read at this rate, instead of the one of the last command.",
)
@click.option(
    "--until-caught-up",
    is_flag=True,
    help="Where nothing runs the flow: end once everything is at the sink that was committed when streaming began.",
)
@progress_option()
@metrics_option()
@click.pass_obj
def resume(settings: Settings, /, flow: str, state: str, progress: Any, metrics: str, **options: Any) -> Answer:
    """Let FLOW (a name, an id or its beginning) go on.

    Where a process runs it, that one goes on. Where none does, the flow runs here, as the last command that ran it
    said, from where it was interrupted, paused or cancelled.
    """
    from dsync.app.asking import resume as ask_resume

    reply = _ask(settings, lambda: ask_resume(state, flow))
    if reply.holder is not None or reply.outcome.get("heeded"):
        said = "goes on" if reply.outcome.get("was_paused") else "was not paused, and goes on"
        return Answer(summary=f"flow {reply.title} {said}", result=_result(reply, paused=False))
    return _run_here(settings, reply, state, progress, metrics, options)


def _run_here(
    settings: Settings, reply: Reply, state: str, progress: Any, metrics: str, options: dict[str, Any]
) -> Answer:
    from dsync.app.known import existing_store, find_known_flow
    from dsync.app.resuming import request_of
    from dsync.cli.syncing import run_flow

    with existing_store(state, wanted=reply.flow) as store:
        assert store is not None, "a flow that is wanted is looked for in a state that exists"
        known = find_known_flow(store, reply.flow)
    limits = options.pop("rate_limit")
    request = request_of(known, state=state, rate=_asked_rate(limits) if limits else None, **options)
    return run_flow(
        settings,
        lambda: request,
        progress=progress,
        metrics=metrics_address(metrics, allow_plaintext=request.allow_plaintext),
        state=state,
        follows=request.mode != "copy",
    )


@click.command("cancel", cls=DsyncCommand, short_help="End a flow's run; only `resume` and --again go on with it.")
@_flow_argument()
@state_option()
@click.pass_obj
def cancel(settings: Settings, flow: str, state: str) -> Answer:
    """End the run of FLOW (a name, an id or its beginning), wherever it runs.

    What is on its way is finished, and what has arrived stays. The command that ran it exits with 143. Repeating that
    command moves nothing then; `dsync resume FLOW`, or --again, goes on where it was.
    """
    from dsync.app.asking import cancel as ask_cancel

    def say_waiting(held: LeaseHeldError) -> None:
        write(sys.stderr, f"waiting for the lease of process {held.pid} on {held.host}: {duration(held.remaining_s)}")

    reply = _ask(settings, lambda: ask_cancel(state, flow, say_waiting))
    if reply.outcome.get("heeded"):
        summary = f"flow {reply.title} is cancelled; `{reply.resume_command}` goes on where it was"
        if reply.run is not None and reply.run.mode != "copy":
            summary += f". Until then its source keeps every change for it: `dsync reset {reply.title}` lets go of them"
    elif reply.run is None:
        summary = f"flow {reply.title} has never run: there is nothing to cancel"
    else:
        ended = f"{reply.run.phase.value} since {moment(reply.run.finished_at)}"
        summary = f"flow {reply.title} has ended by itself ({ended}): there is nothing to cancel"
    return Answer(summary=summary, result=_result(reply, cancelled=bool(reply.outcome.get("heeded"))))


@click.command("rate", cls=DsyncCommand, short_help="Let a running flow read at another rate.")
@_flow_argument()
@click.argument("limits", nargs=-1, required=True, type=_NewRate(), metavar="ROWS/S|SIZE/S|none...")
@state_option()
@click.pass_obj
def rate(settings: Settings, flow: str, limits: Sequence[Rate], state: str) -> Answer:
    """Let FLOW (a name, an id or its beginning), which is running, read at most so much from now on.

    5000/s limits rows, 20MiB/s bytes, both together both; `none` lifts every limit. They take the place of those that
    it was started with, for as long as its process runs.
    """
    from dsync.app.asking import change_rate

    asked = _asked_rate(limits)
    reply = _ask(settings, lambda: change_rate(state, flow, asked))
    parts = [f"{asked.rows_per_s:,} rows/s"] if asked.rows_per_s else []
    parts += [f"{size_text(asked.bytes_per_s)}/s"] if asked.bytes_per_s else []
    said = f"at most {' and '.join(parts)}" if parts else "as fast as it can"
    result = _result(reply, rows_per_s=asked.rows_per_s or None, bytes_per_s=asked.bytes_per_s or None)
    return Answer(summary=f"flow {reply.title} reads {said} from now on", result=result)


@click.command("resync", cls=DsyncCommand, short_help="Copy tables of a flow anew while it follows all others.")
@_flow_argument()
@click.option(
    "--table",
    "tables",
    metavar="NS",
    multiple=True,
    required=True,
    help="A table to copy anew, by its name at the source; repeatable, and a pattern as for -n.",
)
@state_option()
@click.pass_obj
def resync(settings: Settings, flow: str, tables: tuple[str, ...], state: str) -> Answer:
    """Copy tables of FLOW (a name, an id or its beginning) anew while it goes on following all others.

    For a table that has stopped because it was altered, or whose rows at the sink are not to be trusted: the flow's
    rows of it are removed there, its shape is brought to the source's, its rows are read again, and it is followed
    from then on. Several tables are copied under one snapshot. Where no process runs the flow its next start does so.
    """
    from dsync.app.asking import resync as ask_resync

    reply = _ask(settings, lambda: ask_resync(state, flow, tables))
    names = tuple(reply.outcome["tables"])
    listed = ", ".join(names)
    if reply.holder is None:
        summary = f"flow {reply.title} is not running; its next start copies {listed} anew; `{reply.resume_command}`"
    elif reply.outcome["has_begun"]:
        summary = f"flow {reply.title} copies {listed} anew; `dsync status {reply.title}` shows how far that is"
    else:
        summary = f"flow {reply.title} copies {listed} anew once what it is doing now has come to its end"
    return Answer(summary=summary, result=_result(reply, tables=list(names)))


def _result(reply: Reply, **more: Any) -> Mapping[str, Any]:
    return {"flow": reply.flow, "name": reply.flow_name or None, "running": reply.holder is not None, **more}
