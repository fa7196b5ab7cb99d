"""What an examination may do, and how much of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from dsync.protocol.interface import Connector
from dsync.protocol.page_store import PageStore

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ExamineOptions:
    """Nothing is written unless `scratch` names a namespace."""

    namespaces: tuple[str, ...] = ()
    """What is read; empty: whatever the source plans or describes by itself."""
    scratch: str = ""
    """Where records may be written and removed again; those of others are left alone."""
    reader: Connector | None = None
    """Reads the scratch namespace back, where the sink is no source itself."""
    change: Callable[[int], Awaitable[None]] | None = None
    """Makes that many changes to the namespaces, past the protocol, as an application does."""
    pages: PageStore | None = None
    """Where pages by reference are passed, between processes of this machine; None: they are not tried."""
    only: frozenset[str] = frozenset()
    """Ids and groups of checks; empty: all."""
    max_namespaces: int = 3
    max_partitions: int = 4
    """Of a namespace."""
    max_pages: int = 6
    """Of a partition."""
    wait_s: float = 3.0
    """How long the next change of a stream is waited for."""
    pause_s: float = 0.5
    """How long a slow reader looks away."""
    check_s: float = 120.0
    """How long one check may take."""
    large_bytes: int = 3 * MIB
    """A large record: below what every gRPC library takes in one message."""

    def wants(self, check_id: str) -> bool:
        return not self.only or check_id in self.only or check_id.partition(".")[0] in self.only
