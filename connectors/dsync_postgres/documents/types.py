"""What a column's type is, read from its printed form (`format_type`) and from what the database's own types are."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass, replace
from functools import cached_property

from dsync_postgres.documents.own_types import EMPTY_BOOK, OwnType, TypeBook


class Kind(enum.Enum):
    """One conversion; several PostgreSQL types may share it. The value is the printed name without modifier."""

    INT2 = "smallint"
    INT4 = "integer"
    INT8 = "bigint"
    FLOAT4 = "real"
    FLOAT8 = "double precision"
    NUMERIC = "numeric"
    MONEY = "money"
    OID = "oid"
    XID = "xid"
    CID = "cid"
    XID8 = "xid8"
    BOOL = "boolean"
    TEXT = "text"
    VARCHAR = "character varying"
    CHAR = "character"
    NAME = "name"
    BYTE_CHAR = '"char"'
    REFCURSOR = "refcursor"
    XML = "xml"
    DATE = "date"
    TIME = "time without time zone"
    TIMETZ = "time with time zone"
    TIMESTAMP = "timestamp without time zone"
    TIMESTAMPTZ = "timestamp with time zone"
    INTERVAL = "interval"
    UUID = "uuid"
    BYTEA = "bytea"
    JSON = "json"
    JSONB = "jsonb"
    JSONPATH = "jsonpath"
    INET = "inet"
    CIDR = "cidr"
    MACADDR = "macaddr"
    MACADDR8 = "macaddr8"
    BIT = "bit"
    VARBIT = "bit varying"
    PG_LSN = "pg_lsn"
    TID = "tid"
    PG_SNAPSHOT = "pg_snapshot"
    TXID_SNAPSHOT = "txid_snapshot"
    TSVECTOR = "tsvector"
    POINT = "point"
    LINE = "line"
    LSEG = "lseg"
    BOX = "box"
    PATH = "path"
    POLYGON = "polygon"
    CIRCLE = "circle"
    # Those of extensions and of the database itself; no server prints these names.
    ENUM = "an enum"
    CITEXT = "citext of the extension"
    LTREE = "ltree of the extension"
    HSTORE = "hstore of the extension"
    VECTOR = "vector of the extension"
    HALFVEC = "halfvec of the extension"
    # Those that are made of others.
    ARRAY = "an array"
    COMPOSITE = "a composite"
    RANGE = "a range"
    MULTIRANGE = "a multirange"
    # And whatever is left: the server turns it into text and back.
    BY_TEXT = "a type by its text"


OIDS = {
    Kind.INT2: 21,
    Kind.INT4: 23,
    Kind.INT8: 20,
    Kind.FLOAT4: 700,
    Kind.FLOAT8: 701,
    Kind.NUMERIC: 1700,
    Kind.MONEY: 790,
    Kind.OID: 26,
    Kind.XID: 28,
    Kind.CID: 29,
    Kind.XID8: 5069,
    Kind.BOOL: 16,
    Kind.TEXT: 25,
    Kind.VARCHAR: 1043,
    Kind.CHAR: 1042,
    Kind.NAME: 19,
    Kind.BYTE_CHAR: 18,
    Kind.REFCURSOR: 1790,
    Kind.XML: 142,
    Kind.DATE: 1082,
    Kind.TIME: 1083,
    Kind.TIMETZ: 1266,
    Kind.TIMESTAMP: 1114,
    Kind.TIMESTAMPTZ: 1184,
    Kind.INTERVAL: 1186,
    Kind.UUID: 2950,
    Kind.BYTEA: 17,
    Kind.JSON: 114,
    Kind.JSONB: 3802,
    Kind.JSONPATH: 4072,
    Kind.INET: 869,
    Kind.CIDR: 650,
    Kind.MACADDR: 829,
    Kind.MACADDR8: 774,
    Kind.BIT: 1560,
    Kind.VARBIT: 1562,
    Kind.PG_LSN: 3220,
    Kind.TID: 27,
    Kind.PG_SNAPSHOT: 5038,
    Kind.TXID_SNAPSHOT: 2970,
    Kind.TSVECTOR: 3614,
    Kind.POINT: 600,
    Kind.LINE: 628,
    Kind.LSEG: 601,
    Kind.BOX: 603,
    Kind.PATH: 602,
    Kind.POLYGON: 604,
    Kind.CIRCLE: 718,
}
"""The types' own oids, which a binary array names; built-in types have the same on every server."""

