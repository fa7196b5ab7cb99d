"""Databases with a schema that breaks naive copiers, and a copy of a schema from one to another."""

from __future__ import annotations

import os
import re
import subprocess
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random

import psycopg
from dsync_postgres.schema import (
    Archive,
    BuildStep,
    DumpRequest,
    PgDump,
    PlanOptions,
    SchemaPlan,
    SchemaSelection,
    SequencePosition,
    SourceFacts,
    TableName,
    build_graph,
    build_plan,
    choose_pg_dump,
    dump_schema,
    read_archive,
    read_extensions,
    read_positions,
    read_sequences,
    read_server,
    read_sink,
    read_tables,
    run_statements,
    run_step,
    select_all,
    select_tables,
)
from dsync_postgres.schema.findings import Finding, Severity
from psycopg import sql

from tests.support.databases import Database, Prepare

_FOLDER = Path(__file__).parent
_ROLES = ("app_owner", "app_reader", "Odd Role")
# Written anew by every pg_dump run.
_RUN_LINES = re.compile(r"(?m)^(\\(un)?restrict |-- Dumped (from|by) ).*\n")

Connection = psycopg.Connection[tuple[object, ...]]


@cache
def filled_with(*names: str) -> Prepare:
    """Return what fills a database from these SQL files; the same object each time, so that templates are shared."""

    def prepare(uri: str) -> None:
        with psycopg.connect(uri, autocommit=True) as connection:
            make_roles(connection)
            for name in names:
                connection.execute((_FOLDER / name).read_bytes())

    return prepare


nasty = filled_with("nasty.sql")
"""Fills a database with the schema that all versions understand."""


def make_roles(connection: Connection) -> None:
    """Create the roles that nasty.sql gives things to; they belong to the server, not to a database."""
    known = {name for (name,) in connection.execute("SELECT rolname FROM pg_roles").fetchall()}
    for role in _ROLES:
        if role not in known:
            connection.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(role)))


def pinned(uri: str) -> Connection:
    """Return a connection in autocommit mode with the settings that matter to catalogue queries."""
    connection: Connection = psycopg.connect(uri, autocommit=True)
    connection.execute("SET client_encoding = UTF8")
    connection.execute("SET search_path = pg_catalog")
    connection.execute("SET lc_monetary = 'C'")
    return connection


@dataclass(frozen=True, slots=True, kw_only=True)
class Dumped:
    """A source's schema, read."""

    archive: Archive
    data: bytes
    facts: SourceFacts
    tool: PgDump

    def select(self, *tables: str, excluded: Collection[str] = (), only: bool = False) -> SchemaSelection:
        """Return a selection of everything, or of the named tables where there are any."""
        graph = build_graph(self.archive)
        without = [TableName.parse(name) for name in excluded]
        if not tables and not only:
            return select_all(graph, excluded=without)
        return select_tables(graph, [TableName.parse(name) for name in tables], excluded=without)


async def dump(uri: str, *, source_major: int, sink_major: int) -> Dumped:
    """Dump a database as a source does for a sink of that version."""
    tool = (await choose_pg_dump(source_major, sink_major)).require()
    request = DumpRequest(tool=tool, conninfo=uri, unlike_versions=source_major != sink_major)
    data = await dump_schema(request)
    with pinned(uri) as connection:
        facts = SourceFacts.of(read_server(connection), read_extensions(connection), read_tables(connection))
    return Dumped(archive=read_archive(data), data=data, facts=facts, tool=tool)


def plan_for(
    uri: str, dumped: Dumped, selection: SchemaSelection | None = None, options: PlanOptions | None = None
) -> SchemaPlan:
    """Plan a schema for the database behind a URI."""
    with pinned(uri) as connection:
        return build_plan(selection or dumped.select(), dumped.facts, read_sink(connection), options)


def build(
    uri: str,
    plan: SchemaPlan,
    *,
    positions: Sequence[SequencePosition] = (),
    order: Callable[[Sequence[BuildStep]], Sequence[BuildStep]] = tuple,
) -> list[Finding]:
    """Run a whole plan, each step in a transaction of its own and in the order chosen; return what was refused."""
    findings: list[Finding] = []
    with pinned(uri) as connection:
        with connection.transaction():
            findings += run_statements(connection, plan.pre_data)
        for step in order(plan.post_data):
            with connection.transaction():
                findings += run_step(connection, BuildStep.from_wire(step.wire()), positions)
    return findings


def positions_of(uri: str) -> tuple[SequencePosition, ...]:
    """Return where all sequences of a database stand."""
    with pinned(uri) as connection:
        return read_positions(connection, read_sequences(connection))


def shuffled(seed: int) -> Callable[[Sequence[BuildStep]], Sequence[BuildStep]]:
    """Return an order that keeps to `depends_on` and to nothing else."""

    def order(steps: Sequence[BuildStep]) -> Sequence[BuildStep]:
        random = Random(seed)
        waiting = {step.id: set(step.depends_on) for step in steps}
        followers: defaultdict[str, list[str]] = defaultdict(list)
        for step in steps:
            for other in step.depends_on:
                followers[other].append(step.id)
        ready = [step_id for step_id, needs in waiting.items() if not needs]
        done: list[str] = []
        while ready:
            step_id = ready.pop(random.randrange(len(ready)))
            done.append(step_id)
            for follower in followers[step_id]:
                waiting[follower].discard(step_id)
                if not waiting[follower]:
                    ready.append(follower)
        by_id = {step.id: step for step in steps}
        assert len(done) == len(by_id) == len(steps)
        return [by_id[step_id] for step_id in done]

    return order


def stops(findings: Collection[Finding]) -> list[Finding]:
    """Return the findings that forbid moving a row."""
    return [finding for finding in findings if finding.severity is Severity.STOP]


def codes(findings: Collection[Finding]) -> set[str]:
    """Return the codes of findings."""
    return {finding.code for finding in findings}


def schema_text(uri: str, tool: PgDump) -> str:
    """Return a database's schema as pg_dump writes it, without what every run writes anew."""
    command = [str(tool.path), "--schema-only", "--exclude-schema=_dsync", f"--dbname={uri}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "LC_ALL": "C"})
    return _RUN_LINES.sub("", done.stdout)


def restore(dumped: Dumped, database: Database, *options: str) -> None:
    """Restore an archive with the pg_restore that belongs to its pg_dump."""
    command = [str(dumped.tool.path.with_name("pg_restore")), f"--dbname={database.uri}", "--exit-on-error", *options]
    subprocess.run(command, input=dumped.data, capture_output=True, check=True)
