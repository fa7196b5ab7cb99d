"""Every type that a server has, with the values at its edges, alone and inside other types."""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random

import pytest

from dsync.quickstart.sample import create_shop
from tests.integration.round_trip.judge import differences
from tests.integration.round_trip.kinds import Kind, array_of, builtins, composite, domain, modified
from tests.integration.round_trip.names import quoted
from tests.integration.round_trip.running import Copier
from tests.integration.round_trip.schemas import Schema, Statement, learn_abilities
from tests.integration.round_trip.values import MODIFIED, POOLS, RANGES
from tests.support.databases import Database, DatabaseFactory, PgPair

_SERVER_TYPES = """
SELECT format_type(t.oid, NULL) FROM pg_type t
 WHERE t.typnamespace = 'pg_catalog'::regnamespace AND t.typtype IN ('b', 'r', 'm') AND t.typrelid = 0
   AND NOT EXISTS (SELECT FROM pg_type e WHERE e.typarray = t.oid) ORDER BY 1
"""
_ROWS = 25


def _tables(kinds: list[Kind]) -> Schema:
    """A table for each type: its values alone, in an array, in a domain, in a composite type, and these in arrays."""
    statements = []
    for number, kind in enumerate(kinds):
        random = Random(number)
        row = composite(f"row_{number}", [kind, kind])
        statements.append(f"CREATE TYPE {row.sql} AS (a {kind.sql}, b {kind.sql})")
        columns = [kind, row]
        if kind.has_array:
            named = domain(f"domain_{number}", array_of(kind), not_null=False)
            statements.append(f"CREATE DOMAIN {named.sql} AS {kind.sql}[]")
            columns += [array_of(kind), array_of(row), named]
        listed = ", ".join(f"c{place} {column.sql}" for place, column in enumerate(columns))
        name = quoted(f"of {kind.sql}")
        statements.append(f"CREATE TABLE {name} (id serial PRIMARY KEY, {listed})")
        names = ", ".join(f"c{place}" for place in range(len(columns)))
        for _ in range(_ROWS):
            cells = ", ".join(column.cell(random) for column in columns)
            statements.append(f"INSERT INTO {name} ({names}) VALUES ({cells})")
    return Schema(tuple(Statement(sql=text, kind="statement", may_fail=False) for text in statements))


@pytest.mark.parametrize(
    ("pg_pair", "data_type"),
    [((18, 18), "auto"), ((15, 16), "auto"), ((18, 18), "bson"), ((15, 16), "bson"), ((18, 18), "json")],
    indirect=["pg_pair"],
)
def test_every_type_arrives_alone_and_inside_others(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, tmp_path: Path, data_type: str
) -> None:
    """As binary COPY where that keeps the value, as text where it does not; as documents too, of either form."""
    source, sink = source_db(), sink_db()
    abilities = learn_abilities([source, sink])
    kinds = [*builtins(abilities.pools), *map(modified, MODIFIED)]
    _tables(kinds).fill(source)

    copied = asyncio.run(Copier(source=source, sink=sink, state=tmp_path / "state.db")(data_type=data_type))

    assert copied.exit_code == 0, copied.explained()
    assert set(copied.rows.values()) == {_ROWS}
    assert differences(source, sink) == []


@pytest.mark.parametrize("pg_pair", [(18, 18)], indirect=True)
@pytest.mark.parametrize("data_type", ["bson", "json"])
def test_a_whole_shop_arrives_as_documents(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, tmp_path: Path, data_type: str
) -> None:
    """Odd names, rows without key, partitions, generated columns: all of it through documents alone."""
    source, sink = source_db(), sink_db()
    create_shop(source.uri, rows=500)

    copied = asyncio.run(Copier(source=source, sink=sink, state=tmp_path / "state.db")(data_type=data_type))

    assert copied.exit_code == 0, copied.explained()
    # Hashed by an enum's oid, rows lie in other partitions at another server; the verification has looked at the tree.
    assert [line for line in differences(source, sink) if "shop.tickets_" not in line] == []


def test_no_type_of_the_server_is_forgotten(pg_pair: PgPair, source_db: DatabaseFactory) -> None:
    """A type that a later version brings fails here until there are values of it."""
    source = source_db()

    known = {_printed(source, name) for name in (*POOLS, *RANGES, *(multi for _, multi in RANGES.values()))}

    assert {name for (name,) in source.rows(_SERVER_TYPES)} == known


def _printed(database: Database, name: str) -> str:
    printed: str = database.value("SELECT format_type(to_regtype(%s), NULL)", [name])
    return printed
