"""What a plug-in's process does: take its job, serve its connector, end with its owner.

Standard input brings one line of JSON, the job (secrets reach a process this way and never through its arguments),
and stays open: its end, which the kernel brings about however the owner dies, is the order to stop. Standard output
takes one line, the answer, once calls are served; standard error takes log lines.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import importlib
import json
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import structlog

from dsync.plugins.hosting import Hosted, host_connector
from dsync.plugins.registry import load_spec
from dsync.protocol.errors import DsyncError
from dsync.protocol.errors_wire import class_names
from dsync.quick_start import end_imports
from dsync.sdk import allocator
from dsync.sdk.redaction import Redactor
from dsync.sdk.serve import ServeOptions, serving

_PR_SET_PDEATHSIG = 1
# An owner that is gone waits for nothing: calls in flight end at once, and connections get this long to be closed.
_CLOSE_S = 5.0
_LAST_RESORT_S = 8.0

_log = structlog.get_logger("dsync.plugins.child")


def main() -> int:
    """Serve the job's connector until told to stop; 0 then, 1 where it could not be started."""
    allocator.tune()
    # Every connector needs it, and the job may be a while in coming.
    importlib.import_module("dsync.sdk.options")
    with _standard_streams() as (orders, answers):
        line = orders.readline()
        if not line:
            # Started ahead, and nobody had a use for it.
            return 0
        job = json.loads(line)
        if not _dies_with(job["owner_pid"]):
            return 1
        redactor = Redactor()
        _configure_logging(redactor, job["log_level"])
        os.umask(0o077)
        try:
            hosted = host_connector(
                load_spec(job["spec"]),
                job["reference"],
                options=job["options"],
                private_directory=Path(job["private_directory"]),
                application_name=job["application_name"],
            )
        except DsyncError as exc:
            _answer(answers, error=[class_names(exc), str(exc)])
            return 1
        # Whatever a connector's module raises is to reach the owner as a sentence, without the exception's text.
        except Exception as exc:  # noqa: BLE001
            _answer(answers, error=[["PluginBugError"], f"starting the connector raised {type(exc).__qualname__}"])
            return 1
        redactor.add(hosted.secrets)
        end_imports()
        asyncio.run(_serve(hosted, job, orders, answers))
    _end_group()
    return 0


def _end_group() -> None:
    """End what the connector has started and not ended; nobody else does where our owner is gone. Ends us too."""
    sys.stderr.flush()
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)


def _end_at_once() -> None:
    _end_group()
    os._exit(1)


async def _serve(hosted: Hosted, job: dict[str, Any], orders: IO[bytes], answers: IO[bytes]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_log_loop_error)
    # Ctrl-C reaches the whole terminal; what it means is the coordinator's decision.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    threading.Thread(target=_await_owner, args=(orders, loop, stop), name="owner", daemon=True).start()

    options = ServeOptions(
        address=f"unix:{job['socket']}", max_message_bytes=job["max_message_bytes"], grace_s=job["grace_s"]
    )
    try:
        async with serving(hosted.connector, options):
            _answer(answers, ready=os.getpid())
            await stop.wait()
    finally:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                await hosted.connector.close()


@contextmanager
def _standard_streams() -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """Take stdin and stdout for the owner's pipes: nothing else may read the one or print into the other."""
    orders = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    with answers:
        yield orders, answers
        # `orders` stays open: the thread that waits on it would be disturbed, and the process ends anyway.


def _await_owner(orders: IO[bytes], loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    """Wait for the end of the owner's pipe, then stop; end the process by force where stopping takes too long."""
    while orders.read(4096):
        pass
    threading.Timer(_LAST_RESORT_S, _end_at_once).start()
    # The loop may have ended already, by a signal.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(stop.set)


def _dies_with(owner_pid: int) -> bool:
    """Ask the kernel for a signal at the owner's death, should the pipe fail us; False where it is dead already."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    return os.getppid() == owner_pid


def _answer(answers: IO[bytes], **answer: object) -> None:
    # An owner that is gone cannot be told; the end of its pipe says so in a moment.
    with contextlib.suppress(BrokenPipeError):
        answers.write(json.dumps(answer).encode() + b"\n")


def _configure_logging(redactor: Redactor, level: int) -> None:
    """One JSON object a line on standard error, with secrets replaced, for everything that is logged."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            redactor,
            structlog.processors.JSONRenderer(default=str),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(handlers=[_ToStructlog()], level=max(level, logging.WARNING), force=True)
    sys.excepthook = _log_exception


class _ToStructlog(logging.Handler):
    """Lines of libraries, without the text of exceptions: it may hold a record."""

    def emit(self, record: logging.LogRecord) -> None:
        kind = record.exc_info[0].__qualname__ if record.exc_info and record.exc_info[0] else None
        fields = {"logger": record.name, "message": record.getMessage()} | ({"error": kind} if kind else {})
        _log.log(record.levelno, "library_logged", **fields)


def _log_exception(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    frames = [f"{frame.filename}:{frame.lineno}:{frame.name}" for frame in traceback.extract_tb(trace)]
    _log.critical("plugin_crashed", error=kind.__qualname__, frames=frames[-8:])


def _log_loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    error = context.get("exception")
    _log.error("task_failed", message=context.get("message"), error=type(error).__qualname__ if error else None)
