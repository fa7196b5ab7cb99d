"""Array literals: what goes in comes out, whatever is in it."""

from __future__ import annotations

from collections.abc import Sequence

from dsync_postgres.sink.apply.arrays import array_of, numbers
from hypothesis import example, given
from hypothesis import strategies as st


def read(literal: bytes) -> list[bytes | None]:
    """An array literal as array_in reads it: elements in quotes, escaped by backslashes, or NULL."""
    assert (literal[:1], literal[-1:]) == (b"{", b"}")
    found: list[bytes | None] = []
    position, end = 1, len(literal) - 1
    while position < end:
        if literal[position : position + 4] == b"NULL":
            found.append(None)
            position += 4
        else:
            assert literal[position : position + 1] == b'"'
            position += 1
            value = bytearray()
            while literal[position : position + 1] != b'"':
                position += literal[position : position + 1] == b"\\"
                value += literal[position : position + 1]
                position += 1
            found.append(bytes(value))
            position += 1
        assert literal[position : position + 1] in (b",", b"}")
        position += 1
    return found


@given(st.lists(st.none() | st.binary() | st.sampled_from([b'"', b"\\", b"NULL", b"\xff", b"\xfe", b""]), min_size=1))
@example([b"\xff", b"a"])
@example([b"\xfe", None])
@example([b'a\xff","b'])
def test_every_value_comes_out_as_it_went_in(values: Sequence[bytes | None]) -> None:
    """Also bytes that are no UTF-8, as a database without encoding has them."""
    assert read(array_of(list(values))) == list(values)


def test_numbers() -> None:
    assert numbers([1, 22, 3]) == b"{1,22,3}"
