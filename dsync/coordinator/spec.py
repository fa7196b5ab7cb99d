"""What a flow is: its ends, namespaces and choices, without any secret.

A `FlowSpec` is stored with the flow and with each run, so it must be readable by later releases: fields are only ever
added, with a default, and `version` rises when a meaning changes.
"""

from __future__ import annotations

import hashlib
import json
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from dsync.protocol.namespaces import Selection
from dsync.protocol.types import OnExisting

MIB = 1024 * 1024

DataType = Literal["auto", "pg-copy-binary", "pg-copy-text", "bson", "json"]
"""What a person may ask for; but for `auto` the names of page types."""

Mode = Literal["full", "copy", "stream"]
"""Copy and then follow, copy alone, follow alone."""


class EndpointIdentity(BaseModel):
    """Which endpoint is meant, without user, password or tuning."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reference: str
    """What a person typed, redacted: a URI without secrets, `env:NAME` or `file:PATH`."""
    address: str
    """Scheme, host, port and database; empty where only the plug-in knows them."""


class FlowSpec(BaseModel):
    """A flow, version 1."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    source: EndpointIdentity
    sink: EndpointIdentity
    namespaces: tuple[str, ...] = ()
    """`NS[:TO]` patterns; none means every namespace."""
    exclude: tuple[str, ...] = ()
    """Patterns of what is left out of those."""
    filters: tuple[str, ...] = ()
    """`NS=CONDITION`: only the rows that meet it, in the source's own language."""
    mode: Mode = "copy"
    schema_mode: Literal["copy", "none"] = "copy"
    on_existing: Literal["error", "resume", "append", "truncate", "drop"] | None = None
    """None: `resume` for a flow's own tables, `error` for others."""
    no_owner: bool = False
    no_privileges: bool = False
    allow_lossy: bool = False
    data_type: DataType = "auto"
    """The one form in which records travel; `auto`: the cheapest that both ends share."""
    attach: Literal["process", "inline"] = "process"
    parallel: int = Field(default=2, ge=1, le=256)
    """Partitions in flight."""
    page_bytes: int = Field(default=2 * MIB, ge=64 * 1024, le=32 * MIB)
    memory_limit: int = Field(default=512 * MIB, ge=64 * MIB)
    """Bytes, for all processes of the flow together."""
    retry_for_s: float = Field(default=900.0, ge=0)
    dead_letters: tuple[str, ...] = ()
    """How many refused records are borne: `N` in all, `NS=N` of a namespace (`coordinator.tolerance`)."""
    rate_rows_per_s: int = Field(default=0, ge=0)
    """How many rows may be read; 0: as many as there are."""
    rate_bytes_per_s: int = Field(default=0, ge=0)
    pause_ratio: float = Field(default=0.0, ge=0)
    """How long a reader rests after a page, as a share of the time that the page took."""
    slot_timeout_s: float = Field(default=60.0, gt=0)
    """How long transactions that are open at the source may keep its changes from being followed."""
    apply: Literal["lanes", "transactional"] = "lanes"
    """Whether the sink's transactions are those of the source, or as many changes as are there of some records each."""
    ack: Literal["applied", "spooled"] = "applied"
    """What the source may discard: changes that the sink has, or those that are on this machine's disk."""
    spool_limit: int = Field(default=16 * 1024 * MIB, ge=64 * MIB)
    """Bytes of changes on disk that wait to be applied; beyond that the source keeps them."""

    @property
    def follows(self) -> bool:
        """Changes are followed, after a copy or without one."""
        return self.mode != "copy"

    @property
    def copies(self) -> bool:
        """Rows are copied; else the sink holds them already, as of where the changes begin."""
        return self.mode != "stream"

    @property
    def selection(self) -> Selection:
        """Which namespaces are meant."""
        return Selection(include=self.namespaces, exclude=self.exclude)

    def fingerprint(self, source_id: str, sink_id: str) -> str:
        """Finds the flow that the same command started before.

        Made of what decides which rows arrive where. An address beats the id a server gives itself, so that
        another server behind the same name is noticed rather than taken for a new flow.
        """
        parts: dict[str, object] = {
            "source": self.source.address or source_id,
            "sink": self.sink.address or sink_id,
            "namespaces": sorted(self.namespaces),
            "schema_mode": self.schema_mode,
        }
        if self.exclude:
            # Only then: a flow keeps the fingerprint that it had before there were excludes.
            parts["exclude"] = sorted(self.exclude)
        if self.filters:
            parts["filters"] = sorted(self.filters)
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]

    @property
    def on_existing_policy(self) -> OnExisting:
        if self.on_existing is None:
            return OnExisting.ERROR
        return OnExisting[self.on_existing.upper()]