# Name, oid and subtype of the ranges that come with the server, and the oid of the multirange.
_RANGES = {
    "int4range": (3904, Kind.INT4),
    "int8range": (3926, Kind.INT8),
    "numrange": (3906, Kind.NUMERIC),
    "tsrange": (3908, Kind.TIMESTAMP),
    "tstzrange": (3910, Kind.TIMESTAMPTZ),
    "daterange": (3912, Kind.DATE),
}
_MULTIRANGES = {
    "int4multirange": (4451, "int4range"),
    "int8multirange": (4536, "int8range"),
    "nummultirange": (4532, "numrange"),
    "tsmultirange": (4533, "tsrange"),
    "tstzmultirange": (4534, "tstzrange"),
    "datemultirange": (4535, "daterange"),
}
_EXTENSIONS = {
    ("citext", "citext"): Kind.CITEXT,
    ("ltree", "ltree"): Kind.LTREE,
    ("ltree", "lquery"): Kind.LTREE,
    ("ltree", "ltxtquery"): Kind.LTREE,
    ("hstore", "hstore"): Kind.HSTORE,
    ("vector", "vector"): Kind.VECTOR,
    ("vector", "halfvec"): Kind.HALFVEC,
}

_PRINTED = re.compile(
    r'(?P<head>"?[a-z][a-z_0-9]*"?(?: [a-z]+)?)(?:\((?P<modifier>-?\d+(?:,-?\d+)?)\))?'
    r"(?P<zone> with(?:out)? time zone)?"
)
_INTERVAL = re.compile(
    r"interval(?: (?P<fields>(?:year|month|day|hour|minute|second)(?: to (?:month|hour|minute|second))?))?"
    r"(?:\((?P<digits>\d)\))?"
)
# What follows a name of the database's own: a modifier, as in `public.vector(3)`.
_MODIFIED = re.compile(r'(?P<name>.+?)\((?P<modifier>[^()"]*)\)')
_KINDS = {kind.value: kind for kind in OIDS} | {"bpchar": Kind.CHAR, '"bit"': Kind.BIT}
_LENGTHS = frozenset({Kind.VARCHAR, Kind.CHAR})
_TEXTS = frozenset(
    {
        Kind.TEXT,
        Kind.VARCHAR,
        Kind.CHAR,
        Kind.NAME,
        Kind.REFCURSOR,
        Kind.XML,
        Kind.JSON,
        Kind.ENUM,
        Kind.CITEXT,
        Kind.BY_TEXT,
    }
)
_FRACTIONS = frozenset({Kind.TIMESTAMP, Kind.TIMESTAMPTZ, Kind.TIME, Kind.TIMETZ, Kind.INTERVAL})
# Their values are BSON arrays, so one that lies in an array cannot be told from one more dimension.
_LISTS = frozenset(
    {
        Kind.JSONB,
        Kind.ARRAY,
        Kind.MULTIRANGE,
        Kind.POINT,
        Kind.LINE,
        Kind.LSEG,
        Kind.BOX,
        Kind.POLYGON,
        Kind.VECTOR,
        Kind.HALFVEC,
    }
)


@dataclass(frozen=True, kw_only=True)
class Part:
    """A field of a composite type."""

    name: str
    type: ColumnType


@dataclass(frozen=True, kw_only=True)
class ColumnType:
    """A type, with what its modifier demands of values; domains are what they are based on."""

    kind: Kind
    name: str = ""
    """For messages, where the kind does not say it."""
    oid: int = 0
    """What this server calls it inside arrays and composites: a domain's own."""
    modifier: tuple[int, ...] = ()
    """As printed in parentheses; empty: none."""
    fields: str = ""
    """Which fields an interval keeps, as in `day to second`; empty: all."""
    inner: ColumnType | None = None
    """An array's element, a range's subtype, a multirange's range."""
    parts: tuple[Part, ...] = ()
    """A composite's fields."""
    has_infinite_interval: bool = True
    """Of an interval: this server knows infinite ones (17 and later)."""

    @property
    def label(self) -> str:
        """What people call it."""
        return self.name or self.kind.value

    @cached_property
    def characters_max(self) -> int | None:
        """How many characters fit; None: any number."""
        return self.modifier[0] if self.kind in _LENGTHS and self.modifier else None

    @cached_property
    def fraction_digits(self) -> int:
        """How many digits of a second it keeps."""
        return self.modifier[0] if self.kind in _FRACTIONS and self.modifier else 6

    @cached_property
    def numeric_limits(self) -> tuple[int, int] | None:
        """Precision and scale of a numeric; None: no limits."""
        if self.kind is not Kind.NUMERIC or not self.modifier:
            return None
        return self.modifier[0], self.modifier[1] if len(self.modifier) > 1 else 0

    @property
    def is_plain_text(self) -> bool:
        """Its binary form and its BSON form are the same characters."""
        return self.kind in _TEXTS

    @property
    def is_list(self) -> bool:
        """Its values are BSON arrays."""
        return self.kind in _LISTS

    @property
    def is_by_text(self) -> bool:
        """The servers turn it into text and back."""
        return self.kind is Kind.BY_TEXT

    @property
    def element(self) -> ColumnType:
        """What an array, range or multirange holds."""
        assert self.inner is not None, "only types that hold something have an inner type"
        return self.inner


