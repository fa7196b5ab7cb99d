"""`dsync connectors`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dsync.cli.answer import Answer
from dsync.cli.command import DsyncCommand, everywhere
from dsync.cli.completing import complete_connectors
from dsync.cli.text import columns, counted

if TYPE_CHECKING:
    from dsync.app.connectors import ConnectorDetails, ConnectorStatus


@click.group("connectors", params=everywhere(), short_help="List the connectors and their options.")
def connectors() -> None:
    """List the connectors of this installation, and show the options of one."""


@connectors.command("list", cls=DsyncCommand, short_help="List the connectors of this installation.")
def list_() -> Answer:
    """List the connectors of this installation, also those that lack something, with the line that installs it."""
    from dsync.app.connectors import list_connectors, remote_schemes

    found = list_connectors()
    rows = [(one.name, _schemes(one), one.roles or "-", one.hint or one.summary) for one in found]
    remote = ", ".join(f"{scheme}://" for scheme in remote_schemes())
    return Answer(
        summary=f"{counted(len(found), 'connector')}; {remote} reach one that somebody else runs",
        details="\n".join(columns(rows, header=("NAME", "SCHEMES", "AS", "WHAT"))),
        result={"connectors": [one.as_json() for one in found]},
    )


@connectors.command("show", cls=DsyncCommand, short_help="Show the options of one connector.")
@click.argument("name", shell_complete=complete_connectors)
def show(name: str) -> Answer:
    """Show the options of the connector NAME: query parameters of its URI, or keys beside `uri` in a flow file."""
    from dsync.app.connectors import show_connector

    details = show_connector(name)
    one = details.connector
    head = [("schemes", _schemes(one)), ("as", one.roles)]
    if one.hint:
        head.append(("unusable", one.hint))
    return Answer(
        summary=f"{one.name}: {one.summary or one.hint}",
        details="\n".join([*columns([row for row in head if row[1]]), *_options(details)]),
        result=details.as_json(),
    )


def _schemes(one: ConnectorStatus) -> str:
    return ", ".join(f"{scheme}://" for scheme in one.schemes) or "-"


def _options(details: ConnectorDetails) -> list[str]:
    lines = []
    for option in details.options:
        default = f", default {option.default}" if option.default else ""
        terms = f"{option.type}{', required' if option.is_required else default}"
        lines += ["", f"{option.name}  ({terms})", f"    {option.description}"]
    return lines
