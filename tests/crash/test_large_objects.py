"""Large objects through crashes: each piece is written once, and what is half there goes on where it stood."""

from __future__ import annotations

import random
from typing import Any

import psycopg
import pytest

from tests.crash.conftest import MakeFlow, both_kinds
from tests.crash.lives import Flow
from tests.crash.oracles import repeat
from tests.support.databases import Database

OBJECTS = "pg_catalog.pg_largeobject"
PIECE = 256 * 1024
_LARGE, _SMALL = 12, 900


def fill(uri: str) -> None:
    """Some of several pieces, and so many small ones that they need more than one page."""
    content = random.Random(7)
    with psycopg.connect(uri, autocommit=True) as connection, connection.pipeline():
        for number in range(_LARGE):
            data = content.randbytes(2 * PIECE + 1000 * number)
            connection.execute("SELECT lo_from_bytea(%s, %s)", [20_000 + number, data])
        for number in range(_SMALL):
            connection.execute("SELECT lo_from_bytea(%s, %s)", [30_000 + number, b"number %d" % number])
        connection.execute("SELECT lo_create(40000)")


def objects(database: Database) -> list[tuple[Any, ...]]:
    return database.rows("SELECT oid::int8, sha256(lo_get(oid)) FROM pg_largeobject_metadata ORDER BY oid")


def check_repeat_moves_nothing(flow: Flow) -> None:
    """The same command again says when it was done, and touches no object."""
    versions = "SELECT loid::int8, pageno, xmin::text FROM pg_largeobject ORDER BY 1, 2"
    before = flow.sink.rows(versions)
    assert repeat(flow).result is None
    assert flow.sink.rows(versions) == before


_KILLS = {
    "coordinator.after_write": 3,
    "coordinator.after_checkpoint": 8,
    "sink.before_commit": 5,
    "sink.after_commit": 5,
    "source.after_copy": 6,
}


@pytest.mark.parametrize(("state_kind", "step"), both_kinds(_KILLS), indirect=["state_kind"])
def test_a_life_that_ends_anywhere_is_gone_on_with(make_flow: MakeFlow, step: str) -> None:
    """A coordinator's life by kill -9, a plug-in's within one life; the pieces count as if nothing had been."""
    flow = make_flow(prepare=fill, parallel=1)
    if step.startswith("coordinator"):
        flow.run_until_killed(f"{step}:exit@{_KILLS[step]}")
        assert 0 < len(objects(flow.sink)) < _LARGE + _SMALL + 1
        ending = flow.run()
    else:
        ending = flow.run(fail=f"{step}:exit@{_KILLS[step]}", once=True)
        assert (flow.once / step).exists(), ending.log[-4000:]

    assert ending.exit_code == 0, ending.log[-4000:]
    assert objects(flow.sink) == objects(flow.source)
    assert ending.result["rows"] == _LARGE * 3 - 1 + _SMALL + 1
    assert ending.result["moved_rows"] <= ending.result["rows"]
    check_repeat_moves_nothing(flow)


@pytest.mark.parametrize("step", ["coordinator.before_clear", "sink.before_clear_commit", "sink.after_clear_commit"])
def test_what_has_changed_is_removed_and_read_again(make_flow: MakeFlow, step: str) -> None:
    """With the snapshot gone what was read is judged by its age; a clearing that is cut off is done again."""
    flow = make_flow(prepare=fill, parallel=1)
    flow.sink.run("SELECT lo_from_bytea(5, 'somebody''s')")
    flow.run_until_killed("coordinator.after_checkpoint:exit@6")
    flow.source.run("SELECT lo_put(20001, 5, 'changed')", "SELECT lo_unlink(30004)")

    if step.startswith("coordinator"):
        flow.run_until_killed(f"{step}:exit")
        ending = flow.run()
    else:
        ending = flow.run(fail=f"{step}:exit", once=True)
        assert (flow.once / step).exists(), ending.log[-4000:]

    assert ending.exit_code == 0, ending.log[-4000:]
    assert [item for item in objects(flow.sink) if item[0] != 5] == objects(flow.source)
    assert bytes(flow.sink.value("SELECT lo_get(5)")) == b"somebody's"
    check_repeat_moves_nothing(flow)


def test_what_has_changed_after_it_was_finished_is_named(make_flow: MakeFlow) -> None:
    """As a table that has: it stays as it is until `--again`."""
    flow: Flow = make_flow(prepare=fill, parallel=1)
    flow.run_until_killed("coordinator.before_finish:exit")
    flow.source.run("SELECT lo_unlink(30004)")

    ending = flow.run()
    assert (ending.exit_code, set(ending.named)) == (6, {OBJECTS}), ending.log[-4000:]
    again = flow.run("--again", "--verify")

    assert again.exit_code == 0, again.log[-4000:]
    assert objects(flow.sink) == objects(flow.source)


def test_two_flows_do_not_fill_them_at_once(make_flow: MakeFlow) -> None:
    """The second is refused, with the first one's name, until that has ended."""
    flow = make_flow(prepare=fill, parallel=1, arguments=("--flow", "first"))
    flow.run_until_killed("coordinator.after_checkpoint:exit@4")
    before = objects(flow.sink)
    other = make_flow(prepare=fill, sink=flow.sink, arguments=("--flow", "second"))

    refused = other.run()

    assert (refused.exit_code, "flow first is filling large objects" in refused.message) == (2, True), refused.log[
        -3000:
    ]
    assert objects(flow.sink) == before
    assert flow.run().exit_code == 0
    assert objects(flow.sink) == objects(flow.source)
