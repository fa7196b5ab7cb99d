"""Waiting until a sink has what its source had at a moment, whoever applies it: by a mark, and the sink's ledger."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from dsync.coordinator.following import Following
from dsync.coordinator.stream.lanes import kept_by_all, opened, unit_refs
from dsync.protocol.interface import Connector

_LOOK_EVERY_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Lag:
    """Of a flow that somebody runs, in this process or another."""

    source: Connector
    sink: Connector
    flow: str
    run: str
    following: Following
    is_followed: Callable[[], bool]
    """False: nobody applies changes any more, and what is missing stays so."""

    async def pass_by(self) -> None:
        """Return once everything is at the sink that was committed when this was called, or nobody will bring it."""
        content = f"{self.flow}:{self.run}:{secrets.token_hex(8)}".encode()
        position = await self.source.mark(self.following.partition.namespaces, content)
        while True:
            if await self._applied() >= position or not self.is_followed():
                return
            await asyncio.sleep(_LOOK_EVERY_S)

    async def _applied(self) -> int:
        """The last transaction that every lane has, by the ledger."""
        states = await self.sink.read_units(self.flow, self.run, unit_refs(self.following.lanes))
        return kept_by_all(opened(states)).place[0]
