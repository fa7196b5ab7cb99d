"""Cutting a table into key ranges of about equal size, from a sample of its blocks."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from psycopg import sql

from dsync.sdk import types
from dsync_postgres import large_objects as large
from dsync_postgres.checksums.statements import Relation
from dsync_postgres.sessions import Connection

# Types that every server orders alike, whatever its locale, and whose text reads back as the same value.
_ORDERED_TYPES = ["int2", "int4", "int8", "numeric", "date", "time", "timestamp", "timestamptz", "uuid", "oid"]
_MOST_ROWS_PER_BLOCK = 291
"""An 8 kB block has no room for more line pointers with tuples (MaxHeapTuplesPerPage)."""
_SAMPLE_SHARE = 50
_FEWEST_BLOCKS, _MOST_BLOCKS = 400, 4000
"""One block of so many is sampled, within these limits: enough for sixteen points in each range."""
_MOST_RANGES = 1000
_POINTS_PER_RANGE = 16
_MOST_PASSES = 3.0
"""How often the ranges together may visit the table: where keys lie scattered, each range visits all of it."""

_OBJECTS_BYTES = 1024 * 1024 * 1024
"""A range of large objects is about so many."""

_ONE_OPEN_RANGE = [types.KeyRange()]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Point:
    """A sampled row."""

    block: int
    key: tuple[str, ...]


def plan_ranges(
    connection: Connection, relation: Relation, key: tuple[str, ...], rows_per_range: int
) -> list[types.KeyRange]:
    """Ranges that together hold every possible key, in key order; one open range where cutting does not help.

    That is: a small table, a key whose order differs between servers or that may be NULL, a partitioned parent, and a
    table whose keys are scattered over it (random uuids), which one sequential scan reads sooner than many ranges.
    """
    if relation.table == large.NAME:
        return _object_ranges(connection, rows_per_range)
    if relation.is_parent or not key or not _orders_everywhere(connection, relation, key):
        return _ONE_OPEN_RANGE
    blocks = _block_count(connection, relation)
    if blocks * _MOST_ROWS_PER_BLOCK <= rows_per_range:
        return _ONE_OPEN_RANGE
    percent = min(100.0, 100.0 * min(_MOST_BLOCKS, max(_FEWEST_BLOCKS, blocks // _SAMPLE_SHARE)) / blocks)
    sampled = _sampled_rows(connection, relation, percent)
    count = min(_MOST_RANGES, int(sampled * 100 / percent) // rows_per_range)
    if count < 2:
        return _ONE_OPEN_RANGE
    points = _points(connection, relation, key, percent, step=max(1, sampled // (count * _POINTS_PER_RANGE)))
    return _cut(points, count, blocks)


def _object_ranges(connection: Connection, rows_per_range: int) -> list[types.KeyRange]:
    """Ranges with about equally many large objects, none of which is in two of them."""
    row = connection.execute(
        "SELECT pg_relation_size(%s::oid), (SELECT count(*) FROM pg_largeobject_metadata)", [large.RELATION_OID]
    ).fetchone()
    assert row is not None, "a SELECT without FROM gives one row"
    size_bytes, objects = row
    count = min(_MOST_RANGES, max(size_bytes // _OBJECTS_BYTES, objects // max(1, rows_per_range)), objects)
    if count < 2:
        return _ONE_OPEN_RANGE
    firsts = connection.execute(
        "SELECT min(oid)::text FROM (SELECT oid, ntile(%s) OVER (ORDER BY oid) AS tile FROM pg_largeobject_metadata) o"
        " GROUP BY tile ORDER BY min(oid) OFFSET 1",
        [count],
    ).fetchall()
    bounds: list[tuple[str, ...]] = [(), *((first, "0") for (first,) in firsts), ()]
    return [types.KeyRange(lower=lower, upper=upper) for lower, upper in pairwise(bounds)]


def _orders_everywhere(connection: Connection, relation: Relation, key: Sequence[str]) -> bool:
    """Every column is NOT NULL, too: a NULL is in no range."""
    row = connection.execute(
        "SELECT count(*) FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid"
        " LEFT JOIN pg_type b ON b.oid = nullif(t.typbasetype, 0)"
        " WHERE a.attrelid = %s::regclass AND a.attname = ANY(%s) AND a.attnotnull"
        " AND coalesce(b.typnamespace, t.typnamespace) = 'pg_catalog'::regnamespace"
        " AND coalesce(b.typname, t.typname) = ANY(%s)",
        [relation.table.identifier.as_string(connection), list(key), _ORDERED_TYPES],
    ).fetchone()
    return row is not None and row[0] == len(key)


def _block_count(connection: Connection, relation: Relation) -> int:
    row = connection.execute(
        "SELECT pg_relation_size(%s::regclass) / current_setting('block_size')::int",
        [relation.table.identifier.as_string(connection)],
    ).fetchone()
    return int(row[0]) if row is not None else 0


def _sample(relation: Relation, percent: float) -> sql.Composed:
    # Repeatable: the second query reads the blocks that the first one has counted.
    return sql.SQL("{} TABLESAMPLE SYSTEM ({}) REPEATABLE (0)").format(relation.from_item, sql.Literal(percent))


def _sampled_rows(connection: Connection, relation: Relation, percent: float) -> int:
    row = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(_sample(relation, percent))).fetchone()
    return int(row[0]) if row is not None else 0


def _points(
    connection: Connection, relation: Relation, key: Sequence[str], percent: float, *, step: int
) -> list[_Point]:
    """Every step-th row of the sample in key order."""
    columns = sql.SQL(", ").join(map(sql.Identifier, key))
    names = sql.SQL(", ").join(sql.Identifier(f"k{position}") for position in range(len(key)))
    query = sql.SQL(
        "SELECT block, {names} FROM (SELECT (ctid::text::point)[0]::int8, row_number() OVER (ORDER BY {columns}),"
        " {columns} FROM {sample}) AS p (block, place, {names}) WHERE place % {step} = 0 ORDER BY place"
    ).format(names=names, columns=columns, sample=_sample(relation, percent), step=sql.Literal(step))
    result = connection.execute(query).pgresult
    assert result is not None, "SELECT gives a result"
    value = result.get_value
    return [
        _Point(
            block=int(value(row, 0) or 0),
            key=tuple((value(row, column) or b"").decode() for column in range(1, result.nfields)),
        )
        for row in range(result.ntuples)
    ]


def _cut(points: Sequence[_Point], count: int, blocks: int) -> list[types.KeyRange]:
    starts = sorted({len(points) * ordinal // count for ordinal in range(1, count)})
    edges = [0, *starts, len(points)]
    spans = [_span_blocks(points[start:end]) for start, end in pairwise(edges) if start < end]
    if sum(spans) > _MOST_PASSES * blocks:
        return _ONE_OPEN_RANGE
    bounds: list[tuple[str, ...]] = [(), *(points[start].key for start in starts if start > 0), ()]
    return [types.KeyRange(lower=lower, upper=upper) for lower, upper in pairwise(bounds)]


def _span_blocks(points: Sequence[_Point]) -> float:
    """Over how many blocks most of these rows are spread; some that were moved elsewhere do not count."""
    middle = statistics.median(point.block for point in points)
    return 4 * statistics.median(abs(point.block - middle) for point in points)
