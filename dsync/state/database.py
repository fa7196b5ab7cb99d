"""What every store's database can do: transactions, a clock, and errors of the engine as ours.

What is particular to an engine stands in `dsync.state.sqlite` and `dsync.state.postgres`; the rest of the package is
portable SQL over the connection that `reading` and `writing` give.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any, Protocol

from sqlalchemy import Connection, Table

from dsync.state import holder
from dsync.state.schema import from_us


class Clock(Protocol):
    """The store's clock. A store on a server asks that server; one in a file, the machine that the file is on."""

    def now_us(self) -> int:
        """Microseconds since 1970; may be set, forwards and backwards."""
        ...

    def uptime_us(self) -> int:
        """Microseconds since this machine started, sleep included; cannot be set."""
        ...


class HostClock:
    def now_us(self) -> int:
        return time.time_ns() // 1000

    def uptime_us(self) -> int:
        return holder.uptime_us()


class Database(ABC):
    """One connection, shared by threads under a lock: transactions are short."""

    title: str
    """For messages: the file, or the server's URI without secrets."""
    clock: Clock

    def now(self) -> datetime:
        """The time on the store's clock."""
        return from_us(self.clock.now_us())

    @abstractmethod
    def reading(self) -> AbstractContextManager[Connection]:
        """A transaction that sees one moment of the state."""

    @abstractmethod
    def writing(self, alone_on: str = "") -> AbstractContextManager[Connection]:
        """A transaction that is durable when the block ends, and leaves nothing behind when it raises.

        The right to write is taken first: no other transaction that names the same `alone_on` runs beside it, in any
        process. Empty: it changes nothing that it has looked at before.
        """

    @abstractmethod
    def upsert(self, table: Table) -> Any:
        """An INSERT that can have an ON CONFLICT clause; SQLAlchemy has one class a dialect for the same SQL."""

    @abstractmethod
    def check_integrity(self) -> None:
        """Look for damage that opening does not. Raises StateCorruptError."""

    @abstractmethod
    def table_names(self, connection: Connection) -> frozenset[str]:
        """The tables that are where the state should be, somebody else's included."""

    @abstractmethod
    def migrating(self) -> AbstractContextManager[Connection]:
        """A transaction in which the schema is changed, or made, while no other process does.

        Raises StateBusyError: another one has kept us waiting for too long.
        """

    @abstractmethod
    def check_quickly(self) -> None:
        """Look for damage at the start. Raises StateCorruptError."""

    @abstractmethod
    def settle(self) -> None:
        """See to what is kept in the state itself about how it is used; it has its schema by now."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the state. Repeatable."""
