"""Opening a spool after a crash or damage: everything confirmed is there, or an error names what is not."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from dsync.spool import (
    CorruptSpoolError,
    MissingSegmentError,
    NotASpoolError,
    OtherFlowsSpoolError,
    SpoolFromTheFutureError,
    SpoolLostError,
    SpoolPermissionError,
    SpoolUnavailableError,
    layout,
    recovery,
    remove_spool,
)
from dsync.spool.layout import BLOCK_BYTES, RECORD_HEAD_BYTES
from tests.unit.spool.record import LAST, RECORDED, TRIMMED
from tests.unit.spool.support import (
    damaged,
    everything,
    expected,
    fill,
    open_spool,
    order,
    segments,
    take,
)

RECORD_BYTES = RECORD_HEAD_BYTES + 4 + 100
FIRST = "000000000001.spool"


async def make(directory: Path, *syncs: range) -> Path:
    """A spool with these frames, and a sync behind each group."""
    async with await open_spool(directory) as spool:
        for group in syncs:
            await fill(spool, group)
            await spool.sync()
    return directory


async def test_an_end_torn_anywhere_is_cut_off(tmp_path: Path) -> None:
    """Every prefix of the last frames: what is whole stays, what was cut is said, and the source goes on from there."""
    source = await make(tmp_path / "spool", range(1, 3))
    durable = (source / FIRST).stat().st_size
    async with await open_spool(source) as spool:
        await fill(spool, range(3, 5))
        await spool.sync()
    whole = durable + 2 * RECORD_BYTES
    for length in range(durable, whole + 1):
        copy = damaged(source, tmp_path / "copy", FIRST, lambda data, n=length: data.__delitem__(slice(n, None)))
        left = (length - durable) // RECORD_BYTES
        async with await open_spool(copy, confirmed=order(2)) as spool:
            torn = (length - durable) % RECORD_BYTES
            assert (spool.cut is None) == (torn == 0), length
            if spool.cut is not None:
                assert (spool.cut.end - spool.cut.start, spool.cut.last_order) == (torn, order(2 + left))
            await fill(spool, range(3 + left, 8))
            await spool.sync()
        assert await everything(copy) == expected(range(1, 8))


@pytest.mark.parametrize("behind", [b"\0" * 10_000, b"\xff" * 44, b"dsR1" * 3000, bytes(range(256)) * 4, b"\0"])
async def test_whatever_lies_behind_the_end_is_cut_off(tmp_path: Path, behind: bytes) -> None:
    """Zeros, as file systems leave them, and garbage, also where it begins like a record."""
    source = await make(tmp_path / "spool", range(1, 4))
    size = (source / FIRST).stat().st_size
    copy = damaged(source, tmp_path / "copy", FIRST, lambda data: data.extend(behind))
    async with await open_spool(copy, confirmed=order(3)) as spool:
        assert spool.cut is not None
        assert (spool.cut.start, spool.cut.end, spool.cut.last_order) == (size, size + len(behind), order(3))
    assert (copy / FIRST).stat().st_size == size
    assert await everything(copy) == expected(range(1, 4))


async def test_pages_that_came_before_others_are_a_torn_end(tmp_path: Path) -> None:
    """A machine that loses its power writes the unsynced in any order: a hole with whole frames behind it is no
    damage to what was durable, and is read again from the source."""
    source = await make(tmp_path / "spool", range(1, 3), range(3, 7))
    # The mark of the last sync did not reach the disk.
    start = BLOCK_BYTES + 2 * RECORD_BYTES + RECORD_HEAD_BYTES

    def lose(data: bytearray) -> None:
        del data[start + 4 * RECORD_BYTES :]
        data[start + RECORD_BYTES : start + 2 * RECORD_BYTES] = bytes(RECORD_BYTES)

    copy = damaged(source, tmp_path / "copy", FIRST, lose)
    async with await open_spool(copy, confirmed=order(2)) as spool:
        assert spool.cut is not None
        assert spool.last_order == order(3)
    # Whoever knows that it had been confirmed is told that it is gone, and nothing is cut.
    copy = damaged(source, tmp_path / "copy", FIRST, lose)
    before = (copy / FIRST).read_bytes()
    with pytest.raises(SpoolLostError, match=f"everything up to {order(6).hex()}"):
        await open_spool(copy, confirmed=order(6))
    assert (copy / FIRST).read_bytes() == before


async def test_a_flipped_bit_is_never_silent(tmp_path: Path) -> None:
    """At every kind of place of every segment: what was confirmed comes out right, or an error says where it is not."""
    source = await make(tmp_path / "spool", range(1, 11), range(11, 30))
    files = [path.name for path in segments(source)]
    assert len(files) == 2
    good = expected(range(1, 30))
    for name in files:
        size = (source / name).stat().st_size
        record = range(BLOCK_BYTES, BLOCK_BYTES + RECORD_BYTES)
        places = {*range(0, 96, 3), BLOCK_BYTES - 3, *record[:56], *record[60::20], *range(1000, size, 331), size - 50}
        for place in sorted(places):
            copy = damaged(source, tmp_path / "copy", name, lambda data, n=place: flip(data, n))
            before = {path.name: path.read_bytes() for path in copy.iterdir() if path.name != "lock"}
            with pytest.raises(CorruptSpoolError) as caught:
                await everything(copy, confirmed=order(29))
            error = caught.value
            assert error.file in str(error)
            assert error.file == name
            assert error.start <= place < error.end, (name, place, error.start, error.end)
            assert "run the same command again" in str(error)
            if place >= BLOCK_BYTES:
                assert error.before < (error.after or order(30))
                assert all(error.before.hex() in str(error) for _ in error.before[:1])
            assert before == {path.name: path.read_bytes() for path in copy.iterdir() if path.name != "lock"}
    assert await everything(source) == good


def flip(data: bytearray, place: int) -> None:
    data[place] ^= 0x10


async def test_a_flip_in_the_last_mark_loses_nothing(tmp_path: Path) -> None:
    """It only says what is durable: the frames are all there."""
    source = await make(tmp_path / "spool", range(1, 4))
    size = (source / FIRST).stat().st_size
    for place in range(size - RECORD_HEAD_BYTES, size):
        copy = damaged(source, tmp_path / "copy", FIRST, lambda data, n=place: flip(data, n))
        assert await everything(copy, confirmed=order(3)) == expected(range(1, 4))


async def test_damage_is_told_from_a_torn_end_by_what_was_durable(tmp_path: Path) -> None:
    """A frame that had been confirmed is damaged, and nothing was appended since: the mark behind it tells."""
    source = await make(tmp_path / "spool", range(1, 4))
    copy = damaged(source, tmp_path / "copy", FIRST, lambda data: flip(data, BLOCK_BYTES + 2 * RECORD_BYTES + 60))
    with pytest.raises(CorruptSpoolError) as caught:
        await open_spool(copy)
    assert (caught.value.before, caught.value.start) == (order(2), BLOCK_BYTES + 2 * RECORD_BYTES)


async def test_frames_found_after_a_kill_are_marked_as_durable(tmp_path: Path) -> None:
    """What a process wrote and did not sync is made durable by the next one, and then damage to it is damage."""
    source = await make(tmp_path / "spool", range(1, 4))

    def unmark(data: bytearray) -> None:
        del data[-RECORD_HEAD_BYTES:]

    copy = damaged(source, tmp_path / "copy", FIRST, unmark)
    await (await open_spool(copy)).close()
    assert (copy / FIRST).stat().st_size == (source / FIRST).stat().st_size
    again = damaged(copy, tmp_path / "again", FIRST, lambda data: flip(data, BLOCK_BYTES + 60))
    with pytest.raises(CorruptSpoolError):
        await open_spool(again)


async def test_records_in_other_places_are_noticed(tmp_path: Path) -> None:
    """Exchanged, left out, doubled: each whole in itself, and not what was written there."""
    source = await make(tmp_path / "spool", range(1, 6))
    first, second, third = (
        slice(BLOCK_BYTES + n * RECORD_BYTES, BLOCK_BYTES + (n + 1) * RECORD_BYTES) for n in range(3)
    )

    def exchange(data: bytearray) -> None:
        data[first], data[second] = data[second], data[first]

    def leave_out(data: bytearray) -> None:
        del data[second]

    def double(data: bytearray) -> None:
        data[third.start : third.start] = data[second]

    def leave_out_the_last_but_one(data: bytearray) -> None:
        # And the mark, so that nothing says what was durable.
        del data[-RECORD_HEAD_BYTES:]
        del data[-2 * RECORD_BYTES : -RECORD_BYTES]

    for change in (exchange, leave_out, double, leave_out_the_last_but_one):
        copy = damaged(source, tmp_path / "copy", FIRST, change)
        with pytest.raises(CorruptSpoolError, match="does not belong behind"):
            await open_spool(copy)


@pytest.mark.parametrize("which", [0, 1, 2, -1])
async def test_a_missing_segment_is_noticed(tmp_path: Path, which: int) -> None:
    """The first, one in the middle, and the last, after which nothing comes that would miss it."""
    source = await make(tmp_path / "spool", range(1, 101))
    path = segments(source)[which]
    path.unlink()
    with pytest.raises(MissingSegmentError, match=path.name) as caught:
        await open_spool(source)
    assert caught.value.file == path.name


async def test_a_segment_that_vanishes_while_it_is_used_is_noticed(tmp_path: Path) -> None:
    """By the reader that needs it."""
    async with await open_spool(tmp_path / "spool", cache_bytes=0) as spool:
        await fill(spool, range(1, 101))
        await spool.sync()
        segments(tmp_path / "spool")[1].unlink()
        with pytest.raises(MissingSegmentError):
            await take(spool, 100)


async def test_exchanged_segments_are_noticed(tmp_path: Path) -> None:
    """Of this spool under each other's names, and of another spool of the same flow."""
    source = await make(tmp_path / "spool", range(1, 101))
    other = await make(tmp_path / "other", range(1, 101))
    names = [path.name for path in segments(source)]
    shutil.copytree(source, tmp_path / "mixed")
    shutil.copy(source / names[1], tmp_path / "mixed" / names[2])
    with pytest.raises(CorruptSpoolError, match="under another's name"):
        await open_spool(tmp_path / "mixed")
    shutil.copy(other / names[1], source / names[1])
    with pytest.raises(CorruptSpoolError, match="another spool of this flow"):
        await open_spool(source)


