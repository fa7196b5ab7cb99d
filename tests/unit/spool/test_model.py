"""A spool against a list: whatever is done to it, in whatever order, and wherever the power is cut."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dsync.failpoints import failpoint
from dsync.spool import Spool, SpoolFullError, SpoolTrimmedError, files, log
from tests.unit.spool.support import order, payload, segments, take

T = TypeVar("T")

_BEHIND = ("nothing", "zeros", "garbage", "hole")


class Machine(RuleBasedStateMachine):
    """The list holds what was appended; `durable` and `trimmed` are numbers of frames."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.root = Path(tempfile.mkdtemp(prefix="dsync-spool-model-"))
        self.directory = self.root / "0"
        self.frames: list[tuple[bytes, bytes]] = []
        self.durable = 0
        self.trimmed = b""
        self.disk: dict[str, int] = {}
        """By file: how much of it the disk has for certain. What the spool believes plays no part."""
        self.flush = files.flush
        files.flush = self.flush_and_note

    def flush_and_note(self, descriptor: int) -> None:
        status = os.fstat(descriptor)
        names = {path.stat().st_ino: path.name for path in self.directory.iterdir()}
        self.disk[names[status.st_ino]] = status.st_size

    def do(self, work: Callable[[], Awaitable[T]]) -> T:
        async def wrapped() -> T:
            return await work()

        return self.runner.run(wrapped())

    @initialize(cache_bytes=st.sampled_from([0, 300, 5000, 1 << 20]), limit_bytes=st.sampled_from([20_000, 1 << 20]))
    def begin(self, cache_bytes: int, limit_bytes: int) -> None:
        self.cache_bytes, self.limit_bytes = cache_bytes, limit_bytes
        self.open()

    def open(self) -> None:
        confirmed = self.frames[self.durable - 1][0] if self.durable else b""
        self.spool = self.do(
            lambda: Spool.open(
                self.directory,
                flow="model",
                limit_bytes=self.limit_bytes,
                segment_bytes=4096,
                cache_bytes=self.cache_bytes,
                confirmed=confirmed,
            )
        )
        # Opening may take a file away, and its name is used again.
        self.disk = {name: size for name, size in self.disk.items() if (self.directory / name).exists()}
        # What was not confirmed may be there or not, but nothing in between may be missing.
        found = [place for place, _ in self.frames]
        assert not self.spool.last_order or self.spool.last_order in found
        kept = found.index(self.spool.last_order) + 1 if self.spool.last_order else 0
        assert kept >= self.durable
        del self.frames[kept:]
        self.durable = kept
        assert self.spool.durable_order == self.spool.last_order
        assert self.spool.trimmed_order <= self.trimmed

    @rule(count=st.integers(1, 12), size_bytes=st.sampled_from([0, 1, 50, 400, 3000, 9000]), step=st.integers(1, 3))
    def append(self, count: int, size_bytes: int, step: int) -> None:
        self.append_some(count, size_bytes, step)

    def append_some(self, count: int, size_bytes: int, step: int) -> None:
        async def work() -> None:
            for _ in range(count):
                number = int.from_bytes(self.spool.last_order, "big") + step
                content = payload(number, size_bytes)
                half = size_bytes // 2
                try:
                    await self.spool.append(order(number), [content[:half], bytearray(content[half:])])
                except SpoolFullError:
                    return
                self.frames.append((order(number), content))

        self.do(work)

    @rule()
    def sync(self) -> None:
        def expected() -> bytes:
            return self.frames[-1][0] if self.frames else b""

        assert self.do(self.spool.sync) == expected()
        self.durable = len(self.frames)

    @precondition(lambda self: self.frames)
    @rule(data=st.data(), with_room=st.booleans())
    def trim(self, data: st.DataObject, with_room: bool) -> None:
        upto = data.draw(st.sampled_from(self.frames), label="upto")[0]
        self.trimmed = max(self.trimmed, upto)
        before = self.spool.durable_order
        self.do(lambda: self.spool.trim(upto))
        assert self.spool.durable_order >= before
        if with_room and upto == self.frames[-1][0]:
            self.do(lambda: asyncio.wait_for(self.spool.room(1000), 10))
        # What was trimmed needs no sync.
        self.durable = max(self.durable, sum(place <= self.spool.trimmed_order for place, _ in self.frames))

    @precondition(lambda self: self.frames)
    @rule(data=st.data(), durable_only=st.booleans())
    def read(self, data: st.DataObject, durable_only: bool) -> None:
        start = data.draw(st.integers(0, len(self.frames)), label="start")
        after = self.frames[start - 1][0] if start else b""
        count = (self.durable if durable_only else len(self.frames)) - start
        if after < self.spool.trimmed_order:
            try:
                found = self.do(lambda: take(self.spool, 1, after, durable_only=durable_only))
            except SpoolTrimmedError:
                return
            raise AssertionError(f"given up, and yet given: {len(found)}")
        if count > 0:
            found = self.do(lambda: take(self.spool, count, after, durable_only=durable_only))
            assert [(frame.order, frame.payload()) for frame in found] == self.frames[start : start + count]

    @rule()
    def reopen(self) -> None:
        self.do(self.spool.close)
        self.open()

    @rule(seed=st.integers(0, 1 << 32), behind=st.sampled_from(_BEHIND))
    def lose_power(self, seed: int, behind: str) -> None:
        """While nothing is being written."""
        # A copy takes time, in which nothing may change.
        self.do(self.spool._committer.settled)
        copy = self.copy_to_next()
        self.come_back(copy, dict(self.disk), random.Random(seed), behind)

    @rule(
        seed=st.integers(0, 1 << 32),
        behind=st.sampled_from(_BEHIND),
        steps=st.integers(1, 15),
        size_bytes=st.sampled_from([50, 1500, 9000]),
    )
    def lose_power_at_a_step(self, seed: int, behind: str, steps: int, size_bytes: int) -> None:
        """In the midst of writing, flushing, beginning a segment or trimming."""
        self.do(self.spool._committer.settled)
        durable = self.durable
        taken: list[tuple[Path, dict[str, int]]] = []

        def reached(name: str) -> None:
            nonlocal steps
            steps -= 1
            if steps == 0:
                taken.append((self.copy_to_next(), dict(self.disk)))

        log.failpoint = reached
        try:
            self.append_some(3, size_bytes, 1)
            self.do(self.spool.sync)
            upto = self.frames[len(self.frames) // 2][0] if self.frames else b""
            self.trimmed = max(self.trimmed, upto)
            self.do(lambda: self.spool.trim(upto))
        finally:
            log.failpoint = failpoint
        if taken:
            self.durable = durable
            self.come_back(*taken[0], random.Random(seed), behind)
        else:
            self.durable = len(self.frames)

    def copy_to_next(self) -> Path:
        copy = self.root / str(int(self.directory.name) + 1)
        shutil.copytree(self.directory, copy)
        return copy

    def come_back(self, copy: Path, disk: dict[str, int], chance: random.Random, behind: str) -> None:
        """Go on with a copy: of each file, the disk has what was flushed, and of the rest anything."""
        for path in segments(copy):
            certain = disk.get(path.name, 0)
            data = bytearray(path.read_bytes())
            assert certain <= len(data)
            if certain == len(data):
                continue
            cut = chance.randint(certain, len(data))
            if behind == "hole":
                # Later pages came to the disk, some before them did not.
                stop = chance.randint(cut, len(data))
                data[cut:stop] = bytes(stop - cut)
            else:
                del data[cut:]
            if behind == "zeros":
                data.extend(bytes(chance.randint(0, 5000)))
            elif behind == "garbage":
                data.extend(chance.randbytes(chance.randint(0, 5000)))
            path.write_bytes(data)
        self.do(self.spool.close)
        self.directory = copy
        self.disk = {path.name: path.stat().st_size for path in segments(copy)}
        self.open()

    @invariant()
    def figures_are_true(self) -> None:
        if not hasattr(self, "spool"):
            return
        kept = [place for place, _ in self.frames if place > self.spool.trimmed_order]
        assert self.spool.frames == len(kept)
        assert self.spool.first_order == (kept[0] if kept else b"")
        assert self.spool.last_order == (self.frames[-1][0] if self.frames else b"")
        assert self.spool.size_bytes <= self.limit_bytes
        assert self.spool.memory_bytes <= max(self.cache_bytes, 10_000)
        assert sum(path.stat().st_size for path in segments(self.directory)) <= self.limit_bytes

    def teardown(self) -> None:
        files.flush = self.flush
        if hasattr(self, "spool"):
            self.do(self.spool.close)
        self.runner.close()
        shutil.rmtree(self.root)


TestModel = Machine.TestCase
TestModel.settings = settings(
    max_examples=int(os.environ.get("DSYNC_SPOOL_EXAMPLES", "40")),
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
