"""COPY into the server at libpq's own level: several statements in one message, the data from one buffer.

For a thread that owns the connection; the driver's own copy object would cost a round trip for each statement and a
copy of each chunk.
"""

from __future__ import annotations

import select
from collections.abc import Callable, Sequence
from typing import Any

import psycopg
from psycopg import pq, sql
from psycopg.errors import error_from_result

Connection = psycopg.Connection[tuple[Any, ...]]
Buffer = bytes | bytearray | memoryview

# What libpq copies into its own buffer at a time; larger chunks gain nothing, and stay in memory.
_CHUNK_BYTES = 64 * 1024

_FAILED = (pq.ExecStatus.FATAL_ERROR, pq.ExecStatus.BAD_RESPONSE)


def execute(connection: Connection, statements: Sequence[sql.Composable]) -> list[pq.abc.PGresult]:
    """Run statements in one message and return their results.

    Raises:
        psycopg.Error: of the first that failed; those after it were not run.
    """
    pgconn = connection.pgconn
    pgconn.send_query(_joined(connection, statements))
    flush(pgconn)
    return _results(pgconn)


def copy_in(
    connection: Connection,
    statements: Sequence[sql.Composable],
    body: Buffer,
    *,
    check: Callable[[list[pq.abc.PGresult]], None] = lambda results: None,
) -> int:
    """Run statements of which the last is COPY … FROM STDIN, send the body, and return the number of rows.

    `check` sees the results of the statements before the COPY; what it raises ends the COPY with nothing sent. A
    transaction that the statements began stays open in either case, for the caller to end.

    Raises:
        psycopg.Error: a statement or the COPY failed.
    """
    pgconn = connection.pgconn
    pgconn.send_query(_joined(connection, statements))
    flush(pgconn)
    results = _results(pgconn)
    if not results or results[-1].status != pq.ExecStatus.COPY_IN:
        raise psycopg.InternalError("the server did not begin to COPY")
    try:
        check(results)
    except BaseException:
        _end_copy(pgconn, b"not wanted")
        raise
    view = memoryview(body)
    for start in range(0, len(view), _CHUNK_BYTES):
        _put(pgconn, view[start : start + _CHUNK_BYTES])
    return _end_copy(pgconn)


def _end_copy(pgconn: pq.abc.PGconn, refusal: bytes | None = None) -> int:
    """Say that the data is complete, or that there will be none; returns the number of rows."""
    while pgconn.put_copy_end(refusal) == 0:
        flush(pgconn)
    flush(pgconn)
    if refusal is None:
        return _results(pgconn)[-1].command_tuples or 0
    while next_result(pgconn) is not None:
        # The server's answer to our own refusal says nothing new.
        pass
    return 0


def _put(pgconn: pq.abc.PGconn, chunk: memoryview) -> None:
    # 0 means that libpq's own buffer could not take it, which ends once some of it has left.
    while pgconn.put_copy_data(chunk) == 0:
        flush(pgconn)
    flush(pgconn)


def _joined(connection: Connection, statements: Sequence[sql.Composable]) -> bytes:
    # On lines of their own, since a statement of the schema may end in a comment.
    return b"\n;\n".join(statement.as_bytes(connection) for statement in statements)


def flush(pgconn: pq.abc.PGconn) -> None:
    """Send what libpq holds; reads meanwhile, since a server that cannot write its complaint does not read."""
    if pgconn.flush() == 0:
        return
    poll = select.poll()
    poll.register(pgconn.socket, select.POLLIN | select.POLLOUT)
    while True:
        ((_, events),) = poll.poll()
        if events & ~select.POLLOUT:
            pgconn.consume_input()
        if pgconn.flush() == 0:
            return


def _results(pgconn: pq.abc.PGconn) -> list[pq.abc.PGresult]:
    """All results up to the end of the message or the beginning of a COPY."""
    results: list[pq.abc.PGresult] = []
    failed: pq.abc.PGresult | None = None
    while (result := next_result(pgconn)) is not None:
        if result.status in _FAILED:
            failed = failed or result
        results.append(result)
        if result.status == pq.ExecStatus.COPY_IN:
            break
    # A server that is going says why, with a code; a line that broke has none.
    if failed is not None and (failed.error_field(pq.DiagnosticField.SQLSTATE) or pgconn.status == pq.ConnStatus.OK):
        raise error_from_result(failed)
    if pgconn.status != pq.ConnStatus.OK:
        raise psycopg.OperationalError("the connection is lost")
    return results


def next_result(pgconn: pq.abc.PGconn) -> pq.abc.PGresult | None:
    if pgconn.is_busy():
        poll = select.poll()
        poll.register(pgconn.socket, select.POLLIN)
        while pgconn.is_busy():
            poll.poll()
            pgconn.consume_input()
    return pgconn.get_result()
