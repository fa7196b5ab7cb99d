"""Cutting tables into partitions."""

from dsync_postgres.schema.names import TableName
from dsync_postgres.source.cursors import PartitionCursor
from dsync_postgres.source.partitions import cut, weight_bytes
from dsync_postgres.source.planned import PlannedTable
from hypothesis import given, settings
from hypothesis import strategies as st

BLOCK = 8192
MIB = 1024 * 1024


def table(blocks: int, *, outside_bytes: int = 0, rows: int = -1) -> PlannedTable:
    """A table of so many blocks."""
    return PlannedTable(
        name=TableName(schema="public", name="t"),
        oid=1,
        kind="r",
        filenode=2,
        current_filenode=2,
        block_bytes=BLOCK,
        size_bytes=blocks * BLOCK,
        outside_bytes=outside_bytes,
        estimated_rows=rows,
        can_select=True,
        hides_rows=False,
        columns=(),
    )


@settings(deadline=None)
@given(
    blocks=st.integers(0, 2**32 - 2),
    outside_bytes=st.integers(0, 2**44),
    weight=st.integers(16 * MIB, 2**40),
    rows=st.integers(-1, 2**40),
)
def test_partitions_cover_every_block_once(blocks: int, outside_bytes: int, weight: int, rows: int) -> None:
    """No gap, no overlap, the last one open above; estimates add up."""
    if blocks * BLOCK + outside_bytes > 2000 * weight:
        weight = (blocks * BLOCK + outside_bytes) // 2000

    parts = list(cut(table(blocks, outside_bytes=outside_bytes, rows=rows), weight, b"lineage"))

    cursors = [PartitionCursor.decode(part.cursor) for part in parts]
    assert cursors[0].start_block == 0
    assert cursors[-1].end_block is None
    assert [c.end_block for c in cursors[:-1]] == [c.start_block for c in cursors[1:]]
    assert all(c.end_block is None or c.start_block < c.end_block for c in cursors)
    assert sum(part.estimated_count for part in parts) == max(0, rows)


def test_an_empty_table_is_one_partition() -> None:
    """There is something to finish, so that the sink knows it is complete."""
    assert len(list(cut(table(0), 128 * MIB, b"lineage"))) == 1


def test_what_lies_outside_the_rows_counts() -> None:
    """A few blocks may point to gigabytes; density says how much a block will give."""
    parts = list(cut(table(64, outside_bytes=1024 * MIB), 128 * MIB, b"lineage"))

    assert len(parts) == 8
    assert PartitionCursor.decode(parts[0].cursor).density > 16 * MIB


def test_small_databases_are_shared_out_and_large_ones_keep_the_agreed_weight() -> None:
    """All readers have work to the end; tiny pieces are not worth their round trips."""
    assert weight_bytes(100 * 1024 * MIB, 128 * MIB, 4) == 128 * MIB
    assert weight_bytes(512 * MIB, 128 * MIB, 2) == 64 * MIB
    assert weight_bytes(MIB, 128 * MIB, 2) == 16 * MIB
    assert weight_bytes(MIB, 8 * MIB, 2) == 8 * MIB
