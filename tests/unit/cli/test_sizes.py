"""Sizes are read as people write them."""

import pytest

from dsync.cli.sizes import parse_size, size_text


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("65536", 65536),
        ("512MiB", 512 * 1024 * 1024),
        ("4MB", 4_000_000),
        ("4mb", 4_000_000),
        ("1.5GiB", 1_610_612_736),
        ("64k", 65536),
        ("2 G", 2 * 1024**3),
        ("1kB", 1000),
        ("0", 0),
    ],
)
def test_a_size_is_a_number_with_or_without_a_unit(text: str, size_bytes: int) -> None:
    """MB is a million bytes, MiB and M are 1024 * 1024."""
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize("text", ["", "MiB", "4 parsecs", "-1", "1e6", "4,5MB", "٤MB", "0x10"])
def test_what_is_no_size_is_refused(text: str) -> None:
    """The message says how one is written."""
    with pytest.raises(ValueError, match="write a number of bytes, or 512MiB"):
        parse_size(text)


@pytest.mark.parametrize(
    ("size_bytes", "text"), [(65536, "64 KiB"), (4 * 1024**2, "4 MiB"), (1000, "1000 B"), (0, "0 B")]
)
def test_a_limit_is_shown_exactly(size_bytes: int, text: str) -> None:
    """Limits in messages are never rounded."""
    assert size_text(size_bytes) == text
