"""The messages that carry a body: encoded by hand, and the same bytes to everybody else's protobuf."""

from __future__ import annotations

import dataclasses

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from dsync.protocol import types as t
from dsync.protocol._gen.dsync.v1 import dsync_pb2 as dsync
from dsync.protocol.page_codec import (
    decode_frame,
    decode_page,
    decode_write_changes,
    decode_write_request,
    encode_frame,
    encode_page,
    encode_write_changes,
    encode_write_request,
)
from tests.unit.protocol import strategies


@settings(max_examples=100, deadline=None)
@given(strategies.values(t.Page))
def test_a_page_survives_the_wire(page: t.Page) -> None:
    """By value and by reference."""
    assert decode_page(encode_page(page)) == page


@settings(max_examples=100, deadline=None)
@given(strategies.values(t.WriteRequest))
def test_a_page_to_write_survives_the_wire(request: t.WriteRequest) -> None:
    """The cursor of a page that is read is not sent along when it is written: the context has its own."""
    page = dataclasses.replace(request.page, next_cursor=b"")
    assert decode_write_request(encode_write_request(request)) == dataclasses.replace(request, page=page)


@settings(max_examples=100, deadline=None)
@given(strategies.values(t.Page))
def test_a_peer_reads_our_bytes_with_its_own_protobuf(page: t.Page) -> None:
    """Nothing of the encoding is private: the message has every field where the contract puts it."""
    message = dsync.ReadPageResponse.FromString(encode_page(page))
    assert message.WhichOneof("body") == ("packed" if page.ref is None else "ref")
    assert message.packed == (page.packed or b"")
    assert (message.rows, message.next_cursor, message.type) == (page.rows, page.next_cursor, int(page.type))


@settings(max_examples=100, deadline=None)
@given(strategies.values(t.WriteRequest))
def test_we_read_the_bytes_of_a_peers_own_protobuf(request: t.WriteRequest) -> None:
    """Which puts the body in the middle, where its number is."""
    ours = encode_write_request(request)
    theirs = dsync.WritePageRequest.FromString(ours).SerializeToString(deterministic=True)
    assert decode_write_request(theirs) == decode_write_request(ours)
    assert dsync.WritePageRequest.FromString(ours) == dsync.WritePageRequest.FromString(theirs)


@settings(max_examples=100, deadline=None)
@given(strategies.values(t.ChangeFrame))
def test_a_frame_survives_the_wire(frame: t.ChangeFrame) -> None:
    """And a peer reads the same from it with its own protobuf, as we do from its bytes."""
    ours = encode_frame(frame)
    theirs = dsync.ChangeFrame.FromString(ours)
    assert decode_frame(ours) == decode_frame(theirs.SerializeToString(deterministic=True)) == frame
    assert (theirs.body, theirs.operations, theirs.index) == (frame.body, frame.operations, frame.index)


@settings(max_examples=100, deadline=None)
@given(strategies.values(t.WriteChangesRequest))
def test_changes_to_write_survive_the_wire(request: t.WriteChangesRequest) -> None:
    """The body stands beside the frame, which on the wire has none."""
    ours = encode_write_changes(request)
    theirs = dsync.WriteChangesRequest.FromString(ours)
    assert decode_write_changes(ours) == request
    assert decode_write_changes(theirs.SerializeToString(deterministic=True)) == request
    assert (theirs.body, theirs.frame.body) == (request.frame.body, b"")


@pytest.mark.parametrize("column", ["relation_of", "key_hashes", "sizes"])
def test_a_frame_with_columns_of_unlike_length_is_refused(column: str) -> None:
    """A change more or less in one of them would give every later change to somebody else's key."""
    message = dsync.ChangeFrame(operations=b"\1", relation_of=bytes(2), key_hashes=bytes(8), sizes=bytes(4))
    assert len(decode_frame(message.SerializeToString())) == 1
    setattr(message, column, getattr(message, column)[:-1])
    with pytest.raises(DecodeError):
        decode_frame(message.SerializeToString())


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16_383, 16_384, 3_000_000])
def test_bodies_of_every_length(size: int) -> None:
    """The length is a number of one to five bytes."""
    body = bytes(size)
    message = dsync.ReadPageResponse(packed=body, rows=7)
    page = decode_page(message.SerializeToString())
    assert (page.packed, page.rows) == (body, 7)
    assert dsync.ReadPageResponse.FromString(encode_page(page)) == message


def test_a_page_without_a_body_is_an_empty_page() -> None:
    """Proto3 does not send an empty `packed` from every language."""
    page = decode_page(dsync.ReadPageResponse(type=dsync.PAGE_TYPE_BSON).SerializeToString())
    assert page == t.Page(type=t.PageType.BSON, rows=0, packed=b"")


def test_unknown_fields_of_every_kind_are_passed_over() -> None:
    """A newer peer may send what we do not know, before and after the body."""
    unknown = b"\xa0\x06\x96\x01" + b"\xa9\x06" + bytes(8) + b"\xb5\x06" + bytes(4) + b"\xba\x06\x02hi"
    message = dsync.ReadPageResponse(packed=b"body", rows=3).SerializeToString()
    page = decode_page(unknown + message + unknown)
    assert (page.packed, page.rows) == (b"body", 3)


def test_the_last_of_several_bodies_counts() -> None:
    """As protobuf says of any field that must not be repeated."""
    twice = (
        dsync.ReadPageResponse(packed=b"a").SerializeToString()
        + dsync.ReadPageResponse(packed=b"b").SerializeToString()
    )
    assert decode_page(twice).packed == b"b"


@given(st.binary(max_size=300))
def test_noise_is_read_or_refused(noise: bytes) -> None:
    """In no other way than protobuf's own parser would do it."""
    for decode in (decode_page, decode_write_request, decode_frame, decode_write_changes):
        try:
            decode(noise)
        except DecodeError:
            continue


@pytest.mark.parametrize(
    "data", [b"\x0a\x05abc", b"\x0a", b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\x0b", b"\xff"]
)
def test_what_is_cut_off_or_impossible_is_refused(data: bytes) -> None:
    """A body that ends early would be a page with rows missing."""
    with pytest.raises(DecodeError):
        decode_page(data)
