"""Prepared statements, many in one round trip (libpq's pipeline mode).

For a thread that owns the connection. A pipeline ends with `collect`, which says of each statement what it did; the
first that fails fails all those after it.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import psycopg
from psycopg import pq
from psycopg.errors import error_from_result

from dsync_postgres.sink import wire

Connection = psycopg.Connection[tuple[Any, ...]]
Tag = TypeVar("Tag")

# Patterns of values that were not sent make statements of their own, and the server keeps a plan of each.
_MOST_STATEMENTS = 300
# Planning a statement takes a server as long as a few of them.
_CHANGES_A_PLAN = 1000
# What is sent in one go; a statement without parameters weighs something too, and so does its answer.
_FLUSH_BYTES, _STATEMENT_BYTES = 64 * 1024, 100


class Prepared:
    """The statements that one session has prepared, by their text."""

    def __init__(self) -> None:
        self.names: OrderedDict[bytes, bytes] = OrderedDict()
        self._count = 0
        self._changes = 0
        """How many were written by the plans that there are."""

    def plans_are_old(self, changes: int) -> bool:
        """Whether to plan anew before so many more changes are written."""
        is_old = self._changes >= _CHANGES_A_PLAN
        self._changes = changes + (0 if is_old else self._changes)
        return is_old

    def next_name(self) -> bytes:
        """A name that was not given before."""
        self._count += 1
        return b"dsync_%d" % self._count

    def trim(self, connection: Connection) -> None:
        """Let the server forget the statements used least where there are too many."""
        while len(self.names) > _MOST_STATEMENTS:
            _, name = self.names.popitem(last=False)
            connection.execute(b"DEALLOCATE " + name)


class StatementError(Exception, Generic[Tag]):
    """A statement of a pipeline has failed, and with it those after it."""

    def __init__(self, error: psycopg.Error, tag: Tag) -> None:
        super().__init__(str(error))
        self.error = error
        self.tag = tag


class Pipeline(Generic[Tag]):
    """Statements on their way; each has a tag by which its sender knows it again."""

    def __init__(self, connection: Connection, prepared: Prepared) -> None:
        self._pgconn = connection.pgconn
        self._prepared = prepared
        self._sent: list[tuple[Tag, bytes, bytes]] = []
        """(tag, text, name) of each; with a name where it is the preparation."""
        self._fresh: dict[bytes, bytes] = {}
        self._waiting_bytes = 0
        self._pgconn.enter_pipeline_mode()

    def run(self, text: bytes, parameters: Sequence[bytes | None], tag: Tag) -> None:
        """Send a statement, prepared where this session does so for the first time."""
        name = self._prepared.names.get(text) or self._fresh.get(text)
        if name is None:
            name = self._fresh[text] = self._prepared.next_name()
            self._pgconn.send_prepare(name, text)
            self._sent.append((tag, text, name))
        else:
            self._touch(text)
        self._pgconn.send_query_prepared(name, parameters)
        self._sent.append((tag, text, b""))
        self._waiting_bytes += _STATEMENT_BYTES + sum(map(len, filter(None, parameters)))
        if self._waiting_bytes > _FLUSH_BYTES:
            # The server begins while we go on; and neither waits for the other to read.
            wire.flush(self._pgconn)
            self._waiting_bytes = 0

    def run_once(self, text: bytes, tag: Tag) -> None:
        """Send a statement that nobody will send again."""
        self._pgconn.send_query_params(text, None)
        self._sent.append((tag, text, b""))

    def _touch(self, text: bytes) -> None:
        if text in self._prepared.names:
            self._prepared.names.move_to_end(text)

    def collect(self) -> list[tuple[Tag, pq.abc.PGresult]]:
        """Wait for the results of all that was sent, in that order.

        Raises:
            StatementError: of the first that failed.
            psycopg.OperationalError: the connection is lost.
        """
        self._pgconn.pipeline_sync()
        wire.flush(self._pgconn)
        self._waiting_bytes = 0
        found: list[tuple[Tag, pq.abc.PGresult]] = []
        failed: StatementError[Tag] | None = None
        for tag, text, name in self._sent:
            result = self._result()
            if result.status == pq.ExecStatus.FATAL_ERROR and failed is None:
                failed = StatementError(error_from_result(result), tag)
            elif failed is None and name:
                self._prepared.names[text] = name
            elif failed is None:
                found.append((tag, result))
        self._expect_sync()
        self._sent.clear()
        self._fresh.clear()
        if failed is not None:
            raise failed
        return found

    def _result(self) -> pq.abc.PGresult:
        result = wire.next_result(self._pgconn)
        if result is None or self._pgconn.status != pq.ConnStatus.OK:
            raise self._lost(result)
        while wire.next_result(self._pgconn) is not None:
            # The end of a statement's results.
            pass
        return result

    def _expect_sync(self) -> None:
        result = wire.next_result(self._pgconn)
        if result is None or result.status != pq.ExecStatus.PIPELINE_SYNC:
            raise self._lost(result)

    def _lost(self, result: pq.abc.PGresult | None) -> psycopg.Error:
        # A server that is going says why, with a code; a line that broke has none.
        if result is not None and result.error_field(pq.DiagnosticField.SQLSTATE):
            return error_from_result(result)
        return psycopg.OperationalError("the connection is lost")

    def close(self) -> None:
        """Leave pipeline mode; what was sent and not collected is waited for."""
        if self._pgconn.status != pq.ConnStatus.OK:
            return
        if self._sent:
            with contextlib.suppress(StatementError):
                self.collect()
        self._pgconn.exit_pipeline_mode()
