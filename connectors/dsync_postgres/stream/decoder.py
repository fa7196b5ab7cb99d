"""Reads pgoutput's messages from raw bytes.

A row's values are not taken apart: its columns are walked over once, which proves that every length is as it should be,
and finds the key and whether a value is missing. What is not exactly a message of the protocol is an error.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, MutableMapping
from dataclasses import replace

from dsync.sdk import errors
from dsync_postgres.stream.messages import (
    BINARY,
    DELETE,
    INSERT,
    NULL,
    TEXT,
    UNCHANGED,
    UPDATE,
    Begin,
    Change,
    Commit,
    Key,
    LogicalMessage,
    Message,
    Origin,
    Relation,
    RelationColumn,
    RelationNews,
    Row,
    StreamAbort,
    StreamCommit,
    StreamStart,
    StreamStop,
    Truncate,
    TypeName,
)

KeyOf = Callable[[Relation], tuple[int, ...]]
"""Which columns identify a table's rows: their indexes in `Relation.columns`, in key order."""

_BEGIN = struct.Struct(">QqI")
_COMMIT = struct.Struct(">BQQq")
_STREAM_START = struct.Struct(">IB")
_STREAM_COMMIT = struct.Struct(">IBQQq")
_STREAM_ABORT = struct.Struct(">II")
_STREAM_ABORT_AT = struct.Struct(">IIQq")
_RELATION_ID = struct.Struct(">I")
_COLUMN_TYPE = struct.Struct(">Ii")
_TRUNCATE = struct.Struct(">IB")
_MESSAGE = struct.Struct(">BQ")
_u64 = struct.Struct(">Q").unpack_from
_u32 = struct.Struct(">I").unpack_from
_u16 = struct.Struct(">H").unpack_from

_NEW, _OLD_KEY, _OLD_FULL = ord("N"), ord("K"), ord("O")
_OLD = frozenset((_OLD_KEY, _OLD_FULL))
_CASCADE, _RESTART_IDENTITY = 1, 2
_CHANGES = frozenset((INSERT, UPDATE, DELETE))
_VALUES = frozenset((TEXT, BINARY))
# What a message that was cut or damaged makes the readers raise.
_ERRORS = (struct.error, IndexError, ValueError)


class MalformedMessageError(errors.PermanentError):
    """The server has sent what is no message of the protocol, or one about a table that it has not described."""


