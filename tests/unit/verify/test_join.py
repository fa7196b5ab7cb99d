"""Rows of two sides that meet by key, in memory or in a file."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsync.protocol.errors import CapacityError
from dsync.protocol.types import RowHash
from dsync.verify.join import RowJoin, Side
from dsync.verify.report import Kind
from dsync.verify.tally import Room, Tally

Rows = dict[str, int]


def keyed_rows(rows: Rows) -> list[RowHash]:
    return [RowHash(key=(key,), hash=bytes([content])) for key, content in rows.items()]


async def batches(rows: Sequence[RowHash], size: int) -> AsyncIterator[Sequence[RowHash]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


async def join(
    source: Sequence[RowHash], target: Sequence[RowHash], *, keyed: bool, held_bytes: int, batch: int = 7
) -> tuple[Tally, RowJoin]:
    tally = Tally(room=Room(left=10_000))
    rows = RowJoin(tally, keyed=keyed, held_bytes=held_bytes)
    await rows.feed_in_step(batches(source, batch), batches(target, batch))
    await rows.finish()
    rows.close()
    return tally, rows


def found(tally: Tally) -> Counter[tuple[Kind, str]]:
    return Counter({(row.kind, row.key[0]): row.rows for row in tally.found})


contents = st.dictionaries(st.text(max_size=3), st.integers(0, 2), max_size=40)


@settings(deadline=None)
@given(source=contents, target=contents, held_bytes=st.sampled_from([1, 2000, 10**9]), seed=st.integers(0, 99))
async def test_keyed_rows_fall_into_their_classes(source: Rows, target: Rows, held_bytes: int, seed: int) -> None:
    """In whatever order they come, and however little fits into memory."""
    rows = keyed_rows(target)
    random.Random(seed).shuffle(rows)
    tally, _ = await join(keyed_rows(source), rows, keyed=True, held_bytes=held_bytes)
    expected = Counter({(Kind.MISSING, key): 1 for key in source.keys() - target.keys()})
    expected |= Counter({(Kind.EXTRA, key): 1 for key in target.keys() - source.keys()})
    expected |= Counter({(Kind.DIFFERENT, k): 1 for k in source.keys() & target.keys() if source[k] != target[k]})
    assert found(tally) == expected
    assert sum(tally.counts.values()) == expected.total()


bags = st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(1, 3)), max_size=30)


@settings(deadline=None)
@given(source=bags, target=bags, held_bytes=st.sampled_from([1, 10**9]))
async def test_rows_without_a_key_are_counted(
    source: list[tuple[str, int]], target: list[tuple[str, int]], held_bytes: int
) -> None:
    """Multiplicities add up over batches; what one side has more of is missing or extra by that much."""
    tally, _ = await join(
        [RowHash(key=(key,), hash=b"", count=count) for key, count in source],
        [RowHash(key=(key,), hash=b"", count=count) for key, count in target],
        keyed=False,
        held_bytes=held_bytes,
    )
    here, there = Counter[str](), Counter[str]()
    for counter, rows in ((here, source), (there, target)):
        for key, count in rows:
            counter[key] += count
    expected = Counter({(Kind.MISSING, key): count for key, count in (here - there).items()})
    expected |= Counter({(Kind.EXTRA, key): count for key, count in (there - here).items()})
    assert found(tally) == expected


async def test_rows_in_the_same_order_need_no_memory() -> None:
    """A row leaves as soon as its counterpart has come: nothing waits but the last batch."""
    rows = [RowHash(key=(str(n),), hash=b"x") for n in range(5000)]
    tally = Tally(room=Room(left=0))
    pair = RowJoin(tally, keyed=True, held_bytes=100_000)
    await pair.feed_in_step(batches(rows, 100), batches(rows[3:], 100))
    assert not pair.has_spilled
    assert pair.held_bytes < 2000
    await pair.finish()
    assert tally.counts[Kind.MISSING] == 3


async def test_what_waits_beyond_the_limit_waits_in_a_file() -> None:
    """In the opposite order everything waits: in memory only as much as is allowed, whatever the number of rows."""
    rows = [RowHash(key=(str(n),), hash=b"x") for n in range(20_000)]
    tally = Tally(room=Room(left=0))
    pair = RowJoin(tally, keyed=True, held_bytes=200_000)
    most = 0
    for start in range(0, len(rows), 100):
        await pair.feed(Side.SOURCE, rows[start : start + 100])
        most = max(most, pair.held_bytes)
    assert pair.has_spilled
    assert most < 250_000
    await pair.feed(Side.TARGET, [RowHash(key=("7",), hash=b"y"), *rows[1000:]])
    await pair.finish()
    assert tally.counts == {Kind.MISSING: 999, Kind.EXTRA: 0, Kind.DIFFERENT: 1}
    assert tally.found == []


async def test_a_key_that_comes_twice_is_one_too_many() -> None:
    """Nothing keeps it unique where an end has no such key."""
    rows = [RowHash(key=("a",), hash=b"x")] * 3
    for held_bytes in (1, 10**6):
        tally, _ = await join(rows[:1], rows, keyed=True, held_bytes=held_bytes)
        assert tally.counts == {Kind.MISSING: 0, Kind.EXTRA: 2, Kind.DIFFERENT: 0}


async def test_a_full_disk_is_named() -> None:
    """The folder, and what to do about it."""
    pair = RowJoin(Tally(room=Room(left=0)), keyed=True, held_bytes=1, directory=Path("/nowhere/at/all"))
    with pytest.raises(CapacityError, match=r"/nowhere/at/all .*TMPDIR"):
        await pair.feed(Side.SOURCE, keyed_rows({"a": 1}))
    pair.close()
