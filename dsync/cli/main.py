"""The entry point: hides secrets, runs one command, prints its answer and gives the exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from dsync.cli.title import hide_secrets


def main() -> None:
    """Run `dsync` with the arguments of this process."""
    arguments = sys.argv[1:]
    # Before anything slow is imported: until then everybody on this machine can read the command line.
    sys.exit(execute(arguments, hide_secrets(arguments)))


def execute(arguments: Sequence[str], secrets: frozenset[str] = frozenset()) -> int:
    """Run one command line and return its exit code."""
    from dsync.cli.answer import Answer, print_answer, print_failure
    from dsync.cli.failures import explain
    from dsync.cli.root import COMMANDS, dsync
    from dsync.cli.settings import Settings

    # Looked for by hand: the object is promised for a line that cannot be parsed, too.
    settings = Settings(json="--json" in _before_double_dash(arguments))
    settings.hide(secrets)
    try:
        _refuse_windows()
        outcome = dsync.main(args=list(arguments), prog_name="dsync", standalone_mode=False, obj=settings)
    except SystemExit:
        raise
    # Whatever went wrong ends as a sentence and an exit code; -v has the traceback.
    except BaseException as error:  # noqa: BLE001
        failure = explain(error)
        settings.command = settings.command or next((word for word in arguments if word in COMMANDS), "")
        print_failure(failure, settings)
        return failure.exit_code
    if isinstance(outcome, Answer):
        if not outcome.is_printed:
            print_answer(outcome, settings)
        return outcome.exit_code
    return outcome if isinstance(outcome, int) else 0


def _before_double_dash(arguments: Sequence[str]) -> Sequence[str]:
    return arguments[: arguments.index("--")] if "--" in arguments else arguments


def _refuse_windows() -> None:
    if _is_windows():
        from dsync.cli.failures import UnsupportedPlatformError

        raise UnsupportedPlatformError(
            "dsync runs on Linux and macOS. On Windows use WSL: `wsl --install`, then install dsync inside of it"
        )


def _is_windows() -> bool:
    return os.name == "nt"
