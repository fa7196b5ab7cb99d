"""Frames are read as they were appended, by however many readers, from memory or from the disk."""

from __future__ import annotations

import asyncio
import errno
import stat
import tracemalloc
from contextlib import aclosing
from pathlib import Path

import pytest

from dsync.spool import (
    MAX_PAYLOAD_BYTES,
    Frame,
    FrameOrderError,
    FrameTooLargeError,
    OtherFlowsSpoolError,
    Spool,
    SpoolBrokenError,
    SpoolClosedError,
    SpoolLostError,
    files,
    following,
    remove_spool,
)
from tests.support.waiting import wait_for_async
from tests.unit.spool.support import (
    everything,
    expected,
    fill,
    open_descriptors,
    open_spool,
    order,
    payload,
    segments,
    take,
)


async def test_what_is_appended_is_read_after_a_restart(tmp_path: Path) -> None:
    """Across several segments, in order, from wherever a reader asks."""
    async with await open_spool(tmp_path / "spool") as spool:
        await fill(spool, range(1, 101))
        assert await spool.sync() == order(100)
    assert len(segments(tmp_path / "spool")) > 2

    assert await everything(tmp_path / "spool") == expected(range(1, 101))
    async with await open_spool(tmp_path / "spool") as spool:
        assert spool.cut is None
        assert (spool.first_order, spool.last_order, spool.durable_order) == (order(1), order(100), order(100))
        for start in (1, 29, 30, 31, 62, 99):
            assert [frame.order for frame in await take(spool, 100 - start, order(start))] == [
                order(number) for number in range(start + 1, 101)
            ]


async def test_the_figures_say_what_is_there(tmp_path: Path) -> None:
    """Sizes are those of the files; orders are empty where there is nothing."""
    async with await open_spool(tmp_path / "spool") as spool:
        assert (spool.frames, spool.size_bytes, spool.first_order, spool.last_order) == (0, 0, b"", b"")
        assert await spool.sync() == b""
        await fill(spool, [1, 2])
        assert (spool.frames, spool.first_order, spool.last_order, spool.durable_order) == (2, order(1), order(2), b"")
        await spool.sync()
        assert spool.size_bytes == sum(path.stat().st_size for path in segments(tmp_path / "spool"))
        assert spool.durable_order == order(2)
        assert 200 < spool.memory_bytes < 2000


async def test_a_payload_may_come_in_pieces_of_any_kind(tmp_path: Path) -> None:
    """They are written without being joined, more of them than the kernel takes at once, and read as one."""
    pieces = [bytes([number % 256]) * (number % 7) for number in range(3000)]
    mixed = [b"ab", bytearray(b"cd"), memoryview(b"efgh")[::1], memoryview(b"12345678").cast("I")]
    async with await open_spool(tmp_path / "spool") as spool:
        await spool.append(order(1), pieces)
        await spool.append(order(2), mixed)
        await spool.append(order(3), [])
        assert [frame.payload() for frame in await take(spool, 3)] == [b"".join(pieces), b"abcdefgh12345678", b""]
        await spool.sync()
    assert [found for _, found in await everything(tmp_path / "spool")] == [b"".join(pieces), b"abcdefgh12345678", b""]


async def test_a_frame_larger_than_a_segment_has_one_of_its_own(tmp_path: Path) -> None:
    """Nothing is split: a segment grows over its size rather."""
    async with await open_spool(tmp_path / "spool") as spool:
        await fill(spool, [1])
        await fill(spool, [2], 300_000)
        await fill(spool, [3])
        await spool.sync()
    assert await everything(tmp_path / "spool") == [*expected([1]), *expected([2], 300_000), *expected([3])]


@pytest.mark.parametrize("wrong", [b"", b"x" * 65, order(5), order(4), b"\x00\x00\x00"])
async def test_an_order_that_does_not_come_next_is_refused(tmp_path: Path, wrong: bytes) -> None:
    """Empty, too long, the same again, a lower one: nothing is taken, and the next good one is."""
    async with await open_spool(tmp_path / "spool") as spool:
        await fill(spool, [5])
        with pytest.raises(FrameOrderError):
            await spool.append(wrong, [b"x"])
        await fill(spool, [6])
        await spool.sync()
    assert await everything(tmp_path / "spool") == expected([5, 6])


