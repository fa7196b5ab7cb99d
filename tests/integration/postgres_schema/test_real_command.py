"""`dsync sync` makes of every kind of object what pg_restore makes of it, and `plan` lists what it leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest

from tests.integration.postgres_schema.support import dump, filled_with, make_roles, restore, schema_text
from tests.integration.wrong_input.conftest import dsync
from tests.integration.wrong_input.guarded import GuardedDsync
from tests.support.databases import Database, DatabaseFactory, PgPair

__all__ = ["dsync"]

LEFT = {"foreign-table", "publications", "subscriptions"}
"""What is not copied, by the code of the finding that says so."""
_POPULATED = "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'm' AND relispopulated ORDER BY 1"
_CANARY = "mapped-secret-canary"


@pytest.fixture
def subscribed() -> Iterator[Callable[[Database], Database]]:
    """Gives a database a subscription: a copy of a template has none, and a database that has one cannot be dropped."""
    made: list[Database] = []

    def subscribe(database: Database) -> Database:
        database.run(
            "CREATE SUBSCRIPTION follower CONNECTION 'host=nowhere.invalid password=mapped-secret-canary' PUBLICATION p"
            " WITH (connect = false, slot_name = NONE)"
        )
        made.append(database)
        return database

    yield subscribe
    for database in made:
        database.run("DROP SUBSCRIPTION follower")


@pytest.mark.parametrize("pg_pair", [(15, 16), (16, 18), (18, 18)], indirect=True)
def test_every_kind_of_object_arrives(
    dsync: GuardedDsync,
    pg_pair: PgPair,
    source_db: DatabaseFactory,
    sink_db: DatabaseFactory,
    subscribed: Callable[[Database], Database],
) -> None:
    newest = ("nasty_18.sql",) if pg_pair.source.major == 18 else ()
    source = subscribed(source_db(filled_with("nasty.sql", "everything.sql", *newest)))
    ours, theirs = sink_db(), sink_db()
    with ours.connect() as connection:
        make_roles(connection)
    dumped = asyncio.run(dump(source.uri, source_major=pg_pair.source.major, sink_major=pg_pair.sink.major))
    restore(dumped, theirs)
    command = (source.uri, ours.uri, "--mode", "copy", "--json")

    planned = dsync.here("plan", *command)
    copied = dsync.here("sync", *command, "--verify")

    assert (planned.exit_code, copied.exit_code) == (0, 0), copied.json["summary"]
    assert copied.result["verify"]["equal"]
    assert copied.result["failed_steps"] == []
    assert schema_text(ours.uri, dumped.tool) == schema_text(theirs.uri, dumped.tool)
    assert ours.rows(_POPULATED) == source.rows(_POPULATED)
    warned = {f["code"] for f in planned.result["findings"] if f["severity"] == "warning"}
    assert warned == LEFT | {"table-access-method"}
    for ended in (planned, copied):
        assert _CANARY not in ended.stdout + ended.stderr
    assert _CANARY.encode() not in dsync.state.read_bytes()


def test_what_belongs_to_the_database_alone_is_listed_for_the_whole_of_it(
    dsync: GuardedDsync, source_db: DatabaseFactory, sink_db: DatabaseFactory
) -> None:
    """Publications and settings; who chooses tables has not asked for them."""
    source, sink = source_db(), sink_db()
    source.run("CREATE TABLE t (id int PRIMARY KEY)", "CREATE PUBLICATION of_t FOR TABLE t")
    with source.connect() as connection:
        connection.execute(f"ALTER DATABASE \"{source.name}\" SET work_mem = '9MB'".encode())

    whole = dsync.here("doctor", source.uri, sink.uri, "--json")
    chosen = dsync.here("doctor", source.uri, sink.uri, "-n", "public.t", "--json")

    said = {f["code"]: f["message"] for f in whole.result["findings"]}
    assert "of_t" in said["publications"]
    assert "ALTER DATABASE" in said["database-settings"]
    assert "subscriptions" not in said
    assert not {"publications", "database-settings"} & {f["code"] for f in chosen.result["findings"]}
