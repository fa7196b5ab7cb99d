"""Row filters from plan to verify, on real servers."""

from __future__ import annotations

import psycopg
import pytest

from tests.integration.cli.running import Dsync
from tests.support.databases import Database, DatabaseFactory

OPEN = ("--filter", "orders=state = 'open' AND total % 10 <> 0")


def _fill(uri: str) -> None:
    """Rows that are kept lie among those that are not, whole blocks of them; one table has no key, one is a tree."""
    with psycopg.connect(uri, autocommit=True) as connection:
        for statement in (
            "CREATE TABLE orders (id int PRIMARY KEY, state text, total int, note text)",
            "INSERT INTO orders SELECT n, CASE WHEN n % 3 = 0 OR n > 6000 THEN 'done' ELSE 'open' END, n,"
            " repeat('x', 100) FROM generate_series(1, 9000) n",
            "CREATE TABLE log (line text, level int)",
            "INSERT INTO log SELECT 'line ' || n % 7, n % 4 FROM generate_series(1, 2000) n",
            "CREATE TABLE event (at int, what text) PARTITION BY RANGE (at)",
            "CREATE TABLE event_1 PARTITION OF event FOR VALUES FROM (0) TO (500)",
            "CREATE TABLE event_2 PARTITION OF event FOR VALUES FROM (500) TO (1000)",
            "INSERT INTO event SELECT n, 'x' FROM generate_series(0, 999) n",
            "ANALYZE",
        ):
            connection.execute(statement.encode())


@pytest.fixture
def source(source_db: DatabaseFactory) -> Database:
    return source_db(_fill)


@pytest.fixture
def sink(sink_db: DatabaseFactory) -> Database:
    return sink_db()


def test_only_the_rows_that_meet_the_condition_arrive(dsync: Dsync, source: Database, sink: Database) -> None:
    """In `plan` as an estimate, in the copy, in what proves it; the partitions of a tree are filtered with it."""
    ends = (source.uri, sink.uri)
    choice = (*OPEN, "--filter", "public.log=level > 1", "--filter", "event=at >= 100 AND at < 600", "--mode", "copy")
    choice += ("--page-bytes", "64KiB", "--attach", "inline")
    wanted = "SELECT array_agg(id ORDER BY id) FROM orders WHERE state = 'open' AND total % 10 <> 0"

    planned = dsync("plan", *ends, *choice, "--json")
    assert planned.exit_code == 0, planned.stderr
    estimates = {item["namespace"]: item["estimated_rows"] for item in planned.result["namespaces"]}
    assert estimates["public.orders"] < 9000
    assert estimates["public.log"] < 2000

    copied = dsync("sync", *ends, *choice, "--verify", "--json")
    assert copied.exit_code == 0, copied.stderr
    assert sink.value("SELECT array_agg(id ORDER BY id) FROM orders") == source.value(wanted)
    assert sink.rows("SELECT count(*), min(level) FROM log") == [(1000, 2)]
    assert sink.rows("SELECT min(at), max(at), count(*) FROM event") == [(100, 599, 500)]

    flow = copied.result["flow"]
    reached = ("--source", source.uri, "--sink", sink.uri, "--json")
    assert dsync("verify", flow, *reached).exit_code == 0
    assert dsync("verify", flow, *reached, "--quick").exit_code == 0
    assert dsync("verify", *ends, *choice, "--json").exit_code == 0
    # Without it everything that was left behind is missing.
    assert dsync("verify", *ends, "--json").exit_code == 4
    # A row that has left the condition since, and is still at the sink, is found.
    source.run("UPDATE orders SET state = 'done' WHERE id = 1")
    assert dsync("verify", flow, *reached).exit_code == 4


def test_a_run_that_was_cut_off_goes_on_with_its_condition(dsync: Dsync, source: Database, sink: Database) -> None:
    """Its snapshot is gone: what has provably not changed stays, and the proof counts the same rows."""
    command = ("sync", source.uri, sink.uri, *OPEN, "--mode", "copy", "--page-bytes", "64KiB", "--json")
    killed = dsync(*command, DSYNC_FAIL="coordinator.after_page:exit@3")
    assert killed.exit_code != 0

    ended = dsync(*command, "--verify")

    assert ended.exit_code == 0, ended.stderr
    assert "restarted" not in ended.stderr
    assert sink.value("SELECT count(*) FROM orders") == source.value(
        "SELECT count(*) FROM orders WHERE state = 'open' AND total % 10 <> 0"
    )


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ("orders=missing > 1", "missing"),
        ("orders=total", "boolean"),
        ("orders=random() < 0.5", "random()"),
        ("orders=id IN (SELECT 1)", "subqueries"),
        ("ordesr=id > 1", "ordesr"),
        ("orders", "NS=CONDITION"),
    ],
)
def test_a_wrong_condition_is_named_before_anything_is_made(
    dsync: Dsync, source: Database, sink: Database, condition: str, said: str
) -> None:
    ended = dsync("sync", source.uri, sink.uri, "--filter", condition, "--mode", "copy", "--json")
    assert ended.exit_code == 2, ended.stderr
    assert said in ended.json["summary"]
    assert sink.value("SELECT count(*) FROM pg_namespace WHERE nspname = '_dsync'") == 0


def test_two_conditions_for_one_table_are_refused(dsync: Dsync, source: Database, sink: Database) -> None:
    ended = dsync(
        "sync", source.uri, sink.uri, *OPEN, "--filter", "public.*=id > 1", "--mode", "copy", "--json"
    )  # fmt: skip
    assert ended.exit_code == 2
    assert "two filters" in ended.json["summary"]


def test_a_source_that_cannot_filter_says_so(dsync: Dsync) -> None:
    ended = dsync("sync", "random://x?documents=10", "null://", "--filter", "x=1", "--mode", "copy", "--json")
    assert ended.exit_code != 0
    assert "cannot filter rows" in ended.json["summary"]


def test_foreign_keys_onto_rows_that_stay_behind_are_named(dsync: Dsync, source: Database, sink: Database) -> None:
    """Before hours of copying end with a key that cannot be made."""
    source.run("CREATE TABLE item (id int PRIMARY KEY, orders int REFERENCES orders)")
    looked = dsync("doctor", source.uri, sink.uri, "--mode", "copy", "--filter", "orders=total < 10", "--json")
    found = {finding["code"]: finding for finding in looked.result["findings"]}
    assert found["filter-and-foreign-key"]["object"] == "public.item", looked.stderr
    assert "filter-and-foreign-key" not in str(dsync("doctor", source.uri, sink.uri, "--mode", "copy", "--json").result)
