"""A source's process is killed at each step by which it begins to follow, and in the midst of the copy with it.

The writer never stops. A table with a key and one without arrive as they are at the end: nothing is lost or doubled.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import LiteralString

import psycopg
import pytest

from tests.crash.conftest import MakeFlow
from tests.crash.oracles import contents
from tests.support.databases import Database
from tests.support.waiting import wait_for

TABLES = ("public.busy", "public.keyless")
_HEX = "md5(g::text) || md5((-g)::text)"
_STEPS = {
    "source.after_publication": "source.after_publication:exit@1",
    "source.after_slot": "source.after_slot:exit@1",
    "source.after_snapshot": "source.after_snapshot:exit@2",
    "source.after_copy": "source.after_copy:exit@12",
    "source.before_verdicts": "source.before_verdicts:exit@1,source.before_copy:exit@14",
}


def _fill(uri: str) -> None:
    with psycopg.connect(uri, autocommit=True) as connection:
        for statement in (
            "CREATE TABLE busy (id int PRIMARY KEY, version int NOT NULL, filling text) WITH (fillfactor = 70)",
            "CREATE TABLE keyless (id int, version int NOT NULL, filling text)",
            "ALTER TABLE keyless REPLICA IDENTITY FULL",
            # Some values lie outside of their rows, and do not come with a change that leaves them alone.
            "ALTER TABLE busy ALTER filling SET STORAGE EXTERNAL",
            f"INSERT INTO busy SELECT g, 0, repeat({_HEX}, CASE g % 7 WHEN 0 THEN 60 ELSE 4 END)"
            " FROM generate_series(1, 6000) g",
            f"INSERT INTO keyless SELECT g / 2, 0, repeat({_HEX}, 4) FROM generate_series(1, 5000) g",
            "VACUUM (ANALYZE)",
        ):
            connection.execute(statement.encode())


@contextmanager
def _writing(database: Database) -> Iterator[None]:
    """An application that changes, moves, adds and removes rows, in both tables at once."""
    stop, written = threading.Event(), [0]

    def write() -> None:
        with database.connect() as connection:
            number = 0
            while not stop.is_set():
                number += 1
                key = number * 37 % 6000
                with connection.transaction():
                    connection.execute("UPDATE busy SET version = version + 1 WHERE id = %s", [key])
                    connection.execute("DELETE FROM busy WHERE id = %s", [(key + 3000) % 6000])
                    connection.execute("INSERT INTO busy VALUES (%s, 0, repeat('n', 200))", [10_000 + number])
                    connection.execute("UPDATE busy SET id = id + 1000000 WHERE id = %s", [(key + 1500) % 6000])
                    connection.execute("UPDATE keyless SET version = version + 1 WHERE id = %s", [key // 2])
                    connection.execute("INSERT INTO keyless VALUES (%s, 0, 'n'), (%s, 0, 'n')", [number, number])
                    connection.execute("DELETE FROM keyless WHERE id = %s AND filling = 'n'", [number // 2])
                written[0] = number

    thread = threading.Thread(target=write)
    thread.start()
    try:
        wait_for(lambda: written[0] > 3, what="a writer at work")
        yield
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize(("step", "fail"), _STEPS.items(), ids=_STEPS.keys())
def test_a_source_killed_while_it_begins_to_follow_loses_and_doubles_nothing(
    make_flow: MakeFlow, step: str, fail: str
) -> None:
    """What is there of publication and slot is found; a lost snapshot is no reason to stop, or to begin anew."""
    flow = make_flow(prepare=_fill, arguments=("--mode", "full", "--until-caught-up"))
    with _writing(flow.source):
        ending = flow.run(fail=fail, once=True)
    assert (flow.once / step).exists(), f"{step} was not reached\n{ending.log[-6000:]}"
    assert (ending.exit_code, ending.result["consistent"]) == (0, True), f"{ending.answer}\n{ending.log[-6000:]}"

    ending = flow.run()

    assert ending.exit_code == 0, ending.log[-6000:]
    assert contents(flow.sink, TABLES) == contents(flow.source, TABLES)
    kept = "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()"
    assert (flow.source.value(kept), flow.source.value("SELECT count(*) FROM pg_publication")) == (1, 1)


@pytest.mark.parametrize(
    ("table", "change"),
    [("busy", "TRUNCATE busy"), ("busy", "VACUUM FULL busy"), ("keyless", "CLUSTER keyless USING place")],
)
def test_a_table_that_is_rewritten_while_it_is_copied_arrives_all_the_same(
    make_flow: MakeFlow, table: str, change: LiteralString
) -> None:
    """Where a copy alone would stop: it is read again, and the stream tells what lies between."""
    flow = make_flow(prepare=_fill, arguments=("--mode", "full", "--until-caught-up", "-n", f"public.{table}"))
    flow.source.run("CREATE INDEX place ON keyless (id)")
    life = flow.start(fail="source.before_copy:stop@3", once=True)
    process = flow.paused_at("source.before_copy")
    flow.source.run(change, "INSERT INTO busy VALUES (999999, 0, 'x')", "INSERT INTO keyless VALUES (999999, 0, 'x')")
    process.resume()
    ending = life.wait()

    assert (ending.exit_code, ending.result["consistent"]) == (0, True), f"{ending.answer}\n{ending.log[-6000:]}"
    assert contents(flow.sink, [f"public.{table}"]) == contents(flow.source, [f"public.{table}"])
