"""Cutting tables into ranges of blocks that can be read side by side."""

from __future__ import annotations

from collections.abc import Iterator

from dsync.sdk import types
from dsync_postgres.source.cursors import PartitionCursor
from dsync_postgres.source.planned import PlannedTable

_SMALLEST_WEIGHT_BYTES = 16 * 1024 * 1024
# So many partitions for each reader let them end at about the same time.
_PARTITIONS_A_READER = 4


def weight_bytes(total_bytes: int, largest_bytes: int, parallel: int) -> int:
    """What a partition should weigh: as agreed, or less where few tables are all there is to share out."""
    fair = total_bytes // (max(1, parallel) * _PARTITIONS_A_READER)
    return max(1, min(largest_bytes, max(_SMALLEST_WEIGHT_BYTES, fair)))


def cut(table: PlannedTable, weight: int, lineage: bytes) -> Iterator[types.Partition]:
    """Yield the partitions of a table: ranges of blocks of about that weight, the last one open above.

    What is stored outside the rows counts too, spread evenly. A table without rows is one partition.
    """
    total = table.size_bytes + table.outside_bytes
    count = max(1, min(round(total / weight), table.blocks))
    density = max(1, total // table.blocks) if table.blocks else table.block_bytes
    for index in range(count):
        start, end = table.blocks * index // count, table.blocks * (index + 1) // count
        cursor = PartitionCursor(
            lineage=lineage,
            oid=table.oid,
            filenode=table.filenode,
            columns=table.fingerprint,
            start_block=start,
            end_block=end if index + 1 < count else None,
            density=density,
        )
        yield types.Partition(
            namespace=table.name.namespace,
            cursor=cursor.encode(),
            estimated_count=_share(table, index, count),
        )


def _share(table: PlannedTable, index: int, count: int) -> int:
    rows = max(0, table.estimated_rows)
    return rows * (index + 1) // count - rows * index // count