async def test_an_older_copy_of_a_segment_is_noticed(tmp_path: Path) -> None:
    """Shorter at a frame's border, so that each record in it is good."""
    source = await make(tmp_path / "spool", range(1, 101))
    names = [path.name for path in segments(source)]

    def shorten(data: bytearray) -> None:
        del data[-RECORD_BYTES:]

    copy = damaged(source, tmp_path / "copy", names[1], shorten)
    with pytest.raises(CorruptSpoolError) as caught:
        await open_spool(copy)
    assert caught.value.file == names[1]
    copy = damaged(source, tmp_path / "copy", names[1], lambda data: data.extend(b"more"))
    with pytest.raises(CorruptSpoolError):
        await open_spool(copy)


async def test_a_segment_of_another_history_is_noticed(tmp_path: Path) -> None:
    """The spool was copied, both went on, with other frames of the same sizes: each segment is whole and of one id."""
    source = await make(tmp_path / "spool", range(1, 11))
    shutil.copytree(source, tmp_path / "copy")
    for directory, other in ((source, b"a"), (tmp_path / "copy", b"b")):
        async with await open_spool(directory) as spool:
            for number in range(11, 101):
                await spool.append(order(number), [other * 100])
            await spool.sync()
    names = [path.name for path in segments(source)]
    shutil.copy(tmp_path / "copy" / names[0], source / names[0])
    with pytest.raises(CorruptSpoolError, match="does not go on from the segment before it") as caught:
        await everything(source)
    assert caught.value.file == names[1]


