"""What can be asked of dsync, as values; the command line makes them from flags and flow files."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

from dsync.coordinator.spec import MIB


def default_parallel() -> int:
    """Two partitions in flight for two processors; more only help where there are more."""
    return max(2, min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 2, 8))


@dataclass(frozen=True, slots=True, kw_only=True)
class EndsRequest:
    """Two ends and how to reach them."""

    source: str
    sink: str
    namespaces: tuple[str, ...] = ()
    attach: Literal["process", "inline"] = "process"
    allow_plaintext: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncRequest(EndsRequest):
    mode: Literal["copy"] = "copy"
    again: bool = False
    flow: str = ""
    """A name; empty: the fingerprint finds the flow."""
    state: str = ""
    """Where the store is; empty: the default place."""
    parallel: int = 0
    """Partitions in flight; 0: by the machine."""
    page_bytes: int = 4 * MIB
    memory_limit: int = 512 * MIB
    retry_for_s: float = 900.0
    on_existing: Literal["error", "resume", "append", "truncate", "drop"] | None = None
    schema_mode: Literal["copy", "none"] = "copy"
    no_owner: bool = False
    no_privileges: bool = False
    allow_lossy: bool = False
    verify: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyRequest(EndsRequest):
    quick: bool = False
    max_diffs: int = 100
    show_values: bool = False
    state: str = ""
    parallel: int = 0
