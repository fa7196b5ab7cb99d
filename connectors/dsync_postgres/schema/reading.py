"""Catalogue queries that run on either kind of the driver's connections, blocking or asynchronous."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar, overload

from psycopg import AsyncConnection, Connection, sql
from psycopg.rows import dict_row

T = TypeVar("T")
Row = dict[str, Any]
Query = str | sql.Composed
Blocking = Connection[Any]
Asynchronous = AsyncConnection[Any]


class Reading(Generic[T]):
    """One or more queries, and what their rows amount to.

    Called with a blocking connection it returns the answer (`session.run("reading the catalogue", read_tables)`), with
    an asynchronous one something to await. Session settings are the caller's: `search_path` pg_catalog above all,
    since type names come out qualified only then. Nothing is written, so a standby and a read-only role will do.
    """

    def __init__(self, assemble: Callable[..., T], *queries: Query) -> None:
        """`assemble` gets one list of rows a query, in their order."""
        self._assemble = assemble
        self._queries = tuple(q.encode() if isinstance(q, str) else q for q in queries)

    @overload
    def __call__(self, connection: Blocking) -> T: ...

    @overload
    def __call__(self, connection: Asynchronous) -> Coroutine[Any, Any, T]: ...

    @overload
    def __call__(self, connection: Blocking | Asynchronous) -> T | Coroutine[Any, Any, T]: ...

    def __call__(self, connection: Blocking | Asynchronous) -> T | Coroutine[Any, Any, T]:
        if isinstance(connection, AsyncConnection):
            return self._ask_later(connection)
        with connection.cursor(row_factory=dict_row) as cursor:
            return self._assemble(*[cursor.execute(query).fetchall() for query in self._queries])

    async def _ask_later(self, connection: Asynchronous) -> T:
        answers: list[list[Row]] = []
        async with connection.cursor(row_factory=dict_row) as cursor:
            for query in self._queries:
                await cursor.execute(query)
                answers.append(await cursor.fetchall())
        return self._assemble(*answers)

    @classmethod
    def combined(cls, assemble: Callable[..., T], **parts: Reading[Any]) -> Reading[T]:
        """Return a reading of several others, whose answers `assemble` gets by name."""

        def assemble_all(*answers: list[Row]) -> T:
            remaining = list(answers)
            found: dict[str, Any] = {}
            for name, part in parts.items():
                count = len(part._queries)
                found[name] = part._assemble(*remaining[:count])
                del remaining[:count]
            return assemble(**found)

        whole = cls(assemble_all)
        whole._queries = tuple(query for part in parts.values() for query in part._queries)
        return whole
