"""Counts, sizes, times and columns as people read them."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Sequence
from datetime import UTC, datetime

_DECIMAL_UNITS = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB"))


def counted(count: int, noun: str, plural: str = "") -> str:
    """`1 table`, `1,234 tables`."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def approximate_bytes(size_bytes: float) -> str:
    """`1.2 GB`: for progress and estimates; results give exact bytes."""
    for factor, unit in _DECIMAL_UNITS:
        if size_bytes >= factor:
            return f"{size_bytes / factor:.1f} {unit}"
    return f"{size_bytes:.0f} B"


def approximate_count(count: float) -> str:
    """`1.2 M`, `9,400`."""
    for factor, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= 10 * factor or (count >= factor and unit != "k"):
            return f"{count / factor:.1f} {unit}"
    return f"{count:,.0f}"


def duration(seconds: float) -> str:
    """`0.4 s`, `12 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def throughput(rows: int, size_bytes: int, elapsed_s: float) -> str:
    """`81,311 rows/s, 10.0 MB/s`; a megabyte is a million bytes."""
    seconds = max(elapsed_s, 1e-9)
    return f"{rows / seconds:,.0f} rows/s, {size_bytes / seconds / 1e6:,.1f} MB/s"


def moment(at: datetime | None) -> str:
    """`2025-11-21 08:12:03 UTC`; a dash where there is none."""
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC") if at else "-"


def columns(rows: Sequence[Sequence[str]], *, header: Sequence[str] = (), right: Collection[int] = ()) -> list[str]:
    """Lines whose cells stand under each other, two blanks apart; `right` names the columns of numbers.

    Never cut to a terminal's width: what is piped into another program must be whole.
    """
    table = [list(header), *map(list, rows)] if header else [list(row) for row in rows]
    if not table:
        return []
    widths = [max(width(row[i]) for row in table) for i in range(len(table[0]))]

    def padded(i: int, cell: str) -> str:
        blanks = " " * (widths[i] - width(cell))
        return blanks + cell if i in right else cell + blanks

    return ["  ".join(padded(i, cell) for i, cell in enumerate(row)).rstrip() for row in table]


def width(text: str) -> int:
    """How many cells of a terminal a text takes: ideographs and emoji take two, combining marks none."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )


def indented(text: str, prefix: str = "  ") -> str:
    """Every line one step to the right."""
    return "\n".join(prefix + line if line else line for line in text.splitlines())
