"""`dsync cutover`, as a person types it: what it promises, and each thing that keeps it from promising anything."""

from __future__ import annotations

import signal
from pathlib import Path

import psycopg
import pytest

from tests.integration.cli.running import Dsync, Ended
from tests.support.databases import Database, DatabaseFactory
from tests.support.waiting import wait_for


def _fill(uri: str) -> None:
    with psycopg.connect(uri, autocommit=True) as connection:
        for statement in (
            "CREATE TABLE orders (id serial PRIMARY KEY, total numeric, note text)",
            "INSERT INTO orders (total) SELECT n FROM generate_series(1, 300) n",
            "CREATE MATERIALIZED VIEW sums AS SELECT sum(total) AS total FROM orders",
            "ANALYZE",
        ):
            connection.execute(statement.encode())


_CONTENTS = "SELECT md5(string_agg(o::text, ',' ORDER BY id)) FROM orders o"


def _codes(ended: Ended) -> set[str]:
    return {reason["code"] for reason in ended.result["reasons"]}


def _is_writable(database: Database) -> bool:
    with database.connect() as connection:
        found = connection.execute("SHOW default_transaction_read_only").fetchone()
    return found == ("off",)


def _following(dsync: Dsync, source: Database, sink: Database, name: str = "move") -> None:
    done = dsync("sync", source.uri, sink.uri, "--until-caught-up", "--flow", name)
    assert done.exit_code == 0, done.stderr


def _words(source: Database, sink: Database, *more: str) -> tuple[str, ...]:
    return ("cutover", "move", "--json", "--yes", "--source", source.uri, "--sink", sink.uri, *more)


def test_a_flow_that_runs_is_taken_over_frozen_and_reversed(
    dsync: Dsync, source_db: DatabaseFactory, sink_db: DatabaseFactory
) -> None:
    """What was written last is there, and what is written at the sink afterwards comes back, and nothing else."""
    source, sink = source_db(_fill), sink_db()
    running = dsync.start("sync", source.uri, sink.uri, "--flow", "move")
    running.wait_for("streaming")
    source.run(
        "INSERT INTO orders (total) VALUES (1000)",
        "SELECT setval('orders_id_seq', 5000)",
        "REFRESH MATERIALIZED VIEW sums",
    )
    with source.connect() as application:
        done = dsync(*_words(source, sink, "--freeze", "--reverse"))
        assert done.exit_code == 0, (done.stdout, done.stderr)
        with pytest.raises(psycopg.OperationalError):
            application.execute("SELECT 1")
    taken = running.end()
    assert taken.exit_code == 143
    assert "dsync cutover" in taken.stderr
    found = done.result
    assert (found["safe"], found["reasons"], found["frozen"], found["drift"]) == (True, [], True, [])
    assert [one["id"] for one in found["sessions_ended"]]
    assert found["verify"]["equal"] is True
    assert sink.rows(_CONTENTS) == source.rows(_CONTENTS)
    assert sink.value("SELECT nextval('orders_id_seq')") == 5001
    assert sink.value("SELECT total FROM sums") == source.value("SELECT total FROM sums")
    assert not _is_writable(source)

    told_again = dsync(*_words(source, sink, "--freeze", "--reverse"))
    assert (told_again.exit_code, told_again.result["reverse"]) == (0, "move-back"), told_again.stderr
    assert "nothing was done now" in told_again.json["summary"]

    # The applications have switched.
    sink.run("INSERT INTO orders VALUES (6000, 1, 'written at the sink')", "DELETE FROM orders WHERE id = 1")
    assert source.value("SELECT count(*) FROM orders WHERE id = 6000") == 0, "it is paused"
    back_to = f"{source.uri}{'&' if '?' in source.uri else '?'}overrule_read_only=true"
    back = dsync("resume", "move-back", "--until-caught-up", "--json", "--source", sink.uri, "--sink", back_to)
    assert back.exit_code == 0, back.stderr
    assert sink.rows(_CONTENTS) == source.rows(_CONTENTS)
    # What the table looks like, a row that came and one that went; nothing of what the flow itself had applied.
    assert back.result["changes"] == 3
    assert sink.value("SELECT count(*) FROM pg_publication_tables WHERE schemaname = '_dsync'") == 0


