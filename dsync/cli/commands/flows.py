"""`dsync flows`."""

from __future__ import annotations

import click

from dsync.cli.answer import Answer
from dsync.cli.command import DsyncCommand
from dsync.cli.options import state_option
from dsync.cli.text import columns, counted, moment


@click.command("flows", cls=DsyncCommand, short_help="List the flows that have been run.")
@state_option()
def flows(state: str) -> Answer:
    """List the flows that have been run, with how far each has come.

    Contacts no server. `dsync status FLOW` shows one of them in full.
    """
    from dsync.app.status import FlowStatus, list_flows

    def row(flow: FlowStatus) -> tuple[str, ...]:
        more = [word for word, holds in (("running", flow.is_running), ("paused", flow.paused)) if holds]
        phase = f"{flow.phase} ({', '.join(more)})" if more else flow.phase
        return (
            flow.flow,
            flow.name or "-",
            phase,
            f"{flow.rows:,}",
            f"{flow.bytes:,}",
            str(flow.dead_letters),
            moment(flow.finished_at or flow.started_at),
            f"{flow.source} → {flow.sink}",
        )

    found = list_flows(state)
    header = ("FLOW", "NAME", "PHASE", "ROWS", "BYTES", "DEAD LETTERS", "SINCE", "ENDS")
    table = columns([row(flow) for flow in found], header=header, right={3, 4, 5}) if found else []
    return Answer(
        summary=counted(len(found), "flow") if found else "no flow has been run yet",
        details="\n".join(table),
        result={"flows": [flow.as_json() for flow in found]},
    )
