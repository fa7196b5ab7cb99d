"""Driver errors: their class by SQLSTATE, their words without values."""

import errno
from typing import Any

import psycopg
import pytest
from dsync_postgres.errors import translating
from psycopg import errors as pg

from dsync.sdk import errors


def _raised(kind: type[psycopg.Error], **diagnostic: str) -> psycopg.Error:
    """An error as the server sends it, without a server."""

    class Diagnostic:
        def __getattr__(self, name: str) -> Any:
            return diagnostic.get(name)

    class Fake(kind):  # type: ignore[valid-type, misc]
        diag = Diagnostic()

    Fake.__name__ = kind.__name__
    return Fake("server text with canary")


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (pg.AdminShutdown, errors.ServerUnavailableError),
        (pg.CannotConnectNow, errors.ServerUnavailableError),
        (pg.ConnectionFailure, errors.ServerUnavailableError),
        (pg.SerializationFailure, errors.ConflictError),
        (pg.DeadlockDetected, errors.ConflictError),
        (pg.LockNotAvailable, errors.ConflictError),
        (pg.DiskFull, errors.SinkFullError),
        (pg.ReadOnlySqlTransaction, errors.SinkFullError),
        (pg.TooManyConnections, errors.ThrottledError),
        (pg.OutOfMemory, errors.ThrottledError),
        (pg.InsufficientPrivilege, errors.PrivilegeError),
        (pg.UndefinedTable, errors.MissingObjectError),
        (pg.FeatureNotSupported, errors.UnsupportedError),
        (pg.UniqueViolation, errors.RecordError),
        (pg.CheckViolation, errors.RecordError),
        (pg.InvalidTextRepresentation, errors.RecordError),
        (pg.RaiseException, errors.RecordError),
        (pg.ProgramLimitExceeded, errors.RecordError),
        (pg.SyntaxError, errors.PermanentError),
        (pg.DataCorrupted, errors.PermanentError),
        (psycopg.OperationalError, errors.ServerUnavailableError),
    ],
)
def test_each_state_has_its_class(kind: type[psycopg.Error], expected: type[errors.DsyncError]) -> None:
    """The class says what the caller does next."""
    with pytest.raises(errors.DsyncError) as caught, translating("reading public.t"):
        raise _raised(kind, message_primary="said")

    assert type(caught.value) is expected
    assert str(caught.value).startswith("reading public.t: ")
    assert isinstance(caught.value.__cause__, kind)


@pytest.mark.parametrize("kind", [pg.UniqueViolation, pg.InvalidTextRepresentation, pg.RaiseException])
def test_what_quotes_values_is_not_repeated(kind: type[psycopg.Error]) -> None:
    """The server's text about a row may hold the row."""
    with pytest.raises(errors.RecordError) as caught, translating("writing public.t"):
        raise _raised(
            kind,
            message_primary="value canary",
            message_detail="Key (a)=(canary)",
            constraint_name="t_pkey",
            column_name="a",
        )

    assert "canary" not in str(caught.value)
    assert "constraint t_pkey" in str(caught.value)
    assert kind.sqlstate is not None
    assert kind.sqlstate in str(caught.value)


def test_what_a_function_raises_is_a_verdict_on_a_row_and_not_repeated() -> None:
    """Under a code of its own choice too; which function it was is said."""
    with pytest.raises(errors.RecordError) as caught, translating("writing public.t"):
        raise _raised(
            pg.SyntaxErrorOrAccessRuleViolation,
            message_primary="value canary",
            source_function="exec_stmt_raise",
            context='PL/pgSQL function public.check_it(integer, text) line 3 at RAISE\nCOPY t, line 1: "canary"',
        )

    assert "canary" not in str(caught.value)
    assert str(caught.value).startswith("writing public.t: SyntaxErrorOrAccessRuleViolation (42000) in function ")
    assert "public.check_it(integer, text); " in str(caught.value)


@pytest.mark.parametrize(
    "context",
    [
        'SQL function "limit of" during inlining\nCOPY t, line 1, column v: "canary"',
        'SQL expression "canary(v)"\nPL/pgSQL function "limit of" line 1 at RETURN',
    ],
)
def test_a_function_that_finds_nothing_without_a_schema_is_named_with_the_way_on(context: str) -> None:
    """It was not dropped meanwhile; the sessions' search_path is not the application's."""
    with pytest.raises(errors.MissingObjectError) as caught, translating("creating INDEX public.i at the sink"):
        raise _raised(pg.UndefinedTable, message_primary='relation "limits" does not exist', context=context)

    assert 'relation "limits" does not exist (42P01) in function "limit of"; ' in str(caught.value)
    assert "SET search_path" in str(caught.value)
    assert "dropped" not in str(caught.value)
    assert "canary" not in str(caught.value)


def test_refused_row_security_is_hidden_rows() -> None:
    """With row_security off the server refuses what it would have filtered."""
    with pytest.raises(errors.HiddenRowsError, match="BYPASSRLS"), translating("reading public.t"):
        raise _raised(
            pg.InsufficientPrivilege, message_primary="affected by policy", source_function="check_enable_rls"
        )


def test_other_errors_pass() -> None:
    """A bug of ours is not dressed up as the server's fault."""
    with pytest.raises(ZeroDivisionError), translating("reading public.t"):
        _ = 1 / 0


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_running_out_of_files_is_worth_a_retry(number: int) -> None:
    """With fewer connections it may succeed; any other error of the system is what it is."""
    with pytest.raises(errors.ThrottledError, match=r"reading x: .*ulimit -n"), translating("reading x"):
        raise OSError(number, "no more")
    with pytest.raises(FileNotFoundError), translating("reading x"):
        raise FileNotFoundError(errno.ENOENT, "nothing there")
