"""`--apply transactional` and `--ack spooled`, as a reader at the sink and an administrator of the source see them."""

from __future__ import annotations

import shutil
import signal
import threading
from pathlib import Path

from tests.integration.cli.running import Dsync
from tests.support.databases import Database, DatabaseFactory
from tests.support.waiting import wait_for

_MOVES = 10
_WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
_END_WAITING = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE datname = current_database() AND wait_event_type = 'Lock'"
)


def _sums(sink: Database, until: threading.Event) -> set[int]:
    """What a reader sees of two tables of which the source never changes one alone."""
    seen = set()
    with sink.connect() as connection:
        while not until.is_set():
            row = connection.execute("SELECT (SELECT sum(n) FROM debits) + (SELECT sum(n) FROM credits)").fetchone()
            assert row is not None
            seen.add(int(row[0]))
    return seen


def test_nobody_sees_half_of_a_transaction(dsync: Dsync, source_db: DatabaseFactory, sink_db: DatabaseFactory) -> None:
    """Of thousands of changes of two tables and many keys, which lanes would write side by side."""
    source, sink = source_db(), sink_db()
    source.run(
        "CREATE TABLE debits (id int PRIMARY KEY, n int)",
        "INSERT INTO debits SELECT i, 0 FROM generate_series(1, 2000) i",
        "CREATE TABLE credits AS TABLE debits",
        "ALTER TABLE credits ADD PRIMARY KEY (id)",
    )
    following = dsync.start("sync", source.uri, sink.uri, "--apply", "transactional", "--parallel", "4")
    following.wait_for("streaming")
    until, seen = threading.Event(), set[int]()
    reader = threading.Thread(target=lambda: seen.update(_sums(sink, until)))
    reader.start()
    try:
        with source.connect() as connection:
            for _ in range(_MOVES):
                with connection.transaction():
                    connection.execute("UPDATE debits SET n = n - 1")
                    connection.execute("UPDATE credits SET n = n + 1")
        wait_for(lambda: sink.value("SELECT min(n) FROM credits") == _MOVES, what="all transactions at the sink")
    finally:
        until.set()
        reader.join()
    assert seen == {0}
    assert sink.value("SELECT max(n) FROM debits") == -_MOVES
    following.send(signal.SIGKILL)


def test_a_source_that_may_discard_what_is_spooled_does_so_and_a_lost_spool_is_missed(
    dsync: Dsync, source_db: DatabaseFactory, sink_db: DatabaseFactory, tmp_path: Path
) -> None:
    """A sink that is in the way holds up nothing at the source; without the spool nobody goes on over the gap."""
    source, sink = source_db(), sink_db()
    source.run("CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t SELECT generate_series(1, 10)")
    state = tmp_path / "spooled.db"
    ends = ("sync", source.uri, sink.uri, "--state", str(state), "--ack", "spooled")
    following = dsync.start(*ends)
    following.wait_for("streaming")
    with sink.connect() as in_the_way, in_the_way.transaction():
        in_the_way.execute("LOCK TABLE t IN SHARE MODE")
        source.run("INSERT INTO t SELECT generate_series(11, 500)")
        written = source.value("SELECT pg_current_wal_lsn()")
        wait_for(
            lambda: source.value("SELECT confirmed_flush_lsn >= %s FROM pg_replication_slots", [written]),
            what="the source to be told",
        )
        following.send(signal.SIGKILL)
        following.end()
        # What waits for the lock has all it needs to go on without its coordinator.
        sink.run(_END_WAITING)
        wait_for(lambda: not sink.value(_WAITING), what="the end of what waits for the lock")
    assert sink.value("SELECT count(*) FROM t") == 10
    spools = Path(f"{state}.spool")
    kept = shutil.move(spools, tmp_path / "kept")
    refused = dsync(*ends, "--until-caught-up", "--json")
    assert refused.exit_code == 3, refused.stderr
    assert "was told to discard" in refused.json["error"]["message"]
    shutil.rmtree(spools, ignore_errors=True)
    shutil.move(kept, spools)
    arrived = dsync(*ends, "--until-caught-up", "--json")
    assert arrived.exit_code == 0, arrived.stderr
    assert sink.value("SELECT count(*) FROM t") == 500