async def test_the_first_segment_goes_on_from_what_was_trimmed(tmp_path: Path) -> None:
    """One that does not is of another history."""
    source = await make(tmp_path / "spool", range(1, 11))
    shutil.copytree(source, tmp_path / "copy")
    for directory, other in ((source, b"a"), (tmp_path / "copy", b"b")):
        async with await open_spool(directory) as spool:
            for number in range(11, 101):
                await spool.append(order(number), [other * 100])
            await spool.sync()
            await spool.trim(order(40))
    name = segments(source)[0].name
    shutil.copy(tmp_path / "copy" / name, source / name)
    with pytest.raises(CorruptSpoolError, match="does not go on from what was trimmed"):
        await open_spool(source)


async def test_a_segment_half_made_does_no_harm(tmp_path: Path) -> None:
    """The crash came before the manifest spoke of it: with any part of its header, or all of it."""
    source = await make(tmp_path / "spool", range(1, 30))
    shutil.copytree(source, tmp_path / "further")
    async with await open_spool(tmp_path / "further") as spool:
        await fill(spool, [30], 4000)
        await spool.sync()
    new = segments(tmp_path / "further")[-1]
    header = new.read_bytes()[:BLOCK_BYTES]
    parts = [header[:length] for length in (0, 1, 100, BLOCK_BYTES - 1, BLOCK_BYTES)]
    for part in [*parts, *(part.ljust(5000, b"\0") for part in parts)]:
        copy = damaged(source, tmp_path / "copy", FIRST, lambda _: None)
        assert not (copy / new.name).exists()
        (copy / new.name).write_bytes(part)
        (copy / new.name).chmod(0o600)
        assert await everything(copy, confirmed=order(29)) == expected(range(1, 30))
        async with await open_spool(copy) as spool:
            await fill(spool, range(30, 60))
            await spool.sync()
        assert await everything(copy) == expected(range(1, 60))


