"""A lag has passed once every lane has the mark, or nobody is left to bring it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from dsync.app.lag import Lag
from dsync.coordinator.following import Following
from dsync.coordinator.stream.position import Position
from dsync.protocol.interface import Connector
from dsync.protocol.types import ChangeType, UnitRef, UnitState, UpdatesPartition
from tests.support.waiting import wait_for_async

FOLLOWING = Following(partition=UpdatesPartition(namespaces=("a",)), type=ChangeType.BSON, lanes=2)


@dataclass(kw_only=True)
class Ends(Connector):
    """A source whose marks stand at 50, and a sink with two lanes."""

    lanes: list[int] = field(default_factory=lambda: [0, 0])
    marks: list[bytes] = field(default_factory=list)
    asked: int = 0

    async def mark(self, namespaces: Sequence[str], content: bytes) -> int:
        self.marks.append(content)
        return 50

    async def read_units(self, flow: str, run: str, units: Sequence[UnitRef]) -> list[UnitState]:
        self.asked += 1
        return [
            UnitState(unit=unit.unit, fence=0, cursor=Position(place=(at, 0), cursor=b"c").encode(), seq=1)
            for unit, at in zip(units, self.lanes, strict=True)
        ]


def _lag(ends: Ends, *, is_followed: bool = True) -> Lag:
    return Lag(source=ends, sink=ends, flow="f", run="r", following=FOLLOWING, is_followed=lambda: is_followed)


async def test_the_slowest_lane_counts() -> None:
    """And each time it is another mark, of this moment."""
    ends = Ends(lanes=[60, 49])
    passing = asyncio.create_task(_lag(ends).pass_by())
    await wait_for_async(lambda: ends.asked >= 2)
    assert not passing.done()
    ends.lanes[1] = 50
    await passing
    await _lag(ends).pass_by()
    assert len(set(ends.marks)) == 2


async def test_nobody_is_waited_for_who_does_not_run() -> None:
    ends = Ends()
    await _lag(ends, is_followed=False).pass_by()
    assert ends.asked == 1
