"""What pgoutput says: the messages of the logical replication protocol, versions 1 to 4, as values.

They mirror the manual's chapter "Logical Replication Message Formats". Row changes are the hot path: they are named
tuples, which cost a quarter of a frozen dataclass, and their values stay the bytes that the server has sent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

NULL, UNCHANGED, TEXT, BINARY = ord("n"), ord("u"), ord("t"), ord("b")
"""How a column's value is marked in a row: without value, unchanged and not sent (TOAST), as text, in binary."""

INSERT, UPDATE, DELETE = ord("I"), ord("U"), ord("D")
"""What kind of change a `Change` is."""

IDENTITY_DEFAULT, IDENTITY_NOTHING, IDENTITY_FULL, IDENTITY_INDEX = "d", "n", "f", "i"
"""A table's replica identity, as pg_class.relreplident."""

Key = tuple[bytes | None, ...]
"""The values of a row's key columns, in key order; None is NULL."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RelationColumn:
    """A column as the stream has it: generated columns are absent from it."""

    name: str
    type_oid: int
    modifier: int
    is_identity: bool
    """Part of the replica identity; with FULL every column is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """A table as the rows that follow were written; sent again once it has changed."""

    oid: int
    schema: str
    name: str
    identity: str
    columns: tuple[RelationColumn, ...]
    key: tuple[int, ...] = ()
    """Which columns identify a row, by index and in key order."""


class Row(NamedTuple):
    """One version of a row."""

    start: int
    """Where in the change's record it is, in the server's own form: an Int16 that counts the columns, then each
    value's mark, and for text and binary an Int32 with its length and the value itself."""
    end: int
    key: Key
    has_unchanged: bool
    """Values are missing from it which the change has not touched (marked `u`)."""


class Change(NamedTuple):
    """A row inserted, updated or deleted."""

    kind: int
    relation: Relation
    xid: int
    """Which (sub)transaction of a streamed one has made it; 0 in one that is sent as a whole."""
    record: bytes
    """What follows the table's id in the message: the old row and the new one, each after its mark."""
    old: Row | None
    """Before an update or delete, as far as it was sent: key columns only, unless `old_is_full`."""
    new: Row | None
    old_is_full: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Begin:
    """A transaction follows, as a whole, which has committed."""

    commit_lsn: int
    """Where its commit record begins."""
    commit_time_us: int
    """Microseconds since 2000-01-01 UTC."""
    xid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """The end of what `Begin` began."""

    commit_lsn: int
    end_lsn: int
    """Where its commit record ends: a stream that starts there begins with the next transaction."""
    commit_time_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The transaction was replicated to the server from elsewhere."""

    commit_lsn: int
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TypeName:
    """A type that is not built in, by its name."""

    oid: int
    schema: str
    name: str
    xid: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RelationNews:
    """A table as it is from here on."""

    relation: Relation
    xid: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Truncate:
    """Tables were emptied."""

    relations: tuple[Relation, ...]
    is_cascade: bool
    restarts_identity: bool
    xid: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LogicalMessage:
    """What somebody has written by pg_logical_emit_message."""

    is_transactional: bool
    lsn: int
    prefix: str
    content: bytes
    xid: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamStart:
    """A part of a large transaction follows, which may still be rolled back."""

    xid: int
    is_first: bool


@dataclass(frozen=True, slots=True)
class StreamStop:
    """The end of the part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamCommit:
    """A transaction that came in parts has committed."""

    xid: int
    commit_lsn: int
    end_lsn: int
    commit_time_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamAbort:
    """A transaction that came in parts, or one of its subtransactions, was rolled back."""

    xid: int
    subxid: int
    """Equal to `xid`: all of it."""
    abort_lsn: int = 0
    """Sent by servers from 16 on to those who apply in parallel."""
    abort_time_us: int = 0


Message = (
    Begin
    | Commit
    | Origin
    | RelationNews
    | TypeName
    | Change
    | Truncate
    | LogicalMessage
    | StreamStart
    | StreamStop
    | StreamCommit
    | StreamAbort
)
