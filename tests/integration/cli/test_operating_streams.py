"""A flow that follows, seen and steered from other processes: its figures, a pause, a cancel, and going on."""

from __future__ import annotations

import json
import re
import urllib.request
from typing import Any

import psycopg
import pytest

from tests.integration.cli.running import Dsync, Running
from tests.support.databases import Database, DatabaseFactory
from tests.support.waiting import wait_for

COMMAND = ("sync", "env:SHOP_SOURCE", "env:SHOP_SINK", "--flow", "shop", "--json")
SUMS = "SELECT count(*), sum(hashtext(noise)::bigint) FROM big"
SLOTS = "SELECT count(*) FROM pg_replication_slots WHERE database = current_database() AND NOT temporary"


def _fill(uri: str) -> None:
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute("CREATE TABLE big (id int PRIMARY KEY, noise text)")
        connection.execute("INSERT INTO big SELECT n, md5(n::text) FROM generate_series(1, 500) n")


@pytest.fixture
def source(source_db: DatabaseFactory, monkeypatch: pytest.MonkeyPatch) -> Database:
    made = source_db(_fill)
    monkeypatch.setenv("SHOP_SOURCE", made.uri)
    return made


@pytest.fixture
def sink(sink_db: DatabaseFactory, monkeypatch: pytest.MonkeyPatch) -> Database:
    made = sink_db()
    monkeypatch.setenv("SHOP_SINK", made.uri)
    return made


def _add(source: Database, first: int) -> None:
    source.run(
        f"INSERT INTO big SELECT n, md5(n::text) FROM generate_series({first}, {first + 99}) n"  # type: ignore[arg-type]
    )


def _until_equal(source: Database, sink: Database, running: Running) -> None:
    wait_for(lambda: sink.rows(SUMS) == source.rows(SUMS), timeout_s=60, what=lambda: running.printed)


def _metrics(running: Running) -> dict[str, float]:
    found = re.search(r"http://\S+/metrics", running.printed)
    assert found, running.printed
    with urllib.request.urlopen(found[0], timeout=30) as answer:
        lines = [line.rpartition(" ") for line in answer.read().decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


def _status(dsync: Dsync) -> dict[str, Any]:
    return dsync("status", "shop", "--json").result


def _told(running: Running) -> list[dict[str, Any]]:
    return [json.loads(line) for line in running.printed.splitlines() if line.startswith('{"type"')]


@pytest.mark.slow
def test_a_stream_is_seen_paused_resumed_cancelled_and_gone_on_with(
    dsync: Dsync, source: Database, sink: Database
) -> None:
    """By progress, metrics and the status of another process; no change is lost on the way."""
    running = dsync.start(*COMMAND, "--progress", "json", "--metrics", "0")
    running.wait_for("consistency_reached")
    _add(source, 1001)
    _until_equal(source, sink, running)
    wait_for(lambda: _metrics(running).get("dsync_changes_applied_total", 0) >= 100, timeout_s=30)
    figures = _metrics(running)
    assert figures['dsync_phase{phase="streaming"}'] == 1
    assert figures["dsync_consistent"] == 1
    assert figures["dsync_stream_heard_timestamp_seconds"] > 1_600_000_000
    wait_for(lambda: (_status(dsync)["stream"] or {}).get("changes", 0) >= 100, timeout_s=60)
    status = _status(dsync)
    assert (status["phase"], status["running"], status["consistent_at"] is not None) == ("streaming", True, True)
    shown = dsync("status", "shop").stdout
    assert re.search(r"stream .*changes? applied", shown), shown
    assert "source keeps" in shown
    wait_for(lambda: any((line.get("stream") or {}).get("changes", 0) >= 100 for line in _told(running)), timeout_s=30)

    assert dsync("pause", "shop").exit_code == 0
    _add(source, 2001)
    # What was read goes into the spool, and from there nowhere.
    wait_for(lambda: _metrics(running)["dsync_stream_lag_bytes"] > 0, timeout_s=30, what=lambda: running.printed)
    assert (_status(dsync)["paused"], sink.value("SELECT count(*) FROM big")) == (True, 600)
    assert dsync("resume", "shop").exit_code == 0
    _until_equal(source, sink, running)

    cancelled = dsync("cancel", "shop", "--json")
    assert cancelled.result["cancelled"] is True, cancelled.stderr
    assert "dsync reset shop" in cancelled.json["summary"]
    assert running.end().exit_code == 143
    assert source.value(SLOTS) == 1
    _add(source, 3001)
    assert dsync(*COMMAND).exit_code == 6
    assert sink.value("SELECT count(*) FROM big") == 700

    resumed = dsync("resume", "shop", "--until-caught-up", "--json")
    assert resumed.exit_code == 0, resumed.stderr
    assert sink.rows(SUMS) == source.rows(SUMS)
    forgotten = dsync("reset", "shop", "--yes", "--json")
    assert forgotten.exit_code == 0, forgotten.stderr
    assert source.value(SLOTS) == 0
