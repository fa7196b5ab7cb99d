"""What of a plan is followed, and how far its hand-over from copy to stream has come. Stored with the run."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dsync.coordinator.ends import End
from dsync.coordinator.spec import FlowSpec
from dsync.coordinator.stream.lanes import unit_of
from dsync.coordinator.stream.position import Position
from dsync.protocol.errors import PluginBugError, UnsupportedError
from dsync.protocol.frames import Place
from dsync.protocol.types import ChangeType, Plan, UpdatesPartition

_STEP_SUFFIX = "~"
CHEAPEST_FIRST = (ChangeType.PG_OUTPUT, ChangeType.BSON, ChangeType.JSON)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resync:
    """Namespaces that are copied anew while all others are followed, and how far that has come."""

    number: int
    """Another one for each time that it is begun."""
    namespaces: tuple[str, ...]
    start: Position
    """The spool and the source keep what comes after it."""
    seen_through: int = 0
    """What is copied has every transaction up to this one; 0: nothing is planned yet."""
    is_copied: bool = False
    """It has arrived; what is left is to catch up with the others."""

    @property
    def follower(self) -> str:
        """What the ledger calls the follower that catches up."""
        return f"resync{self.number}"

    def step_unit(self, unit: str) -> str:
        """What a finish step's unit is called as one of its own."""
        return f"{unit}{_STEP_SUFFIX}{self.number}"

    def owns_step(self, unit: str) -> bool:
        """The unit is that of a finish step of its own."""
        return unit.endswith(f"{_STEP_SUFFIX}{self.number}")

    def as_json(self) -> dict[str, Any]:
        """What `of_json` reads, in this release and later ones."""
        return {
            "number": self.number,
            "namespaces": list(self.namespaces),
            "start": base64.b64encode(self.start.encode()).decode(),
            "seen_through": self.seen_through,
            "is_copied": self.is_copied,
        }

    @classmethod
    def of_json(cls, kept: Mapping[str, Any]) -> Resync:
        """The inverse of `as_json`."""
        return cls(
            number=kept["number"],
            namespaces=tuple(kept["namespaces"]),
            start=Position.decode(base64.b64decode(kept["start"])),
            seen_through=kept["seen_through"],
            is_copied=kept["is_copied"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Following:
    """One stream of changes."""

    partition: UpdatesPartition
    """As planned: its namespaces are followed, from its cursor on."""
    type: ChangeType
    lanes: int
    position: int = 0
    """The source's own, from which changes are followed."""
    overlaps: bool = False
    """What has arrived may be newer than changes that have not: pages and changes are written by key, and the sink
    equals the source only from `consistent_at` on."""
    seen_through: Mapping[str, int] = field(default_factory=dict)
    """Of namespaces that were read under a later snapshot: their changes up to that transaction are left out."""
    consistent_at: int | None = None
    """The source's position that the sink first equalled; None: it has not yet."""
    spooled: Position | None = None
    """What the source was told to be on this machine's disk (`--ack spooled`), where the sink may not have it yet."""
    ahead_until: int = 0
    """Since then records were read again, up to this position: changes before it may find newer ones at the sink."""
    resync: Resync | None = None
    """What is copied anew just now."""
    resyncs: int = 0
    """How many times that was begun."""
    told: Position = field(default_factory=Position)
    """What the source has been told to be durable."""
    joined: Mapping[str, Place] = field(default_factory=dict)
    """Of namespaces that were copied anew: whoever follows all of them leaves out their changes up to there."""

    @property
    def apart(self) -> frozenset[str]:
        """Namespaces that are not followed with all others just now."""
        return frozenset(self.resync.namespaces if self.resync is not None else ())

    @property
    def lane_ids(self) -> tuple[str, ...]:
        """What the ledger and the checkpoints call the lanes."""
        return tuple(unit_of(number) for number in range(self.lanes))

    def is_written_by_key(self, namespace: str) -> bool:
        """Its pages meet rows that are there."""
        return self.overlaps and namespace in self.partition.namespaces and namespace not in self.seen_through

    def as_json(self) -> dict[str, Any]:
        """What `of_json` reads, in this release and later ones."""
        return {
            "namespaces": list(self.partition.namespaces),
            "header": self.partition.header,
            "value": self.partition.value,
            "cursor": base64.b64encode(self.partition.cursor).decode(),
            "type": self.type.name,
            "lanes": self.lanes,
            "position": self.position,
            "overlaps": self.overlaps,
            "seen_through": dict(self.seen_through),
            "consistent_at": self.consistent_at,
            "ahead_until": self.ahead_until,
            "spooled": None if self.spooled is None else base64.b64encode(self.spooled.encode()).decode(),
            "resync": None if self.resync is None else self.resync.as_json(),
            "resyncs": self.resyncs,
            "told": base64.b64encode(self.told.encode()).decode(),
            "joined": {name: list(place) for name, place in self.joined.items()},
        }

    @classmethod
    def of_json(cls, kept: Mapping[str, Any]) -> Following:
        """The inverse of `as_json`."""
        return cls(
            partition=UpdatesPartition(
                namespaces=tuple(kept["namespaces"]),
                header=kept["header"],
                value=kept["value"],
                cursor=base64.b64decode(kept["cursor"]),
            ),
            type=ChangeType[kept["type"]],
            lanes=kept["lanes"],
            position=kept["position"],
            overlaps=kept["overlaps"],
            seen_through=dict(kept["seen_through"]),
            consistent_at=kept["consistent_at"],
            ahead_until=kept.get("ahead_until", 0),
            spooled=Position.decode(base64.b64decode(spooled)) if (spooled := kept.get("spooled")) else None,
            resync=Resync.of_json(kept["resync"]) if kept.get("resync") else None,
            resyncs=kept.get("resyncs", 0),
            told=Position.decode(base64.b64decode(kept.get("told", ""))),
            joined={name: (place[0], place[1]) for name, place in kept.get("joined", {}).items()},
        )


def change_type(source: End, sink: End) -> ChangeType:
    """The cheapest form of changes that both ends share.

    Raises:
        UnsupportedError: there is none, or one of them does not follow at all.
    """
    for end, offered, verb in (
        (source, source.extensions.stream_types, "gives"),
        (sink, sink.extensions.change_types, "takes"),
    ):
        if not end.serves("ChangeService") or not offered:
            raise UnsupportedError(
                f"{end.info.db_type} {verb} no changes, so it cannot be followed; choose --mode copy"
            )
    shared = set(source.extensions.stream_types) & set(sink.extensions.change_types)
    for kind in CHEAPEST_FIRST:
        if kind in shared:
            return kind
    raise UnsupportedError(
        f"{source.info.db_type} and {sink.info.db_type} share no form of changes; choose --mode copy"
    )


def begin(plan: Plan, kind: ChangeType, spec: FlowSpec) -> Following:
    """What follows from a plan that was asked for with updates.

    Raises:
        UnsupportedError: the source cuts its changes into several streams.
        PluginBugError: it gives none.
    """
    if not plan.updates_partitions:
        raise PluginBugError("the source was asked to be followed and has planned no updates; a fault of its connector")
    if len(plan.updates_partitions) > 1:
        raise UnsupportedError(
            f"the source gives its changes as {len(plan.updates_partitions)} streams, of which only one is followed "
            "yet; choose --mode copy"
        )
    (partition,) = plan.updates_partitions
    return Following(
        partition=partition,
        type=kind,
        lanes=max(1, spec.parallel),
        position=plan.position,
        overlaps=plan.overlaps,
    )
