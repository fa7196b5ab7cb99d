"""The sample database: every type, every kind of object, the same for the same seed, and restorable."""

import subprocess
from typing import Any

import psycopg
import pytest
from psycopg import sql

from dsync.quickstart.sample import ShopSummary, create_mixed, create_pgbench_accounts, create_shop
from dsync.quickstart.servers import EmbeddedPostgres
from tests.support.databases import Database, DatabaseFactory, PgPair

ALL_VERSIONS = pytest.mark.parametrize("pg", [15, 16, 18], indirect=True)

# Types that no table has: what the server keeps for its own catalogues and indexes.
INTERNAL_TYPES = {
    "gtsvector",
    "pg_brin_bloom_summary",
    "pg_brin_minmax_multi_summary",
    "pg_dependencies",
    "pg_mcv_list",
    "pg_ndistinct",
    "pg_node_tree",
}

# A table's text, whatever the order of its rows.
CONTENT = "SELECT count(*), sum(hashtextextended((x.*)::text, 0)::numeric) FROM {table} AS x"


def small_shop(uri: str) -> ShopSummary:
    return create_shop(uri, rows=1000)


@pytest.fixture
def shop(database: DatabaseFactory) -> Database:
    """A small shop."""
    return database(small_shop)


def content(uri: str, tables: list[str]) -> dict[str, Any]:
    """The number of rows of each table, without what inherits from it, and a hash of them."""
    with psycopg.connect(uri, autocommit=True, options="-c timezone=UTC") as connection:
        return {
            table: connection.execute(CONTENT.format(table=f"ONLY {table}").encode()).fetchone() for table in tables
        }


@ALL_VERSIONS
def test_the_summary_is_what_is_there(database: DatabaseFactory) -> None:
    """An owner without further privilege can make it; it has the rows asked for and a few hundred more."""
    summary = create_shop(database().owner_uri(), rows=1000)
    assert 1000 <= summary.rows <= 1500
    assert summary.tables == len(summary.rows_by_table) > 30
    assert sum(summary.rows_by_table.values()) == summary.rows
    assert summary.rows_by_table["shop.order_lines"] == 450
    assert summary.rows_by_table["shop.empty"] == summary.rows_by_table["shop.no_columns"] == 0
    assert summary.rows_by_table["shop.no_columns_but_rows"] == 2
    assert summary.bytes > 100_000


@ALL_VERSIONS
def test_every_type_of_the_server_is_there_with_values(shop: Database) -> None:
    """A type that a new version brings fails here until the sample has it."""
    missing = shop.rows(
        """
        SELECT typname FROM pg_type t
        WHERE typnamespace = 'pg_catalog'::regnamespace AND typtype IN ('b', 'r', 'm') AND typcategory <> 'A'
          AND NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'shop.every_type'::regclass AND atttypid = t.oid)
        """
    )
    without_libxml = {"xml"} if shop.server.installation.origin == "wheel" else set()
    assert {name for (name,) in missing} - INTERNAL_TYPES == without_libxml

    with shop.connect() as connection:
        cursor = connection.execute("SELECT * FROM shop.every_type LIMIT 0")
        assert cursor.description is not None
        for column in cursor.description:
            statement = f'SELECT count("{column.name}") FROM shop.every_type'
            counted = connection.execute(statement.encode()).fetchone()
            assert counted is not None
            assert counted[0] >= 3 or column.name in {"an_xml", "xmls"}, f"{column.name} has {counted[0]} values"


@ALL_VERSIONS
def test_every_kind_of_object_is_there(shop: Database) -> None:
    ours = "relnamespace IN ('shop'::regnamespace, '\"Odd Names\"'::regnamespace)"
    kinds = shop.value(f"SELECT string_agg(DISTINCT concat(relkind, relpersistence), ' ') FROM pg_class WHERE {ours}")
    # Tables, partitioned ones, indexes of both, sequences, views, materialised views, row types; u is unlogged.
    assert set(kinds.split()) == {"rp", "ru", "pp", "ip", "iu", "Ip", "Sp", "vp", "mp", "cp"}
    for catalogue, at_least in {
        "pg_inherits": 8,
        "pg_policy": 2,
        "pg_statistic_ext": 2,
        "pg_proc WHERE pronamespace = 'shop'::regnamespace": 8,
        "pg_trigger WHERE NOT tgisinternal": 5,
        "pg_rewrite WHERE rulename <> '_RETURN' AND ev_class >= 16384": 2,
        "pg_description WHERE objoid >= 16384": 15,
        "pg_constraint WHERE contype = 'x'": 1,
        "pg_constraint WHERE contype = 'f' AND NOT convalidated": 1,
        "pg_constraint WHERE condeferrable": 2,
        "pg_default_acl": 1,
        "pg_type WHERE typtype IN ('e', 'd', 'r', 'm') AND oid >= 16384": 8,
        "pg_attribute WHERE attgenerated <> '' AND attrelid >= 16384": 3,
        "pg_attribute WHERE attidentity = 'a'": 2,
        "pg_attribute WHERE attidentity = 'd'": 1,
        "pg_attribute WHERE attisdropped AND attrelid >= 16384": 1,
    }.items():
        assert shop.value(f"SELECT count(*) FROM {catalogue}") >= at_least, catalogue
    assert shop.value("SELECT last_value FROM shop.invoice_numbers") == 4005
    assert shop.rows("SELECT last_value, is_called FROM shop.countdown") == [(-17, False)]


