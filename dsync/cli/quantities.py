"""Rates and times as people write them: `5000/s`, `20MiB/s`, `90s`, `1h30m`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from dsync.cli.sizes import parse_size

_ROWS = re.compile(r"(?P<number>\d+)(?:\s*rows)?", re.ASCII)
_TIME = re.compile(r"(?:(?P<number>\d+(?:\.\d+)?)(?P<unit>d|h|m|s)?)", re.ASCII)
_UNITS_S = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, None: 1.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """How much may be read in a second; 0: as much as there is."""

    rows_per_s: int = 0
    bytes_per_s: int = 0


def parse_rate(text: str) -> Rate:
    """A bare number counts rows, one with a unit of size counts bytes; `/s` may follow.

    Raises:
        ValueError: this is no rate; the message says how one is written.
    """
    amount = text.strip().removesuffix("/s").strip()
    rows = _ROWS.fullmatch(amount)
    try:
        rate = Rate(rows_per_s=int(rows["number"])) if rows else Rate(bytes_per_s=parse_size(amount))
    except ValueError:
        raise ValueError(f"{text!r} is no rate: write rows as in 5000/s, or bytes as in 20MiB/s") from None
    if rate == Rate():
        raise ValueError(f"{text!r} would never read anything; leave the limit out to read without one")
    return rate


def parse_time(text: str) -> float:
    """Seconds; a bare number counts them.

    Raises:
        ValueError: this is no time; the message says how one is written.
    """
    left, total_s = text.strip(), 0.0
    pieces = list(_TIME.finditer(left))
    if not pieces or "".join(piece[0] for piece in pieces) != left:
        raise ValueError(f"{text!r} is no time: write seconds, or 90s, 15m, 1h30m")
    for piece in pieces:
        total_s += float(piece["number"]) * _UNITS_S[piece["unit"]]
    return total_s
