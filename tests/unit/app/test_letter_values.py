"""What a refused record holds is shown column by column, whatever form its page has."""

from __future__ import annotations

import struct
from datetime import UTC, datetime

import bson
import pytest
from bson import Decimal128, Int64

from dsync.app.letter_values import values_of
from dsync.protocol.pages import PG_COPY_HEADER, PG_COPY_TRAILER
from dsync.protocol.types import PageType


def _binary(*fields: bytes | None) -> bytes:
    packed = b"".join(struct.pack(">i", -1) if it is None else struct.pack(">i", len(it)) + it for it in fields)
    return PG_COPY_HEADER + struct.pack(">h", len(fields)) + packed + PG_COPY_TRAILER


def test_binary_rows_show_text_as_text_and_the_rest_as_digits() -> None:
    """A stream does not say of which type a value is."""
    payload = _binary(struct.pack(">i", 7), "né\n🐘".encode(), None, b"", b"\xff\xfe", b"\x00")

    assert values_of(PageType.PG_COPY_BINARY, payload, ("id", "note", "gone", "empty", "raw", "nul")) == {
        "id": "\\x00000007",
        "note": "né\n🐘",
        "gone": None,
        "empty": "",
        "raw": "\\xfffe",
        "nul": "\\x00",
    }


def test_text_rows_are_unescaped() -> None:
    """A backslash that was doubled, a tab and a line break within a value, the N that is no null."""
    line = b"7\t\\N\ta\\tb\\nc\\\\d\t\\\\N\t\n"

    assert list(values_of(PageType.PG_COPY_TEXT, line, ("a", "b", "c", "d", "e")).values()) == [
        "7",
        None,
        "a\tb\nc\\d",
        "\\N",
        "",
    ]


def test_documents_show_their_types() -> None:
    """Texts as they are, anything else as extended JSON."""
    document = {
        "_id": "a",
        "n": Int64(5),
        "price": Decimal128("1.50"),
        "at": datetime(2026, 1, 1, tzinfo=UTC),
        "none": None,
        "inner": {"a": [1]},
    }
    values = values_of(PageType.BSON, bson.encode(document), ())

    assert (values["_id"], values["n"], values["none"], values["inner"]) == ("a", "5", "null", '{"a": [1]}')
    assert "1.50" in str(values["price"])
    assert "2026" in str(values["at"])


def test_json_objects_keep_their_numbers() -> None:
    """A float would round them."""
    values = values_of(
        PageType.JSON, b'{"id": 12345678901234567890, "p": 0.10000000000000000001, "o": {"a": null}}', ()
    )

    assert values == {"id": "12345678901234567890", "p": "0.10000000000000000001", "o": '{"a": null}'}


@pytest.mark.parametrize("columns", [(), ("a",), ("a", "b", "c")])
def test_columns_that_do_not_fit_are_numbers(columns: tuple[str, ...]) -> None:
    """The plan may be another one by now."""
    assert values_of(PageType.PG_COPY_BINARY, _binary(b"x", b"y"), columns) == {"1": "x", "2": "y"}
