"""A copy of a copy: what dsync keeps at a sink is no part of the data."""

from __future__ import annotations

from pathlib import Path

import psycopg

from tests.integration.round_trip.judge import contents, differences
from tests.integration.round_trip.running import Copier
from tests.support.databases import Database, DatabaseFactory

_HOLDERS = "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = '_dsync'"


def _fill(uri: str) -> None:
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA _dsyncx")
        connection.execute("CREATE TABLE _dsyncx._dsync (id serial PRIMARY KEY, flow text)")
        connection.execute("INSERT INTO _dsyncx._dsync (flow) SELECT 'row ' || n FROM generate_series(1, 500) n")
        connection.execute("CREATE UNLOGGED TABLE ledger AS SELECT generate_series(1, 40) AS seq")
        connection.execute("CREATE VIEW _dsync2 AS SELECT * FROM _dsyncx._dsync")


async def test_a_copy_of_a_copy_is_the_first(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, tmp_path: Path
) -> None:
    """Neither the ledger of the first flow nor anything else of its schema is planned, copied or verified."""
    first, second, third = source_db(_fill), sink_db(), sink_db()

    there = await Copier(source=first, sink=second, state=tmp_path / "one.db")()
    assert there.exit_code == 0, there.explained()
    assert second.value(_HOLDERS) > 0
    further = await Copier(source=second, sink=third, state=tmp_path / "two.db")()

    assert further.exit_code == 0, further.explained()
    assert set(further.rows) == {"_dsyncx._dsync", "public.ledger"}
    assert differences(first, third) == []
    assert _flows(second) == {there.outcome.flow}
    assert _flows(third) == {further.outcome.flow}


async def test_a_copy_back_goes_around_the_ledger_too(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, tmp_path: Path
) -> None:
    """There and back, over the rows that were there: the source of one flow is the sink of another."""
    first, second = source_db(_fill), sink_db()
    there = await Copier(source=first, sink=second, state=tmp_path / "one.db")()
    assert there.exit_code == 0, there.explained()
    before = contents(first).rows

    back = await Copier(source=second, sink=first, state=tmp_path / "two.db")(on_existing="truncate")

    assert back.exit_code == 0, back.explained()
    assert contents(first).rows == contents(second).rows == before
    assert _flows(first) == {back.outcome.flow}
    assert _flows(second) == {there.outcome.flow}


def _flows(database: Database) -> set[str]:
    return {flow for (flow,) in database.rows("SELECT DISTINCT flow FROM _dsync.ledger")}
