"""One end alone: for commands that look at a source without a sink, or at a sink without a source."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal

from dsync.app.ends import open_connector
from dsync.app.requests import EndsRequest
from dsync.coordinator.ends import End
from dsync.plugins.runtime import runtime_directory
from dsync.protocol.types import Role


@dataclass(frozen=True, slots=True, kw_only=True)
class OneEnd:
    end: End
    display: str
    """The reference without secrets."""


@asynccontextmanager
async def meet_one(
    reference: str, role: Role, *, attach: Literal["process", "inline"] = "process", allow_plaintext: bool = False
) -> AsyncIterator[OneEnd]:
    """Start or reach one connector and ask who it is; it ends with the block.

    Raises:
        DsyncError: as `meet` does for two.
    """
    request = EndsRequest(source=reference, sink=reference, attach=attach, allow_plaintext=allow_plaintext)
    with runtime_directory() as runtime:
        async with open_connector(reference, role, request, runtime=runtime) as (end, opened):
            yield OneEnd(end=end, display=opened.display)
