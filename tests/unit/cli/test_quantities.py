"""Rates and times as people write them."""

from __future__ import annotations

import pytest

from dsync.cli.quantities import Rate, parse_rate, parse_time


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("5000", Rate(rows_per_s=5000)),
        (" 5000/s ", Rate(rows_per_s=5000)),
        ("5000 rows/s", Rate(rows_per_s=5000)),
        ("20MiB/s", Rate(bytes_per_s=20 * 1024 * 1024)),
        ("1.5MB", Rate(bytes_per_s=1_500_000)),
        ("800 b/s", Rate(bytes_per_s=800)),
    ],
)
def test_a_rate(text: str, rate: Rate) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["", "/s", "fast", "5000/min", "-5", "5 parsecs/s", "0", "0MiB/s"])
def test_no_rate(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no rate|would never read"):
        parse_rate(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("15m", 900), ("1h30m", 5400), ("1.5h", 5400), ("1d", 86400), ("0", 0)],
)
def test_a_time(text: str, seconds: float) -> None:
    assert parse_time(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "-1", "5 m", "15min", "1h,30m"])
def test_no_time(text: str) -> None:
    with pytest.raises(ValueError, match="is no time"):
        parse_time(text)
