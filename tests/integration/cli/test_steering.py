"""`pause`, `resume`, `cancel` and `rate`: asked in one process, heeded in another, and none of them loses a row."""

from __future__ import annotations

import json
import signal
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from dsync.state import RequestRow, Store
from tests.integration.cli.running import Dsync, Running
from tests.support.databases import Database, DatabaseFactory
from tests.support.waiting import wait_for

ROWS = 6000
SLOW = "300/s"
"""Twenty seconds for all of them, a page of some sixty at a time."""
QUICK = ("--rate-limit", "1000000/s")
"""What a run that goes on is to have instead of the rate that the flow has."""
SUMS = "SELECT count(*), sum(hashtext(noise)::bigint) FROM big"
HOLDS_SNAPSHOT = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND backend_xmin IS NOT NULL"
    " AND state = 'idle in transaction'"
)


def _fill(uri: str) -> None:
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute("CREATE TABLE big (id int PRIMARY KEY, noise text)")
        connection.execute(
            "INSERT INTO big SELECT n, repeat(md5(n::text), 32) FROM generate_series(1, %s) n" % ROWS  # noqa: UP031
        )
        connection.execute("ANALYZE")


@pytest.fixture
def source(source_db: DatabaseFactory, monkeypatch: pytest.MonkeyPatch) -> Database:
    """Its password stands where a reference finds it again."""
    made = source_db(_fill)
    monkeypatch.setenv("SHOP_SOURCE", made.uri)
    return made


@pytest.fixture
def sink(sink_db: DatabaseFactory, monkeypatch: pytest.MonkeyPatch) -> Database:
    made = sink_db()
    monkeypatch.setenv("SHOP_SINK", made.uri)
    return made


def _command(*more: str, source: str = "env:SHOP_SOURCE") -> list[str]:
    chosen = ["--mode", "copy", "--page-bytes", "64KiB", "--flow", "shop", "--json"]
    return ["sync", source, "env:SHOP_SINK", *chosen, *more]


def _begun(dsync: Dsync, sink: Database, *more: str, source: str = "env:SHOP_SOURCE") -> Running:
    """A slow copy with some pages through."""
    running = dsync.start(*_command("--rate-limit", SLOW, *more, source=source))
    wait_for(lambda: _arrived(sink) > 0, timeout_s=60, what=lambda: running.printed)
    return running


def _arrived(sink: Database) -> int:
    if sink.value("SELECT to_regclass('big')") is None:
        return 0
    return int(sink.value("SELECT count(*) FROM big"))


def _requests(dsync: Dsync) -> tuple[RequestRow, ...]:
    with Store.open(dsync.state) as store:
        return store.list_requests(store.get_flow("shop").flow)


def _status(dsync: Dsync) -> dict[str, Any]:
    return dsync("status", "shop", "--json").result


