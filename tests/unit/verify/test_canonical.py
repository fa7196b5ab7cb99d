"""The canonical form of BSON documents."""

from __future__ import annotations

import datetime
import math
import struct
from typing import Any

import bson
import pytest
from bson import Binary, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from bson.code import Code
from hypothesis import given
from hypothesis import strategies as st

from dsync.protocol.errors import PluginBugError
from dsync.verify.canonical import content_hash, content_row, id_bson, id_key, id_text

IDS: list[Any] = [
    1,
    2**40,
    -1.5,
    "text",
    "",
    ObjectId("0123456789abcdef01234567"),
    Binary(b"x" * 16, 4),
    b"bytes",
    True,
    None,
    datetime.datetime(2024, 1, 1),
    Timestamp(1, 2),
    Decimal128("1.10"),
    {"a": 1, "b": "x"},
    [1, 2],
    Regex("a", "i"),
    Code("f()"),
    MinKey(),
    MaxKey(),
]


@pytest.mark.parametrize("identity", IDS, ids=repr)
def test_an_id_is_found_wherever_it_stands(identity: Any) -> None:
    """Type and bytes, behind fields of any type too; they are what an end is asked for."""
    first = bson.encode({"_id": identity, "a": 1})
    others = {f"f{n}": value for n, value in enumerate(IDS)}
    key = id_key(first)
    assert id_key(bson.encode({**others, "_id": identity})) == key
    value = id_bson(key)
    assert bytes([value.type]) + b"_id\0" + value.data in first


def test_ids_that_are_equal_numbers_are_one() -> None:
    """1, 1 as int64 and 1.0 cannot stand beside each other in MongoDB."""
    keys = {id_key(bson.encode({"_id": one})) for one in (1, Int64(1), 1.0)}
    assert len(keys) == 1
    assert id_text(keys.pop()) == ("1",)
    assert len({id_key(bson.encode({"_id": one})) for one in (1, "1", True, 1.5, Decimal128("1"))}) == 5
    assert id_text(id_key(bson.encode({"_id": {"a": 1, "b": "x"}}))) == ("1", "x")


def test_a_document_without_id_is_the_connectors_fault() -> None:
    """The protocol asks for one."""
    with pytest.raises(PluginBugError, match="without _id"):
        id_key(bson.encode({"a": 1}))


SAME: list[tuple[Any, Any]] = [
    (1, Int64(1)),
    (1, 1.0),
    (2**40, float(2**40)),
    ([1, {"a": 2}], [1.0, {"a": Int64(2)}]),
    (math.nan, struct.unpack("<d", b"\x01\0\0\0\0\0\xf8\xff")[0]),
]
OTHER: list[tuple[Any, Any]] = [
    (0, -0.0),
    (0.1, 0.1 + 2**-56),
    (1, "1"),
    (1, True),
    (None, 0),
    ("", None),
    (b"x", "x"),
    (Binary(b"x" * 16, 3), Binary(b"x" * 16, 4)),
    (Decimal128("1.0"), Decimal128("1.00")),
    (Decimal128("1"), 1),
    ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    ([1, 2], [2, 1]),
    (2**53 + 1, float(2**53)),
    (datetime.datetime(2024, 1, 1), datetime.datetime(2024, 1, 1, 0, 0, 0, 1000)),
    (Timestamp(1, 2), Timestamp(1, 3)),
    (ObjectId("0" * 24), "0" * 24),
    (Regex("a"), Regex("a", "i")),
    (math.inf, -math.inf),
    ([1], {"0": 1}),
]


@pytest.mark.parametrize(("one", "two"), SAME, ids=repr)
def test_equal_values_have_one_form(one: Any, two: Any) -> None:
    """Whatever an engine has made of a number."""
    here, there = bson.encode({"_id": 1, "v": one}), bson.encode({"v": two, "_id": 1})
    assert content_hash(here, None) == content_hash(there, None)
    assert content_row(here, None) == content_row(there, None)


@pytest.mark.parametrize(("one", "two"), OTHER, ids=repr)
def test_other_values_have_another_one(one: Any, two: Any) -> None:
    """Type, sign and scale are content, and so is the order inside a value."""
    here, there = bson.encode({"v": one}), bson.encode({"v": two})
    assert content_hash(here, None) != content_hash(there, None)
    assert content_row(here, None) != content_row(there, None)


def test_only_the_chosen_fields_count() -> None:
    """What one end alone has cannot be compared."""
    here, there = bson.encode({"_id": 1, "a": 1, "b": 2}), bson.encode({"_id": 1, "a": 1, "c": 3})
    chosen = frozenset({"_id", "a"}).__contains__
    assert content_hash(here, chosen) == content_hash(there, chosen)
    assert content_row(here, chosen) == {"_id": "1", "a": "1"}


def test_a_document_that_cannot_be_decoded_is_compared_by_its_bytes() -> None:
    """MongoDB has taken texts that are not UTF-8; an error would make such a collection incomparable."""
    good = bson.encode({"_id": 1, "a": "xyz"})
    bad, worse = good.replace(b"xyz", b"x\xffz"), good.replace(b"xyz", b"x\xfez")
    assert content_hash(bad, None) == content_hash(bytes(bad), None)
    assert len({content_hash(document, None) for document in (good, bad, worse)}) == 3
    assert content_row(bad, None) != content_row(worse, None)


scalars = st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(), st.text(), st.binary())
names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=5)
trees = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3))


@given(fields=st.dictionaries(names, trees, max_size=5))
def test_any_document_has_a_form_that_ignores_the_order_of_its_fields(fields: dict[str, Any]) -> None:
    """Hashing never fails, and hash and text agree about what is equal."""
    here = bson.encode(fields)
    there = bson.encode(dict(reversed(fields.items())))
    assert content_hash(here, None) == content_hash(there, None)
    assert content_row(here, None) == content_row(there, None)