async def test_a_segment_that_was_announced_must_have_its_header(tmp_path: Path) -> None:
    """It was durable before the manifest spoke of it."""
    source = await make(tmp_path / "spool", range(1, 30))
    name = segments(source)[-1].name
    for length in (0, 100, BLOCK_BYTES - 1):
        copy = damaged(source, tmp_path / "copy", name, lambda data, n=length: data.__delitem__(slice(n, None)))
        with pytest.raises(CorruptSpoolError, match=name):
            await open_spool(copy)


async def test_one_damaged_slot_of_the_manifest_does_no_harm(tmp_path: Path) -> None:
    """The slot not written last is of no use any more; the write of the newer one may have been interrupted."""
    source = await make(tmp_path / "spool", range(1, 101))
    for slot in (0, 4096):
        copy = damaged(source, tmp_path / "copy", "manifest", lambda data, n=slot: flip(data, n + 20))
        assert await everything(copy) == expected(range(1, 101))
    copy = damaged(source, tmp_path / "copy", "manifest", lambda data: (flip(data, 20), flip(data, 4116))[0])
    with pytest.raises(CorruptSpoolError, match="both its places"):
        await open_spool(copy)
    (source / "manifest").unlink()
    with pytest.raises(CorruptSpoolError, match="manifest is gone"):
        await open_spool(source)


async def test_a_spool_that_ends_before_what_was_confirmed_is_refused(tmp_path: Path) -> None:
    """An older copy of the directory, or an empty one where there should be frames."""
    source = await make(tmp_path / "spool", range(1, 4))
    await (await open_spool(source, confirmed=order(3))).close()
    with pytest.raises(SpoolLostError, match=f"ends at order {order(3).hex()}.*older copy"):
        await open_spool(source, confirmed=order(4))
    with pytest.raises(SpoolLostError, match=r"ends at order \(none\)"):
        await open_spool(tmp_path / "new", confirmed=order(4))


async def test_another_flows_spool_is_refused(tmp_path: Path) -> None:
    """Whole, or one of its segments."""
    source = await make(tmp_path / "spool", range(1, 4))
    with pytest.raises(OtherFlowsSpoolError, match="of flow f3a1, not of other"):
        await open_spool(source, flow="other")
    async with await open_spool(tmp_path / "other", flow="other") as spool:
        await fill(spool, [1])
        await spool.sync()
    shutil.copy(tmp_path / "other" / FIRST, source / FIRST)
    with pytest.raises(OtherFlowsSpoolError, match=FIRST):
        await open_spool(source)


