"""The replication connection: START_REPLICATION, COPY in both directions, and what keeps it alive.

The socket is read by the event loop into a bounded buffer. When the buffer is full nothing is read until somebody takes
from it, and TCP holds the server back; the status that the server waits for is sent by a timer of its own all the same,
so however slow a sink is, the connection stays. The position up to which the server may discard moves by `acknowledge`
alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
import time
from dataclasses import dataclass
from typing import Self

import psycopg
from psycopg import errors as pg
from psycopg import pq, sql

from dsync.sdk import errors
from dsync_postgres.errors import describe, translate
from dsync_postgres.sessions import Connection, Session, Sessions
from dsync_postgres.stream.errors import PublicationMissingError, SlotLostError, SlotMissingError
from dsync_postgres.stream.lsn import format_lsn
from dsync_postgres.stream.slots import busy, require_name

MIB = 1024 * 1024
HEADER_BYTES = 25
"""What stands before a message of pgoutput: `w`, two positions and a time."""
DATA, KEEPALIVE = ord("w"), ord("k")

_EPOCH_S = 946_684_800
"""2000-01-01 in Unix time, from which the server counts microseconds."""
_MOST_SILENT_S = 10.0
_BINARY_SINCE = 14
# How often one turn of the event loop reads from the socket: enough to be quick, few enough for timers to be on time.
_READS_A_TURN = 32
_PREREQUISITE = "55000"
_STATUS = struct.Struct(">cQQQq?")
_KEEPALIVE = struct.Struct(">cQq?")


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSettings:
    """What is streamed."""

    slot: str
    publications: tuple[str, ...]
    start_lsn: int
    """What has committed before is not sent."""
    durable_lsn: int = 0
    """What has committed before is durable: the server is told so at once."""
    is_binary: bool = False
    """Values come in their types' binary form where they have one."""
    buffer_bytes: int = 8 * MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """Which server this is, as IDENTIFY_SYSTEM says."""

    system_id: str
    timeline: int
    position: int
    database: str


