"""The documents of this mapping as lines of JSON, for peers that speak JSON alone (adiom.v1's DATA_TYPE_JSON_ID).

A line is the document with `id` in place of `_id`, and what JSON has no type for in its plainest text: a date and a
time as in ISO 8601, a uuid as usual, bytes in base64, a double that is no number as `"NaN"` or `"Infinity"`. Numbers
keep all their digits. Which text means what is known from the column, so nothing is lost on the way back.
"""

from __future__ import annotations

import base64
import binascii
import json
import struct
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bson.decimal128 import Decimal128

from dsync.sdk.types import Buffer
from dsync_postgres.documents.arrays import index_name
from dsync_postgres.documents.bson import (
    ARRAY,
    BINARY,
    BOOL,
    DATE,
    DECIMAL,
    DOCUMENT,
    DOUBLE,
    INT32,
    INT64,
    NULL,
    OBJECT_ID,
    STRING,
    Misfit,
    document_value,
    elements,
    read_double,
    read_int32,
    read_int64,
    string_element,
    string_text,
)
from dsync_postgres.documents.json import ESCAPE
from dsync_postgres.documents.layout import Item, Layout
from dsync_postgres.documents.times import moment_text
from dsync_postgres.documents.types import ColumnType, Kind

Write = Callable[[int, bytes], str]
"""From a BSON type and a value's bytes to JSON."""
Read = Callable[[Any], tuple[int, bytes]]
"""From parsed JSON to a BSON type and a value's bytes."""

_OID = "$oid"
_LENGTH = struct.Struct("<i")
_I32, _I64, _F64 = struct.Struct("<i"), struct.Struct("<q"), struct.Struct("<d")
_NOT_FINITE = {"NaN": "nan", "Infinity": "inf", "-Infinity": "-inf"}
_quoted = json.JSONEncoder(ensure_ascii=False).encode
_FLOATS = frozenset({Kind.FLOAT4, Kind.FLOAT8})
_WHOLES = frozenset({Kind.INT2, Kind.INT4, Kind.INT8, Kind.OID, Kind.XID, Kind.CID, Kind.XID8, Kind.MONEY})


class _Literal(str):
    """A number as it stands in the text, with all its digits."""

    __slots__ = ()


class LineWriter:
    """Turns the documents of one table into lines."""

    def __init__(self, layout: Layout) -> None:
        self._identity = layout.identity
        by_name = {item.name[:-1]: _writer(item.type) for item in layout.fields}
        self._writers: dict[bytes, Write] = {**by_name, layout.identity.encode(): _identity_writer(layout.key)}

    def write(self, packed: bytes) -> bytes:
        """A line for each document."""
        lines, position = [], 0
        while position < len(packed):
            end = position + _LENGTH.unpack_from(packed, position)[0]
            members = [
                f"{_quoted(name.decode())}:{self._writers[name](kind, packed[start:stop])}"
                for kind, name, start, stop in elements(packed, position, end)
            ]
            lines.append("{" + ",".join(members) + "}\n")
            position = end
        return "".join(lines).encode()


