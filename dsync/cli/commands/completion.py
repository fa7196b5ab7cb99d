"""`dsync completion`."""

from __future__ import annotations

import click

from dsync.cli.answer import Answer
from dsync.cli.command import DsyncCommand
from dsync.cli.completing import SHELLS
from dsync.cli.settings import Settings


@click.command("completion", cls=DsyncCommand, short_help="Print the script that makes a shell complete `dsync`.")
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_obj
def completion(settings: Settings, shell: str) -> Answer:
    """Print the script that makes SHELL (bash from 4.4, zsh or fish) complete commands, options, flows and schemes.

    Put `eval "$(dsync completion bash)"` into ~/.bashrc, `eval "$(dsync completion zsh)"` into ~/.zshrc behind
    `compinit`, or write `dsync completion fish` to ~/.config/fish/completions/dsync.fish. Flows are read from the
    state file at the key press; no server is contacted.
    """
    from dsync.cli.shells import script

    text = script(shell)
    return Answer(
        summary=f"the script for {shell}" if settings.json else "",
        details=text.rstrip("\n"),
        result={"shell": shell, "script": text},
    )
