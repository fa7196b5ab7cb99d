"""What `doctor` says about a source."""

from pathlib import Path

import pytest
from dsync_postgres.options import PostgresOptions
from psycopg import sql

from dsync.quickstart.servers import EmbeddedPostgres
from dsync.sdk import types
from tests.integration.postgres_source.conftest import OpenSource
from tests.integration.postgres_source.pooling import MiniPooler
from tests.integration.postgres_source.support import Source
from tests.support.databases import Database, DatabaseFactory, PgServers

VERSIONS = pytest.mark.parametrize("pg", [15, 16, 18], indirect=True)
STOP, WARNING, INFO = types.Severity.STOP, types.Severity.WARNING, types.Severity.INFO


async def findings(
    source: Source, *namespaces: str, peer: str = "postgres", peer_version: str = "18.1"
) -> dict[tuple[str, str], types.Finding]:
    """What is found, by code and object."""
    found = await source.connector.check(
        types.CheckRequest(role=types.Role.SOURCE, namespaces=namespaces, peer_db_type=peer, peer_version=peer_version)
    )
    assert all(finding.remedy for finding in found if finding.severity is STOP), "what stops says what to do"
    return {(finding.code, finding.object): finding for finding in found}


@VERSIONS
async def test_a_plain_database_stops_nothing(database: DatabaseFactory, open_source: OpenSource) -> None:
    """A role with SELECT alone is enough."""
    made = database()
    made.run("CREATE TABLE t (id int PRIMARY KEY)")
    source = await open_source(made, uri=made.reader_uri())

    found = await findings(source)

    assert {finding.severity for finding in found.values()} == {INFO}
    assert {code for code, _ in found} == {"xmin-held"}


async def test_what_would_make_a_smaller_copy_stops(database: DatabaseFactory, open_source: OpenSource) -> None:
    """Row security, privileges on columns, no privilege: each with its table; tables nobody asked for do not matter."""
    made = database()
    made.run(
        "CREATE TABLE plain (i int)",
        "CREATE TABLE secured (i int)",
        "CREATE TABLE partial (i int, j int)",
        "CREATE TABLE closed (i int)",
    )
    uri = made.reader_uri()
    role = sql.Identifier(uri.split("//")[1].split(":")[0])
    made.run(
        "ALTER TABLE secured ENABLE ROW LEVEL SECURITY",
        sql.SQL("REVOKE ALL ON partial, closed FROM {}").format(role),
        sql.SQL("GRANT SELECT (i) ON partial TO {}").format(role),
    )
    source = await open_source(made, uri=uri)

    found = await findings(source)

    stopping = {key for key, finding in found.items() if finding.severity is STOP}
    assert stopping == {
        ("row-security", "public.secured"),
        ("column-privileges", "public.partial"),
        ("no-select", "public.closed"),
    }
    assert not any(f.severity is STOP for f in (await findings(source, "public.plain")).values())


@VERSIONS
async def test_checks_that_may_read_other_tables_are_named(database: DatabaseFactory, open_source: OpenSource) -> None:
    """Of a domain too; not one that reads nothing, nor one that is only checked after the load."""
    made = database()
    made.run(
        "CREATE FUNCTION known(i int) RETURNS boolean LANGUAGE sql STABLE AS 'SELECT i > 0'",
        "CREATE FUNCTION plain(i int) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT i > 0'",
        "CREATE DOMAIN counted AS int CHECK (known(VALUE))",
        "CREATE TABLE t (i int CONSTRAINT reads CHECK (known(i)), j int CHECK (plain(j) AND j < random() * 1e9))",
        "CREATE TABLE of_domain (i counted)",
        "CREATE TABLE later (i int)",
        "ALTER TABLE later ADD CHECK (known(i)) NOT VALID",
        "CREATE TABLE whole (i counted, j int CHECK (known(j))) PARTITION BY LIST (j)",
        "CREATE TABLE part PARTITION OF whole DEFAULT",
    )
    source = await open_source(made)

    found = {key: finding for key, finding in (await findings(source)).items() if key[0] == "check-calls-function"}

    assert {name for _, name in found} == {"public.t", "public.of_domain", "public.whole"}
    finding = found["check-calls-function", "public.t"]
    assert finding.severity is WARNING
    assert finding.message.startswith("constraint reads calls public.known(integer), which is not IMMUTABLE")
    assert not any(code == "check-calls-function" for code, _ in await findings(source, "public.later"))


async def test_the_owner_and_who_bypasses_row_security_see_everything(
    database: DatabaseFactory, open_source: OpenSource
) -> None:
    """A policy that does not apply to the role is nobody's problem; one that is forced on the owner is."""
    made = database()
    made.run("CREATE TABLE t (i int)", "ALTER TABLE t ENABLE ROW LEVEL SECURITY")
    uri = made.owner_uri()
    role = sql.Identifier(uri.split("//")[1].split(":")[0])
    made.run(sql.SQL("ALTER TABLE t OWNER TO {}").format(role))
    source = await open_source(made, uri=uri)
    assert not any(code == "row-security" for code, _ in await findings(source))

    made.run("ALTER TABLE t FORCE ROW LEVEL SECURITY")

    assert ("row-security", "public.t") in await findings(source)


