"""`dsync quickstart` shows a copy between two servers of its own, and leaves nothing behind."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.integration.cli.running import DSYNC, Dsync, Running


@pytest.fixture
def scratch() -> Iterator[Path]:
    """Where temporary files go: a short path, because sockets have names in it, and open to the servers' user.

    Not pytest's own folder, which each test session closes to others.
    """
    with tempfile.TemporaryDirectory(prefix="dsync-test-") as folder:
        path = Path(folder)
        path.chmod(0o1777)
        yield path


def _offspring(running: Running) -> list[psutil.Process]:
    return psutil.Process(running.process.pid).children(recursive=True)


def _gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=20)
    assert alive == []


def test_it_copies_and_verifies_a_shop(dsync: Dsync, scratch: Path) -> None:
    """Tables, rows, bytes, rows/s, MB/s, the verdict, and what to try next."""
    ended = dsync("quickstart", "--rows", "2000", TMPDIR=str(scratch))

    assert ended.exit_code == 0, ended.stdout + ended.stderr
    made, copied, verified, *following = ended.stdout.splitlines()[-9:]
    assert made.startswith("made a shop of ")
    assert "rows/s, " in copied
    assert "MB/s" in copied
    tables = re.fullmatch(r"copied (\d+) tables, .*", copied)
    assert tables is not None
    assert verified.startswith(f"verify: {tables[1]} namespaces agree: ")
    assert any("dsync sync SOURCE SINK" in line for line in following)
    assert list(scratch.iterdir()) == []
    assert not dsync.state.exists()


def test_ctrl_c_removes_everything(dsync: Dsync, scratch: Path) -> None:
    """In the middle of it: servers, processes, files."""
    running = dsync.start("quickstart", "--rows", "300000", TMPDIR=str(scratch))
    running.wait_for("filling a shop")
    processes = _offspring(running)
    running.send(signal.SIGINT)
    ended = running.end()

    assert ended.exit_code == 130, ended.stderr
    assert processes
    _gone(processes)
    assert list(scratch.iterdir()) == []


def test_kept_servers_can_be_looked_at_until_ctrl_c(dsync: Dsync, scratch: Path) -> None:
    """By the URIs it prints, with a password file, since it prints no password."""
    running = dsync.start("quickstart", "--rows", "2000", "--keep", "--json", TMPDIR=str(scratch))
    running.wait_for('"passfile"')
    processes = _offspring(running)
    (line,) = [line for line in running.printed.splitlines() if '"passfile"' in line]
    result = json.loads(line)["result"]
    counted = dsync("verify", result["source"], result["sink"], "--quick", "--json", PGPASSFILE=result["passfile"])
    running.send(signal.SIGINT)
    ended = running.end()

    assert counted.exit_code == 0, counted.stderr
    assert counted.result["source_rows"] == result["shop"]["rows"]
    assert ended.exit_code == 0
    assert ended.json["result"]["rows"] == result["rows"]
    _gone(processes)
    assert list(scratch.iterdir()) == []


def test_a_killed_quickstart_leaves_no_process(dsync: Dsync, scratch: Path) -> None:
    """Nobody had a chance to clean up, and nothing runs on."""
    running = dsync.start("quickstart", "--rows", "300000", TMPDIR=str(scratch))
    running.wait_for("filling a shop")
    processes = _offspring(running)
    running.send(signal.SIGKILL)
    running.end()

    assert processes
    _gone(processes)


def test_the_installed_command_answers() -> None:
    """`dsync --help` through the script that the installation made."""
    helped = subprocess.run([DSYNC, "--help"], capture_output=True, text=True, check=True)

    assert "quickstart" in helped.stdout
