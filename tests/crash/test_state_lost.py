"""The state file is lost or damaged while a copy is made: the sink's own record is used, and nothing copied twice."""

from __future__ import annotations

import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from tests.crash.conftest import MakeFlow
from tests.crash.lives import COMMAND, KILLED, Flow
from tests.crash.oracles import check_copy, check_repeat_moves_nothing, contents
from tests.crash.tables import ALL, writing


@pytest.fixture
def flow(make_flow: MakeFlow) -> Flow:
    """In one process: what is remembered where does not depend on how plug-ins are reached, and starts sooner."""
    return make_flow(arguments=("--attach", "inline"))


def lose_state(flow: Flow) -> None:
    for path in flow.directory.glob("state.db*"):
        path.unlink()


def known_flows(flow: Flow) -> list[str]:
    """The flows that the sink remembers."""
    return [name for (name,) in flow.sink.rows("SELECT DISTINCT flow FROM _dsync.target")]


@pytest.mark.parametrize(
    "step",
    [
        "sink.after_prepare_commit",
        "coordinator.after_prepare",
        "coordinator.after_plan",
        "coordinator.after_manifest",
        "coordinator.after_write:exit@30",
        "coordinator.before_copied:exit@3",
        "coordinator.after_step:exit@2",
        "coordinator.after_end_at_sink",
        "coordinator.after_end",
    ],
)
def test_a_flow_whose_state_is_gone_is_taken_up_from_the_sink(flow: Flow, step: str) -> None:
    """At whatever step the state was lost, one flow fills the tables, and all of the schema arrives."""
    if step.startswith("sink"):
        # The coordinator dies with the process it waits for.
        life = flow.start(fail=f"{step}:stop", once=True)
        flow.wait_for_failpoint(step)
        life.kill()
    else:
        flow.run_until_killed(step)
    lose_state(flow)
    ending = flow.run()
    check_copy(flow, ending)
    assert ending.exit_code == 0, "nobody has written to the source"
    assert known_flows(flow) == [ending.result["flow"]]
    check_repeat_moves_nothing(flow, ending)


def test_a_second_coordinator_with_its_own_state_finds_a_finished_copy_finished(flow: Flow) -> None:
    """It says when the first one ended and with what, as the first one would, and moves nothing."""
    ending = flow.run()
    check_copy(flow, ending)
    # As another machine has it: no state, and a source that went on since.
    lose_state(flow)
    flow.source.run("UPDATE quiet SET kind = kind + 7 WHERE id < 100")
    repeated = flow.run()
    assert (repeated.exit_code, repeated.result["moved_nothing"]) == (0, True)
    for fact in ("flow", "run", "rows", "bytes", "consistent", "namespaces"):
        assert repeated.result[fact] == ending.result[fact]
    assert repeated.answer is not None
    assert "finished at" in repeated.answer["summary"]
    # What it has learnt is enough to go on with.
    check_copy(flow, flow.run("--again"))


@pytest.mark.parametrize(
    "second",
    [
        "coordinator.after_verdicts",
        "coordinator.after_clear",
        "coordinator.after_write:exit@15",
        "coordinator.before_end",
    ],
)
def test_state_lost_after_a_recovery_does_not_bring_rows_back_twice(flow: Flow, second: str) -> None:
    """What was read again under a new snapshot is known to the sink as such."""
    with writing(flow.source) as writer:
        flow.run_until_killed("coordinator.after_write:exit@12")
        writer.write_more()
        flow.run_until_killed(second)
        lose_state(flow)
        writer.write_more()
    ending = flow.run()
    check_copy(flow, ending)
    assert known_flows(flow) == [ending.result["flow"]]


@pytest.mark.parametrize(
    "second", ["coordinator.after_prepare", "coordinator.after_clear", "coordinator.after_write:exit@3"]
)
def test_state_lost_in_a_second_run_keeps_what_the_first_one_has_copied(flow: Flow, second: str) -> None:
    """`--again` reads what has changed; the rest stands in the ledger under the run before."""
    assert flow.run().exit_code == 0
    flow.source.run("UPDATE quiet SET kind = kind + 7 WHERE id < 100", "DELETE FROM quiet_keyless WHERE kind = 1")
    killed = flow.run("--again", fail=f"{second}:exit" if "exit" not in second else second)
    assert killed.exit_code == KILLED
    lose_state(flow)
    ending = flow.run()
    if ending.result["moved_nothing"]:
        # The second run was not known to the sink yet: the first one is taken up, which has ended.
        assert second == "coordinator.after_prepare"
        ending = flow.run("--again")
    check_copy(flow, ending)
    assert ending.exit_code == 0


def test_a_named_flow_is_taken_up_by_its_name(make_flow: MakeFlow) -> None:
    flow = make_flow(arguments=("--flow", "nightly"))
    flow.run_until_killed("coordinator.after_write:exit@30")
    (known,) = known_flows(flow)
    lose_state(flow)
    ending = flow.run()
    assert ending.result["flow"] == known
    assert ending.result["name"] == "nightly"
    assert 0 < ending.result["moved_rows"] < ending.result["rows"]
    check_copy(flow, ending)


def test_a_damaged_state_is_named_and_changes_nothing(flow: Flow) -> None:
    """It is not guessed at; once it was moved away, the sink knows how far the copy had come."""
    flow.run_until_killed("coordinator.after_write:exit@30")
    before = contents(flow.sink, ALL)
    _damage(flow.state)
    ending = flow.run()
    assert ending.exit_code == 3
    assert ending.error["class"] == "StateCorruptError"
    assert str(flow.state) in ending.message
    assert "move" in ending.message
    assert contents(flow.sink, ALL) == before

    lose_state(flow)
    ending = flow.run()
    assert 0 < ending.result["moved_rows"] < ending.result["rows"]
    check_copy(flow, ending)


def _damage(path: Path) -> None:
    """Write over the middle of the file, as a failing disk does."""
    with closing(sqlite3.connect(path)) as connection:
        # What stands in the log would otherwise hide the damage.
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(b"\xa5" * 8192)


def test_a_flow_that_was_reset_says_what_was_removed_and_starts_anew(flow: Flow) -> None:
    flow.run_until_killed("coordinator.after_write:exit@30")
    (known,) = known_flows(flow)
    said = _dsync("reset", known, "--sink", flow.sink_uri, "--state", str(flow.state), "--yes")
    for kept in ("manifest", "ledger row", "table note", "schema _dsync", "in the state"):
        assert kept in said
    assert flow.sink.value("SELECT count(*) FROM pg_namespace WHERE nspname = '_dsync'") == 0

    refused = flow.run()
    assert refused.exit_code == 2
    assert refused.error["class"] == "SinkNotEmptyError"
    assert "--on-existing" in refused.message

    ending = flow.run("--on-existing", "truncate", "--yes")
    assert ending.result["flow"] != known
    assert contents(flow.sink) == contents(flow.source)


def test_a_flow_that_only_the_sink_remembers_can_be_reset(flow: Flow) -> None:
    flow.run_until_killed("coordinator.after_write:exit@30")
    (known,) = known_flows(flow)
    lose_state(flow)
    said = _dsync("reset", "--sink", flow.sink_uri, "--state", str(flow.state), "--yes")
    assert known in said
    assert "manifest" in said
    assert flow.sink.value("SELECT count(*) FROM pg_namespace WHERE nspname = '_dsync'") == 0


def _dsync(*arguments: str) -> str:
    done = subprocess.run([str(COMMAND), *arguments], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
