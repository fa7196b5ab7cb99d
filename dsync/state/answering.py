"""A connection to PostgreSQL that does not wait for ever.

libpq notices a line that is dead, after a while; a server that is stopped, or a pooler that holds us back, acknowledges
every packet and says nothing.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any

import psycopg

ANSWER_WITHIN_S = 20.0
"""More than the server itself lets a statement wait."""


class AnsweringConnection(psycopg.Connection[Any]):
    """Breaks off, and raises OperationalError, where an answer takes longer than ANSWER_WITHIN_S."""

    def wait(self, gen: Any, *args: Any, **options: Any) -> Any:
        return super().wait(self._within_limit(gen), *args, **options)

    def _within_limit(self, gen: Any) -> Generator[Any, Any, Any]:
        """The driver's own generator, which it wakes up several times a second while nothing has come."""
        deadline = time.monotonic() + ANSWER_WITHIN_S
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                if not ready and time.monotonic() > deadline:
                    # What it would say now belongs to a question that nobody asks any more.
                    self.pgconn.finish()
                    raise psycopg.OperationalError(f"no answer within {ANSWER_WITHIN_S:g} s")
                wanted = gen.send(ready)
        except StopIteration as done:
            return done.value
