"""The manual names every command and option; whoever adds one and does not describe it is told."""

from __future__ import annotations

import re
from pathlib import Path

import click

from dsync.cli.manual import ENTRIES, ENVIRONMENT, EXIT_CODES, FILES
from dsync.cli.reference import commands, reference
from dsync.cli.root import dsync

_PATH = Path(__file__).resolve().parents[3] / "docs/reference.md"


def test_what_is_published_is_what_the_commands_say() -> None:
    """`make generate` writes it, and `make drift` looks."""
    assert _PATH.read_text(encoding="utf-8") == reference()


def test_every_command_has_an_entry_and_every_entry_a_command() -> None:
    """With an example and exit codes."""
    assert [name for name, _ in commands()] == list(ENTRIES)
    for name, entry in ENTRIES.items():
        assert entry.examples, name
        assert 0 in entry.exit_codes, name
        assert set(entry.exit_codes) <= set(EXIT_CODES), name


def test_every_option_of_every_command_is_described() -> None:
    """In the section of its command, or among those that all have."""
    text = reference()
    common = text.split("## Options of every command")[1].split("\n## ")[0]
    for name, command in commands():
        section = text.split(f"## dsync {name}\n")[1].split("\n## ")[0]
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert f"{parameter.opts[-1]}" in section + common, f"{name} {parameter.opts[-1]}"
        assert f"dsync {name}" in section


def test_nothing_is_described_that_no_command_refers_to() -> None:
    """A file or variable that no longer matters leaves the manual."""
    assert {name for entry in ENTRIES.values() for name in entry.files} == set(FILES)
    assert {name for entry in ENTRIES.values() for name in entry.environment} == set(ENVIRONMENT)
    assert {code for entry in ENTRIES.values() for code in entry.exit_codes} == set(EXIT_CODES)


def test_exit_codes_are_those_that_help_names() -> None:
    """Once for all."""
    said = (dsync.help or "").split("Exit codes:")[1]

    assert {int(number) for number in re.findall(r"\d+", said)} == set(EXIT_CODES)