async def test_the_order_goes_on_after_a_restart(tmp_path: Path) -> None:
    """What had been appended before is compared too."""
    async with await open_spool(tmp_path / "spool") as spool:
        await fill(spool, [5])
        await spool.sync()
    async with await open_spool(tmp_path / "spool") as spool:
        with pytest.raises(FrameOrderError):
            await fill(spool, [5])


async def test_a_frame_that_can_never_be_taken_is_refused(tmp_path: Path) -> None:
    """Above the limit for frames, or above that of the whole spool: waiting would not help."""
    async with await open_spool(tmp_path / "spool", limit_bytes=1 << 30) as spool:
        with pytest.raises(FrameTooLargeError, match="smaller batches"):
            await spool.append(order(1), [bytes(MAX_PAYLOAD_BYTES), b"x"])
    async with await open_spool(tmp_path / "small", limit_bytes=50_000) as spool:
        with pytest.raises(FrameTooLargeError, match="raise its limit"):
            await spool.append(order(1), [bytes(50_000)])
        with pytest.raises(FrameTooLargeError, match="raise its limit"):
            await spool.room(50_000)


async def test_a_reader_that_keeps_up_never_touches_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames are handed on from memory, those not yet written too, also long after they were written."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a reader that keeps up has read the disk")

    monkeypatch.setattr(following, "read_portion", refuse)
    async with await open_spool(tmp_path / "spool", cache_bytes=1000) as spool, aclosing(spool.read()) as reader:
        for number in range(1, 200):
            await fill(spool, [number])
            assert (await anext(reader)).order == order(number)
            if number % 10 == 0:
                await spool.sync()


async def test_readers_wait_for_what_is_still_to_come(tmp_path: Path) -> None:
    """One that has read everything is woken by the next frame; several do not get in each other's way."""
    async with await open_spool(tmp_path / "spool") as spool:
        await fill(spool, [1])
        waiting = [asyncio.ensure_future(take(spool, count, order(after))) for count, after in ((2, 1), (1, 2), (3, 0))]
        await fill(spool, [2])
        await fill(spool, [3])
        found = await asyncio.wait_for(asyncio.gather(*waiting), 10)
    assert [[frame.order for frame in frames] for frames in found] == [
        [order(2), order(3)],
        [order(3)],
        [order(1), order(2), order(3)],
    ]


async def test_a_careful_reader_gets_durable_frames_only(tmp_path: Path) -> None:
    """Whether they are still in memory or on disk only, and those after them once they are durable."""
    for cache_bytes in (1 << 20, 0):
        async with await open_spool(tmp_path / f"spool{cache_bytes}", cache_bytes=cache_bytes) as spool:
            await fill(spool, [1, 2])
            await spool.sync()
            await fill(spool, [3, 4])
            seen: list[Frame] = []

            async def follow(spool: Spool = spool, seen: list[Frame] = seen) -> None:
                async for frame in spool.read(order(1), durable_only=True):
                    seen.append(frame)
                    assert frame.order <= spool.durable_order

            reader = asyncio.ensure_future(follow())
            await wait_for_async(lambda seen=seen: len(seen) == 1)  # type: ignore[misc]
            await asyncio.sleep(0)
            assert [frame.order for frame in seen] == [order(2)]
            await spool.sync()
            await wait_for_async(lambda seen=seen: len(seen) == 3)  # type: ignore[misc]
            reader.cancel()


async def test_a_reader_that_was_overtaken_reads_on_from_the_disk(tmp_path: Path) -> None:
    """It stood at the end, in memory; then more came than memory holds."""
    async with await open_spool(tmp_path / "spool", cache_bytes=500) as spool:
        await fill(spool, [1])
        async with aclosing(spool.read()) as reader, aclosing(spool.read(order(1))) as waiter:
            assert (await anext(reader)).order == order(1)
            first = asyncio.ensure_future(anext(waiter))
            await asyncio.sleep(0)
            await fill(spool, range(2, 300))
            await spool.sync()
            found = [frame.order for frame in [await anext(reader) for _ in range(298)]]
            assert found == [order(number) for number in range(2, 300)]
            assert (await first).order == order(2)
            assert (await anext(waiter)).order == order(3)


