"""Each fault of the proxy, seen from a client; the server behind it echoes."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.support.proxy import Direction, FaultyProxy
from tests.support.waiting import wait_for_async

Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest_asyncio.fixture
async def proxy() -> AsyncIterator[FaultyProxy]:
    """A proxy before an echo server."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while chunk := await reader.read(65536):
                writer.write(chunk)
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with FaultyProxy(host="127.0.0.1", port_behind=server.sockets[0].getsockname()[1]) as proxy:
        yield proxy
    server.close()
    await server.wait_closed()


async def connect(proxy: FaultyProxy) -> Ends:
    return await asyncio.open_connection("127.0.0.1", proxy.port)


async def ask(ends: Ends, message: bytes) -> bytes:
    ends[1].write(message)
    return await asyncio.wait_for(ends[0].readexactly(len(message)), 10)


async def test_without_a_fault_bytes_pass_unchanged_and_counted(proxy: FaultyProxy) -> None:
    message = bytes(range(256)) * 4096
    reader, writer = await connect(proxy)
    assert await ask((reader, writer), message) == message
    assert proxy.carried_bytes(Direction.UP) == proxy.carried_bytes(Direction.DOWN) == len(message)
    assert (proxy.accepted, proxy.open_connections) == (1, 1)
    writer.write_eof()
    assert await reader.read() == b""
    await wait_for_async(lambda: proxy.open_connections == 0, what="the proxy to see the end")
    writer.close()


async def test_a_cut_resets_open_connections_and_lets_new_ones_in(proxy: FaultyProxy) -> None:
    ends = await connect(proxy)
    await ask(ends, b"hello")
    proxy.cut()
    with pytest.raises(ConnectionResetError):
        await ask(ends, b"again")
    again = await connect(proxy)
    assert await ask(again, b"hello") == b"hello"
    again[1].close()


async def test_refusing_resets_new_connections_until_told_otherwise(proxy: FaultyProxy) -> None:
    open_before = await connect(proxy)
    await ask(open_before, b"hello")
    proxy.refuse()
    with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
        await ask(await connect(proxy), b"hello")
    assert await ask(open_before, b"still") == b"still"
    proxy.refuse(False)
    ends = await connect(proxy)
    assert await ask(ends, b"hello") == b"hello"
    ends[1].close()
    open_before[1].close()


async def test_a_black_hole_answers_nothing_and_closes_nothing(proxy: FaultyProxy) -> None:
    """What was held back arrives when it ends: a network that was away, not one that lost data."""
    ends = await connect(proxy)
    await ask(ends, b"hello")
    proxy.black_hole()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await ask(ends, b"into the dark")
    assert not ends[0].at_eof()
    proxy.black_hole(False)
    assert await asyncio.wait_for(ends[0].readexactly(13), 10) == b"into the dark"
    ends[1].close()


async def test_a_delay_and_a_bandwidth_are_kept(proxy: FaultyProxy) -> None:
    ends = await connect(proxy)
    proxy.delay_s = 0.05
    started = time.monotonic()
    await ask(ends, b"x")
    assert time.monotonic() - started >= 0.1
    proxy.delay_s, proxy.bytes_per_s = 0.0, 100_000
    started = time.monotonic()
    await ask(ends, bytes(10_000))
    assert time.monotonic() - started >= 0.1
    ends[1].close()


@pytest.mark.parametrize("direction", list(Direction))
async def test_corruption_changes_exactly_the_byte_asked_for(proxy: FaultyProxy, direction: Direction) -> None:
    ends = await connect(proxy)
    await ask(ends, b"12345")
    proxy.corrupt_after(2, direction)
    assert await ask(ends, b"abcdef") == b"ab" + bytes([ord("c") ^ 0xFF]) + b"def"
    assert await ask(ends, b"abcdef") == b"abcdef"
    ends[1].close()


async def test_a_cut_after_some_bytes_delivers_no_more_than_those(proxy: FaultyProxy) -> None:
    reader, writer = await connect(proxy)
    proxy.cut_after(1000, Direction.UP)
    writer.write(bytes(5000))
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(reader.read(), 10)
    assert proxy.carried_bytes(Direction.UP) == 1000


async def test_a_server_that_is_down_looks_like_a_reset(proxy: FaultyProxy) -> None:
    async with FaultyProxy(host="127.0.0.1", port_behind=1) as dead_end:
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await ask(await connect(dead_end), b"hello")
    assert proxy.accepted == 0


def test_a_uri_keeps_everything_but_its_address() -> None:
    proxy = FaultyProxy(host="h", port_behind=1)
    proxy.port = 4711
    assert proxy.through("postgresql://a%40b:p%2Fw@db:5432/x%20y?sslmode=disable") == (
        "postgresql://a%40b:p%2Fw@127.0.0.1:4711/x%20y?sslmode=disable"
    )
