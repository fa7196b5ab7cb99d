"""What a source's catalogue says of columns and a stream of changes does not: what rows have that were there before.

A column that is added with a constant default is not written into the rows that are there: the server keeps the value
beside the column (attmissingval, PostgreSQL 11 and later). One whose default is computed for each row is written into
all of them, and the stream says nothing of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg

from dsync_postgres.definition import ColumnFacts, encode_columns
from dsync_postgres.schema.names import TableName

Connection = psycopg.Connection[tuple[Any, ...]]

_COLUMNS = """
SELECT w.schema, w.name, a.attname::text, coalesce(pg_get_expr(d.adbin, d.adrelid), ''),
       CASE WHEN a.atthasmissing THEN (a.attmissingval::text::text[])[1] END,
       NOT a.atthasmissing AND (a.atthasdef OR a.attidentity <> '')
FROM unnest(%s::text[], %s::text[]) AS w (schema, name)
JOIN pg_namespace n ON n.nspname = w.schema JOIN pg_class c ON (c.relnamespace, c.relname) = (n.oid, w.name)
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
LEFT JOIN pg_attrdef d ON (d.adrelid, d.adnum) = (a.attrelid, a.attnum)
ORDER BY c.oid, a.attnum
"""


def read_columns(connection: Connection, tables: Sequence[TableName]) -> dict[TableName, bytes]:
    """For each table that there is what a sink needs to add one of its columns; one query."""
    rows = connection.execute(
        _COLUMNS.encode(), [[table.schema for table in tables], [table.name for table in tables]]
    ).fetchall()
    found: dict[TableName, list[ColumnFacts]] = {}
    for schema, table, name, default, missing, is_computed in rows:
        facts = ColumnFacts(name=name, default=default, old_value=missing, is_computed=is_computed)
        columns = found.setdefault(TableName(schema=schema, name=table), [])
        if facts != ColumnFacts(name=name):
            columns.append(facts)
    return {table: encode_columns(columns) for table, columns in found.items()}
