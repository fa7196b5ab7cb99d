"""Tables that are not there, not free, or not what they were: named before a row moves, or stopped alone."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from typing import LiteralString

import psutil
import psycopg
import pytest
from psycopg import sql

from tests.integration.cli.running import Ended, Running
from tests.integration.wrong_input.conftest import Ends
from tests.integration.wrong_input.guarded import GuardedDsync, contents, new_login
from tests.support.databases import DatabaseFactory
from tests.support.waiting import wait_for

COPY = ("--mode", "copy")


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("-n", "nope.*"), ("'nope.*'", "matches nothing", "dsync plan")),
        (("-n", "shop.orders", "-n", "re:^other"), ("'re:^other'", "matches nothing")),
        (("-n", "shop.Orders"), ("shop.Orders", "matches nothing")),
        (("-n", "shop.orders:shop.x", "-n", "shop.log:shop.x"), ("shop.orders", "shop.log", "shop.x", "map one")),
        (("-n", "shop.*:shop.x"), ("shop.*:shop.x",)),
        (("-n", "re:("), ("re:(",)),
        (("-n", "shop.orders:other.orders"), ("other.orders", "keep the name")),
        (("-n", "shop.orders", "--schema", "none"), ("shop.orders", "--schema copy")),
    ],
    ids=lambda value: " ".join(value) if value[0].startswith("-") else "",
)
def test_a_choice_of_tables_that_cannot_be_meant_is_refused(
    dsync: GuardedDsync, ends: Ends, options: tuple[str, ...], said: tuple[str, ...]
) -> None:
    """Exit 2, naming the pattern or both tables, before anything is made."""
    message = dsync.refused("sync", *ends.uris, *COPY, *options, exit_code=2)

    for text in said:
        assert text in message


@pytest.fixture
def occupied(ends: Ends) -> Ends:
    """The sink has a table of the same name with somebody's row."""
    ends.sink.run(
        "CREATE SCHEMA shop",
        "CREATE TABLE shop.log (line text)",
        "INSERT INTO shop.log VALUES ('theirs')",
    )
    return ends


@pytest.mark.usefixtures("occupied", "untouched")
@pytest.mark.parametrize("policy", [(), ("--on-existing", "error"), ("--on-existing", "resume")], ids=" ".join)
def test_rows_of_others_are_neither_mixed_nor_removed(dsync: GuardedDsync, ends: Ends, policy: tuple[str, ...]) -> None:
    """Exit 2 with the table and the choices; the tables that could have been made are not made either."""
    message = dsync.refused("sync", *ends.uris, *COPY, *policy, exit_code=2)

    for text in ("shop.log", "nothing was changed", "--on-existing", "append", "truncate", "drop"):
        assert text in message


def test_append_needs_a_key_to_write_by(dsync: GuardedDsync, occupied: Ends) -> None:
    """Without one nobody could tell a row that is there already; the table has to change, or the request."""
    before = contents(occupied.sink)

    message = dsync.refused("sync", *occupied.uris, *COPY, "--on-existing", "append", exit_code=3)

    for text in ("shop.log", "no primary key", "add one, or copy into an empty table"):
        assert text in message
    assert contents(occupied.sink) == before


# ------------------------------------------------------------------------------ changed while copied

CHANGES: dict[str, LiteralString] = {
    "dropped": "DROP TABLE dropped",
    "vacuumed": "VACUUM FULL vacuumed",
    "clustered": "CLUSTER clustered USING clustered_pkey",
    "truncated": "TRUNCATE truncated",
    "retyped": "ALTER TABLE retyped ALTER COLUMN n TYPE bigint",
    "widened": "ALTER TABLE widened ADD COLUMN late int DEFAULT 7",
    "narrowed": "ALTER TABLE narrowed DROP COLUMN n",
    "renamed": "ALTER TABLE renamed RENAME TO other_name",
    "replaced": "DROP TABLE replaced; CREATE TABLE replaced (id int PRIMARY KEY, n int, noise text)",
}
"""What befalls a table of that name."""
PAGES = 16