class Decoder:
    """Reads messages; remembers the tables that the stream has described."""

    def __init__(self, key_of: KeyOf | None = None, relations: MutableMapping[int, Relation] | None = None) -> None:
        """`key_of` chooses each table's key; without it that is the replica identity.

        `relations` may be given to share or to overlay what other decoders know.
        """
        self.relations: MutableMapping[int, Relation] = {} if relations is None else relations
        """The tables by oid, as last described."""
        self._key_of = key_of or identity_columns
        self._plans: dict[int, tuple[Relation, _Walk]] = {}
        self._others: dict[int, Callable[[bytes, int, int], Message]] = {
            ord("B"): _read_begin,
            ord("C"): _read_commit,
            ord("O"): _read_origin,
            ord("R"): self._read_relation,
            ord("Y"): _read_type,
            ord("T"): self._read_truncate,
            ord("M"): _read_message,
            ord("S"): _read_stream_start,
            ord("E"): _read_stream_stop,
            ord("c"): _read_stream_commit,
            ord("A"): _read_stream_abort,
        }

    def decode(self, data: bytes, position: int = 0, *, in_stream: bool = False) -> Message:
        """The message at a position, which has to end where `data` does.

        Between StreamStart and StreamStop (`in_stream`) most messages carry the id of their transaction.

        Raises:
            MalformedMessageError: it is none, or is about a table that was not described before.
        """
        try:
            kind = data[position]
            if kind in _CHANGES:
                return self._read_change(kind, data, position + 1, in_stream)
            read = self._others.get(kind)
            if read is None:
                raise malformed(f"its kind is {chr(kind)!r}, which dsync has not asked for")
            xid = 0
            if in_stream and kind in b"RYTM":
                (xid,) = _u32(data, position + 1)
                position += 4
            return read(data, position + 1, xid)
        except _ERRORS as exc:
            raise malformed("it is cut short or damaged") from exc

    def _read_change(self, kind: int, data: bytes, p: int, in_stream: bool) -> Change:
        xid = 0
        if in_stream:
            (xid,) = _u32(data, p)
            p += 4
        (oid,) = _u32(data, p)
        known = self._plans.get(oid)
        relation = self.relations.get(oid)
        if relation is None:
            raise malformed("it changes a table that the server has not described")
        if known is None or known[0] is not relation:
            known = self._plans[oid] = (relation, _Walk(relation))
        walk = known[1]
        record = data[p + 4 :]
        size = len(record)
        mark = record[0]
        if mark == _NEW and kind != DELETE:
            new = walk.read(record, 1)
            if new.end != size:
                raise malformed("it is longer than its columns")
            if new.has_unchanged:
                new = walk.require_key(new)
            return Change(kind, relation, xid, record, None, new, False)
        if mark not in _OLD or kind == INSERT:
            raise malformed("it has no row where one should be")
        old = walk.read(record, 1)
        if old.has_unchanged:
            raise malformed("the row before the change lacks values")
        is_full = mark == _OLD_FULL
        if kind == DELETE:
            if old.end != size:
                raise malformed("it is longer than its columns")
            return Change(kind, relation, xid, record, old, None, is_full)
        if record[old.end] != _NEW:
            raise malformed("it has no row where one should be")
        new = walk.read(record, old.end + 1)
        if new.end != size:
            raise malformed("it is longer than its columns")
        return Change(kind, relation, xid, record, old, walk.require_key(new, old), is_full)

    def _read_relation(self, data: bytes, p: int, xid: int) -> RelationNews:
        (oid,) = _RELATION_ID.unpack_from(data, p)
        schema, p = _text(data, p + 4)
        name, p = _text(data, p)
        identity = chr(data[p])
        (count,) = _u16(data, p + 1)
        p += 3
        columns = []
        for _ in range(count):
            flags = data[p]
            column, p = _text(data, p + 1)
            type_oid, modifier = _COLUMN_TYPE.unpack_from(data, p)
            p += 8
            columns.append(
                RelationColumn(name=column, type_oid=type_oid, modifier=modifier, is_identity=bool(flags & 1))
            )
        _require_end(data, p)
        relation = Relation(
            oid=oid, schema=schema or "pg_catalog", name=name, identity=identity, columns=tuple(columns)
        )
        relation = replace(relation, key=self._key_of(relation))
        if self.relations.get(oid) == relation:
            # Described again after some invalidation, and the same: what was made for it stays.
            return RelationNews(relation=self.relations[oid], xid=xid)
        self.relations[oid] = relation
        return RelationNews(relation=relation, xid=xid)

    def _read_truncate(self, data: bytes, p: int, xid: int) -> Truncate:
        count, options = _TRUNCATE.unpack_from(data, p)
        oids = struct.unpack_from(f">{count}I", data, p + _TRUNCATE.size) if count <= len(data) else ()
        _require_end(data, p + _TRUNCATE.size + 4 * count)
        if not all(oid in self.relations for oid in oids):
            raise malformed("it empties a table that the server has not described")
        return Truncate(
            relations=tuple(self.relations[oid] for oid in oids),
            is_cascade=bool(options & _CASCADE),
            restarts_identity=bool(options & _RESTART_IDENTITY),
            xid=xid,
        )


def identity_columns(relation: Relation) -> tuple[int, ...]:
    """The columns that the replica identity has, in the table's order."""
    return tuple(index for index, column in enumerate(relation.columns) if column.is_identity)


def malformed(reason: str) -> MalformedMessageError:
    """The error for a message that cannot be read; never says what is in it."""
    return MalformedMessageError(
        f"reading the replication stream: a message of the server was not understood: {reason}; nothing of it was "
        "taken over, and the flow's position stays; use TLS if the line may damage data, and report it if it persists"
    )


