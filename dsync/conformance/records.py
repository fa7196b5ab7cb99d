"""Records and ids as the checks see them: found in raw bytes, compared by type and bytes, shown by id alone."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from typing import Any, NamedTuple

import bson
import xxhash
from bson.errors import BSONError

from dsync.protocol.types import BsonValue, PageType

_LENGTH = struct.Struct("<i")
_FIXED_BYTES = {
    0x01: 8,
    0x06: 0,
    0x07: 12,
    0x08: 1,
    0x09: 8,
    0x0A: 0,
    0x10: 4,
    0x11: 8,
    0x12: 8,
    0x13: 16,
    0x7F: 0,
    0xFF: 0,
}
# Their length counts the bytes behind it.
_COUNTED = {0x02, 0x0D, 0x0E}
# Their length counts itself.
_SELF_COUNTED = {0x03, 0x04, 0x0F}
_NAMES = {
    0x01: "double",
    0x02: "string",
    0x03: "document",
    0x04: "array",
    0x05: "binary",
    0x07: "objectId",
    0x08: "boolean",
    0x09: "date",
    0x0A: "null",
    0x10: "int32",
    0x11: "timestamp",
    0x12: "int64",
    0x13: "decimal128",
}
_JSON_TYPE = 0
_SHOWN_CHARACTERS = 40


class Id(NamedTuple):
    """An id: equal means equal type and equal bytes. In JSON the type is 0 and the bytes are the value's text."""

    type: int
    data: bytes

    def __str__(self) -> str:
        text = self._text()
        return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"

    def _text(self) -> str:
        if self.type == _JSON_TYPE:
            return self.data.decode("utf-8", "replace")
        name = _NAMES.get(self.type, f"BSON type {self.type:#04x}")
        if self.type in (0x10, 0x12):
            return f"{name} {int.from_bytes(self.data, 'little', signed=True)}"
        if self.type in _COUNTED:
            return f"{name} {self.data[4:-1].decode('utf-8', 'replace')!r}"
        return f"{name} {self.data.hex()}"

    @property
    def value(self) -> BsonValue:
        """As it stands in an update."""
        return BsonValue(data=self.data, type=self.type, name="_id")


def bson_id(value: object) -> Id:
    """The id that a Python value becomes."""
    element = bson.encode({"": value})
    return Id(element[4], bytes(element[6:-1]))


def id_of(record: bytes, page_type: PageType) -> Id | None:
    """The id of a record; None where it is no whole record of that type with an id."""
    if page_type is PageType.JSON:
        return _json_id(record)
    if len(record) < 5 or _LENGTH.unpack_from(record)[0] != len(record) or record[-1]:
        return None
    at = 4
    found = None
    try:
        while record[at]:
            kind = record[at]
            end_of_name = record.index(0, at + 1)
            start = end_of_name + 1
            end = start + _value_bytes(record, kind, start)
            if end >= len(record):
                return None
            if record[at + 1 : end_of_name] == b"_id" and found is None:
                found = Id(kind, record[start:end])
            at = end
    except (IndexError, ValueError, struct.error):
        return None
    return found if at == len(record) - 1 else None


def _value_bytes(record: bytes, kind: int, start: int) -> int:
    if kind in _FIXED_BYTES:
        return _FIXED_BYTES[kind]
    if kind == 0x0B:
        return record.index(0, record.index(0, start) + 1) + 1 - start
    (length,) = _LENGTH.unpack_from(record, start)
    if length < 0:
        raise ValueError("a length below zero")
    if kind in _SELF_COUNTED:
        return int(length)
    if kind in _COUNTED:
        return 4 + int(length)
    if kind == 0x05:
        return 5 + int(length)
    if kind == 0x0C:
        return 4 + int(length) + 12
    raise ValueError("no BSON type")


def _json_id(record: bytes) -> Id | None:
    try:
        decoded = json.loads(record)
    except ValueError:
        return None
    if not isinstance(decoded, dict) or "id" not in decoded:
        return None
    return Id(_JSON_TYPE, json.dumps(decoded["id"], sort_keys=True).encode())


def encode(page_type: PageType, id: object, fields: Mapping[str, Any]) -> bytes:
    """A record with this id."""
    if page_type is PageType.JSON:
        return json.dumps({"id": id, **fields}).encode()
    return bson.encode({"_id": id, **fields})


def encode_fields(page_type: PageType, fields: Mapping[str, Any]) -> bytes:
    """A document without an id: what a partial update sets."""
    return json.dumps(fields).encode() if page_type is PageType.JSON else bson.encode(fields)


def decode(page_type: PageType, record: bytes) -> dict[str, Any] | None:
    """The fields of a record that the kit has written; None where it cannot be read."""
    try:
        decoded: Any = json.loads(record) if page_type is PageType.JSON else bson.decode(record)
    except (ValueError, BSONError):
        return None
    return decoded if isinstance(decoded, dict) else None


def number_key(id: Id) -> Id:
    """The same for numeric ids of one value, whatever their type: sinks may keep an int32 as an int64."""
    if id.type == 0x10:
        return Id(0x12, int.from_bytes(id.data, "little", signed=True).to_bytes(8, "little", signed=True))
    if id.type == 0x01 and len(id.data) == 8:
        (value,) = struct.unpack("<d", id.data)
        if math.isfinite(value) and value == int(value) and abs(value) < 2**53:
            return Id(0x12, int(value).to_bytes(8, "little", signed=True))
    return id


def digest(records: list[bytes]) -> bytes:
    """Names what records are, so that none has to be kept."""
    whole = xxhash.xxh3_128()
    for record in records:
        whole.update(len(record).to_bytes(8, "little"))
        whole.update(record)
    return whole.digest()
