"""Makes frames of a stream's events: records as the server has sent them, in its order.

A change is looked at once and its record sliced, not rebuilt; only where a value was not sent and the old row has it is
the new row put together again.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from dsync.sdk.types import ChangeColumn, ChangeCommit, ChangeFrame, ChangeRelation, ChangeType, Operation
from dsync_postgres.schema.names import TableName
from dsync_postgres.stream.keys import KeyHash, TableKey, key_hash
from dsync_postgres.stream.messages import (
    BINARY,
    DELETE,
    INSERT,
    NULL,
    TEXT,
    UNCHANGED,
    Begin,
    Change,
    Commit,
    LogicalMessage,
    Relation,
    Row,
    Truncate,
)
from dsync_postgres.stream.position import Position
from dsync_postgres.stream.transactions import Event, Watermark

MARK_PREFIX = "dsync"
"""Of logical messages that are for us; those of others are passed over."""

TypeName = tuple[int, int]
"""A type's oid and a modifier."""

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MOST_CHANGES = 50_000
# What a frame has beside its records: of each change, and of its relations and commits.
_CHANGE_BYTES, _ENVELOPE_BYTES = 15, 16 * 1024
_u32 = struct.Struct(">I").unpack_from
_VALUES = frozenset((TEXT, BINARY))


@dataclass(slots=True, kw_only=True)
class _Shape:
    """A table as the changes that follow have it."""

    relation: Relation
    namespace: str
    is_wanted: bool
    hash: KeyHash
    index: int = -1
    """In the frame that is being made; -1: it is not in it."""


