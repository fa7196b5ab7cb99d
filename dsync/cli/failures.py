"""The one place where an error becomes an exit code and a sentence."""

from __future__ import annotations

import signal
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import click

_PACKAGE = Path(__file__).resolve().parent.parent


class UnsupportedPlatformError(Exception):
    """This operating system is not one that dsync runs on."""


class InterruptedRunError(Exception):
    """A signal ended the command; what it had done stays, and the same command goes on."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.number = number


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An error as it is reported."""

    exit_code: int
    kind: str
    """The class of the error, for scripts."""
    message: str
    is_help: bool = False
    """The message is a help text."""
    prefix: str = "error"
    traceback: str = field(default="", repr=False)
    """For -v."""
    more: Mapping[str, Any] = field(default_factory=dict)
    """What else the error says, for JSON."""

    @property
    def headline(self) -> str:
        return f"{self.prefix}: {self.message}"


def explain(error: BaseException) -> Failure:
    """The exit code (2 the request, 3 the environment, 130 and 143 interrupted, 1 our fault …) and what to print."""
    if isinstance(error, BaseExceptionGroup):
        from dsync.coordinator.tasks import worst

        error = worst(error)
    if isinstance(error, click.ClickException):
        return _usage(error)
    if isinstance(error, InterruptedRunError):
        return Failure(
            exit_code=128 + error.number, kind=signal.Signals(error.number).name, message=str(error), prefix="stopped"
        )
    if _is_cancelled(error):
        return Failure(exit_code=143, kind=type(error).__name__, message=str(error), prefix="stopped")
    if isinstance(error, (click.Abort, KeyboardInterrupt)):
        return Failure(exit_code=130, kind="SIGINT", message="nothing more was done", prefix="stopped")
    if isinstance(error, UnsupportedPlatformError):
        return Failure(exit_code=3, kind=type(error).__name__, message=str(error))
    return _ours(error) or _unexpected(error)


def _usage(error: click.ClickException) -> Failure:
    is_help = isinstance(error, click.exceptions.NoArgsIsHelpError)
    message = error.format_message()
    if isinstance(error, click.UsageError) and error.ctx is not None and not is_help:
        message = f"{message.rstrip('.')} (see {error.ctx.command_path} --help)"
    return Failure(exit_code=2, kind="UsageError", message=message, is_help=is_help)


def _is_cancelled(error: BaseException) -> bool:
    """Another command has ended this one, as SIGTERM would have."""
    control = sys.modules.get("dsync.coordinator.control")
    return control is not None and isinstance(error, control.RunCancelledError)


def _ours(error: BaseException) -> Failure | None:
    """A DsyncError; None for anything else."""
    # Where no module of ours has been imported none of our errors can have been raised.
    errors = sys.modules.get("dsync.protocol.errors")
    if errors is None or not isinstance(error, errors.DsyncError):
        return None
    return Failure(
        exit_code=error.exit_code,
        kind=type(error).__name__,
        message=str(error),
        traceback="".join(traceback.format_exception(error)),
        more=_findings(error),
    )


def _findings(error: BaseException) -> dict[str, Any]:
    findings = getattr(error, "findings", ())
    if not findings:
        return {}
    from dsync.cli.findings import finding_json

    return {"findings": [finding_json(finding) for finding in findings]}


def _unexpected(error: BaseException) -> Failure:
    """A bug. Its own text is for -v alone: it may quote what it could not deal with."""
    return Failure(
        exit_code=1,
        kind=type(error).__name__,
        message=f"a bug in dsync: {type(error).__name__} in {_where(error.__traceback__)}; everything acknowledged so"
        " far is durable. Run it again with -v for the traceback, and report it",
        prefix="internal error",
        traceback="".join(traceback.format_exception(error)),
    )


def _where(trace: TracebackType | None) -> str:
    """The innermost place in our own code."""
    place = "the interpreter"
    for frame, line in traceback.walk_tb(trace):
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(_PACKAGE):
            place = f"dsync/{path.relative_to(_PACKAGE).as_posix()}:{line}"
    return place
