"""Copy and follow, as a person types it: what is written meanwhile arrives, once, and the end is said."""

from __future__ import annotations

import signal

import psycopg

from tests.integration.cli.running import Dsync
from tests.support.databases import DatabaseFactory
from tests.support.waiting import wait_for

ROWS = 20_000


def _fill(uri: str) -> None:
    """A table with keys and an index that is made at the end, and one that refers to it."""
    with psycopg.connect(uri, autocommit=True) as connection:
        for statement in (
            "CREATE TABLE customers (id int PRIMARY KEY, name text UNIQUE, note text)",
            f"INSERT INTO customers SELECT n, 'customer ' || n, repeat('x', 50) FROM generate_series(1, {ROWS}) n",
            "CREATE TABLE orders (id int PRIMARY KEY, customer int REFERENCES customers, total numeric)",
            f"INSERT INTO orders SELECT n, n, n * 1.5 FROM generate_series(1, {ROWS}) n",
            "ANALYZE",
        ):
            connection.execute(statement.encode())


_CHANGES = (
    "INSERT INTO customers VALUES (100001, 'new', NULL)",
    "INSERT INTO orders VALUES (100001, 100001, 7)",
    "UPDATE customers SET note = 'changed' WHERE id <= 500",
    "UPDATE orders SET id = id + 200000 WHERE id <= 10",
    "DELETE FROM orders WHERE id BETWEEN 100 AND 200",
)
_CONTENTS = (
    "SELECT (SELECT md5(string_agg(c::text, ',' ORDER BY id)) FROM customers c),"
    " (SELECT md5(string_agg(o::text, ',' ORDER BY id)) FROM orders o)"
)


def test_what_is_written_while_it_is_copied_and_after_arrives(
    dsync: Dsync, source_db: DatabaseFactory, sink_db: DatabaseFactory
) -> None:
    source, sink = source_db(_fill), sink_db()
    ends = (source.uri, sink.uri)
    first = dsync("sync", *ends, "--until-caught-up", "--json")
    assert first.exit_code == 0, first.stderr
    assert (first.result["rows"], first.result["consistent"]) == (2 * ROWS, True)
    assert first.result["consistent_at"] > 0
    assert sink.rows(_CONTENTS) == source.rows(_CONTENTS)

    source.run(*_CHANGES)
    again = dsync("sync", *ends, "--until-caught-up", "--verify", "--json")
    assert again.exit_code == 0, again.stderr
    assert again.result["moved_rows"] == 0
    # The changes of a key are two, and those of a row one.
    assert again.result["changes"] >= 2 + 500 + 10 + 101
    assert sink.rows(_CONTENTS) == source.rows(_CONTENTS)
    assert again.result["verify"]["equal"] is True

    following = dsync.start("sync", *ends)
    following.wait_for("streaming")
    source.run("UPDATE customers SET note = 'followed' WHERE id = 1", "TRUNCATE orders")
    wait_for(lambda: sink.rows(_CONTENTS) == source.rows(_CONTENTS), what="the changes at the sink")
    following.send(signal.SIGINT)
    assert following.end().exit_code == 130

    assert source.value("SELECT count(*) FROM pg_replication_slots WHERE database = current_database()") == 1
    flow = again.result["flow"]
    forgotten = dsync("reset", flow, "--yes", "--json", "--source", source.uri, "--sink", sink.uri)
    assert forgotten.exit_code == 0, forgotten.stderr
    assert source.value("SELECT count(*) FROM pg_replication_slots WHERE database = current_database()") == 0
    assert source.value("SELECT count(*) FROM pg_publication") == 0
    assert len(forgotten.result["removed_at_source"]) == 2


