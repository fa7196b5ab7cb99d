"""A flow in this very process, its plug-ins in it too: for what a stream does where nothing dies."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest
from psycopg import sql

from dsync.app.requests import SyncRequest
from dsync.app.sync import SyncOutcome, sync
from dsync.coordinator.events import Event, PhaseChanged
from dsync.protocol.errors import DsyncError
from tests.support.databases import Database
from tests.support.waiting import wait_for_async

_CONTENTS = "SELECT count(*), md5(string_agg(x::text, ',' ORDER BY x::text)) FROM {} x"


class InlineFlow:
    """A flow of this process: streams, and is asked how it has ended."""

    def __init__(
        self, source: Database, sink: Database, state: Path, tables: Sequence[str], *, source_uri: str = ""
    ) -> None:
        self.source = source
        self.sink = sink
        self._state = state
        self._tables = tables
        self._source_uri = source_uri or source.uri
        self._streaming = asyncio.Event()
        self._stopping = asyncio.Event()

    async def run(self, *, until_caught_up: bool = True, again: bool = False) -> SyncOutcome:
        request = SyncRequest(
            source=self._source_uri,
            sink=self.sink.uri,
            mode="full",
            state=str(self._state),
            attach="inline",
            parallel=2,
            until_caught_up=until_caught_up,
            again=again,
        )
        return await sync(request, self._heard, self._stopping)

    def _heard(self, event: Event) -> None:
        if isinstance(event, PhaseChanged) and event.phase == "streaming":
            self._streaming.set()

    async def refused_after(self, harm: Callable[[], Awaitable[object]]) -> DsyncError:
        """Stream, do harm, and return what it ends with."""
        self._streaming.clear()
        running = asyncio.create_task(self.run(until_caught_up=False))
        try:
            await wait_for_async(lambda: self._streaming.is_set() or running.done(), timeout_s=60, what="a stream")
            await harm()
            with pytest.raises(DsyncError) as caught:
                await asyncio.wait_for(running, 60)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        return caught.value

    async def cut_off_while_streaming(self, until: Callable[[], object]) -> None:
        """Stream until something is so, and then no more, without an end."""
        running = asyncio.create_task(self.run(until_caught_up=False))
        try:
            await wait_for_async(lambda: until() or running.done(), timeout_s=60, what="what it was to come to")
            assert not running.done(), running
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    async def arrives_again(self) -> None:
        """The way on that the errors name: both ends are equal, what the stream has missed included."""
        await self.run(again=True)
        self.require_equal()

    def require_equal(self) -> None:
        for name in self._tables:
            query = sql.SQL(_CONTENTS).format(sql.Identifier(name))
            assert self.sink.rows(query) == self.source.rows(query)

    @property
    def slot(self) -> str:
        return str(
            self.source.value("SELECT slot_name::text FROM pg_replication_slots WHERE database = current_database()")
        )
