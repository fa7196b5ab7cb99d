"""Arrays of numbers in one go: a function for each shape, made when a shape is met for the first time.

A shape is a number of elements and which of them are NULL. Arrays of a column have few shapes, mostly, and reading and
writing one with two `struct` calls takes a quarter of the time that a loop over its elements takes.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable, Sequence

from dsync_postgres.documents.bson import FIXED_WIDTHS
from dsync_postgres.documents.code import Code

Quick = Callable[[bytes], bytes]
"""The other form of an array of the shape it is made for; empty for any other."""

_CODES = {4: "i", 8: "q"}
_ELEMENTS_MAX = 32
_SHAPES_MAX = 64
_NULL_TAG = b"\x0a"
_ARRAY_HEAD_BYTES = 20


class Shapes:
    """The functions of one column, by the length of what they take: the latest shape of each length."""

    def __init__(self, make: Callable[[Sequence[bool]], Quick]) -> None:
        self._make = make
        self.left = _SHAPES_MAX
        """How many more functions may be made: a column without a usual shape costs no more than that."""
        self.by_length: dict[int, Quick] = {}

    def learn(self, array: bytes, present: Sequence[bool]) -> None:
        """Have a function for arrays like this one; `present` says which of its elements are not NULL."""
        if not self.left or not 0 < len(present) <= _ELEMENTS_MAX:
            return
        self.left -= 1
        quick = self._make(present)
        # An array may have the length of this shape and be written otherwise: foreign documents name elements anyhow.
        with contextlib.suppress(struct.error):
            if quick(array):
                self.by_length[len(array)] = quick


def make_encoder(present: Sequence[bool], bson_type: int) -> Quick:
    """From a binary array of one dimension to the value of a BSON array; the head has been looked at."""
    width = FIXED_WIDTHS[bson_type]
    code = Code()
    places = range(len(present))
    names = [f"l{k}, v{k}" if present[k] else f"l{k}" for k in places]
    read = ">" + "".join("i" + _CODES[width] * present[k] for k in places)
    tests = [f"l{k} == {width if present[k] else -1}" for k in places]
    write, arguments, size = "<i", [], 5
    for k in places:
        head = (bytes([bson_type]) if present[k] else _NULL_TAG) + b"%d\0" % k
        write += f"{len(head)}s" + _CODES[width] * present[k]
        arguments += [code.name(head), f"v{k}"][: 1 + present[k]]
        size += len(head) + width * present[k]
    code.add(
        0,
        "def encode(raw):",
        f"    {', '.join(names)}, = {code.struct(read, 'unpack_from')}(raw, {_ARRAY_HEAD_BYTES})",
        f"    if {' and '.join(tests)}:",
        f"        return {code.struct(write + 'x', 'pack')}({size}, {', '.join(arguments)})",
        "    return b''",
    )
    return code.compile("encode")  # type: ignore[return-value]  # a function made by exec has no static type


def make_decoder(present: Sequence[bool], bson_type: int, oid: int) -> Quick:
    """From the value of a BSON array to a field with a binary array of one dimension, elements of that oid."""
    width = FIXED_WIDTHS[bson_type]
    code = Code()
    names, tests, arguments = ["size"], [], []
    read, write, size = "<i", ">iiiIii", 20
    for k, is_there in enumerate(present):
        head = (bytes([bson_type]) if is_there else _NULL_TAG) + b"%d\0" % k
        names += [f"h{k}", f"v{k}"][: 1 + is_there]
        tests.append(f"h{k} == {code.name(head)}")
        read += f"{len(head)}s" + _CODES[width] * is_there
        write += "i" + _CODES[width] * is_there
        arguments += [str(width), f"v{k}"] if is_there else ["-1"]
        size += 4 + width * is_there
    has_null = int(not all(present))
    code.add(
        0,
        "def decode(value):",
        f"    {', '.join(names)}, end = {code.struct(read + 'b', 'unpack')}(value)",
        f"    if end == 0 and size == len(value) and {' and '.join(tests)}:",
        f"        return {code.struct(write, 'pack')}("
        f"{size}, 1, {has_null}, {oid}, {len(present)}, 1, {', '.join(arguments)})",
        "    return b''",
    )
    return code.compile("decode")  # type: ignore[return-value]  # a function made by exec has no static type