def test_a_paused_copy_rests_with_its_snapshot_and_goes_on_with_it(
    dsync: Dsync, source: Database, sink: Database
) -> None:
    """What changes at the source meanwhile is not in it; another rate holds at once."""
    before = source.rows(SUMS)
    running = _begun(dsync, sink, "--progress", "json")

    paused = dsync("pause", "shop", "--json")
    assert paused.exit_code == 0, paused.stderr
    assert (paused.result["running"], paused.result["paused"]) == (True, True)
    asked = _requests(dsync)[0]
    assert asked.taken_at is not None
    assert asked.taken_at - asked.created_at < timedelta(seconds=5)

    # What is on its way is finished; then nothing comes any more, however much time passes.
    status = _status(dsync)
    arrived = _arrived(sink)
    again = _status(dsync)
    assert 0 < arrived == _arrived(sink) < ROWS
    assert (status["running"], status["paused"], status["phase"]) == (True, True, "copying")
    assert again["rows"] == arrived
    assert "dsync resume shop" in again["next_step"]
    assert "copying, paused, run by process" in dsync("status", "shop").stdout
    assert "copying (running, paused)" in dsync("flows").stdout
    assert dsync("pause", "shop").exit_code == 0
    assert len(_requests(dsync)) == 1
    assert source.value(HOLDS_SNAPSHOT) > 0
    source.run("UPDATE big SET noise = 'later'")

    assert dsync("rate", "shop", "none", "--json").result["rows_per_s"] is None
    resumed = dsync("resume", "shop", "--json")
    assert (resumed.exit_code, resumed.result["paused"]) == (0, False)
    ended = running.end()
    assert ended.exit_code == 0, ended.stderr
    assert ended.result["consistent"] is True
    assert sink.rows(SUMS) == before
    assert all(request.done_at for request in _requests(dsync))
    lines = [json.loads(line) for line in ended.stderr.splitlines() if line.startswith('{"type"')]
    said = [line["event"] for line in lines if line["type"] == "event"]
    assert [name for name in said if name.startswith(("run_", "rate_"))] == [
        "run_paused",
        "rate_changed",
        "run_resumed",
    ]
    assert any(line["is_paused"] for line in lines if line["type"] == "progress")
    assert not lines[-1]["is_paused"]


def test_another_rate_is_heeded_by_the_process_that_runs(dsync: Dsync, source: Database, sink: Database) -> None:
    """Where none does it is refused: a rate belongs to a process."""
    running = _begun(dsync, sink)
    faster = dsync("rate", "shop", "1000000/s", "1GiB/s", "--json")
    assert faster.result["rows_per_s"] == 1_000_000
    assert faster.result["bytes_per_s"] == 1 << 30
    assert running.end().exit_code == 0
    assert sink.rows(SUMS) == source.rows(SUMS)

    refused = dsync("rate", "shop", "5/s", "--json")
    assert refused.exit_code == 2
    assert "--rate-limit" in refused.json["summary"]


@pytest.mark.parametrize("way_on", ["resume", "again"])
def test_a_cancelled_run_ends_and_only_an_explicit_word_goes_on_with_it(
    dsync: Dsync, source: Database, sink: Database, way_on: str
) -> None:
    """Not the same command: whoever repeats it hourly does not undo the cancel."""
    running = _begun(dsync, sink)
    cancelled = dsync("cancel", "shop", "--json")
    ended = running.end()
    assert (cancelled.exit_code, cancelled.result["cancelled"]) == (0, True), cancelled.stderr
    assert (ended.exit_code, ended.json["error"]["class"]) == (143, "RunCancelledError")
    assert "dsync resume shop" in ended.json["summary"]
    arrived = _arrived(sink)
    assert 0 < arrived < ROWS
    status = _status(dsync)
    assert (status["phase"], status["running"]) == ("cancelled", False)
    # A page that arrived as the run ended may not be recorded yet; the sink's ledger has it.
    assert 0 < status["rows"] <= arrived
    assert "dsync resume shop" in status["next_step"]
    assert dsync("cancel", "shop", "--json").result["cancelled"] is False

    repeated = dsync(*_command())
    assert repeated.exit_code == 6
    assert "was cancelled at" in repeated.json["summary"]
    assert repeated.result["rows"] == status["rows"]
    assert _arrived(sink) == arrived

    plan = ["plan", *_command()[1:]]
    planned, planned_again = dsync(*plan).json, dsync(*plan, "--again").json
    assert planned["result"]["standing"] == "cancelled"
    assert "was cancelled at" in planned["summary"]
    assert planned_again["result"]["standing"] == "goes on"

    explicit = ["resume", "shop", *QUICK, "--json"] if way_on == "resume" else _command("--again")
    gone_on = dsync(*explicit)
    assert gone_on.exit_code == 0, gone_on.stderr
    assert gone_on.result["run_number"] == 1
    assert 0 < gone_on.result["moved_rows"] < ROWS
    assert sink.rows(SUMS) == source.rows(SUMS)


