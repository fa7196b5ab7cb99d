"""Arrays of numbers: the same documents and rows, whether or not an array of that shape was met before."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import bson
from bson import Int64
from dsync_postgres.documents import RowDecoder, RowEncoder
from dsync_postgres.documents.arrays import array_encoder
from dsync_postgres.documents.bson import Misfit
from dsync_postgres.documents.shapes_of_arrays import Shapes, make_encoder
from dsync_postgres.documents.types import parse_type
from dsync_postgres.documents.values import decoder
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.documents.pages import copy_page, table

Array = Sequence[int | None]
ARRAY = 0x04
NUMBERS = st.none() | st.integers(-(2**31), 2**31 - 1)


def binary(array: Array, *, oid: int = 23, code: str = "i") -> bytes:
    """As array_send writes an array of one dimension."""
    if not array:
        return struct.pack(">iiI", 0, 0, oid)
    parts = [struct.pack(">iiIii", 1, None in array, oid, len(array), 1)]
    width = struct.calcsize(">" + code)
    parts += [struct.pack(">i", -1) if n is None else struct.pack(">i" + code, width, n) for n in array]
    return b"".join(parts)


def page_of(arrays: Sequence[Array], *, oid: int, code: str) -> bytes:
    return copy_page([struct.pack(">i", k), binary(a, oid=oid, code=code)] for k, a in enumerate(arrays))


@settings(max_examples=60)
@given(st.lists(st.lists(NUMBERS, max_size=4) | st.lists(NUMBERS, min_size=31, max_size=34), max_size=12), st.data())
def test_a_column_of_arrays_becomes_documents_and_comes_back(arrays: list[Array], data: st.DataObject) -> None:
    printed, oid, code = data.draw(st.sampled_from([("integer[]", 23, "i"), ("bigint[]", 20, "q")]))
    columns = table(k="integer", v=printed)
    page = page_of(arrays, oid=oid, code=code)
    rows, back = RowEncoder(columns), RowDecoder(columns)
    whole = int if code == "i" else Int64
    expected = b"".join(
        bson.encode({"_id": k, "k": k, "v": [None if n is None else whole(n) for n in array]})
        for k, array in enumerate(arrays)
    )
    # The second time every shape is known.
    for _ in range(2):
        assert rows.encode_copy_binary(page) == (expected, len(arrays))
        assert back.decode(expected) == (page, len(arrays))


def test_more_shapes_than_are_kept_make_no_difference() -> None:
    """Each with a NULL at another place, all of one length."""
    columns = table(k="integer", v="integer[]")
    arrays = [[None if bits >> k & 1 else k for k in range(8)] for bits in range(1, 250)]
    page = page_of(arrays, oid=23, code="i")
    rows, back = RowEncoder(columns), RowDecoder(columns)
    for _ in range(2):
        packed, _ = rows.encode_copy_binary(page)
        assert [document["v"] for document in bson.decode_all(packed)] == arrays
        assert back.decode(packed) == (page, len(arrays))


def test_an_array_as_long_as_a_known_one_is_read_by_what_it_says() -> None:
    """Elements that are named otherwise, or of another type than the column's."""
    decode = decoder(parse_type("bigint[]"))

    def value(elements: bytes) -> bytes:
        return struct.pack("<i", len(elements) + 5) + elements + b"\0"

    usual = value(b"\x12" + b"0\0" + struct.pack("<q", 7))
    expected = decode(ARRAY, usual)
    strange = [
        value(b"\x12" + b"x\0" + struct.pack("<q", 7)),
        value(b"\x01" + b"0\0" + struct.pack("<d", 7.0)),
        value(b"\x10" + b"seven\0" + struct.pack("<i", 7)),
    ]
    assert {len(usual)} == {len(one) for one in strange}
    for _ in range(2):
        assert [decode(ARRAY, one) for one in (*strange, usual)] == [expected] * 4
    for damaged in (usual[:-1] + b"\1", struct.pack("<i", 99) + usual[4:]):
        try:
            assert decode(ARRAY, damaged) == expected
        except Misfit:
            continue


def test_a_function_for_another_shape_is_not_kept() -> None:
    """What it was made from was misread: it is not used for the next one either."""
    shapes = Shapes(lambda present: make_encoder(present, 0x10))
    shapes.learn(binary([1, 2]), [True, True, True])
    shapes.learn(binary([1, None]), [True, True])
    assert shapes.by_length == {}
    shapes.learn(binary([1, None]), [True, False])
    assert list(shapes.by_length) == [len(binary([1, None]))]


def test_other_elements_have_no_shapes() -> None:
    """Booleans, which BSON does not have the other way round, go through their function."""
    encode = array_encoder(lambda name, raw: b"\x08" + name + raw, nests=True)
    raw = struct.pack(">iiIii", 1, 0, 16, 2, 1) + b"\0\0\0\1\1" + b"\0\0\0\1\0"
    document = encode(b"v\0", raw)
    assert bson.decode(struct.pack("<i", len(document) + 5) + document + b"\0") == {"v": [True, False]}
