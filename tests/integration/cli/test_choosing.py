"""What is left out, and how gently the rest is read, on real servers."""

from __future__ import annotations

import psycopg
import pytest

from tests.integration.cli.running import Dsync
from tests.support.databases import Database, DatabaseFactory


def _fill(uri: str) -> None:
    with psycopg.connect(uri, autocommit=True) as connection:
        for statement in (
            "CREATE TABLE customer (id int PRIMARY KEY, name text)",
            "INSERT INTO customer SELECT n, 'customer ' || n FROM generate_series(1, 100) n",
            "CREATE TABLE orders (id int PRIMARY KEY, customer int REFERENCES customer, total numeric)",
            "INSERT INTO orders SELECT n, 1 + n % 100, n FROM generate_series(1, 3000) n",
            "CREATE TABLE audit_1 (id int PRIMARY KEY, secret text)",
            "INSERT INTO audit_1 SELECT n, 'x' FROM generate_series(1, 50) n",
            "CREATE TABLE audit_2 (LIKE audit_1)",
            "CREATE VIEW audited AS SELECT * FROM audit_1",
            "ANALYZE",
        ):
            connection.execute(statement.encode())


@pytest.fixture
def source(source_db: DatabaseFactory) -> Database:
    return source_db(_fill)


@pytest.fixture
def sink(sink_db: DatabaseFactory) -> Database:
    return sink_db()


def tables_of(database: Database) -> set[str]:
    rows = database.rows(
        "SELECT c.relname::text FROM pg_class c WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v')"
    )
    return {name for (name,) in rows}


def test_what_is_excluded_is_neither_made_nor_copied_nor_compared(
    dsync: Dsync, source: Database, sink: Database
) -> None:
    """With all that stands on it; another choice is another flow."""
    ends = (source.uri, sink.uri)
    choice = ("--exclude", "audit_*", "--mode", "copy")

    planned = dsync("plan", *ends, *choice, "--json")
    assert {item["namespace"] for item in planned.result["namespaces"]} == {"public.customer", "public.orders"}

    copied = dsync("sync", *ends, *choice, "--verify", "--json")
    assert copied.exit_code == 0, copied.stderr
    assert copied.result["rows"] == 3100
    assert tables_of(sink) == {"customer", "orders"}

    repeated = dsync("sync", *ends, *choice, "--json")
    assert repeated.result["flow"] == copied.result["flow"]
    compared = dsync("verify", copied.result["flow"], "--source", source.uri, "--sink", sink.uri, "--json")
    assert (compared.exit_code, len(compared.result["namespaces"])) == (0, 2), compared.stderr

    # The others come in a flow of their own, since this one has rows of the first two.
    refused = dsync("sync", *ends, "--mode", "copy", "--json")
    assert refused.exit_code == 2
    rest = dsync("sync", *ends, "--exclude", "customer", "--exclude", "orders", "--mode", "copy", "--json")
    assert (rest.exit_code, rest.result["rows"]) == (0, 50), rest.stderr


def test_a_pattern_that_leaves_nothing_out_is_refused(dsync: Dsync, source: Database, sink: Database) -> None:
    """It was meant to keep something back."""
    ended = dsync("sync", source.uri, sink.uri, "--exclude", "audits*", "--mode", "copy", "--json")
    assert ended.exit_code == 2
    assert "audits*" in ended.json["summary"]
    assert tables_of(sink) == set()


def test_a_gentle_copy_brings_the_same_rows(dsync: Dsync, source: Database, sink: Database) -> None:
    """Limits only make it slower; 0 with --verify says that both ends agree."""
    ended = dsync(
        "sync", source.uri, sink.uri, "--mode", "copy", "--load-level", "low", "--rate-limit", "2500/s",
        "--rate-limit", "10MiB/s", "--retry-for", "1m", "--verify", "--json",
    )  # fmt: skip
    assert ended.exit_code == 0, ended.stderr
    assert ended.result["rows"] == 3150
