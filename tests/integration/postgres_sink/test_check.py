"""What doctor says about a sink."""

from __future__ import annotations

from collections.abc import Mapping

import psycopg
import pytest
from psycopg import sql

from dsync.sdk import types
from tests.integration.postgres_sink.conftest import OpenSink
from tests.support.databases import Database, DatabaseFactory, PgServers

pytestmark = pytest.mark.parametrize("pg", [15, 16, 18], indirect=True)

REQUEST = types.CheckRequest(role=types.Role.SINK, peer_db_type="postgres", peer_version="18.0")


async def found(open_sink: OpenSink, database: Database, uri: str | None = None) -> Mapping[str, types.Finding]:
    findings = await open_sink(database, uri=uri).side.check(REQUEST)
    return {finding.code: finding for finding in findings}


def stops(findings: Mapping[str, types.Finding]) -> set[str]:
    return {code for code, finding in findings.items() if finding.severity is types.Severity.STOP}


async def test_a_fine_sink_stops_nothing(database: DatabaseFactory, open_sink: OpenSink) -> None:
    db = database()
    findings = await found(open_sink, db)
    assert set(findings) == {"disk-space-unknown"}
    assert db.value("SELECT to_regnamespace('_dsync') IS NULL")


async def test_an_owner_learns_what_not_being_superuser_means(database: DatabaseFactory, open_sink: OpenSink) -> None:
    db = database()
    findings = await found(open_sink, db, db.owner_uri())
    assert stops(findings) == set()
    assert "disable triggers" in findings["not-superuser"].message


async def test_a_role_that_may_create_nothing_is_told_so(database: DatabaseFactory, open_sink: OpenSink) -> None:
    db = database()
    uri = db.reader_uri()
    db.run(sql.SQL("REVOKE TEMPORARY ON DATABASE {} FROM public").format(sql.Identifier(db.name)))
    findings = await found(open_sink, db, uri)
    assert stops(findings) == {"no-ledger"}
    assert {"no-create-on-database", "no-temporary-tables"} <= set(findings)
    assert "CREATE SCHEMA _dsync AUTHORIZATION" in findings["no-ledger"].remedy


async def test_a_read_only_sink_is_named(database: DatabaseFactory, open_sink: OpenSink) -> None:
    db = database()
    db.run(sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(sql.Identifier(db.name)))
    assert stops(await found(open_sink, db)) == {"read-only"}


async def test_a_sink_without_encoding_is_named(
    pg_servers: PgServers, open_sink: OpenSink, pg: object, database: DatabaseFactory
) -> None:
    server = database().server
    name = f"ascii_{server.major}"
    server.execute(
        sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'").format(sql.Identifier(name))
    )
    db = Database(server=server, name=name)
    try:
        sink = open_sink(db)
        seen = {finding.code: finding for finding in await sink.side.check(REQUEST)}
        assert seen["sql-ascii"].severity is types.Severity.WARNING
        assert stops(seen) == set()
        await sink.sessions.close()
    finally:
        db.drop()


async def test_extensions_that_keep_rows_elsewhere_are_named(database: DatabaseFactory, open_sink: OpenSink) -> None:
    """By their names, since neither can be installed here."""
    db = database()
    with psycopg.connect(db.uri, autocommit=True) as connection:
        connection.execute("SET allow_system_table_mods = on")
        for name in ("timescaledb", "citus"):
            connection.execute(
                "INSERT INTO pg_extension (oid, extname, extowner, extnamespace, extrelocatable, extversion)"
                " SELECT 90000 + length(%s), %s, 10, 2200, false, '1'",
                [name, name],
            )
    assert {"timescaledb", "citus"} <= set(await found(open_sink, db))