async def test_objects_that_are_not_copied_or_need_attention_are_named(
    database: DatabaseFactory, open_source: OpenSource
) -> None:
    """Foreign tables, unlogged ones, event triggers; large objects where something else was chosen."""
    made = database()
    made.run(
        "CREATE UNLOGGED TABLE fleeting (i int)",
        "CREATE FOREIGN DATA WRAPPER w",
        "CREATE SERVER s FOREIGN DATA WRAPPER w",
        "CREATE FOREIGN TABLE far (i int) SERVER s",
        "SELECT lo_create(0)",
        "CREATE FUNCTION f() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'",
        "CREATE EVENT TRIGGER e ON ddl_command_end EXECUTE FUNCTION f()",
    )
    source = await open_source(made)

    found = await findings(source)

    assert found["unlogged-table", "public.fleeting"].severity is INFO
    assert not any(code.startswith("large-objects") for code, _ in found)
    assert "1 event triggers" in found["event-triggers", made.name].message
    description = await source.connector.describe(types.DescribeRequest())
    assert [item.namespace for item in description.namespaces] == ["public.fleeting", "pg_catalog.pg_largeobject"]
    assert [(f.code, f.object, f.severity) for f in description.findings] == [("foreign-table", "public.far", WARNING)]
    some = await findings(source, "public.fleeting")
    assert some["large-objects", "pg_catalog.pg_largeobject"].severity is INFO


@pytest.mark.parametrize("pg", [15, 18], indirect=True)
async def test_large_objects_that_may_not_be_read_are_counted(
    database: DatabaseFactory, open_source: OpenSource
) -> None:
    """Each of them has an owner and privileges of its own."""
    made = database()
    made.run("SELECT lo_create(n) FROM generate_series(101, 103) n", "GRANT SELECT ON LARGE OBJECT 102 TO PUBLIC")
    source = await open_source(made, uri=made.reader_uri())

    found = await findings(source)

    assert found["large-objects-closed", "pg_catalog.pg_largeobject"].severity is STOP
    assert "2 of 3" in found["large-objects-closed", "pg_catalog.pg_largeobject"].message
    assert found["large-objects-age", "pg_catalog.pg_largeobject"].severity is INFO


async def test_a_long_transaction_is_named(database: DatabaseFactory, open_source: OpenSource) -> None:
    """What was written since it began would count as changed after an interruption."""
    made = database()
    source = await open_source(made)
    with made.connect() as slow:
        slow.execute("BEGIN")
        slow.execute("SELECT pg_current_xact_id()")
        made.run(
            "CREATE TABLE busy (i int)",
            "DO $$BEGIN FOR i IN 1..110000 LOOP BEGIN INSERT INTO busy VALUES (i); EXCEPTION WHEN OTHERS THEN NULL;"
            " END; END LOOP; END$$",
        )

        assert found_code(await findings(source), "old-transaction").severity is WARNING


async def test_columns_that_others_get_as_text_are_named(database: DatabaseFactory, open_source: OpenSource) -> None:
    """A sink that is no PostgreSQL gets documents, in which some types have no form but their text."""
    made = database()
    made.run("CREATE TABLE t (i int, p point, c regclass)", "CREATE TABLE u (i int)")
    source = await open_source(made)

    found = await findings(source, peer="mongodb", peer_version="8.0")

    assert "c (regclass)" in found["by-text", "public.t"].message
    assert "p (point)" not in found["by-text", "public.t"].message
    assert ("by-text", "public.u") not in found


async def test_no_fitting_pg_dump_stops(database: DatabaseFactory, open_source: OpenSource, tmp_path: Path) -> None:
    """Found before anything moves, with what to install."""
    made = database()
    source = await open_source(made, options=PostgresOptions(tools_directory=tmp_path))

    assert found_code(await findings(source), "no-pg-dump").severity is STOP
    assert not any(code == "no-pg-dump" for code, _ in await findings(source, peer="null"))


async def test_an_unknown_encoding_is_named(pg: EmbeddedPostgres, open_source: OpenSource) -> None:
    """SQL_ASCII takes any bytes; a sink does not."""
    name = "ascii_source"
    pg.execute(
        sql.SQL("CREATE DATABASE {} ENCODING 'SQL_ASCII' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'").format(
            sql.Identifier(name)
        )
    )
    source = await open_source(Database(server=pg, name=name))

    assert found_code(await findings(source), "sql-ascii").severity is WARNING
    await source.connector.close()
    pg.drop_database(name)


@pytest.mark.parametrize("by_transaction", [True, False])
async def test_a_pooler_is_noticed(own_servers: PgServers, open_source: OpenSource, by_transaction: bool) -> None:
    """In transaction mode settings and snapshots get lost; a pooler that keeps backends is suspected only."""
    server = own_servers.own(18, auth="trust")
    async with MiniPooler(server.uri(), by_transaction=by_transaction) as pooler:
        source = await open_source(Database(server=server, name="postgres"), uri=pooler.uri)

        found = await findings(source)

        await source.connector.close()
    if by_transaction:
        assert found["transaction-pooler", "connection"].severity is STOP
    else:
        assert found["pooler", "connection"].severity is WARNING


def found_code(found: dict[tuple[str, str], types.Finding], code: str) -> types.Finding:
    """The one finding with this code."""
    (finding,) = [finding for (found_code, _), finding in found.items() if found_code == code]
    return finding
