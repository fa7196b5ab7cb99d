"""`dsync conformance`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from dsync.cli.answer import Answer, write
from dsync.cli.command import DsyncCommand
from dsync.cli.completing import complete_endpoints
from dsync.cli.options import Duration, attach_options
from dsync.cli.settings import Settings
from dsync.cli.text import counted

if TYPE_CHECKING:
    from dsync.app.conformance import Examined
    from dsync.conformance import CheckResult


@click.command(
    "conformance", cls=DsyncCommand, short_help="Examine a connector: does it keep what the protocol promises?"
)
@click.argument("endpoint", metavar="ADDR|URI", shell_complete=complete_endpoints)
@click.option(
    "-n",
    "--namespace",
    "namespaces",
    metavar="NS",
    multiple=True,
    help="Read this namespace, which holds records. Repeatable. [default: what the source names by itself]",
)
@click.option(
    "--scratch",
    metavar="NS",
    default="",
    help="Write into this namespace: records of the kit's own, removed at the end. Without it nothing is written.",
)
@click.option(
    "--reader",
    metavar="ADDR|URI",
    default="",
    shell_complete=complete_endpoints,
    help="Read what was written by this connector, where the sink is no source itself.",
)
@click.option("--only", metavar="CHECK", multiple=True, help="Try this check or group of checks only. Repeatable.")
@click.option(
    "--wait",
    type=Duration(),
    metavar="TIME",
    default="3s",
    show_default=True,
    help="How long the next change of a stream is waited for.",
)
@attach_options()
@click.pass_obj
def conformance(
    settings: Settings,
    endpoint: str,
    namespaces: tuple[str, ...],
    scratch: str,
    reader: str,
    only: tuple[str, ...],
    wait: float,
    attach: str,
    allow_plaintext: bool,
) -> Answer:
    """Examine the connector at ADDR (HOST:PORT or unix:PATH) or behind URI, in any language, by the checks that fit
    what it declares.

    Prints what it declares, what was tried, what passed, and what failed: what was expected and seen, why it matters,
    and the part of the protocol it stands on. It only reads, unless --scratch names where it may write. Nobody
    else should write to what is read meanwhile. Exits 4 where a check fails; docs/conformance.md lists all of them.
    """
    from dsync.cli.running import count_plugins, run

    shows_steps = not settings.json and not settings.is_quiet and sys.stderr.isatty()

    def on_result(result: CheckResult) -> None:
        if shows_steps:
            write(sys.stderr, f"{result.outcome.value:8}{result.check.id}")

    async def look(_: object) -> Examined:
        from dsync.app.conformance import ConformanceRequest
        from dsync.app.conformance import conformance as examine

        request = ConformanceRequest(
            endpoint=endpoint,
            namespaces=namespaces,
            scratch=scratch,
            reader=reader,
            only=only,
            wait_s=wait,
            attach="inline" if attach == "inline" else "process",
            allow_plaintext=allow_plaintext,
        )
        return await examine(request, on_result)

    afterwards = f"what was written to {scratch} may be there still" if scratch else "nothing was changed"
    found = run(
        settings,
        look,
        plugins=count_plugins(attach, *(one for one in (endpoint, reader) if "://" in one)),
        imports="dsync.app.conformance",
        afterwards=afterwards,
    )
    from dsync.conformance import Outcome, render

    failed = len(found.report.of(Outcome.FAILED))
    return Answer(
        summary=f"{found.display}: {found.report.summary}",
        details=render(found.report) + "\n",
        result={"endpoint": found.display, **found.report.as_json()},
        exit_code=found.report.exit_code,
        problem=f"{counted(failed, 'check')} failed",
    )
