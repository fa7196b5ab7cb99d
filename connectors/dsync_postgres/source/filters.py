"""Row filters: one condition in SQL for a table, read here, tried at the server, put into everything that reads rows.

A page must come out the same whenever it is read, so a condition may not depend on the time, on the session, on chance
or on other tables. It is parsed before any server sees it; what is sent is the text as it was given.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import pairwise
from typing import Any

import psycopg
from psycopg import sql
from sqlglot import exp, parse
from sqlglot.dialects import Postgres
from sqlglot.errors import SqlglotError

from dsync.sdk import errors
from dsync_postgres.errors import describe
from dsync_postgres.schema.names import TableName
from dsync_postgres.sessions import Connection

_MOVING_LITERALS = frozenset({"now", "today", "tomorrow", "yesterday"})
"""As a date or a time they mean another one each day."""
_MOVING_KEYWORDS = frozenset(
    {
        *("current_date", "current_time", "current_timestamp", "localtime", "localtimestamp"),
        *("current_user", "session_user", "user", "current_role", "current_catalog", "current_schema"),
    }
)
_MOVING_FUNCTIONS = frozenset(
    {
        *("now", "transaction_timestamp", "statement_timestamp", "age", "current_setting", "current_schemas"),
        *("current_database", "current_query", "txid_current_snapshot", "pg_current_snapshot", "has_table_privilege"),
    }
)
"""Stable ones of the server's own, whose result changes from one transaction or session to the next."""
_OTHER_ROWS = (exp.Query, exp.Subquery, exp.Exists, exp.AggFunc, exp.Window, exp.Star, exp.Placeholder, exp.Parameter)

_FUNCTIONS = """
SELECT p.proname::text, bool_or(p.provolatile = 'v' OR (p.provolatile = 's' AND n.nspname <> 'pg_catalog')),
       bool_or(p.prokind <> 'f')
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE p.proname = ANY(%s) GROUP BY 1
"""


@lru_cache(maxsize=1024)
def read_filter(namespace: str, text: str) -> frozenset[str]:
    """Check a condition by its text alone; returns the names of the functions in it.

    Raises:
        RequestError: it is not one condition on the columns of one table.
    """
    if not text.strip():
        raise _wrong(namespace, "it is empty", "write a condition on the table's columns, as in total > 100")
    try:
        words = list(Postgres().tokenize(text))
        statements = [] if _has_comment(text, words) else parse(f"SELECT 1 WHERE ({text}\n)", read=Postgres)
        conditions = parse(text, read=Postgres) if statements else []
    except (SqlglotError, ValueError):
        raise _wrong(
            namespace, "it cannot be read", "write one condition, as in total > 100 AND state = 'open'"
        ) from None
    if len(statements) != 1 or len(conditions) != 1 or conditions[0] is None or statements[0] is None:
        raise _wrong(namespace, "it is not one condition", "leave out semicolons and comments")
    condition, whole = conditions[0], statements[0]
    # Alone and in its place it must be the same: otherwise it closes a bracket that it has not opened.
    inside = whole.find(exp.Where)
    if not isinstance(inside and inside.this, exp.Paren) or inside.this.this != condition:  # type: ignore[union-attr]
        raise _wrong(namespace, "it is not one condition", "leave out everything but the condition itself")
    _refuse_what_moves(namespace, condition, words)
    return frozenset(_function_names(words))


def try_filters(connection: Connection, filters: Mapping[TableName, str]) -> dict[TableName, int]:
    """Try conditions at the server, in a transaction that is open; returns how many rows it expects of each.

    Raises:
        RequestError: the server cannot read one, or it is not the same at every time.
    """
    expected: dict[TableName, int] = {}
    for table, text in filters.items():
        namespace = table.namespace
        names = read_filter(namespace, text)
        for name, is_moving, is_special in connection.execute(_FUNCTIONS, [sorted(names)]).fetchall():
            if is_moving or is_special:
                raise _wrong(
                    namespace, f"{name}() may give something else each time", "compare with values that are written out"
                )
        query = sql.SQL("EXPLAIN (FORMAT JSON) SELECT FROM ONLY {} WHERE ({}\n)").format(
            table.identifier,
            # It has been parsed above, and is the user's own SQL.
            sql.SQL(text.replace("%", "%%")),
        )
        try:
            # With parameters the server takes a single statement.
            with connection.transaction():
                row = connection.execute(query, []).fetchone()
        except psycopg.Error as exc:
            raise _wrong(namespace, f"the server says: {describe(exc)}", "check columns, types and operators") from exc
        assert row is not None, "EXPLAIN gives one row"
        expected[table] = _rows_of(row[0])
    return expected


def _rows_of(plan: Any) -> int:
    parsed = json.loads(plan) if isinstance(plan, str) else plan
    return int(parsed[0]["Plan"]["Plan Rows"])


def _has_comment(text: str, words: list[Any]) -> bool:
    """The tokenizer drops comments, which could hide the bracket that follows."""
    return any(word.comments for word in words) or text.rstrip().endswith("--")


def _refuse_what_moves(namespace: str, condition: exp.Expr, words: list[Any]) -> None:
    found = condition.find(*_OTHER_ROWS)
    if found is not None:
        raise _wrong(
            namespace,
            f"it asks for more than one row's own values ({found.sql(dialect=Postgres)[:60]})",
            "use the table's own columns, without subqueries and aggregates",
        )
    qualified = next((column for column in condition.find_all(exp.Column) if column.table), None)
    if qualified is not None:
        raise _wrong(namespace, f"{qualified.sql(dialect=Postgres)} names a table", "write the column alone")
    for word in words:
        text = word.text.lower()
        is_name = word.token_type.name != "STRING"
        if text in (_MOVING_KEYWORDS if is_name else _MOVING_LITERALS):
            raise _wrong(namespace, f"{word.text!r} means something else later", "write the value out")
    for name in _function_names(words):
        if name in _MOVING_FUNCTIONS:
            raise _wrong(namespace, f"{name}() means something else later", "write the value out")


def _function_names(words: list[Any]) -> Iterator[str]:
    """Whatever stands before an opening bracket, keywords such as IN too: the catalogue knows which are functions."""
    for word, following in pairwise(words):
        if following.token_type.name == "L_PAREN" and word.token_type.name != "STRING":
            yield word.text if word.token_type.name == "IDENTIFIER" else word.text.lower()


def _wrong(namespace: str, what: str, remedy: str) -> errors.RequestError:
    return errors.RequestError(f"filter of {namespace}: {what}; {remedy}")
