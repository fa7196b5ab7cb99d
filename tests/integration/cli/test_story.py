"""The commands in the order in which a person meets them, on real servers."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator

import psycopg
import pytest

from tests.integration.cli.running import Dsync
from tests.support.databases import Database, DatabaseFactory


def _fill(uri: str) -> None:
    """Two tables with keys, one without, one empty, and what stands around them."""
    with psycopg.connect(uri, autocommit=True) as connection:
        for statement in (
            "CREATE SCHEMA shop",
            "CREATE TABLE shop.orders (id bigint PRIMARY KEY, customer text NOT NULL, total numeric(10,2))",
            "INSERT INTO shop.orders SELECT n, 'customer ' || n, n FROM generate_series(1, 5000) n",
            'CREATE TABLE shop."Odd Name" (id int PRIMARY KEY, note text)',
            "INSERT INTO shop.\"Odd Name\" SELECT n, repeat('x', 100) FROM generate_series(1, 200) n",
            "CREATE TABLE shop.log (at timestamptz, line text)",
            "INSERT INTO shop.log SELECT now(), 'line ' || n FROM generate_series(1, 300) n",
            "CREATE TABLE shop.empty (id int PRIMARY KEY)",
            "CREATE INDEX orders_customer ON shop.orders (customer)",
            "CREATE VIEW shop.large AS SELECT * FROM shop.orders WHERE total > 1000",
            "ANALYZE",
        ):
            connection.execute(statement.encode())


@pytest.fixture
def source(source_db: DatabaseFactory) -> Database:
    return source_db(_fill)


@pytest.fixture
def sink(sink_db: DatabaseFactory) -> Database:
    return sink_db()


def test_from_doctor_to_reset(dsync: Dsync, source: Database, sink: Database) -> None:
    """Look, plan, copy, repeat, compare, forget: each says what it found or did, and nothing else changes."""
    ends = (source.uri, sink.uri)

    looked = dsync("doctor", *ends, "--mode", "copy", "--json")
    assert (looked.exit_code, looked.json["ok"]) == (0, True), looked.stderr
    assert [end["role"] for end in looked.result["ends"]] == ["source", "sink"]

    planned = dsync("plan", *ends, "--mode", "copy", "--json")
    assert planned.exit_code == 0, planned.stderr
    assert planned.result["standing"] == "new"
    tables = {item["namespace"]: item for item in planned.result["namespaces"]}
    assert set(tables) == {"shop.orders", 'shop."Odd Name"', "shop.log", "shop.empty"}
    assert (tables["shop.orders"]["page_type"], tables["shop.orders"]["estimated_rows"]) == ("PG_COPY_BINARY", 5000)
    assert any("CREATE TABLE shop.orders" in statement for statement in planned.result["ddl"])
    assert planned.result["steps"]["index"] == 1
    assert sink.value("SELECT count(*) FROM pg_namespace WHERE nspname IN ('shop', '_dsync')") == 0
    assert not dsync.state.exists()

    copied = dsync("sync", *ends, "--mode", "copy", "--verify")
    assert copied.exit_code == 0, copied.stderr
    assert copied.stdout.startswith("copied 4 tables, 5,500 rows, ")
    assert "verify: 4 namespaces agree" in copied.stdout
    assert "copied" not in copied.stderr.splitlines()[-1] or "[info" in copied.stderr.splitlines()[-1]
    assert sink.value("SELECT sum(total) FROM shop.large") == source.value("SELECT sum(total) FROM shop.large")
    assert stat.S_IMODE(dsync.state.stat().st_mode) == 0o600

    repeated = dsync("sync", *ends, "--mode", "copy", "--json")
    assert (repeated.exit_code, repeated.result["moved_nothing"], repeated.result["rows"]) == (0, True, 5500)
    assert "finished at " in repeated.json["summary"]
    assert "nothing moved" in repeated.json["summary"]
    flow = repeated.result["flow"]

    replanned = dsync("plan", *ends, "--mode", "copy", "--json")
    assert (replanned.result["standing"], replanned.result["flow"]) == ("finished", flow)

    listed = dsync("flows", "--json")
    assert [(one["flow"], one["phase"], one["rows"]) for one in listed.result["flows"]] == [(flow, "done", 5500)]
    status = dsync("status", flow[:8], "--json")
    assert (status.result["consistent"], status.result["running"], status.result["dead_letters"]) == (True, False, 0)
    assert {item["namespace"]: item["rows"] for item in status.result["namespaces"]} == {
        "shop.orders": 5000,
        'shop."Odd Name"': 200,
        "shop.log": 300,
        "shop.empty": 0,
    }

    agreed = dsync("verify", flow, "--source", source.uri, "--sink", sink.uri, "--json")
    assert (agreed.exit_code, agreed.result["equal"], agreed.result["source_rows"]) == (0, True, 5500)

    sink.run("UPDATE shop.orders SET customer = 'canary' WHERE id = 7", "DELETE FROM shop.orders WHERE id = 8")
    differs = dsync("verify", *ends, "-n", "shop.orders")
    assert differs.exit_code == 4, differs.stderr
    assert "missing: id=8" in differs.stdout
    assert "different: id=7 in customer" in differs.stdout
    assert "canary" not in differs.stdout + differs.stderr
    shown = dsync("verify", *ends, "-n", "shop.orders", "--show-values", "--json")
    assert (shown.json["ok"], shown.json["error"]["exit_code"]) == (False, 4)
    assert '"target": "canary"' in json.dumps(shown.result)
    counted = dsync("verify", *ends, "--quick", "--json")
    assert (counted.exit_code, counted.result["target_rows"]) == (4, 5499)

    refused = dsync("reset", flow, "--sink", sink.uri)
    assert refused.exit_code == 2
    assert "give --yes" in refused.stderr
    forgotten = dsync("reset", flow, "--sink", sink.uri, "--yes", "--json")
    assert forgotten.exit_code == 0, forgotten.stderr
    assert forgotten.result["removed_at_sink"]
    assert forgotten.result["removed_from_state"]["flows"] == 1
    assert sink.value("SELECT count(*) FROM pg_namespace WHERE nspname = '_dsync'") == 0
    assert sink.value("SELECT count(*) FROM shop.orders") == 4999
    assert dsync("flows", "--json").result == {"flows": []}

    full = dsync("sync", *ends, "--mode", "copy", "--json")
    assert (full.exit_code, full.json["error"]["class"]) == (2, "SinkNotEmptyError")
    emptied = dsync("sync", *ends, "--mode", "copy", "--on-existing", "truncate", "--yes", "--verify", "--json")
    assert (emptied.exit_code, emptied.result["rows"], emptied.result["verify"]["equal"]) == (0, 5500, True)


def test_a_flow_file_and_references_stand_in_for_the_command_line(
    dsync: Dsync, source: Database, sink: Database
) -> None:
    """No password is typed or stored, so every later command finds its way alone."""
    path = dsync.directory / "flow.yaml"
    path.write_text("source: env:SOURCE\nsink: ${SINK_FILE}\nmode: copy\nflow: nightly\nnamespace: [shop.orders]\n")
    secret = dsync.directory / "sink.uri"
    secret.write_text(sink.uri + "\n")
    environ = {"SOURCE": source.uri, "SINK_FILE": f"file:{secret}"}

    copied = dsync("sync", "-c", str(path), "--json", **environ)
    assert copied.exit_code == 0, copied.stderr
    assert (copied.result["name"], copied.result["rows"]) == ("nightly", 5000)
    verified = dsync("verify", "nightly", "--json", **environ)
    assert (verified.exit_code, [item["source"] for item in verified.result["namespaces"]]) == (0, ["shop.orders"])
    for command in ("plan", "sync"):
        other = dsync(command, "-c", str(path), "-n", "shop.log", "--json", **environ)
        assert (other.exit_code, other.json["error"]["class"]) == (2, "FlowExistsError")
    assert dsync("status", "nightly", "--json").result["source"] == "env:SOURCE"
    assert dsync("reset", "nightly", "--yes", "--json", **environ).exit_code == 0


def test_lost_state_is_no_reason_to_keep_a_ledger(dsync: Dsync, source: Database, sink: Database) -> None:
    """`reset --sink` asks the sink, which remembers the flow."""
    copied = dsync("sync", source.uri, sink.uri, "--mode", "copy", "-n", "shop.log", "--flow", "old", "--json")
    assert copied.exit_code == 0, copied.stderr
    lose_state(dsync)

    unknown = dsync("reset", "other", "--sink", sink.uri, "--yes", "--json")
    assert (unknown.exit_code, "the sink has: old" in unknown.json["summary"]) == (2, True)
    forgotten = dsync("reset", "--sink", sink.uri, "--yes", "--json")
    assert forgotten.exit_code == 0, forgotten.stderr
    assert (forgotten.result["flow"], forgotten.result["name"]) == (copied.result["flow"], "old")
    assert sink.value("SELECT count(*) FROM pg_namespace WHERE nspname = '_dsync'") == 0


def test_inline_does_the_same_in_one_process(dsync: Dsync, source: Database, sink: Database) -> None:
    """For embedding and small machines."""
    copied = dsync("sync", source.uri, sink.uri, "--mode", "copy", "--attach", "inline", "--verify", "--json")

    assert copied.exit_code == 0, copied.stderr
    assert (copied.result["rows"], copied.result["verify"]["equal"]) == (5500, True)


@pytest.fixture
def reads_one(source: Database) -> Iterator[str]:
    """The source as a role that may read one table of four."""
    source.run(
        "CREATE ROLE reads_one LOGIN PASSWORD 'reads'",
        "GRANT USAGE ON SCHEMA shop TO reads_one",
        "GRANT SELECT ON shop.log TO reads_one",
    )
    yield source.server.uri(source.name, user="reads_one", password="reads")
    source.run("DROP OWNED BY reads_one", "DROP ROLE reads_one")


def test_the_doctor_looks_at_what_is_selected(dsync: Dsync, reads_one: str) -> None:
    """What a role may not read is no matter where it is not asked for; patterns are resolved first."""
    whole = dsync("doctor", reads_one, "--json")
    selected = dsync("doctor", reads_one, "-n", "shop.lo*", "--json")
    nothing = dsync("doctor", reads_one, "-n", "shop.none", "--json")

    assert whole.exit_code == 3
    assert {"shop.orders", "shop.empty"} <= {finding["object"] for finding in whole.result["findings"]}
    assert selected.exit_code == 0, selected.stdout
    assert (nothing.exit_code, nothing.json["error"]["class"]) == (2, "RequestError")


@pytest.mark.parametrize("command", ["doctor", "plan", "sync"])
def test_one_table_can_be_copied_by_a_role_that_reads_no_other(
    dsync: Dsync, reads_one: str, sink: Database, command: str
) -> None:
    """Findings on tables that are not selected stop nothing."""
    ended = dsync(command, reads_one, sink.uri, "-n", "log", "--mode", "copy", "--json")

    assert ended.exit_code == 0, ended.stdout


def test_a_plan_that_would_stop_exits_3_and_says_why(dsync: Dsync, source: Database, sink: Database) -> None:
    """As the doctor does; the sync then moves nothing."""
    source.run(
        "CREATE ROLE reads_little LOGIN PASSWORD 'reads'",
        "GRANT USAGE ON SCHEMA shop TO reads_little",
        "GRANT SELECT ON shop.log TO reads_little",
        "ALTER TABLE shop.log ENABLE ROW LEVEL SECURITY",
    )
    try:
        uri = source.server.uri(source.name, user="reads_little", password="reads")
        for command in ("doctor", "plan", "sync"):
            ended = dsync(command, uri, sink.uri, "--mode", "copy", "-n", "shop.log", "--json")
            assert ended.exit_code == 3, (command, ended.stdout, ended.stderr)
            assert "row" in json.dumps(ended.json).lower()
        alone = dsync("doctor", uri, "--json")
        assert (alone.exit_code, alone.result["findings"][0]["severity"]) == (3, "stop")
        assert sink.value("SELECT count(*) FROM pg_namespace WHERE nspname = 'shop'") == 0
    finally:
        source.run("DROP OWNED BY reads_little", "DROP ROLE reads_little")


def lose_state(dsync: Dsync) -> None:
    for path in dsync.state.parent.glob("state.db*"):
        path.unlink()


def test_what_only_the_sink_remembers_is_planned_as_the_sync_would_take_it_up(
    dsync: Dsync, source: Database, sink: Database
) -> None:
    """State lost, in the middle of a copy and after it: neither a new flow nor a sink that is not empty."""
    ends = (source.uri, sink.uri)
    # Pages as small as may be: the row it dies behind is in the middle of a table.
    command = ("sync", *ends, "--mode", "copy", "--page-bytes", "64KiB", "--json")
    dsync(*command, DSYNC_FAIL="coordinator.after_write:exit@3")
    lose_state(dsync)
    planned = dsync("plan", *ends, "--mode", "copy", "--json")
    assert (planned.exit_code, planned.result["standing"]) == (0, "goes on"), planned.stderr
    assert 0 < sum(item["copied_rows"] for item in planned.result["namespaces"]) < 5500
    examined = dsync("doctor", *ends, "--mode", "copy", "--json")
    assert examined.exit_code == 0, examined.stdout
    assert not dsync.state.exists()

    copied = dsync(*command)
    assert (copied.exit_code, copied.result["flow"]) == (0, planned.result["flow"]), copied.stderr
    lose_state(dsync)
    replanned = dsync("plan", *ends, "--mode", "copy", "--json")
    assert replanned.exit_code == 0, replanned.stderr
    assert (replanned.result["standing"], replanned.result["flow"]) == ("finished", copied.result["flow"])
    assert replanned.result["finished_at"]
    examined = dsync("doctor", *ends, "--mode", "copy", "--json")
    assert examined.exit_code == 0, examined.stdout
    again = dsync("plan", *ends, "--mode", "copy", "--again", "--json")
    assert (again.exit_code, again.result["standing"]) == (0, "again"), again.stderr
    assert not dsync.state.exists()


def test_a_sink_that_has_lost_a_finished_copy_is_reported_and_not_called_finished(
    dsync: Dsync, source: Database, sink: Database
) -> None:
    ends = (source.uri, sink.uri)
    assert dsync("sync", *ends, "--mode", "copy").exit_code == 0
    sink.run("DROP SCHEMA _dsync CASCADE")
    for command in ("plan", "sync"):
        refused = dsync(command, *ends, "--mode", "copy", "--json")
        assert (refused.exit_code, refused.json["error"]["class"]) == (3, "SinkForgotError"), refused.stdout
    found = {item["code"] for item in dsync("doctor", *ends, "--mode", "copy", "--json").result["findings"]}
    assert {"sink-put-back", "sink-forgot"} <= found
    sink.run("DROP SCHEMA shop CASCADE")
    planned = dsync("plan", *ends, "--mode", "copy", "--json")
    assert (planned.exit_code, planned.result["standing"]) == (0, "new"), planned.stdout
    copied = dsync("sync", *ends, "--mode", "copy", "--verify", "--json")
    assert (copied.exit_code, copied.result["rows"], copied.result["verify"]["equal"]) == (0, 5500, True)


def test_every_line_that_a_run_logs_names_its_flow(dsync: Dsync) -> None:
    copied = dsync("sync", "random://", "null://", "--mode", "copy", "--log-format", "json", "-v", "--json")
    assert copied.exit_code == 0, copied.stderr
    lines = [json.loads(line) for line in copied.stderr.splitlines()]
    said = [line for line in lines if line["event"] in ("phase_changed", "namespace_copied", "run_finished")]
    assert len(said) >= 4
    assert {(line["flow"], line["run"]) for line in said} == {(copied.result["flow"], copied.result["run"])}
