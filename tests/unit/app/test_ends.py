"""Opening both ends: neither is contacted before both have been found right."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from dsync.app import ends
from dsync.app.requests import EndsRequest
from dsync.plugins.manager import OpenEndpoint
from dsync.protocol.errors import RequestError
from dsync.protocol.interface import Connector
from dsync.protocol.types import Info
from dsync.sdk.testing.memory import MemoryConnector


class _Asked(MemoryConnector):
    """Counts how often it was asked who it is: what contacts its server."""

    times = 0

    async def get_info(self) -> Info:
        type(self).times += 1
        return await super().get_info()


async def test_no_end_is_contacted_where_the_other_turns_out_wrong_later(monkeypatch: pytest.MonkeyPatch) -> None:
    @asynccontextmanager
    async def open_slowly(reference: str, **_: Any) -> AsyncIterator[OpenEndpoint]:
        if reference == "wrong":
            for _turn in range(100):
                await asyncio.sleep(0)
            raise RequestError("'wibble' is no option")
        connector: Connector = _Asked()
        yield OpenEndpoint(connector=connector, name=reference, display=reference)

    monkeypatch.setattr(ends, "open_endpoint", open_slowly)

    with pytest.raises(RequestError, match=r"^sink: 'wibble'"):
        async with ends.meet(EndsRequest(source="right", sink="wrong", attach="inline")):
            pytest.fail("there is no sink")

    assert _Asked.times == 0
