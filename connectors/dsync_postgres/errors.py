"""Driver errors translated into dsync's: one context manager, by SQLSTATE.

What the server says about records (classes 22 and 23, and whatever a trigger raises) quotes values, so of those
only codes and names are passed on; other messages name objects and are kept.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from dsync.sdk import errors

# By exact code first, then by class (the first two characters): manual, appendix A.
_BY_CODE: dict[str, type[errors.DsyncError]] = {
    "0A000": errors.UnsupportedError,
    "25006": errors.SinkFullError,  # read_only_sql_transaction
    "28000": errors.AuthenticationError,
    "28P01": errors.AuthenticationError,
    "3D000": errors.MissingObjectError,
    "3F000": errors.MissingObjectError,
    "40001": errors.ConflictError,
    "40P01": errors.ConflictError,
    "40003": errors.ServerUnavailableError,  # statement_completion_unknown
    "42501": errors.PrivilegeError,
    "42704": errors.MissingObjectError,
    "42883": errors.MissingObjectError,
    "42P01": errors.MissingObjectError,
    "53100": errors.SinkFullError,  # disk_full
    "54000": errors.RecordError,  # program_limit_exceeded: the row or its index entry does not fit
    "55006": errors.ConflictError,  # object_in_use
    "55P03": errors.ConflictError,  # lock_not_available
    "57014": errors.ConflictError,  # query_canceled: somebody cancelled it, nobody of ours
    "57P04": errors.MissingObjectError,  # database_dropped
    "P0001": errors.RecordError,  # RAISE EXCEPTION of a trigger, which judges one row
}
_BY_CLASS: dict[str, type[errors.DsyncError]] = {
    "08": errors.ServerUnavailableError,
    "22": errors.RecordError,
    "23": errors.RecordError,
    "44": errors.RecordError,  # with_check_option_violation
    "53": errors.ThrottledError,
    "57": errors.ServerUnavailableError,
}
_NOT_FOUND = ("3F000", "42703", "42704", "42883", "42P01")
# A line of an error's context; what follows the name, and other lines, may hold values.
_FUNCTION = re.compile(r'^(?:SQL|PL/\w+) function (?P<name>"[^"\n]{1,63}"|[^\n(]{1,200}\([^\n)]*\))', re.MULTILINE)
_RAISED_IN = "exec_stmt_raise"
_NO_FILES_LEFT = (errno.EMFILE, errno.ENFILE)
_QUOTES_VALUES = ("22", "23", "44", "P0")
_NEXT_STEP: dict[type[errors.DsyncError], str] = {
    errors.AuthenticationError: "check user and password (PGPASSWORD, ~/.pgpass, ?password=env:NAME) and pg_hba.conf",
    errors.ConflictError: "it is repeated; if it persists look at pg_stat_activity for the session in the way",
    errors.HiddenRowsError: "connect as a role with BYPASSRLS or as the table's owner, or disable the policy",
    errors.MissingObjectError: "check the name, and whether it was dropped meanwhile",
    errors.PrivilegeError: "grant it to this role, or connect as one that has it",
    errors.ServerUnavailableError: "it is repeated; check that the server runs and is reachable",
    errors.SinkFullError: "free space at the server, or let it accept writes again",
    errors.ThrottledError: "lower --parallel or raise the server's limit",
    errors.UnsupportedError: "the server's version or one of its extensions does not offer this",
    errors.RecordError: "the row is refused by the sink as it is",
}


@contextmanager
def translating(operation: str) -> Iterator[None]:
    """Raise what the driver raises inside as one of dsync's errors, saying that `operation` failed.

    `operation` is a phrase that names the object: "reading public.orders".
    """
    try:
        with minding_files(operation):
            yield
    except psycopg.Error as exc:
        raise translate(exc, operation) from exc


@contextmanager
def minding_files(operation: str) -> Iterator[None]:
    """Raise ThrottledError where connections and pages need more open files than a process may have."""
    try:
        yield
    except OSError as exc:
        if exc.errno not in _NO_FILES_LEFT:
            raise
        raise errors.ThrottledError(
            f"{operation}: the system lets this process open no more files or connections; lower --parallel, or raise "
            "the limit (ulimit -n)"
        ) from exc


def translate(exc: psycopg.Error, operation: str) -> errors.DsyncError:
    """The error of ours for one of the driver's."""
    code = exc.sqlstate
    if code is None:
        return _without_code(exc, operation)
    kind = _class_of(exc, code)
    said = describe(exc)
    step = lost_in_function(exc) or _NEXT_STEP.get(kind)
    return kind(f"{operation}: {said}" + (f"; {step}" if step else ""))


def describe(exc: psycopg.Error) -> str:
    """What the server said, without any value of a record."""
    diagnostic = exc.diag
    code = exc.sqlstate or ""
    names = [
        f"{what} {name}"
        for what, name in (
            ("constraint", diagnostic.constraint_name),
            ("column", diagnostic.column_name),
            ("type", diagnostic.datatype_name),
        )
        if name
    ]
    function = function_of(exc)
    where = [f"in function {function}"] if function else []
    if code.startswith(_QUOTES_VALUES) or _is_raised(exc):
        return " ".join([f"{type(exc).__name__} ({code})", *names, *where])
    text = " ".join((diagnostic.message_primary or type(exc).__name__).split())
    return " ".join([f"{text} ({code})", *where])


def function_of(exc: psycopg.Error) -> str:
    """The innermost of the database's own functions in which it happened; empty where it was in none."""
    found = _FUNCTION.search(exc.diag.context or "")
    return found["name"] if found is not None else ""


def lost_in_function(exc: psycopg.Error) -> str:
    """What to do about a function that does not find what it names without a schema; empty where it is not that."""
    if exc.sqlstate not in _NOT_FOUND or not function_of(exc):
        return ""
    return (
        "the search_path is pg_catalog here, as it is for pg_restore: name the schema in that function's body, or "
        "give it a path (ALTER FUNCTION … SET search_path = …), at both ends"
    )


def _is_raised(exc: psycopg.Error) -> bool:
    """A function said it in words, and under a code, of its own choice."""
    return exc.diag.source_function == _RAISED_IN


def _class_of(exc: psycopg.Error, code: str) -> type[errors.DsyncError]:
    if code == "42501" and exc.diag.source_function == "check_enable_rls":
        # row_security is off in our sessions: the server refuses instead of hiding rows.
        return errors.HiddenRowsError
    known = _BY_CODE.get(code) or _BY_CLASS.get(code[:2])
    # Whatever code a function gives its verdict: it is one about a row.
    return known or (errors.RecordError if _is_raised(exc) else errors.PermanentError)


def _without_code(exc: psycopg.Error, operation: str) -> errors.DsyncError:
    """An error of the driver itself: mostly a connection that broke."""
    if isinstance(exc, psycopg.OperationalError):
        return errors.ServerUnavailableError(
            f"{operation}: the connection to the server was lost; {_NEXT_STEP[errors.ServerUnavailableError]}"
        )
    if isinstance(exc, psycopg.DataError):
        return errors.RecordError(f"{operation}: a value cannot be sent ({type(exc).__name__})")
    return errors.PermanentError(f"{operation}: the driver refused ({type(exc).__name__})")
