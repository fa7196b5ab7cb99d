"""Large objects as a namespace of their own: rows of (loid, start, data), one for each piece of an object.

PostgreSQL keeps their pages in `pg_catalog.pg_largeobject`, which only superusers may read, so that table gives the
namespace its name and the functions for large objects give its rows. A piece begins at a multiple of `PIECE_BYTES`; an
empty object has one, without data. What is said about an object as a whole comes with its last piece, in columns that
are not compared: until an object is complete nobody else can read half of it.
"""

from __future__ import annotations

from psycopg import sql

from dsync.sdk import types
from dsync_postgres.schema.names import TableName

NAME = TableName(schema="pg_catalog", name="pg_largeobject")
NAMESPACE = NAME.namespace
RELATION_OID = 2613
"""Of that table, the same in every database (LargeObjectRelationId)."""
PIECE_BYTES = 256 * 1024
"""Small beside a page and a message, large beside what a call costs. Part of the format: both ends count pieces."""
LONGEST_PIECES = 500
"""No page has more pieces: each object that is made, given away or removed takes a lock to the end of its transaction,
of which a server has room for some thousands."""

KEY = ("loid", "start")
CONTENT = (*KEY, "data")
OWNER, PRIVILEGES, COMMENT = "owner", "privileges", "comment"
_TYPES = {"loid": "oid", "start": "bigint", "data": "bytea", OWNER: "text", PRIVILEGES: "text", COMMENT: "text"}

_READING = 0x40000
"""INV_READ of libpq-fs.h."""
# One item of FROM: of several the planner would remember what a descriptor gave, whose number is used again and again.
SIZED = f"""
CROSS JOIN LATERAL (
  SELECT opened.size, lo_close(opened.descriptor) AS closed FROM (
    SELECT o.descriptor, lo_lseek64(o.descriptor, 0, 2) AS size
    FROM (SELECT lo_open(o.oid, {_READING}) AS descriptor OFFSET 0) o OFFSET 0) opened OFFSET 0
) measured
"""
"""Behind FROM … o (oid): `measured.size` is each object's length. To be used with `AND measured.closed = 0`."""


def columns(names: tuple[str, ...] = CONTENT) -> tuple[types.Column, ...]:
    """What the namespace looks like to others; the columns beyond `CONTENT` are asked for by name alone."""
    return tuple(
        types.Column(
            name=name,
            type=_TYPES[name],
            not_null=name in CONTENT,
            key_position=KEY.index(name) + 1 if name in KEY else 0,
            page_types=(
                types.PageType.PG_COPY_BINARY,
                types.PageType.PG_COPY_TEXT,
                types.PageType.BSON,
                types.PageType.JSON,
            ),
            orders_everywhere=name in KEY,
        )
        for name in names
    )


def knows(names: tuple[str, ...]) -> bool:
    """Whether all of these are columns of the namespace."""
    return all(name in _TYPES for name in names)


def pieces(lower: sql.Composable, upper: sql.Composable) -> sql.Composed:
    """A subquery of (loid, start, data) for the objects whose oid is at least the one and less than the other bound.

    NULL is no bound. What is not asked for is not read: conditions on loid and start are met before data is.
    """
    return sql.SQL(
        "(SELECT o.oid AS loid, piece.start, lo_get(o.oid, piece.start, {size}) AS data FROM ("
        "SELECT oid FROM pg_catalog.pg_largeobject_metadata"
        " WHERE ({lower} IS NULL OR oid >= {lower}) AND ({upper} IS NULL OR oid < {upper}) OFFSET 0) o "
        + SIZED
        + "CROSS JOIN LATERAL generate_series(0::bigint, greatest(measured.size - 1, 0), {size}) AS piece (start)"
        " WHERE measured.closed = 0)"
    ).format(size=sql.Literal(PIECE_BYTES), lower=lower, upper=upper)