def test_a_copy_becomes_a_stream_and_not_a_copy_again(
    dsync: Dsync, source_db: DatabaseFactory, sink_db: DatabaseFactory
) -> None:
    """What has not changed since the copy is not read again; what follows is not silently left."""
    source, sink = source_db(_fill), sink_db()
    ends = (source.uri, sink.uri)
    copied = dsync("sync", *ends, "--mode", "copy", "--json")
    assert copied.exit_code == 0, copied.stderr
    source.run("UPDATE orders SET total = 0 WHERE id = 7")
    followed = dsync("sync", *ends, "--until-caught-up", "--json")
    assert followed.exit_code == 0, followed.stderr
    assert followed.result["run"] != copied.result["run"]
    assert followed.result["moved_rows"] == ROWS, "orders alone has changed"
    assert sink.rows(_CONTENTS) == source.rows(_CONTENTS)
    refused = dsync("sync", *ends, "--mode", "copy", "--json")
    assert refused.exit_code == 2
    assert "dsync reset" in refused.json["error"]["message"]
    # A new run over one that follows: another slot, and what has changed since it began is read again.
    again = dsync("sync", *ends, "--again", "--until-caught-up", "--json")
    assert again.exit_code == 0, again.stderr
    assert again.result["run"] != followed.result["run"]
    assert sink.rows(_CONTENTS) == source.rows(_CONTENTS)
    assert source.value("SELECT count(*) FROM pg_replication_slots WHERE database = current_database()") == 1


def test_a_flow_that_does_not_begin_leaves_nothing_at_its_source(
    dsync: Dsync, source_db: DatabaseFactory, sink_db: DatabaseFactory
) -> None:
    """A slot that nobody reads would fill the source's disk."""
    source, sink = source_db(_fill), sink_db()
    sink.run("CREATE TABLE orders (id int PRIMARY KEY, other text)", "INSERT INTO orders VALUES (1, 'of others')")
    refused = dsync("sync", source.uri, sink.uri, "--json")
    assert refused.exit_code in (2, 3)
    assert "orders" in refused.json["error"]["message"]
    assert source.value("SELECT count(*) FROM pg_replication_slots WHERE database = current_database()") == 0
    assert source.value("SELECT count(*) FROM pg_publication") == 0


def test_a_table_that_loses_a_column_stops_alone(
    dsync: Dsync, source_db: DatabaseFactory, sink_db: DatabaseFactory
) -> None:
    """Also where nothing of it had come before, and so do tables that are gone; --again copies anew what there is."""
    source, sink = source_db(_fill), sink_db()
    ends = (source.uri, sink.uri)
    source.run("CREATE TABLE gone (id int PRIMARY KEY)", "CREATE TABLE renamed (id int PRIMARY KEY)")
    assert dsync("sync", *ends, "--until-caught-up").exit_code == 0
    source.run(
        "DROP TABLE gone",
        "ALTER TABLE renamed RENAME TO other",
        "INSERT INTO other VALUES (1)",
        "ALTER TABLE customers DROP COLUMN note",
        "INSERT INTO customers VALUES (100001, 'new')",
        "ALTER TABLE orders ADD COLUMN place text DEFAULT 'here'",
        "UPDATE orders SET place = 'there', total = 3 WHERE id = 5",
    )
    stopped = dsync("sync", *ends, "--until-caught-up", "--json")
    assert stopped.exit_code == 6, stopped.stderr
    states = {item["namespace"]: item["state"] for item in stopped.result["namespaces"]}
    assert states == {
        "public.customers": "stopped",
        "public.gone": "stopped",
        "public.orders": "copied",
        "public.renamed": "stopped",
    }
    reasons = {item["namespace"]: item["reason"] for item in stopped.result["namespaces"]}
    assert "column note was dropped or renamed" in reasons["public.customers"]
    assert "it was dropped or renamed at the source" in reasons["public.gone"]
    assert "it was dropped or renamed at the source" in reasons["public.renamed"]
    assert sink.rows("SELECT place, count(*), sum(total) FROM orders GROUP BY 1 ORDER BY 1") == source.rows(
        "SELECT place, count(*), sum(total) FROM orders GROUP BY 1 ORDER BY 1"
    )
    source.run("UPDATE orders SET total = 4 WHERE id = 5")
    still = dsync("sync", *ends, "--until-caught-up", "--json")
    assert (still.exit_code, still.result["failed_steps"]) == (6, [])
    assert sink.value("SELECT total FROM orders WHERE id = 5") == 4
    # Its key's index kept its name at the source.
    sink.run("DROP TABLE renamed")
    again = dsync("sync", *ends, "--until-caught-up", "--again", "--json")
    assert again.exit_code == 0, again.stderr
    assert sink.value("SELECT count(*) FROM other") == 1
    # The sink's column of that name stays, since nothing stands against it.
    names = "SELECT md5(string_agg(id || name, ',' ORDER BY id)), count(*) FROM customers"
    assert sink.rows(names) == source.rows(names)
