"""Schemas that generated ones have shown to be hard, each by itself."""

from __future__ import annotations

from typing import LiteralString

import pytest

from dsync.protocol.errors import DsyncError
from tests.integration.round_trip.judge import contents, differences
from tests.integration.round_trip.running import Copier
from tests.support.databases import Database

_SWAPPED: tuple[LiteralString, ...] = (
    "CREATE TYPE pair AS (x int, y int)",
    "CREATE TABLE holder (p pair)",
)


async def test_a_row_type_whose_fields_change_places_is_refused(
    source: Database, sink: Database, copier: Copier
) -> None:
    """pg_dump puts the later column of the parent first; a row of it would take y for x without a word."""
    source.run(
        "CREATE TABLE parent (a int)",
        "CREATE TABLE child (b int) INHERITS (parent)",
        "ALTER TABLE parent ADD COLUMN z int",
        "CREATE TABLE holder (r child[])",
        "INSERT INTO holder VALUES (ARRAY[ROW(1, 2, 3)::child])",
    )

    with pytest.raises(DsyncError, match=r"the type public\.child\[\] is .* at the sink") as raised:
        await copier()

    assert raised.value.exit_code == 3
    assert contents(sink, schema=False).rows == {}


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("CREATE TYPE t AS (x int, y int)", "CREATE TYPE t AS (y int, x int)"),
        ("CREATE TYPE t AS (x int8)", "CREATE TYPE t AS (x float8)"),
        ("CREATE DOMAIN t AS numeric(14,4)", "CREATE DOMAIN t AS numeric(14,2)"),
        ("CREATE DOMAIN t AS int8", "CREATE DOMAIN t AS timestamp"),
        ("CREATE TYPE t AS RANGE (subtype = int8)", "CREATE TYPE t AS RANGE (subtype = float8)"),
    ],
)
@pytest.mark.parametrize("kept", ["type", "table"])
async def test_a_type_that_is_something_else_at_the_sink_is_refused(
    source: Database, sink: Database, copier: Copier, ours: LiteralString, theirs: LiteralString, kept: str
) -> None:
    """Whether the table exists as well or is to be made over the type that is there."""
    source.run(ours, "CREATE TABLE holder (v t)", "INSERT INTO holder VALUES (NULL)")
    sink.run(theirs)
    if kept == "table":
        sink.run("CREATE TABLE holder (v t)")

    with pytest.raises(DsyncError, match=r"the type public\.t is") as raised:
        await copier(namespaces=("holder",), schema_mode="none" if kept == "table" else "copy")

    assert raised.value.exit_code == 3
    assert sink.value("SELECT count(*) FROM pg_namespace WHERE nspname = '_dsync'") in (0, 1)
    assert sum(count for count, _ in contents(sink, schema=False).rows.values()) == 0


async def test_verify_sees_fields_that_have_changed_places(source: Database, sink: Database, copier: Copier) -> None:
    """Their text is the same: (1,2) here and there."""
    source.run(*_SWAPPED, "INSERT INTO holder VALUES ('(1,2)')")
    copied = await copier()
    assert copied.exit_code == 0, copied.explained()
    sink.run(
        "DROP TABLE holder", "DROP TYPE pair", "CREATE TYPE pair AS (y int, x int)", "CREATE TABLE holder (p pair)"
    )
    sink.run("INSERT INTO holder VALUES ('(1,2)')")

    again = await copier()

    assert again.outcome.result is None
    assert again.exit_code == 4, again.explained()


@pytest.mark.parametrize("pg_pair", [(18, 18), (18, 16)], indirect=True)
async def test_not_null_of_inherited_columns_may_have_any_name(
    source: Database, sink: Database, copier: Copier
) -> None:
    """pg_dump 18 writes those names as they are; unquoted, one could even be a statement."""
    source.run(
        'CREATE TABLE "P p" ("id x" int, plain int, "CaSe" int)',
        'CREATE TABLE "C c" (own int) INHERITS ("P p")',
        'ALTER TABLE "C c" ADD CONSTRAINT "Odd; ""name""" NOT NULL "id x"',
        'ALTER TABLE "C c" ADD CONSTRAINT "x NOT NULL plain); CREATE TABLE stolen(); --" NOT NULL plain',
        'ALTER TABLE "C c" ADD CONSTRAINT "select" NOT NULL "CaSe"',
        'INSERT INTO "C c" VALUES (1, 2, 3, 4)',
    )

    copied = await copier()

    assert copied.exit_code == 0, copied.explained()
    assert differences(source, sink, schema=sink.server.major == source.server.major) == []
    required = "SELECT attname FROM pg_attribute WHERE attrelid = '\"C c\"'::regclass AND attnotnull AND attnum > 0"
    assert {name for (name,) in sink.rows(required)} == {"id x", "plain", "CaSe"}
    assert sink.value("SELECT to_regclass('stolen') IS NULL")


async def test_values_that_analyze_cannot_compute_with_are_no_failure(
    source: Database, sink: Database, copier: Copier
) -> None:
    """Its statistics of ranges are floats. The table beside it is analyzed, and the sequence stands where it should."""
    source.run(
        "CREATE TABLE huge (id serial, r numrange)",
        "INSERT INTO huge (r) SELECT numrange(-1e1000, 1e1000 + n) FROM generate_series(1, 5) n",
        "CREATE TABLE beside AS SELECT generate_series(1, 300) AS id",
    )

    copied = await copier()

    assert copied.exit_code == 0, copied.explained()
    assert differences(source, sink) == []
    assert sink.value("SELECT reltuples FROM pg_class WHERE relname = 'beside'") == 300


async def test_a_constraint_that_fails_keeps_nothing_else_from_being_done(
    source: Database, sink: Database, copier: Copier
) -> None:
    """A sequence that stayed at its start would break the next INSERT at the sink."""
    source.run(
        "CREATE TABLE parent (id int PRIMARY KEY)",
        "CREATE TABLE child (id serial, parent int)",
        "INSERT INTO child (parent) SELECT n FROM generate_series(1, 50) n",
        # Not checked at the source, and valid in name only.
        "ALTER TABLE child ADD CONSTRAINT orphan FOREIGN KEY (parent) REFERENCES parent NOT VALID",
        "UPDATE pg_constraint SET convalidated = true WHERE conname = 'orphan'",
        "CREATE INDEX after_all ON child (parent)",
    )

    copied = await copier(verify=False)

    assert copied.exit_code == 6, copied.explained()
    assert [failure.step for failure in copied.result.failed_steps] == ["child orphan"]
    ours, theirs = contents(source, schema=False), contents(sink, schema=False)
    assert (theirs.rows, theirs.positions) == (ours.rows, ours.positions)
    assert sink.value("SELECT reltuples FROM pg_class WHERE relname = 'child'") == 50
    assert sink.value("SELECT to_regclass('after_all') IS NOT NULL")
