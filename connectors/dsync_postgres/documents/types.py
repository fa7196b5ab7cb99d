"""Which PostgreSQL types travel as BSON, read from the type's printed form (`format_type`)."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from functools import cached_property


class Kind(enum.Enum):
    """One conversion; several PostgreSQL types may share it. The value is the printed name without modifier."""

    INT2 = "smallint"
    INT4 = "integer"
    INT8 = "bigint"
    FLOAT4 = "real"
    FLOAT8 = "double precision"
    NUMERIC = "numeric"
    BOOL = "boolean"
    TEXT = "text"
    VARCHAR = "character varying"
    CHAR = "character"
    DATE = "date"
    TIMESTAMP = "timestamp without time zone"
    TIMESTAMPTZ = "timestamp with time zone"
    UUID = "uuid"
    BYTEA = "bytea"
    JSON = "json"
    JSONB = "jsonb"


ELEMENT_OIDS = {
    Kind.INT2: 21,
    Kind.INT4: 23,
    Kind.INT8: 20,
    Kind.FLOAT4: 700,
    Kind.FLOAT8: 701,
    Kind.NUMERIC: 1700,
    Kind.BOOL: 16,
    Kind.TEXT: 25,
    Kind.VARCHAR: 1043,
    Kind.CHAR: 1042,
    Kind.DATE: 1082,
    Kind.TIMESTAMP: 1114,
    Kind.TIMESTAMPTZ: 1184,
    Kind.UUID: 2950,
    Kind.BYTEA: 17,
    Kind.JSON: 114,
    Kind.JSONB: 3802,
}
"""The types' own oids, which a binary array names; built-in types have the same on every server."""

_PRINTED = re.compile(
    r"(?P<head>[a-z]+(?: [a-z]+)?)(?:\((?P<modifier>-?\d+(?:,-?\d+)?)\))?"
    r"(?P<zone> with(?:out)? time zone)?(?P<array>\[\])?"
)
_KINDS = {kind.value: kind for kind in Kind} | {"bpchar": Kind.CHAR}
_LENGTHS = frozenset({Kind.VARCHAR, Kind.CHAR})
_TEXTS = frozenset({Kind.TEXT, Kind.VARCHAR, Kind.CHAR, Kind.JSON})
_TIMES = frozenset({Kind.TIMESTAMP, Kind.TIMESTAMPTZ})


@dataclass(frozen=True, kw_only=True)
class ColumnType:
    """A type that travels as BSON, with what its modifier demands of values."""

    kind: Kind
    modifier: tuple[int, ...] = ()
    """As printed in parentheses; empty: none."""
    is_array: bool = False

    @cached_property
    def characters_max(self) -> int | None:
        """How many characters fit; None: any number."""
        return self.modifier[0] if self.kind in _LENGTHS and self.modifier else None

    @cached_property
    def fraction_digits(self) -> int:
        """How many digits of a second a timestamp keeps."""
        return self.modifier[0] if self.kind in _TIMES and self.modifier else 6

    @cached_property
    def numeric_limits(self) -> tuple[int, int] | None:
        """Precision and scale of a numeric; None: no limits."""
        if self.kind is not Kind.NUMERIC or not self.modifier:
            return None
        return self.modifier[0], self.modifier[1] if len(self.modifier) > 1 else 0

    @property
    def is_plain_text(self) -> bool:
        """Its binary form and its BSON form are the same characters."""
        return not self.is_array and self.kind in _TEXTS

    @property
    def element(self) -> ColumnType:
        """The type of an array's elements."""
        return ColumnType(kind=self.kind, modifier=self.modifier)


def parse_type(printed: str) -> ColumnType | None:
    """The type behind a printed name such as `numeric(14,4)` or `integer[]`; None where it has no mapping."""
    match = _PRINTED.fullmatch(printed)
    if match is None:
        return None
    kind = _KINDS.get(match["head"] + (match["zone"] or ""))
    if kind is None:
        return None
    modifier = tuple(map(int, match["modifier"].split(","))) if match["modifier"] else ()
    return ColumnType(kind=kind, modifier=modifier, is_array=match["array"] is not None)
