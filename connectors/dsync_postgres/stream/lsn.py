"""Positions in the write-ahead log: a number of bytes, printed as two hexadecimal halves."""

from __future__ import annotations


def parse_lsn(text: str) -> int:
    """The number behind `16/B374D848`."""
    high, low = text.split("/")
    return int(high, 16) << 32 | int(low, 16)


def format_lsn(position: int) -> str:
    """As the server prints it."""
    return f"{position >> 32:X}/{position & 0xFFFFFFFF:X}"
