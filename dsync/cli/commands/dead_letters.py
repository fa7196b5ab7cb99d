"""`dsync dead-letters`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from dsync.cli.answer import Answer, write
from dsync.cli.command import DsyncCommand, everywhere
from dsync.cli.completing import complete_endpoints, complete_flows
from dsync.cli.options import attach_options, confirm, state_option
from dsync.cli.settings import Settings
from dsync.cli.text import columns, counted, duration, indented, moment

if TYPE_CHECKING:
    from dsync.app.dead_letters import Letter, LetterDetails, LettersRequest, RetryReport
    from dsync.state import LeaseHeldError

_NONE = "no dead letters"
_QUESTION = "This forgets what the refused records hold; they will be at the sink only once they are copied anew."


def _selecting(function: Callable[..., Any]) -> Callable[..., Any]:
    """Which ones: the same words for each of the four."""
    for decorate in (
        state_option(),
        click.option(
            "-n",
            "--namespace",
            "namespace",
            metavar="NS",
            multiple=True,
            help="Only those of this table or pattern (schema.table, *, ?, re:REGEX). Repeatable.",
        ),
        click.argument("ids", nargs=-1, metavar="[ID]..."),
        click.argument("flow", metavar="FLOW", shell_complete=complete_flows),
    ):
        function = decorate(function)
    return function


def _request(flow: str, ids: tuple[str, ...], options: dict[str, Any]) -> LettersRequest:
    from dsync.app.dead_letters import LettersRequest

    return LettersRequest(
        flow=flow,
        state=options["state"],
        ids=ids,
        namespaces=tuple(options["namespace"]),
        resolved=options.get("resolved", False),
    )


@click.group(
    "dead-letters", params=everywhere(), short_help="Records that the sink has refused: list, show, retry, drop."
)
def dead_letters() -> None:
    """Records that the sink has refused, of a flow's latest run: list and show them, write them again, give them up.

    FLOW is a name, an id or its beginning; ID is an id that `list` prints, or its beginning.
    """


@dead_letters.command("list", cls=DsyncCommand, short_help="List the records that the sink has refused.")
@_selecting
@click.option("--resolved", is_flag=True, help="Those that were written again or given up, too.")
def list_(flow: str, ids: tuple[str, ...], **options: Any) -> Answer:
    """List the records of FLOW that the sink has refused, oldest first, with the reason; nothing of what they hold.

    Contacts no server.
    """
    from dsync.app.dead_letters import list_letters

    found = list_letters(_request(flow, ids, options))
    header = ("ID", "TABLE", "REFUSED", "STATE", "REASON")
    rows = [(one.id, one.namespace, moment(one.refused_at), one.resolution or "waits", one.reason) for one in found]
    return Answer(
        summary=counted(len(found), "dead letter") if found else _NONE,
        details="\n".join(columns(rows, header=header)) if found else "",
        result={"dead_letters": [_json(one) for one in found]},
    )


@dead_letters.command("show", cls=DsyncCommand, short_help="Show refused records, with their values if asked.")
@_selecting
@click.option("--show-values", is_flag=True, help="Show what the records hold, too. It may be secret.")
@click.option(
    "--limit", type=click.IntRange(1), default=20, show_default=True, metavar="N", help="Show at most so many."
)
def show(flow: str, ids: tuple[str, ...], show_values: bool, limit: int, **options: Any) -> Answer:
    """Show refused records of FLOW: where each comes from, why it was refused, and with --show-values what it holds.

    Of a table that is copied in binary form, what is no text is shown as hexadecimal digits.
    """
    from dsync.app.dead_letters import show_letters

    every = show_letters(_request(flow, ids, {**options, "resolved": bool(ids)}), show_values=show_values)
    found = every[:limit]
    more = f" (of {len(every):,}; --limit shows more)" if len(every) > len(found) else ""
    return Answer(
        summary=counted(len(found), "dead letter") + more if found else _NONE,
        details="\n\n".join(map(_shown, found)),
        result={
            "dead_letters": [
                {**_json(one.letter), **({"values": dict(one.values)} if one.values is not None else {})}
                for one in found
            ]
        },
    )


@dead_letters.command("retry", cls=DsyncCommand, short_help="Write refused records again, never over a newer row.")
@_selecting
@click.option(
    "--sink",
    metavar="URI",
    shell_complete=complete_endpoints,
    help="How the sink is reached, where the state keeps no password.",
)
@attach_options()
@click.pass_obj
def retry(settings: Settings, /, flow: str, ids: tuple[str, ...], sink: str | None, **options: Any) -> Answer:
    """Write refused records of FLOW again: those named, those of a table, or all of them.

    Each goes in as an application's INSERT would: triggers fire, foreign keys are checked, and where a row with its key
    is there already, that one stays and the record is refused once more. What lands is no dead letter any longer.
    Changes that were refused while the flow followed are not written, since later ones may have overtaken them:
    `dsync resync` reads their tables again. Exits 5 where some were refused again.
    """
    from dsync.app.dead_letters import retry_letters
    from dsync.cli.running import run

    request = _request(flow, ids, options)
    report: RetryReport = run(
        settings,
        lambda _: retry_letters(
            request,
            sink=sink or "",
            attach=options["attach"],
            allow_plaintext=options["allow_plaintext"],
            on_wait=_say_waiting,
        ),
        afterwards="what has landed is no dead letter any longer; the same command goes on with the rest",
    )
    refused = [attempt for attempt in report.attempts if attempt.reason]
    landed = f"{counted(report.landed, 'record')} written" if report.attempts else f"{_NONE}: nothing to write"
    rows = [(attempt.letter.id, attempt.letter.namespace, attempt.reason) for attempt in refused]
    return Answer(
        summary=landed + (f", {counted(len(refused), 'record')} refused again" if refused else ""),
        details="\n".join(columns(rows, header=("ID", "TABLE", "REASON"))) if rows else "",
        result={
            "flow": report.flow,
            "name": report.flow_name or None,
            "written": report.landed,
            "refused": len(refused),
            "dead_letters": [
                {**_json(attempt.letter), "written": not attempt.reason, "reason": attempt.reason or None}
                for attempt in report.attempts
            ],
        },
        exit_code=report.exit_code,
        problem="the sink refused some records again",
    )


@dead_letters.command("drop", cls=DsyncCommand, short_help="Give refused records up.")
@_selecting
@click.option("--all", "every", is_flag=True, help="All of them, where neither ID nor -n says which.")
@click.pass_context
def drop(ctx: click.Context, /, flow: str, ids: tuple[str, ...], every: bool, **options: Any) -> Answer:
    """Give refused records of FLOW up: what they hold is forgotten, and the sink goes without them.

    Asks first, unless --yes is given. That they were refused stays on record (`list --resolved`).
    """
    if not (ids or options["namespace"] or every):
        raise click.UsageError("say which ones: ID, -n NS, or --all", ctx)
    from dsync.app.dead_letters import drop_letters
    from dsync.cli.running import run

    settings: Settings = ctx.obj
    request = _request(flow, ids, options)
    confirm(settings, ctx, _QUESTION)
    dropped = run(
        settings,
        lambda _: drop_letters(request, _say_waiting),
        afterwards="some may have been given up already; the same command goes on with the rest",
    )
    return Answer(
        summary=f"{counted(len(dropped), 'dead letter')} given up" if dropped else _NONE,
        result={"dropped": [_json(one) for one in dropped]},
    )


def _say_waiting(held: LeaseHeldError) -> None:
    write(sys.stderr, f"waiting for the lease of process {held.pid} on {held.host}: {duration(held.remaining_s)}")


def _shown(one: LetterDetails) -> str:
    letter = one.letter
    facts = [
        ("table", letter.namespace + (f" → {letter.target}" if letter.target != letter.namespace else "")),
        ("refused", moment(letter.refused_at)),
        ("reason", f"{letter.reason} ({letter.error_class})"),
        ("place", f"row {letter.row} of a page of unit {letter.unit}"),
        ("form", f"{letter.page_type}, {counted(letter.size_bytes, 'byte')}"),
    ]
    if letter.resolution:
        facts.append((letter.resolution, moment(letter.resolved_at)))
    lines = [f"dead letter {letter.id}", indented("\n".join(columns(facts)))]
    if one.values is not None:
        values = [(name, "NULL" if value is None else value) for name, value in one.values.items()]
        lines += ["  values:", indented("\n".join(columns(values)), "    ")]
    return "\n".join(lines)


def _json(letter: Letter) -> dict[str, Any]:
    at = letter.resolved_at
    return {
        **asdict(letter),
        "refused_at": letter.refused_at.isoformat() if letter.refused_at else None,
        "resolved_at": at.isoformat() if at else None,
        "resolution": letter.resolution or None,
    }
