"""The line to the state's server: lost and back, silent, pooled, shared; and whose clock counts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from dsync.protocol.errors import DsyncError, RetryableError
from dsync.state import (
    CheckpointRow,
    EventRow,
    LeaseHeldError,
    LeaseLostError,
    StateBusyError,
    StateUncertainError,
    StateUnreachableError,
    Store,
    answering,
    holder,
    postgres,
    this_process,
)
from dsync.state.answering import AnsweringConnection
from dsync.state.lease import heartbeats
from tests.integration.postgres_source.pooling import MiniPooler
from tests.integration.state.conftest import OpenStore
from tests.support.databases import Database, PgServers
from tests.support.fixtures import OpenProxy
from tests.support.waiting import wait_for
from tests.unit.state.support import SECOND_US, elsewhere, planned_run

Commit = Callable[[AnsweringConnection], None]


def test_a_server_that_was_restarted_between_two_transactions_is_not_noticed(own_servers: PgServers) -> None:
    server = own_servers.own(18)
    with Store.open(server.uri()) as store:
        run = planned_run(store)
        server.restart(immediate=True)
        store.save_checkpoint(run.flow, run.run, CheckpointRow(unit="p0.0.0", seq=1))
        server.stop()
        with pytest.raises(StateUnreachableError, match="Connection refused") as caught:
            store.save_checkpoint(run.flow, run.run, CheckpointRow(unit="p0.0.0", seq=2))
        assert isinstance(caught.value, RetryableError)
        server.start()
        store.save_checkpoint(run.flow, run.run, CheckpointRow(unit="p0.0.0", seq=3))
        (kept,) = store.load_checkpoints(run.flow, run.run).values()
        assert kept.seq == 3


def test_a_transaction_whose_connection_is_lost_has_written_nothing(place: Database, store: Store) -> None:
    run = planned_run(store)
    with (
        pytest.raises(StateUnreachableError, match="what was not recorded is repeated"),
        store._writing(run.flow) as one,
    ):
        one.exec_driver_sql("DELETE FROM checkpoints")
        place.rows(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name LIKE 'dsync-state%'"
        )
        one.exec_driver_sql("SELECT 1")
    assert store.append_events(run.flow, [EventRow(name="e")]) == 1


def _lost_after(really: Commit) -> Commit:
    def commit(self: AnsweringConnection) -> None:
        really(self)
        self.pgconn.finish()
        raise psycopg.OperationalError("the connection is lost")

    return commit


def _lost_before(_: Commit) -> Commit:
    def commit(self: AnsweringConnection) -> None:
        self.pgconn.finish()
        raise psycopg.OperationalError("the connection is lost")

    return commit


def test_a_commit_whose_answer_is_lost_is_not_repeated(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server is asked how it ended: a request that was recorded is not recorded again."""
    run = planned_run(store)
    with monkeypatch.context() as patched:
        patched.setattr(AnsweringConnection, "commit", _lost_after(AnsweringConnection.commit))
        assert store.add_request(run.flow, "cancel").request == 1
    assert [request.request for request in store.list_requests(run.flow)] == [1]


