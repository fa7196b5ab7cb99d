"""Whether two databases are alike, by means that share nothing with dsync: SQL of its own, and pg_dump.

The rows of a table are a multiset of what the columns say as text, by their names: pg_dump does not keep their order in
a child of a table that got another column later. Positions of sequences are numbers, and everything
else is what pg_dump writes, entry by entry: in which order it writes them goes by internal numbers in part.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from dsync.quickstart.installations import find_installations
from tests.support.databases import Database

_NOT_NULL_NAME = re.compile(r'CONSTRAINT ("(?:[^"]|"")*"|[\w$]+) NOT NULL')
# Of an inherited column pg_dump 18 writes the name without quotes.
_BARE_NOT_NULL_NAME = re.compile(r"(?s)(?<=\n    )CONSTRAINT (?:(?!\n    ).)*? NOT NULL")
_VIEW = re.compile(r"(?s)^(--\n-- Name: .*?; Type: (?:MATERIALIZED )?VIEW;.*?\n--\n).*")
_OURS = "n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', '_dsync')"
_TABLES = f"""
SELECT c.oid, n.nspname::text, c.relname::text, coalesce(array_agg(a.attname::text ORDER BY a.attname)
       FILTER (WHERE a.attname IS NOT NULL), '{{}}'), c.relkind = 'm' AND NOT c.relispopulated
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
 WHERE c.relkind IN ('r', 'm', 'v') AND {_OURS} GROUP BY c.oid, n.nspname, c.relname ORDER BY 2, 3
"""
_SEQUENCES = f"""
SELECT n.nspname::text, c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind = 'S' AND {_OURS} ORDER BY 1, 2
"""
_RUN_LINES = re.compile(r"(?m)^(\\(un)?restrict |-- Dumped (from|by) ).*\n")
_ENTRY = re.compile(r"(?m)^(?=--\n-- Name: )")

Name = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What a database holds."""

    rows: dict[Name, tuple[int, str]]
    """How many rows each table or view has of its own, and a sum over them; -1 of a view that was never filled."""
    positions: dict[Name, tuple[int, bool]]
    schema: Counter[str]
    """Entries of a dump; empty where none was asked for."""


def contents(database: Database, *, schema: bool = True, tool_major: int = 18) -> Contents:
    """Read all of it; the schema in the words of that version's pg_dump."""
    with database.connect() as connection:
        connection.execute("SET search_path = pg_catalog")
        connection.execute("SET timezone = 'UTC'")
        connection.execute("SET row_security = off")
        rows = {(n, t): _sum(connection, n, t, columns, empty) for _, n, t, columns, empty in _all(connection, _TABLES)}
        positions = {(n, s): _position(connection, n, s) for n, s in _all(connection, _SEQUENCES)}
    return Contents(rows=rows, positions=positions, schema=_dump(database, tool_major) if schema else Counter())


def differences(source: Database, sink: Database, *, schema: bool = True) -> list[str]:
    """Everything in which the second is not like the first, a line each."""
    tool_major = max(source.server.major, sink.server.major)
    ours = contents(source, schema=schema, tool_major=tool_major)
    theirs = contents(sink, schema=schema, tool_major=tool_major)
    found = [
        f"{kind} {'.'.join(name)}: {a.get(name)} at the source, {b.get(name)} at the sink"
        for kind, a, b in (("table", ours.rows, theirs.rows), ("sequence", ours.positions, theirs.positions))
        for name in sorted(a.keys() | b.keys())
        if a.get(name) != b.get(name)
    ]
    entries = [ours.schema, theirs.schema]
    if source.server.major != sink.server.major:
        entries = [Counter(map(_whatever_the_version, each.elements())) for each in entries]
    found += [f"only the source's dump has: {entry}" for entry in (entries[0] - entries[1])]
    found += [f"only the sink's dump has: {entry}" for entry in (entries[1] - entries[0])]
    return found


def _whatever_the_version(entry: str) -> str:
    """Servers give NOT NULL a name from 18 on, and print queries in other words; what a view shows is compared."""
    unnamed = _BARE_NOT_NULL_NAME.sub("NOT NULL", _NOT_NULL_NAME.sub("NOT NULL", entry))
    return _VIEW.sub(r"\1", unnamed)


def _all(connection: psycopg.Connection, query: str) -> list[tuple[Any, ...]]:
    return connection.execute(query.encode()).fetchall()


def _sum(connection: psycopg.Connection, schema: str, table: str, columns: list[str], empty: bool) -> tuple[int, str]:
    if empty:
        return -1, ""
    # The digest of each value apart: no value can imitate a border between two.
    values = sql.SQL(", ").join(
        sql.SQL("coalesce(md5(x.{}::text COLLATE \"C\"), 'null')").format(sql.Identifier(column)) for column in columns
    )
    row = connection.execute(
        sql.SQL(
            "SELECT count(*), coalesce(md5(string_agg(d, ',' ORDER BY d)), '') FROM"
            " (SELECT md5(array_to_string(ARRAY[{}]::text[], ',')) AS d FROM ONLY {} AS x) AS digests"
        ).format(values, sql.Identifier(schema, table))
    ).fetchone()
    assert row is not None
    return row[0], row[1]


def _position(connection: psycopg.Connection, schema: str, name: str) -> tuple[int, bool]:
    row = connection.execute(
        sql.SQL("SELECT last_value, is_called FROM {}").format(sql.Identifier(schema, name))
    ).fetchone()
    assert row is not None
    return row[0], row[1]


def _dump(database: Database, tool_major: int) -> Counter[str]:
    command = [str(_pg_dump(tool_major)), "--schema-only", "--exclude-schema=_dsync", f"--dbname={database.uri}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "LC_ALL": "C"})
    entries = _ENTRY.split(_RUN_LINES.sub("", done.stdout))
    return Counter(entry.strip() for entry in entries)


def _pg_dump(major: int) -> Path:
    return next(found.tool("pg_dump") for found in find_installations() if found.major == major)
