"""Changes to the documents: inserts at the end, deletes at the beginning, updates in between.

The k-th change and all before it follow from the seed, so a cursor is three numbers: how many changes there were, and
how many of them were inserts and deletes. What lives is always one run of ids.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import xxhash

from dsync.sdk.errors import RequestError
from dsync.sdk.types import BsonValue, Update, UpdateType
from dsync_random.options import RandomOptions
from dsync_random.shapes import INT64, Shape, id_bytes

_CURSOR = struct.Struct(">QQQ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """A place in a namespace's changes."""

    changes: int = 0
    inserts: int = 0
    deletes: int = 0

    def encode(self) -> bytes:
        return _CURSOR.pack(self.changes, self.inserts, self.deletes)

    @classmethod
    def decode(cls, cursor: bytes) -> Position:
        """The position behind a cursor; empty: before the first change.

        Raises:
            RequestError: it is not one of ours.
        """
        if not cursor:
            return cls()
        if len(cursor) != _CURSOR.size:
            raise RequestError("StreamUpdates: the cursor is not one that the random source has given")
        changes, inserts, deletes = _CURSOR.unpack(cursor)
        return cls(changes=changes, inserts=inserts, deletes=deletes)

    def living(self, documents: int) -> range:
        """The ids that exist here, of a namespace that began with so many documents."""
        return range(self.deletes, documents + self.inserts)


def changes_after(
    position: Position, *, shape: Shape, options: RandomOptions, salt: str
) -> Iterator[tuple[Update, Position]]:
    """Each change with the position behind it, up to the last one there is."""
    inserts_share, updates_share, _ = options.change_mix
    shares = sum(options.change_mix)
    while position.changes < options.changes:
        roll = xxhash.xxh3_64_intdigest(f"{salt}/{position.changes}".encode(), seed=options.seed)
        share, roll = roll % shares, roll // shares
        living = position.living(options.documents)
        number = position.changes + 1
        if share < inserts_share or not living:
            update = _write(UpdateType.INSERT, living.stop, shape)
            position = Position(changes=number, inserts=position.inserts + 1, deletes=position.deletes)
        elif share < inserts_share + updates_share:
            update = _write(UpdateType.UPDATE, living[roll % len(living)], shape, version=number)
            position = Position(changes=number, inserts=position.inserts, deletes=position.deletes)
        else:
            update = Update(id=(_id(living.start),), type=UpdateType.DELETE)
            position = Position(changes=number, inserts=position.inserts, deletes=position.deletes + 1)
        yield update, position


def _write(kind: UpdateType, number: int, shape: Shape, *, version: int = 0) -> Update:
    return Update(id=(_id(number),), type=kind, data=shape.document(number, version=version))


def _id(number: int) -> BsonValue:
    return BsonValue(data=id_bytes(number), type=INT64, name="_id")
