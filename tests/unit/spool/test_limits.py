"""A spool that may not or cannot grow: the writer is told, waits for room, and loses nothing."""

from __future__ import annotations

import asyncio
import errno
from contextlib import aclosing
from pathlib import Path

import pytest

from dsync.spool import FrameTooLargeError, SpoolBrokenError, SpoolFullError, SpoolTrimmedError, files, following
from dsync.spool.layout import BLOCK_BYTES, MAX_ORDER_BYTES, RECORD_HEAD_BYTES
from dsync.spool.spool import Spool
from tests.support.waiting import wait_for, wait_for_async
from tests.unit.spool.conftest import SmallDisk
from tests.unit.spool.support import (
    everything,
    expected,
    fill,
    open_spool,
    order,
    payload,
    segments,
    take,
)


async def fill_up(spool: Spool, start: int, size_bytes: int = 1000) -> int:
    """Append until there is no room; returns the number that was refused."""
    number = start
    while True:
        try:
            await fill(spool, [number], size_bytes)
        except SpoolFullError:
            return number
        number += 1


async def test_the_limit_is_kept_and_room_comes_with_trimming(tmp_path: Path) -> None:
    """The files never weigh more; the frame that was refused goes in once something was given up."""
    async with await open_spool(tmp_path / "spool", limit_bytes=100_000, segment_bytes=10_000) as spool:
        refused = await fill_up(spool, 1)
        # Until they are written, it is not known in how many segments.
        await spool.room(1000)
        refused = await fill_up(spool, refused)
        await spool.sync()
        assert 90_000 < sum(path.stat().st_size for path in segments(tmp_path / "spool")) <= 100_000
        with pytest.raises(SpoolFullError, match=r"may hold 100000.*raise the limit"):
            await fill(spool, [refused], 1000)
        waiting = asyncio.ensure_future(spool.room(1000))
        await spool.trim(order(3))
        await asyncio.sleep(0)
        assert not waiting.done()
        await spool.trim(order(20))
        await asyncio.wait_for(waiting, 10)
        again = await fill_up(spool, refused, 1000)
        assert again > refused
        await spool.sync()
        assert sum(path.stat().st_size for path in segments(tmp_path / "spool")) <= 100_000
        kept = [frame.order for frame in await take(spool, spool.frames, spool.trimmed_order)]
        assert kept == [order(number) for number in range(again - len(kept), again)]


async def test_marks_do_not_pass_the_limit(tmp_path: Path) -> None:
    """A sync behind each frame writes more than the frames."""
    async with await open_spool(tmp_path / "spool", limit_bytes=100_000) as spool:
        with pytest.raises(SpoolFullError):
            for number in range(1, 10_000):
                await fill(spool, [number], 10)
                await spool.sync()
        assert sum(path.stat().st_size for path in segments(tmp_path / "spool")) <= 100_000


@pytest.mark.parametrize("trimmed_before", [True, False])
async def test_room_for_the_largest_frame_comes_when_everything_is_trimmed(
    tmp_path: Path, trimmed_before: bool
) -> None:
    """What is left in the segment that is written goes too where somebody waits for its room."""
    async with await open_spool(tmp_path / "spool", limit_bytes=100_000, segment_bytes=25_000) as spool:
        await fill(spool, [1])
        await spool.sync()
        if trimmed_before:
            await spool.trim(order(1))
            # Alone it was not worth beginning another segment.
            assert spool.frames == 1
        largest = 100_000 - 10 * BLOCK_BYTES - RECORD_HEAD_BYTES - MAX_ORDER_BYTES
        with pytest.raises(FrameTooLargeError):
            await spool.room(largest + 1)
        with pytest.raises(SpoolFullError):
            await fill(spool, [3], largest + MAX_ORDER_BYTES - 4)
        waiting = asyncio.ensure_future(spool.room(largest))
        await asyncio.sleep(0)
        if not trimmed_before:
            await spool.trim(order(1))
        await asyncio.wait_for(waiting, 10)
        await fill(spool, [3], largest)
        await spool.sync()
        assert (spool.frames, spool.first_order) == (1, order(3))
    assert await everything(tmp_path / "spool", limit_bytes=100_000) == expected([3], largest)


