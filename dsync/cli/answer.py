"""What a command has to say, and how it is printed: text for people, or exactly one JSON object."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TextIO

from dsync.cli.failures import Failure
from dsync.cli.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The result of a command that came to its end, whatever the exit code says about it."""

    summary: str
    """One or a few lines, the same in text and in JSON."""
    details: str = ""
    """Printed before the summary, in text only."""
    result: Mapping[str, Any] = field(default_factory=dict)
    exit_code: int = 0
    problem: str = ""
    """Why the exit code is not 0."""
    is_printed: bool = False
    """The command printed it itself, because it goes on afterwards."""


def print_answer(answer: Answer, settings: Settings) -> None:
    """Print to stdout."""
    if settings.json:
        error = None
        if answer.exit_code:
            error = {"class": None, "message": answer.problem or answer.summary, "exit_code": answer.exit_code}
        _print_object(settings, ok=not answer.exit_code, summary=answer.summary, result=answer.result, error=error)
        return
    parts = [part for part in (answer.details, answer.summary) if part]
    write(sys.stdout, settings.shown("\n".join(parts)))


def print_failure(failure: Failure, settings: Settings) -> None:
    """Say on stderr, and in JSON on stdout too, why a command did not come to its end."""
    name = " ".join(["dsync", *settings.command.split()])
    if failure.is_help:
        write(sys.stderr, failure.message)
    else:
        write(sys.stderr, settings.shown(f"{name}: {failure.headline}"))
    if settings.verbosity and failure.traceback:
        write(sys.stderr, settings.shown(failure.traceback))
    if settings.json:
        error = {"class": failure.kind, "message": failure.message, "exit_code": failure.exit_code, **failure.more}
        _print_object(settings, ok=False, summary=failure.message, result=None, error=error)


def _print_object(
    settings: Settings, *, ok: bool, summary: str, result: Mapping[str, Any] | None, error: Mapping[str, Any] | None
) -> None:
    said = settings.shown_values({"summary": summary, "result": result, "error": error})
    made = {"command": settings.command, "ok": ok, **said}
    # Escapes are JSON's own where the terminal's encoding lacks a character.
    is_utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    write(sys.stdout, json.dumps(made, ensure_ascii=not is_utf8, default=str))


def write(stream: TextIO, text: str) -> None:
    """A line or more; a reader that has gone away (`dsync flows | head`) is no error."""
    try:
        stream.write(text + "\n")
        stream.flush()
    except BrokenPipeError:
        _silence(stream)
    except UnicodeEncodeError:
        encoding = stream.encoding or "ascii"
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
        stream.flush()


def _silence(stream: TextIO) -> None:
    """Let what is still buffered go nowhere, or the interpreter would complain about it at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
