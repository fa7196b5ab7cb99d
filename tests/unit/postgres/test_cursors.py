"""Cursors and partitions: what they carry, and what they refuse."""

from typing import Any

import msgpack
import pytest
from dsync_postgres.definition import Definition, decode_positions, encode_positions
from dsync_postgres.schema.names import TableName
from dsync_postgres.schema.sequences import SequencePosition
from dsync_postgres.source.cursors import PageCursor, PartitionCursor
from dsync_postgres.source.snapshots import Snapshot
from hypothesis import given, settings
from hypothesis import strategies as st

from dsync.sdk import errors

PARTITION = PartitionCursor(
    lineage=b"12345678", oid=16384, filenode=16390, columns=b"abcdefgh", start_block=7, end_block=None, density=8192
)
SNAPSHOT = Snapshot(
    endpoint="1/2/d", timeline=1, lineage=b"12345678", name="00000003-1", text="10:20:11,12", position=1000
)


def test_they_come_back_as_they_were() -> None:
    """Whatever was issued is understood."""
    cursor = PageCursor(start=(9, 4), density=100, inflation=2500)

    assert PartitionCursor.decode(PARTITION.encode()) == PARTITION
    assert PageCursor.decode(cursor.encode(), PARTITION) == cursor
    assert Snapshot.decode(SNAPSHOT.encode()) == SNAPSHOT


def test_no_cursor_is_the_start_of_the_partition() -> None:
    """With the density that planning has estimated."""
    assert PageCursor.decode(b"", PARTITION) == PageCursor(start=(7, 0), density=8192)


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=80))
def test_bytes_of_others_are_refused_by_name(data: bytes) -> None:
    """Never a crash, never a page of something else."""
    for decode in (PartitionCursor.decode, lambda data: PageCursor.decode(data, PARTITION), Snapshot.decode):
        with pytest.raises(errors.RequestError):
            decode(data)


@pytest.mark.parametrize("value", [[2, 1, 0, 1, 1], [1, 1, 0, 1], {"v": 1}, None, 7])
def test_another_version_is_refused(value: Any) -> None:
    """A cursor of a later release is not guessed at."""
    with pytest.raises(errors.RequestError):
        PageCursor.decode(msgpack.packb(value), PARTITION)


def test_the_bounds_of_a_snapshot() -> None:
    """Its text begins with the oldest running transaction and the first one to come."""
    assert (SNAPSHOT.xmin, SNAPSHOT.xmax) == (10, 20)


def test_definitions_and_positions_come_back() -> None:
    """What the source packs the sink unpacks."""
    definition = Definition(archive=b"PGDMP", facts={"encoding": "UTF8", "tables": [["a", 1, True]]})
    positions = (SequencePosition(name=TableName(schema="s", name='a "b"'), last_value=-(2**63), is_called=False),)

    assert Definition.decode(definition.encode()) == definition
    assert Definition.decode(b"") == Definition(archive=b"")
    assert decode_positions(encode_positions(positions)) == positions


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=40))
def test_definitions_of_others_are_refused_by_name(data: bytes) -> None:
    """Never a crash."""
    for decode in (Definition.decode, decode_positions):
        with pytest.raises(errors.RequestError):
            decode(data)