class ReplicationConnection:
    """A session that streams; made by `open`, begun by `start`, read until it fails or is closed."""

    def __init__(self, session: Session, system: System, silent_s: float) -> None:
        self.system = system
        """Who answers."""
        self.pid = session.pid
        """The backend's process id at the server."""
        self.received_lsn = 0
        """How far the server has come with sending."""
        self.sent_at_us = 0
        """The server's clock when it sent the last message, in microseconds since 2000."""
        self.acknowledged_lsn = 0
        """Up to where it was told that it may discard."""
        self._session = session
        self._pgconn = session.connection.pgconn
        self._silent_s = silent_s
        self._limit_bytes = 8 * MIB
        self._buffer: list[bytes] = []
        self._buffered_bytes = 0
        self._is_paused = False
        self._is_streaming = False
        self._has_writer = False
        self._error: errors.DsyncError | None = None
        self._gap: errors.DsyncError | None = None
        self._wake: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._operation = "reading the replication stream"

    @classmethod
    async def open(cls, sessions: Sessions, *, role: str = "stream") -> Self:
        """Connect as a WAL sender, and find out where to.

        Raises:
            PrivilegeError, ThrottledError, UnsupportedError, ServerUnavailableError: there is no such connection.
        """
        session = await sessions.open(role, replication=True)
        try:
            system, timeout_s = await session.run("asking the server who it is", _identify)
        except BaseException:
            await asyncio.shield(session.close())
            raise
        # 0 means that the server waits for ever; the line wants to be used all the same.
        return cls(session, system, min(_MOST_SILENT_S, timeout_s / 3 if timeout_s else _MOST_SILENT_S))

    async def timeline_end(self, timeline: int) -> int | None:
        """Where an earlier timeline ended in the history of this server; None: it is not in its history.

        Only before `start`.
        """
        current = self.system.timeline
        if timeline >= current:
            return None

        def work(connection: Connection) -> bytes:
            row = connection.execute(f"TIMELINE_HISTORY {current:d}".encode()).fetchone()
            return b"" if row is None else bytes(row[1], "ascii") if isinstance(row[1], str) else bytes(row[1])

        history = await self._session.run("reading the server's history", work)
        return history_end(history.decode("utf-8", "replace"), timeline)

    async def start(self, settings: StreamSettings) -> None:
        """Begin to stream.

        Raises:
            SlotMissingError, SlotLostError, SlotBusyError: the slot gives no changes.
        """
        self._operation = f"streaming from replication slot {settings.slot}"
        command = start_command(settings, self._session.connection.info.server_version // 10000)
        await self._session.run(self._operation, lambda connection: _start(connection, command, settings.slot))
        self._limit_bytes = settings.buffer_bytes
        self.acknowledged_lsn, self.received_lsn = settings.durable_lsn, settings.start_lsn
        self._session.connection.add_notice_handler(self._on_notice)
        self._pgconn.nonblocking = 1
        self._is_streaming = True
        self._watch()
        # What has come together with the server's answer is in libpq already, and shows on no socket.
        self._on_readable()
        self._tick()

    async def read(self) -> list[bytes]:
        """Everything that has come and was not taken yet, at least one message: `w` with data, or `k`.

        Raises:
            RetryableError: the connection has ended; everything before was given.
        """
        while not self._buffer and self._error is None:
            self._wake = asyncio.get_running_loop().create_future()
            await self._wake
        error = self._gap or self._error
        if error is not None and (self._gap is not None or not self._buffer):
            raise error
        taken, self._buffer, self._buffered_bytes = self._buffer, [], 0
        if self._is_paused and self._is_streaming:
            self._is_paused = False
            self._watch()
            # What libpq has read already does not make the socket readable.
            asyncio.get_running_loop().call_soon(self._on_readable)
        return taken

    @property
    def is_idle(self) -> bool:
        """Nothing has come that was not taken."""
        return not self._buffer

    def acknowledge(self, lsn: int) -> None:
        """Tell the server that everything which has committed before is durable; never moves back."""
        if lsn > self.acknowledged_lsn:
            self.acknowledged_lsn = lsn
            self._send_status()

    async def close(self) -> None:
        """Let go of the slot. Repeatable."""
        if self._is_streaming:
            # The last word, so that the next reader need not be sent what is durable.
            self._send_status()
            with contextlib.suppress(psycopg.Error):
                self._pgconn.put_copy_end()
                self._pgconn.flush()
        self._stop()
        await self._session.close()

    # ------------------------------------------------------------------ reading

    def _watch(self) -> None:
        asyncio.get_running_loop().add_reader(self._pgconn.socket, self._on_readable)

    def _on_readable(self) -> None:
        if not self._is_streaming or self._is_paused:
            return
        try:
            for _ in range(_READS_A_TURN):
                self._pgconn.consume_input()
                if not self._drain():
                    return
                if self._buffered_bytes >= self._limit_bytes:
                    self._pause()
                    return
        except psycopg.Error as exc:
            self._fail(translate(exc, self._operation))
            return
        # There is more, perhaps inside of TLS, where the socket does not show it.
        asyncio.get_running_loop().call_soon(self._on_readable)

    def _drain(self) -> bool:
        """Take every message that is there as a whole; False where there was none."""
        get, buffer, before = self._pgconn.get_copy_data, self._buffer, len(self._buffer)
        wants_answer = False
        while True:
            size, view = get(1)
            if size <= 0:
                break
            data = bytes(view)
            if data[0] == KEEPALIVE:
                wants_answer = wants_answer or data[-1] != 0
                self.received_lsn = max(self.received_lsn, _KEEPALIVE.unpack(data)[1])
            self._buffered_bytes += size
            buffer.append(data)
        if size < 0:
            self._finish()
        if len(buffer) == before:
            return False
        self._note_position(buffer[-1])
        if wants_answer:
            self._send_status()
        self._wake_up()
        return True

    def _on_notice(self, diagnostic: pg.Diagnostic) -> None:
        """From 18 on a publication that is missing is a mere warning, and its changes are left out."""
        if diagnostic.severity_nonlocalized == "WARNING" and diagnostic.sqlstate == _PREREQUISITE:
            said = " ".join((diagnostic.message_primary or "").split())
            # What follows lacks changes, so nothing more is given, whatever has come by then. Ending the connection has
            # to wait: notices come in the midst of reading.
            self._gap = _without_publication(self._operation, said)
            asyncio.get_running_loop().call_soon(self._fail, self._gap)

    def _note_position(self, last: bytes) -> None:
        if last[0] == DATA:
            self.received_lsn = max(self.received_lsn, int.from_bytes(last[1:9], "big"))
        self.sent_at_us = int.from_bytes(last[17:25] if last[0] == DATA else last[9:17], "big")

    def _pause(self) -> None:
        self._is_paused = True
        asyncio.get_running_loop().remove_reader(self._pgconn.socket)

    def _finish(self) -> None:
        """The server has ended the stream: say why."""
        result = self._pgconn.get_result()
        if result is not None and result.status == pq.ExecStatus.FATAL_ERROR:
            exc = pg.error_from_result(result, encoding="utf-8")
            self._fail(_named(exc, self._operation) or translate(exc, self._operation))
            return
        self._fail(
            errors.ServerUnavailableError(f"{self._operation}: the server has ended the stream; it is begun again")
        )

    def _fail(self, error: errors.DsyncError) -> None:
        if self._error is None:
            self._error = error
        self._stop()
        self._wake_up()

    def _wake_up(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def _stop(self) -> None:
        if not self._is_streaming:
            return
        self._is_streaming = False
        if self._timer is not None:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        with contextlib.suppress(psycopg.Error):
            # A connection that is broken may have no socket any more, and then the loop has none either.
            loop.remove_reader(self._pgconn.socket)
            loop.remove_writer(self._pgconn.socket)

    # ------------------------------------------------------------------- status

    def _tick(self) -> None:
        self._send_status()
        if self._is_streaming:
            self._timer = asyncio.get_running_loop().call_later(self._silent_s, self._tick)

    def _send_status(self) -> None:
        if not self._is_streaming:
            return
        durable = self.acknowledged_lsn
        received = max(self.received_lsn, durable)
        now_us = int((time.time() - _EPOCH_S) * 1_000_000)
        status = _STATUS.pack(b"r", received, durable, durable, now_us, False)
        try:
            # 0: the line is so full that there is no room even for this; the next one says the same and more.
            self._pgconn.put_copy_data(status)
            self._flush()
        except psycopg.Error as exc:
            self._fail(translate(exc, self._operation))

    def _flush(self) -> None:
        is_left = self._pgconn.flush() == 1
        if is_left == self._has_writer:
            return
        self._has_writer = is_left
        loop = asyncio.get_running_loop()
        if is_left:
            loop.add_writer(self._pgconn.socket, self._on_writable)
        else:
            loop.remove_writer(self._pgconn.socket)

    def _on_writable(self) -> None:
        try:
            self._flush()
        except psycopg.Error as exc:
            self._fail(translate(exc, self._operation))


def start_command(settings: StreamSettings, major: int) -> bytes:
    """START_REPLICATION, with what the server's version knows.

    The protocol's version 2 came with 14 (parts of large transactions), 3 with 15, 4 with 16. Two-phase commit is left
    alone: a prepared transaction comes when it has committed.
    """
    version = min(4, major - 12)
    names = ",".join('"{}"'.format(name.replace('"', '""')) for name in settings.publications)
    options = [
        f"proto_version '{version}'",
        f"publication_names {sql.Literal(names).as_string(None)}",
        "streaming 'on'",
        "messages 'true'",
    ]
    if settings.is_binary and major >= _BINARY_SINCE:
        options.append("binary 'true'")
    slot = require_name(settings.slot)
    return f"START_REPLICATION SLOT {slot} LOGICAL {format_lsn(settings.start_lsn)} ({', '.join(options)})".encode()


def history_end(history: str, timeline: int) -> int | None:
    """Where a timeline ended, according to a timeline history file; None where it is not in it."""
    for line in history.splitlines():
        fields = line.split("\t")
        if len(fields) >= 2 and fields[0].strip() == str(timeline):
            high, low = fields[1].split("/")
            return int(high, 16) << 32 | int(low, 16)
    return None


def _identify(connection: Connection) -> tuple[System, float]:
    row = connection.execute(b"IDENTIFY_SYSTEM").fetchone()
    assert row is not None, "the command answers with one row"
    high, low = row[2].split("/")
    system = System(
        system_id=row[0], timeline=row[1], position=int(high, 16) << 32 | int(low, 16), database=row[3] or ""
    )
    setting = connection.execute(b"SELECT setting::int FROM pg_settings WHERE name = 'wal_sender_timeout'").fetchone()
    return system, (setting[0] if setting is not None else 0) / 1000


def _start(connection: Connection, command: bytes, slot: str) -> None:
    result = connection.pgconn.exec_(command)
    if result.status == pq.ExecStatus.COPY_BOTH:
        return
    exc = pg.error_from_result(result, encoding="utf-8")
    if isinstance(exc, pg.UndefinedObject):
        raise SlotMissingError(
            f"streaming: replication slot {slot} does not exist (any more), and changes after the flow's position may "
            "be gone; run the flow again with --again, which copies what has changed"
        ) from exc
    if isinstance(exc, pg.ObjectInUse):
        raise busy(slot, 0, describe(exc)) from exc
    if isinstance(exc, pg.ObjectNotInPrerequisiteState | pg.UndefinedFile):
        raise _lost(f"streaming from replication slot {slot}", describe(exc)) from exc
    raise exc


# By code alone: the server's words may be in any language.
def _named(exc: psycopg.Error, operation: str) -> errors.DsyncError | None:
    """The error of ours for what only a stream ends with."""
    if isinstance(exc, pg.UndefinedObject):
        return _without_publication(operation, describe(exc))
    if isinstance(exc, pg.UndefinedFile):
        return _lost(operation, describe(exc))
    return None


def _without_publication(operation: str, said: str) -> PublicationMissingError:
    return PublicationMissingError(
        f"{operation}: {said}; changes made without the publication are not in the stream; run the flow again with "
        "--again, which makes it and copies what has changed"
    )


def _lost(operation: str, said: str) -> SlotLostError:
    return SlotLostError(
        f"{operation}: the server has removed log that the slot needed ({said}); raise max_slot_wal_keep_size, drop "
        "the slot (`dsync reset`), and run the flow again with --again"
    )
