"""Log lines on stderr: for people or as JSON, each with its flow and namespace, none with a secret."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Callable, MutableMapping
from typing import Any

from dsync.app.log_context import name_run
from dsync.cli.settings import Settings
from dsync.quick_start import structlog_without_rich

_NUMBERS = logging.getLevelNamesMapping()


def configure_logging(settings: Settings) -> None:
    """Set structlog up, and let what libraries log through `logging` come out the same way."""
    structlog = structlog_without_rich()
    structlog.configure(
        processors=_processors(settings, _library_level(settings)),
        wrapper_class=structlog.make_filtering_bound_logger(_least(settings, _library_level(settings))),
        logger_factory=_StderrLogger,
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(handlers=[_ToStructlog()], level=logging.WARNING, force=True)
    # The coordinator emits an event for every repeat, which progress shows; stamina would say each one again.
    importlib.import_module("stamina.instrumentation").set_on_retry_hooks([])


def progress_logger(settings: Settings, *, to_stderr: bool = True) -> Any:
    """A logger for the lines that stand in for a progress bar: shown unless -q was given, or only kept."""
    structlog = structlog_without_rich()
    level = logging.WARNING if settings.is_quiet else logging.DEBUG if settings.verbosity else logging.INFO
    shown = level if to_stderr else logging.CRITICAL + 1
    return structlog.wrap_logger(
        _StderrLogger(),
        processors=_processors(settings, shown),
        wrapper_class=structlog.make_filtering_bound_logger(_least(settings, shown)),
    )


def _least(settings: Settings, shown: int) -> int:
    """What is worth a line somewhere: the log file gets what happened whatever is shown."""
    if settings.log is None:
        return shown
    return min(shown, logging.DEBUG if settings.verbosity else logging.INFO)


def _library_level(settings: Settings) -> int:
    if settings.is_quiet or not settings.verbosity:
        return logging.WARNING
    return logging.INFO if settings.verbosity == 1 else logging.DEBUG


def _processors(settings: Settings, shown: int) -> list[Any]:
    structlog = structlog_without_rich()

    def redact(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        return {key: settings.shown_values(_plain(value)) for key, value in event.items()}

    def keep(_logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        if settings.log is not None:
            fields = {key: value for key, value in event.items() if key not in ("event", "level")}
            settings.log.write(str(event.get("level", method)), str(event.get("event", "")), fields)
        if _NUMBERS.get(method.upper(), logging.INFO) < shown:
            raise structlog.DropEvent
        return event

    is_json = settings.log_format == "json"
    renderer = (
        structlog.processors.JSONRenderer(default=str, ensure_ascii=False)
        if is_json
        # Plain tracebacks: the pretty ones print local variables, in which there are records and passwords.
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(),
            exception_formatter=structlog.dev.plain_traceback,
            pad_event_to=0,
            sort_keys=False,
        )
    )
    return [
        structlog.contextvars.merge_contextvars,
        name_run,
        structlog.processors.add_log_level,
        structlog.processors.format_exc_info,
        redact,
        keep,
        structlog.processors.TimeStamper(fmt="iso" if is_json else "%H:%M:%S", utc=is_json),
        renderer,
    ]


def _plain(value: Any) -> Any:
    """An object's text: its repr in a log line could hold a secret."""
    return value if value is None or isinstance(value, (str, bool, int, float, dict, list, tuple)) else str(value)


class _StderrLogger:
    """Writes to whatever stderr is at that moment: a progress bar puts itself in between."""

    def __init__(self, *_: Any) -> None:
        pass

    def msg(self, message: str) -> None:
        try:
            sys.stderr.write(message + "\n")
            sys.stderr.flush()
        except OSError:
            # The terminal is gone; the command goes on without it.
            return

    debug = info = warning = error = critical = fatal = exception = log = failure = msg


class _ToStructlog(logging.Handler):
    """What libraries log, as a line of ours."""

    def emit(self, record: logging.LogRecord) -> None:
        structlog = structlog_without_rich()
        log: Callable[..., Any] = structlog.get_logger(record.name).log
        log(record.levelno, "library_logged", library=record.name, text=record.getMessage(), exc_info=record.exc_info)
