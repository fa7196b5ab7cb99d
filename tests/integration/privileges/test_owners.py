"""Owners and grants go along where the role exists, and stay away where they are not wanted."""

from __future__ import annotations

import pytest
from psycopg import sql

from tests.integration.wrong_input.conftest import fill
from tests.integration.wrong_input.guarded import GuardedDsync
from tests.support.databases import DatabaseFactory

STANDING = (
    "SELECT pg_get_userbyid(relowner)::text, coalesce(relacl::text, '') FROM pg_class WHERE oid = 'shop.log'::regclass"
)


@pytest.mark.parametrize(
    ("options", "owned", "granted"),
    [((), True, True), (("--no-owner",), False, True), (("--no-privileges",), True, False)],
    ids=["both", "no owner", "no privileges"],
)
def test_owners_and_grants_follow_the_roles_that_exist(
    dsync: GuardedDsync,
    source_db: DatabaseFactory,
    sink_db: DatabaseFactory,
    options: tuple[str, ...],
    owned: bool,
    granted: bool,
) -> None:
    """Both databases are on one server here, so every role of the source exists at the sink."""
    source, sink = source_db(fill), sink_db()
    owner, reader = source.new_role("owner"), source.new_role("reader")
    names = {"owner": sql.Identifier(owner), "reader": sql.Identifier(reader)}
    source.run(
        sql.SQL("ALTER TABLE shop.log OWNER TO {owner}").format(**names),
        sql.SQL("GRANT SELECT ON shop.log TO {reader}").format(**names),
    )

    ended = dsync.here("sync", source.uri, sink.uri, "--mode", "copy", "--json", *options)

    assert ended.exit_code == 0, ended.json["summary"]
    ((found_owner, found_grants),) = sink.rows(STANDING)
    assert found_owner == (owner if owned else "postgres")
    assert (reader in found_grants) == granted
