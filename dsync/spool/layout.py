"""The bytes of a spool: what a segment, a record and the manifest look like on disk.

A segment is a header and records behind each other. Every record names the checksum of the one before it, so one that
is missing, doubled or in another place is noticed; the first one of a segment goes on from the header. All checksums
are XXH3-64, seeded with the spool's random id: no other spool's records, and no payload, look like ours.

Numbers are little-endian. The first 16 bytes of every file mean the same in every version to come.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace

import xxhash

from dsync.spool.errors import SpoolFromTheFutureError

Buffer = bytes | bytearray | memoryview

FORMAT_VERSION = 1
BLOCK_BYTES = 512
"""A segment's header and a manifest's slot; one sector, which disks write whole or not at all."""
RECORD_HEAD_BYTES = 44
RECORD_MAGIC = b"dsR1"
MAX_ORDER_BYTES = 64
MAX_FLOW_BYTES = 255
MAX_PAYLOAD_BYTES = 64 * 1024 * 1024

FRAME, MARK = 1, 2

_SEGMENT_MAGIC, _MANIFEST_MAGIC = b"dsyncSPL", b"dsyncSPM"
# magic, format version, nothing yet
_PROLOGUE = struct.Struct("<8sHH")
_SUM32, _SUM64 = struct.Struct("<I"), struct.Struct("<Q")
_BODY_START = _PROLOGUE.size + _SUM32.size
# number, frames before it, chain, bytes of the segment before it, id, lengths of flow and order
_SEGMENT = struct.Struct("<QQQQ16sBB")
# generation, first, last, frames before first, chain, id, removed, lengths of flow and order
_MANIFEST = struct.Struct("<QQQQQ16sBBB")
# magic, kind, length of the order, nothing yet, length of the payload, durable bytes, chain, checksum of the payload
_RECORD = struct.Struct("<4sBBHIQQQ")


class DamagedError(Exception):
    """Bytes that are not what was written. Never leaves this package."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentHeader:
    """What a segment says about itself."""

    number: int
    flow: str
    spool_id: bytes
    """16 random bytes, drawn when the spool was made."""
    base_frames: int
    """Frames before this segment, since the spool was made."""
    base_order: bytes
    """The order of the last frame before this segment; empty in the first one."""
    chain: int
    """The checksum that the first record must name."""
    previous_bytes: int
    """The final size of the segment before this one; 0 where it had been trimmed."""

    def encode(self) -> bytes:
        flow = self.flow.encode()
        body = _SEGMENT.pack(
            self.number,
            self.base_frames,
            self.chain,
            self.previous_bytes,
            self.spool_id,
            len(flow),
            len(self.base_order),
        )
        return _seal(_SEGMENT_MAGIC, body + flow + self.base_order)

    @classmethod
    def decode(cls, block: bytes, *, what: str) -> SegmentHeader:
        """Raises DamagedError, or SpoolFromTheFutureError."""
        body = _unseal(_SEGMENT_MAGIC, block, what)
        number, base_frames, chain, previous_bytes, spool_id, flow_bytes, order_bytes = _SEGMENT.unpack_from(body)
        flow, order = _texts(body, _SEGMENT.size, flow_bytes, order_bytes)
        return cls(
            number=number,
            flow=flow,
            spool_id=spool_id,
            base_frames=base_frames,
            base_order=order,
            chain=chain,
            previous_bytes=previous_bytes,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Which segments make up the spool: what has been trimmed, and that none is missing at the end."""

    flow: str
    spool_id: bytes
    generation: int = 0
    """Rises with each change; the slot with the higher one counts."""
    first: int = 1
    """Segments below this number are trimmed."""
    last: int = 0
    """The newest segment that may hold frames; below `first` where there is none."""
    base_frames: int = 0
    base_order: bytes = b""
    """The order of the last trimmed frame."""
    chain: int = 0
    """The checksum that the first record of segment `first` names."""
    is_removed: bool = False
    """The spool is being removed: what is left of it means nothing."""

    def next(self, **changes: object) -> Manifest:
        return replace(self, generation=self.generation + 1, **changes)  # type: ignore[arg-type]

    def encode(self) -> bytes:
        flow = self.flow.encode()
        body = _MANIFEST.pack(
            self.generation,
            self.first,
            self.last,
            self.base_frames,
            self.chain,
            self.spool_id,
            self.is_removed,
            len(flow),
            len(self.base_order),
        )
        return _seal(_MANIFEST_MAGIC, body + flow + self.base_order)

    @classmethod
    def decode(cls, block: bytes, *, what: str) -> Manifest:
        """Raises DamagedError, or SpoolFromTheFutureError."""
        body = _unseal(_MANIFEST_MAGIC, block, what)
        generation, first, last, base_frames, chain, spool_id, is_removed, flow_bytes, order_bytes = (
            _MANIFEST.unpack_from(body)
        )
        flow, order = _texts(body, _MANIFEST.size, flow_bytes, order_bytes)
        return cls(
            flow=flow,
            spool_id=spool_id,
            generation=generation,
            first=first,
            last=last,
            base_frames=base_frames,
            base_order=order,
            chain=chain,
            is_removed=bool(is_removed),
        )


@dataclass(frozen=True, slots=True)
class RecordHead:
    """A record without its payload."""

    kind: int
    order: bytes
    payload_bytes: int
    durable_bytes: int
    """How much of the segment was known to be durable when this was written: damage below it is no torn write."""
    previous: int
    """The chain up to this record."""
    payload_sum: int
    chain: int
    """The chain with this record: its head's checksum."""

    @property
    def head_bytes(self) -> int:
        return RECORD_HEAD_BYTES + len(self.order)

    @property
    def size_bytes(self) -> int:
        return RECORD_HEAD_BYTES + len(self.order) + self.payload_bytes


def seed_of(spool_id: bytes) -> int:
    """What this spool's checksums begin with."""
    return int(_SUM64.unpack_from(spool_id)[0])


def encode_head(
    *, kind: int, order: bytes, payload_bytes: int, durable_bytes: int, previous: int, payload_sum: int, seed: int
) -> tuple[bytes, int]:
    """A record's head with its order, and the chain after it."""
    fixed = _RECORD.pack(RECORD_MAGIC, kind, len(order), 0, payload_bytes, durable_bytes, previous, payload_sum)
    chain = xxhash.xxh3_64_intdigest(fixed + order, seed)
    return fixed + _SUM64.pack(chain) + order, chain


def decode_head(data: Buffer, seed: int) -> RecordHead | None:
    """The head at the beginning of these bytes; None where there is none, or not all of it."""
    if len(data) < RECORD_HEAD_BYTES:
        return None
    magic, kind, order_bytes, _, payload_bytes, durable_bytes, previous, payload_sum = _RECORD.unpack_from(data)
    if magic != RECORD_MAGIC or len(data) < RECORD_HEAD_BYTES + order_bytes:
        return None
    (chain,) = _SUM64.unpack_from(data, _RECORD.size)
    order = bytes(data[RECORD_HEAD_BYTES : RECORD_HEAD_BYTES + order_bytes])
    if chain != xxhash.xxh3_64_intdigest(bytes(data[: _RECORD.size]) + order, seed):
        return None
    return RecordHead(kind, order, payload_bytes, durable_bytes, previous, payload_sum, chain)


def payload_checksum(pieces: Sequence[Buffer], seed: int) -> int:
    """The same however the payload is cut into pieces."""
    if len(pieces) == 1:
        return xxhash.xxh3_64_intdigest(pieces[0], seed)
    state = xxhash.xxh3_64(seed=seed)
    for piece in pieces:
        state.update(piece)
    return state.intdigest()


def _seal(magic: bytes, body: bytes) -> bytes:
    prologue = _PROLOGUE.pack(magic, FORMAT_VERSION, 0)
    block = prologue + _SUM32.pack(xxhash.xxh3_64_intdigest(prologue) & 0xFFFFFFFF) + body
    block = block.ljust(BLOCK_BYTES - _SUM64.size, b"\0")
    return block + _SUM64.pack(xxhash.xxh3_64_intdigest(block))


def _unseal(magic: bytes, block: bytes, what: str) -> bytes:
    if len(block) < _BODY_START:
        raise DamagedError("its header is incomplete")
    found, version, _ = _PROLOGUE.unpack_from(block)
    (short_sum,) = _SUM32.unpack_from(block, _PROLOGUE.size)
    # The version has a checksum of its own: a flipped bit in it must not look like a newer dsync.
    if found != magic or short_sum != xxhash.xxh3_64_intdigest(block[: _PROLOGUE.size]) & 0xFFFFFFFF:
        raise DamagedError("it does not begin as such a file does")
    if version != FORMAT_VERSION:
        raise SpoolFromTheFutureError(
            f"{what} has spool format {version}, this dsync knows {FORMAT_VERSION}: go on with the version of dsync "
            "that wrote it"
        )
    end = BLOCK_BYTES - _SUM64.size
    if len(block) < BLOCK_BYTES or _SUM64.unpack_from(block, end)[0] != xxhash.xxh3_64_intdigest(block[:end]):
        raise DamagedError("its header fails its checksum")
    return block[_BODY_START:end]


def _texts(body: bytes, start: int, flow_bytes: int, order_bytes: int) -> tuple[str, bytes]:
    order_start = start + flow_bytes
    return body[start:order_start].decode(), body[order_start : order_start + order_bytes]
