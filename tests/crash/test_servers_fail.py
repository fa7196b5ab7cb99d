"""A server goes away, refuses or loses sessions in the middle of a copy; the command waits, and goes on by itself."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from psycopg import sql

from dsync.quickstart.servers import EmbeddedPostgres
from tests.crash.conftest import Disk, MakeFlow
from tests.crash.lives import Ending, Flow
from tests.crash.oracles import check_copy, check_repeat_moves_nothing, contents, watching
from tests.crash.tables import ALL, fill, writing
from tests.support.databases import Database, PgServers
from tests.support.waiting import wait_for


def database_on(server: EmbeddedPostgres, name: str, *, filled: bool = False) -> Database:
    uri = server.create_database(name, template="template0")
    if filled:
        fill(uri)
    return Database(server=server, name=name)


def retried(ending: Ending) -> bool:
    return bool(ending.events("call_retried") or ending.events("snapshot_lost"))


@pytest.mark.parametrize("step", ["source.before_copy", "source.after_copy"])
def test_a_source_server_that_crashes_is_waited_for(make_flow: MakeFlow, own_servers: PgServers, step: str) -> None:
    """Its unlogged tables are empty after that: those that had arrived are named, the others arrive empty."""
    server = own_servers.own(16)
    flow = make_flow(source=database_on(server, "shop", filled=True))
    life = flow.start(fail=f"{step}:stop@60", once=True)
    process = flow.paused_at(step)
    # A log that the crash cuts off before the snapshot's position would make every table doubtful, rightly.
    flow.source.run("CHECKPOINT")
    server.restart(immediate=True)
    process.resume()
    ending = life.wait()
    assert retried(ending)
    assert flow.source.value("SELECT count(*) FROM busy_unlogged") == 0
    check_copy(flow, ending)


def test_a_snapshot_whose_holder_is_ended_is_taken_anew(flow: Flow) -> None:
    """An administrator ends the session; the writer goes on meanwhile."""
    with writing(flow.source) as writer, watching(flow) as watcher:
        life = flow.start(fail="source.before_copy:stop@40", once=True)
        process = flow.paused_at("source.before_copy")
        assert flow.source.rows(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name LIKE '%source-holder%'"
        ) == [(True,)]
        writer.write_more()
        process.resume()
        ending = life.wait()
        history = watcher.history()
    assert ending.events("snapshot_lost")
    check_copy(flow, ending, expected=history[-1], before=history[:-1])


def test_a_sink_server_that_restarts_is_waited_for(make_flow: MakeFlow, own_servers: PgServers) -> None:
    server = own_servers.own(18)
    flow = make_flow(sink=database_on(server, "copy"))
    with writing(flow.source), watching(flow) as watcher:
        life = flow.start(fail="sink.before_commit:stop@40", once=True)
        process = flow.paused_at("sink.before_commit")
        server.restart()
        process.resume()
        ending = life.wait()
        (expected,) = watcher.history()
    assert retried(ending)
    assert ending.exit_code == 0
    check_copy(flow, ending, expected=expected)


@pytest.mark.parametrize("pages", [40, 90])
def test_a_sink_server_that_crashes_loses_its_unlogged_tables_alone(
    make_flow: MakeFlow, own_servers: PgServers, pages: int
) -> None:
    """They are empty then, and so is their ledger: what had arrived of them is copied again, nothing else is."""
    server = own_servers.own(18)
    flow = make_flow(sink=database_on(server, "copy"))
    life = flow.start(fail=f"sink.after_commit:stop@{pages}", once=True)
    process = flow.paused_at("sink.after_commit")
    server.restart(immediate=True)
    process.resume()
    ending = life.wait()
    assert ending.exit_code == 0, ending.log[-6000:]
    check_copy(flow, ending)


def test_a_sink_that_accepts_no_writes_for_a_while_is_waited_for(make_flow: MakeFlow) -> None:
    flow = make_flow()
    sink = sql.Identifier(flow.sink.name)
    life = flow.start(fail="sink.after_commit:stop@30", once=True)
    process = flow.paused_at("sink.after_commit")
    flow.sink.run(sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(sink))
    flow.end_sessions(flow.sink)
    process.resume()
    life.wait_for_log("SinkFullError")
    with flow.sink.connect() as connection:
        connection.execute("SET default_transaction_read_only = off")
        connection.execute(sql.SQL("ALTER DATABASE {} RESET default_transaction_read_only").format(sink))
    flow.end_sessions(flow.sink)
    ending = life.wait()
    assert ending.exit_code == 0
    check_copy(flow, ending)


def test_a_sink_whose_disk_is_full_goes_on_once_there_is_space(
    make_flow: MakeFlow, disk: Disk, own_servers: PgServers
) -> None:
    server = own_servers.own(18)
    place = disk.path / "space"
    place.mkdir()
    shutil.chown(place, "nobody")
    server.execute(sql.SQL("CREATE TABLESPACE small LOCATION {}").format(sql.Literal(str(place))))
    server.execute("CREATE DATABASE copy TEMPLATE template0 TABLESPACE small")
    server.execute("CHECKPOINT")
    disk.leave_free(3 * 1024 * 1024)
    flow = make_flow(sink=Database(server=server, name="copy"))
    life = flow.start()
    life.wait_for_log("SinkFullError")
    assert life.is_running
    disk.leave_free(100 * 1024 * 1024)
    ending = life.wait()
    assert ending.exit_code == 0
    check_copy(flow, ending)


@contextmanager
def set_back_afterwards(
    flow: Flow, server: EmbeddedPostgres, directory: Path, tables: Sequence[str] = ALL
) -> Iterator[None]:
    """Do something, then put the sink back to what it was before: its data directory is copied while it stands."""
    backup = directory / "backup"
    _wait_until_alone(flow)
    server.stop()
    subprocess.run(["cp", "-a", str(server.data_dir), str(backup)], check=True)
    server.start()
    yield
    further = _copied(flow, tables)
    _wait_until_alone(flow)
    server.stop()
    shutil.rmtree(server.data_dir)
    subprocess.run(["cp", "-a", str(backup), str(server.data_dir)], check=True)
    server.start()
    assert _copied(flow, tables) != further


def _copied(flow: Flow, tables: Sequence[str]) -> tuple[object, ...]:
    """What the sink has: its relations, and the rows of these tables."""
    relations = flow.sink.rows(
        "SELECT relname::text FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY 1"
    )
    return contents(flow.sink, tables), relations


def test_a_sink_that_was_put_back_to_an_older_state_is_filled_from_there(
    make_flow: MakeFlow, own_servers: PgServers, tmp_path: Path
) -> None:
    """The checkpoints are ahead of what the sink holds; its ledger has the last word."""
    server = own_servers.own(18)
    flow = make_flow(sink=database_on(server, "copy"))
    flow.run_until_killed("coordinator.after_write:exit@30")
    with set_back_afterwards(flow, server, tmp_path):
        flow.run_until_killed("coordinator.after_write:exit@40")
    ending = flow.run()
    check_copy(flow, ending)
    assert ending.exit_code == 0


def test_a_sink_that_forgot_that_a_table_was_begun_anew_does_not_keep_its_rows(
    make_flow: MakeFlow, own_servers: PgServers, tmp_path: Path
) -> None:
    """The rows of the first attempt are back, under units that nobody knows any more."""
    server = own_servers.own(18)
    flow = make_flow(sink=database_on(server, "copy"))
    with writing(flow.source) as writer:
        flow.run_until_killed("coordinator.after_write:exit@30")
        with set_back_afterwards(flow, server, tmp_path):
            writer.write_more()
            flow.run_until_killed("coordinator.before_finish")
            writer.write_more()
    ending = flow.run()
    check_copy(flow, ending)


@pytest.mark.parametrize("step", ["coordinator.after_write:exit@30", "coordinator.after_step:exit@2"])
def test_a_finished_copy_whose_sink_was_put_back_is_not_called_finished(
    make_flow: MakeFlow, own_servers: PgServers, tmp_path: Path, step: str
) -> None:
    """A backup from the middle of the copy: the same command goes on from there, steps and all."""
    server = own_servers.own(18)
    flow = make_flow(sink=database_on(server, "copy"))
    flow.run_until_killed(step)
    with set_back_afterwards(flow, server, tmp_path):
        check_copy(flow, flow.run())
    ending = flow.run()
    assert ending.events("sink_put_back")
    check_copy(flow, ending)
    assert ending.exit_code == 0
    assert ending.result["moved_nothing"] is False
    check_repeat_moves_nothing(flow, ending)


def test_a_finished_copy_whose_sink_was_put_back_to_before_it_is_made_again(
    make_flow: MakeFlow, own_servers: PgServers, tmp_path: Path
) -> None:
    server = own_servers.own(18)
    flow = make_flow(sink=database_on(server, "copy"))
    with set_back_afterwards(flow, server, tmp_path, tables=()):
        check_copy(flow, flow.run())
    ending = flow.run()
    check_copy(flow, ending)
    assert ending.exit_code == 0
    check_repeat_moves_nothing(flow, ending)


def test_a_finished_copy_whose_ledger_was_dropped_is_not_copied_over(flow: Flow) -> None:
    """Somebody has tidied up: the rows are there, and nothing says any more whose they are."""
    check_copy(flow, flow.run())
    before = contents(flow.sink)
    flow.sink.run("DROP SCHEMA _dsync CASCADE")
    for _ in range(2):
        refused = flow.run()
        assert refused.exit_code == 3
        assert refused.error["class"] == "SinkForgotError"
        assert "dsync reset" in refused.message
    assert contents(flow.sink) == before


def test_a_crash_after_the_copy_that_empties_unlogged_tables_is_made_good(
    make_flow: MakeFlow, own_servers: PgServers
) -> None:
    server = own_servers.own(18)
    flow = make_flow(sink=database_on(server, "copy"))
    check_copy(flow, flow.run())
    _wait_until_alone(flow)
    server.restart(immediate=True)
    assert flow.sink.value("SELECT count(*) FROM quiet_unlogged") == 0
    ending = flow.run()
    check_copy(flow, ending)
    assert 0 < ending.result["moved_rows"] < ending.result["rows"]
    check_repeat_moves_nothing(flow, ending)


def _wait_until_alone(flow: Flow) -> None:
    wait_for(lambda: not flow.processes(), timeout_s=20, what="the end of the plug-ins")