def test_a_flow_that_is_not_running_begins_paused(dsync: Dsync, source: Database, sink: Database) -> None:
    """Nothing is made at the sink until it is resumed."""
    assert dsync(*_command()).exit_code == 0
    marked = dsync("pause", "shop", "--json")
    assert (marked.exit_code, marked.result["running"]) == (0, False)
    sink.run("DROP TABLE big")
    source.run("UPDATE big SET noise = 'later' WHERE id = 1")

    running = dsync.start(*_command("--again"))
    running.wait_for("run_paused")
    status = _status(dsync)
    assert (status["running"], status["paused"]) == (True, True)
    assert sink.value("SELECT to_regclass('big')") is None
    resumed = dsync("resume", "shop", "--json")
    assert (resumed.exit_code, resumed.result["running"]) == (0, True)
    assert running.end().exit_code == 0
    assert sink.rows(SUMS) == source.rows(SUMS)


def test_a_paused_process_that_dies_leaves_a_paused_flow_which_resume_runs(
    dsync: Dsync, source: Database, sink: Database
) -> None:
    """In the foreground, by its stored specification; a signal to the paused process ends it as ever."""
    running = _begun(dsync, sink)
    assert dsync("pause", "shop").exit_code == 0
    running.send(signal.SIGKILL)
    running.end()
    status = _status(dsync)
    assert (status["running"], status["paused"]) == (False, True)
    assert "dsync resume shop" in status["next_step"]

    repeated = dsync.start(*_command())
    repeated.wait_for("run_paused")
    repeated.send(signal.SIGINT)
    assert repeated.end().exit_code == 130
    assert _arrived(sink) < ROWS

    resumed = dsync("resume", "shop", "--json")
    assert resumed.exit_code == 0, resumed.stderr
    assert resumed.result["run_number"] == 1
    assert sink.rows(SUMS) == source.rows(SUMS)
    assert _status(dsync)["paused"] is False


def test_a_run_that_was_killed_is_cancelled_without_it(dsync: Dsync, source: Database, sink: Database) -> None:
    """Nothing is contacted for that; a pause ends with it."""
    running = _begun(dsync, sink)
    assert dsync("pause", "shop").exit_code == 0
    running.send(signal.SIGKILL)
    running.end()
    cancelled = dsync("cancel", "shop", "--json")
    assert (cancelled.exit_code, cancelled.result["cancelled"]) == (0, True)
    status = _status(dsync)
    assert (status["phase"], status["paused"]) == ("cancelled", False)
    assert dsync(*_command()).exit_code == 6


def test_resume_names_what_it_needs_and_refuses_other_ends(dsync: Dsync, source: Database, sink: Database) -> None:
    """Exit code 2, and the flow stays as it was."""
    interrupted = _begun(dsync, sink, source=source.uri)
    interrupted.send(signal.SIGINT)
    assert interrupted.end().exit_code == 130
    assert dsync("pause", "shop").exit_code == 0

    unreachable = dsync("resume", "shop", "--json")
    assert unreachable.exit_code == 2
    assert "--source URI" in unreachable.json["summary"]
    elsewhere = dsync("resume", "shop", "--source", "random://?documents=5", "--json")
    assert elsewhere.exit_code == 2
    assert "names another server or database" in elsewhere.json["summary"]
    assert _status(dsync)["paused"] is True
    resumed = dsync("resume", "shop", "--source", "env:SHOP_SOURCE", *QUICK, "--json")
    assert resumed.exit_code == 0, resumed.stderr
    assert sink.rows(SUMS) == source.rows(SUMS)


@pytest.mark.parametrize("command", ["pause", "resume", "cancel", "rate"])
def test_a_flow_that_there_is_not_is_a_wrong_request(dsync: Dsync, command: str) -> None:
    """As everywhere."""
    refused = dsync(command, "other", *(["5/s"] if command == "rate" else []), "--json")
    assert (refused.exit_code, refused.json["error"]["class"]) == (2, "FlowNotFoundError")
