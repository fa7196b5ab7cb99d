"""A document that another program has made: fields in any order, key columns perhaps only in `_id`."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

from dsync_postgres.documents.bson import (
    DOCUMENT,
    NULL,
    OBJECT_ID,
    PG_NULL,
    UNDEFINED,
    Misfit,
    elements,
)
from dsync_postgres.documents.layout import Item, Layout, field_name
from dsync_postgres.documents.values import decoder

_I32 = struct.Struct("<i")
_COUNT = struct.Struct(">h")

Value = tuple[int, bytes]
"""A BSON type and a value's bytes."""


class ForeignReader:
    """Decodes one document at a time for one table, and says of a bad one which field is wrong and why."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._decoders = {item.index: decoder(item.type) for item in layout.items}
        self._fields = {item.name[:-1]: item for item in layout.items}
        self._key = {item.index for item in layout.key}
        self._identity = layout.identity.encode()
        self._id_column = next((item for item in layout.items if item.column == layout.identity), None)

    def read(self, data: bytes, position: int, out: bytearray) -> int:
        """Append the row of the document at `position` and return where the next document begins.

        Raises:
            Misfit: it cannot be applied; the reason names the field.
        """
        end = self._end(data, position)
        fields: dict[bytes, Value] = {}
        for kind, name, start, stop in elements(data, position, end):
            if name in fields:
                raise Misfit(f"field {_shown(name)} is there twice")
            fields[name] = (kind, data[start:stop])
        identity = fields.pop(self._identity, None)
        unknown = next((name for name in fields if name not in self._fields), None)
        if unknown is not None:
            raise Misfit(f"field {_shown(unknown)} is no column of the table")
        from_id = self._columns_of(identity, fields)
        out += _COUNT.pack(len(self._layout.items)) + b"".join(
            [self._field(item, fields.get(item.name[:-1]), from_id.get(item.index)) for item in self._layout.items]
        )
        return end

    @staticmethod
    def _end(data: bytes, position: int) -> int:
        if len(data) - position >= 5:
            (length,) = _I32.unpack_from(data, position)
            if 5 <= length <= len(data) - position:
                return int(position + length)
        raise Misfit("it is not valid BSON")

    def _columns_of(self, identity: Value | None, fields: Mapping[bytes, Value]) -> Mapping[int, Value]:
        """What `_id` says about columns.

        An ObjectId is nobody's column: it is what rows without key are given. A table may have its key only after
        the load; until then an `_id` has to be the value of some column, so that nothing is lost.

        Raises:
            Misfit: it is not the key, or nobody can say of which column it is.
        """
        if identity is None or identity[0] == OBJECT_ID:
            return {}
        key = self._layout.key
        if len(key) == 1:
            return {key[0].index: identity}
        if key:
            return self._key_columns_of(*identity, key)
        if self._id_column is not None and self._id_column.name[:-1] not in fields:
            return {self._id_column.index: identity}
        if identity in fields.values():
            return {}
        if identity[0] == DOCUMENT:
            return self._key_columns_of(*identity, self._layout.items)
        raise Misfit(
            f"{self._layout.identity} is the value of no field, and the table has no key that would say of which column"
        )

    def _key_columns_of(self, kind: int, value: bytes, key: Sequence[Item]) -> Mapping[int, Value]:
        if kind != DOCUMENT:
            raise Misfit(f"{self._layout.identity} is not a document of the key's columns")
        by_name = {item.column.encode(): item.index for item in key}
        found: dict[int, Value] = {}
        for inner, name, start, end in elements(value, 0, len(value)):
            if name not in by_name:
                raise Misfit(f"field {self._layout.identity}.{_shown(name)} is no column of the key")
            found[by_name[name]] = (inner, value[start:end])
        return found

    def _field(self, item: Item, given: Value | None, from_id: Value | None) -> bytes:
        if given is None:
            if from_id is None and item.index in self._key:
                raise Misfit(f"key column {item.column!r} is neither a field nor in {self._layout.identity}")
            return self._convert(item, from_id, self._layout.identity)
        value = self._convert(item, given, item.name[:-1].decode())
        if from_id is not None and value != self._convert(item, from_id, self._layout.identity):
            raise Misfit(f"field {_shown(item.name[:-1])} and {self._layout.identity} disagree about the key")
        return value

    def _convert(self, item: Item, value: Value | None, field: str) -> bytes:
        if value is None or value[0] in (NULL, UNDEFINED):
            return PG_NULL
        try:
            return self._decoders[item.index](*value)
        except Misfit as exc:
            raise Misfit(f"field {field!r}: {exc}") from exc
        except (struct.error, IndexError, ValueError) as exc:
            raise Misfit(f"field {field!r}: it is not valid BSON") from exc


def likely_key(layout: Layout, data: bytes, looks: int = 20) -> tuple[int, ...]:
    """Which columns the `_id` of the first documents is made of, for a table that has no key yet; none: unknown."""
    by_name = {item.column.encode(): item.index for item in layout.items}
    possible: list[tuple[int, ...]] | None = None
    found: list[tuple[int, ...]]
    position = 0
    try:
        while position < len(data) and looks:
            (length,) = _I32.unpack_from(data, position)
            fields = {n: (k, data[s:e]) for k, n, s, e in elements(data, position, position + length)}
            kind, value = fields.pop(layout.identity.encode(), (OBJECT_ID, b""))
            if kind == OBJECT_ID:
                return ()
            found = [(item.index,) for item in layout.items if fields.get(item.name[:-1]) == (kind, value)]
            if kind == DOCUMENT:
                names = [name for _, name, _, _ in elements(value, 0, len(value))]
                found += [tuple(by_name[name] for name in names)] if by_name.keys() >= set(names) else []
            elif field_name(layout.identity, layout.identity).encode() not in fields:
                found += [(by_name[name],) for name in (layout.identity.encode(),) if name in by_name]
            possible = [key for key in found if possible is None or key in possible]
            position, looks = position + length, looks - 1
    except (Misfit, struct.error, IndexError):
        # Whoever decodes the document says what is wrong with it.
        return ()
    return possible[0] if possible else ()


def _shown(name: bytes) -> str:
    return repr(name.decode(errors="backslashreplace"))
