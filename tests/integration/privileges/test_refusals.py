"""What a role may not see or do is an error with the way on, never a smaller copy."""

from __future__ import annotations

import re
from typing import LiteralString
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import sql

from tests.integration.wrong_input.conftest import fill
from tests.integration.wrong_input.guarded import GuardedDsync, contents, new_login
from tests.support.databases import DatabaseFactory

COPY = ("--mode", "copy")
READ: tuple[LiteralString, ...] = (
    "GRANT USAGE ON SCHEMA shop TO {role}",
    "GRANT SELECT ON shop.log TO {role}",
)


def role_of(uri: str) -> sql.Identifier:
    user = urlsplit(uri).username
    assert user is not None
    return sql.Identifier(user)


@pytest.mark.parametrize(
    ("statements", "code", "said"),
    [
        (
            (
                "GRANT SELECT ON shop.orders TO {role}",
                "ALTER TABLE shop.orders ENABLE ROW LEVEL SECURITY",
                "CREATE POLICY a_few ON shop.orders TO {role} USING (id < 10)",
            ),
            "row-security",
            "row security would hide rows",
        ),
        (("GRANT SELECT (id) ON shop.orders TO {role}",), "column-privileges", "some columns only"),
        ((), "no-select", "may not read it"),
    ],
    ids=["row security", "columns", "no select"],
)
def test_a_role_that_would_not_see_everything_is_refused(
    dsync: GuardedDsync,
    source_db: DatabaseFactory,
    sink_db: DatabaseFactory,
    statements: tuple[LiteralString, ...],
    code: str,
    said: str,
) -> None:
    """Exit 3 from the doctor and the sync alike, with the table; the sink stays as it was."""
    source, sink = source_db(fill), sink_db()
    uri, target = new_login(source, attributes=""), sink.owner_uri()
    role = role_of(uri)
    source.run(*(sql.SQL(statement).format(role=role) for statement in (*READ, *statements)))
    before = contents(sink)

    examined = dsync.here("doctor", uri, target, "--json")
    message = dsync.refused("sync", uri, target, *COPY, exit_code=3)

    assert examined.exit_code == 3
    assert (code, "shop.orders") in {(f["code"], f["object"]) for f in examined.result["findings"]}
    assert "shop.orders" in message
    assert said in message
    assert contents(sink) == before


def test_a_sink_where_the_ledger_may_not_be_made_says_what_to_run(
    dsync: GuardedDsync, source_db: DatabaseFactory, sink_db: DatabaseFactory
) -> None:
    """Exit 3 with SQL for an administrator; once that was run, the copy works."""
    source, sink = source_db(fill), sink_db()
    sink.run("CREATE SCHEMA shop", "CREATE TABLE shop.log (line text)")
    uri = new_login(sink, attributes="")
    role = role_of(uri)
    sink.run(
        sql.SQL("GRANT USAGE ON SCHEMA shop TO {}").format(role),
        sql.SQL("ALTER TABLE shop.log OWNER TO {}").format(role),
    )
    before = contents(sink)
    command = ("sync", source.uri, uri, *COPY, "--schema", "none", "-n", "shop.log")

    message = dsync.refused(*command, exit_code=3)

    assert "_dsync" in message
    assert contents(sink) == before
    found = re.search(r"CREATE SCHEMA _dsync[^;]*", message)
    assert found is not None, message
    with psycopg.connect(sink.uri, autocommit=True) as connection:
        connection.execute(found[0].encode())
    ended = dsync.here(*command, "--json")
    assert (ended.exit_code, ended.result["rows"]) == (0, 20), ended.json["summary"]
