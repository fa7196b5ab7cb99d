"""An application at work on a database, in a thread of its own, for as long as a test takes."""

from __future__ import annotations

import random
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar, TypeVar

import psycopg

from tests.support.databases import Database
from tests.support.waiting import wait_for


class Worker(ABC):
    """Transaction after transaction without a pause, seeded."""

    pause_s: ClassVar[float] = 0.002
    """Somebody else has to have a turn on a small machine."""

    def __init__(self, database: Database, *, seed: int = 1) -> None:
        self._database = database
        self._random = random.Random(seed)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name=type(self).__name__, daemon=True)
        self._failure: BaseException | None = None
        self.transactions = 0
        """How many have ended."""

    @abstractmethod
    def _transact(self, connection: psycopg.Connection) -> None:
        """One transaction."""

    def start(self) -> None:
        self._thread.start()
        self.write_more(20)

    def stop(self) -> None:
        """End after the transaction in hand. Repeatable; raises what the thread has failed with."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(30)
        if self._failure is not None:
            raise self._failure

    def write_more(self, transactions: int = 30) -> None:
        """Wait until so many more have ended."""
        target = self.transactions + transactions
        wait_for(
            lambda: self.transactions >= target or self._failure is not None,
            timeout_s=60,
            what=f"{transactions} transactions of the {self._thread.name}",
        )
        if self._failure is not None:
            raise self._failure

    def _work(self) -> None:
        try:
            with self._database.connect() as connection:
                while not self._stopping.is_set():
                    self._transact(connection)
                    self.transactions += 1
                    self._stopping.wait(self.pause_s)
        except BaseException as exc:
            self._failure = exc


W = TypeVar("W", bound=Worker)


@contextmanager
def at_work(worker: W) -> Iterator[W]:
    """At work before the block begins, and ended after it, or when it was stopped earlier."""
    worker.start()
    try:
        yield worker
    finally:
        worker.stop()
