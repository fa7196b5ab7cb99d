"""One relation of a database, asked for by its name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg

from dsync.sdk import errors
from dsync_postgres.schema.names import TableName


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """What the catalogue says of it."""

    kind: str
    """pg_class.relkind."""
    estimated_rows: int
    """As of the last ANALYZE; negative: never."""


def find_relation(connection: psycopg.Connection[tuple[Any, ...]], name: TableName, operation: str) -> Relation:
    """Look a table or view up; `operation` is what it is for: "counting".

    Raises:
        MissingObjectError: there is none of this name.
    """
    row = connection.execute(
        "SELECT c.relkind::text, c.reltuples::int8 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = %s AND c.relname = %s",
        [name.schema, name.name],
    ).fetchone()
    if row is None:
        raise errors.MissingObjectError(f"{operation} {name}: there is no such table; check the name")
    return Relation(kind=row[0], estimated_rows=row[1])
