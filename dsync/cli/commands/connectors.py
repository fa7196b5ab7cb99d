"""`dsync connectors`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dsync.cli.answer import Answer
from dsync.cli.command import DsyncCommand
from dsync.cli.text import columns, counted

if TYPE_CHECKING:
    from dsync.app.connectors import ConnectorDetails, ConnectorStatus


@click.group("connectors", short_help="List the connectors and their options.")
def connectors() -> None:
    """List the connectors of this installation, and show the options of one."""


@connectors.command("list", cls=DsyncCommand)
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


@connectors.command("show", cls=DsyncCommand)
@click.argument("name")
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
    if not details.options:
        return []
    rows = [
        (
            option.name,
            option.type,
            "required" if option.is_required else option.default or "-",
            option.description + (" Secret." if option.is_secret else ""),
        )
        for option in details.options
    ]
    return ["", *columns(rows, header=("OPTION", "TYPE", "DEFAULT", "WHAT"))]
