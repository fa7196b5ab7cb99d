"""Rows as lines of JSON: what a line says, and what is refused."""

from __future__ import annotations

import json
import struct

import pytest
from dsync_postgres.documents import DocumentError, LineDecoder, LineEncoder
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.unit.documents.pages import TableColumn, copy_page, fields_of, table

ONE = struct.pack(">i", 1)


def _line(columns: list[TableColumn], row: list[bytes | None]) -> dict[str, object]:
    lines, rows = LineEncoder(columns).encode_copy_binary(copy_page([row]))
    assert rows == 1
    assert lines.endswith(b"}\n")
    found: dict[str, object] = json.loads(lines)
    return found


def _field(printed: str, text: str) -> bytes | None:
    line = f'{{"id":1,"k":1,"v":{text}}}\n'.encode()
    page, _ = LineDecoder(table(k="integer", v=printed)).decode(line)
    return fields_of(page)[0][1]


def test_the_key_is_called_id() -> None:
    """A column `id` that alone is the key is not repeated, another one is moved aside."""
    assert _line(table(id="integer", v="text"), [ONE, b"x"]) == {"id": 1, "v": "x"}
    columns = [TableColumn(name="k", type="integer", key_position=1), TableColumn(name="id", type="text")]
    assert _line(columns, [ONE, b"x"]) == {"id": 1, "k": 1, "_id": "x"}
    columns = [
        TableColumn(name="id", type="integer", key_position=2),
        TableColumn(name="b", type="text", key_position=1),
    ]
    assert _line(columns, [ONE, b"x"]) == {"id": {"b": "x", "id": 1}, "_id": 1, "b": "x"}


@pytest.mark.parametrize(
    ("printed", "raw", "text"),
    [
        ("bigint", struct.pack(">q", 2**62 + 1), str(2**62 + 1)),
        ("double precision", struct.pack(">d", float("-inf")), '"-Infinity"'),
        ("real", struct.pack(">f", 0.5), "0.5"),
        ("numeric", struct.pack(">hhHH2H", 2, 0, 0, 2, 1, 5000), "1.50"),
        ("date", struct.pack(">i", 1), '"2000-01-02"'),
        ("timestamp without time zone", struct.pack(">q", 1_500_000), '"2000-01-01T00:00:01.500"'),
        ("timestamp with time zone", struct.pack(">q", 1_000_000), '"2000-01-01T00:00:01Z"'),
        ("bytea", b"\0\xff", '"AP8="'),
        ("uuid", bytes(16), '"00000000-0000-0000-0000-000000000000"'),
        ("point", struct.pack(">dd", 1.5, float("nan")), '[1.5,"NaN"]'),
        ("jsonb", b'\1{"a": 1.50}', '{"a":1.50}'),
        ("jsonb", b"\1null", '{"$json":"null"}'),
        ("int4range", b"\x02" + b"\0\0\0\4" + ONE + b"\0\0\0\4" + ONE, '{"lower":1,"upper":1,"bounds":"[)"}'),
        ("date[]", struct.pack(">iiIiiii", 1, 0, 1082, 1, 1, 4, 1), '["2000-01-02"]'),
    ],
)
def test_a_value_is_written_as_json_has_it(printed: str, raw: bytes, text: str) -> None:
    """And read back as it was."""
    lines, _ = LineEncoder(table(k="integer", v=printed)).encode_copy_binary(copy_page([[ONE, raw]]))
    assert lines == f'{{"id":1,"k":1,"v":{text}}}\n'.encode()
    back = _field(printed, text)
    assert back is not None
    assert (back == raw) if printed != "jsonb" else (json.loads(back[1:]) == json.loads(raw[1:]))


@pytest.mark.parametrize(
    ("printed", "text", "reason"),
    [
        ("integer", '"1"', "no such form"),
        ("integer", "1.5", "not a whole number"),
        ("integer", "true", "no such form"),
        ("bytea", '"a-b"', "no such form"),
        ("uuid", '"x"', "no such form"),
        ("text", "1", "double does not fit text"),
        ("double precision", '"1"', "no such form"),
        ("int4range", '{"from":1}', "no such form"),
        ("integer[]", "1", "no such form"),
    ],
)
def test_a_value_of_another_kind_is_refused(printed: str, text: str, reason: str) -> None:
    """By the name of its field, without what it is."""
    with pytest.raises(DocumentError, match="field 'v'") as caught:
        _field(printed, text)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("[]", "no JSON object"),
        ("{", "not valid JSON"),
        ('{"id":1,"k":1,"k":1}', "a member twice"),
        ('{"id":1,"k":1,"v":NaN}', "not valid JSON"),
        ('{"id":1,"k":1,"w":1}', "field 'w' is no column"),
        ('{"id":2,"k":1}', "disagree about the key"),
        ('{"v":"x"}', "neither a field nor in id"),
    ],
)
def test_a_line_that_is_no_row_is_refused(line: str, reason: str) -> None:
    """And it is said which one of the page."""
    good = '{"id":1,"k":1,"v":"x"}\n'
    with pytest.raises(DocumentError) as caught:
        LineDecoder(table(k="integer", v="text")).decode((good + line + "\n").encode())
    assert reason in str(caught.value)
    assert caught.value.index == 1


def test_a_table_without_key_drops_no_id_that_is_somebodys() -> None:
    """What an encoder gave to a row without key is dropped; any other id has to be in a field."""
    columns = [TableColumn(name="a", type="integer"), TableColumn(name="b", type="text")]
    lines, _ = LineEncoder(columns).encode_copy_binary(copy_page([[struct.pack(">IH", 1, 2), ONE, b"x"]]))
    assert json.loads(lines).keys() == {"id", "a", "b"}
    decoder = LineDecoder(columns)
    assert fields_of(decoder.decode(lines)[0]) == [[ONE, b"x"]]
    assert fields_of(decoder.decode(b'{"id":1,"a":1,"b":"x"}\n')[0]) == [[ONE, b"x"]]
    assert fields_of(decoder.decode(b'{"id":{"a":1},"b":"x"}\n')[0]) == [[ONE, b"x"]]
    with pytest.raises(DocumentError, match="id is the value of no field"):
        decoder.decode(b'{"id":7,"a":1,"b":"x"}\n')


@settings(max_examples=100, deadline=None)
@example(10**34 + 1)
@example(10**400)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=5))
def test_any_json_is_read_or_refused(value: object) -> None:
    """Whatever a peer sends, the answer is rows or a DocumentError."""
    line = json.dumps({"id": 1, "k": 1, "v": value}).encode() + b"\n"
    for printed in ("text", "jsonb", "integer[]", "numeric", "timestamp with time zone", "int4range", "point", "money"):
        try:
            page, rows = LineDecoder(table(k="integer", v=printed)).decode(line)
        except DocumentError:
            continue
        assert len(fields_of(page)) == rows == 1
