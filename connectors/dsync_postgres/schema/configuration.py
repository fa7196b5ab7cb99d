"""Tables of extensions in which users keep rows of their own (pg_extension_config_dump), and which rows those are.

CREATE EXTENSION makes the table with the extension's own rows; the extension says by a condition which of them are not
its own. Only those are copied, counted, compared and removed: for dsync the table has no others.
"""

from __future__ import annotations

import re
from typing import Any, LiteralString

import psycopg

from dsync_postgres.schema.names import TableName

CONDITION: LiteralString = (
    "(SELECT coalesce(e.extcondition[array_position(e.extconfig, c.oid)], '') FROM pg_extension e"
    " WHERE c.oid = ANY (e.extconfig))"
)
"""A scalar query for the condition as the extension has written it, of the relation `c`; NULL: it is no such table."""
_WHERE = re.compile(r"\s*WHERE\b(?P<condition>.+)", re.IGNORECASE | re.DOTALL)

_CONDITIONS = f"""
SELECT n.nspname::text, c.relname::text, {CONDITION}
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND c.oid IN (SELECT unnest(extconfig) FROM pg_extension)
"""


def condition_of(written: str) -> str | None:
    """The condition alone, in brackets; empty: all rows are the users'. None: it is not written as pg_dump takes it."""
    if not written.strip():
        return ""
    found = _WHERE.fullmatch(written)
    return None if found is None else f"({found['condition'].strip()}\n)"


def read_conditions(connection: psycopg.Connection[tuple[Any, ...]]) -> dict[str, str]:
    """The conditions of this database's extensions, by namespace; tables of which all rows count are left out."""
    return {
        TableName(schema=schema, name=name).namespace: condition
        for schema, name, written in connection.execute(_CONDITIONS.encode())
        if (condition := condition_of(written))
    }
