"""Somebody else works in the sink's tables while pages arrive."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from tests.crash.lives import Flow
from tests.crash.oracles import check_copy
from tests.support.waiting import wait_for

_WAITS_FOR_TABLE = (
    "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LOCK TABLE busy%' AND wait_event_type = 'Lock'"
)
_TABLES = "busy, busy_keyless, quiet, quiet_keyless, child, leaf_1, leaf_2, no_columns"


def test_a_page_that_loses_a_deadlock_is_sent_again(flow: Flow) -> None:
    """It has its table and wants the ledger's row; another session has the row and wants the table."""
    life = flow.start(fail="sink.before_commit:stop@20", once=True)
    plugin = flow.paused_at("sink.before_commit")
    with flow.sink.connect() as other, ThreadPoolExecutor(1) as thread:
        # Whoever waits for less long finds the deadlock, and is its victim.
        other.execute("SET deadlock_timeout = '60s'")
        other.execute("BEGIN")
        other.execute("SELECT FROM _dsync.ledger FOR UPDATE")
        locking = thread.submit(other.execute, f"LOCK TABLE {_TABLES}".encode())
        wait_for(lambda: flow.sink.value(_WAITS_FOR_TABLE), timeout_s=30, what="a session that waits for the table")
        plugin.resume()
        locking.result(30)
        other.execute("COMMIT")
    ending = life.wait()
    assert "40P01" in ending.log
    assert ending.events("call_retried")
    assert ending.exit_code == 0
    check_copy(flow, ending)
