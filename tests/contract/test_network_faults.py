"""A connection that is cut, swallowed, slow or corrupt ends in an error worth a retry, or in nothing at all."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from dsync.protocol import errors
from dsync.protocol.channel import Deadlines, Target
from dsync.protocol.client import RemoteConnector
from dsync.protocol.types import DescribeRequest, Page, PageType, Partition, ReadRequest, WriteRequest
from dsync.sdk.serve import ServeOptions, serving
from dsync.sdk.testing.faults import Faults
from dsync.sdk.testing.memory import MemoryConnector
from tests.contract.rig import document
from tests.support.proxy import Direction, FaultyProxy

MIB = 1024 * 1024


@asynccontextmanager
async def through_a_proxy(
    memory: MemoryConnector, deadlines: Deadlines | None = None
) -> AsyncIterator[tuple[RemoteConnector, FaultyProxy]]:
    async with (
        serving(memory, ServeOptions(address="127.0.0.1:0", grace_s=0)) as address,
        FaultyProxy(host="127.0.0.1", port_behind=int(address.rpartition(":")[2])) as proxy,
    ):
        target = Target(address=f"127.0.0.1:{proxy.port}", name="grpc://proxied")
        connector = RemoteConnector(target, deadlines=deadlines)
        # As a coordinator does: from here on the connection is one with pings.
        await connector.get_extensions()
        try:
            yield connector, proxy
        finally:
            await connector.close()


def filled() -> MemoryConnector:
    memory = MemoryConnector()
    memory.serve("a", 4000, record_bytes=1000)
    return memory


WHOLE = ReadRequest(partition=Partition(namespace="a", cursor=b":0:4000"), page_bytes=8 * MIB)


async def test_a_cut_in_the_middle_of_a_page_is_worth_a_retry() -> None:
    """What has arrived of it is dropped; the same call, repeated, gives the whole page."""
    memory = filled()
    async with through_a_proxy(memory) as (connector, proxy):
        await connector.get_info()
        proxy.cut_after(MIB, Direction.DOWN)
        with pytest.raises(errors.RetryableError):
            await connector.read_page(WHOLE)
        page = await repeated(connector)
        assert page.rows == 4000


async def repeated(connector: RemoteConnector) -> Page:
    """As a coordinator does, with a pause: the connection comes back by itself."""
    async with asyncio.timeout(20):
        while True:
            try:
                return await connector.read_page(WHOLE)
            except errors.RetryableError:
                await asyncio.sleep(0.05)


async def test_a_cut_in_the_middle_of_a_write_writes_nothing() -> None:
    """A request that has not arrived as a whole is none."""
    memory = MemoryConnector()
    async with through_a_proxy(memory) as (connector, proxy):
        await connector.get_info()
        proxy.cut_after(MIB, Direction.UP)
        page = Page(type=PageType.BSON, rows=1, packed=document(1, text="x" * 4 * MIB))
        with pytest.raises(errors.RetryableError):
            await connector.write_page(WriteRequest(namespace="a", page=page))
        assert memory.faults.calls.get("write_page", 0) == 0


async def test_corruption_never_gives_a_wrong_page() -> None:
    """A changed byte in a frame's header breaks the stream, and the call is repeated.

    One in the data itself nobody notices in plaintext: that is why TLS is a must between machines.
    """
    memory = filled()
    async with through_a_proxy(memory) as (connector, proxy):
        await connector.get_info()
        # The first byte of what comes next is in the header of an HTTP/2 frame.
        proxy.corrupt_after(0, Direction.DOWN)
        try:
            async with asyncio.timeout(10):
                page = await connector.read_page(WHOLE)
        except (errors.DsyncError, TimeoutError):
            page = await repeated(connector)
        assert page.rows == 4000


async def test_a_slow_connection_is_only_slow() -> None:
    """A second of delay each way: calls take their time and succeed."""
    memory = filled()
    async with through_a_proxy(memory) as (connector, proxy):
        proxy.delay_s = 0.5
        started = time.monotonic()
        assert (await connector.get_info()).db_type == "memory"
        assert time.monotonic() - started >= 1.0


@pytest.mark.slow
async def test_a_connection_that_swallows_everything_is_noticed() -> None:
    """No reset, no end: pings find out within 30 s, for a call that may take as long as it wants."""
    memory = MemoryConnector(faults=Faults(["describe@1:hang"]))
    async with through_a_proxy(memory, Deadlines(work_s=None)) as (connector, proxy):
        call = asyncio.create_task(connector.describe(DescribeRequest()))
        while not memory.faults.calls.get("describe"):
            await asyncio.sleep(0.01)
        proxy.black_hole()
        started = time.monotonic()
        with pytest.raises(errors.ServerUnavailableError):
            await call
        assert time.monotonic() - started < 30
