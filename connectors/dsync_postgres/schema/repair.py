"""What pg_dump writes wrongly, set right before anything reads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from psycopg import sql

from dsync_postgres.schema.archive import Archive, TocEntry
from dsync_postgres.schema.catalog import ColumnFacts
from dsync_postgres.schema.facts import SourceTable
from dsync_postgres.schema.names import TableName


def with_quoted_names(archive: Archive, tables: Mapping[TableName, SourceTable]) -> Archive:
    """Return the archive with the names of NOT NULL constraints as SQL takes them.

    pg_dump 18 (to 18.4 at least) quotes them beside a column, and not where the column is inherited and the constraint
    stands alone: `CONSTRAINT Odd; name NOT NULL id`. A name could then be anything, statements included.
    """
    return replace(archive, entries=tuple(_repaired(entry, tables) for entry in archive.entries))


def _repaired(entry: TocEntry, tables: Mapping[TableName, SourceTable]) -> TocEntry:
    if entry.desc not in ("TABLE", "FOREIGN TABLE") or entry.namespace is None:
        return entry
    table = tables.get(TableName(schema=entry.namespace, name=entry.tag))
    named = [column for column in table.columns if column.not_null_name] if table is not None else []
    return replace(entry, defn=_quoted(entry.defn, named)) if named else entry


def _quoted(definition: str, named: Sequence[ColumnFacts]) -> str:
    for column in named:
        quoted = sql.Identifier(column.not_null_name).as_string(None)
        for written in (column.name, sql.Identifier(column.name).as_string(None)):
            # As pg_dump begins an element of the list; nothing else of a definition stands at this margin.
            definition = definition.replace(
                f"\n    CONSTRAINT {column.not_null_name} NOT NULL {written}",
                f"\n    CONSTRAINT {quoted} NOT NULL {written}",
            )
    return definition
