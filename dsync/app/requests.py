"""What can be asked of dsync, as values; the command line makes them from flags and flow files."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

from dsync.coordinator.spec import MIB, DataType, Mode
from dsync.protocol.namespaces import Selection

LoadLevel = Literal["low", "medium", "high"]


def default_parallel() -> int:
    """Two partitions in flight for two processors; more only help where there are more."""
    return max(2, min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 2, 8))


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """How hard the source is worked."""

    parallel: int
    page_bytes: int
    pause_ratio: float
    """How long a reader rests after a page, as a share of the time that the page took."""


def load_of(level: LoadLevel) -> Load:
    """What a level means on this machine."""
    most = default_parallel()
    return {
        "low": Load(parallel=1, page_bytes=MIB, pause_ratio=1.0),
        "medium": Load(parallel=max(1, most // 2), page_bytes=2 * MIB, pause_ratio=0.25),
        "high": Load(parallel=most, page_bytes=4 * MIB, pause_ratio=0.0),
    }[level]


def level_of(pause_ratio: float) -> LoadLevel:
    """The level with this rest, whatever its parallelism was."""
    levels: tuple[LoadLevel, ...] = ("low", "medium", "high")
    return min(levels, key=lambda level: abs(load_of(level).pause_ratio - pause_ratio))


@dataclass(frozen=True, slots=True, kw_only=True)
class EndsRequest:
    """Two ends and how to reach them."""

    source: str
    sink: str
    namespaces: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    filters: tuple[str, ...] = ()
    """`NS=CONDITION`: only the rows that meet it."""
    attach: Literal["process", "inline"] = "process"
    allow_plaintext: bool = False

    @property
    def selection(self) -> Selection:
        """Which namespaces are meant.

        Raises:
            RequestError: a pattern cannot be read.
        """
        return Selection(include=self.namespaces, exclude=self.exclude)


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncRequest(EndsRequest):
    mode: Mode = "copy"
    until_caught_up: bool = False
    """End once everything that was committed when streaming began has been applied."""
    slot_timeout_s: float = 60.0
    spool_limit: int = 16 * 1024 * MIB
    apply: Literal["lanes", "transactional"] = "lanes"
    ack: Literal["applied", "spooled"] = "applied"
    again: bool = False
    flow: str = ""
    """A name; empty: the fingerprint finds the flow."""
    resumes: str = ""
    """The id of the flow that is to go on, also where it was paused or cancelled; empty: whichever is found."""
    state: str = ""
    """Where the store is; empty: the default place."""
    parallel: int = 0
    """Partitions in flight; 0: by the load level."""
    page_bytes: int = 0
    """What a page weighs; 0: by the load level."""
    load_level: LoadLevel = "high"
    rate_rows_per_s: int = 0
    """How many rows may be read; 0: as many as there are."""
    rate_bytes_per_s: int = 0
    memory_limit: int = 512 * MIB
    retry_for_s: float = 900.0
    on_existing: Literal["error", "resume", "append", "truncate", "drop"] | None = None
    schema_mode: Literal["copy", "none"] = "copy"
    no_owner: bool = False
    no_privileges: bool = False
    allow_lossy: bool = False
    dead_letters: tuple[str, ...] = ()
    """How many refused records are borne: `N` in all, `NS=N` of a namespace."""
    data_type: DataType = "auto"
    """The one form in which records are to travel."""
    verify: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyRequest(EndsRequest):
    quick: bool = False
    max_diffs: int = 100
    show_values: bool = False
    state: str = ""
    parallel: int = 0
    """Ranges in flight; 0: by the load level."""
    page_bytes: int = 0
    """What a page weighs where rows are read; 0: by the load level."""
    load_level: LoadLevel = "high"
    memory_limit: int = 512 * MIB
    retry_for_s: float | None = None
    """None: as long as a comparison waits by itself."""
