"""`dsync sync`."""

from __future__ import annotations

from typing import Any

import click

from dsync.cli.answer import Answer
from dsync.cli.command import DsyncCommand
from dsync.cli.completing import complete_endpoints
from dsync.cli.options import (
    again_option,
    confirm,
    flow_options,
    metrics_address,
    metrics_option,
    progress_option,
    require_ends,
    require_fitting_mode,
    sync_request,
)
from dsync.cli.settings import Settings


@click.command("sync", cls=DsyncCommand, short_help="Copy SOURCE to SINK and follow its changes.")
@click.argument("source", required=False, metavar="SOURCE", shell_complete=complete_endpoints)
@click.argument("sink", required=False, metavar="SINK", shell_complete=complete_endpoints)
@flow_options()
@again_option()
@click.option(
    "--until-caught-up",
    is_flag=True,
    help="End once everything is at the sink that was committed when streaming began, instead of following on.",
)
@click.option(
    "--verify",
    is_flag=True,
    help="Compare both ends: a copy under its own snapshot, a sink that follows once it has caught up, live.",
)
@progress_option()
@metrics_option()
@click.pass_context
def sync(
    ctx: click.Context,
    /,
    source: str | None,
    sink: str | None,
    verify: bool,
    progress: Any,
    metrics: str | None,
    **options: Any,
) -> Answer:
    """Copy SOURCE to SINK and follow its changes, going on where an earlier run of the same flow was cut off.

    SOURCE and SINK are URIs (postgresql://host/database), env:NAME or file:PATH. Changes are followed until Ctrl-C;
    with --mode copy nothing is, and the source keeps nothing for the flow. The same command finds the same flow
    again; a copy that is finished moves nothing. The first Ctrl-C finishes the pages in flight, the second stops at
    once; either way the same command goes on.
    """
    source, sink = require_ends(ctx, source, sink)
    require_fitting_mode(ctx, options)
    if options["until_caught_up"] and options["mode"] == "copy":
        raise click.UsageError("--until-caught-up ends a stream, and --mode copy has none: leave one of them out", ctx)
    settings: Settings = ctx.obj
    if options["on_existing"] in ("truncate", "drop"):
        what = "empties" if options["on_existing"] == "truncate" else "drops"
        confirm(
            settings, ctx, f"--on-existing {options['on_existing']} {what} tables at the sink, with all their rows."
        )

    from dsync.cli.running import count_plugins
    from dsync.cli.syncing import run_flow

    return run_flow(
        settings,
        lambda: sync_request(options, source=source, sink=sink, verify=verify),
        progress=progress,
        metrics=metrics_address(metrics, allow_plaintext=options["allow_plaintext"]),
        state=options["state"] or "",
        follows=options["mode"] != "copy",
        plugins=count_plugins(options["attach"], source, sink),
    )
