"""A database's own types, and those of its extensions: what they are made of, by the name the server prints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import LiteralString

from dsync_postgres.schema.reading import Reading, Row


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribute:
    """A field of a composite type."""

    name: str
    type: str
    """format_type with its modifier."""
    oid: int
    """The type's, at this server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnType:
    """One type that does not come with the server."""

    name: str
    """format_type without modifier."""
    oid: int
    kind: str
    """pg_type.typtype: b base, c composite, d domain, e enum, r range, m multirange."""
    type_name: str = ""
    """pg_type.typname, by which an extension's types are known wherever it was installed."""
    extension: str = ""
    inner: str = ""
    """A domain's base with its modifier, a range's subtype, a multirange's range."""
    attributes: tuple[Attribute, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TypeBook:
    """The types of one server that are not the same at every server."""

    own: Mapping[str, OwnType] = field(default_factory=dict)
    major: int = 0
    """The server's version, 0 where it is not known: only from 17 on is there an infinite interval."""


EMPTY_BOOK = TypeBook()
"""Of a database without types of its own."""

# What comes with the server has smaller oids (FirstNormalObjectId in transam.h) and is alike everywhere.
_OWN_TYPES: LiteralString = """
WITH RECURSIVE part(oid) AS (
    SELECT DISTINCT a.atttypid
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
    WHERE c.relkind IN ('r', 'p', 'm', 'f') AND a.attnum > 0 AND NOT a.attisdropped AND a.atttypid >= 16384
  UNION
    SELECT piece.oid FROM part JOIN pg_type t ON t.oid = part.oid
    CROSS JOIN LATERAL (
        SELECT t.typbasetype AS oid WHERE t.typtype = 'd'
        UNION ALL SELECT t.typelem WHERE t.typelem <> 0 AND t.typlen = -1
        UNION ALL SELECT a.atttypid FROM pg_attribute a
                  WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
        UNION ALL SELECT r.rngsubtype FROM pg_range r WHERE r.rngtypid = t.oid
        UNION ALL SELECT r.rngtypid FROM pg_range r WHERE r.rngmultitypid = t.oid
    ) AS piece
    WHERE piece.oid >= 16384
)
SELECT t.oid::bigint AS oid, format_type(t.oid, NULL) AS name, t.typtype::text AS kind, t.typname::text AS type_name,
       coalesce((SELECT e.extname::text FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
                 WHERE d.classid = 'pg_type'::regclass AND d.objid = t.oid AND d.refclassid = 'pg_extension'::regclass
                   AND d.deptype = 'e'), '') AS extension,
       coalesce(CASE WHEN t.typtype = 'd' THEN format_type(t.typbasetype, t.typtypmod) END,
                (SELECT format_type(r.rngsubtype, NULL) FROM pg_range r WHERE r.rngtypid = t.oid),
                (SELECT format_type(r.rngtypid, NULL) FROM pg_range r WHERE r.rngmultitypid = t.oid), '') AS inner,
       ARRAY(SELECT ARRAY[a.attname::text, format_type(a.atttypid, a.atttypmod), a.atttypid::text] FROM pg_attribute a
             WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
             ORDER BY a.attnum) AS attributes
FROM part JOIN pg_type t ON t.oid = part.oid
WHERE NOT (t.typelem <> 0 AND t.typlen = -1)
"""
_MAJOR: LiteralString = "SELECT current_setting('server_version_num')::int / 10000 AS major"


def _assemble(types: Iterable[Row], versions: Iterable[Row]) -> TypeBook:
    own = {}
    for row in types:
        attributes = tuple(
            Attribute(name=name, type=printed, oid=int(oid)) for name, printed, oid in row.pop("attributes")
        )
        own[row["name"]] = OwnType(**row, attributes=attributes)
    return TypeBook(own=own, major=next(iter(versions))["major"])


read_own_types = Reading(_assemble, _OWN_TYPES, _MAJOR)
"""The types that the tables of a database use and that did not come with the server; and the server's version."""
