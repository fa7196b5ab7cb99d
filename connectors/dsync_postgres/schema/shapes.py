"""What types of a database's own are made of: the same name may mean something else at another server.

COPY rows name no fields: a composite value whose fields stand in another order goes in without a word, and a domain
takes the bytes of its base type as those of another one. Row types differ even in a faithful copy: pg_dump does not
keep the order of columns in a child of a table that got another column later.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import LiteralString

from dsync.sdk import namespaces
from dsync_postgres.schema.reading import Reading, Row

INNER_TYPES: LiteralString = """
        SELECT t.typbasetype AS oid WHERE t.typtype = 'd'
        UNION ALL SELECT t.typelem WHERE t.typelem <> 0 AND t.typlen = -1
        UNION ALL SELECT a.atttypid FROM pg_attribute a
                  WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
        UNION ALL SELECT r.rngsubtype FROM pg_range r WHERE r.rngtypid = t.oid
        UNION ALL SELECT r.rngtypid FROM pg_range r WHERE r.rngmultitypid = t.oid"""
"""The query for the types that the type `t` is made of: elements, fields, what a domain or a range is over."""

# Whatever comes with the server has a smaller oid (FirstNormalObjectId in transam.h) and is alike everywhere.
_PIECES: LiteralString = f"""
WITH RECURSIVE part(oid) AS (
    SELECT DISTINCT a.atttypid
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'm', 'f') AND a.attnum > 0 AND NOT a.attisdropped AND a.atttypid >= 16384
      AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast', '_dsync')
  UNION
    SELECT piece.oid FROM part JOIN pg_type t ON t.oid = part.oid
    CROSS JOIN LATERAL (
        {INNER_TYPES}
    ) AS piece
    WHERE piece.oid >= 16384
)
SELECT t.oid, t.typtype::text AS kind, piece.label, piece.type, piece.oid AS piece_oid
FROM part JOIN pg_type t ON t.oid = part.oid
CROSS JOIN LATERAL (
    SELECT 0 AS place, '' AS label, format_type(t.typbasetype, t.typtypmod) AS type, t.typbasetype AS oid
    WHERE t.typtype = 'd'
    UNION ALL SELECT 0, '', '', t.typelem WHERE t.typelem <> 0 AND t.typlen = -1
    UNION ALL SELECT a.attnum::int, a.attname::text, format_type(a.atttypid, a.atttypmod), a.atttypid
              FROM pg_attribute a
              WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
    UNION ALL SELECT 0, '', format_type(r.rngsubtype, NULL), r.rngsubtype FROM pg_range r WHERE r.rngtypid = t.oid
    UNION ALL SELECT 0, '', '', r.rngtypid FROM pg_range r WHERE r.rngmultitypid = t.oid
) AS piece
ORDER BY t.oid, piece.place
"""


def _assemble(rows: Iterable[Row]) -> dict[int, str]:
    pieces: defaultdict[int, list[Row]] = defaultdict(list)
    for row in rows:
        pieces[row["oid"]].append(row)
    known: dict[int, str] = {}

    def shape_of(oid: int) -> str:
        if oid not in known:
            # No type can hold itself; a value for the time being all the same, so that nothing here can go on for ever.
            known[oid] = ""
            known[oid] = _written(pieces.get(oid, []), [shape_of(piece["piece_oid"]) for piece in pieces.get(oid, [])])
        return known[oid]

    return {oid: shape for oid in tuple(pieces) if (shape := shape_of(oid))}


def _written(pieces: list[Row], inner: list[str]) -> str:
    if not pieces:
        return ""
    kind = pieces[0]["kind"]
    texts = [piece["type"] + shape for piece, shape in zip(pieces, inner, strict=True)]
    if kind == "c":
        fields = (f"{namespaces.join((piece['label'],))} {text}" for piece, text in zip(pieces, texts, strict=True))
        return f"({', '.join(fields)})"
    if kind == "d":
        return f"={texts[0]}"
    # An array and a multirange are what their element is.
    return f"<{texts[0]}>" if kind == "r" else texts[0]


read_shapes = Reading(_assemble, _PIECES)
"""What columns' types are made of, by oid of this server; those that their name says all about are left out."""
