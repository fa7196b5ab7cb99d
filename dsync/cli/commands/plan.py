"""`dsync plan`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from dsync.cli.answer import Answer
from dsync.cli.command import DsyncCommand
from dsync.cli.completing import complete_endpoints
from dsync.cli.findings import finding_json, render_findings, summarize, unique
from dsync.cli.options import again_option, flow_options, require_ends, require_fitting_mode, sync_request
from dsync.cli.settings import Settings
from dsync.cli.text import approximate_bytes, columns, counted, moment

if TYPE_CHECKING:
    from dsync.app.plan import PlannedNamespace, PlanReport

_NAMED = 60


@click.command("plan", cls=DsyncCommand, short_help="Show what a sync would do, and change nothing.")
@click.argument("source", required=False, metavar="SOURCE", shell_complete=complete_endpoints)
@click.argument("sink", required=False, metavar="SINK", shell_complete=complete_endpoints)
@flow_options()
@again_option()
@click.option("--ddl", is_flag=True, help="Print every statement that would create something at the sink.")
@click.pass_context
def plan(ctx: click.Context, /, source: str | None, sink: str | None, **options: Any) -> Answer:
    """Show what `dsync sync` with the same arguments would do: tables, pieces, page types, statements, findings.

    Asks both ends and changes nothing. Exits 3 where something found would stop the copy or lose data.
    """
    source, sink = require_ends(ctx, source, sink)
    require_fitting_mode(ctx, options)
    from dsync.cli.running import count_plugins, run

    settings: Settings = ctx.obj

    async def make(_: object) -> PlanReport:
        from dsync.app.plan import plan as make_plan

        return await make_plan(sync_request(options, source=source, sink=sink))

    report = run(
        settings,
        make,
        plugins=count_plugins(options["attach"], source, sink),
        imports="dsync.app.plan",
    )
    findings = unique(report.findings)
    blocks = [
        "\n".join(_tables(report, verbose=bool(settings.verbosity))),
        "\n".join(_after(report)),
        "\n".join(_statements(report, every=options["ddl"])),
        render_findings(findings, verbose=bool(settings.verbosity)),
    ]
    return Answer(
        summary=_summary(report) + f"; {summarize(findings)}",
        details="\n\n".join(block for block in blocks if block) + "\n",
        result={**report.as_json(), "findings": [finding_json(finding) for finding in findings]},
        exit_code=report.exit_code,
        problem="a finding would stop the copy or lose data",
    )


def _summary(report: PlanReport) -> str:
    size = f"about {report.estimated_rows:,} rows, {approximate_bytes(report.bytes)}"
    tables = counted(len(report.namespaces), "table")
    name = report.flow_name or report.flow
    match report.standing.value:
        case "finished":
            return (
                f"flow {name} finished at {moment(report.finished_at)}: nothing would move (--again starts a new run)"
            )
        case "cancelled":
            return (
                f"flow {name} was cancelled at {moment(report.finished_at)}: nothing would move"
                f" (`dsync resume {name}` or --again goes on where it was)"
            )
        case "goes on":
            copied = sum(item.copied_rows for item in report.namespaces)
            return f"flow {name} would go on: {tables}, {size}, of which {copied:,} rows are there"
        case "again":
            return f"flow {name} would start a new run: {tables}, {size}, reading again what may have changed"
        case _ if name:
            return f"flow {name} would copy {tables} from the beginning, {size}"
        case _:
            return f"a new flow would copy {tables}, {size}, {report.parallel} pieces at a time"


def _tables(report: PlanReport, *, verbose: bool) -> list[str]:
    if not report.namespaces:
        return []
    by_size = sorted(report.namespaces, key=lambda item: -item.bytes)
    shown = by_size if verbose else by_size[:_NAMED]
    header = ("TABLE", "ROWS", "SIZE", "PIECES", "PAGES", "WHY")
    lines = columns([_table(item) for item in shown], header=header, right={1, 2, 3})
    if len(shown) < len(by_size):
        lines.append(f"… and {counted(len(by_size) - len(shown), 'smaller table')} (-v lists them)")
    return lines


def _table(item: PlannedNamespace) -> tuple[str, ...]:
    return (
        item.namespace + (f" → {item.target}" if item.target != item.namespace else ""),
        f"~{item.estimated_rows:,}",
        approximate_bytes(item.bytes),
        str(item.partitions),
        item.page_type + (" by key" if item.upsert else ""),
        item.reason or "-",
    )


def _after(report: PlanReport) -> list[str]:
    by_reference = ", by reference" if report.by_reference else ""
    lines = [f"page types both ends share: {', '.join(report.page_types)} (cheapest first){by_reference}"]
    if report.steps:
        steps = ", ".join(f"{count} × {kind}" for kind, count in sorted(report.steps.items()))
        lines.append(f"after the rows: {steps}")
    return lines


def _statements(report: PlanReport, *, every: bool) -> list[str]:
    if not report.ddl:
        return []
    if every:
        return list(report.ddl)
    return [f"before the rows: {counted(len(report.ddl), 'statement')} at the sink (--ddl prints them)"]