@pytest.mark.parametrize("pg_pair", [(15, 18), (16, 18)], indirect=True, ids=str)
def test_the_same_seed_gives_the_same_rows_on_every_version(
    pg_pair: PgPair, source_db: DatabaseFactory, sink_db: DatabaseFactory
) -> None:
    tables = ["shop.customers", "shop.orders_2023", "shop.order_lines", "shop.payments_card", "shop.events"]
    one, alike, other = source_db(small_shop), sink_db(small_shop), sink_db()
    create_shop(other.uri, rows=1000, seed=2)
    assert content(one.uri, tables) == content(alike.uri, tables)
    assert content(one.uri, ["shop.customers"]) != content(other.uri, ["shop.customers"])


@ALL_VERSIONS
def test_a_dump_of_the_shop_restores_without_an_error(
    pg: EmbeddedPostgres, shop: Database, database: DatabaseFactory
) -> None:
    """So a copy that fails is the copy's fault, not the sample's."""
    restored = database()
    dump = subprocess.run(
        [pg.installation.tool("pg_dump"), "--dbname", shop.uri], capture_output=True, check=True, timeout=60
    )
    load = subprocess.run(
        [pg.installation.tool("psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", "--dbname", restored.uri],
        input=dump.stdout,
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert load.returncode == 0, load.stderr.decode()
    tables = [
        name
        for (name,) in shop.rows(
            "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r' AND oid >= 16384 ORDER BY 1"
        )
    ]
    assert len(tables) > 30
    # Which partition an enum's hash chooses depends on the enum's OIDs: only the whole is alike.
    hashed = {"shop.tickets_0", "shop.tickets_1"}
    comparable = [name for name in tables if name not in hashed]
    assert len(comparable) == len(tables) - 2
    assert content(restored.uri, comparable) == content(shop.uri, comparable)
    tickets = sql.SQL(CONTENT).format(table=sql.Identifier("shop", "tickets"))
    assert restored.rows(tickets) == shop.rows(tickets)


def test_row_security_can_be_left_out(database: DatabaseFactory) -> None:
    """For readers with SELECT alone, who would otherwise see a smaller shop."""
    secured, open_one = database(), database()
    create_shop(secured.uri, rows=100)
    create_shop(open_one.uri, rows=100, row_security=False)
    hidden = {}
    for name, shop in {"secured": secured, "open": open_one}.items():
        with psycopg.connect(shop.reader_uri()) as connection:
            row = connection.execute("SELECT count(*) FROM shop.notes").fetchone()
            assert row is not None
            hidden[name] = 10 - row[0]
    assert hidden == {"secured": 10, "open": 0}


def binary_row_bytes(database: Database, table: str, rows: int) -> float:
    with database.connect() as connection, connection.cursor() as cursor:
        statement = f"COPY {table} TO STDOUT (FORMAT binary)".encode()
        with cursor.copy(statement) as copy:
            return sum(len(data) for data in copy) / rows


def test_the_accounts_are_those_of_pgbench(pg: EmbeddedPostgres, database: DatabaseFactory) -> None:
    ours, theirs = database(), database()
    assert create_pgbench_accounts(ours.uri, 1) == 100_000
    subprocess.run(
        [pg.installation.tool("pgbench"), "--initialize", "--quiet", theirs.uri],
        capture_output=True,
        check=True,
        timeout=60,
    )
    shape = (
        "SELECT attname, atttypid::regtype::text, atttypmod, attnotnull, c.reloptions::text,"
        " (SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = c.oid)"
        " FROM pg_attribute a JOIN pg_class c ON c.oid = attrelid"
        " WHERE c.oid = 'pgbench_accounts'::regclass AND attnum > 0 ORDER BY attnum"
    )
    assert ours.rows(shape) == theirs.rows(shape)
    table = ["public.pgbench_accounts"]
    assert content(ours.uri, table) == content(theirs.uri, table)
    assert binary_row_bytes(ours, table[0], 100_000) == pytest.approx(114, abs=0.1)


def test_mixed_rows_have_the_width_that_figures_are_given_for(database: DatabaseFactory) -> None:
    mixed = database()
    assert create_mixed(mixed.uri, 2000) == 2000
    assert binary_row_bytes(mixed, "public.mixed", 2000) == pytest.approx(322, abs=10)
    assert mixed.value("SELECT count(DISTINCT atttypid) FROM pg_attribute WHERE attrelid = 'mixed'::regclass") > 12
