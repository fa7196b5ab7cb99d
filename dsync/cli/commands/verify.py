"""`dsync verify`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from dsync.cli.answer import Answer
from dsync.cli.command import DsyncCommand
from dsync.cli.completing import complete_endpoints, complete_ends
from dsync.cli.options import flow_options, progress_option, require_fitting_mode
from dsync.cli.settings import Settings

if TYPE_CHECKING:
    from dsync.app.verify import FlowEnds
    from dsync.verify import VerifyReport


@click.command("verify", cls=DsyncCommand, short_help="Compare two databases, or both ends of a flow, row by row.")
@click.argument("ends", metavar="SOURCE SINK | FLOW", nargs=-1, shell_complete=complete_ends)
@click.option(
    "--source",
    metavar="URI",
    shell_complete=complete_endpoints,
    help="With FLOW: how its source is reached, where the state keeps no password.",
)
@click.option("--sink", metavar="URI", shell_complete=complete_endpoints, help="With FLOW: how its sink is reached.")
@flow_options()
@click.option("--quick", is_flag=True, help="Compare the numbers of rows only.")
@click.option(
    "--max-diffs",
    type=click.IntRange(0),
    metavar="N",
    default=100,
    show_default=True,
    help="List at most so many differences of a table; all are counted.",
)
@click.option(
    "--show-values", is_flag=True, help="Show the differing values, not only their columns' names. They may be secret."
)
@progress_option()
@click.pass_context
def verify(ctx: click.Context, /, ends: tuple[str, ...], **options: Any) -> Answer:
    """Compare SOURCE with SINK, or both ends of FLOW (a name, an id or its beginning), and print what differs.

    Both may be in use meanwhile: what differs is read again until it settles or persists. A comparison that was
    stopped goes on where it was. Exits 0 where they agree, 4 where they differ.

    Takes the options of `dsync sync`, so that its command line can be used again; what concerns writing alone
    has no effect here, nor has --rate-limit.
    """
    source, sink, flow = _which(ctx, ends, options)
    require_fitting_mode(ctx, options)
    from dsync.app.requests import VerifyRequest
    from dsync.app.verify import ends_of_flow
    from dsync.app.verify import verify as compare
    from dsync.cli.running import run
    from dsync.cli.showing import showing_progress

    settings: Settings = ctx.obj
    state = options["state"] or ""
    known: FlowEnds | None = None
    if flow:
        known = ends_of_flow(state, flow, source=source, sink=sink)
        source, sink = known.source, known.sink
    request = VerifyRequest(
        source=source,
        sink=sink,
        namespaces=tuple(options["namespace"]),
        exclude=tuple(options["exclude"]),
        filters=tuple(options["filters"]),
        attach=options["attach"],
        allow_plaintext=options["allow_plaintext"],
        quick=options["quick"],
        max_diffs=options["max_diffs"],
        show_values=options["show_values"],
        state=state,
        parallel=options["parallel"] or 0,
        page_bytes=options["page_bytes"] or 0,
        load_level=options["load_level"],
        retry_for_s=options["retry_for"],
        **({"memory_limit": options["memory_limit"]} if options["memory_limit"] else {}),
    )

    async def compare_and_show(_: object) -> VerifyReport:
        with showing_progress(settings, options["progress"]) as emit:
            return await compare(request, emit, flow=known)

    report = run(
        settings, compare_and_show, afterwards="what was compared is kept; the same command goes on from there"
    )
    return answer_of(report)


def answer_of(report: VerifyReport) -> Answer:
    """A comparison's report, for people and as JSON."""
    from dsync.verify import render

    *details, summary = render(report).splitlines()
    return Answer(
        summary=summary,
        details="\n".join(details),
        result=report.as_json(),
        exit_code=report.exit_code,
        problem="differences were found",
    )


def _which(ctx: click.Context, ends: tuple[str, ...], options: dict[str, Any]) -> tuple[str, str, str]:
    """Source, sink and flow: both ends, or a flow with the ends that are not to be read from the state."""
    source, sink, flow = options["source"] or "", options["sink"] or "", options["flow"] or ""
    if len(ends) > 2:
        raise click.UsageError("give SOURCE and SINK, or one FLOW", ctx)
    if len(ends) == 2:
        source, sink = ends
    elif len(ends) == 1 and _is_endpoint(ends[0]):
        source = ends[0]
    elif len(ends) == 1:
        return source, sink, ends[0]
    if flow or (source and sink):
        return source, sink, flow
    if source:
        raise click.UsageError("Missing argument 'SINK': give SOURCE and SINK, or one FLOW", ctx)
    raise click.UsageError("Missing argument: give SOURCE and SINK, or one FLOW (`dsync flows` lists them)", ctx)


def _is_endpoint(text: str) -> bool:
    return "://" in text or text.startswith(("env:", "file:"))