class LineReader:
    """Turns lines into the documents of one table."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._readers = {item.name[:-1].decode(): _reader(item.type) for item in layout.items}
        self._columns = {item.column: self._readers[item.name[:-1].decode()] for item in layout.items}
        self._identity_field = "_" + layout.identity

    def read(self, line: bytes) -> bytes:
        """The document of one line.

        Raises:
            Misfit: it is no JSON object, or has a value that its column cannot hold.
        """
        try:
            fields = json.loads(
                line,
                parse_int=_Literal,
                parse_float=_Literal,
                parse_constant=_refuse_constant,
                object_pairs_hook=_without_repeats,
            )
        except (ValueError, RecursionError) as exc:
            raise Misfit("it is not valid JSON, or has a member twice") from exc
        if type(fields) is not dict:
            raise Misfit("it is no JSON object")
        identity = fields.pop(self._layout.identity, None)
        found = {name: self._value(name, value) for name, value in fields.items()}
        members = [_element(name, *value) for name, value in found.items()]
        if identity is not None:
            members.insert(0, _element(self._layout.identity, *self._identity(identity, fields, found)))
        return document_value(b"".join(members))

    def _value(self, name: str, value: Any) -> tuple[int, bytes]:
        reader = self._readers.get(name)
        if reader is None:
            raise Misfit(f"field {name!r} is no column of the table")
        return _read_as(reader, name, value)

    def _identity(
        self, value: Any, fields: Mapping[str, Any], found: Mapping[str, tuple[int, bytes]]
    ) -> tuple[int, bytes]:
        """The key's value; a table that has no key yet has to have it in one of its fields."""
        name, key = self._layout.identity, self._layout.key
        if type(value) is dict and value.keys() == {_OID} and not key:
            return OBJECT_ID, _object_id(value[_OID])
        if len(key) == 1:
            return _read_as(self._columns[key[0].column], name, value)
        same = None if key else next((field for field, other in fields.items() if _are_equal(other, value)), None)
        if same is not None:
            return found[same]
        if not key and name in self._columns and self._identity_field not in fields:
            return _read_as(self._columns[name], name, value)
        if type(value) is dict and value.keys() <= self._columns.keys():
            members = [_element(column, *_read_as(self._columns[column], name, value[column])) for column in value]
            return DOCUMENT, document_value(b"".join(members))
        raise Misfit(f"{name} is the value of no field, and no document of the key's columns")


def split_lines(lines: Buffer) -> list[bytes]:
    """The single objects of a packed page."""
    return bytes(lines).splitlines()


# ------------------------------------------------------------------- writing


def _identity_writer(key: Sequence[Item]) -> Write:
    if len(key) == 1:
        return _writer(key[0].type)
    return _members_writer({item.column.encode(): _writer(item.type) for item in key}, _write)


def _writer(column_type: ColumnType) -> Write:
    """What writes the values of a type."""
    match column_type.kind:
        case Kind.DATE | Kind.TIMESTAMP | Kind.TIMESTAMPTZ as kind:
            return _moment_writer(kind)
        case Kind.ARRAY:
            return _array_writer(_writer(column_type.element), nests=not column_type.element.is_list)
        case Kind.COMPOSITE:
            return _members_writer({part.name.encode(): _writer(part.type) for part in column_type.parts}, _write)
        case Kind.RANGE | Kind.MULTIRANGE as kind:
            ranges = column_type if kind is Kind.RANGE else column_type.element
            bound = _writer(ranges.element)
            write_range = _members_writer({b"lower": bound, b"upper": bound}, _write)
            return write_range if kind is Kind.RANGE else _array_writer(write_range, nests=False)
        case _:
            return _write


def _write(kind: int, value: bytes) -> str:
    """Any value whose type says all about it."""
    if kind not in _PLAIN:
        raise Misfit.of(kind, "JSON")
    return _PLAIN[kind](value)


def _decimal_text(value: bytes) -> str:
    number = Decimal128.from_bid(value).to_decimal()
    return str(number) if number.is_finite() else _quoted(str(number))


def _binary_text(value: bytes) -> str:
    return _quoted(str(uuid.UUID(bytes=value[5:])) if value[4] == 4 else base64.b64encode(value[5:]).decode())


def _double_text(number: float) -> str:
    if number != number:
        return '"NaN"'
    if number in (float("inf"), float("-inf")):
        return '"Infinity"' if number > 0 else '"-Infinity"'
    return repr(number)


def _moment_writer(kind: Kind) -> Write:
    def write(bson_kind: int, value: bytes) -> str:
        if bson_kind != DATE:
            return _write(bson_kind, value)
        text = moment_text(read_int64(value)).decode()
        return f'"{text[: text.index("T")] if kind is Kind.DATE else text}{"Z" if kind is Kind.TIMESTAMPTZ else ""}"'

    return write