@pytest.mark.parametrize("file", ["manifest", FIRST])
async def test_a_newer_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str) -> None:
    """By its number; a damaged number is damage."""
    source = await make(tmp_path / "spool", range(1, 4))
    with monkeypatch.context() as later:
        later.setattr(layout, "FORMAT_VERSION", layout.FORMAT_VERSION + 1)
        newer = await make(tmp_path / "newer", range(1, 4))
    shutil.copy(newer / file, source / file)
    with pytest.raises(SpoolFromTheFutureError, match=f"{file} has spool format 2, this dsync knows 1"):
        await open_spool(source)


@pytest.mark.parametrize("version", sorted(path.name for path in RECORDED.iterdir()))
async def test_what_earlier_versions_wrote_is_read(tmp_path: Path, version: str) -> None:
    """A flow goes on after an upgrade with what its spool held before."""
    shutil.copytree(RECORDED / version, tmp_path / "spool")
    (tmp_path / "spool").chmod(0o700)
    for path in (tmp_path / "spool").iterdir():
        path.chmod(0o600)
    async with await open_spool(tmp_path / "spool", confirmed=order(LAST)) as spool:
        first = int.from_bytes(spool.first_order, "big")
        assert first <= TRIMMED + 1
        assert spool.trimmed_order == order(first - 1) > b"\0"
        await fill(spool, range(LAST + 1, LAST + 50))
        await spool.sync()
    assert await everything(tmp_path / "spool") == expected(range(first, LAST + 50))


async def test_a_spool_that_others_may_use_is_refused(tmp_path: Path) -> None:
    """The directory or one of the files; what to run is said."""
    source = await make(tmp_path / "spool", range(1, 4))
    for path, mode in ((source, 0o700), (source / FIRST, 0o600), (source / "manifest", 0o600)):
        path.chmod(mode | 0o040)
        with pytest.raises(SpoolPermissionError, match=f"{path.name}.*chmod {mode:o}"):
            await open_spool(source)
        path.chmod(mode)
    assert await everything(source) == expected(range(1, 4))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file away")
async def test_a_spool_of_another_user_is_refused(tmp_path: Path) -> None:
    """Root could write into it, and then its owner could not."""
    source = await make(tmp_path / "spool", range(1, 4))
    for path in (source / FIRST, source):
        os.chown(path, 12345, -1)
        with pytest.raises(SpoolPermissionError, match=f"{path.name} belongs to the user with number 12345"):
            await open_spool(source)


async def test_a_disk_that_does_not_give_what_it_holds_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To whoever reads and to whoever opens it; what can still be read later is not taken for damaged."""
    source = await make(tmp_path / "spool", range(1, 101))

    def refuse(*_: object) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    async with await open_spool(source) as spool:
        with monkeypatch.context() as failing:
            failing.setattr(os, "pread", refuse)
            with pytest.raises(SpoolUnavailableError, match=f"reading {source / FIRST}: Input/output error"):
                await take(spool, 1)
        assert (await take(spool, 1))[0].order == order(1)
    with monkeypatch.context() as failing:
        failing.setattr(os, "pread", refuse)
        with pytest.raises(SpoolUnavailableError, match="Input/output error"):
            await open_spool(source)
    assert await everything(source) == expected(range(1, 101))


async def test_a_directory_with_other_files_is_left_alone(tmp_path: Path) -> None:
    """Nothing is written into it, and nothing of it is removed."""
    (tmp_path / "spool").mkdir(mode=0o700)
    (tmp_path / "spool" / "letters.txt").write_text("mine")
    for attempt in (open_spool, remove_spool):
        with pytest.raises(NotASpoolError, match=r"letters\.txt"):
            await attempt(tmp_path / "spool")
    assert [path.name for path in (tmp_path / "spool").iterdir()] == ["letters.txt"]
    (tmp_path / "file").write_text("mine")
    with pytest.raises(NotASpoolError, match="not a directory"):
        await open_spool(tmp_path / "file")


@pytest.mark.parametrize("break_it", ["manifest", "segment"])
async def test_a_damaged_spool_can_be_removed(tmp_path: Path, break_it: str) -> None:
    """That is the way on which its errors name."""
    source = await make(tmp_path / "spool", range(1, 4))
    (source / ("manifest" if break_it == "manifest" else FIRST)).write_bytes(b"rubbish")
    with pytest.raises(CorruptSpoolError):
        await open_spool(source)
    await remove_spool(source)
    assert not source.exists()
    assert await everything(source) == []


async def test_a_removal_that_was_interrupted_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is left of it is no spool with missing segments."""
    source = await make(tmp_path / "spool", range(1, 101))
    from dsync.spool import spool as module

    def interrupted(directory: Path) -> None:
        segments(directory)[1].unlink()
        raise OSError(5, "interrupted")

    with monkeypatch.context() as dying:
        dying.setattr(module.files, "remove_directory", interrupted)
        with pytest.raises(Exception, match="interrupted"):
            await remove_spool(source)
    async with await open_spool(source) as spool:
        assert spool.frames == 0
        await fill(spool, [1])
        await spool.sync()
    assert await everything(source) == expected([1])


