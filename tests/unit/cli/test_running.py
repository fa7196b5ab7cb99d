"""The first signal drains, the second stops at once; both leave a run that goes on."""

import asyncio
import json
import os
import signal
import subprocess
import sys

import pytest

from dsync.cli.failures import InterruptedRunError
from dsync.cli.running import run
from dsync.cli.settings import Settings
from dsync.coordinator.tasks import StoppedError


def _send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_drains(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Pages in flight are finished; the exit code says which signal it was."""
    finished: list[str] = []

    async def copy(stopping: asyncio.Event) -> None:
        _send(number)
        await stopping.wait()
        finished.append("the page in flight")
        raise StoppedError

    with pytest.raises(InterruptedRunError) as ended:
        run(Settings(), copy, drains=True, afterwards="it goes on")

    assert finished == ["the page in flight"]
    assert ended.value.number == number
    assert str(ended.value) == "it goes on"
    assert "a second Ctrl-C stops at once" in capsys.readouterr().err


def test_the_second_signal_stops_at_once() -> None:
    """Also a page that never ends; what cleans up still runs."""
    cleaned: list[bool] = []

    async def copy(stopping: asyncio.Event) -> None:
        try:
            _send(signal.SIGINT)
            await stopping.wait()
            _send(signal.SIGTERM)
            await asyncio.Event().wait()
        finally:
            cleaned.append(True)

    with pytest.raises(InterruptedRunError) as ended:
        run(Settings(), copy, drains=True)
    assert ended.value.number == signal.SIGINT
    assert cleaned == [True]


def test_draining_takes_no_longer_than_a_supervisor_waits() -> None:
    """Then it is stopped at once, before somebody kills it."""

    async def copy(_: asyncio.Event) -> None:
        _send(signal.SIGTERM)
        await asyncio.Event().wait()

    with pytest.raises(InterruptedRunError) as ended:
        run(Settings(), copy, drains=True, drain_s=0.05)
    assert ended.value.number == signal.SIGTERM


def test_what_has_nothing_to_drain_stops_with_the_first_signal() -> None:
    """As `plan` and `verify` do."""

    async def look(_: asyncio.Event) -> None:
        _send(signal.SIGINT)
        await asyncio.Event().wait()

    with pytest.raises(InterruptedRunError):
        run(Settings(), look)


def test_a_run_that_ends_although_it_was_asked_to_stop_has_ended_well() -> None:
    """The signal came too late to interrupt anything."""

    async def copy(stopping: asyncio.Event) -> str:
        _send(signal.SIGINT)
        await stopping.wait()
        return "done"

    assert run(Settings(), copy, drains=True) == "done"


def test_an_error_while_draining_is_reported_as_itself() -> None:
    """The worst wins: an error that a repeat would meet again is no mere interruption."""

    async def copy(stopping: asyncio.Event) -> None:
        _send(signal.SIGINT)
        await stopping.wait()
        raise LookupError

    with pytest.raises(LookupError):
        run(Settings(), copy, drains=True)


def test_a_cancellation_of_our_own_is_no_interruption() -> None:
    """A lost lease cancels the run; that has its own error."""

    async def cancel(_: asyncio.Event) -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        run(Settings(), cancel)


@pytest.mark.parametrize("ignored", [True, False])
def test_a_hang_up_is_ignored_under_nohup(ignored: bool) -> None:
    """Then the terminal may close; handlers are afterwards as they were."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)

    async def look(stopping: asyncio.Event) -> bool:
        if ignored:
            _send(signal.SIGHUP)
            await asyncio.sleep(0)
        return stopping.is_set()

    try:
        assert run(Settings(), look, drains=True) is False
        assert signal.getsignal(signal.SIGHUP) is (signal.SIG_IGN if ignored else signal.SIG_DFL)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_an_interrupt_counts_in_the_background_of_a_script() -> None:
    """Where shells set it to be ignored: a script that sends it on purpose must be able to stop a copy."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)

    async def look(stopping: asyncio.Event) -> bool:
        _send(signal.SIGINT)
        await stopping.wait()
        return True

    try:
        assert run(Settings(), look, drains=True) is True
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_process_exits_with_the_signal_s_code(number: int, exit_code: int) -> None:
    """As a shell expects, with a sentence on stderr and, where asked for, an object."""
    program = (
        "import asyncio, sys\n"
        "from dsync.cli import options\n"
        "from dsync.app import plan\n"
        "async def wait(request):\n"
        "    print('waiting', file=sys.stderr, flush=True)\n"
        "    await asyncio.Event().wait()\n"
        "plan.plan = wait\n"
        "from dsync.cli.main import execute\n"
        "sys.exit(execute(['plan', 'random://', 'null://', '--json']))"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stderr is not None
        assert child.stderr.readline() == b"waiting\n"
        child.send_signal(number)
        out, err = child.communicate(timeout=30)

    assert child.returncode == exit_code
    assert err == b"dsync plan: stopped: nothing was changed\n"
    assert out.count(b"\n") == 1
    assert signal.Signals(number).name.encode() in out


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_before_anything_runs_is_answered_too(number: signal.Signals, exit_code: int) -> None:
    """With the code and the object, also where a script's shell has set interrupts to be ignored."""
    program = (
        "import os, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "from dsync.app import status\n"
        f"status.list_flows = lambda state: os.kill(os.getpid(), {int(number)})\n"
        "from dsync.cli.main import main\n"
        "sys.argv = ['dsync', 'flows', '--json']\n"
        "main()"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert ended.returncode == exit_code, ended.stderr
    assert json.loads(ended.stdout)["error"]["class"] == number.name
    assert ended.stderr == "dsync flows: stopped: nothing more was done\n"