async def test_trimming_gives_up_whole_segments_only(tmp_path: Path) -> None:
    """Never a frame above the order; what is left is read as before, also after a restart."""
    async with await open_spool(tmp_path / "spool") as spool:
        await fill(spool, range(1, 101))
        await spool.sync()
        for upto in (0, 5, 40, 10, 77):
            await spool.trim(order(upto))
            assert spool.trimmed_order <= order(max(upto, 40) if upto != 0 else 0)
            kept = await take(spool, spool.frames, spool.trimmed_order)
            assert kept[-1].order == order(100)
            assert kept[0].order == spool.first_order > spool.trimmed_order
            assert len(kept) == 100 - int.from_bytes(spool.trimmed_order, "big")
        assert len(segments(tmp_path / "spool")) == 2
        first = int.from_bytes(spool.first_order, "big")
    assert await everything(tmp_path / "spool") == expected(range(first, 101))


async def test_a_spool_of_which_everything_was_trimmed_goes_on(tmp_path: Path) -> None:
    """It takes no more space, knows where it stood, and refuses what came before."""
    for _ in range(2):
        async with await open_spool(tmp_path / "spool", confirmed=b"") as spool:
            start = int.from_bytes(spool.last_order, "big")
            await fill(spool, range(start + 1, start + 101))
            await spool.sync()
            await spool.trim(order(start + 100))
            await spool.room(1)
            assert (spool.frames, spool.size_bytes, segments(tmp_path / "spool")) == (0, 0, [])
            assert spool.first_order == b""
            assert spool.last_order == spool.durable_order == spool.trimmed_order == order(start + 100)
    async with await open_spool(tmp_path / "spool", confirmed=order(200)) as spool:
        assert (spool.frames, spool.last_order) == (0, order(200))
        await fill(spool, [201])
        assert [frame.order for frame in await take(spool, 1, order(200))] == [order(201)]


async def test_a_reader_of_trimmed_frames_is_told(tmp_path: Path) -> None:
    """One that begins too early, and one that was overtaken, from memory or from disk; never a silent gap."""
    for cache_bytes in (1 << 20, 0):
        async with await open_spool(tmp_path / f"spool{cache_bytes}", cache_bytes=cache_bytes) as spool:
            await fill(spool, range(1, 201))
            await spool.sync()
            async with aclosing(spool.read()) as slow, aclosing(spool.read(order(100))) as quick:
                assert (await anext(slow)).order == order(1)
                assert (await anext(quick)).order == order(101)
                await spool.trim(order(100))
                assert spool.trimmed_order > order(50)
                with pytest.raises(SpoolTrimmedError, match=spool.trimmed_order.hex()):
                    await anext(slow)
                assert (await anext(quick)).order == order(102)
            for after in (b"", order(1), order(int.from_bytes(spool.trimmed_order, "big") - 1)):
                with pytest.raises(SpoolTrimmedError):
                    await take(spool, 1, after)
            assert (await take(spool, 1, spool.trimmed_order))[0].order == spool.first_order


async def test_a_reader_whose_segment_goes_while_it_reads_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is a trim, and no segment that is missing."""
    read = following.read_portion
    async with await open_spool(tmp_path / "spool", cache_bytes=0) as spool:
        await fill(spool, range(1, 201))
        await spool.sync()
        loop = asyncio.get_running_loop()
        trims: list[asyncio.Future[None]] = []

        def slow(*arguments: object, **more: object) -> object:
            if not trims:
                path = segments(tmp_path / "spool")[0]
                loop.call_soon_threadsafe(lambda: trims.append(asyncio.ensure_future(spool.trim(order(150)))))
                wait_for(lambda: not path.exists())
            return read(*arguments, **more)  # type: ignore[arg-type]

        monkeypatch.setattr(following, "read_portion", slow)
        with pytest.raises(SpoolTrimmedError):
            await take(spool, 1)
        await trims[0]


async def test_segments_left_by_an_interrupted_trim_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In whatever order the files went: that they do not count was recorded first."""
    async with await open_spool(tmp_path / "spool") as spool:
        await fill(spool, range(1, 101))
        await spool.sync()
        kept = {path: path.read_bytes() for path in segments(tmp_path / "spool")}
        await spool.trim(order(90))
        first = int.from_bytes(spool.first_order, "big")
    gone = [path for path in kept if not path.exists()]
    assert len(gone) >= 2
    for left in (gone[:1], gone[-1:], gone):
        for path in left:
            path.write_bytes(kept[path])
            path.chmod(0o600)
        assert await everything(tmp_path / "spool") == expected(range(first, 101))
        assert not any(path.exists() for path in gone)