class _Walk:
    """Walks over the values of one table's rows."""

    __slots__ = ("_count", "_is_key", "_order")

    def __init__(self, relation: Relation) -> None:
        self._count = len(relation.columns)
        self._is_key = tuple(index in relation.key for index in range(self._count))
        found = sorted(relation.key)
        order = tuple(found.index(index) for index in relation.key)
        # Keys mostly have the order of their columns.
        self._order = None if order == tuple(range(len(order))) else order

    def read(self, data: bytes, start: int) -> Row:
        """The row that begins at a position."""
        (count,) = _u16(data, start)
        if count != self._count:
            raise malformed("its row does not have the columns of its table")
        p = start + 2
        key: list[bytes | None] = []
        has_unchanged = False
        for is_key in self._is_key:
            mark = data[p]
            if mark in _VALUES:
                end = p + 5 + _u32(data, p + 1)[0]
                if is_key:
                    key.append(data[p + 5 : end])
                p = end
            elif mark == NULL:
                p += 1
                if is_key:
                    key.append(None)
            elif mark == UNCHANGED:
                p += 1
                has_unchanged = True
                if is_key:
                    key.append(_NOT_SENT)
            else:
                raise malformed("a value is of no kind that there is")
        if p > len(data):
            raise malformed("it is cut short or damaged")
        found = tuple(key) if self._order is None else tuple([key[place] for place in self._order])
        return Row(start, p, found, has_unchanged)

    @staticmethod
    def require_key(new: Row, old: Row | None = None) -> Row:
        """The new row with a key that is known as a whole: what was not sent has not changed."""
        if not new.has_unchanged or not any(part is _NOT_SENT for part in new.key):
            return new
        if old is None:
            # Servers since early 2022 send the old key then (14.2 and later).
            raise malformed("a key was not sent; update the server to its newest minor release")
        key: Key = tuple([before if part is _NOT_SENT else part for part, before in zip(new.key, old.key, strict=True)])
        return new._replace(key=key)


# An object of its own, told from every value by identity.
_NOT_SENT = bytes(bytearray(b"not sent"))


def _text(data: bytes, start: int) -> tuple[str, int]:
    """A string that ends with a NUL, and where the next thing begins."""
    end = data.index(0, start)
    return data[start:end].decode(), end + 1


def _require_end(data: bytes, end: int) -> None:
    if end != len(data):
        raise malformed("it has not the length that it should have")


def _whole(layout: struct.Struct, data: bytes, p: int) -> tuple[int, ...]:
    """The fields of a message that consists of nothing else."""
    _require_end(data, p + layout.size)
    return layout.unpack_from(data, p)


def _read_begin(data: bytes, p: int, _: int) -> Begin:
    commit_lsn, commit_time_us, xid = _whole(_BEGIN, data, p)
    return Begin(commit_lsn=commit_lsn, commit_time_us=commit_time_us, xid=xid)


def _read_commit(data: bytes, p: int, _: int) -> Commit:
    _, commit_lsn, end_lsn, commit_time_us = _whole(_COMMIT, data, p)
    return Commit(commit_lsn=commit_lsn, end_lsn=end_lsn, commit_time_us=commit_time_us)


def _read_origin(data: bytes, p: int, _: int) -> Origin:
    (commit_lsn,) = _u64(data, p)
    name, end = _text(data, p + 8)
    _require_end(data, end)
    return Origin(commit_lsn=commit_lsn, name=name)


def _read_type(data: bytes, p: int, xid: int) -> TypeName:
    (oid,) = _u32(data, p)
    schema, p = _text(data, p + 4)
    name, p = _text(data, p)
    _require_end(data, p)
    return TypeName(oid=oid, schema=schema or "pg_catalog", name=name, xid=xid)


def _read_message(data: bytes, p: int, xid: int) -> LogicalMessage:
    flags, lsn = _MESSAGE.unpack_from(data, p)
    prefix, p = _text(data, p + _MESSAGE.size)
    (size,) = _u32(data, p)
    _require_end(data, p + 4 + size)
    return LogicalMessage(is_transactional=bool(flags & 1), lsn=lsn, prefix=prefix, content=data[p + 4 :], xid=xid)


def _read_stream_start(data: bytes, p: int, _: int) -> StreamStart:
    xid, is_first = _whole(_STREAM_START, data, p)
    return StreamStart(xid=xid, is_first=bool(is_first))


def _read_stream_stop(data: bytes, p: int, _: int) -> StreamStop:
    _require_end(data, p)
    return StreamStop()


def _read_stream_commit(data: bytes, p: int, _: int) -> StreamCommit:
    xid, _flags, commit_lsn, end_lsn, commit_time_us = _whole(_STREAM_COMMIT, data, p)
    return StreamCommit(xid=xid, commit_lsn=commit_lsn, end_lsn=end_lsn, commit_time_us=commit_time_us)


def _read_stream_abort(data: bytes, p: int, _: int) -> StreamAbort:
    if len(data) - p == _STREAM_ABORT.size:
        xid, subxid = _STREAM_ABORT.unpack_from(data, p)
        return StreamAbort(xid=xid, subxid=subxid)
    xid, subxid, abort_lsn, abort_time_us = _whole(_STREAM_ABORT_AT, data, p)
    return StreamAbort(xid=xid, subxid=subxid, abort_lsn=abort_lsn, abort_time_us=abort_time_us)
