"""Databases of unlike encodings: said beforehand, and a character that the sink lacks costs one row, by name."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from psycopg import sql

from tests.integration.wrong_input.conftest import fill
from tests.integration.wrong_input.guarded import GuardedDsync
from tests.support.databases import Database, DatabaseFactory, PgPair

COPY = ("--mode", "copy", "--json")


@pytest.fixture
def sink(request: pytest.FixtureRequest, pg_pair: PgPair, source_db: DatabaseFactory) -> Iterator[Database]:
    """A database with the encoding that the parameter names."""
    encoding = str(request.param)
    made = Database(server=pg_pair.sink, name=f"{source_db().name}_{encoding.lower()}")
    made.server.execute(
        sql.SQL("CREATE DATABASE {} ENCODING {} LOCALE 'C' TEMPLATE template0").format(
            sql.Identifier(made.name), sql.Literal(encoding)
        )
    )
    yield made
    made.drop()


@pytest.mark.parametrize("sink", ["LATIN1"], indirect=True)
def test_a_character_that_the_sink_lacks_is_a_dead_letter(
    dsync: GuardedDsync, source_db: DatabaseFactory, sink: Database
) -> None:
    source = source_db(fill)
    source.run("INSERT INTO shop.log VALUES ('naïve'), ('日本')")

    examined = dsync.here("doctor", source.uri, sink.uri, "--mode", "copy", "--json")
    planned = dsync.here("plan", source.uri, sink.uri, *COPY)
    copied = dsync.here("sync", source.uri, sink.uri, *COPY)

    assert examined.exit_code == planned.exit_code == 0
    for found in (examined, planned):
        assert ("encoding-differs", "warning") in {(f["code"], f["severity"]) for f in found.result["findings"]}
    assert (copied.exit_code, copied.result["rows"]) == (5, 521), copied.json["summary"]
    assert sink.value("SELECT count(*) FROM shop.log WHERE line = 'naïve'") == 1


@pytest.mark.parametrize("sink", ["SQL_ASCII"], indirect=True)
def test_a_sink_that_converts_nothing_is_refused(
    dsync: GuardedDsync, source_db: DatabaseFactory, sink: Database
) -> None:
    """Text would arrive as bytes that nobody reads as what they were."""
    message = dsync.refused("sync", source_db(fill).uri, sink.uri, *COPY[:2], exit_code=3)

    assert "SQL_ASCII" in message