def test_whoever_insists_on_writing_makes_it_unsafe_and_the_source_is_as_it_was(
    dsync: Dsync, source_db: DatabaseFactory, sink_db: DatabaseFactory, tmp_path: Path
) -> None:
    """A default is no lock: the proof finds what was written after the end mark, by table, and names drift as well."""
    source, sink = source_db(_fill), sink_db()
    _following(dsync, source, sink)
    # Without an identity it is not taken in when the flow is taken over.
    source.run("CREATE TABLE later (id int)", "CREATE INDEX by_total ON orders (total)")
    sink.run("ALTER TABLE orders ALTER COLUMN note SET DEFAULT 'other'")
    cutting = dsync.start(
        *_words(source, sink, "--freeze", "--timeout", "30s"), DSYNC_FAIL="cutover.after_verify:delay=3"
    )
    cutting.wait_for("verified")
    with source.connect() as stubborn:
        stubborn.execute("SET default_transaction_read_only = off")
        stubborn.execute("UPDATE orders SET note = 'late' WHERE id <= 7")
        stubborn.execute("SELECT nextval('orders_id_seq')")
    done = cutting.end()
    assert done.exit_code == 6, (done.stdout, done.stderr)
    assert _codes(done) == {"written", "sequences", "drift"}
    assert done.result["written"] == {"public.orders": 7}
    drift = {(item["kind"], item["object"]): item["is_unsafe"] for item in done.result["drift"]}
    assert drift["table", "public.later"] is True
    assert drift["index", "public.orders.by_total"] is False
    assert drift["default", "public.orders.note"] is False
    assert done.result["frozen"] is False
    assert _is_writable(source)
    source.run("DROP TABLE later")
    once_more = dsync(*_words(source, sink))
    assert (once_more.exit_code, once_more.result["safe"]) == (0, True), once_more.stdout
    assert _is_writable(source), "nobody asked for it to be frozen"


_SLOTS = "SELECT slot_name FROM pg_replication_slots WHERE database = current_database()"
CUTOVER_POINTS = (
    "cutover.before_catching_up",
    "cutover.before_freeze",
    "cutover.after_freeze",
    "cutover.after_end_mark",
    "cutover.after_schema",
    "cutover.after_verify",
    "cutover.after_reverse",
    "cutover.before_safe",
    "cutover.after_safe",
)


def test_killed_wherever_it_is_the_same_command_goes_on(
    dsync: Dsync, source_db: DatabaseFactory, sink_db: DatabaseFactory
) -> None:
    """However often it takes: the source is undone to what it was, not to what an earlier life had made of it."""
    source, sink = source_db(_fill), sink_db()
    _following(dsync, source, sink)
    arguments = _words(source, sink, "--freeze", "--reverse")
    *steps, last = CUTOVER_POINTS
    for point in steps:
        killed = dsync(*arguments, DSYNC_FAIL=f"{point}:exit")
        assert killed.exit_code == 137, (point, killed.stdout, killed.stderr)
    assert "RESET default_transaction_read_only" in dsync("status", "move", "--json").result["frozen"]
    of_an_attempt = sink.rows(_SLOTS)
    assert dsync(*arguments, DSYNC_FAIL=f"{last}:exit").exit_code == 137
    of_the_end = sink.rows(_SLOTS)
    assert of_the_end != of_an_attempt, "it would bring back what the flow has applied since it was made"
    again = dsync(*arguments)
    assert again.exit_code == 0, (again.stdout, again.stderr)
    assert again.result["safe"] is True
    source.run(again.result["undo"].encode())
    assert _is_writable(source)
    assert sink.rows(_SLOTS) == of_the_end
    assert len(of_the_end) == 1


def test_what_stands_against_it_is_said_before_and_whatever_ends_it_early_undoes_it(
    dsync: Dsync, source_db: DatabaseFactory, sink_db: DatabaseFactory
) -> None:
    """Nothing is frozen for a flow back that could not be; nor for a lag; and Ctrl-C leaves the source as it was."""
    source, sink = source_db(_fill), sink_db()
    source.run("CREATE TABLE log (line text)", "ALTER TABLE log REPLICA IDENTITY FULL", "INSERT INTO log VALUES ('a')")
    _following(dsync, source, sink)
    no_way_back = dsync(*_words(source, sink, "--freeze", "--reverse"))
    assert no_way_back.exit_code == 3, no_way_back.stdout
    assert "log" in no_way_back.json["error"]["message"]
    assert sink.value("SELECT count(*) FROM pg_replication_slots WHERE database = current_database()") == 0
    assert _is_writable(source)

    with sink.connect() as in_the_way:
        in_the_way.execute("BEGIN")
        in_the_way.execute("LOCK TABLE orders")
        source.run("UPDATE orders SET note = 'on its way' WHERE id = 3")
        late = dsync(*_words(source, sink, "--freeze", "--timeout", "1s"))
        assert (late.exit_code, _codes(late), late.result["undo"]) == (3, {"lag"}, None), late.stdout
    assert _is_writable(source)

    with source.connect() as application:
        application.execute("BEGIN")
        application.execute("UPDATE orders SET note = 'not yet' WHERE id = 4")
        cutting = dsync.start(*_words(source, sink, "--freeze"))
        wait_for(lambda: not _is_writable(source), what="the source to be read-only", timeout_s=60)
        cutting.send(signal.SIGINT)
        assert cutting.end().exit_code == 130
        assert _is_writable(source)
        application.execute("COMMIT")
    assert source.value("SELECT note FROM orders WHERE id = 4") == "not yet"