def _members_writer(writers: Mapping[bytes, Write], otherwise: Write) -> Write:
    def write(kind: int, value: bytes) -> str:
        if kind != DOCUMENT:
            return _write(kind, value)
        members = [
            f"{_quoted(name.decode())}:{writers.get(name, otherwise)(inner, value[start:end])}"
            for inner, name, start, end in elements(value, 0, len(value))
        ]
        return "{" + ",".join(members) + "}"

    return write


def _array_writer(write_element: Write, *, nests: bool) -> Write:
    """Arrays of any depth where they nest, and the long form."""

    def write(kind: int, value: bytes) -> str:
        if kind == ARRAY:
            return write_values(kind, value)
        return write_form(kind, value)

    def write_values(kind: int, value: bytes) -> str:
        found = [
            (write if nests and inner == ARRAY else write_element)(inner, value[start:end])
            for inner, _, start, end in elements(value, 0, len(value))
        ]
        return "[" + ",".join(found) + "]"

    write_form = _members_writer({b"values": write_values}, _write)
    return write


_PLAIN: dict[int, Callable[[bytes], str]] = {
    NULL: lambda value: "null",
    STRING: lambda value: _quoted(string_text(value)),
    DOUBLE: lambda value: _double_text(read_double(value)),
    BOOL: lambda value: "true" if value != b"\0" else "false",
    INT32: lambda value: str(read_int32(value)),
    INT64: lambda value: str(read_int64(value)),
    DECIMAL: _decimal_text,
    BINARY: _binary_text,
    OBJECT_ID: lambda value: f'{{"{_OID}":"{value.hex()}"}}',
    DOCUMENT: lambda value: _members_writer({}, _write)(DOCUMENT, value),
    ARRAY: lambda value: _array_writer(_write, nests=False)(ARRAY, value),
}


# ------------------------------------------------------------------- reading


def _refuse_constant(name: str) -> Any:
    raise ValueError(name)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError
    return found


def _are_equal(one: Any, other: Any) -> bool:
    return type(one) is type(other) and one == other


def _element(name: str, kind: int, value: bytes) -> bytes:
    return bytes([kind]) + name.encode() + b"\0" + value


def _read_as(reader: Read, name: str, value: Any) -> tuple[int, bytes]:
    try:
        return reader(value)
    except Misfit as exc:
        raise Misfit(f"field {name!r}: {exc}") from exc
    except (ValueError, ArithmeticError, binascii.Error, RecursionError) as exc:
        # Arithmetic: a number of more digits than a double or a decimal takes.
        raise Misfit(f"field {name!r}: a value that the column's type has no such form of") from exc


def _reader(column_type: ColumnType) -> Read:
    """What reads the values of a type; None is NULL everywhere."""
    read = _reader_of_values(column_type)
    return lambda value: (NULL, b"") if value is None else read(value)


def _reader_of_values(column_type: ColumnType) -> Read:
    match column_type.kind:
        case kind if kind in _FLOATS:
            return _read_double
        case kind if kind in _WHOLES:
            return _read_number
        case Kind.NUMERIC:
            return lambda value: _string(str(value)) if type(value) is _Literal else _read(value)
        case Kind.UUID:
            return lambda value: (BINARY, b"\x10\0\0\0\x04" + uuid.UUID(_text(value)).bytes)
        case Kind.BYTEA:
            return _read_base64
        case Kind.JSONB:
            return _read_jsonb
        case Kind.JSON:
            return lambda value: _read(value) if type(value) is str else _read_jsonb(value)
        case Kind.ARRAY:
            return _array_reader(column_type.element)
        case Kind.COMPOSITE:
            return _members_reader({part.name: _reader(part.type) for part in column_type.parts})
        case Kind.RANGE:
            bound = _reader(column_type.element)
            return _members_reader({"lower": bound, "upper": bound, "bounds": _read})
        case Kind.MULTIRANGE:
            return _list_reader(_reader(column_type.element))
        case _:
            return _read


