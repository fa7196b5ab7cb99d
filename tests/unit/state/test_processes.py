"""Real processes on one state: fighting for a lease, killed while they write, paused for too long."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from dsync.state import LeaseHeldError, StateBusyError, Store, sqlite, this_process
from dsync.state.holder import is_stopped, uptime_us
from tests.support.waiting import wait_for
from tests.unit.state.support import SECOND_US, Actor, HandClock, planned_run

LONG_S = "600"


@pytest.fixture
def real_store(state: str) -> Store:
    """With the clock that users have: the machine's for a file, the server's for a schema there."""
    return Store.open(state)


def test_one_of_several_processes_gets_the_flow_and_the_others_learn_which(state: str, real_store: Store) -> None:
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
def test_the_flow_of_a_killed_process_goes_on_at_once(state: str, real_store: Store, reap: bool) -> None:
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


def test_a_process_that_was_paused_past_its_lease_writes_nothing_more(state: str, real_store: Store) -> None:
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


def test_a_process_stopped_while_it_writes_is_named_where_it_keeps_a_file_locked(
    state_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who, why and what to do; its own flow is refused at once, and once it is killed everything goes on at once."""
    monkeypatch.setattr(sqlite, "_BUSY_TIMEOUT_S", 0.3)
    with Store.open(state_file) as store:
        run, other = planned_run(store), planned_run(store, name="other")
        with Actor(state_file, run.flow, run.run, LONG_S) as stopped:
            pid = stopped.process.pid
            assert stopped.hear() == "ready"
            assert stopped.ask("acquire") == "held 1"
            stopped.say("stop-in-the-middle")
            wait_for(lambda: is_stopped(pid), what="the process to stop itself in a transaction")

            later = HandClock(up_us=uptime_us() + 3600 * SECOND_US)
            with Store.open(state_file) as successor, Store.open(state_file, clock=later) as an_hour_later:
                assert successor.open_flow(name="other", fingerprint="ends of other", spec={})[0].flow == other.flow
                # As long as the lease runs nobody has to wait to be told.
                with pytest.raises(LeaseHeldError, match=rf"is stopped.*kill -CONT {pid}`.*kill -9 {pid}`"):
                    successor.acquire_lease(run.flow, this_process())
                for store_, flow in ((successor, other.flow), (an_hour_later, run.flow)):
                    with pytest.raises(StateBusyError, match=rf"process {pid} \(\w+\).*is stopped.*kill -CONT {pid}`"):
                        store_.acquire_lease(flow, this_process())
                assert len(successor.list_flows()) == 2, "reading needs nobody's leave"

                stopped.kill(reap=False)
                assert wait_for(lambda: successor.acquire_lease(other.flow, this_process())).fence == 1
                assert successor.acquire_lease(run.flow, this_process()).fence == 2


def test_a_process_stopped_while_it_migrates_is_named(
    tmp_path: Path, state_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "_BUSY_TIMEOUT_S", 0.3)
    path = tmp_path / "new.db"
    with Actor(state_file, "-", "-", "1") as stopped:
        assert stopped.hear() == "ready"
        stopped.say(f"stop-while-migrating {path}")
        wait_for(lambda: is_stopped(stopped.process.pid), what="the process to stop itself in a migration")
        with pytest.raises(StateBusyError, match=f"schema: process {stopped.process.pid} .*is stopped"):
            Store.open(path)
        stopped.kill()
        Store.open(path).close()


def test_a_process_stopped_while_it_writes_keeps_nobody_waiting_for_long_at_a_server(state_server: str) -> None:
    """The server ends its session; the next one goes on, and the stopped one finds that it has written nothing."""
    with Store.open(state_server) as store:
        run = planned_run(store)
        with Actor(state_server, run.flow, run.run, "0.2") as stopped:
            assert stopped.hear() == "ready"
            assert stopped.ask("acquire") == "held 1"
            assert stopped.ask("save p0.0.0") == "saved 1"
            stopped.say("stop-in-the-middle")
            wait_for(lambda: is_stopped(stopped.process.pid), what="the process to stop itself in a transaction")
            wait_for(lambda: _remaining_s(store, run.flow) == 0, what="its lease to end")
            assert store.acquire_lease(run.flow, this_process()).fence == 2
            stopped.go_on()
            assert stopped.hear() == "StateUnreachableError"
            assert stopped.ask("save p0.0.0") == "FencedError"
        (kept,) = store.load_checkpoints(run.flow, run.run).values()
        assert kept.seq == 1


def _remaining_s(store: Store, flow: str) -> float:
    lease = store.get_lease(flow)
    return lease.remaining_s if lease else 0


def test_a_process_killed_while_it_writes_leaves_whole_transactions_and_none_that_it_reported_missing(
    state: str, real_store: Store
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


def test_a_disk_that_fails_is_not_believed_again(state_file: Path) -> None:
    """After a failed write the system may report the next one as done although nothing was written: start anew."""
    state = state_file
    with Store.open(state) as real_store:
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
