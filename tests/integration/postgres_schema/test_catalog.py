"""The catalogue's answers are the same on every version, for either kind of connection, and for a thousand tables."""

from __future__ import annotations

import time

import psycopg
import pytest
from dsync_postgres.schema import (
    SourceFacts,
    TableName,
    read_extensions,
    read_positions,
    read_roles,
    read_sequences,
    read_server,
    read_tables,
    read_types,
)
from dsync_postgres.schema.server import read_schemas
from psycopg import sql

from dsync.quickstart.servers import EmbeddedPostgres
from tests.integration.postgres_schema.support import build, dump, nasty, pinned, plan_for, positions_of, shuffled
from tests.support.databases import DatabaseFactory


def _shop(name: str) -> TableName:
    return TableName(schema="shop", name=name)


@pytest.mark.parametrize("pg", [15, 16, 18], indirect=True)
def test_tables_columns_and_keys(pg: EmbeddedPostgres, database: DatabaseFactory) -> None:
    with pinned(database(nasty).uri) as connection:
        tables = read_tables(connection)

    customer, event, part = tables[_shop("customer")], tables[_shop("event")], tables[_shop("event_2025_sad")]
    assert [column.name for column in customer.columns[:3]] == ["id", "Full Name", "order"]
    assert {c.name: c.type for c in customer.columns if c.name in ("balance", "address", "tags", "loud")} == {
        "address": "shop.address",
        "balance": "shop.positive",
        "loud": "text",
        "tags": "text[]",
    }
    assert [(c.name, c.generated, c.identity) for c in customer.columns if c.generated or c.identity] == [
        ("id", "", "a"),
        ("loud", "s", ""),
    ]
    assert next(c.collation for c in customer.columns if c.name == "Full Name") == "shop.plain"
    assert customer.key == ("id",)
    assert [(i.name, i.columns, i.is_partial) for i in customer.unique_indexes] == [
        ("customer_pk", ("id",), False),
        ("customer upper; idx", (), True),
    ]
    assert (customer.triggers, customer.foreign_keys, customer.referencing) == (2, 1, 1)
    assert (event.kind, event.partition_strategy, event.partition_key_kinds) == ("p", "r", "b")
    assert tables[_shop("event_2025")].partition_key_kinds == "e"
    assert (part.is_partition, part.parents, part.has_rows) == (True, (_shop("event_2025"),), True)
    assert tables[_shop("dog")].parents == (_shop("animal"),)
    assert (tables[_shop("scratch")].persistence, tables[_shop("scratch")].replica_identity) == ("u", "i")
    assert tables[_shop("scratch")].unique_indexes[0].nulls_equal
    assert [i.is_immediate for i in tables[_shop("product")].unique_indexes] == [True, False]
    assert (tables[_shop("m1")].is_populated, tables[_shop("unpopulated")].is_populated) == (True, False)
    assert tables[_shop("nothing")].columns == ()
    assert tables[_shop("v1")].filenode is None
    assert TableName(schema="select", name="tab le") in tables


def test_what_a_role_may_not_read_is_seen(database: DatabaseFactory) -> None:
    """Whole tables, columns, schemas and rows."""
    one = database()
    one.run(
        "CREATE TABLE whole (id int, secret text)",
        "CREATE TABLE closed (id int)",
        "CREATE TABLE rows (id int)",
        "CREATE SCHEMA hidden",
        "CREATE TABLE hidden.t (id int)",
        "CREATE SEQUENCE closed_seq",
    )
    reader_uri = one.reader_uri()
    with pinned(reader_uri) as connection:
        role = sql.Identifier(read_server(connection).user)
    one.run(
        sql.SQL("REVOKE SELECT ON whole, closed FROM {}").format(role),
        sql.SQL("GRANT SELECT (id) ON whole TO {}").format(role),
        sql.SQL("REVOKE USAGE ON SCHEMA hidden FROM {}").format(role),
        sql.SQL("REVOKE SELECT ON SEQUENCE closed_seq FROM {}").format(role),
        "ALTER TABLE rows ENABLE ROW LEVEL SECURITY",
    )

    with pinned(reader_uri) as connection:
        # As in our sessions: the server then refuses instead of hiding rows.
        connection.execute("SET row_security = off")
        tables, sequences = read_tables(connection), read_sequences(connection)
    with pinned(one.uri) as connection:
        as_owner = read_tables(connection)

    public = {name.name: table for name, table in tables.items() if name.schema == "public"}
    assert {name: table.can_select for name, table in public.items()} == {"closed": False, "rows": True, "whole": False}
    assert [(c.name, c.can_select) for c in public["whole"].columns] == [("id", True), ("secret", False)]
    assert (public["rows"].row_security, public["rows"].row_security_applies) == (True, True)
    assert not as_owner[TableName(schema="public", name="rows")].row_security_applies
    assert not tables[TableName(schema="hidden", name="t")].can_select
    assert not sequences[TableName(schema="public", name="closed_seq")].can_select


