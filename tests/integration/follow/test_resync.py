"""`dsync resync`: a table is copied anew beside the others, which are followed all the time."""

from __future__ import annotations

import signal

import psycopg

from tests.integration.cli.running import Dsync
from tests.support.databases import DatabaseFactory
from tests.support.waiting import wait_for

ROWS = 5_000
_CONTENTS = (
    "SELECT (SELECT md5(string_agg(c::text, ',' ORDER BY id)) FROM customers c),"
    " (SELECT md5(string_agg(id || '=' || total, ',' ORDER BY id)) FROM orders),"
    " (SELECT md5(string_agg(k::text, ',' ORDER BY k::text)) FROM keyless k)"
)


def _fill(uri: str) -> None:
    with psycopg.connect(uri, autocommit=True) as connection:
        for statement in (
            "CREATE TABLE customers (id int PRIMARY KEY, name text UNIQUE, note text)",
            f"INSERT INTO customers SELECT n, 'customer ' || n, repeat('x', 50) FROM generate_series(1, {ROWS}) n",
            "CREATE TABLE orders (id int PRIMARY KEY, customer int REFERENCES customers, total numeric)",
            f"INSERT INTO orders SELECT n, n, n * 1.5 FROM generate_series(1, {ROWS}) n",
            "CREATE TABLE keyless (id int, word text)",
            "ALTER TABLE keyless REPLICA IDENTITY FULL",
            "INSERT INTO keyless SELECT n / 2, 'word' FROM generate_series(1, 1000) n",
            "ANALYZE",
        ):
            connection.execute(statement.encode())


def test_tables_are_copied_anew_while_the_others_are_followed(
    dsync: Dsync, source_db: DatabaseFactory, sink_db: DatabaseFactory
) -> None:
    """One that was altered, one whose rows somebody has changed at the sink, and one without key."""
    source, sink = source_db(_fill), sink_db()
    ends = (source.uri, sink.uri)
    following = dsync.start("sync", *ends, "--flow", "f")
    following.wait_for("streaming")
    source.run("ALTER TABLE orders DROP COLUMN customer", "UPDATE orders SET total = 0 WHERE id < 50")
    sink.run("UPDATE customers SET note = 'by hand'", "DELETE FROM keyless WHERE id < 100")
    source.run("UPDATE customers SET name = 'followed' WHERE id = 1")
    wait_for(lambda: sink.value("SELECT name FROM customers WHERE id = 1") == "followed", what="a change at the sink")

    refused = dsync("resync", "f", "--table", "nothing.at_all", "--json")
    assert refused.exit_code == 2
    asked = dsync("resync", "f", "--table", "orders", "--table", "customers", "--table", "keyless", "--json")
    assert (asked.exit_code, asked.result["running"]) == (0, True), asked.stderr
    source.run(
        "UPDATE customers SET note = 'meanwhile' WHERE id BETWEEN 100 AND 200",
        "INSERT INTO keyless VALUES (1, 'twice'), (1, 'twice')",
        "DELETE FROM orders WHERE id % 7 = 0",
    )
    wait_for(lambda: sink.rows(_CONTENTS) == source.rows(_CONTENTS), timeout_s=60, what=lambda: following.printed)
    source.run("UPDATE orders SET total = 7 WHERE id = 1", "DELETE FROM keyless WHERE id = 1")
    wait_for(lambda: sink.rows(_CONTENTS) == source.rows(_CONTENTS), timeout_s=60, what=lambda: following.printed)
    # Nobody has sent these values, and nobody has to ask for them.
    source.run("ALTER TABLE keyless ADD made float DEFAULT random()", "INSERT INTO keyless VALUES (2, 'made')")
    wait_for(lambda: sink.rows(_CONTENTS) == source.rows(_CONTENTS), timeout_s=60, what=lambda: following.printed)
    following.send(signal.SIGINT)
    assert following.end().exit_code == 130

    source.run(
        "ALTER TABLE orders ALTER total TYPE text",
        "ALTER TABLE keyless ADD number int GENERATED ALWAYS AS IDENTITY",
        "INSERT INTO keyless VALUES (3, 'numbered')",
    )
    waits = dsync("resync", "f", "--table", "orders", "--json")
    assert (waits.exit_code, waits.result["running"]) == (0, False), waits.stderr
    ended = dsync("sync", *ends, "--flow", "f", "--until-caught-up", "--verify", "--json")
    assert ended.exit_code == 0, ended.stderr
    assert ended.result["verify"]["equal"] is True
    assert sink.rows(_CONTENTS) == source.rows(_CONTENTS)
    assert source.value("SELECT count(*) FROM pg_replication_slots WHERE database = current_database()") == 1
