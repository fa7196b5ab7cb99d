"""Real processes on one state: fighting for a lease, killed while they write, paused for too long."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from dsync.state import LeaseHeldError, Store, this_process
from tests.support.waiting import wait_for
from tests.unit.state.support import Actor, planned_run

LONG_S = "600"


@pytest.fixture
def real_store(state: Path) -> Store:
    return Store.open(state)


def test_one_of_several_processes_gets_the_flow_and_the_others_learn_which(state: Path, real_store: Store) -> None:
    with real_store:
        run = planned_run(real_store)
    args = state, run.flow, run.run, LONG_S
    with Actor(*args) as one, Actor(*args) as two, Actor(*args) as three:
        actors = (one, two, three)
        assert {actor.hear() for actor in actors} == {"ready"}
        for actor in actors:
            actor.say("acquire")
        answers = {actor.process.pid: actor.hear() for actor in actors}
        (winner,) = [pid for pid, answer in answers.items() if answer == "held 1"]
        assert sorted(answers.values()) == ["held 1", f"refused {winner} True", f"refused {winner} True"]


@pytest.mark.parametrize("reap", [True, False], ids=["reaped", "zombie"])
def test_the_flow_of_a_killed_process_goes_on_at_once(state: Path, real_store: Store, reap: bool) -> None:
    """Its lease would run for ten minutes. A dead process whose parent has not asked for its status is dead too."""
    with real_store:
        run = planned_run(real_store)
        args = state, run.flow, run.run, LONG_S
        with Actor(*args) as one, Actor(*args) as two:
            assert (one.hear(), two.hear()) == ("ready", "ready")
            assert one.ask("acquire") == "held 1"
            assert two.ask("acquire") == f"refused {one.process.pid} True"
            with pytest.raises(LeaseHeldError):
                real_store.delete_flow(run.flow)
            one.kill(reap=reap)
            assert wait_for(lambda: (answer := two.ask("acquire")).startswith("held") and answer) == "held 2"
            assert two.ask("save p0.0.0") == "saved 1"


def test_a_process_that_was_paused_past_its_lease_writes_nothing_more(state: Path, real_store: Store) -> None:
    with real_store:
        run = planned_run(real_store)
        with Actor(state, run.flow, run.run, "0.2") as paused:
            assert paused.hear() == "ready"
            assert paused.ask("acquire") == "held 1"
            assert paused.ask("save p0.0.0") == "saved 1"
            paused.stop()

            def taken() -> bool:
                try:
                    return real_store.acquire_lease(run.flow, this_process()).fence == 2
                except LeaseHeldError:
                    return False

            wait_for(taken, what="the lease of the paused process to end")
            paused.go_on()
            assert paused.ask("save p0.0.0") == "FencedError"
            assert paused.ask("renew") == "FencedError"
        (kept,) = real_store.load_checkpoints(run.flow, run.run).values()
        assert kept.seq == 1


def test_a_process_killed_while_it_writes_leaves_whole_transactions_and_none_that_it_reported_missing(
    state: Path, real_store: Store
) -> None:
    """What was reported is there; what was not is there whole or not at all. Six times, on the same file."""
    with real_store:
        run = planned_run(real_store)
    moments = random.Random(7)
    seq = 0
    for _ in range(6):
        with Actor(state, run.flow, run.run, LONG_S) as writer:
            assert writer.hear() == "ready"
            writer.say(f"write-for-ever {seq}")
            for _ in range(moments.randrange(1, 60)):
                seq = int(writer.hear())
            writer.kill()
            assert writer.process.stdout is not None
            seq = max([seq, *map(int, writer.process.stdout.read().split())])
        with Store.open(state) as store:
            store.check_integrity()
            found = {row.seq for row in store.load_checkpoints(run.flow, run.run).values()}
            assert len(found) == 1
            (kept,) = found
            assert seq <= kept <= seq + 1
            seq = kept


def test_a_disk_that_fails_is_not_believed_again(state: Path, real_store: Store) -> None:
    """After a failed write the system may report the next one as done although nothing was written: start anew."""
    with real_store:
        run = planned_run(real_store)
        with Actor(state, run.flow, run.run, LONG_S) as actor:
            assert actor.hear() == "ready"
            assert actor.ask("save p0.0.0") == "saved 1"
            log_bytes = Path(f"{state}-wal").stat().st_size
            # The limit makes the next write fail with EFBIG, as a broken disk does with EIO.
            assert actor.ask(f"limit-files {log_bytes}") == "limited"
            assert actor.ask("save p0.0.0") == "StateUnavailableError"
            assert actor.ask("no-limit") == "unlimited"
            assert actor.ask("save p0.0.0") == "StateUnavailableError"
        with Actor(state, run.flow, run.run, LONG_S) as again:
            assert again.hear() == "ready"
            assert again.ask("save p0.0.0") == "saved 1"
        real_store.check_integrity()
