"""Committed transactions in commit order, made of what the server sends.

Small transactions come whole once they have committed. Large ones come in parts while they run, in turns with others:
their parts lie on disk until they commit, and are dropped where they, or their subtransactions, are rolled back.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from dsync_postgres.stream.connection import DATA, HEADER_BYTES, KEEPALIVE
from dsync_postgres.stream.decoder import Decoder, KeyOf, malformed
from dsync_postgres.stream.messages import (
    Begin,
    Change,
    Commit,
    LogicalMessage,
    Relation,
    RelationNews,
    StreamAbort,
    StreamCommit,
    StreamStart,
    StreamStop,
    Truncate,
)
from dsync_postgres.stream.spill import SpillFile

_STREAM_STOP, _RELATION, _LOGICAL_MESSAGE = ord("E"), ord("R"), ord("M")


@dataclass(frozen=True, slots=True, kw_only=True)
class Watermark:
    """Everything that has committed before was given."""

    lsn: int


Event = Begin | Change | Truncate | RelationNews | LogicalMessage | Commit | Watermark
"""What comes out: transactions one after the other, each from Begin to Commit; watermarks between them only, logical
messages also there where they are not part of a transaction."""


@dataclass(slots=True, kw_only=True)
class _Streamed:
    """A transaction that comes in parts."""

    file: SpillFile
    aborted: set[int] = field(default_factory=set)
    """Its subtransactions that were rolled back after they had been sent."""
    arrivals: list[int] = field(default_factory=list)
    """When its own descriptions of tables came, in their order."""


class Transactions:
    """Turns raw messages into events; holds one block of one transaction in memory at the most."""

    def __init__(self, folder: Path, key_of: KeyOf | None = None) -> None:
        """Large transactions are set aside in the folder, which is there and nobody else's."""
        self._folder = folder
        self._key_of = key_of
        self._decoder = Decoder(key_of)
        self._streamed: dict[int, _Streamed] = {}
        self._current: _Streamed | None = None
        self._is_in_transaction = False
        self._arrivals = 0
        # A description that came later than one of a transaction which commits afterwards stays.
        self._described: dict[int, int] = {}

    @property
    def spilled_bytes(self) -> int:
        """What lies on disk."""
        return sum(streamed.file.size_bytes for streamed in self._streamed.values())

    def feed(self, received: Iterable[bytes]) -> Iterator[Event]:
        """Events of the next messages, as `ReplicationConnection.read` gives them.

        Lazy: a transaction from disk is read as far as somebody asks. To be exhausted before the next call.

        Raises:
            MalformedMessageError, SpillError.
        """
        for data in received:
            kind = data[0]
            if kind == DATA:
                if self._current is not None:
                    self._set_aside(data)
                else:
                    yield from self._whole(data)
            elif kind == KEEPALIVE:
                # Inside of a transaction it says nothing that its commit will not say.
                if not self._is_in_transaction and self._current is None:
                    yield Watermark(lsn=int.from_bytes(data[1:9], "big"))
            else:
                raise malformed("it is neither data nor a sign of life")

    def close(self) -> None:
        """Remove what lies on disk: the server sends it again. Repeatable."""
        for streamed in self._streamed.values():
            streamed.file.remove()
        self._streamed.clear()
        self._current = None

    # -------------------------------------------------------- sent as a whole

    def _whole(self, data: bytes) -> Iterator[Event]:
        message = self._decoder.decode(data, HEADER_BYTES)
        match message:
            case Change() | Truncate():
                yield message
            case RelationNews(relation=relation):
                self._arrivals += 1
                self._described[relation.oid] = self._arrivals
                yield message
            case Begin():
                self._is_in_transaction = True
                yield message
            case Commit():
                self._is_in_transaction = False
                yield message
            case LogicalMessage():
                yield message
            case StreamStart(xid=xid):
                self._current = self._streamed.get(xid) or self._begin(xid)
            case StreamCommit():
                yield from self._commit(message)
            case StreamAbort():
                self._abort(message)
            case StreamStop():
                raise malformed("it ends a part that has not begun")

    # ------------------------------------------------------------ sent in parts

    def _begin(self, xid: int) -> _Streamed:
        streamed = self._streamed[xid] = _Streamed(file=SpillFile(self._folder / f"{xid}.part"))
        streamed.file.remove()
        return streamed

    def _set_aside(self, data: bytes) -> None:
        assert self._current is not None, "so says the caller"
        kind = data[HEADER_BYTES]
        if kind == _STREAM_STOP:
            # Others may follow: what waits is on disk.
            self._current.file.flush()
            self._current = None
            return
        if kind == _RELATION:
            self._arrivals += 1
            self._current.arrivals.append(self._arrivals)
        self._current.file.append(data[HEADER_BYTES:])

    def _commit(self, commit: StreamCommit) -> Iterator[Event]:
        streamed = self._streamed.pop(commit.xid, None)
        if streamed is None:
            raise malformed("it commits a transaction of which no part has come")
        times = {"commit_lsn": commit.commit_lsn, "commit_time_us": commit.commit_time_us}
        try:
            yield Begin(xid=commit.xid, **times)
            yield from self._replay(streamed)
            yield Commit(end_lsn=commit.end_lsn, **times)
        finally:
            streamed.file.remove()

    def _replay(self, streamed: _Streamed) -> Iterator[Event]:
        """Its messages, tables as it has described them itself before they were described anew for others."""
        own: dict[int, Relation] = {}
        decoder = Decoder(self._key_of, ChainMap(own, dict(self._decoder.relations)))
        arrivals = iter(streamed.arrivals)
        for data in streamed.file.read():
            arrival = next(arrivals) if data[0] == _RELATION else 0
            # Every message inside of a part says which (sub)transaction it belongs to; but for an Origin.
            if streamed.aborted and int.from_bytes(data[1:5], "big") in streamed.aborted:
                continue
            message = decoder.decode(data, in_stream=True)
            if isinstance(message, Change | RelationNews | Truncate | LogicalMessage):
                yield message
            if isinstance(message, RelationNews) and arrival > self._described.get(message.relation.oid, 0):
                # From its commit on the server takes everybody to know the table so.
                self._described[message.relation.oid] = arrival
                self._decoder.relations[message.relation.oid] = message.relation

    def _abort(self, abort: StreamAbort) -> None:
        streamed = self._streamed.get(abort.xid)
        if streamed is None:
            # It was sent before the position that the stream began at, or nothing of it was.
            return
        if abort.subxid != abort.xid:
            streamed.aborted.add(abort.subxid)
            return
        streamed.file.remove()
        del self._streamed[abort.xid]