def _read(value: Any) -> tuple[int, bytes]:
    """A value of a type that takes strings, doubles, and lists and members of these."""
    if type(value) is str:
        return _string(value)
    if type(value) is _Literal:
        return DOUBLE, _F64.pack(float(value))
    if type(value) is bool:
        return BOOL, b"\x01" if value else b"\0"
    if type(value) is list:
        return _list_reader(_read_coordinate)(value)
    if type(value) is dict:
        return DOCUMENT, document_value(
            b"".join(_element(name, *_read_member(name, inner)) for name, inner in value.items())
        )
    return NULL, b""


def _read_member(name: str, value: Any) -> tuple[int, bytes]:
    return _read_coordinate(value) if name == "radius" else _read(value)


def _read_coordinate(value: Any) -> tuple[int, bytes]:
    return _read_double(value) if type(value) is str and value in _NOT_FINITE else _read(value)


def _string(text: str) -> tuple[int, bytes]:
    return STRING, string_element(b"", text.encode())[1:]


def _text(value: Any) -> str:
    if type(value) is not str:
        raise ValueError
    return value


def _read_double(value: Any) -> tuple[int, bytes]:
    if type(value) is not _Literal and value not in _NOT_FINITE:
        raise ValueError
    return DOUBLE, _F64.pack(float(_NOT_FINITE.get(value, value)))


def _read_number(value: Any) -> tuple[int, bytes]:
    if type(value) is not _Literal:
        raise ValueError
    if value.lstrip("-").isdigit() and len(value) < 20 and -(1 << 63) <= int(value) < 1 << 63:
        return INT64, _I64.pack(int(value))
    return DECIMAL, Decimal128(str(value)).bid


def _read_base64(value: Any) -> tuple[int, bytes]:
    data = base64.b64decode(_text(value), validate=True)
    return BINARY, _I32.pack(len(data)) + b"\0" + data


def _object_id(value: Any) -> bytes:
    data = bytes.fromhex(_text(value))
    if len(data) != 12:
        raise Misfit("an $oid that has not 24 hexadecimal digits")
    return data


def _read_jsonb(value: Any) -> tuple[int, bytes]:
    """Its text, with the digits that it came with."""
    if type(value) is dict and value.keys() == {ESCAPE} and type(value[ESCAPE]) is str:
        text = value[ESCAPE]
    else:
        text = _json_text(value)
    return DOCUMENT, document_value(string_element(ESCAPE.encode() + b"\0", text.encode()))


def _json_text(value: Any) -> str:
    if type(value) is _Literal:
        return str(value)
    if type(value) is list:
        return "[" + ",".join(map(_json_text, value)) + "]"
    if type(value) is dict:
        return "{" + ",".join(f"{_quoted(name)}:{_json_text(inner)}" for name, inner in value.items()) + "}"
    return _quoted(value)


def _members_reader(readers: Mapping[str, Read]) -> Read:
    def read(value: Any) -> tuple[int, bytes]:
        if type(value) is not dict or not value.keys() <= readers.keys():
            raise ValueError
        return DOCUMENT, document_value(b"".join(_element(name, *readers[name](value[name])) for name in value))

    return read


def _list_reader(read_element: Read) -> Read:
    def read(value: Any) -> tuple[int, bytes]:
        if type(value) is not list:
            raise ValueError
        found = []
        for index, inner in enumerate(value):
            kind, data = read_element(inner)
            found.append(bytes([kind]) + index_name(index) + data)
        return ARRAY, document_value(b"".join(found))

    return read


def _read_size(value: Any) -> tuple[int, bytes]:
    if type(value) is not _Literal:
        raise ValueError
    return INT32, _I32.pack(int(value))


def _array_reader(element: ColumnType) -> Read:
    read_element = _reader(element)
    read_sizes = _list_reader(_read_size)
    read_form = _members_reader(
        {"dimensions": read_sizes, "lower_bounds": read_sizes, "values": _list_reader(read_element)}
    )

    def read_nested(value: Any) -> tuple[int, bytes]:
        return read_list(value) if type(value) is list and not element.is_list else read_element(value)

    read_list = _list_reader(read_nested)
    return lambda value: read_form(value) if type(value) is dict else read_list(value)
