"""Changes of a source on disk, in the source's order, until every sink has them."""

from dsync.spool.errors import (
    CorruptSpoolError,
    FrameOrderError,
    FrameTooLargeError,
    MissingSegmentError,
    NotASpoolError,
    OtherFlowsSpoolError,
    SpoolBrokenError,
    SpoolClosedError,
    SpoolFromTheFutureError,
    SpoolFullError,
    SpoolHeldError,
    SpoolLostError,
    SpoolPermissionError,
    SpoolTrimmedError,
    SpoolUnavailableError,
)
from dsync.spool.layout import MAX_ORDER_BYTES, MAX_PAYLOAD_BYTES
from dsync.spool.records import Frame
from dsync.spool.recovery import Cut
from dsync.spool.spool import Spool, remove_spool, remove_spools

__all__ = [
    "MAX_ORDER_BYTES",
    "MAX_PAYLOAD_BYTES",
    "CorruptSpoolError",
    "Cut",
    "Frame",
    "FrameOrderError",
    "FrameTooLargeError",
    "MissingSegmentError",
    "NotASpoolError",
    "OtherFlowsSpoolError",
    "Spool",
    "SpoolBrokenError",
    "SpoolClosedError",
    "SpoolFromTheFutureError",
    "SpoolFullError",
    "SpoolHeldError",
    "SpoolLostError",
    "SpoolPermissionError",
    "SpoolTrimmedError",
    "SpoolUnavailableError",
    "remove_spool",
    "remove_spools",
]