async def test_a_careful_reader_reads_what_left_memory_before_it_was_durable(tmp_path: Path) -> None:
    """It began at a frame that was in memory only, and is given it from the disk."""
    async with await open_spool(tmp_path / "spool", cache_bytes=0) as spool:
        await fill(spool, [1])
        reader = asyncio.ensure_future(take(spool, 2, durable_only=True))
        await asyncio.sleep(0)
        await fill(spool, [2, 3])
        assert spool.memory_bytes < 1000
        assert not reader.done()
        await spool.sync()
        assert [frame.payload() for frame in await reader] == [payload(1), payload(2)]


async def test_a_slow_reader_costs_no_memory(tmp_path: Path) -> None:
    """However far it is behind, the writer keeps no more than the cache; no file stays open for readers."""
    async with await open_spool(
        tmp_path / "spool", cache_bytes=64 << 10, limit_bytes=64 << 20, segment_bytes=4 << 20
    ) as spool:
        await fill(spool, [1])
        async with aclosing(spool.read()) as slow:
            await anext(slow)
            before = open_descriptors()
            for number in range(2, 1000):
                await fill(spool, [number], 20_000)
                assert spool.memory_bytes <= 64 << 10
            await spool.sync()
            readers = [spool.read() for _ in range(20)]
            for reader in readers:
                assert (await anext(reader)).order == order(1)
            assert (await anext(slow)).order == order(2)
            assert open_descriptors() <= before + 1
            for reader in readers:
                await reader.aclose()


async def test_memory_stays_flat_while_a_reader_is_behind(tmp_path: Path) -> None:
    """A hundred megabytes written, and read from the disk by a reader that had stopped at the first frame."""
    async with await open_spool(
        tmp_path / "spool", cache_bytes=4 << 20, segment_bytes=16 << 20, limit_bytes=1 << 30
    ) as spool:
        await fill(spool, [1])
        async with aclosing(spool.read()) as slow:
            await anext(slow)
            tracemalloc.start()
            try:
                for number in range(2, 52):
                    await fill(spool, [number], 2 << 20)
                await spool.sync()
                for number in range(2, 52):
                    frame = await anext(slow)
                    assert (frame.order, frame.size_bytes) == (order(number), 2 << 20)
                    del frame
                _, peak_bytes = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
    # The cache, one frame being appended, one being read, and what a copy of either takes for a moment.
    assert peak_bytes < 16 << 20


async def test_frames_of_no_size_take_memory_too(tmp_path: Path) -> None:
    """A stream of empty frames is bounded as one of large ones."""
    async with await open_spool(
        tmp_path / "spool", cache_bytes=1 << 20, segment_bytes=16 << 20, limit_bytes=1 << 30
    ) as spool:
        tracemalloc.start()
        try:
            for number in range(1, 20_001):
                await spool.append(order(number), [b""])
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert spool.frames == 20_000
    assert peak_bytes < 4 << 20