def _fill(uri: str) -> None:
    """A table of a few pages for each of them, and one that nothing happens to."""
    with psycopg.connect(uri, autocommit=True) as connection:
        for name in (*CHANGES, "quiet"):
            table = sql.Identifier(name)
            connection.execute(sql.SQL("CREATE TABLE {} (id int PRIMARY KEY, n int, noise text)").format(table))
            connection.execute(
                sql.SQL("INSERT INTO {} SELECT n, n, repeat(md5(n::text), 31) FROM generate_series(1, {}) n").format(
                    table, sql.Literal(PAGES * 64)
                )
            )
        connection.execute("ANALYZE")


@pytest.fixture
def large(source_db: DatabaseFactory, sink_db: DatabaseFactory) -> Ends:
    """Tables of several pages each."""
    source, sink = source_db(_fill), sink_db()
    return Ends(source=source, sink=sink, source_uri=new_login(source), sink_uri=new_login(sink))


Paused = Callable[..., Running]


@pytest.fixture
def paused(dsync: GuardedDsync, large: Ends) -> Iterator[Paused]:
    """Starts a copy that stands still when every table has been begun and none is done, until it gets SIGCONT."""
    started: list[Running] = []

    def start(*options: str) -> Running:
        tables = len(CHANGES) + 1
        running = dsync.start(
            *("sync", *large.uris, *COPY, "--page-bytes", "64KiB", "--parallel", str(tables), "--json", *options),
            DSYNC_FAIL=f"coordinator.after_page:stop@{2 * tables}",
        )
        started.append(running)
        process = psutil.Process(running.process.pid)
        wait_for(lambda: process.status() in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE), timeout_s=60)
        assert process.status() == psutil.STATUS_STOPPED, running.end()
        return running

    yield start
    for running in started:
        if running.process.poll() is None:
            running.send(signal.SIGCONT)


def go_on(running: Running) -> Ended:
    running.send(signal.SIGCONT)
    return running.end()


def test_tables_that_change_under_the_copy_stop_alone(dsync: GuardedDsync, large: Ends, paused: Paused) -> None:
    """Exit 6 with each name and the way on; the others arrive. The way on then leads to an equal copy."""
    running = paused()
    large.source.run(*CHANGES.values())
    ended = go_on(running)

    assert ended.exit_code == 6, ended.json["summary"]
    found = {item["namespace"].removeprefix("public."): item for item in ended.result["namespaces"]}
    states = {name: item["state"] for name, item in found.items()}
    assert states == {**dict.fromkeys(CHANGES, "stopped"), "quiet": "copied"}
    for name in CHANGES:
        assert f"reading public.{name}: " in found[name]["reason"]
        assert "--again" in found[name]["reason"]
        assert f"stopped: public.{name}" in ended.json["summary"]
    assert ended.result["consistent"] is False
    assert large.sink.value("SELECT count(*) FROM quiet") == PAGES * 64

    # The sink's tables have the columns of then: being the flow's own, they are made anew.
    again = dsync.here("sync", *large.uris, *COPY, "--again", "--verify", "--json")
    assert (again.exit_code, again.result["consistent"]) == (0, True), again.json["summary"]
    assert again.result["verify"]["equal"]
    for name in ("dropped", "renamed"):
        assert f"the source has no public.{name} any more; at the sink it stays, incomplete" in again.stderr


def test_a_table_dropped_at_the_sink_stops_alone(dsync: GuardedDsync, large: Ends, paused: Paused) -> None:
    """Exit 6, naming it; nobody makes it anew behind the back of whoever dropped it, before being asked to."""
    running = paused()
    large.sink.run("DROP TABLE dropped")
    ended = go_on(running)

    assert ended.exit_code == 6, ended.json["summary"]
    assert [item["namespace"] for item in ended.result["namespaces"] if item["state"] != "copied"] == ["public.dropped"]
    assert "stopped: public.dropped: writing public.dropped: " in ended.json["summary"]
    assert "the table was dropped or altered since the flow began" in ended.json["summary"]
    again = dsync.here("sync", *large.uris, *COPY, "--again", "--verify", "--json")
    assert (again.exit_code, again.result["consistent"]) == (0, True), again.json["summary"]
