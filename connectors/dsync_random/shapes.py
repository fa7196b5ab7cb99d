"""What documents look like, and pages of them by copying bytes instead of encoding documents.

All documents of a shape have one size, and `_id`, an int64, at one place. A few hundred of them are encoded once; a
page is a piece of that pattern repeated, with the ids laid over it. Which of the patterns a document shows depends on
its id alone, so it does not matter where pages begin.
"""

from __future__ import annotations

import random
import sys
from array import array
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import bson
from bson import Binary, Decimal128, Int64, ObjectId

from dsync.sdk.errors import OptionError
from dsync_random.options import FieldType, RandomOptions

INT64 = 0x12
"""The BSON type of `_id`."""

_SMALL_BYTES = 41
_KIB_BYTES = 1024
_ID_OFFSET = 4 + 1 + len(b"_id\0")
_ID_BYTES = 8
# Enough of them not to look all alike, and still in the processor's cache.
_PATTERN_BYTES = 256 * 1024
_VARIANTS_MAX = 1024
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"

_FIELDS: dict[FieldType, Callable[[random.Random], object]] = {
    "int32": lambda dice: dice.randint(-(2**31), 2**31 - 1),
    "int64": lambda dice: Int64(dice.randint(-(2**63), 2**63 - 1)),
    "double": lambda dice: dice.uniform(-1e9, 1e9),
    "decimal": lambda dice: Decimal128(Decimal(dice.randint(-(10**18), 10**18)).scaleb(-4)),
    "bool": lambda dice: dice.random() < 0.5,
    "date": lambda dice: _EPOCH + timedelta(milliseconds=dice.randrange(10**12)),
    "string": lambda dice: _text(dice, 24),
    "uuid": lambda dice: Binary.from_uuid(UUID(int=dice.getrandbits(128))),
    "binary": lambda dice: dice.randbytes(16),
    "objectid": lambda dice: ObjectId(dice.randbytes(12)),
    "array": lambda dice: [Int64(dice.getrandbits(40)) for _ in range(3)],
    "document": lambda dice: {"a": Int64(dice.getrandbits(40)), "b": {"c": _text(dice, 8)}},
    "null": lambda dice: None,
}


class Shape:
    """Documents of one size, each a function of its id."""

    def __init__(self, options: RandomOptions, *, salt: str) -> None:
        dice = random.Random(f"{options.seed}/{salt}")
        size = options.document_bytes or {"small": _SMALL_BYTES, "kib": _KIB_BYTES, "typed": 0}[options.shape]
        first = _document(options, dice, size)
        self.document_bytes = len(first)
        """The size of every document."""
        self._variants = max(1, min(_VARIANTS_MAX, _PATTERN_BYTES // self.document_bytes))
        documents = [first, *(_document(options, dice, size) for _ in range(self._variants - 1))]
        self._pattern = b"".join(documents)

    def page(self, start: int, stop: int) -> bytearray:
        """The documents with the ids from `start` up to, not including, `stop`, one after the other."""
        count, size = stop - start, self.document_bytes
        turned = start % self._variants
        repeats = -(-(turned + count) // self._variants)
        body = bytearray(self._pattern * repeats)
        del body[(turned + count) * size :]
        del body[: turned * size]
        ids = array("q", range(start, stop))
        if sys.byteorder == "big":
            ids.byteswap()
        id_bytes = ids.tobytes()
        # The pattern's own ids are zero, so the high bytes that all ids of the page lack are right already.
        for byte in range(-(-(stop - 1).bit_length() // 8)):
            body[_ID_OFFSET + byte :: size] = id_bytes[byte::_ID_BYTES]
        return body

    def document(self, number: int, *, version: int = 0) -> bytes:
        """One document; later versions show another pattern than the first one, where there are several."""
        shown = number + (1 + version % (self._variants - 1) if version and self._variants > 1 else 0)
        document = self.page(shown, shown + 1)
        document[_ID_OFFSET : _ID_OFFSET + _ID_BYTES] = id_bytes(number)
        return bytes(document)


def id_bytes(number: int) -> bytes:
    """The bytes of `_id`."""
    return number.to_bytes(_ID_BYTES, "little", signed=True)


def _document(options: RandomOptions, dice: random.Random, size: int) -> bytes:
    """A document with the id 0, filled up to `size` bytes; 0: as long as its fields are."""
    fields: dict[str, object] = {"_id": Int64(0)}
    if options.shape == "typed":
        fields |= {name: _FIELDS[name](dice) for name in options.types}
        bare = bson.encode(fields)
        if not size:
            return bare
    padding = size - len(bson.encode({**fields, "v": ""}))
    if padding < 0:
        smallest = size - padding
        raise OptionError(f"random: option document_bytes: this shape takes at least {smallest} bytes")
    return bson.encode({**fields, "v": _text(dice, padding)})


def _text(dice: random.Random, length: int) -> str:
    return "".join(dice.choices(_LETTERS, k=min(length, 4096))).ljust(length, "x")
