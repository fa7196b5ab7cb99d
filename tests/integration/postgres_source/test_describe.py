"""What the source tells about its tables."""

import pytest
from dsync_postgres.definition import Definition, decode_positions
from dsync_postgres.schema import BuildStep, SequenceTarget, SourceFacts, TableName, read_archive
from psycopg import sql

from dsync.sdk import types
from tests.integration.postgres_source.conftest import OpenSource
from tests.integration.postgres_source.support import BINARY, DOCUMENTS, TEXT, Source
from tests.support.databases import DatabaseFactory

VERSIONS = pytest.mark.parametrize("pg", [15, 16, 18], indirect=True)


async def described(source: Source, **settings: str) -> dict[str, types.NamespaceDescription]:
    """The description by namespace."""
    description = await source.connector.describe(types.DescribeRequest(**settings))  # type: ignore[arg-type]
    return {item.namespace: item for item in description.namespaces}


@VERSIONS
async def test_tables_are_what_a_user_would_copy(database: DatabaseFactory, open_source: OpenSource) -> None:
    """Not system tables, not our ledger, not temporary ones; views and parents without rows of their own."""
    made = database()
    made.run(
        "CREATE SCHEMA _dsync",
        "CREATE TABLE _dsync.ledger (i int)",
        "CREATE TABLE plain (i int)",
        "CREATE TABLE p (i int) PARTITION BY LIST (i)",
        "CREATE TABLE p1 PARTITION OF p DEFAULT",
        "CREATE VIEW v AS TABLE plain",
        "CREATE MATERIALIZED VIEW m AS TABLE plain",
        "INSERT INTO plain SELECT generate_series(1, 1000)",
        "ANALYZE plain",
    )
    found = await described(await open_source(made))

    assert {name: (item.kind, item.rowless) for name, item in found.items()} == {
        "public.plain": ("table", False),
        "public.p": ("partitioned table", True),
        "public.p1": ("partition", False),
        "public.v": ("view", True),
        "public.m": ("materialized view", True),
    }
    assert found["public.plain"].estimated_rows == 1000
    assert found["public.plain"].size_bytes == 5 * 8192


@VERSIONS
async def test_a_table_that_was_never_analyzed_is_estimated_by_its_size(
    database: DatabaseFactory, open_source: OpenSource
) -> None:
    """Not taken for an empty one, by which a plan would promise nothing to do, and progress be at its end at once."""
    made = database()
    made.run(
        "CREATE TABLE narrow (i int) WITH (autovacuum_enabled = off)",
        "CREATE TABLE wide (i bigint, t text, at timestamptz, u uuid) WITH (autovacuum_enabled = off)",
        "CREATE TABLE empty (i int) WITH (autovacuum_enabled = off)",
        "INSERT INTO narrow SELECT generate_series(1, 100000)",
        "INSERT INTO wide SELECT n, repeat('x', 30), now(), gen_random_uuid() FROM generate_series(1, 50000) n",
    )
    found = await described(await open_source(made))

    assert 50_000 < found["public.narrow"].estimated_rows < 300_000
    assert 25_000 < found["public.wide"].estimated_rows < 150_000
    assert found["public.empty"].estimated_rows == 0


async def test_describing_stops_nobody(database: DatabaseFactory, open_source: OpenSource) -> None:
    """It lists what there is, before a choice was made: a table that may not be read is nobody's problem yet."""
    made = database()
    made.run("CREATE TABLE plain (i int)", "CREATE SCHEMA closed", "CREATE TABLE closed.t (i int)")
    uri = made.reader_uri()
    made.run(sql.SQL("REVOKE ALL ON SCHEMA closed FROM {}").format(sql.Identifier(uri.split("//")[1].split(":")[0])))
    source = await open_source(made, uri=uri)

    description = await source.connector.describe(types.DescribeRequest(definition_for="postgres", peer_version="18.1"))

    assert [item.namespace for item in description.namespaces] == ["closed.t", "public.plain"]
    assert description.findings == ()
    tags = {entry.tag for entry in read_archive(Definition.decode(description.definition).archive).entries}
    assert "plain" in tags


async def test_keys_are_what_identifies_every_row(database: DatabaseFactory, open_source: OpenSource) -> None:
    """The primary key in its own order, else a unique index that is neither partial, nor over nulls, nor deferred."""
    made = database()
    made.run(
        "CREATE TABLE pk (a int, b int, c int, PRIMARY KEY (c, a))",
        "CREATE TABLE ident (a int NOT NULL UNIQUE, b int NOT NULL, c int NOT NULL UNIQUE)",
        "CREATE UNIQUE INDEX ident_b ON ident (b, a)",
        "ALTER TABLE ident REPLICA IDENTITY USING INDEX ident_b",
        "CREATE TABLE uniq (a int UNIQUE, b int NOT NULL, c text NOT NULL)",
        "CREATE UNIQUE INDEX uniq_partial ON uniq (b) WHERE b > 0",
        "CREATE UNIQUE INDEX uniq_expression ON uniq (lower(c))",
        "ALTER TABLE uniq ADD UNIQUE (b, c) DEFERRABLE",
        "CREATE TABLE fitting (a int NOT NULL, b int NOT NULL)",
        "CREATE UNIQUE INDEX ON fitting (b) INCLUDE (a)",
    )
    found = await described(await open_source(made))

    assert found["public.pk"].key == ("c", "a")
    assert found["public.ident"].key == ("b", "a")
    assert found["public.uniq"].key == ()
    assert found["public.fitting"].key == ("b",)


