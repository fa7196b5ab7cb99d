"""One end alone: for commands that look at a source without a sink, or at a sink without a source."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal

from dsync.coordinator.ends import End
from dsync.plugins.manager import OpenOptions, open_endpoint
from dsync.plugins.registry import Registry
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
    """Start or reach one connector and ask who it is; it is left when the block is.

    Raises:
        DsyncError: as `open_endpoint`, and what the first contact with its server gives.
    """
    registry = Registry.installed()
    settings = OpenOptions(attach=attach, allow_plaintext=allow_plaintext)
    with runtime_directory() as runtime:
        async with open_endpoint(
            reference, registry=registry, runtime=runtime, label=role.name.lower(), settings=settings
        ) as opened:
            yield OneEnd(end=await End.meet(opened.connector, role), display=opened.display)
