"""`dsync status`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dsync.cli import stream_text
from dsync.cli.answer import Answer
from dsync.cli.command import DsyncCommand
from dsync.cli.completing import complete_flows
from dsync.cli.options import state_option
from dsync.cli.settings import Settings
from dsync.cli.text import approximate_bytes, columns, counted, duration, indented, moment

if TYPE_CHECKING:
    from dsync.app.status import DeadLetterGroup, FlowDetails, StreamStatus

_NAMED = 40
"""More tables than this are named only under -v, those with something to say always."""


@click.command("status", cls=DsyncCommand, short_help="Show how far a flow has come, and how it goes on.")
@click.argument("flow", required=False, metavar="[FLOW]", shell_complete=complete_flows)
@state_option()
@click.pass_obj
def status(settings: Settings, flow: str | None, state: str) -> Answer:
    """Show how far FLOW (a name, an id or its beginning) has come, and how it goes on; all flows without FLOW.

    Contacts no server: it says what the state does, which is behind by a page at most.
    """
    from dsync.app.status import all_flow_status, flow_status

    if flow:
        found = flow_status(state, flow)
        return Answer(
            summary=headline(found), details=render(found, verbose=bool(settings.verbosity)), result=found.as_json()
        )
    every = all_flow_status(state)
    blocks = [f"{headline(item)}\n{render(item, verbose=bool(settings.verbosity))}" for item in every]
    return Answer(
        summary=counted(len(every), "flow") if every else "no flow has been run yet",
        details="\n\n".join(blocks),
        result={"flows": [item.as_json() for item in every]},
    )


def headline(flow: FlowDetails) -> str:
    """One line: which flow, and how it is."""
    title = f"flow {flow.flow}" + (f" ({flow.name})" if flow.name else "")
    return f"{title}: {_condition(flow)}, {counted(flow.rows, 'row')}, {counted(flow.bytes, 'byte')}"


def _condition(flow: FlowDetails) -> str:
    if flow.holder is not None:
        return (
            f"{flow.phase}{', paused' if flow.paused else ''}, run by process {flow.holder.pid} on {flow.holder.host}"
        )
    if flow.phase in ("done", "inconsistent", "cancelled"):
        return f"{flow.phase} since {moment(flow.finished_at)}"
    if flow.phase == "failed":
        return f"failed at {moment(flow.finished_at)}"
    if not flow.run:
        return "never run"
    return f"{'paused' if flow.paused else 'interrupted'} ({flow.phase})"


def render(flow: FlowDetails, *, verbose: bool) -> str:
    """Everything else that the state knows."""
    facts = [("ends", f"{flow.source} → {flow.sink}")]
    if flow.run:
        facts.append(("run", f"{flow.run}, mode {flow.mode}, started {moment(flow.started_at)}"))
    if flow.consistent is not None:
        facts.append(("consistent", "yes" if flow.consistent else "no"))
    elif flow.consistent_at is not None:
        facts.append(("consistent", f"since the source's position {flow.consistent_at}"))
    if flow.stream is not None:
        facts += _stream(flow.stream, is_running=flow.holder is not None)
    if flow.holder is not None:
        facts.append(("lease", f"another {duration(flow.holder.lease_s)}, unless it is renewed"))
    if flow.paused and flow.phase in ("done", "inconsistent", "cancelled", "failed", "new"):
        facts.append(("paused", "yes: its next start begins so, unless `dsync resume` starts it"))
    if flow.frozen:
        facts.append(("source", f"read-only by a cut-over; `{flow.frozen}` there makes it writable again"))
    if flow.error:
        facts.append(("last error", str(flow.error.get("message", ""))))
    parts = ["\n".join(columns(facts)), _tables(flow, verbose=verbose), dead_letters(flow.dead_letter_reasons)]
    if flow.next_step:
        parts.append(f"→ {flow.next_step}")
    return indented("\n".join(part for part in parts if part))


def _stream(stream: StreamStatus, *, is_running: bool) -> list[tuple[str, str]]:
    figures = stream.figures
    when = f"{duration(stream.age_s)} ago" if is_running else f"when it was last running, {moment(stream.at)}"
    return [
        ("stream", f"{stream_text.lag(figures)}, {stream_text.applied(figures)} ({when})"),
        ("spool", approximate_bytes(figures.spool_bytes)),
        ("source keeps", stream_text.kept(figures)),
    ]


def _tables(flow: FlowDetails, *, verbose: bool) -> str:
    if not flow.namespaces:
        return ""
    shown = flow.namespaces
    if len(shown) > _NAMED and not verbose:
        shown = tuple(item for item in shown if item.reason or item.dead_letters or item.state == "copying")[:_NAMED]
    rows = [
        (
            item.namespace + (f" → {item.target}" if item.target != item.namespace else ""),
            item.state,
            f"{item.rows:,}",
            f"{item.bytes:,}",
            f"{item.partitions_done}/{item.partitions}",
            str(item.dead_letters),
        )
        for item in shown
    ]
    header = ("TABLE", "STATE", "ROWS", "BYTES", "PARTS", "DEAD LETTERS")
    lines = columns(rows, header=header, right={2, 3, 4, 5}) if rows else []
    lines += [f"{item.namespace}: {item.reason}" for item in shown if item.reason]
    if len(shown) < len(flow.namespaces):
        lines.append(f"… and {counted(len(flow.namespaces) - len(shown), 'more table')} (-v lists them)")
    return "\n".join(lines)


def dead_letters(groups: tuple[DeadLetterGroup, ...]) -> str:
    """Refused records by reason."""
    if not groups:
        return ""
    lines = [f"  {group.namespace}: {counted(group.records, 'record')}: {group.reason}" for group in groups]
    return "\n".join(["dead letters:", *lines])
