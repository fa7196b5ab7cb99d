"""Sizes as people write them: `512MiB`, `4MB`, `65536`."""

from __future__ import annotations

import re

KIB = 1024
MIB = 1024 * KIB

_SIZE = re.compile(r"\s*(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[A-Za-z]*)\s*", re.ASCII)
_UNITS = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "k": 2**10,
    "m": 2**20,
    "g": 2**30,
    "t": 2**40,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}


def parse_size(text: str) -> int:
    """Bytes: `MB` is a million of them, `MiB` and `M` are 1024 * 1024.

    Raises:
        ValueError: this is no size; the message says how one is written.
    """
    match = _SIZE.fullmatch(text)
    factor = _UNITS.get(match["unit"].lower()) if match else None
    if match is None or factor is None:
        raise ValueError(f"{text!r} is no size: write a number of bytes, or 512MiB, 4MB, 1.5GiB")
    number = float(match["number"]) if "." in match["number"] else int(match["number"])
    return int(number * factor)


def size_text(size_bytes: int) -> str:
    """The shortest exact form in binary units: `4 MiB`, `1000 B`."""
    for name in ("TiB", "GiB", "MiB", "KiB"):
        factor = _UNITS[name.lower()]
        if size_bytes and size_bytes % factor == 0:
            return f"{size_bytes // factor} {name}"
    return f"{size_bytes} B"