def test_a_commit_that_did_not_arrive_is_an_error(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    run = planned_run(store)
    with monkeypatch.context() as patched:
        patched.setattr(AnsweringConnection, "commit", _lost_before(AnsweringConnection.commit))
        with pytest.raises(StateUnreachableError):
            store.add_request(run.flow, "cancel")
    assert store.list_requests(run.flow) == ()


def test_a_commit_that_nobody_can_be_asked_about_is_called_uncertain(
    own_servers: PgServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "_OUTCOME_WITHIN_S", 0.5)
    server = own_servers.own(18)
    with Store.open(server.uri()) as store:
        run = planned_run(store)
        really = AnsweringConnection.commit

        def commit(self: AnsweringConnection) -> None:
            really(self)
            server.stop("immediate")
            _lost_before(really)(self)

        with monkeypatch.context() as patched:
            patched.setattr(AnsweringConnection, "commit", commit)
            with pytest.raises(StateUncertainError, match="not known whether"):
                store.add_request(run.flow, "cancel")


async def test_a_silent_line_is_given_up_and_a_new_one_is_made(
    place: Database, store: Store, open_proxy: OpenProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that is stopped, or a network that swallows: every packet may be acknowledged, and no answer comes."""
    monkeypatch.setattr(answering, "ANSWER_WITHIN_S", 0.5)
    run = planned_run(store)
    proxy = await open_proxy(place.uri)
    with await asyncio.to_thread(Store.open, proxy.through(place.uri) + "?connect_timeout=2") as far:
        proxy.black_hole()
        with pytest.raises(StateUnreachableError, match=r"was lost|timeout expired"):
            await asyncio.to_thread(far.add_request, run.flow, "one")
        proxy.black_hole(False)
        proxy.cut()
        made = await asyncio.to_thread(far.add_request, run.flow, "two")
    assert [request.kind for request in store.list_requests(run.flow)][-1] == made.kind == "two"


async def test_a_lease_that_a_silent_server_does_not_renew_is_lost_when_it_ends(
    place: Database, open_proxy: OpenProxy
) -> None:
    """Not when the server answers at last; and nothing that follows waits for that either."""
    proxy = await open_proxy(place.uri)
    store = await asyncio.to_thread(Store.open, proxy.through(place.uri))
    flow = (await asyncio.to_thread(planned_run, store)).flow
    lease = await asyncio.to_thread(lambda: store.acquire_lease(flow, this_process(), ttl_s=1.5))
    lost: list[DsyncError] = []
    told = asyncio.Event()

    def on_lost(error: DsyncError) -> None:
        lost.append(error)
        told.set()

    async with asyncio.TaskGroup() as tasks, heartbeats(store, lease, tasks, on_lost):
        proxy.black_hole()
        began = time.monotonic()
        await told.wait()
        assert time.monotonic() - began < answering.ANSWER_WITHIN_S / 2
    assert [type(error) for error in lost] == [LeaseLostError]
    began = time.monotonic()
    await asyncio.to_thread(store.close)
    assert time.monotonic() - began < answering.ANSWER_WITHIN_S / 2


async def test_a_pooler_that_hands_every_transaction_to_another_backend_does_no_harm(own_servers: PgServers) -> None:
    """Settings, locks and the search path are the transaction's own, and no statement is prepared."""
    server = own_servers.own(18, auth="trust")
    async with MiniPooler(server.uri(), by_transaction=True) as pooler:

        def work(number: int) -> list[int]:
            with Store.open(pooler.uri) as store:
                run = planned_run(store, name=f"flow {number}")
                store.acquire_lease(run.flow, this_process())
                for seq in range(1, 16):
                    rows = [CheckpointRow(unit=f"p0.0.{place}", seq=seq) for place in range(3)]
                    store.save_checkpoints(run.flow, run.run, rows)
                    store.append_events(run.flow, [EventRow(name="e")])
                return [row.seq for row in store.load_checkpoints(run.flow, run.run).values()]

        with ThreadPoolExecutor(3) as threads:
            done = [asyncio.wrap_future(threads.submit(work, number)) for number in range(3)]
            assert await asyncio.gather(*done) == [[15] * 3] * 3
    with server.connect() as connection:
        kept = connection.execute("SELECT count(DISTINCT nspname) FROM pg_namespace WHERE nspname LIKE 'dsync%'")
        assert kept.fetchone() == (1,)


def test_many_coordinators_number_what_they_add_without_gaps(open_store: OpenStore) -> None:
    """To one flow and to their own, at once."""
    stores = [open_store() for _ in range(6)]
    shared = planned_run(stores[0]).flow

    def work(store: Store) -> None:
        own = planned_run(store, name=f"flow of {id(store)}")
        store.acquire_lease(own.flow, this_process())
        for _ in range(10):
            store.append_events(shared, [EventRow(name="a"), EventRow(name="b")])
            store.add_request(shared, "cancel")
            store.append_events(own.flow, [EventRow(name="c")])

    with ThreadPoolExecutor(len(stores)) as threads:
        list(threads.map(work, stores))
    assert [event.seq for event in stores[0].list_events(shared)] == list(range(1, 121))
    assert [request.request for request in stores[0].list_requests(shared)] == list(range(1, 61))


def test_a_session_that_keeps_a_flow_locked_is_named(
    place: Database, store: Store, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "_LOCK_TIMEOUT_S", 1)
    run, other = planned_run(store, name="a"), planned_run(store, name="b")
    waiting = open_store()
    with store._writing(run.flow), pytest.raises(StateBusyError, match=r"dsync-state .*pg_terminate_backend\(\d+\)"):
        waiting.add_request(run.flow, "cancel")
    with store._writing(run.flow):
        assert waiting.add_request(other.flow, "cancel").request == 1
    assert waiting.add_request(run.flow, "cancel").request == 1


@pytest.mark.parametrize("days", [1, -2])
def test_the_clock_of_the_server_decides_whatever_those_of_the_machines_say(
    place: Database, store: Store, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch, days: int
) -> None:
    """The other machine's time is days off, and it has been up for longer."""
    flow = planned_run(store).flow
    store.acquire_lease(flow, elsewhere(), ttl_s=600)
    real_time, real_uptime = time.time_ns, holder.uptime_us
    monkeypatch.setattr(time, "time_ns", lambda: real_time() + days * 86_400 * SECOND_US * 1000)
    monkeypatch.setattr(holder, "uptime_us", lambda: real_uptime() + 10**12)
    other = open_store()
    with pytest.raises(LeaseHeldError) as caught:
        other.acquire_lease(flow, this_process())
    assert 500 < caught.value.remaining_s <= 600
    assert not caught.value.here
    seen = other.get_lease(flow)
    assert seen is not None
    expires_s, now_s = place.rows("SELECT expires_at / 1e6, extract(epoch FROM now()) FROM dsync_state.leases")[0]
    assert 500 < float(expires_s - now_s) <= 600

    place.run("UPDATE dsync_state.leases SET expires_at = expires_at - 600 * 1000000")
    assert wait_for(lambda: other.acquire_lease(flow, this_process())).fence == 2


def test_a_commit_waits_for_the_disk_where_the_role_would_not(place: Database, open_store: OpenStore) -> None:
    place.run(f"ALTER DATABASE {place.name} SET synchronous_commit = off".encode())  # type: ignore[arg-type]
    store = open_store()
    with store._database.writing() as connection:
        assert connection.exec_driver_sql("SHOW synchronous_commit").scalar() == "on"
