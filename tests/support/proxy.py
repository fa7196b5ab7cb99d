"""A TCP proxy that misbehaves on demand: it cuts, swallows, delays, slows down and corrupts."""

import asyncio
import enum
import socket
import struct
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit, urlunsplit

_CHUNK_BYTES = 65536
# With lingering on and its time zero, closing sends RST: the peer sees "connection reset", not a clean end.
_RESET = struct.pack("ii", 1, 0)


class Direction(enum.Enum):
    """Which way bytes travel through the proxy."""

    UP = "from the client to the server"
    DOWN = "from the server to the client"


@dataclass(slots=True, kw_only=True)
class _Way:
    """What befalls the bytes of one direction, over all connections."""

    carried_bytes: int = 0
    corrupt_at: int | None = None
    """Count of carried bytes at which one byte is changed."""
    cut_at: int | None = None
    """Count of carried bytes at which every connection is cut."""

    def pass_through(self, chunk: bytes) -> tuple[bytes, bool]:
        """Return what goes on of a chunk, and whether the connections are cut behind it."""
        start = self.carried_bytes
        is_last = self.cut_at is not None and self.cut_at <= start + len(chunk)
        if is_last:
            assert self.cut_at is not None
            chunk = chunk[: self.cut_at - start]
            self.cut_at = None
        end = start + len(chunk)
        if self.corrupt_at is not None and start <= self.corrupt_at < end:
            at = self.corrupt_at - start
            chunk = chunk[:at] + bytes([chunk[at] ^ 0xFF]) + chunk[at + 1 :]
            self.corrupt_at = None
        self.carried_bytes = end
        return chunk, is_last


@dataclass(slots=True, kw_only=True)
class FaultyProxy:
    """Listens on a free loopback port and forwards to one address; an asynchronous context manager.

    Every fault counts at once, for the connections that are open too.
    """

    host: str
    """Where to forward to."""
    port_behind: int
    """The port to forward to."""
    delay_s: float = 0.0
    """How much later each piece of data arrives, both ways."""
    bytes_per_s: float | None = None
    """Bandwidth of each connection and direction; None: as quick as it goes."""
    port: int = 0
    """The port to connect to; known once the proxy has been entered."""
    accepted: int = 0
    """How many connections have been accepted so far."""
    _ways: dict[Direction, _Way] = field(default_factory=lambda: {way: _Way() for way in Direction})
    _flowing: asyncio.Event = field(default_factory=asyncio.Event)
    _refusing: bool = False
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        listening: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._flowing.set()
        # A task of its own and not a task group entered here: a fixture may be left from another task.
        self._task = asyncio.create_task(self._run(listening))
        self.port = await listening
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        assert self._task is not None
        await self._task

    @property
    def open_connections(self) -> int:
        """How many connections are open now."""
        return len(self._writers) // 2

    def carried_bytes(self, direction: Direction) -> int:
        """Return how many bytes have been forwarded that way."""
        return self._ways[direction].carried_bytes

    def through(self, uri: str) -> str:
        """Return the URI with this proxy in the place of its host and port."""
        parts = urlsplit(uri)
        account, at, _ = parts.netloc.rpartition("@")
        return urlunsplit(parts._replace(netloc=f"{account}{at}127.0.0.1:{self.port}"))

    def cut(self) -> None:
        """Reset every open connection; new ones are accepted."""
        for writer in tuple(self._writers):
            _reset(writer)

    def refuse(self, refusing: bool = True) -> None:
        """Reset every new connection at once, until told otherwise; open ones go on."""
        self._refusing = refusing

    def black_hole(self, swallowing: bool = True) -> None:
        """Forward nothing and close nothing, until told otherwise; then what was held back goes on."""
        if swallowing:
            self._flowing.clear()
        else:
            self._flowing.set()

    def corrupt_after(self, count: int, direction: Direction = Direction.DOWN) -> None:
        """Flip the bits of one byte, after that many more bytes that way."""
        way = self._ways[direction]
        way.corrupt_at = way.carried_bytes + count

    def cut_after(self, count: int, direction: Direction = Direction.DOWN) -> None:
        """Cut every connection after that many more bytes that way."""
        way = self._ways[direction]
        way.cut_at = way.carried_bytes + count

    async def _run(self, listening: asyncio.Future[int]) -> None:
        async with asyncio.TaskGroup() as connections:
            tasks: set[asyncio.Task[None]] = set()

            def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                task = connections.create_task(self._serve(reader, writer))
                tasks.add(task)
                task.add_done_callback(tasks.discard)

            server = await asyncio.start_server(on_connection, "127.0.0.1", 0)
            listening.set_result(server.sockets[0].getsockname()[1])
            await self._stopping.wait()
            server.close()
            for task in tuple(tasks):
                task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        near = (reader, writer)
        if self._refusing:
            _reset(writer)
            return
        try:
            far = await asyncio.open_connection(self.host, self.port_behind)
        except OSError:
            _reset(writer)
            return
        writers = {near[1], far[1]}
        self._writers |= writers
        try:
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(near[0], far[1], Direction.UP))
                pumps.create_task(self._pump(far[0], near[1], Direction.DOWN))
        except* OSError:
            # One end is gone without a good-bye, or was cut by us: the other one learns it the same way.
            for one in writers:
                _reset(one)
        finally:
            self._writers -= writers
            for one in writers:
                one.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: Direction) -> None:
        while chunk := await reader.read(_CHUNK_BYTES):
            await self._flowing.wait()
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            if self.bytes_per_s:
                await asyncio.sleep(len(chunk) / self.bytes_per_s)
            chunk, is_last = self._ways[direction].pass_through(chunk)
            writer.write(chunk)
            await writer.drain()
            if is_last:
                self.cut()
                return
        if writer.can_write_eof() and not writer.transport.is_closing():
            writer.write_eof()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close a connection so that its peer sees a reset."""
    peer: socket.socket | None = writer.get_extra_info("socket")
    if peer is not None and peer.fileno() >= 0:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
