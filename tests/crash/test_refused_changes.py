"""A flow is killed while it keeps a change that the sink refuses, and while it tells the source of its spool."""

from __future__ import annotations

import psycopg

from tests.crash.conftest import MakeFlow

LETTER_POINTS = (
    "coordinator.before_confirm",
    "coordinator.after_confirm",
    "coordinator.before_letter",
    "coordinator.after_letter",
)


def _fill(uri: str) -> None:
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute("CREATE TABLE checked (id int PRIMARY KEY, n int)")
        connection.execute("INSERT INTO checked SELECT i, i FROM generate_series(1, 50) i")


def test_a_change_that_is_refused_is_kept_once_wherever_its_keeper_is_killed(make_flow: MakeFlow) -> None:
    """The changes around it arrive, and what the source was told of the spool is found in it by the next life."""
    flow = make_flow(prepare=_fill, mode="full", arguments=("--until-caught-up", "--ack", "spooled"))
    assert flow.run().exit_code == 0
    flow.sink.run("ALTER TABLE checked ADD CONSTRAINT positive CHECK (n > 0)")
    flow.source.run(
        "UPDATE checked SET n = n + 1000 WHERE id < 20",
        "UPDATE checked SET n = -1 WHERE id = 20",
        "UPDATE checked SET n = n + 1000 WHERE id > 20",
    )
    for step in LETTER_POINTS:
        flow.run_until_killed(f"{step}:exit@1")
    ending = flow.run()
    assert ending.exit_code == 5, ending.log[-6000:]
    assert ending.result["dead_letters"] == 1
    assert flow.sink.rows("SELECT id, n FROM checked WHERE id <> 20 ORDER BY id") == flow.source.rows(
        "SELECT id, n FROM checked WHERE id <> 20 ORDER BY id"
    )
    assert flow.sink.value("SELECT n FROM checked WHERE id = 20") == 20
