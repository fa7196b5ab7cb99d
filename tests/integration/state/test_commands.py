"""Commands whose state is on a server: they find what another machine has recorded, and show no password."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.integration.cli.running import Dsync, Ended
from tests.support.databases import Database, DatabaseFactory


@pytest.fixture
def ends(source_db: DatabaseFactory, sink_db: DatabaseFactory) -> tuple[Database, Database]:
    source, sink = source_db(), sink_db()
    source.run("CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t SELECT generate_series(1, 100)")
    return source, sink


def test_a_flow_is_found_shown_and_forgotten_from_any_machine(
    dsync: Dsync, place: Database, ends: tuple[Database, Database]
) -> None:
    """By a URI with the password elsewhere, or in it; what is printed has neither."""
    source, sink = ends
    password = urlsplit(place.uri).password
    assert password
    said: list[Ended] = []

    def run(*words: str, state: str = place.uri) -> Ended:
        said.append(dsync(*words, "--state", state, STATE=place.uri, SINK=sink.uri, WORD=password))
        return said[-1]

    without = place.uri.replace(f":{password}@", "@") + "?password=env:WORD"
    copied = run("sync", source.uri, "env:SINK", "--mode", "copy", "--flow", "shop", "--json")
    assert copied.result["moved_rows"] == 100, copied.stderr
    assert run("sync", source.uri, "env:SINK", "--mode", "copy", "--flow", "shop", "--json", state="env:STATE").result[
        "moved_nothing"
    ]
    assert [flow["name"] for flow in run("flows", "--json", state=without).result["flows"]] == ["shop"]
    status = run("status", "shop", "--json").result
    assert (status["phase"], status["rows"]) == ("done", 100)
    assert "--state" in status["command"]
    assert run("status", "nobody").exit_code == 2
    assert run("reset", "shop", "--yes", "--json").result["removed_from_state"]["flows"] == 1
    assert run("flows", "--json").result["flows"] == []
    assert run("flows", state=place.uri.replace(place.name, "absent")).exit_code == 3
    assert not dsync.state.exists(), "the state is elsewhere"
    for ended in said:
        assert password not in ended.stdout + ended.stderr


def test_the_flow_file_names_the_state(dsync: Dsync, place: Database, tmp_path: Path) -> None:
    file = tmp_path / "flow.yaml"
    file.write_text("state: ${STATE}?schema=team\n")
    ended = dsync("flows", "-c", str(file), "--json", STATE=place.uri)
    assert ended.result == {"flows": []}
    assert place.value("SELECT count(*) FROM pg_namespace WHERE nspname = 'team'") == 0, "looking makes nothing"


def test_the_quickstart_leaves_nothing_in_a_state_that_others_use(dsync: Dsync, place: Database) -> None:
    ended = dsync("quickstart", "--rows", "500", "--state", place.uri, "--json")
    assert ended.result["rows"] > 0, ended.stderr
    assert place.value("SELECT count(*) FROM dsync_state.alembic_version") == 1
    assert place.value("SELECT count(*) FROM dsync_state.flows") == 0


def test_a_flow_is_steered_from_another_machine(
    place: Database, ends: tuple[Database, Database], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paused, resumed and cancelled by whoever shares the state; `resume` runs it there, with the state's password."""
    source, sink = ends
    # Several pages, of which one a minute comes until it is paused.
    source.run("INSERT INTO t SELECT generate_series(101, 30000)")
    monkeypatch.setenv("SOURCE", source.uri)
    monkeypatch.setenv("SINK", sink.uri)
    first, second = (Dsync(directory=tmp_path / name) for name in ("first", "second"))
    for machine in (first, second):
        machine.directory.mkdir()
    command = ("sync", "env:SOURCE", "env:SINK", "--mode", "copy", "--flow", "shop", "--state", place.uri, "--json")
    try:
        assert second("pause", "shop", "--state", place.uri).exit_code == 2
        running = first.start(*command, "--rate-limit", "1/s", "--page-bytes", "64KiB")
        running.wait_for("phase=copying")
        paused = second("pause", "shop", "--state", place.uri, "--json")
        assert (paused.exit_code, paused.result["running"]) == (0, True), paused.stderr
        # As status prints it, the state's password is not in it.
        assert "--state" in paused.json["summary"]
        assert second("resume", "shop", "--state", place.uri).exit_code == 0
        cancelled = second("cancel", "shop", "--state", place.uri, "--json")
        assert cancelled.exit_code == 0, cancelled.stderr
        running.end()

        resumed = second("resume", "shop", "--rate-limit", "none", "--state", place.uri, "--json")
        assert resumed.exit_code == 0, resumed.stderr
        assert sink.value("SELECT count(*) FROM t") == 30000
        password = urlsplit(place.uri).password
        assert password
        for ended in (paused, cancelled, resumed):
            assert password not in ended.stdout + ended.stderr
    finally:
        first.close()
        second.close()