async def test_a_full_disk_is_waited_for(small_disk: SmallDisk) -> None:
    """Nothing half written stays behind, nothing that was taken is lost, and it goes on by itself with space."""
    directory = small_disk.path / "spool"
    async with await open_spool(directory, limit_bytes=1 << 30, segment_bytes=64 << 10, cache_bytes=100_000) as spool:
        await fill(spool, range(1, 11), 5000)
        await spool.sync()
        small_disk.fill(but_bytes=30_000)
        refused = await fill_up(spool, 11, 5000)
        with pytest.raises(SpoolFullError, match=r"No space left.*free some space"):
            await spool.sync()
        assert order(10) <= spool.durable_order < spool.last_order == order(refused - 1)
        waiting = asyncio.ensure_future(spool.room(5000))
        await asyncio.sleep(0)
        assert not waiting.done()
        small_disk.free()
        await asyncio.wait_for(waiting, 10)
        await fill(spool, [refused], 5000)
        assert await spool.sync() == order(refused)
    options = {"limit_bytes": 1 << 30, "segment_bytes": 64 << 10}
    assert await everything(directory, **options) == expected(range(1, refused + 1), 5000)


async def test_a_write_that_did_not_fit_leaves_a_clean_end(small_disk: SmallDisk) -> None:
    """The part of a frame that went in is taken off again."""
    directory = small_disk.path / "spool"
    async with await open_spool(directory, limit_bytes=1 << 30, segment_bytes=1 << 20) as spool:
        await fill(spool, [1])
        await spool.sync()
        size = segments(directory)[0].stat().st_size
        small_disk.fill(but_bytes=8192)
        await fill(spool, [2], 1000)
        await fill(spool, [3], 50_000)
        with pytest.raises(SpoolFullError):
            await spool.sync()
        assert segments(directory)[0].stat().st_size == size + 44 + 4 + 1000
        assert [frame.order for frame in await take(spool, 3)] == [order(1), order(2), order(3)]
    small_disk.free()
    assert await everything(directory) == [*expected([1]), *expected([2], 1000)]


async def test_trimming_makes_room_on_a_full_disk(small_disk: SmallDisk) -> None:
    """It needs no space itself, to the last byte, and frees what the frames that wait need."""
    directory = small_disk.path / "spool"
    async with await open_spool(directory, limit_bytes=1 << 30, segment_bytes=64 << 10, cache_bytes=100_000) as spool:
        await fill(spool, range(1, 101), 5000)
        await spool.sync()
        small_disk.fill()
        refused = await fill_up(spool, 101, 5000)
        await spool.trim(order(50))
        await asyncio.wait_for(spool.room(5000), 10)
        await fill(spool, [refused], 5000)
        assert await spool.sync() == order(refused)


async def test_a_spool_on_a_full_disk_can_be_opened(small_disk: SmallDisk) -> None:
    """Else nobody could trim it. What a crash left at its end is cut off there too."""
    directory = small_disk.path / "spool"
    async with await open_spool(directory, segment_bytes=64 << 10) as spool:
        await fill(spool, range(1, 51), 5000)
        await spool.sync()
    with segments(directory)[-1].open("ab") as torn:
        torn.write(b"torn")
    small_disk.fill()
    async with await open_spool(directory, segment_bytes=64 << 10, confirmed=order(50)) as spool:
        assert spool.cut is not None
        await spool.trim(order(40))
        await fill(spool, [51], 5000)
        assert await spool.sync() == order(51)


