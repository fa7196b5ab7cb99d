"""The entry point: hides secrets, runs one command, prints its answer and gives the exit code."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType

from dsync.cli.title import hide_secrets
from dsync.quick_start import begin_exit, begin_imports


def main() -> None:
    """Run `dsync` with the arguments of this process."""
    arguments = sys.argv[1:]
    # Before anything slow is imported: until then everybody on this machine can read the command line.
    secrets = hide_secrets(arguments)
    # Until errors can be reported a signal ends us without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    begin_imports()
    try:
        sys.exit(execute(arguments, secrets, on_ready=_heed_signals))
    finally:
        begin_exit()


def _heed_signals() -> None:
    """A signal that comes before a command has its own ways to end becomes an answer like any other.

    Shells have the background jobs of scripts ignore interrupts; whoever sends one there all the same means us.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)


def _interrupt(number: int, _frame: FrameType | None) -> None:
    from dsync.cli.failures import InterruptedRunError

    raise InterruptedRunError(number, "nothing more was done")


def execute(
    arguments: Sequence[str], secrets: frozenset[str] = frozenset(), on_ready: Callable[[], None] = lambda: None
) -> int:
    """Run one command line and return its exit code. `on_ready` is called once errors are reported here."""
    from dsync.cli.answer import Answer, print_answer, print_failure
    from dsync.cli.failures import explain
    from dsync.cli.root import COMMANDS, dsync
    from dsync.cli.settings import Settings

    # Looked for by hand: the object is promised for a line that cannot be parsed, too.
    settings = Settings(json="--json" in _before_double_dash(arguments))
    try:
        on_ready()
        settings.hide(secrets)
        _refuse_windows()
        if "_DSYNC_COMPLETE" in os.environ:
            # A shell asks what to offer; click answers it, and ends this process.
            from dsync.cli.shells import register

            register()
        outcome = dsync.main(args=list(arguments), prog_name="dsync", standalone_mode=False, obj=settings)
        if isinstance(outcome, Answer) and not outcome.is_printed:
            print_answer(outcome, settings)
    except SystemExit:
        raise
    # Whatever went wrong ends as a sentence and an exit code; -v has the traceback.
    except BaseException as error:  # noqa: BLE001
        failure = explain(error)
        settings.command = settings.command or next((word for word in arguments if word in COMMANDS), "")
        print_failure(failure, settings)
        more = {"traceback": failure.traceback} if settings.verbosity and failure.traceback else {}
        said = {"error": failure.kind, "message": failure.message, "exit_code": failure.exit_code}
        settings.record("error", "command_failed", **said, **more)
        return failure.exit_code
    if isinstance(outcome, Answer):
        settings.record("info", "command_ended", exit_code=outcome.exit_code, summary=outcome.summary)
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