async def test_what_others_rely_on_is_durable_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A segment is on the disk, with its name, before the manifest speaks of it; that, before a frame is in it. What is
    trimmed is recorded before a file goes."""
    from dsync.spool import files

    steps: list[str] = []
    names: dict[int, str] = {}
    real_open, real_write, real_flush, real_unlink = files.open_file, files.write_all, files.flush, Path.unlink

    def opened(path: Path, flags: int) -> int:
        descriptor = real_open(path, flags)
        names[descriptor] = path.name
        return descriptor

    def written(descriptor: int, *rest: object) -> object:
        steps.append(f"write {names.get(descriptor)}")
        return real_write(descriptor, *rest)  # type: ignore[arg-type]

    def flushed(descriptor: int) -> None:
        steps.append(f"flush {names.get(descriptor)}")
        real_flush(descriptor)

    def unlinked(path: Path, missing_ok: bool = False) -> None:
        steps.append(f"unlink {path.name}")
        real_unlink(path, missing_ok)

    async with await open_spool(tmp_path / "spool") as spool:
        monkeypatch.setattr(files, "open_file", opened)
        monkeypatch.setattr(files, "write_all", written)
        monkeypatch.setattr(files, "flush", flushed)
        monkeypatch.setattr(files, "sync_directory", lambda _: steps.append("flush the directory"))
        monkeypatch.setattr(Path, "unlink", unlinked)
        names[spool._committer._log._manifest._descriptor] = "manifest"
        await fill(spool, [1])
        await spool.sync()
        begun = [f"write {FIRST}", f"flush {FIRST}", "flush the directory", "write manifest", "flush manifest"]
        synced = [f"write {FIRST}", f"flush {FIRST}", f"write {FIRST}"]
        assert steps == [*begun, *synced]
        await fill(spool, [2], 4000)
        steps.clear()
        await spool.sync()
        second = FIRST.replace("1", "2")
        assert steps == [f"flush {FIRST}", *(step.replace(FIRST, second) for step in [*begun, *synced])]
        steps.clear()
        await spool.trim(order(1))
        assert steps == ["write manifest", "flush manifest", f"unlink {FIRST}"]
        monkeypatch.undo()


async def test_nothing_of_a_spool_is_taken_over_before_it_is_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a killed process wrote is in memory only, until whoever opens the spool has made it durable."""
    source = await make(tmp_path / "spool", range(1, 4))
    from dsync.spool import files

    flushed: list[int] = []
    flush: Callable[[int], None] = files.flush
    monkeypatch.setattr(files, "flush", lambda descriptor: (flushed.append(descriptor), flush(descriptor))[0])
    async with await open_spool(source) as spool:
        assert flushed
        assert spool.durable_order == order(3)


def test_the_walk_that_reads_heads_only_skips_every_order() -> None:
    """The longest and highest order there may be is below it."""
    assert b"\xff" * layout.MAX_ORDER_BYTES <= recovery._NO_PAYLOAD