@pytest.mark.parametrize("pg", [15, 16, 18], indirect=True)
async def test_each_column_says_how_it_can_travel(database: DatabaseFactory, open_source: OpenSource) -> None:
    """Binary unless an oid, an unfinished format or a difference of versions is inside, however deep."""
    made = database()
    made.run(
        "CREATE DOMAIN rel AS regclass",
        "CREATE TYPE deep AS (a int, b rel[])",
        "CREATE TYPE mood AS ENUM ('a')",
        "CREATE DOMAIN length AS interval",
        """CREATE TABLE t (
            plain int, words varchar(20), amount numeric(14,4), enumerated mood, ranged int4range, body jsonb,
            searching tsquery, acl aclitem, role regrole, roles regrole[], nested deep, span interval,
            spans length[], computed int GENERATED ALWAYS AS (1) STORED)""",
    )
    source = await open_source(made)
    now = {column.name: column for column in (await described(source))["public.t"].columns}
    old = {c.name: c.page_types for c in (await described(source, peer_version="16.4"))["public.t"].columns}

    assert now["plain"].page_types == (BINARY, TEXT, *DOCUMENTS)
    assert now["enumerated"].page_types == (BINARY, TEXT, *DOCUMENTS)
    for name in ("searching", "acl", "role", "roles", "nested"):
        assert now[name].page_types == (TEXT, *DOCUMENTS), name
    assert now["span"].page_types == (BINARY, TEXT, *DOCUMENTS)
    infinite = made.server.major >= 17
    forms = (TEXT, *DOCUMENTS) if infinite else (BINARY, TEXT, *DOCUMENTS)
    assert (old["span"], old["spans"]) == (forms, forms)
    assert old["plain"] == (BINARY, TEXT, *DOCUMENTS)
    assert now["amount"].type == "numeric(14,4)"
    assert now["nested"].type == "public.deep"
    assert now["computed"].generated
    assert [name for name, column in now.items() if column.orders_everywhere] == ["plain", "amount", "computed"]


@VERSIONS
async def test_the_definition_is_of_the_snapshot(database: DatabaseFactory, open_source: OpenSource) -> None:
    """A dump and the facts beside it, which the sink reads."""
    made = database()
    made.run("CREATE TABLE t (id int PRIMARY KEY, a text)", "CREATE INDEX t_a ON t (a)")
    source = await open_source(made)

    description = await source.connector.describe(
        types.DescribeRequest(definition_for="postgres", peer_version=f"{made.server.major}.0")
    )

    definition = Definition.decode(description.definition)
    tags = {entry.tag for entry in read_archive(definition.archive).entries}
    assert {"t", "t_a"} <= tags
    facts = SourceFacts.from_plain(definition.facts)
    assert facts.version_num // 10000 == made.server.major
    assert [c.name for c in facts.tables[TableName(schema="public", name="t")].columns] == ["id", "a"]
    assert description.dialect == "postgres"


async def test_a_sink_of_another_dialect_gets_no_definition(database: DatabaseFactory, open_source: OpenSource) -> None:
    """Nobody there could read it."""
    made = database()
    source = await open_source(made)

    assert (await source.connector.describe(types.DescribeRequest(definition_for="mysql"))).definition == b""
    assert made.value("SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'dsync/%holder%'") == 0


async def test_sequences_are_read_where_they_stand_now(database: DatabaseFactory, open_source: OpenSource) -> None:
    """No snapshot knows them; hostile names, both directions, never called."""
    made = database()
    made.run(
        'CREATE SEQUENCE "se q.""1"',
        "CREATE SEQUENCE down INCREMENT -5 MINVALUE -1000 START -10",
        "CREATE TABLE t (id bigint GENERATED ALWAYS AS IDENTITY)",
    )
    source = await open_source(made)
    await source.plan("public.t")
    made.run("SELECT nextval('down')", "SELECT nextval('down')", "INSERT INTO t DEFAULT VALUES")
    names = ('se q."1', "down", "t_id_seq")
    step = BuildStep(
        id="sequences",
        kind="sequences",
        name="sequences",
        namespace="",
        statements=(),
        sequences=tuple(SequenceTarget(name=TableName(schema="public", name=n), only_forward=False) for n in names),
    )

    positions = decode_positions(await source.connector.get_finish_data(step.wire()))

    assert [(p.name.name, p.last_value, p.is_called) for p in positions] == [
        ('se q."1', 1, False),
        ("down", -15, True),
        ("t_id_seq", 1, True),
    ]


async def test_counts(database: DatabaseFactory, open_source: OpenSource) -> None:
    """One for progress, which may be old, and one that is exact under the snapshot."""
    made = database()
    made.run("CREATE TABLE t AS SELECT generate_series(1, 500) AS i", "ANALYZE t", "CREATE TABLE u AS SELECT 1 AS i")
    source = await open_source(made)
    assert await source.connector.count("public.u") == 1
    await source.plan("public.t")
    made.run("DELETE FROM t WHERE i > 300")

    assert await source.connector.count("public.t") == 500
    assert await source.connector.count_rows("public.t") == 500
    assert await (await open_source(made)).connector.count_rows("public.t") == 300
