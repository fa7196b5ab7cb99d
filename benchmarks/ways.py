"""The ways of copying that are compared; each runs once into an empty target and says what it cost."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql

from benchmarks import measure
from benchmarks.measure import CommandFailedError, Cost
from benchmarks.tables import Servers, Table

PSQL = "psql binary COPY pipe"
"""What the others are compared with."""


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way of copying a table."""

    name: str
    copy: Callable[[Servers, Table, str], Cost]
    """(servers, table, target database): copies, with the key made at the end."""
    attach: str = ""
    """For dsync: how plug-ins are attached; other ways have no start-up worth subtracting."""
    program: str = ""
    """What has to be installed beside the server's own tools."""


def dsync_command(source: str, sink: str, state: Path, *options: str) -> list[str]:
    """The command line of one copy, with a state of its own."""
    command = Path(sys.executable).parent / "dsync"
    return [
        str(command), "--json", "sync", source, sink, "--mode", "copy", "--flow", "bench",
        "--state", str(state), "--progress", "none", *options,
    ]  # fmt: skip


def run_dsync(source: str, sink: str, *options: str, servers: Sequence[int] = ()) -> tuple[Cost, int]:
    """Run `dsync sync` once; returns what it cost and how many rows it says it has moved.

    Raises:
        CommandFailedError: it failed; the message has the error it printed.
    """
    with tempfile.TemporaryDirectory(prefix="dsync-bench-") as folder:
        cost = measure.run([dsync_command(source, sink, Path(folder) / "state.db", *options)], servers=servers)
    answer = json.loads(cost.stdout)
    if not answer["ok"]:
        raise CommandFailedError(f"dsync sync: {answer['error']}")
    return cost, int(answer["result"]["rows"])


def dsync(attach: str, *options: str) -> Callable[[Servers, Table, str], Cost]:
    """`dsync sync --mode copy` as a user runs it: schema, rows, key and whatever else belongs to it."""

    def copy(servers: Servers, table: Table, target: str) -> Cost:
        cost, rows = run_dsync(
            servers.source.uri(table.database),
            servers.sink.uri(target),
            "--attach",
            attach,
            *options,
            servers=servers.postmasters,
        )
        if rows != table.rows:
            raise CommandFailedError(f"dsync sync says {rows} rows of {table.rows}")
        return cost

    return copy


def startup(servers: Servers, attach: str, target: str) -> Cost:
    """The same command on an empty database: what it costs before and after all rows."""
    cost, _ = run_dsync(
        servers.source.uri("nothing"), servers.sink.uri(target), "--attach", attach, servers=servers.postmasters
    )
    return cost


def psql_pipe(servers: Servers, table: Table, target: str) -> Cost:
    """`COPY … TO STDOUT | COPY … FROM STDIN`, both binary, into a table that is there, then the primary key."""
    _create_like(servers, table, target)
    name = sql.Identifier(table.name).as_string()
    psql = str(servers.source.installation.tool("psql"))
    cost = measure.run(
        [
            _psql(psql, servers.source.uri(table.database), f"COPY {name} TO STDOUT (FORMAT binary)"),
            _psql(psql, servers.sink.uri(target), f"COPY {name} FROM STDIN (FORMAT binary)"),
        ],
        servers=servers.postmasters,
    )
    key = f"ALTER TABLE {name} ADD PRIMARY KEY ({sql.Identifier(table.key).as_string()})"
    return cost + measure.run([_psql(psql, servers.sink.uri(target), key)], servers=servers.postmasters)


def pg_dump(*options: str) -> Callable[[Servers, Table, str], Cost]:
    """`pg_dump -Fc | pg_restore`: schema, rows and key through one pipe."""

    def copy(servers: Servers, table: Table, target: str) -> Cost:
        tool = servers.source.installation.tool
        return measure.run(
            [
                [str(tool("pg_dump")), "-Fc", *options, "-d", servers.source.uri(table.database)],
                [str(tool("pg_restore")), "--no-owner", "-d", servers.sink.uri(target)],
            ],
            servers=servers.postmasters,
        )

    return copy


def pgcopydb(servers: Servers, table: Table, target: str) -> Cost:
    """`pgcopydb clone`, with as many readers and index builders as it takes by itself."""
    with tempfile.TemporaryDirectory(prefix="dsync-bench-") as folder:
        command = ["pgcopydb", "clone", "--no-owner", "--dir", f"{folder}/work"]
        return measure.run(
            [command],
            servers=servers.postmasters,
            environment={
                **os.environ,
                # It looks there for a pg_dump of the server's version.
                "PATH": f"{servers.source.installation.tool('pg_dump').parent}:{os.environ['PATH']}",
                "PGCOPYDB_SOURCE_PGURI": servers.source.uri(table.database),
                "PGCOPYDB_TARGET_PGURI": servers.sink.uri(target),
            },
        )


def pgloader(servers: Servers, table: Table, target: str) -> Cost:
    """`pgloader SOURCE TARGET`: the table, its rows and its key."""
    with tempfile.TemporaryDirectory(prefix="dsync-bench-") as folder:
        command = ["pgloader", "--quiet", "--root-dir", folder, "--on-error-stop"]
        return measure.run(
            [[*command, servers.source.uri(table.database), servers.sink.uri(target)]], servers=servers.postmasters
        )


def _psql(program: str, uri: str, statement: str) -> list[str]:
    return [program, "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", uri, "-c", statement]


def _create_like(servers: Servers, table: Table, target: str) -> None:
    """Make the table at the target, without its key; not timed."""
    with psycopg.connect(servers.source.uri(table.database)) as source:
        columns = source.execute(
            "SELECT quote_ident(attname) || ' ' || format_type(atttypid, atttypmod)"
            " || CASE WHEN attnotnull THEN ' NOT NULL' ELSE '' END"
            " FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
            [table.name],
        ).fetchall()
    name = sql.Identifier(table.name).as_string()
    with psycopg.connect(servers.sink.uri(target)) as sink:
        sink.execute(f"CREATE TABLE {name} ({', '.join(column for (column,) in columns)})".encode())


WAYS = (
    Way(name=PSQL, copy=psql_pipe),
    Way(name="dsync, processes", copy=dsync("process"), attach="process"),
    Way(name="dsync, inline", copy=dsync("inline"), attach="inline"),
    Way(name="dsync, processes, as BSON", copy=dsync("process", "--data-type", "bson"), attach="process"),
    Way(name="pg_dump -Fc | pg_restore", copy=pg_dump()),
    Way(name="pg_dump -Fc -Z0 | pg_restore", copy=pg_dump("-Z0")),
    Way(name="pgcopydb clone", copy=pgcopydb, program="pgcopydb"),
    Way(name="pgloader", copy=pgloader, program="pgloader"),
)


def environment_is_clean() -> bool:
    """No PG* variable changes what libpq connects to."""
    return not any(name.startswith("PG") for name in os.environ)
