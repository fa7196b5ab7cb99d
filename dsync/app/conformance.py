"""`dsync conformance`: a connector, ours or anybody's, examined by the checks of the kit."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dsync.conformance import CheckResult, ExamineOptions, Report, examine
from dsync.conformance.examine import require_known
from dsync.plugins.manager import OpenOptions, open_endpoint
from dsync.plugins.registry import Registry
from dsync.plugins.runtime import page_store, runtime_directory
from dsync.protocol.channel import Deadlines, Target
from dsync.protocol.client import RemoteConnector
from dsync.protocol.interface import Connector

_ADDRESS = re.compile(r"(\[[0-9a-fA-F:]+\]|[A-Za-z0-9.-]+):\d+\Z")
_SOCKET = "unix:"
_CALL_S = 30.0
_PAGES_NEED_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ConformanceRequest:
    """What is examined, and what that may touch."""

    endpoint: str
    """A URI, `HOST:PORT` or `unix:PATH`."""
    namespaces: tuple[str, ...] = ()
    scratch: str = ""
    reader: str = ""
    """Reads the scratch namespace back, where the sink cannot."""
    only: tuple[str, ...] = ()
    wait_s: float = ExamineOptions().wait_s
    attach: Literal["process", "inline"] = "process"
    allow_plaintext: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """A report, and of whom."""

    display: str
    """The endpoint without secrets."""
    report: Report


async def conformance(request: ConformanceRequest, on_result: Callable[[CheckResult], None]) -> Examined:
    """Examine a connector, which is started where nobody runs it yet.

    Raises:
        RequestError: the endpoint is none, or a check is named that there is not.
        DsyncError: it cannot be started or reached, or does not say who it is.
    """
    require_known(frozenset(request.only))
    async with AsyncExitStack() as stack:
        runtime = stack.enter_context(runtime_directory())
        pages = stack.enter_context(page_store(runtime, need_bytes=_PAGES_NEED_BYTES))
        connector, display = await stack.enter_async_context(_open(request.endpoint, request, runtime))
        reader = None
        if request.reader:
            reader, _ = await stack.enter_async_context(_open(request.reader, request, runtime, label="reader"))
        options = ExamineOptions(
            namespaces=request.namespaces,
            scratch=request.scratch,
            reader=reader,
            pages=pages,
            only=frozenset(request.only),
            wait_s=request.wait_s,
        )
        return Examined(display=display, report=await examine(connector, options, on_result=on_result))


@asynccontextmanager
async def _open(
    reference: str, request: ConformanceRequest, runtime: Path, *, label: str = ""
) -> AsyncIterator[tuple[Connector, str]]:
    deadlines = Deadlines(data_s=_CALL_S, work_s=_CALL_S)
    if reference.startswith(_SOCKET):
        remote = RemoteConnector(Target(address=reference, name=reference), deadlines=deadlines)
        try:
            yield remote, reference
        finally:
            await remote.close()
        return
    endpoint = open_endpoint(
        f"grpc://{reference}" if _ADDRESS.match(reference) else reference,
        registry=Registry.installed(),
        runtime=runtime,
        label=label,
        settings=OpenOptions(
            attach=request.attach, allow_plaintext=request.allow_plaintext, deadlines=deadlines, log_level=30
        ),
    )
    async with endpoint as opened:
        yield opened.connector, opened.display
