"""`dsync reset`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from dsync.cli.answer import Answer, write
from dsync.cli.command import DsyncCommand
from dsync.cli.completing import complete_endpoints, complete_flows
from dsync.cli.options import attach_options, confirm, state_option
from dsync.cli.settings import Settings
from dsync.cli.text import counted, duration

if TYPE_CHECKING:
    from dsync.app.reset import ResetReport
    from dsync.state import LeaseHeldError


@click.command("reset", cls=DsyncCommand, short_help="Forget a flow: its state here, and what both ends keep for it.")
@click.argument("flow", required=False, metavar="[FLOW]", shell_complete=complete_flows)
@click.option(
    "--sink",
    metavar="URI",
    shell_complete=complete_endpoints,
    help="How the sink is reached, where the state keeps no password; also asks a sink whose state was lost.",
)
@click.option(
    "--source",
    metavar="URI",
    shell_complete=complete_endpoints,
    help="How the source of a flow that follows it is reached, where the state keeps no password.",
)
@click.option(
    "--state-only",
    is_flag=True,
    help="Ask no server, where one is gone or another has its name: forget FLOW here, and list what it left there.",
)
@state_option()
@attach_options()
@click.pass_context
def reset(
    ctx: click.Context, /, flow: str | None, sink: str | None, source: str | None, state_only: bool, **options: Any
) -> Answer:
    """Forget FLOW (a name, an id or its beginning): what a source that it follows keeps for it, its ledger at the
    sink, then its state here.

    The rows that it has copied stay. What was removed is printed. Asks first, unless --yes is given.
    """
    from dsync.app.reset import ResetRequest, describe_reset
    from dsync.app.reset import reset as reset_flow
    from dsync.cli.running import run

    settings: Settings = ctx.obj
    request = ResetRequest(
        flow=flow or "",
        sink=sink or "",
        source=source or "",
        state_only=state_only,
        state=options["state"],
        attach=options["attach"],
        allow_plaintext=options["allow_plaintext"],
    )
    here = "in the state alone" if state_only else "and what both ends keep for it; its rows stay"
    confirm(settings, ctx, f"This forgets {describe_reset(request)}, {here}.")

    def say_waiting(held: LeaseHeldError) -> None:
        write(sys.stderr, f"waiting for the lease of process {held.pid} on {held.host}: {duration(held.remaining_s)}")

    report: ResetReport = run(
        settings,
        lambda _: reset_flow(request, say_waiting),
        afterwards="part of it may be removed already; the same command removes the rest",
    )
    title = f"flow {report.flow}" + (f" ({report.flow_name})" if report.flow_name else "")
    removed = [f"at the source: {text}" for text in report.at_source]
    removed += [f"at the sink: {text}" for text in report.at_sink]
    if not removed and not state_only:
        removed = ["at the sink: nothing was kept"]
    removed += [f"in the state: {counted(count, 'row')} of {table}" for table, count in report.from_state.items()]
    return Answer(
        summary=f"{title} is forgotten; {_rest(report, state_only=state_only)}",
        details="\n".join([*removed, *(f"left behind: {text}" for text in report.left_behind)]),
        result={
            "flow": report.flow,
            "name": report.flow_name or None,
            "removed_at_source": list(report.at_source),
            "removed_at_sink": list(report.at_sink),
            "removed_from_state": dict(report.from_state),
            "left_behind": list(report.left_behind),
        },
    )


def _rest(report: ResetReport, *, state_only: bool) -> str:
    if not state_only:
        return "the rows it has copied are still at the sink"
    return "its sink was not asked" + ("; what it left there is listed" if report.left_behind else "")