async def test_an_open_that_fails_holds_no_descriptors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At whatever step."""

    def fail(_: int) -> None:
        raise OSError(errno.EIO, "failed")

    async with await open_spool(tmp_path / "spool") as spool:
        await fill(spool, [1])
        await spool.sync()
    before = open_descriptors()
    with monkeypatch.context() as failing:
        failing.setattr(files, "flush", fail)
        with pytest.raises(SpoolBrokenError):
            await open_spool(tmp_path / "spool")
    with pytest.raises(SpoolLostError):
        await open_spool(tmp_path / "spool", confirmed=order(2))
    with pytest.raises(OtherFlowsSpoolError):
        await open_spool(tmp_path / "spool", flow="other")
    assert open_descriptors() == before
    assert await everything(tmp_path / "spool", confirmed=order(1)) == expected([1])


async def test_those_who_sync_together_share_one_fsync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one runs, all who ask are served by the next; nobody is told before their own frames are durable."""
    calls = 0
    original = Spool.sync

    flush = files.flush

    def counted(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        flush(descriptor)

    async with await open_spool(tmp_path / "spool") as spool:
        await fill(spool, [1])
        await spool.sync()
        monkeypatch.setattr(files, "flush", counted)

        async def one(number: int) -> None:
            await fill(spool, [number])
            assert await original(spool) >= order(number)

        await asyncio.gather(*(one(number) for number in range(2, 22)))
    assert calls <= 3


async def test_a_sync_with_nothing_new_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is durable is not made durable again, a reopened spool's frames included."""
    async with await open_spool(tmp_path / "spool") as spool:
        await fill(spool, [1])
        await spool.sync()
    async with await open_spool(tmp_path / "spool") as spool:

        def refuse(_: int) -> None:
            raise AssertionError("an fsync for nothing")

        monkeypatch.setattr(files, "flush", refuse)
        assert await spool.sync() == order(1)


async def test_a_cancelled_sync_takes_nobody_with_it(tmp_path: Path) -> None:
    """The job it began goes on, and serves the others."""
    async with await open_spool(tmp_path / "spool") as spool:
        await fill(spool, [1])
        first = asyncio.ensure_future(spool.sync())
        await asyncio.sleep(0)
        await fill(spool, [2])
        second = asyncio.ensure_future(spool.sync())
        await asyncio.sleep(0)
        first.cancel()
        assert await second == order(2)
        await fill(spool, [3])
        assert await spool.sync() == order(3)


async def test_closing_ends_those_who_wait(tmp_path: Path) -> None:
    """A reader at the end is not left waiting, and does not take the end for the end of the stream."""
    spool = await open_spool(tmp_path / "spool")
    reader = asyncio.ensure_future(take(spool, 1))
    await asyncio.sleep(0)
    await fill(spool, [1], 1000)
    second = asyncio.ensure_future(take(spool, 1, order(1)))
    await asyncio.sleep(0)
    await reader
    await spool.close()
    await spool.close()
    for again in (second, spool.sync(), spool.append(order(9), []), spool.trim(order(1)), spool.room(1)):
        with pytest.raises(SpoolClosedError):
            await again


async def test_a_closed_spool_holds_no_descriptors(tmp_path: Path) -> None:
    """Opened and closed many times, with segments that are rolled over."""
    before = open_descriptors()
    for start in range(0, 500, 100):
        async with await open_spool(tmp_path / "spool") as spool:
            await fill(spool, range(start + 1, start + 101))
            await spool.sync()
            assert open_descriptors() <= before + 4
            await take(spool, 100, order(start))
    assert open_descriptors() == before


async def test_an_open_that_is_cancelled_holds_nothing(tmp_path: Path) -> None:
    """The thread may still be opening it: once it has, it lets go."""
    before = open_descriptors()
    opening = asyncio.ensure_future(open_spool(tmp_path / "spool"))
    await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    await wait_for_async(lambda: (tmp_path / "spool" / "manifest").exists() and open_descriptors() <= before)
    async with await open_spool(tmp_path / "spool") as spool:
        assert spool.frames == 0


async def test_everything_in_it_is_private(tmp_path: Path) -> None:
    """The directory 0700, the files 0600, whatever the umask."""
    async with await open_spool(tmp_path / "a" / "spool") as spool:
        await fill(spool, range(100))
        await spool.sync()
        assert stat.S_IMODE((tmp_path / "a" / "spool").stat().st_mode) == 0o700
        for path in (tmp_path / "a" / "spool").iterdir():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


async def test_a_removed_spool_leaves_nothing(tmp_path: Path) -> None:
    """By who has it open, by somebody else who has not, and where there is none."""
    for removal in range(3):
        spool = await open_spool(tmp_path / "spool")
        await fill(spool, range(1, 100))
        if removal == 0:
            await spool.remove()
            await spool.remove()
        else:
            await spool.close()
            await remove_spool(tmp_path / "spool")
        assert not (tmp_path / "spool").exists()
    await remove_spool(tmp_path / "spool")


def test_payloads_differ() -> None:
    """What the other tests rely on."""
    assert len({payload(number) for number in range(1000)}) == 1000
