"""`dsync flow-schema`."""

from __future__ import annotations

import click

from dsync.cli.answer import Answer
from dsync.cli.command import DsyncCommand
from dsync.cli.settings import Settings


@click.command("flow-schema", cls=DsyncCommand, short_help="Print the JSON Schema of flow files, for editors.")
@click.pass_obj
def flow_schema(settings: Settings) -> Answer:
    """Print the JSON Schema of the files that -c reads, so that an editor completes and checks them.

    Where a YAML language server runs, this first line in a flow file names it:
    `# yaml-language-server: $schema=flow.schema.json`.
    """
    from dsync.cli.flow_schema import flow_schema as make_schema
    from dsync.cli.flow_schema import flow_schema_text

    return Answer(
        summary="the JSON Schema of flow files" if settings.json else "",
        details=flow_schema_text().rstrip("\n"),
        result={"schema": make_schema()},
    )
