"""`dsync verify FLOW` while the source is written to and somebody else follows: only what persists is a difference."""

from __future__ import annotations

import threading

import psycopg

from tests.integration.cli.running import Dsync
from tests.support.databases import DatabaseFactory


def _fill(uri: str) -> None:
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute("CREATE TABLE orders (id int PRIMARY KEY, total int)")
        connection.execute("INSERT INTO orders SELECT n, 0 FROM generate_series(1, 2000) n")


def test_what_is_on_its_way_is_no_difference_and_what_is_wrong_is_one(
    dsync: Dsync, source_db: DatabaseFactory, sink_db: DatabaseFactory
) -> None:
    """Rows change all the time, each of them once; one at the sink was never the source's."""
    source, sink = source_db(_fill), sink_db()
    following = dsync.start("sync", source.uri, sink.uri, "--flow", "move")
    following.wait_for("streaming")
    sink.run("UPDATE orders SET total = -1 WHERE id = 2000")
    ended = threading.Event()

    def write() -> None:
        with source.connect() as connection:
            for row in range(1, 2000):
                if ended.is_set():
                    return
                connection.execute("UPDATE orders SET total = %s WHERE id = %s", [row, row])
                ended.wait(0.005)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        found = dsync("verify", "move", "--json", "--source", source.uri, "--sink", sink.uri)
    finally:
        ended.set()
        writer.join()
    assert found.exit_code == 4, (found.stdout, found.stderr)
    (table,) = found.result["namespaces"]
    assert [item["key"] for item in table["differences"] if not item["changed_since"]] == [["2000"]]
    assert table["counts"]["different"] == 1
