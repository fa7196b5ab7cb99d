"""Running a command line inside the test process, and reading what it printed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest

from dsync.cli.main import execute
from dsync.cli.title import secrets_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Printed:
    exit_code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> dict[str, Any]:
        """The one object on stdout; fails where there is anything else."""
        (line,) = self.stdout.splitlines()
        found: dict[str, Any] = json.loads(line)
        assert list(found) == ["command", "ok", "summary", "result", "error"]
        return found


def run_here(capsys: pytest.CaptureFixture[str], *arguments: str) -> Printed:
    """Run `dsync` with these arguments; nothing is contacted unless they ask for it."""
    exit_code = execute(list(arguments), secrets_of(arguments))
    out, err = capsys.readouterr()
    return Printed(exit_code=exit_code, stdout=out, stderr=err)
