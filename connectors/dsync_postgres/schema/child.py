"""A child process that writes to a pipe, and that ends with its caller however that ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dsync.sdk import errors

_CHUNK_BYTES = 1 << 20
_STDERR_BYTES = 16 * 1024
_GRACE_S = 2.0

# Runs between fork and exec of the real program, in an interpreter of its own: a preexec_fn would run Python in a
# fork of a process with gRPC's threads, where a lock may be held for ever. SIGTERM and not SIGKILL, because on it
# pg_dump asks the server to cancel what it is doing. The parent may already be gone when prctl is called.
_LAUNCHER = """
import ctypes, os, signal, sys
PR_SET_PDEATHSIG = 1
ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildResult:
    """How a child process ended."""

    exit_code: int
    """Negative: the signal that ended it."""
    output: bytes = field(repr=False)
    complaints: str = field(repr=False)
    """The end of what it wrote to stderr; may quote anything, so it is filtered before anybody sees it."""


async def run_child(argv: Sequence[str], *, environment: Mapping[str, str], most_bytes: int) -> ChildResult:
    """Run a program in a process group of its own and return what it wrote.

    The child gets SIGTERM when the calling thread's process ends (Linux), and is ended with its whole group when
    the call is cancelled; elsewhere the broken pipe ends it.

    Raises:
        CapacityError: it wrote more than `most_bytes`.
    """
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.subprocess_exec(
        lambda: asyncio.subprocess.SubprocessStreamProtocol(limit=_CHUNK_BYTES, loop=loop),
        *_tied_to_us(argv),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=dict(environment),
        start_new_session=True,
    )
    process = asyncio.subprocess.Process(transport, protocol, loop)
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        async with asyncio.TaskGroup() as group:
            output = group.create_task(_read(process.stdout, most_bytes, argv[0]))
            complaints = group.create_task(_read_end(process.stderr))
        code = await process.wait()
    except BaseExceptionGroup as failures:
        # Only one of the two readers can fail on its own, and its error is what the caller can act on.
        raise failures.exceptions[0] from None
    finally:
        await asyncio.shield(_end(process))
        # What was not read to its end keeps its pipe, also when the process is gone.
        transport.close()
    return ChildResult(exit_code=code, output=output.result(), complaints=complaints.result())


def _tied_to_us(argv: Sequence[str]) -> list[str]:
    if sys.platform != "linux" or not sys.executable:
        return list(argv)
    return [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), *argv]


async def _read(stream: asyncio.StreamReader, most_bytes: int, program: str) -> bytes:
    pieces = bytearray()
    while piece := await stream.read(_CHUNK_BYTES):
        pieces += piece
        if len(pieces) > most_bytes:
            raise errors.CapacityError(
                f"{os.path.basename(program)} wrote more than {most_bytes} bytes; copy fewer tables at a time (-n)"
            )
    return bytes(pieces)


async def _read_end(stream: asyncio.StreamReader) -> str:
    pieces = bytearray()
    while piece := await stream.read(_CHUNK_BYTES):
        pieces += piece
        del pieces[:-_STDERR_BYTES]
    return pieces.decode("utf-8", "replace")


async def _end(process: asyncio.subprocess.Process) -> None:
    """End what is left of the group: politely first, so that pg_dump can cancel its statement at the server."""
    if process.returncode is not None:
        return
    _signal_group(process.pid, signal.SIGTERM)
    try:
        async with asyncio.timeout(_GRACE_S):
            await process.wait()
    except TimeoutError:
        _signal_group(process.pid, signal.SIGKILL)
        await process.wait()


def _signal_group(pid: int, number: signal.Signals) -> None:
    # Gone between the look and the signal: what was wanted.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)
