"""`dsync` itself: the table of its commands, whose modules are imported when they are called."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

import click

from dsync.cli.command import everywhere

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

COMMANDS = {
    "sync": ("sync", "Copy SOURCE to SINK and follow its changes."),
    "plan": ("plan", "Show what a sync would do, and change nothing."),
    "doctor": ("doctor", "Find what would stop a sync or lose data, and say what to do."),
    "verify": ("verify", "Compare two databases, or both ends of a flow, row by row."),
    "flows": ("flows", "List the flows that have been run."),
    "status": ("status", "Show how far a flow has come, and how it goes on."),
    "pause": ("steering", "Let a flow rest: nothing new is read until it is resumed."),
    "resume": ("steering", "Let a paused flow go on, or run one that was stopped."),
    "cancel": ("steering", "End a flow's run; only `resume` and --again go on with it."),
    "resync": ("steering", "Copy tables of a flow anew while it follows all others."),
    "rate": ("steering", "Let a running flow read at another rate."),
    "cutover": ("cutover", "Bring a flow to its end, prove it, and say whether to switch."),
    "dead-letters": ("dead_letters", "Records that the sink has refused: list, show, retry, drop."),
    "reset": ("reset", "Forget a flow: its state here, and what both ends keep for it."),
    "serve": ("serve", "Run a connector for coordinators on other machines."),
    "connectors": ("connectors", "List the connectors and their options."),
    "conformance": ("conformance", "Examine a connector: does it keep what the protocol promises?"),
    "quickstart": ("quickstart", "Try it: two PostgreSQL servers, a shop copied and verified."),
    "flow-schema": ("flow_schema", "Print the JSON Schema of flow files, for editors."),
    "completion": ("completion", "Print the script that makes a shell complete `dsync`."),
}
"""Name → module in `dsync.cli.commands` and the line that `dsync --help` shows, which needs no import."""


class LazyGroup(click.Group):
    """A group that imports a command only to run it or to show its own help."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _ = COMMANDS[cmd_name]
        command = getattr(importlib.import_module(f"dsync.cli.commands.{module}"), cmd_name.replace("-", "_"))
        assert isinstance(command, click.Command), f"{module} has no command {cmd_name}"
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem[str]]:
        """From the table above; click would import every command to ask for its first line."""
        from click.shell_completion import CompletionItem

        if incomplete[:1] == "-":
            return super().shell_complete(ctx, incomplete)
        return [CompletionItem(name, help=said) for name, (_, said) in COMMANDS.items() if name.startswith(incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])


dsync = LazyGroup(
    "dsync",
    params=everywhere(),
    help="Move data between databases, and prove that it arrived.\n\nResults go to stdout, logs and progress to stderr."
    " Exit codes: 0 done, 1 our fault, 2 the request is wrong, 3 the environment is, 4 differences found, 5 done with"
    " dead letters, 6 done but inconsistent or incomplete, 130 and 143 interrupted and resumable.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
