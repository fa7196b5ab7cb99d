"""Sinks that apply frames, and close their sessions at the end of a test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest_asyncio

from dsync.sdk import types
from tests.integration.postgres_apply.frames import Changes
from tests.integration.postgres_sink.support import Sink, make_sink
from tests.support.databases import Database

LANE = "lane-0"


@dataclass(kw_only=True, eq=False)
class Applier:
    """A sink with one lane open."""

    sink: Sink

    async def open(self, *lanes: str) -> None:
        """Open lanes as a coordinator does."""
        await self.sink.open(*(lanes or (LANE,)), namespace="")

    def request(
        self,
        changes: Changes,
        *,
        overlap: bool = False,
        in_order: bool = False,
        cursor: bytes = b"c",
        targets: tuple[str, ...] = (),
    ) -> types.WriteChangesRequest:
        """The lane's next write; tables keep their names where no others are given."""
        return types.WriteChangesRequest(
            context=self.sink.context(LANE, cursor),
            frame=changes.frame,
            targets=targets or tuple(relation.namespace for relation in changes.relations),
            overlap=overlap,
            in_order=in_order,
        )

    async def apply(self, changes: Changes, *, overlap: bool = False, in_order: bool = False) -> types.WrittenChanges:
        """Apply a frame and move the lane on where it was written."""
        request = self.request(changes, overlap=overlap, in_order=in_order)
        written = await self.sink.side.write_changes(request)
        if not written.incomplete:
            self.sink.units[LANE].seq = request.context.seq
        return written


OpenApplier = Callable[..., "Applier"]


@pytest_asyncio.fixture
async def open_applier(tmp_path: Path) -> AsyncIterator[OpenApplier]:
    """Opens appliers: `open_applier(database)`, or `open_applier(database, uri=database.owner_uri())`."""
    opened: list[Sink] = []

    def open_one(database: Database, *, uri: str | None = None) -> Applier:
        sink = make_sink(database, tmp_path, uri=uri)
        opened.append(sink)
        return Applier(sink=sink)

    yield open_one
    for sink in opened:
        await sink.side.close()
        await sink.sessions.close()
