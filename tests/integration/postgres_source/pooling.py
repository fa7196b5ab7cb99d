"""A pooler in miniature: each transaction of a client may run on another backend, as in transaction mode."""

from __future__ import annotations

import asyncio
import struct
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit, urlunsplit

_HEADER = struct.Struct("!ci")
_START = struct.Struct("!ii")
_SSL_REQUEST, _GSS_REQUEST = 80877103, 80877104
_Backend = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class MiniPooler:
    """Listens on loopback before a server with `trust` authentication; an asynchronous context manager.

    In transaction mode each statement outside a transaction takes the backend that was free the longest, out of those
    that all clients have opened; else every client keeps its own. Either way a client is told a number that is no
    backend's. Many poolers refuse replication connections.
    """

    def __init__(self, uri: str, *, by_transaction: bool, takes_replication: bool = True) -> None:
        parts = urlsplit(uri)
        assert parts.hostname is not None
        assert parts.port is not None
        self._parts, self._host, self._port = parts, parts.hostname, parts.port
        self._by_transaction = by_transaction
        self._takes_replication = takes_replication
        self._free: asyncio.Queue[_Backend] = asyncio.Queue()
        self._writers: list[asyncio.StreamWriter] = []
        self._server: asyncio.Server | None = None
        self.uri = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        account, at, _ = self._parts.netloc.rpartition("@")
        self.uri = urlunsplit(self._parts._replace(netloc=f"{account}{at}127.0.0.1:{port}"))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        try:
            await self._talk(reader, writer)
        except (asyncio.IncompleteReadError, OSError):
            writer.transport.abort()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        own = await self._start(reader, writer)
        if self._by_transaction:
            self._free.put_nowait(own)
        while True:
            request = await _read_request(reader)
            backend = await self._free.get() if self._by_transaction else own
            while True:
                backend[1].write(request)
                status = await _relay_answer(backend[0], writer)
                if status == b"I" or not self._by_transaction:
                    break
                request = await _read_request(reader)
            if self._by_transaction:
                self._free.put_nowait(backend)

    async def _start(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> _Backend:
        """Hand the start-up packet to a new backend, and its answer back with another number in it."""
        while True:
            length, code = _START.unpack(await reader.readexactly(_START.size))
            rest = await reader.readexactly(length - _START.size)
            if code not in (_SSL_REQUEST, _GSS_REQUEST):
                break
            writer.write(b"N")
        if b"replication\0" in rest and not self._takes_replication:
            said = b"SFATAL\0C08P01\0Munsupported startup parameter: replication\0\0"
            writer.write(_HEADER.pack(b"E", len(said) + 4) + said)
            await writer.drain()
            raise ConnectionAbortedError("no replication")
        backend = await asyncio.open_connection(self._host, self._port)
        self._writers.append(backend[1])
        backend[1].write(_START.pack(length, code) + rest)
        while True:
            message = await _read(backend[0])
            if message[:1] == b"K":
                message = message[:5] + struct.pack("!i", 1) + message[9:]
            writer.write(message)
            if message[:1] == b"Z":
                return backend


async def _read(reader: asyncio.StreamReader) -> bytes:
    header = await reader.readexactly(_HEADER.size)
    _, length = _HEADER.unpack(header)
    return header + await reader.readexactly(length - 4)


async def _read_request(reader: asyncio.StreamReader) -> bytes:
    """Read up to what makes the server answer ReadyForQuery: Query or Sync."""
    request = b""
    while True:
        message = await _read(reader)
        if message[:1] == b"X":
            raise ConnectionAbortedError("the client said good-bye")
        request += message
        if message[:1] in (b"Q", b"S"):
            return request


async def _relay_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """Pass messages on up to ReadyForQuery; returns the transaction's status."""
    while True:
        message = await _read(reader)
        writer.write(message)
        await writer.drain()
        if message[:1] == b"Z":
            return message[5:6]
