"""Counts, times and columns for people."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from dsync.cli.text import approximate_bytes, approximate_count, columns, counted, duration, moment, throughput, width


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (12.4, "12 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")],
)
def test_a_duration_is_as_precise_as_one_cares_about(seconds: float, text: str) -> None:
    """Tenths matter for a moment, seconds for minutes, minutes for hours."""
    assert duration(seconds) == text


def test_counts_are_exact_and_in_the_plural() -> None:
    """A count in a summary is never rounded."""
    assert counted(1, "table") == "1 table"
    assert counted(1_234_567, "row") == "1,234,567 rows"


def test_estimates_are_short() -> None:
    """Progress and plans need the order of magnitude."""
    assert approximate_bytes(1_234_567_890) == "1.2 GB"
    assert approximate_bytes(512) == "512 B"
    assert approximate_count(9_400) == "9,400"
    assert approximate_count(94_000) == "94.0 k"
    assert approximate_count(1_200_000) == "1.2 M"


def test_nothing_is_divided_by_zero() -> None:
    """A copy of an empty database takes no time."""
    assert throughput(0, 0, 0.0) == "0 rows/s, 0.0 MB/s"
    assert throughput(1000, 2_000_000, 2.0) == "500 rows/s, 1.0 MB/s"


def test_moments_are_in_utc() -> None:
    """The state's times are read on other machines."""
    at = datetime(2025, 11, 21, 9, 0, tzinfo=timezone(timedelta(hours=1)))
    assert moment(at) == "2025-11-21 08:00:00 UTC"
    assert moment(datetime(2025, 1, 2, tzinfo=UTC)) == "2025-01-02 00:00:00 UTC"
    assert moment(None) == "-"


def test_columns_line_up_whatever_they_hold() -> None:
    """An emoji or an ideograph takes two cells of a terminal, a combining mark none."""
    lines = columns([("a", "1"), ("🐘 表", "22"), ("e\u0301", "333")], header=("NAME", "N"), right={1})

    assert lines == ["NAME     N", "a        1", "🐘 表   22", "e\u0301      333"]
    assert {width(line) for line in lines} == {10}
    assert columns([]) == []
