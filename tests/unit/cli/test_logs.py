"""Log lines have a form for people and one for machines, and a secret in neither."""

import asyncio
import json
import logging

import pytest
import stamina.instrumentation
import structlog

from dsync.app.log_context import logging_run
from dsync.cli.logs import configure_logging, progress_logger
from dsync.cli.settings import Settings

CANARY = "canary-9b1e"


@pytest.fixture(autouse=True)
def _restored() -> object:
    """Other tests log as they did."""
    handlers, level = list(logging.root.handlers), logging.root.level
    yield None
    structlog.reset_defaults()
    logging.root.handlers[:], logging.root.level = handlers, level


def _settings(**changes: object) -> Settings:
    settings = Settings(verbosity=1)
    for name, value in changes.items():
        setattr(settings, name, value)
    settings.hide([CANARY])
    return settings


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_no_secret_leaves_through_a_log_line(log_format: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Wherever in the line it stands: in a value, a list, an object, an exception, a library's own message."""
    configure_logging(_settings(log_format=log_format))
    log = structlog.get_logger("test")

    class Thing:
        def __repr__(self) -> str:
            return f"Thing({CANARY})"

    structlog.contextvars.bind_contextvars(flow=CANARY)
    log.info(f"event {CANARY}", value=CANARY, nested={"a": [CANARY]}, thing=Thing())
    try:
        raise ValueError(CANARY)
    except ValueError:
        log.exception("it_failed")
    logging.getLogger("library").error("connecting with %s", CANARY)
    structlog.contextvars.clear_contextvars()

    printed = capsys.readouterr()
    assert printed.out == ""
    assert CANARY not in printed.err
    assert printed.err.count("***") >= 7
    assert "ValueError" in printed.err


def test_json_lines_are_one_object_each(capsys: pytest.CaptureFixture[str]) -> None:
    """With the name of the event, the level and a time that sorts."""
    configure_logging(_settings(log_format="json"))
    structlog.get_logger("test").warning("page_refused", namespace="shop.a", rows=3)

    (line,) = capsys.readouterr().err.splitlines()
    found = json.loads(line)
    assert (found["event"], found["level"], found["namespace"], found["rows"]) == (
        "page_refused",
        "warning",
        "shop.a",
        3,
    )
    assert found["timestamp"].endswith("Z")


async def test_every_line_of_a_run_names_it(capsys: pytest.CaptureFixture[str]) -> None:
    """Also those of tasks that began before it was known: what plug-ins log is read by such."""
    configure_logging(_settings(log_format="json"))
    log = structlog.get_logger("test")
    is_known = asyncio.Event()

    async def forward() -> None:
        await is_known.wait()
        log.warning("plugin_printed", run="its own")

    with logging_run() as context:
        log.warning("too_early")
        task = asyncio.create_task(forward())
        context.flow, context.run = "f1", "r1"
        log.warning("page_refused")
        progress_logger(_settings(log_format="json")).warning("rows_copied")
        is_known.set()
        await task
    log.warning("too_late")
    found = {line["event"]: (line.get("flow"), line.get("run")) for line in map(json.loads, _lines(capsys))}
    assert found == {
        "too_early": (None, None),
        "page_refused": ("f1", "r1"),
        "rows_copied": ("f1", "r1"),
        "plugin_printed": ("f1", "its own"),
        "too_late": (None, None),
    }


def _lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


@pytest.mark.parametrize(
    ("settings", "library", "progress"),
    [
        (Settings(), ["warning"], ["info", "warning"]),
        (Settings(is_quiet=True), ["warning"], ["warning"]),
        (Settings(verbosity=1), ["info", "warning"], ["debug", "info", "warning"]),
        (Settings(verbosity=2), ["debug", "info", "warning"], ["debug", "info", "warning"]),
    ],
)
def test_how_much_is_logged(
    settings: Settings, library: list[str], progress: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """What parts of dsync log is for -v; progress lines are for everybody who did not ask for quiet."""
    settings.log_format = "json"
    configure_logging(settings)
    for log, expected in ((structlog.get_logger("part"), library), (progress_logger(settings), progress)):
        for level in ("debug", "info", "warning"):
            getattr(log, level)("something_happened")
        levels = [json.loads(line)["level"] for line in capsys.readouterr().err.splitlines()]
        assert levels == expected


def test_a_retry_is_told_once() -> None:
    """By the coordinator's event; stamina's own hooks are off."""
    configure_logging(Settings())
    assert stamina.instrumentation.get_on_retry_hooks() == ()
