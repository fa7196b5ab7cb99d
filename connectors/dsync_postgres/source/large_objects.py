"""Large objects at the source: described, cut into ranges of oids, read by pieces, judged after a lost snapshot.

Everything is read through the functions for large objects, which need no more than SELECT on each of them and see what
the transaction's snapshot sees. Only the ages of their pages need SELECT on `pg_largeobject` itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgpack
from psycopg import sql

from dsync.sdk import errors, failpoint, types
from dsync_postgres import large_objects as large
from dsync_postgres.errors import translating
from dsync_postgres.schema.findings import info, stop
from dsync_postgres.sessions import Connection, begin_reading
from dsync_postgres.source.copyout import HEADER_BYTES
from dsync_postgres.source.pages import CopiedPage
from dsync_postgres.source.reader import Limits

_KIND = "large objects"
_VERSION = 1
_FIRST_LOOK = 32
"""Objects that are measured for a partition's first page; later ones by what the page before has taken."""
_EXACT_RANGES = 100_000
"""So many oids are named one by one to the sink; of more objects, ranges."""
_ROW_BYTES = 64
"""What a piece weighs beside its data."""


# ---------------------------------------------------------------------- facts


@dataclass(frozen=True, slots=True, kw_only=True)
class LargeObjectFacts:
    """What there is of them, and what this role may do."""

    count: int
    size_bytes: int
    """Of the table that holds them."""
    unreadable: int
    """How many of them this role may not read."""
    can_see_pages: bool
    """It may read `pg_largeobject` itself, and so tell which were written to."""


_READABLE = """
(r.rolsuper OR current_setting('lo_compat_privileges')::bool OR EXISTS (
   SELECT FROM aclexplode(coalesce(m.lomacl, acldefault('L', m.lomowner))) a
   WHERE a.privilege_type = 'SELECT' AND (a.grantee = 0 OR pg_has_role(a.grantee, 'USAGE'))))
"""
_HAS_FUNCTION_SINCE = 180000
_FACTS = """
SELECT (SELECT count(*) FROM pg_largeobject_metadata), pg_relation_size(2613),
       (SELECT count(*) FROM pg_largeobject_metadata m, pg_roles r WHERE r.rolname = current_user AND NOT {readable}),
       has_table_privilege(2613, 'SELECT')
"""


def read_facts(connection: Connection) -> LargeObjectFacts:
    """Look at all of them; in whatever transaction is open."""
    is_told = connection.info.server_version >= _HAS_FUNCTION_SINCE
    readable = "has_largeobject_privilege(m.oid, 'SELECT')" if is_told else _READABLE
    row = connection.execute(_FACTS.format(readable=readable).encode()).fetchone()
    assert row is not None, "a SELECT without FROM gives one row"
    return LargeObjectFacts(count=row[0], size_bytes=row[1], unreadable=row[2], can_see_pages=row[3])


def findings(facts: LargeObjectFacts, *, is_chosen: bool) -> Iterator[types.Finding]:
    """What a person should know before they are copied, or left out."""
    if not facts.count:
        return
    if not is_chosen:
        yield info(
            "large-objects",
            large.NAMESPACE,
            f"the source has {facts.count:,} large objects, which are not among what was chosen",
            f"add them with -n {large.NAMESPACE}, or leave -n out",
        )
        return
    if facts.unreadable:
        yield stop(
            "large-objects-closed",
            large.NAMESPACE,
            f"the role may not read {facts.unreadable:,} of {facts.count:,} of them, and a smaller copy is refused",
            "GRANT SELECT ON LARGE OBJECT …, become a member of their owners' roles, or connect as a superuser; or "
            f"leave them all out: --exclude {large.NAMESPACE}",
        )
    if not facts.can_see_pages:
        yield info(
            "large-objects-age",
            large.NAMESPACE,
            "the role cannot see whether large objects were written to, so after an interruption they are read again",
            "as a superuser: GRANT SELECT ON pg_catalog.pg_largeobject TO the role",
        )