async def test_no_segment_can_be_begun_on_a_full_disk(small_disk: SmallDisk) -> None:
    """Its file is taken away again, and made once there is space."""
    directory = small_disk.path / "spool"
    async with await open_spool(directory) as spool:
        small_disk.fill()
        await fill(spool, [1])
        with pytest.raises(SpoolFullError):
            await spool.sync()
        assert segments(directory) == []
        small_disk.free()
        assert await spool.sync() == order(1)
    assert await everything(directory) == expected([1])


async def test_a_spool_cannot_be_made_on_a_full_disk(small_disk: SmallDisk) -> None:
    """Which is said as such; later it can."""
    (small_disk.path / "spool").mkdir(mode=0o700)
    (small_disk.path / "spool" / "lock").touch(0o600)
    small_disk.fill()
    with pytest.raises(SpoolFullError, match="opening the spool"):
        await open_spool(small_disk.path / "spool")
    small_disk.free()
    assert await everything(small_disk.path / "spool") == []


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
async def test_a_failed_fsync_is_final(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    """It is never repeated: the kernel may have forgotten what it did not write, and say yes the second time."""
    calls = 0

    def fail(_: int) -> None:
        nonlocal calls
        calls += 1
        raise OSError(error, "failed")

    spool = await open_spool(tmp_path / "spool")
    await fill(spool, [1])
    await spool.sync()
    reader = asyncio.ensure_future(take(spool, 2, order(1)))
    await fill(spool, [2])
    with monkeypatch.context() as failing:
        failing.setattr(files, "flush", fail)
        both = await asyncio.gather(spool.sync(), spool.sync(), return_exceptions=True)
        assert [type(one) for one in both] == [SpoolBrokenError, SpoolBrokenError]
        assert str(tmp_path / "spool") in str(both[0])
    for again in (spool.sync(), fill(spool, [3]), spool.trim(order(1)), spool.room(10), reader):
        with pytest.raises(SpoolBrokenError, match="failed"):
            await again
    assert (calls, spool.durable_order) == (1, order(1))
    await spool.close()
    # What the failed one covered must not be taken for durable by the next who asks: it is not there any more.
    async with await open_spool(tmp_path / "spool", confirmed=order(1)) as spool:
        assert spool.last_order == order(1)
        await fill(spool, [2, 3])
        await spool.sync()
    assert await everything(tmp_path / "spool") == expected(range(1, 4))


async def test_a_failed_write_is_final(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For any reason but a full disk."""
    async with await open_spool(tmp_path / "spool") as spool:
        await fill(spool, [1])
        await spool.sync()
        with monkeypatch.context() as failing:
            failing.setattr(files, "write_all", lambda *_: (10, OSError(errno.EIO, "Input/output error")))
            await fill(spool, [2])
            with pytest.raises(SpoolBrokenError, match="Input/output error"):
                await spool.sync()
        with pytest.raises(SpoolBrokenError):
            await spool.sync()
    assert await everything(tmp_path / "spool") == expected([1])


async def test_the_writer_waits_for_a_slow_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not written yet is bounded, whatever the writer would like to append."""
    import threading

    release, arrived = threading.Event(), threading.Event()
    write = files.write_all

    def slow(*arguments: object) -> object:
        arrived.set()
        assert release.wait(60)
        return write(*arguments)  # type: ignore[arg-type]

    async with await open_spool(tmp_path / "spool", limit_bytes=1 << 30, segment_bytes=4 << 20) as spool:
        monkeypatch.setattr(files, "write_all", slow)
        writing = asyncio.ensure_future(fill(spool, range(1, 1001), 10_000))
        try:
            await wait_for_async(arrived.is_set)
            await wait_for_async(lambda: spool.memory_bytes > (8 << 20) - 100_000)
            for _ in range(20):
                await asyncio.sleep(0)
            assert not writing.done()
            assert spool.memory_bytes <= 8 << 20
        finally:
            release.set()
        await writing
        assert spool.memory_bytes <= 8 << 20
        await spool.sync()
        assert [frame.payload() for frame in await take(spool, 1000)] == [payload(n, 10_000) for n in range(1, 1001)]
