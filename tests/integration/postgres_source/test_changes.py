"""Tables that are dropped, rewritten or altered while they are read: an error each time, never fewer rows."""

from typing import LiteralString

import pytest
from psycopg import sql

from dsync.sdk import errors
from tests.integration.postgres_source.conftest import OpenSource
from tests.support.databases import DatabaseFactory

VERSIONS = pytest.mark.parametrize("pg", [15, 16, 18], indirect=True)

CHANGES: tuple[LiteralString, ...] = (
    "VACUUM FULL t",
    "CLUSTER t USING t_pkey",
    "TRUNCATE t",
    "ALTER TABLE t ALTER a TYPE bigint",
    "ALTER TABLE t ALTER b TYPE text",
    "ALTER TABLE t ADD COLUMN d int",
    "ALTER TABLE t ADD COLUMN d int DEFAULT 7",
    "ALTER TABLE t DROP COLUMN c",
    "ALTER TABLE t RENAME COLUMN c TO d",
    "ALTER TABLE t RENAME TO other",
    "ALTER TABLE t SET SCHEMA elsewhere",
    "DROP TABLE t",
)


@VERSIONS
@pytest.mark.parametrize("change", CHANGES)
async def test_the_next_page_notices(database: DatabaseFactory, open_source: OpenSource, change: LiteralString) -> None:
    """Under one snapshot several of these lose rows without an error: the table's file and columns are compared."""
    made = database()
    made.run(
        "CREATE SCHEMA elsewhere",
        "CREATE TABLE t (id int PRIMARY KEY, a int, b varchar(40), c varchar(40))",
        "INSERT INTO t SELECT i, i, 'left', 'right' FROM generate_series(1, 5000) i",
    )
    source = await open_source(made)
    plan = await source.plan("public.t")
    (partition,) = plan.partitions
    page = await source.page(partition)
    assert page.next_cursor

    made.run(change)

    with pytest.raises(errors.NamespaceChangedError, match=r"public\.t: .* while it was copied"):
        await source.page(partition, page.next_cursor)


async def test_columns_that_have_changed_places_are_noticed(database: DatabaseFactory, open_source: OpenSource) -> None:
    """Every name still exists, and means the other column."""
    made = database()
    made.run("CREATE TABLE t AS SELECT i AS a, -i AS b FROM generate_series(1, 5000) i")
    source = await open_source(made)
    plan = await source.plan("public.t")
    (partition,) = plan.partitions
    page = await source.page(partition)

    with made.connect() as connection, connection.transaction():
        connection.execute("ALTER TABLE t RENAME a TO x")
        connection.execute("ALTER TABLE t RENAME b TO a")
        connection.execute("ALTER TABLE t RENAME x TO b")

    with pytest.raises(errors.NamespaceChangedError, match="columns were altered"):
        await source.page(partition, page.next_cursor)


async def test_another_table_of_the_same_name_is_another_table(
    database: DatabaseFactory, open_source: OpenSource
) -> None:
    """Dropped and made again, alike in everything."""
    made = database()
    made.run("CREATE TABLE t AS SELECT i FROM generate_series(1, 5000) i")
    source = await open_source(made)
    plan = await source.plan("public.t")

    made.run("DROP TABLE t", "CREATE TABLE t AS SELECT i FROM generate_series(1, 5000) i")

    with pytest.raises(errors.NamespaceChangedError):
        await source.page(plan.partitions[0])


async def test_other_tables_go_on(database: DatabaseFactory, open_source: OpenSource) -> None:
    """One table that changed does not spoil the snapshot for the rest."""
    made = database()
    made.run("CREATE TABLE t AS SELECT 1 AS i", "CREATE TABLE u AS SELECT 2 AS i")
    source = await open_source(made)
    plan = await source.plan("public.t", "public.u")
    made.run("TRUNCATE t")

    with pytest.raises(errors.NamespaceChangedError):
        await source.page(plan.partitions[0])
    assert (await source.page(plan.partitions[1])).packed == b"2\n"


async def test_index_builds_and_plain_maintenance_do_no_harm(
    database: DatabaseFactory, open_source: OpenSource
) -> None:
    """What neither moves rows nor changes columns is none of our business."""
    made = database()
    made.run("CREATE TABLE t (i int, a text)", "INSERT INTO t SELECT i, 'x' FROM generate_series(1, 5000) i")
    source = await open_source(made)
    plan = await source.plan("public.t")
    page = await source.page(plan.partitions[0])

    made.run(
        "CREATE INDEX ON t (i)",
        "VACUUM t",
        "ANALYZE t",
        "ALTER TABLE t SET (fillfactor = 50)",
        "ALTER TABLE t ALTER a SET DEFAULT 'y'",
        "ALTER TABLE t ADD CHECK (i > 0)",
        "COMMENT ON TABLE t IS 'harmless'",
    )

    rest = await source.pages(plan.partitions[0], cursor=page.next_cursor)
    assert page.rows + sum(more.rows for more in rest) == 5000


async def test_row_security_that_begins_meanwhile_stops_the_copy(
    database: DatabaseFactory, open_source: OpenSource
) -> None:
    """Hidden rows are an error, never a smaller copy."""
    made = database()
    made.run("CREATE TABLE t AS SELECT i FROM generate_series(1, 5000) i")
    source = await open_source(made, uri=made.reader_uri())
    plan = await source.plan("public.t")
    page = await source.page(plan.partitions[0])

    made.run("ALTER TABLE t ENABLE ROW LEVEL SECURITY", "CREATE POLICY few ON t USING (i < 10)")

    with pytest.raises(errors.HiddenRowsError, match="BYPASSRLS"):
        await source.page(plan.partitions[0], page.next_cursor)


async def test_rows_that_a_role_may_not_see_are_refused_when_planning(
    database: DatabaseFactory, open_source: OpenSource
) -> None:
    """Row security, single columns, no privilege at all: each is named before anything moves."""
    made = database()
    made.run("CREATE TABLE secured (i int)", "CREATE TABLE partial (i int, j int)", "CREATE TABLE closed (i int)")
    uri = made.reader_uri()
    role = sql.Identifier(uri.split("//")[1].split(":")[0])
    made.run(
        "ALTER TABLE secured ENABLE ROW LEVEL SECURITY",
        sql.SQL("REVOKE ALL ON partial, closed FROM {}").format(role),
        sql.SQL("GRANT SELECT (i, j) ON partial TO {}").format(role),
    )
    source = await open_source(made, uri=uri)

    with pytest.raises(errors.HiddenRowsError, match=r"public\.secured"):
        await source.plan("public.secured")
    for name in ("public.partial", "public.closed"):
        with pytest.raises(errors.PrivilegeError, match=name):
            await source.plan(name)
