"""`--log-file` keeps what happened: for its owner alone, without secrets, and wherever the file has been moved to."""

from __future__ import annotations

import json
import logging
import os
import stat
from pathlib import Path
from typing import Any

import pytest
import structlog

from dsync.cli.log_file import LogFile
from dsync.cli.logs import configure_logging, progress_logger
from dsync.cli.settings import Settings
from dsync.cli.showing import showing_progress
from dsync.coordinator.events import PhaseChanged
from tests.unit.cli.running import run_here

_CANARY = "canary-77d0"


@pytest.fixture(autouse=True)
def _restored() -> object:
    """Other tests log as they did."""
    handlers, level = list(logging.root.handlers), logging.root.level
    yield None
    structlog.reset_defaults()
    logging.root.handlers[:], logging.root.level = handlers, level


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "dsync.log"


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_it_begins_and_ends_with_the_command(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also where the command fails, and quiet or not; later commands add to it."""
    run_here(capsys, "flows", "--state", f"{path}.db", "--log-file", str(path), "-q")
    run_here(capsys, "--log-file", str(path), "status", "nosuch", "--state", f"{path}.db")
    started, ended, again, failed = _read(path)

    assert (started["event"], started["command"], started["level"]) == ("command_started", "flows", "info")
    assert (ended["event"], ended["exit_code"]) == ("command_ended", 0)
    assert again["command"] == "status"
    assert (failed["event"], failed["exit_code"], failed["error"]) == ("command_failed", 2, "FlowNotFoundError")
    assert all(line["timestamp"].endswith("Z") and line["pid"] == os.getpid() for line in _read(path))
    assert _mode(path) == 0o600


def test_what_others_could_read_is_closed_to_them(path: Path) -> None:
    """A file that was made with `touch` before."""
    path.touch()
    path.chmod(0o644)
    LogFile(str(path)).close()

    assert _mode(path) == 0o600


def test_a_file_that_was_moved_away_is_made_anew(path: Path) -> None:
    """As logrotate does it, without a signal: each line goes where the path leads at that moment."""
    log = LogFile(str(path))
    log.write("info", "first", {})
    path.rename(path.with_suffix(".1"))
    log.write("info", "second", {})
    path.unlink()
    log.write("info", "third", {})
    log.close()

    assert [line["event"] for line in _read(path.with_suffix(".1"))] == ["first"]
    assert [line["event"] for line in _read(path)] == ["third"]
    assert _mode(path) == 0o600


def test_several_processes_may_share_it(path: Path) -> None:
    """Lines of one are not written over by another's."""
    logs = [LogFile(str(path)), LogFile(str(path))]
    for number in range(20):
        logs[number % 2].write("info", f"line_{number}", {"text": "x" * 1000})
    for log in logs:
        log.close()

    assert [line["event"] for line in _read(path)] == [f"line_{number}" for number in range(20)]


def test_a_log_that_cannot_be_written_is_said_once_and_stops_nothing(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A copy of hours does not end because of its log."""
    folder = path.parent / "folder"
    folder.mkdir()
    log = LogFile(str(folder / "a.log"))
    (folder / "a.log").unlink()
    folder.rmdir()
    for _ in range(3):
        log.write("info", "lost", {})
    folder.mkdir()
    log.write("info", "kept", {})
    log.close()

    assert capsys.readouterr().err.count("dsync goes on without it") == 1
    assert [line["event"] for line in _read(folder / "a.log")] == ["kept"]


@pytest.mark.parametrize("place", ["{tmp}", "{tmp}/none/a.log"])
def test_a_place_where_no_log_can_be_is_a_wrong_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    """Before anything is contacted."""
    printed = run_here(capsys, "flows", "--log-file", place.format(tmp=tmp_path))

    assert printed.exit_code == 2
    assert "--log-file" in printed.stderr


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_no_secret_gets_into_it(path: Path, log_format: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever form the lines on the screen have."""
    settings = Settings(log_format=log_format, log=LogFile(str(path)))
    settings.hide([_CANARY])
    configure_logging(settings)
    try:
        raise ValueError(_CANARY)
    except ValueError:
        structlog.get_logger("part").exception(f"it_failed {_CANARY}", value=_CANARY, nested={"a": [_CANARY]})
    logging.getLogger("library").error("connecting with %s", _CANARY)
    settings.record("info", _CANARY, summary=_CANARY)

    assert _CANARY not in path.read_text() + capsys.readouterr().err
    assert len(_read(path)) == 3
    assert "ValueError" in path.read_text()


def test_it_has_what_a_quiet_screen_has_not(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Everything from info on; with -v also what is for developers."""
    for verbosity, kept in ((0, ["info", "warning"]), (1, ["debug", "info", "warning"])):
        settings = Settings(is_quiet=True, verbosity=verbosity, log=LogFile(str(path)))
        configure_logging(settings)
        for log in (structlog.get_logger("part"), progress_logger(settings)):
            path.write_text("")
            for level in ("debug", "info", "warning"):
                getattr(log, level)("something_happened")
            assert [line["level"] for line in _read(path)] == kept
            assert capsys.readouterr().err.count("something_happened") == 1


@pytest.mark.parametrize("choice", ["none", "json", "plain"])
def test_progress_is_kept_once_however_it_is_shown(path: Path, choice: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """A table on the screen leaves no lines, and the file is where they are looked for afterwards."""
    settings = Settings(log=LogFile(str(path)))
    with showing_progress(settings, choice) as emit:
        emit(PhaseChanged(phase="copying"))

    assert [(line["event"], line["phase"]) for line in _read(path)] == [("phase_changed", "copying")]
    assert ("phase_changed" in capsys.readouterr().err) is (choice == "plain")
