"""`--mode stream`: rows that somebody else has brought to the sink, and dsync's stream from there on."""

from __future__ import annotations

import psycopg

from tests.integration.cli.running import Dsync
from tests.support.databases import Database, DatabaseFactory

_TABLES = (
    "CREATE TABLE customers (id int PRIMARY KEY, name text UNIQUE, note text)",
    "CREATE TABLE orders (id int PRIMARY KEY, customer int REFERENCES customers, total numeric)",
)
_ROWS = (
    "INSERT INTO customers SELECT n, 'customer ' || n FROM generate_series(1, 200) n",
    "INSERT INTO orders SELECT n, n, n FROM generate_series(1, 200) n",
)
_CONTENTS = (
    "SELECT (SELECT md5(string_agg(c::text, ',' ORDER BY id)) FROM customers c),"
    " (SELECT md5(string_agg(o::text, ',' ORDER BY id)) FROM orders o)"
)
STREAM = ("--mode", "stream", "--until-caught-up", "--json")


def _fill(uri: str) -> None:
    with psycopg.connect(uri, autocommit=True) as connection:
        for statement in (*_TABLES, *_ROWS):
            connection.execute(statement.encode())


def _slots(source: Database) -> int:
    found: int = source.value("SELECT count(*) FROM pg_replication_slots WHERE database = current_database()")
    return found


def test_changes_follow_into_rows_that_were_there(
    dsync: Dsync, source_db: DatabaseFactory, sink_db: DatabaseFactory
) -> None:
    """Nothing is read, and no row that was there is written; the same command goes on, whatever mode it names."""
    source, sink = source_db(_fill), sink_db(_fill)
    ends = (source.uri, sink.uri)
    begun = dsync("sync", *ends, *STREAM)
    assert begun.exit_code == 0, begun.stderr
    assert (begun.result["rows"], begun.result["moved_rows"], begun.result["consistent"]) == (0, 0, True)
    assert sink.value("SELECT pg_stat_force_next_flush() IS NULL") is False
    assert sink.value("SELECT sum(n_tup_upd + n_tup_del) FROM pg_stat_user_tables WHERE schemaname = 'public'") == 0
    source.run(
        "INSERT INTO customers VALUES (1001, 'new')",
        "INSERT INTO orders VALUES (1001, 1001, 7)",
        "UPDATE orders SET id = 2000 WHERE id = 5",
        "DELETE FROM orders WHERE id BETWEEN 10 AND 20",
    )
    followed = dsync("sync", *ends, *STREAM)
    assert (followed.exit_code, followed.result["run"]) == (0, begun.result["run"]), followed.stderr
    assert sink.rows(_CONTENTS) == source.rows(_CONTENTS)


def test_a_slot_of_an_administrator_says_since_when(
    dsync: Dsync, source_db: DatabaseFactory, sink_db: DatabaseFactory
) -> None:
    """Rows were brought over after the slot was made, so some changes in it are in them already."""
    source, sink = source_db(_fill), sink_db()
    sink.run(*_TABLES)
    source.run(
        "CREATE PUBLICATION theirs FOR TABLE customers, orders",
        "SELECT pg_create_logical_replication_slot('theirs_' || current_database(), 'pgoutput')",
        "INSERT INTO customers VALUES (1001, 'before the rows were brought over')",
        "UPDATE customers SET note = 'then' WHERE id = 1",
        "DELETE FROM orders WHERE id = 2",
    )
    for table in ("customers", "orders"):
        with (
            source.connect() as reading,
            sink.connect() as writing,
            reading.cursor().copy(f"COPY {table} TO STDOUT".encode()) as out,
            writing.cursor().copy(f"COPY {table} FROM STDIN".encode()) as into,
        ):
            for piece in out:
                into.write(piece)
    source.run("INSERT INTO orders VALUES (1001, 1001, 3)", "UPDATE customers SET note = 'now' WHERE id = 1")
    slot = f"theirs_{source.name}"
    uri = f"{source.uri}{'&' if '?' in source.uri else '?'}publication=theirs&slot={slot}"
    followed = dsync("sync", uri, sink.uri, *STREAM)
    assert followed.exit_code == 0, followed.stderr
    assert sink.rows(_CONTENTS) == source.rows(_CONTENTS)
    assert dsync("reset", "--yes", followed.result["flow"], "--source", uri, "--sink", sink.uri).exit_code == 0
    assert _slots(source) == 1, "theirs stays"
    source.run(f"SELECT pg_drop_replication_slot('{slot}')".encode())  # type: ignore[arg-type]


def test_what_would_leave_a_gap_is_refused(dsync: Dsync, source_db: DatabaseFactory, sink_db: DatabaseFactory) -> None:
    """And nothing is left at the source of a flow that does not begin; a copy after it is not taken for a stream."""
    source, sink = source_db(_fill), sink_db()
    ends = (source.uri, sink.uri)
    sink.run(_TABLES[0], "CREATE TABLE orders (id int PRIMARY KEY, customer int)", "INSERT INTO orders VALUES (1, 1)")
    no_column = dsync("sync", *ends, *STREAM)
    assert no_column.exit_code == 3
    assert "total" in no_column.json["error"]["message"]
    assert (_slots(source), source.value("SELECT count(*) FROM pg_publication")) == (0, 0)

    sink.run("DROP TABLE orders, customers")
    assert dsync("sync", *ends, "--mode", "copy").exit_code == 0
    after_copy = dsync("sync", *ends, *STREAM)
    assert after_copy.exit_code == 2
    assert "--mode full" in after_copy.json["error"]["message"]
