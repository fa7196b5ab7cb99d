"""Writes messages of the logical replication protocol as a server does, for tests."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

UNCHANGED = object()
"""A value that the change has not touched, and that was not sent."""

Value = bytes | None | object


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a described table."""

    name: str
    type_oid: int = 25
    modifier: int = -1
    is_identity: bool = False


def text(value: str) -> bytes:
    return value.encode() + b"\0"


def _xid(xid: int | None) -> bytes:
    return b"" if xid is None else struct.pack(">I", xid)


def row(values: Sequence[Value], *, mark: bytes = b"t") -> bytes:
    """TupleData."""
    out = struct.pack(">H", len(values))
    for value in values:
        if value is None:
            out += b"n"
        elif value is UNCHANGED:
            out += b"u"
        else:
            assert isinstance(value, bytes)
            out += mark + struct.pack(">I", len(value)) + value
    return out


def begin(*, commit_lsn: int, time_us: int = 0, xid: int = 700) -> bytes:
    return b"B" + struct.pack(">QqI", commit_lsn, time_us, xid)


def commit(*, commit_lsn: int, end_lsn: int, time_us: int = 0) -> bytes:
    return b"C" + struct.pack(">BQQq", 0, commit_lsn, end_lsn, time_us)


def origin(*, lsn: int, name: str) -> bytes:
    return b"O" + struct.pack(">Q", lsn) + text(name)


def relation(
    oid: int, columns: Sequence[Column], *, schema: str = "public", name: str = "t", identity: str = "d",
    xid: int | None = None,
) -> bytes:  # fmt: skip
    out = b"R" + _xid(xid) + struct.pack(">I", oid) + text(schema) + text(name) + identity.encode()
    out += struct.pack(">H", len(columns))
    for column in columns:
        out += bytes([column.is_identity]) + text(column.name) + struct.pack(">Ii", column.type_oid, column.modifier)
    return out


def type_name(oid: int, schema: str, name: str, *, xid: int | None = None) -> bytes:
    return b"Y" + _xid(xid) + struct.pack(">I", oid) + text(schema) + text(name)


def insert(oid: int, new: bytes, *, xid: int | None = None) -> bytes:
    return b"I" + _xid(xid) + struct.pack(">I", oid) + b"N" + new


def update(
    oid: int, new: bytes, *, old_key: bytes | None = None, old: bytes | None = None, xid: int | None = None
) -> bytes:
    before = b"" if old_key is None else b"K" + old_key
    before += b"" if old is None else b"O" + old
    return b"U" + _xid(xid) + struct.pack(">I", oid) + before + b"N" + new


def delete(oid: int, *, old_key: bytes | None = None, old: bytes | None = None, xid: int | None = None) -> bytes:
    before = b"K" + old_key if old_key is not None else b"O" + (old or b"")
    return b"D" + _xid(xid) + struct.pack(">I", oid) + before


def truncate(oids: Sequence[int], *, options: int = 0, xid: int | None = None) -> bytes:
    return b"T" + _xid(xid) + struct.pack(f">IB{len(oids)}I", len(oids), options, *oids)


def message(prefix: str, content: bytes, *, flags: int = 1, lsn: int = 0, xid: int | None = None) -> bytes:
    return b"M" + _xid(xid) + struct.pack(">BQ", flags, lsn) + text(prefix) + struct.pack(">I", len(content)) + content


def stream_start(xid: int, *, is_first: bool = True) -> bytes:
    return b"S" + struct.pack(">IB", xid, is_first)


STREAM_STOP = b"E"


def stream_commit(xid: int, *, commit_lsn: int, end_lsn: int, time_us: int = 0) -> bytes:
    return b"c" + struct.pack(">IBQQq", xid, 0, commit_lsn, end_lsn, time_us)


def stream_abort(xid: int, subxid: int, at: tuple[int, int] | None = None) -> bytes:
    return b"A" + struct.pack(">II", xid, subxid) + (b"" if at is None else struct.pack(">Qq", *at))
