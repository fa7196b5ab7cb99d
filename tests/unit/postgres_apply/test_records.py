"""Records: read as they are, and anything else is refused."""

from __future__ import annotations

import struct

import pytest
from dsync_postgres.sink.apply.records import UNSENT, Value, read_flags, read_record
from hypothesis import given
from hypothesis import strategies as st

from dsync.sdk import errors

WIDTH = 3
sent = st.none() | st.binary(max_size=9)
rows = st.lists(sent, min_size=WIDTH, max_size=WIDTH)
partial = st.lists(sent | st.just(UNSENT), min_size=WIDTH, max_size=WIDTH)


def pack(values: list[Value]) -> bytes:
    packed = struct.pack(">H", len(values))
    for value in values:
        packed += b"u" if value is UNSENT else b"n" if value is None else b"t" + struct.pack(">I", len(value)) + value
    return packed


@given(new=partial, before=st.binary(max_size=5), after=st.binary(max_size=5))
def test_a_new_row_comes_out_as_it_went_in(new: list[Value], before: bytes, after: bytes) -> None:
    """Wherever it lies among others."""
    record = b"N" + pack(new)
    old, found, lacks = read_record(before + record + after, len(before), len(before) + len(record), WIDTH)
    assert (old, found, lacks) == (None, new, any(value is UNSENT for value in new))


@given(old=rows, new=partial)
def test_what_was_not_sent_is_taken_from_a_whole_old_row_alone(old: list[Value], new: list[Value]) -> None:
    whole = b"O" + pack(old) + b"N" + pack(new)
    merged = [kept if value is UNSENT else value for kept, value in zip(old, new, strict=True)]
    assert read_record(whole, 0, len(whole), WIDTH) == (old, merged, False)
    key = b"K" + pack(old) + b"N" + pack(new)
    assert read_record(key, 0, len(key), WIDTH) == (old, new, any(value is UNSENT for value in new))


@given(data=st.data(), old=rows, new=partial)
def test_what_is_cut_or_longer_is_refused(data: st.DataObject, old: list[Value], new: list[Value]) -> None:
    """Whatever follows it in the frame."""
    record = b"K" + pack(old) + b"N" + pack(new)
    half = 1 + len(pack(old))
    end = data.draw(st.integers(0, len(record) + 3).filter(lambda end: end not in (half, len(record))))
    with pytest.raises(errors.PluginBugError):
        read_record(record + b"nnn", 0, end, WIDTH)


@given(st.binary(max_size=40))
def test_any_bytes_are_a_record_or_refused(data: bytes) -> None:
    try:
        old, new, _ = read_record(data, 0, len(data), WIDTH)
    except errors.PluginBugError:
        return
    assert old is not None or new is not None


def test_flags() -> None:
    assert [read_flags(b"\1\2", 0, 0), read_flags(b"\1\2", 1, 2)] == [0, 2]
    with pytest.raises(errors.PluginBugError):
        read_flags(b"\1\2", 0, 2)