def parse_type(printed: str, book: TypeBook = EMPTY_BOOK) -> ColumnType:
    """The type behind a printed name such as `numeric(14,4)`, `integer[]` or `shop.size`.

    What has no conversion of its own, or is made of something that has none, goes by its text.
    """
    if printed.endswith("[]"):
        element = parse_type(printed[:-2], book)
        if element.is_by_text or not element.oid:
            return _by_text(printed)
        return ColumnType(kind=Kind.ARRAY, name=printed, inner=element)
    return _built_in(printed, book) or _own(printed, book)


def _by_text(printed: str) -> ColumnType:
    return ColumnType(kind=Kind.BY_TEXT, name=printed)


def _built_in(printed: str, book: TypeBook) -> ColumnType | None:
    if printed in _RANGES:
        oid, sub = _RANGES[printed]
        return ColumnType(kind=Kind.RANGE, name=printed, oid=oid, inner=ColumnType(kind=sub, oid=OIDS[sub]))
    if printed in _MULTIRANGES:
        oid, ranges = _MULTIRANGES[printed]
        return ColumnType(kind=Kind.MULTIRANGE, name=printed, oid=oid, inner=_built_in(ranges, book))
    interval = _INTERVAL.fullmatch(printed)
    if interval is not None:
        return ColumnType(
            kind=Kind.INTERVAL,
            oid=OIDS[Kind.INTERVAL],
            modifier=(int(interval["digits"]),) if interval["digits"] else (),
            fields=interval["fields"] or "",
            has_infinite_interval=not 0 < book.major < 17,
        )
    match = _PRINTED.fullmatch(printed)
    kind = None if match is None else _KINDS.get(match["head"] + (match["zone"] or ""))
    if match is None or kind is None:
        return None
    modifier = tuple(map(int, match["modifier"].split(","))) if match["modifier"] else ()
    return ColumnType(kind=kind, oid=OIDS[kind], modifier=modifier)


def _own(printed: str, book: TypeBook) -> ColumnType:
    own = book.own.get(printed)
    if own is None:
        modified = _MODIFIED.fullmatch(printed)
        own = book.own.get(modified["name"]) if modified is not None else None
    if own is None:
        return _by_text(printed)
    if own.kind == "b":
        known = _EXTENSIONS.get((own.extension, own.type_name))
        return _by_text(printed) if known is None else ColumnType(kind=known, name=printed, oid=own.oid)
    if own.kind == "e":
        return ColumnType(kind=Kind.ENUM, name=printed, oid=own.oid)
    return _made(printed, own, book)


def _made(printed: str, own: OwnType, book: TypeBook) -> ColumnType:
    """A domain, range, multirange or composite."""
    if own.kind == "c":
        parts = tuple(Part(name=a.name, type=_named(parse_type(a.type, book), a.oid)) for a in own.attributes)
        if any(part.type.is_by_text for part in parts):
            return _by_text(printed)
        return ColumnType(kind=Kind.COMPOSITE, name=printed, oid=own.oid, parts=parts)
    inner = parse_type(own.inner, book) if own.kind in "drm" else _by_text(printed)
    if inner.is_by_text:
        return _by_text(printed)
    if own.kind == "d":
        return _named(inner, own.oid)
    made_kind = Kind.RANGE if own.kind == "r" else Kind.MULTIRANGE
    return ColumnType(kind=made_kind, name=printed, oid=own.oid, inner=inner)


def _named(column_type: ColumnType, oid: int) -> ColumnType:
    """The same type under the oid that stands for it where it is used."""
    return replace(column_type, oid=oid)
