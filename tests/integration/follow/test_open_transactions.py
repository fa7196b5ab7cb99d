"""A transaction that is open keeps a slot from being made: whoever waits is told for whom."""

from __future__ import annotations

import psycopg

from tests.integration.cli.running import Dsync
from tests.support.databases import DatabaseFactory


def _fill(uri: str) -> None:
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute("CREATE TABLE t (id int PRIMARY KEY)")
        connection.execute("INSERT INTO t SELECT generate_series(1, 100)")


def test_whoever_waits_for_an_open_transaction_is_told(
    dsync: Dsync, source_db: DatabaseFactory, sink_db: DatabaseFactory
) -> None:
    """First not long enough, which leaves nothing at the source; then until it ends, which is the end of waiting."""
    source, sink = source_db(_fill), sink_db()
    slots = "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()"
    with source.connect() as writer:
        writer.execute("BEGIN")
        writer.execute("INSERT INTO t VALUES (101)")
        pid = writer.info.backend_pid
        refused = dsync("sync", source.uri, sink.uri, "--until-caught-up", "--slot-timeout", "1s", "--json")
        assert refused.exit_code == 3, refused.stderr
        assert f"pid {pid}" in refused.json["error"]["message"]
        assert (source.value(slots), source.value("SELECT count(*) FROM pg_publication")) == (0, 0)

        waiting = dsync.start("sync", source.uri, sink.uri, "--until-caught-up")
        waiting.wait_for(f"pid {pid}")
        writer.execute("COMMIT")
    ended = waiting.end()
    assert ended.exit_code == 0, ended.stderr
    assert sink.value("SELECT count(*) FROM t") == 101