class FrameBuilder:
    """Collects changes until a frame is full; never waits, and never looks into a value."""

    def __init__(
        self,
        position: Position,
        *,
        tables: Mapping[int, TableKey],
        namespaces: Collection[str] = (),
        frame_bytes: int,
    ) -> None:
        """Begin after a position; of `namespaces` only, where there are any."""
        self.sent = position
        """Where the stream stands after the last frame: it can begin again there."""
        self._end_lsn, self._transaction, self._index = position.end_lsn, position.transaction, position.index
        self._tables = tables
        self._resumed = position
        self._wanted = frozenset(namespaces)
        self._frame_bytes = frame_bytes
        self._shapes: dict[int, _Shape] = {}
        # The shape of each namespace that was last said.
        self._told: dict[str, Relation] = {}
        # Changes of the transaction that the position lies in, which have been sent before.
        self._skip = 0
        self._begun: Begin | None = None
        self._is_old = False
        self._has_moved = False
        self._clear()

    def _clear(self) -> None:
        self._operations = bytearray()
        self._relation_of = array("H")
        self._hashes = array("Q")
        self._old_hashes = array("Q")
        self._sizes = array("I")
        self._records: list[bytes] = []
        self._body_bytes = 0
        self._commits: list[ChangeCommit] = []
        self._in_frame: list[_Shape] = []
        self._first_index = -1

    def __len__(self) -> int:
        """How many changes the frame in the making has."""
        return len(self._operations)

    @property
    def is_full(self) -> bool:
        """It has what a frame should weigh."""
        return self._body_bytes >= self._frame_bytes or len(self._operations) >= _MOST_CHANGES

    @property
    def size_bytes(self) -> int:
        """What the frame in the making weighs, about."""
        return self._body_bytes + _CHANGE_BYTES * len(self._operations) + _ENVELOPE_BYTES

    @property
    def namespaces(self) -> list[str]:
        """Whose changes the frame in the making has."""
        return [shape.namespace for shape in self._in_frame]

    @property
    def is_between(self) -> bool:
        """No transaction is in the midst of being added."""
        return self._begun is None

    @property
    def has_moved(self) -> bool:
        """The position is another one than that of the last frame."""
        return self._has_moved

    @property
    def relations(self) -> list[Relation]:
        """The tables that the frame in the making has changes of; they may be described for `flush`."""
        return [shape.relation for shape in self._in_frame]

    @property
    def types(self) -> set[TypeName]:
        """What has to be named for `flush`."""
        return {(column.type_oid, column.modifier) for shape in self._in_frame for column in shape.relation.columns}

    # ------------------------------------------------------------------- adding

    def add(self, event: Event) -> None:
        """Take the next event."""
        if isinstance(event, Change):
            self._add_change(event)
        elif isinstance(event, Begin):
            self._begin(event)
        elif isinstance(event, Commit):
            self._commit(event)
        elif isinstance(event, Truncate):
            self._add_truncate(event)
        elif isinstance(event, LogicalMessage):
            is_mark = event.prefix == MARK_PREFIX and event.is_transactional
            if is_mark and not self._is_old and not self._skip:
                self._add_mark(event)
        elif isinstance(event, Watermark):
            self._move_to(event.lsn)

    def _begin(self, begin: Begin) -> None:
        self._begun = begin
        resumed = self._resumed
        # The server may begin a little earlier than it was asked to.
        self._is_old = begin.commit_lsn < (resumed.transaction if resumed.is_inside else resumed.end_lsn)
        self._skip = resumed.index if resumed.is_inside and begin.commit_lsn == resumed.transaction else 0

    def _commit(self, commit: Commit) -> None:
        if self._transaction == commit.commit_lsn and not self._is_old:
            if self._first_index < 0:
                # Its changes were in earlier frames, all of them.
                self._first_index = self._index
            time = _EPOCH + timedelta(microseconds=commit.commit_time_us)
            self._commits.append(ChangeCommit(end=len(self._operations), transaction=commit.commit_lsn, time=time))
        self._begun, self._is_old, self._skip = None, False, 0
        self._move_to(commit.end_lsn)

    def _move_to(self, end_lsn: int) -> None:
        if end_lsn > self._end_lsn:
            self._end_lsn = end_lsn
            self._has_moved = True

    def _add_change(self, change: Change) -> None:
        shape = self._shapes.get(change.relation.oid)
        if shape is None or shape.relation is not change.relation:
            shape = self._shape_of(change.relation)
        if not shape.is_wanted:
            return
        new, old, record = change.new, change.old, change.record
        if change.kind == INSERT:
            assert new is not None, "so says the protocol"
            self._count(Operation.INSERT, shape, shape.hash(new.key), record)
        elif change.kind == DELETE:
            assert old is not None, "so says the protocol"
            self._count(Operation.DELETE, shape, shape.hash(old.key), record)
        else:
            assert new is not None, "so says the protocol"
            if new.has_unchanged and change.old_is_full:
                record, new = _completed(change)
            is_moved = old is not None and old.key != new.key
            if not is_moved:
                operation = Operation.PARTIAL_UPDATE if new.has_unchanged else Operation.UPDATE
                self._count(operation, shape, shape.hash(new.key), record)
            elif new.has_unchanged:
                assert old is not None, "so says is_moved"
                self._count(Operation.MOVE, shape, shape.hash(new.key), record, old=shape.hash(old.key))
            else:
                assert old is not None, "so says is_moved"
                self._count(Operation.DELETE, shape, shape.hash(old.key), record[: old.end])
                self._count(Operation.INSERT, shape, shape.hash(new.key), record[old.end :])

    def _add_mark(self, mark: LogicalMessage) -> None:
        """It has no number of its own, but its transaction has a place: what ends with it ends after all before."""
        assert self._begun is not None, "marks are written in transactions"
        if self._begun.commit_lsn != self._transaction:
            self._transaction, self._index = self._begun.commit_lsn, 0
        if self._first_index < 0:
            self._first_index = self._index
        self._append(Operation.MARK, 0, 0, mark.content)

    def _add_truncate(self, truncate: Truncate) -> None:
        """One for each table, directly after each other: foreign keys among them forbid to empty one alone."""
        shapes = [shape for relation in truncate.relations if (shape := self._shape_of(relation)).is_wanted]
        if not self._skip and not self._is_old:
            for shape in shapes:
                self._place(shape)
        flags = bytes((truncate.is_cascade | truncate.restarts_identity << 1,))
        for shape in shapes:
            self._count(Operation.TRUNCATE, shape, 0, flags)

    def _count(self, operation: int, shape: _Shape, key: int, record: bytes, *, old: int | None = None) -> None:
        """Add what has a number in its transaction, unless it was sent before; `old`: the hash of the key it had."""
        if self._skip or self._is_old:
            self._skip -= not self._is_old
            return
        assert self._begun is not None, "changes come in transactions"
        transaction = self._begun.commit_lsn
        if transaction != self._transaction:
            self._transaction, self._index = transaction, 0
        if self._first_index < 0:
            self._first_index = self._index
        self._place(shape)
        self._append(operation, shape.index, key, record)
        if old is not None:
            self._old_hashes.append(old)
        self._index += 1

    def _append(self, operation: int, relation: int, key: int, record: bytes) -> None:
        self._operations.append(operation)
        self._relation_of.append(relation)
        self._hashes.append(key)
        self._sizes.append(len(record))
        self._records.append(record)
        self._body_bytes += len(record)
        self._has_moved = True

    def _shape_of(self, relation: Relation) -> _Shape:
        known = self._shapes.get(relation.oid)
        if known is not None and known.relation is relation:
            return known
        namespace = TableName(schema=relation.schema, name=relation.name).namespace
        shape = self._shapes[relation.oid] = _Shape(
            relation=relation,
            namespace=namespace,
            is_wanted=not self._wanted or namespace in self._wanted,
            hash=key_hash(relation, self._tables),
        )
        return shape

    def _place(self, shape: _Shape) -> None:
        """See to it that the frame has the table; its shape is told before its first change, and when it changes."""
        if shape.index >= 0:
            return
        is_new = shape.namespace not in self._told or self._told[shape.namespace] is not shape.relation
        shape.index = len(self._in_frame)
        self._in_frame.append(shape)
        if is_new:
            self._told[shape.namespace] = shape.relation
            self._append(Operation.RESHAPE, shape.index, 0, b"")

    # ----------------------------------------------------------------- flushing

    def flush(
        self,
        name_of: Callable[[TypeName], str],
        *,
        details_of: Callable[[Relation], bytes] = lambda relation: b"",
        time: datetime | None = None,
        position: int = 0,
    ) -> ChangeFrame:
        """The frame of everything that was added since the last one, which may be no change."""
        self.sent = replace(self.sent, end_lsn=self._end_lsn, transaction=self._transaction, index=self._index)
        frame = ChangeFrame(
            type=ChangeType.PG_OUTPUT,
            cursor=self.sent.encode(),
            transaction=self._transaction,
            index=self._index,
            first_index=max(0, self._first_index),
            relations=self._relations(name_of, details_of),
            operations=bytes(self._operations),
            relation_of=_little(self._relation_of),
            key_hashes=_little(self._hashes),
            moved_from=_little(self._old_hashes),
            sizes=_little(self._sizes),
            body=b"".join(self._records),
            commits=tuple(self._commits),
            time=time,
            position=position,
        )
        for shape in self._in_frame:
            shape.index = -1
        self._clear()
        self._has_moved = False
        return frame

    def _relations(
        self, name_of: Callable[[TypeName], str], details_of: Callable[[Relation], bytes]
    ) -> tuple[ChangeRelation, ...]:
        found = tuple(_described(shape, name_of, details_of) for shape in self._in_frame)
        # A mark concerns no table, but every change has an index into these.
        return found or ((ChangeRelation(namespace=""),) if self._operations else ())


