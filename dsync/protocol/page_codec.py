"""Messages with a large body as bytes, without the copies that a message object costs: pages and change frames.

A body is megabytes among a few small fields. A message copies it when it is set, serialized, parsed and read:
half of the CPU of a hop by value. Here the small fields alone are a message, the body is appended as the field that
it is (protobuf leaves the order of fields free), and on arrival it is found and viewed where it lies. A peer's
ordinary protobuf code reads and writes the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator

from google.protobuf.message import DecodeError

from dsync.protocol._gen.dsync.v1 import dsync_pb2 as dsync
from dsync.protocol.convert import changes
from dsync.protocol.convert import pages as messages
from dsync.protocol.pages import body_of
from dsync.protocol.types import Buffer, ChangeFrame, Page, WriteChangesRequest, WriteRequest

_READ_BODY = dsync.ReadPageResponse.PACKED_FIELD_NUMBER
_WRITE_BODY = dsync.WritePageRequest.PACKED_FIELD_NUMBER
_FRAME_BODY = dsync.ChangeFrame.BODY_FIELD_NUMBER
_CHANGES_BODY = dsync.WriteChangesRequest.BODY_FIELD_NUMBER

# How a field's value ends, by the wire type in the low bits of its tag (protobuf's encoding guide).
_VARINT, _FIXED64, _DELIMITED, _FIXED32 = 0, 1, 2, 5


def encode_page(page: Page) -> bytes:
    """A ReadPageResponse."""
    return _join_page(messages.page_head_to_pb(page).SerializeToString(), _READ_BODY, page)


def decode_page(data: bytes) -> Page:
    """A page whose body is a view into `data`. Raises DecodeError where this is no ReadPageResponse."""
    head, body = _split(data, _READ_BODY)
    return messages.page_from_head(dsync.ReadPageResponse.FromString(head), body)


def encode_write_request(request: WriteRequest) -> bytes:
    """A WritePageRequest."""
    return _join_page(messages.write_page_head_to_pb(request).SerializeToString(), _WRITE_BODY, request.page)


def decode_write_request(data: bytes) -> WriteRequest:
    """A request whose page's body is a view into `data`. Raises DecodeError where this is no WritePageRequest."""
    head, body = _split(data, _WRITE_BODY)
    return messages.write_page_from_head(dsync.WritePageRequest.FromString(head), body)


def encode_frame(frame: ChangeFrame) -> bytes:
    """A ChangeFrame message."""
    return b"".join(frame_pieces(frame))


def frame_pieces(frame: ChangeFrame) -> tuple[Buffer, ...]:
    """A ChangeFrame message in pieces, its body as it is."""
    return _pieces(changes.frame_head_to_pb(frame).SerializeToString(), _FRAME_BODY, frame.body)


def decode_frame(data: bytes) -> ChangeFrame:
    """A frame whose body is a view into `data`. Raises DecodeError where this is no ChangeFrame."""
    head, body = _split(data, _FRAME_BODY)
    return changes.frame_from_head(dsync.ChangeFrame.FromString(head), body)


def encode_write_changes(request: WriteChangesRequest) -> bytes:
    """A WriteChangesRequest."""
    head = changes.write_changes_head_to_pb(request).SerializeToString()
    return b"".join(_pieces(head, _CHANGES_BODY, request.frame.body))


def decode_write_changes(data: bytes) -> WriteChangesRequest:
    """A request whose frame's body is a view into `data`. Raises DecodeError where this is no WriteChangesRequest."""
    head, body = _split(data, _CHANGES_BODY)
    return changes.write_changes_from_head(dsync.WriteChangesRequest.FromString(head), body)


def _join_page(head: bytes, field: int, page: Page) -> bytes:
    if page.ref is not None:
        return head
    return b"".join(_pieces(head, field, body_of(page)))


def _pieces(head: bytes, field: int, body: Buffer) -> tuple[Buffer, ...]:
    return (head, _varint(field << 3 | _DELIMITED), _varint(len(body)), body)


def _split(data: bytes, field: int) -> tuple[bytes, Buffer]:
    """The message without the field of the body, and the body; empty where there is none, the last of several."""
    body: Buffer = b""
    view = memoryview(data)
    head: list[memoryview] = []
    for number, start, value, end in _fields(data):
        if number == field:
            body = view[value:end]
        else:
            head.append(view[start:end])
    return b"".join(head), body


def _fields(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """(number, start of the tag, start of the value, end) of each field of a message."""
    position, total = 0, len(data)
    while position < total:
        start = position
        tag, position = _read_varint(data, position)
        kind = tag & 7
        value = position
        if kind == _DELIMITED:
            length, value = _read_varint(data, position)
            position = value + length
        elif kind == _VARINT:
            _, position = _read_varint(data, position)
        elif kind in (_FIXED64, _FIXED32):
            position += 8 if kind == _FIXED64 else 4
        else:
            raise DecodeError("a field has a wire type that no message of ours has")
        if position > total:
            raise DecodeError("a field ends after its message")
        yield tag >> 3, start, value, position


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    number = shift = 0
    # Ten bytes hold 64 bits; more would be an attempt to keep us busy.
    for index in range(position, min(position + 10, len(data))):
        number |= (data[index] & 0x7F) << shift
        if data[index] < 0x80:
            return number, index + 1
        shift += 7
    raise DecodeError("a number does not end")
