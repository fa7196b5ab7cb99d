"""A table is altered, rewritten or dropped while it is copied: it stops with a named error, and the others arrive."""

from __future__ import annotations

from typing import LiteralString

import pytest

from tests.crash.conftest import MakeFlow
from tests.crash.lives import Ending, Flow
from tests.crash.oracles import check_copy, check_nothing_left, check_status, contents, differing
from tests.crash.tables import ALL

OTHERS = tuple(name for name in ALL if name != "public.busy")

CHANGES: dict[str, tuple[LiteralString, str]] = {
    "truncate": ("TRUNCATE busy", "truncated, rewritten or dropped"),
    "vacuum full": ("VACUUM FULL busy", "truncated, rewritten or dropped"),
    "cluster": ("CLUSTER busy USING busy_pkey", "truncated, rewritten or dropped"),
    "drop": ("DROP TABLE busy", "dropped"),
    "add a column": ("ALTER TABLE busy ADD COLUMN added int", "columns were altered"),
    "drop a column": ("ALTER TABLE busy DROP COLUMN filling", "dropped, renamed or altered"),
    "rename a column": ("ALTER TABLE busy RENAME COLUMN version TO revision", "dropped, renamed or altered"),
    "change a type": ("ALTER TABLE busy ALTER COLUMN version TYPE numeric", "truncated, rewritten or dropped"),
}
_SAME_AFTERWARDS = ("truncate", "vacuum full", "cluster")


def change_while_copied(flow: Flow, statement: LiteralString) -> Ending:
    """Run a statement at the source while its process stands between two pages of the table."""
    # One partition at a time: no other page is being read, so no lock is in the statement's way.
    life = flow.start(fail="source.before_copy:stop@7", once=True)
    process = flow.paused_at("source.before_copy")
    flow.source.run(statement)
    process.resume()
    return life.wait()


@pytest.mark.parametrize("change", CHANGES)
def test_a_table_that_is_changed_while_it_is_copied_stops_alone(make_flow: MakeFlow, change: str) -> None:
    """No row of it is taken for another, and nothing is called a copy that is not one."""
    statement, reason = CHANGES[change]
    flow = make_flow(parallel=1)
    ending = change_while_copied(flow, statement)

    assert ending.exit_code == 6, ending.log[-6000:]
    assert ending.named.keys() == {"public.busy"}
    assert reason in ending.named["public.busy"]
    assert ending.result["consistent"] is False
    assert not differing(contents(flow.source, OTHERS), contents(flow.sink, OTHERS))
    failed = ending.result["failed_steps"]
    assert {step["namespace"] for step in failed} == {"public.busy"}, failed
    check_status(flow, ending)
    check_nothing_left(flow)
    if change in _SAME_AFTERWARDS:
        again = flow.run("--again")
        assert again.exit_code == 0
        check_copy(flow, again)


def test_a_table_that_is_truncated_between_two_lives_is_read_again(make_flow: MakeFlow) -> None:
    """An unfinished one only: a finished one stays as it was, and is named."""
    flow = make_flow(parallel=1)
    flow.run_until_killed("coordinator.after_write:exit@60")
    flow.source.run("TRUNCATE busy, quiet CASCADE", "INSERT INTO quiet_keyless VALUES ('one more', 1)")
    ending = flow.run()
    assert {"public.busy"} <= ending.named.keys()
    check_copy(flow, ending)


def test_a_table_that_is_altered_between_two_lives_stops_with_a_way_on(make_flow: MakeFlow) -> None:
    flow = make_flow(parallel=1)
    flow.run_until_killed("coordinator.after_write:exit@12")
    flow.source.run("ALTER TABLE busy ADD COLUMN added int")
    ending = flow.run()
    assert ending.exit_code == 6
    assert ending.named.keys() == {"public.busy"}
    assert "columns were altered" in ending.named["public.busy"]
    assert "dsync reset" in ending.named["public.busy"]
    assert not differing(contents(flow.source, OTHERS), contents(flow.sink, OTHERS))
