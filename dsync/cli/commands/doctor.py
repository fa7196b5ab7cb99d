"""`dsync doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from dsync.cli.answer import Answer
from dsync.cli.command import DsyncCommand
from dsync.cli.completing import complete_endpoints
from dsync.cli.findings import finding_json, render_findings, summarize, unique
from dsync.cli.options import flow_options, require_fitting_mode, sync_request
from dsync.cli.settings import Settings

if TYPE_CHECKING:
    from dsync.app.doctor import DoctorReport


@click.command("doctor", cls=DsyncCommand, short_help="Find what would stop a sync or lose data, and say what to do.")
@click.argument("source", required=False, metavar="SOURCE", shell_complete=complete_endpoints)
@click.argument("sink", required=False, metavar="[SINK]", shell_complete=complete_endpoints)
@flow_options()
@click.option("--strict", is_flag=True, help="Exit 3 for a warning, too.")
@click.pass_context
def doctor(ctx: click.Context, /, source: str | None, sink: str | None, strict: bool, **options: Any) -> Answer:
    """Find what would stop a sync of SOURCE (to SINK) or lose data, and say what to do about each.

    Changes nothing. Exits 3 where something would stop the copy or lose data.
    """
    if not source:
        raise click.UsageError("Missing argument 'SOURCE': give it, or `source:` in a flow file (-c FLOW.YAML)", ctx)
    require_fitting_mode(ctx, options)
    from dsync.cli.running import count_plugins, run

    settings: Settings = ctx.obj

    async def look(_: object) -> DoctorReport:
        from dsync.app.doctor import doctor as examine

        return await examine(sync_request(options, source=source, sink=sink or ""))

    report = run(
        settings,
        look,
        plugins=count_plugins(options["attach"], source, sink),
        imports="dsync.app.doctor",
    )
    findings = unique(report.findings)
    ends = [f"{end.role}: {end.db_type} {end.version} at {end.reference}" for end in report.ends]
    exit_code = report.exit_code(strict=strict)
    return Answer(
        summary=summarize(findings),
        details="\n".join([*ends, "", *filter(None, [render_findings(findings, verbose=bool(settings.verbosity))])]),
        result={
            "ends": [
                {"role": end.role, "reference": end.reference, "db_type": end.db_type, "version": end.version}
                for end in report.ends
            ],
            "findings": [finding_json(finding) for finding in findings],
        },
        exit_code=exit_code,
        problem="a warning was found, and --strict was given"
        if strict and report.exit_code(strict=False) == 0
        else "a finding would stop the copy or lose data",
    )
