"""What the source is told: that it may discard what the sink has, or what is on the disk here (`--ack spooled`).

In the second way the spool is the only place that has some changes. So it is made durable before that is recorded, and
recorded before the source is told: whoever finds less in it later knows that something is lost, and never goes on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from dsync.coordinator.stream.intake import order_of
from dsync.coordinator.stream.position import Position
from dsync.failpoints import failpoint
from dsync.spool import Spool, SpoolFullError, SpoolLostError


@dataclass(slots=True, kw_only=True)
class Acknowledging:
    """Of one stream; `applied` and `confirm` are for one way each."""

    spool: Spool
    by_spool: bool
    """The source may discard what is here."""
    spooled: Position | None
    """What it was told to be here, where the sink may not have it yet: as it is recorded."""
    record: Callable[[Position | None], Awaitable[None]]
    tell: Callable[[bytes], Awaitable[None]]
    """Tell the source that everything up to a cursor is durable."""

    async def confirm(self, position: Position) -> None:
        """Everything up to there is in the spool: make it durable, record that, and only then tell the source.

        Raises:
            SpoolBrokenError: the disk failed.
        """
        try:
            await self.spool.sync()
        except SpoolFullError:
            # The rest is told of once it is on the disk, too.
            return
        failpoint("coordinator.before_confirm")
        await self.record(position)
        self.spooled = position
        failpoint("coordinator.after_confirm")
        await self.tell(position.cursor)

    async def applied(self, kept: Position, quiet: Position) -> None:
        """The sink has everything up to `kept`; the source's last word was `quiet`."""
        if self.by_spool:
            return
        if self.spooled is not None:
            # In an earlier life the source was told of the spool; a cursor before that says nothing new.
            if kept.place < self.spooled.place or (kept.place == self.spooled.place and kept.cursor != quiet.cursor):
                return
            await self.record(None)
            self.spooled = None
        await self.tell(kept.cursor)


def require_whole(spool: Spool, kept: Position, spooled: Position | None) -> None:
    """Raise SpoolLostError where the spool ends before what the source was told to be in it, and the sink does too."""
    if spooled is None or max(spool.last_order, order_of(kept.place)) >= order_of(spooled.place):
        return
    raise SpoolLostError(
        f"the spool {spool.directory} does not hold what was there: changes that the source was told to discard (--ack "
        "spooled) and that the sink does not have. Put its files back, or run the same command with --again, which "
        "reads anew what has changed"
    )
