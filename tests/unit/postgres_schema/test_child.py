"""A tool's output is bounded, its complaints are kept short, and nothing of it stays when we are done."""

from __future__ import annotations

import asyncio
import os
import sys

import psutil
import pytest
from dsync_postgres.schema.child import run_child

from dsync.sdk import errors
from tests.support.waiting import wait_for_async


async def _run(program: str, *, most_bytes: int = 1000) -> object:
    return await run_child([sys.executable, "-c", program], environment=dict(os.environ), most_bytes=most_bytes)


async def test_output_exit_code_and_the_end_of_the_complaints_come_back() -> None:
    result = await run_child(
        [sys.executable, "-c", "import sys; print('out'); sys.stderr.write('x' * 99999 + 'end'); sys.exit(3)"],
        environment=dict(os.environ),
        most_bytes=1000,
    )

    assert (result.exit_code, result.output) == (3, b"out\n")
    assert result.complaints.endswith("xend")
    assert len(result.complaints) == 16 * 1024


async def test_more_than_it_may_write_ends_it() -> None:
    with pytest.raises(errors.CapacityError, match="more than 1000 bytes"):
        await _run("import sys\nwhile True: sys.stdout.write('x' * 1000)")

    assert not _children()


async def test_cancelling_ends_the_whole_group() -> None:
    """Also what the tool has started itself, and also if it ignores the polite request."""
    program = (
        "import signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "time.sleep(600)"
    )
    task = asyncio.create_task(_run(program))
    await wait_for_async(lambda: len(_children()) == 2, what="the tool and its child")

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    await wait_for_async(lambda: not _children(), what="both are gone")


async def test_a_program_that_does_not_exist_is_not_taken_for_an_answer() -> None:
    result = await run_child(["/no/such/program"], environment=dict(os.environ), most_bytes=10)

    assert result.exit_code != 0
    assert result.output == b""


def _children() -> list[psutil.Process]:
    return [
        child
        for child in psutil.Process().children(recursive=True)
        if child.status() != psutil.STATUS_ZOMBIE and "time.sleep(600)" in " ".join(child.cmdline())
    ]