def test_types_are_taken_apart(database: DatabaseFactory) -> None:
    """COPY in binary depends on what is inside: through arrays, domains, composites, ranges and multiranges."""
    one = database()
    one.run(
        "CREATE DOMAIN d AS regclass",
        "CREATE TYPE c AS (a d[], b int4multirange, q tsquery)",
        "CREATE TYPE r AS RANGE (subtype = interval)",
        "CREATE TABLE t (c c[], r r, i int, p point, v int2vector, acl aclitem)",
    )
    with pinned(one.uri) as connection:
        found = {fact.name: fact for fact in read_types(connection).values()}

    assert found["public.c[]"].parts >= {"public.c", "public.d", "pg_catalog.regclass", "pg_catalog.tsquery"}
    assert "pg_catalog.int4range" in found["public.c[]"].parts
    assert "pg_catalog.interval" in found["public.r"].parts
    assert found["integer"].parts == {"pg_catalog.int4"}
    assert {name for name, fact in found.items() if not fact.has_binary_io} == {"aclitem"}


@pytest.mark.parametrize("pg", [15, 18], indirect=True)
def test_server_roles_schemas_and_extensions(pg: EmbeddedPostgres, database: DatabaseFactory) -> None:
    one = database(nasty)
    owner_uri = one.owner_uri()
    with pinned(one.uri) as boss, pinned(owner_uri) as owner:
        server, as_owner = read_server(boss), read_server(owner)
        roles, extensions, schemas = read_roles(owner), read_extensions(owner), read_schemas(owner)

    assert (server.major, server.is_superuser, server.is_standby, server.database) == (pg.major, True, False, one.name)
    assert (as_owner.is_superuser, as_owner.can_create, as_owner.encoding) == (False, True, "UTF8")
    # Before the session pinned its own.
    assert server.lc_monetary == "C"
    assert (roles[as_owner.user].can_become, roles["app_owner"].can_become) == (True, False)
    assert (extensions["plpgsql"].schema, extensions["plpgsql"].is_owner) == ("pg_catalog", False)
    assert (schemas["shop"].owner, schemas["shop"].may_create) == ("app_owner", False)


@pytest.mark.parametrize("pg", [15, 16, 18], indirect=True)
async def test_both_kinds_of_connection_give_the_same_answers(pg: EmbeddedPostgres, database: DatabaseFactory) -> None:
    uri = database(nasty).uri
    with pinned(uri) as connection:
        blocking = (read_tables(connection), read_sequences(connection), read_positions(connection, [_shop("ticket")]))

    async with await psycopg.AsyncConnection.connect(uri) as later:
        await later.execute("SET search_path = pg_catalog")
        tables, sequences = await read_tables(later), await read_sequences(later)
        positions = await read_positions(later, [_shop("ticket")])

    assert (tables, sequences, positions) == blocking


@pytest.mark.parametrize("pg", [15, 18], indirect=True)
def test_facts_survive_the_wire(pg: EmbeddedPostgres, database: DatabaseFactory) -> None:
    with pinned(database(nasty).uri) as connection:
        facts = SourceFacts.of(read_server(connection), read_extensions(connection), read_tables(connection))

    assert SourceFacts.from_plain(facts.to_plain()) == facts


def test_reading_writes_nothing(database: DatabaseFactory) -> None:
    """A read-only transaction, which is all that a standby allows, gives every answer."""
    one = database(nasty)
    with pinned(one.uri) as connection:
        expected = (read_tables(connection), read_sequences(connection), positions_of(one.uri))
        connection.execute("SET default_transaction_read_only = on")
        sequences = read_sequences(connection)
        found = (read_tables(connection), sequences, read_positions(connection, sequences))

    assert found == expected


@pytest.mark.slow
async def test_a_thousand_tables_stay_quick(database: DatabaseFactory) -> None:
    """Catalogue, dump, selection and plan take seconds, and the plan runs in any order it allows."""
    source, sink = database(), database()
    with source.connect() as connection, connection.transaction():
        for at in range(1000):
            connection.execute(
                f"CREATE TABLE t{at} (id serial PRIMARY KEY, v text, other int REFERENCES t{max(at - 1, 0)})".encode()
            )
            connection.execute(f"CREATE INDEX ON t{at} (v)".encode())

    started = time.monotonic()
    dumped = await dump(source.uri, source_major=18, sink_major=18)
    plan = plan_for(sink.uri, dumped)
    chosen = plan_for(sink.uri, dumped, dumped.select("public.t500"))
    elapsed_s = time.monotonic() - started

    assert plan.findings == ()
    assert len(plan.tables) == 1000
    assert len(chosen.tables) == 1
    # 2 s on two idle cores; anything that asks once a table takes many times that.
    assert elapsed_s < 30
    build(sink.uri, plan, positions=positions_of(source.uri), order=shuffled(5))
    assert sink.value("SELECT count(*) FROM pg_constraint WHERE contype = 'f'") == 1000
