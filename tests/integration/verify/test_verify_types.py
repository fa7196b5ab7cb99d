"""Verification between PostgreSQL servers: every type, and the smallest faults."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql

from dsync.verify import Kind, Method, VerifyOptions, VerifyReport
from dsync.verify.render import render
from tests.integration.verify.ends import PgEnd
from tests.integration.verify.every_type import FAULTS, SAME, fill_every
from tests.integration.verify.support import OpenEnds, compare, rows_of
from tests.support.databases import Database, DatabaseFactory

PAIRS = [(18, 18), (15, 16), (16, 18), (18, 15)]


@pytest.mark.parametrize("pg_pair", PAIRS, indirect=True)
async def test_every_type_agrees_between_versions(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_ends: OpenEnds
) -> None:
    """Equal rows hash alike on 15, 16 and 18, whatever the type; databases' own settings do not matter."""
    source, target = source_db(fill_every), sink_db(fill_every)
    for setting in (
        "timezone = 'Asia/Tokyo'",
        "datestyle = 'German'",
        "bytea_output = 'escape'",
        "extra_float_digits = 0",
    ):
        target.run(sql.SQL(f"ALTER DATABASE {target.name} SET {setting}"))  # type: ignore[arg-type]
    report = await compare(open_ends(source, target))
    assert report.exit_code == 0, render(report)
    assert (report.source_rows, report.target_rows) == (303, 303)
    assert report.methods == (Method.PUSHED_DOWN,)


@pytest.mark.parametrize("pg_pair", [(18, 18), (16, 15)], indirect=True)
async def test_every_planted_fault_is_found_and_its_column_named(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_ends: OpenEnds
) -> None:
    """The smallest difference of each type is one; another spelling of one value is none."""
    source, target = source_db(fill_every), sink_db(fill_every)
    expected: dict[tuple[str, ...], tuple[Kind, tuple[str, ...]]] = {}
    for number, (column, values) in enumerate((*FAULTS.values(), *SAME.values()), start=1000):
        for database, value in zip((source, target), values.split("|"), strict=True):
            query = f"COPY every (id, {column}) FROM STDIN".encode()
            with database.connect() as connection, connection.cursor() as cursor, cursor.copy(query) as copy:
                copy.write(f"{number}\t{value}\n")
        if number < 1000 + len(FAULTS):
            expected[(str(number),)] = (Kind.DIFFERENT, (column,))
    target.run("DELETE FROM every WHERE id = 7", "UPDATE every SET id = 9007 WHERE id = 8")
    expected |= {("7",): (Kind.MISSING, ()), ("8",): (Kind.MISSING, ()), ("9007",): (Kind.EXTRA, ())}

    report = await compare(open_ends(source, target))
    assert rows_of(report) == expected
    assert report.exit_code == 4
    (namespace,) = report.namespaces
    assert (namespace.counts.missing, namespace.counts.extra, namespace.counts.different) == (2, 1, len(FAULTS))
    shown = {d.key: (d.columns[0].source, d.columns[0].target) for d in namespace.differences if d.columns}
    assert shown[("1000",)] == ("1.0", "1.00")
    assert shown[("1006",)] == (None, "")


async def test_values_are_shown_only_when_asked_for(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_ends: OpenEnds
) -> None:
    """A report names rows and columns; what is in them may be nobody's business."""
    source, target = source_db(fill_every), sink_db(fill_every)
    target.run("UPDATE every SET t = 'confidential' WHERE id = 5")
    report = await compare(open_ends(source, target), options=VerifyOptions(live=False))
    assert rows_of(report) == {("5",): (Kind.DIFFERENT, ("t",))}
    assert "confidential" not in render(report) + str(report.as_json())


texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
values = st.tuples(
    st.one_of(st.none(), texts),
    st.one_of(st.none(), st.one_of(st.just("NaN"), st.decimals(allow_nan=False, allow_infinity=False))),
    st.one_of(st.none(), st.floats()),
    st.one_of(st.none(), st.binary(max_size=8)),
    st.one_of(st.none(), st.lists(st.one_of(st.none(), texts), max_size=3)),
)
tables = st.dictionaries(texts, values, max_size=12)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(here=tables, there=tables, both=tables, keyed=st.booleans())
def test_what_is_reported_is_what_differs(
    hostile: tuple[Database, Database],
    here: dict[str, tuple[object, ...]],
    there: dict[str, tuple[object, ...]],
    both: dict[str, tuple[object, ...]],
    keyed: bool,
) -> None:
    """Whatever the content: exactly the rows are named whose texts the servers write differently."""
    source, target = hostile
    contents = ({**here, **both}, {**there, **both})
    for database, rows in zip(hostile, contents, strict=True):
        with database.connect() as connection, connection.cursor() as cursor:
            cursor.execute("TRUNCATE hostile")
            cursor.execute("ALTER TABLE hostile DROP CONSTRAINT IF EXISTS hostile_pkey")
            if keyed:
                cursor.execute("ALTER TABLE hostile ADD CONSTRAINT hostile_pkey PRIMARY KEY (id)")
            cursor.executemany(
                "INSERT INTO hostile VALUES (%s, %s, %s, %s, %s, %s)", [(key, *row) for key, row in rows.items()]
            )
    said = [
        dict(database.rows("SELECT id, ROW(id, t, n, f, b, a)::text FROM hostile")) for database in (source, target)
    ]
    report = asyncio.run(_compare_hostile(source, target))
    (namespace,) = report.namespaces
    counts = namespace.counts
    if keyed:
        expected = (
            len(said[0].keys() - said[1].keys()),
            len(said[1].keys() - said[0].keys()),
            sum(said[0][key] != said[1][key] for key in said[0].keys() & said[1].keys()),
        )
        assert {d.key[0] for d in namespace.differences} == {
            key for key in said[0].keys() | said[1].keys() if said[0].get(key) != said[1].get(key)
        }
    else:
        expected = (
            len(set(said[0].items()) - set(said[1].items())),
            len(set(said[1].items()) - set(said[0].items())),
            0,
        )
    assert (counts.missing, counts.extra, counts.different) == expected
    assert report.exit_code == (4 if any(expected) else 0)


async def _compare_hostile(source: Database, target: Database) -> VerifyReport:
    ends = PgEnd(source.uri), PgEnd(target.uri)
    try:
        return await compare(ends, "public.hostile", VerifyOptions(live=False, pulled_rows=3))
    finally:
        for end in ends:
            await end.close()


@pytest.fixture
def hostile(source_db: DatabaseFactory, sink_db: DatabaseFactory) -> tuple[Database, Database]:
    databases = source_db(), sink_db()
    for database in databases:
        database.run("CREATE TABLE hostile (id text, t text, n numeric, f float8, b bytea, a text[])")
    return databases
