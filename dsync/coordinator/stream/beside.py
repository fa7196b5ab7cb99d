"""Namespaces that leave the follower of all others for a while, catch up by one of their own, and rejoin.

The main follower stands between two rounds in each of the two moments in which that changes, and for nothing else:

- `leave`: from then on it leaves the namespaces out, and everything after its place is kept for them. That is recorded
  before it does, and nothing of theirs is cleared before it has rested once;
- `rejoin`: the follower of their own has come to the main one's place or further. To there they have everything, and
  from there on the main one has them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, replace

from dsync.coordinator.following import Following, Resync
from dsync.coordinator.stream.follower import Follower
from dsync.coordinator.stream.horizon import Horizon
from dsync.coordinator.stream.lanes import kept_by_all
from dsync.coordinator.stream.skips import Skips, after_all_of
from dsync.failpoints import failpoint

BESIDE = "beside"
"""Who holds the horizon for them; there is one at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    main: Follower
    horizon: Horizon
    change: Callable[[Callable[[Following], Following]], Awaitable[None]]
    """Record durably what has become of the following."""
    make: Callable[[Resync], Awaitable[Follower]]
    """A follower of these namespaces alone, from where the sink's ledger says that it has come."""

    async def leave(self, namespaces: Collection[str]) -> None:
        """From now on the main follower applies none of their changes, and all of these are kept."""
        start = kept_by_all(self.main.applier.lanes)
        self.horizon.hold(BESIDE, start)

        def left(following: Following) -> Following:
            number = following.resyncs + 1
            return replace(
                following,
                resyncs=number,
                resync=Resync(number=number, namespaces=tuple(namespaces), start=start),
            )

        failpoint("coordinator.before_leave")
        await self.change(left)
        failpoint("coordinator.after_leave")
        async with self.main.at_rest():
            for namespace in namespaces:
                self.main.applier.skips.stop(namespace)

    async def rejoin(self, resync: Resync) -> frozenset[str]:
        """Let them catch up with the main follower, which has them from then on; returns those that did not stop."""
        follower = await self.make(resync)
        main, skips = self.main, follower.applier.skips

        def has_caught_up() -> bool:
            # With all lanes of both: neither has left out, or done, more than the other takes over.
            place = follower.place
            return place == follower.applier.furthest and place >= main.applier.furthest

        await follower.run(until=has_caught_up)
        failpoint("coordinator.before_rejoin")
        async with main.at_rest():
            # It has gone on meanwhile, but not far.
            await follower.run(until=has_caught_up)
            # The main one may not even have come to what the pages have.
            place = max(follower.place, after_all_of(resync.seen_through))
            back = frozenset(name for name in resync.namespaces if not skips.has_stopped(name))
            await self.change(
                lambda following: replace(
                    following, resync=None, joined={**following.joined, **dict.fromkeys(back, place)}
                )
            )
            failpoint("coordinator.after_rejoin")
            for namespace in back:
                main.applier.skips.go_on_after(namespace, place)
        await self.horizon.let_go(BESIDE)
        return back

    async def give_up(self) -> None:
        """They have stopped: nothing is kept for them any more."""
        await self.change(lambda following: replace(following, resync=None))
        await self.horizon.let_go(BESIDE)


def skips_of(following: Following) -> Skips:
    """What the main follower leaves out."""
    skips = Skips()
    skips.leave_out(following.seen_through)
    for namespace, place in following.joined.items():
        skips.go_on_after(namespace, place)
    for namespace in following.apart:
        skips.stop(namespace)
    return skips