def _described(
    shape: _Shape, name_of: Callable[[TypeName], str], details_of: Callable[[Relation], bytes]
) -> ChangeRelation:
    relation = shape.relation
    places = {index: place for place, index in enumerate(relation.key, start=1)}
    return ChangeRelation(
        namespace=shape.namespace,
        columns=tuple(
            ChangeColumn(
                name=column.name,
                type=name_of((column.type_oid, column.modifier)),
                key_position=places.get(index, 0),
            )
            for index, column in enumerate(relation.columns)
        ),
        full_old_row=relation.identity == "f",
        details=details_of(relation),
    )


def _completed(change: Change) -> tuple[bytes, Row]:
    """The record with the values that were not sent taken from the old row, which has them all."""
    record, old, new = change.record, change.old, change.new
    assert old is not None, "so says the caller"
    assert new is not None, "so says the caller"
    before = _values(record, old)
    values = [
        kept if value[0] == UNCHANGED else value for value, kept in zip(_values(record, new), before, strict=True)
    ]
    row = record[new.start : new.start + 2] + b"".join(values)
    whole = record[: new.start] + row
    return whole, new._replace(end=len(whole), has_unchanged=False)


def _values(record: bytes, row: Row) -> list[bytes]:
    """Each value with its mark and length; the decoder has walked over them before."""
    found, p = [], row.start + 2
    while p < row.end:
        mark = record[p]
        assert mark in _VALUES or mark in (NULL, UNCHANGED), "so says the decoder"
        end = p + 5 + _u32(record, p + 1)[0] if mark in _VALUES else p + 1
        found.append(record[p:end])
        p = end
    return found


def _little(numbers: array[int]) -> bytes:
    if sys.byteorder == "big":
        numbers = array(numbers.typecode, numbers)
        numbers.byteswap()
    return numbers.tobytes()