def describe(facts: LargeObjectFacts) -> types.NamespaceDescription:
    """The namespace as it looks to others."""
    return types.NamespaceDescription(
        namespace=large.NAMESPACE,
        columns=large.columns(),
        estimated_rows=max(facts.count, facts.size_bytes // large.PIECE_BYTES),
        size_bytes=facts.size_bytes,
        kind="large objects",
    )


def read_for_sink(connection: Connection, snapshot_name: str) -> dict[str, Any]:
    """What a PostgreSQL sink has to know beforehand: which oids will come, whose they are, who may use them."""
    begin_reading(connection, snapshot_name)
    try:
        ranges = connection.execute(_RANGES, [_EXACT_RANGES]).fetchall()
        owners = connection.execute(_OWNERS).fetchall()
        grantees = connection.execute(_GRANTEES).fetchall()
    finally:
        connection.rollback()
    return {
        "ranges": [list(pair) for pair in ranges],
        "owners": sorted(name for (name,) in owners),
        "grantees": sorted(name for (name,) in grantees),
    }


_RANGES = (
    "SELECT min(oid)::int8, max(oid)::int8 FROM (SELECT oid, ntile(%s) OVER (ORDER BY oid) AS tile"
    " FROM pg_largeobject_metadata) o GROUP BY tile ORDER BY 1"
)
_OWNERS = "SELECT DISTINCT pg_get_userbyid(lomowner)::text FROM pg_largeobject_metadata"
_GRANTEES = (
    "SELECT DISTINCT pg_get_userbyid(role)::text FROM (SELECT DISTINCT lomacl FROM pg_largeobject_metadata) m,"
    " aclexplode(m.lomacl) a, unnest(ARRAY[a.grantee, a.grantor]) role WHERE role <> 0"
)


# ----------------------------------------------------------------- partitions


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectRange:
    """A partition: the objects of a range of oids, each of them whole."""

    lineage: bytes
    first: int
    end: int | None
    """The first oid beyond; None: all that follow."""

    def encode(self) -> bytes:
        """The form that travels."""
        packed: bytes = msgpack.packb([_VERSION, _KIND, self.lineage, self.first, self.end])
        return packed

    @classmethod
    def decode(cls, data: bytes) -> ObjectRange:
        """The inverse of `encode`.

        Raises:
            RequestError: these bytes are no partition of large objects.
        """
        lineage, first, end = _unpack(data, 3, "partition")
        return cls(lineage=lineage, first=first, end=end)


@dataclass(frozen=True, slots=True, kw_only=True)
class PieceCursor:
    """The piece that the next page begins with."""

    oid: int
    start: int = 0
    ahead: int = _FIRST_LOOK
    """How many objects to measure for the page: it travels, so that the same cursor gives the same page."""

    def encode(self) -> bytes:
        """The form that travels."""
        packed: bytes = msgpack.packb([_VERSION, _KIND, self.oid, self.start, self.ahead])
        return packed

    @classmethod
    def decode(cls, data: bytes, partition: ObjectRange) -> PieceCursor:
        """The inverse of `encode`; empty bytes are the partition's start.

        Raises:
            RequestError: these bytes are no cursor of large objects.
        """
        if not data:
            return cls(oid=partition.first)
        oid, start, ahead = _unpack(data, 3, "cursor")
        return cls(oid=oid, start=start, ahead=ahead)


def _unpack(data: bytes, count: int, what: str) -> list[Any]:
    try:
        fields = msgpack.unpackb(data)
    except (ValueError, msgpack.UnpackException) as exc:
        raise errors.RequestError(f"reading large objects: the {what} was not issued by this connector") from exc
    if not isinstance(fields, list) or fields[:2] != [_VERSION, _KIND] or len(fields) != count + 2:
        raise errors.RequestError(
            f"reading large objects: the {what} was not issued by this connector, or by another version; plan again"
        )
    return fields[2:]


_TILES = (
    "SELECT min(oid)::int8, count(*) FROM (SELECT oid, ntile(%s) OVER (ORDER BY oid) AS tile"
    " FROM pg_largeobject_metadata) o GROUP BY tile ORDER BY 1"
)


def cut(connection: Connection, snapshot_name: str, lineage: bytes, weight: int) -> tuple[types.Partition, ...]:
    """Ranges with about equally many objects, as many as would weigh so much each if all were alike.

    Raises:
        PrivilegeError: this role may not read all of them.
    """
    begin_reading(connection, snapshot_name)
    try:
        facts = read_facts(connection)
        if facts.unreadable:
            raise errors.PrivilegeError(
                f"planning the copy: the role may not read {facts.unreadable:,} of {facts.count:,} large objects; "
                f"GRANT SELECT ON LARGE OBJECT …, or leave them all out: --exclude {large.NAMESPACE}"
            )
        count = max(1, min(round(facts.size_bytes / max(1, weight)), facts.count))
        rows = connection.execute(_TILES, [count]).fetchall() or [(0, 0)]
    finally:
        connection.rollback()
    # The first begins before all of them and the last is open, so that together they are everything.
    firsts = [0, *(first for first, _ in rows[1:])]
    ends = [*firsts[1:], None]
    total = max(facts.count, facts.size_bytes // large.PIECE_BYTES)
    return tuple(
        types.Partition(
            namespace=large.NAMESPACE,
            cursor=ObjectRange(lineage=lineage, first=first, end=end).encode(),
            estimated_count=total * members // max(1, facts.count),
        )
        for first, end, (_, members) in zip(firsts, ends, rows, strict=True)
    )


# ---------------------------------------------------------------------- pages

_LIST = f"""
SELECT o.oid::int8, piece.start, least({large.PIECE_BYTES}, measured.size - piece.start),
       piece.start + {large.PIECE_BYTES} >= measured.size
FROM (SELECT oid FROM pg_largeobject_metadata
      WHERE oid >= %(oid)s::oid AND (%(end)s::oid IS NULL OR oid < %(end)s::oid) ORDER BY oid LIMIT %(ahead)s) o
{large.SIZED}
CROSS JOIN LATERAL (SELECT CASE WHEN o.oid = %(oid)s::oid THEN %(start)s::int8 ELSE 0 END AS start) first
CROSS JOIN LATERAL generate_series(
    first.start, greatest(first.start, least(measured.size - 1, first.start + %(bytes)s::int8)), {large.PIECE_BYTES}
) AS piece (start)
WHERE measured.closed = 0 ORDER BY 1, 2 LIMIT {large.LONGEST_PIECES + 1}
"""
_NEXT = "SELECT min(oid)::int8 FROM pg_largeobject_metadata WHERE oid > %s::oid AND (%s::oid IS NULL OR oid < %s::oid)"

# Privileges: who granted (nothing: the owner), to whom (owner, public or a role), what, whether it may be passed on.
_ABOUT = {
    large.OWNER: "pg_get_userbyid(x.lomowner)::text",
    large.PRIVILEGES: """(CASE WHEN x.lomacl IS NOT NULL THEN coalesce((
        SELECT json_agg(json_build_array(
                   CASE WHEN a.grantor <> x.lomowner THEN pg_get_userbyid(a.grantor) END,
                   CASE a.grantee WHEN 0 THEN 'public' WHEN x.lomowner THEN 'owner' ELSE 'role' END,
                   pg_get_userbyid(nullif(a.grantee, 0)), a.privilege_type, a.is_grantable))
        FROM aclexplode(x.lomacl) a), '[]')::text END)""",
    large.COMMENT: "obj_description(x.oid, 'pg_largeobject')",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Piece:
    oid: int
    start: int
    size_bytes: int
    is_last: bool


def read_page(
    connection: Connection,
    snapshot_name: str,
    request: types.ReadRequest,
    limits: Limits,
    *,
    is_binary: bool,
) -> CopiedPage:
    """The pieces from the cursor on that make a page, as COPY gives them.

    Raises:
        SnapshotLostError: the plan's snapshot is gone.
        CapacityError: a message cannot hold a single piece.
        PrivilegeError: this role may not read one of the objects.
    """
    partition = ObjectRange.decode(request.partition.cursor)
    cursor = PieceCursor.decode(request.cursor, partition)
    columns = request.columns or large.CONTENT
    if not large.knows(columns):
        raise errors.RequestError(f"reading {large.NAMESPACE}: it has no column {set(columns) - set(large.CONTENT)}")
    # Their text is hexadecimal.
    weight = 1 if is_binary else 2
    if large.PIECE_BYTES * weight + HEADER_BYTES + _ROW_BYTES > limits.max_bytes:
        raise errors.CapacityError(
            f"reading {large.NAMESPACE}: a message of {limits.max_bytes:,} bytes cannot hold a piece of a large object "
            f"({large.PIECE_BYTES:,} bytes); leave them out: --exclude {large.NAMESPACE}"
        )
    failpoint("source.before_copy")
    with translating(f"reading {large.NAMESPACE}"):
        begin_reading(connection, snapshot_name)
        try:
            listed = _list(connection, partition, cursor, limits.page_bytes)
            taken = _fitting(listed, limits.page_bytes // weight)
            after = _after(connection, partition, cursor, listed, taken)
            body = _copy(connection, taken, columns, is_binary=is_binary) if taken else _empty(is_binary)
        finally:
            if not connection.closed:
                connection.rollback()
    failpoint("source.after_copy")
    return CopiedPage(body=body, rows=len(taken), next_cursor=after.encode() if after is not None else b"")


def _list(connection: Connection, partition: ObjectRange, cursor: PieceCursor, page_bytes: int) -> list[_Piece]:
    """The pieces that may be part of the page, and some more."""
    rows = connection.execute(
        _LIST.encode(),
        {
            "oid": cursor.oid,
            "start": cursor.start,
            "end": partition.end,
            "ahead": cursor.ahead,
            # One more than fits: what is listed next is what the next page begins with.
            "bytes": page_bytes + large.PIECE_BYTES,
        },
    )
    return [_Piece(oid=oid, start=start, size_bytes=size, is_last=last) for oid, start, size, last in rows]


def _fitting(listed: Sequence[_Piece], page_bytes: int) -> list[_Piece]:
    """As many as weigh no more than a page; at least one."""
    taken: list[_Piece] = []
    weight = HEADER_BYTES
    for piece in listed[: large.LONGEST_PIECES]:
        weight += piece.size_bytes + _ROW_BYTES
        if taken and weight > page_bytes:
            break
        taken.append(piece)
    return taken


def _after(
    connection: Connection,
    partition: ObjectRange,
    cursor: PieceCursor,
    listed: Sequence[_Piece],
    taken: Sequence[_Piece],
) -> PieceCursor | None:
    """Where the next page begins; None: nothing follows."""
    if not taken:
        return None
    objects = len({piece.oid for piece in taken})
    ahead = max(_FIRST_LOOK, min(large.LONGEST_PIECES, 2 * objects))
    if len(taken) < len(listed):
        following = listed[len(taken)]
        return PieceCursor(oid=following.oid, start=following.start, ahead=ahead)
    last = taken[-1]
    if not last.is_last:
        return PieceCursor(oid=last.oid, start=last.start + large.PIECE_BYTES, ahead=ahead)
    row = connection.execute(_NEXT, [last.oid, partition.end, partition.end]).fetchone()
    assert row is not None, "an aggregate gives one row"
    return None if row[0] is None else PieceCursor(oid=row[0], ahead=ahead)


def _copy(connection: Connection, pieces: Sequence[_Piece], columns: Sequence[str], *, is_binary: bool) -> bytes:
    expressions = {
        "loid": "x.oid",
        "start": "x.start",
        "data": f"lo_get(x.oid, x.start, {large.PIECE_BYTES})",
        **{name: f"CASE WHEN x.is_last THEN {text} END" for name, text in _ABOUT.items()},
    }
    query = sql.SQL(
        "COPY (SELECT {listed} FROM (SELECT m.oid, m.lomowner, m.lomacl, p.start, p.is_last"
        " FROM unnest({oids}::oid[], {starts}::int8[], {lasts}::bool[])"
        " WITH ORDINALITY AS p (oid, start, is_last, place)"
        " JOIN pg_largeobject_metadata m ON m.oid = p.oid ORDER BY p.place OFFSET 0) x) TO STDOUT (FORMAT {form})"
    ).format(
        listed=sql.SQL(", ").join(sql.SQL(expressions[name]) for name in columns),
        oids=sql.Literal([piece.oid for piece in pieces]),
        starts=sql.Literal([piece.start for piece in pieces]),
        lasts=sql.Literal([piece.is_last for piece in pieces]),
        form=sql.SQL("binary" if is_binary else "text"),
    )
    with connection.cursor() as cursor, cursor.copy(query) as copy:
        return b"".join(bytes(block) for block in copy)


def _empty(is_binary: bool) -> bytes:
    return b"PGCOPY\n\xff\r\n\0" + bytes(8) + b"\xff\xff" if is_binary else b""


# --------------------------------------------------------- counts and recounts


def _within(column: str) -> str:
    return f"{column} >= %(first)s::oid AND (%(end)s::oid IS NULL OR {column} < %(end)s::oid)"


_COUNT = f"""
SELECT coalesce(sum(greatest(1, (measured.size + {large.PIECE_BYTES - 1}) / {large.PIECE_BYTES})), 0)::int8
FROM (SELECT oid FROM pg_largeobject_metadata WHERE {_within("oid")} OFFSET 0) o {large.SIZED} WHERE measured.closed = 0
"""


def count_pieces(connection: Connection, first: int = 0, end: int | None = None) -> int:
    """How many pieces the objects of a range of oids have; in whatever transaction is open."""
    row = connection.execute(_COUNT.encode(), {"first": first, "end": end}).fetchone()
    assert row is not None, "an aggregate gives one row"
    return int(row[0])


def difference(
    connection: Connection, snapshot_name: str, pieces: Sequence[types.CopiedPartition], written_later: str
) -> str:
    """Why what was copied is not certainly what a reader of this snapshot would copy; empty: it is.

    `written_later` is the condition on a row version that it is younger than the old snapshot. What has gone shows in
    the number of pieces, everything else in the age of what stands for it now.
    """
    copied = [piece for piece in pieces if piece.rows or piece.done or piece.cursor]
    if not copied:
        return ""
    with translating(f"recounting {large.NAMESPACE}"):
        begin_reading(connection, snapshot_name)
        try:
            if not read_facts(connection).can_see_pages:
                return "whether they were written to since cannot be seen without SELECT on pg_catalog.pg_largeobject"
            return next(filter(None, (_difference(connection, piece, written_later) for piece in copied)), "")
        finally:
            connection.rollback()


def _difference(connection: Connection, piece: types.CopiedPartition, written_later: str) -> str:
    partition = ObjectRange.decode(piece.partition.cursor)
    # Whole objects first; of the one that the cursor stands in the pieces before it.
    cursor = PieceCursor(oid=0) if piece.done else PieceCursor.decode(piece.cursor, partition)
    whole_end = partition.end if piece.done else cursor.oid
    end = cursor.oid + 1 if cursor.start else whole_end
    row = connection.execute(
        (
            f"SELECT (SELECT count(*) FROM pg_largeobject WHERE {_within('loid')} AND {written_later})"
            f" + (SELECT count(*) FROM pg_largeobject_metadata WHERE {_within('oid')} AND {written_later}),"
            " (SELECT count(*) FROM pg_largeobject_metadata WHERE oid = %(reading)s::oid)"
        ).encode(),
        {"first": partition.first, "end": end, "reading": cursor.oid},
    ).fetchone()
    assert row is not None, "a SELECT without FROM gives one row"
    later, is_there = row
    if later:
        return "large objects were written, made or changed since"
    found = count_pieces(connection, partition.first, whole_end)
    if is_there:
        found += cursor.start // large.PIECE_BYTES
    return "" if found == piece.rows else "large objects were removed since"
