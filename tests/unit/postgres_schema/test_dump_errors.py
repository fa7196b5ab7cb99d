"""What pg_dump complains about becomes the error that says what to do, without secrets and without the query."""

from __future__ import annotations

import pytest
from dsync_postgres.schema.child import ChildResult
from dsync_postgres.schema.dump import _error
from dsync_postgres.schema.errors import (
    PgDumpConnectionError,
    PgDumpError,
    PgDumpLockError,
    PgDumpPrivilegeError,
)

from dsync.sdk import errors

_QUERY = "pg_dump: detail: Query was: LOCK TABLE public.a, public.b IN ACCESS SHARE MODE"


def _failed(complaints: str, exit_code: int = 1) -> errors.DsyncError:
    return _error(ChildResult(exit_code=exit_code, output=b"", complaints=complaints), ["hunter2", ""])


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (f"pg_dump: error: query failed: ERROR:  permission denied for table a\n{_QUERY}", PgDumpPrivilegeError),
        (
            f"pg_dump: error: query failed: ERROR:  canceling statement due to statement timeout\n{_QUERY}",
            PgDumpLockError,
        ),
        ('pg_dump: error: query failed: ERROR:  invalid snapshot identifier: "x"', errors.SnapshotLostError),
        ('pg_dump: error: query failed: ERROR:  snapshot "00-1" does not exist', errors.SnapshotLostError),
        (
            'pg_dump: error: connection to server at "h" (10.0.0.1), port 5432 failed: FATAL:  password authentication '
            'failed for user "u"',
            errors.AuthenticationError,
        ),
        (
            'pg_dump: error: connection to server at "h", port 5432 failed: fe_sendauth: no password supplied',
            errors.AuthenticationError,
        ),
        (
            'pg_dump: error: connection to server at "h", port 5432 failed: FATAL:  database "d" does not exist',
            errors.MissingObjectError,
        ),
        ('pg_dump: error: connection to server at "h", port 5432 failed: Connection refused', PgDumpConnectionError),
        ("pg_dump: error: query failed: server closed the connection unexpectedly", PgDumpConnectionError),
        (
            "pg_dump: error: query failed: FATAL:  terminating connection due to administrator command",
            PgDumpConnectionError,
        ),
        ("pg_dump: error: aborting because of server version mismatch", PgDumpError),
        ("", PgDumpError),
    ],
)
def test_each_complaint_has_its_class(said: str, kind: type[errors.DsyncError]) -> None:
    assert type(_failed(said)) is kind


def test_retrying_helps_only_where_time_does() -> None:
    locked, lost = _failed("canceling statement due to statement timeout"), _failed("terminating connection")
    denied = _failed("permission denied for table a")

    assert isinstance(locked, errors.RetryableError)
    assert isinstance(lost, errors.RetryableError)
    assert not isinstance(denied, errors.RetryableError)


def test_the_query_and_secrets_are_left_out() -> None:
    """A query may name thousands of tables; libpq may quote a connection string."""
    error = _failed(f'pg_dump: error: something odd with "host=h password=hunter2"\n{_QUERY}')

    assert "hunter2" not in str(error)
    assert "LOCK TABLE" not in str(error)
    assert "something odd" in str(error)


def test_a_signal_is_told_apart_from_an_exit_code() -> None:
    assert "ended by signal 9" in str(_failed("", exit_code=-9))
    assert "exit code 1" in str(_failed(""))


def test_long_complaints_keep_their_end() -> None:
    message = str(_failed("x" * 100_000 + " the end"))

    assert message.endswith("the end")
    assert len(message) < 2000
