"""`dsync quickstart`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import click

from dsync.cli.answer import Answer, print_answer
from dsync.cli.command import DsyncCommand
from dsync.cli.options import progress_option, state_option
from dsync.cli.settings import Settings
from dsync.cli.summary import sync_answer
from dsync.cli.text import columns, counted, duration

if TYPE_CHECKING:
    from dsync.app.quickstart import QuickstartReport

_NEXT = (
    ("dsync quickstart --keep", "the same, and both servers stay up for you to look around"),
    ("dsync doctor postgresql://USER@HOST/DATABASE", "what would stop a copy of a database of yours"),
    ("dsync plan SOURCE SINK", "what a copy would do, table by table"),
    ("dsync sync SOURCE SINK --mode copy --verify", "do it, and prove it"),
)


@click.command("quickstart", cls=DsyncCommand, short_help="Try it: two PostgreSQL servers, a shop copied and verified.")
@click.option(
    "--rows",
    type=click.IntRange(1),
    default=100_000,
    show_default=True,
    metavar="N",
    help="About how many rows the source gets.",
)
@click.option("--keep", is_flag=True, help="Keep both servers running afterwards, until Ctrl-C.")
@state_option(default="a temporary file")
@progress_option()
@click.pass_obj
def quickstart(settings: Settings, rows: int, keep: bool, state: str, progress: Any) -> Answer:
    """Try dsync without a database: start two PostgreSQL servers, fill one with a shop, copy it and verify the copy.

    The copy runs as it always does, through three processes. Everything is removed at the end.
    """
    from dsync.app.quickstart import QuickstartRequest
    from dsync.app.quickstart import quickstart as try_it
    from dsync.cli.running import run
    from dsync.cli.showing import showing_progress

    answers: list[Answer] = []

    def on_report(report: QuickstartReport) -> None:
        answers.append(_answer(report, keep=keep))
        if keep:
            print_answer(answers[0], settings)

    async def try_and_show(_: asyncio.Event) -> None:
        request = QuickstartRequest(rows=rows, keep=keep, state=state)
        with showing_progress(settings, progress) as emit:
            await try_it(request, emit, hide=settings.hide, on_report=on_report)

    run(settings, try_and_show, afterwards="both servers and their data are removed")
    return Answer(summary="", exit_code=answers[0].exit_code, is_printed=True) if keep else answers[0]


def _answer(report: QuickstartReport, *, keep: bool) -> Answer:
    copied = sync_answer(report.outcome)
    shop = report.shop
    made = (
        f"made a shop of {counted(shop.tables, 'table')} and {counted(shop.rows, 'row')}"
        f" on PostgreSQL {report.version} in {duration(shop.elapsed_s)}"
    )
    lines = [made, copied.summary, "", *_what_next(report, keep=keep)]
    return Answer(
        summary="\n".join(lines),
        details=copied.details,
        result={
            **copied.result,
            "shop": {"tables": shop.tables, "rows": shop.rows, "bytes": shop.bytes},
            "server_version": report.version,
            **({"source": report.source, "sink": report.sink, "passfile": str(report.passfile)} if keep else {}),
        },
        exit_code=copied.exit_code,
        problem=copied.problem,
    )


def _what_next(report: QuickstartReport, *, keep: bool) -> list[str]:
    if not keep:
        return ["next:", *(f"  {line}" for line in columns(_NEXT))]
    return [
        "both servers run until Ctrl-C; in another terminal:",
        f"  export PGPASSFILE={report.passfile}",
        f"  psql {report.source}",
        f"  psql {report.sink}",
        f"  dsync verify {report.source} {report.sink} --state {report.state}",
    ]
