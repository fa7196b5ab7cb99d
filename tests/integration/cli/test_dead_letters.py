"""Refused records: listed without what they hold, written again once and never over a newer row, or given up."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from dsync.app import dead_letters
from dsync.app.dead_letters import LettersRequest, RetryReport, retry_letters
from dsync.protocol.errors import PermanentError
from dsync.state.store import Store
from tests.crash.lives import Flow, short_directory
from tests.integration.cli.running import Dsync
from tests.integration.round_trip.running import Copier
from tests.support.databases import Database, DatabaseFactory

_CANARY = "canary-3e7b"


@pytest.fixture
def source(source_db: DatabaseFactory) -> Database:
    """Ten rows with a key, three without."""
    made = source_db()
    made.run(
        "CREATE TABLE checked (id int PRIMARY KEY, note text, price numeric(10,2))",
        f"INSERT INTO checked SELECT n, '{_CANARY} ' || n, n + 0.5 FROM generate_series(1, 10) n",
        "CREATE TABLE keyless (id int, note text)",
        f"INSERT INTO keyless SELECT n, '{_CANARY} ' || n FROM generate_series(1, 3) n",
        "ANALYZE",
    )
    return made


@pytest.fixture
def sink(sink_db: DatabaseFactory) -> Database:
    """Refuses three rows of the one table, and one of the other."""
    made = sink_db()
    made.run(
        "CREATE TABLE checked (id int PRIMARY KEY, note text, price numeric(10,2), CONSTRAINT no_low CHECK (id > 3))",
        "CREATE TABLE keyless (id int, note text, CONSTRAINT no_two CHECK (id <> 2))",
    )
    return made


def test_from_refused_to_landed(dsync: Dsync, source: Database, sink: Database) -> None:
    """Looked at, written again in vain, mended, written again but for a row that is newer, given up: exit 0."""
    command = ("sync", source.uri, sink.uri, "--mode", "copy", "--flow", "nightly", "--json")
    copied = dsync(*command)
    assert (copied.exit_code, copied.result["dead_letters"]) == (5, 4), copied.stderr

    listed = dsync("dead-letters", "list", "nightly", "--json")
    letters = listed.result["dead_letters"]
    assert sorted((one["namespace"], one["page_type"], one["resolution"] or "") for one in letters) == [
        *[("public.checked", "PG_COPY_BINARY", "")] * 3,
        ("public.keyless", "PG_COPY_BINARY", ""),
    ]
    assert any("no_low" in one["reason"] for one in letters)
    plainly = dsync("dead-letters", "list", "nightly", "-n", "keyless")
    assert plainly.exit_code == 0
    assert plainly.stdout.splitlines()[0].split() == ["ID", "TABLE", "REFUSED", "STATE", "REASON"]
    assert plainly.stdout.endswith("\n1 dead letter\n")

    shown = dsync("dead-letters", "show", "nightly")
    assert "no_low" in shown.stdout
    first = next(one["id"] for one in letters if one["namespace"] == "public.checked")
    values = dsync("dead-letters", "show", "nightly", first[:8], "--show-values")
    assert f"note   {_CANARY} " in values.stdout
    assert "price  \\x" in values.stdout
    for ended in (copied, listed, plainly, shown):
        assert _CANARY not in ended.stdout + ended.stderr

    vain = dsync("dead-letters", "retry", "nightly", "--sink", sink.uri, "--json")
    assert (vain.exit_code, vain.result["written"], vain.result["refused"]) == (5, 0, 4), vain.stderr
    assert vain.json["error"]["message"] == "the sink refused some records again"

    sink.run(
        "ALTER TABLE checked DROP CONSTRAINT no_low",
        "ALTER TABLE keyless DROP CONSTRAINT no_two",
        "INSERT INTO checked VALUES (2, 'newer', 0)",
    )
    again = dsync("dead-letters", "retry", "nightly", "--sink", sink.uri, "-v")
    assert again.exit_code == 5, again.stderr
    assert again.stdout.endswith("3 records written, 1 record refused again\n")
    assert "checked_pkey" in again.stdout
    assert _CANARY not in again.stdout + again.stderr
    assert sink.rows("SELECT id, note, price FROM checked WHERE id < 4 ORDER BY id") == [
        *source.rows("SELECT * FROM checked WHERE id = 1"),
        (2, "newer", 0),
        *source.rows("SELECT * FROM checked WHERE id = 3"),
    ]
    assert sink.value("SELECT count(*) FROM keyless") == 3
    assert dsync(*command).exit_code == 5

    unsaid = dsync("dead-letters", "drop", "nightly", "--yes", "--json")
    unasked = dsync("dead-letters", "drop", "nightly", "--all")
    assert (unsaid.exit_code, unasked.exit_code) == (2, 2)
    assert "give --yes" in unasked.stderr
    dropped = dsync("dead-letters", "drop", "nightly", "--all", "--yes", "--json")
    assert (dropped.exit_code, len(dropped.result["dropped"])) == (0, 1)

    assert dsync("dead-letters", "list", "nightly").stdout == "no dead letters\n"
    every = dsync("dead-letters", "list", "nightly", "--resolved", "--json").result["dead_letters"]
    assert sorted(one["resolution"] for one in every) == ["dropped", "retried", "retried", "retried"]
    assert all(one["size_bytes"] == 0 for one in every)
    nothing = dsync("dead-letters", "retry", "nightly", "--sink", "postgresql://127.0.0.1:1/none", "--json")
    assert (nothing.exit_code, nothing.result["written"]) == (0, 0)
    done = dsync(*command)
    assert (done.exit_code, done.result["dead_letters"]) == (0, 0), done.stderr
    assert dsync("status", "nightly", "--json").result["dead_letters"] == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("list", "nosuch"), "no flow nosuch"),
        (("show", "nightly", "zzz"), "no dead letter whose id begins with 'zzz'"),
        (("retry", "nightly", ""), "several dead letters whose id begins with ''"),
        (("retry", "nightly"), "give --sink URI"),
        (("list", "nightly", "-n", "re:("), "not a regular expression"),
    ],
)
def test_what_is_wrong_is_named(
    dsync: Dsync, source: Database, sink: Database, arguments: tuple[str, ...], said: str
) -> None:
    """Exit 2, and nothing is done."""
    dsync("sync", source.uri, sink.uri, "--mode", "copy", "--flow", "nightly", "--json")
    ended = dsync("dead-letters", *arguments, "--json")

    assert (ended.exit_code, said in ended.json["summary"]) == (2, True), ended.json["summary"]


@pytest.mark.parametrize("how", ["flags", "file"])
def test_a_table_stops_when_more_is_refused_than_allowed(
    dsync: Dsync, source: Database, sink: Database, how: str
) -> None:
    """With exit code 6, named with the limit; the other one is done."""
    ends = (source.uri, sink.uri, "--mode", "copy", "--json")
    if how == "file":
        (dsync.directory / "flow.yaml").write_text("dead-letters: {checked: 2, keyless: 1}\n")
        ended = dsync("sync", *ends, "-c", str(dsync.directory / "flow.yaml"))
    else:
        ended = dsync("sync", *ends, "--dead-letters", "checked=2", "--dead-letters", "10")

    assert ended.exit_code == 6, ended.stderr
    states = {item["namespace"]: (item["state"], item["reason"]) for item in ended.result["namespaces"]}
    assert states["public.keyless"][0] == "copied"
    state, reason = states["public.checked"]
    assert state == "stopped"
    assert "refused 3 of its records, more than the 2 allowed" in reason
    assert _CANARY not in json.dumps(ended.json) + ended.stderr


async def _retried(copier: Copier) -> RetryReport:
    return await retry_letters(
        LettersRequest(flow="nightly", state=str(copier.state)),
        sink=copier.sink.uri,
        attach="inline",
        on_wait=lambda _: None,
    )


@pytest.fixture
def copier(source: Database, sink: Database, tmp_path: Path) -> Copier:
    return Copier(source=source, sink=sink, state=tmp_path / "state.db", options={"flow": "nightly", "verify": False})


@pytest.mark.parametrize("data_type", ["auto", "bson"])
async def test_a_retry_that_dies_before_it_is_noted_writes_nothing_twice(
    copier: Copier, sink: Database, monkeypatch: pytest.MonkeyPatch, data_type: str
) -> None:
    """Also into a table without a key: the sink's ledger knows each record that has landed, in whatever form."""
    await copier(data_type=data_type)
    sink.run("ALTER TABLE checked DROP CONSTRAINT no_low", "ALTER TABLE keyless DROP CONSTRAINT no_two")

    def die(*_: object) -> None:
        raise PermanentError("killed here")

    with monkeypatch.context() as patched:
        patched.setattr(dead_letters, "_resolve", die)
        for _ in range(2):
            with pytest.raises(PermanentError, match="killed here"):
                await _retried(copier)
    report = await _retried(copier)

    assert (report.landed, report.exit_code) == (4, 0)
    assert sink.value("SELECT count(*) FROM keyless") == 3
    query = "SELECT * FROM checked ORDER BY id"
    assert sink.rows(query) == copier.source.rows(query)
    assert (await _retried(copier)).attempts == ()


async def test_foreign_keys_are_checked_and_triggers_fire(copier: Copier, source: Database, sink: Database) -> None:
    """The table is in use by now: a child waits for its parent, as it would for anybody."""
    source.run(
        "CREATE TABLE parent (id int PRIMARY KEY)",
        "CREATE TABLE child (id int PRIMARY KEY, parent int)",
        "INSERT INTO parent VALUES (1), (2)",
        "INSERT INTO child VALUES (7, 1), (8, 2)",
    )
    sink.run(
        "CREATE TABLE parent (id int PRIMARY KEY, CONSTRAINT no_one CHECK (id <> 1))",
        "CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent, CONSTRAINT no_seven CHECK (id <> 7))",
        "CREATE TABLE seen (id int)",
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN INSERT INTO public.seen VALUES (NEW.id); RETURN NEW; END'",
        "CREATE TRIGGER note BEFORE INSERT ON child FOR EACH ROW EXECUTE FUNCTION note()",
    )
    await copier(namespaces=("parent", "child"))
    assert sink.value("SELECT count(*) FROM seen") == 0
    sink.run("ALTER TABLE child DROP CONSTRAINT no_seven")

    orphaned = {attempt.letter.namespace: attempt.reason for attempt in (await _retried(copier)).attempts}
    assert "child_parent_fkey" in orphaned["public.child"]
    assert "no_one" in orphaned["public.parent"]
    assert sink.value("SELECT count(*) FROM child") == 1

    sink.run("ALTER TABLE parent DROP CONSTRAINT no_one")
    await _retried(copier)
    await _retried(copier)
    assert sink.rows("SELECT * FROM child ORDER BY id") == [(7, 1), (8, 2)]
    assert sink.rows("SELECT * FROM seen") == [(7,)]


async def test_a_table_that_was_written_by_key_is_not_written_over_either(
    copier: Copier, source: Database, sink: Database
) -> None:
    """--on-existing append goes by key; a retry does not."""
    sink.run("INSERT INTO checked VALUES (99, 'theirs', 0)")
    copied = await copier(on_existing="append")
    assert copied.result.dead_letters == 4, copied.explained()
    sink.run("ALTER TABLE checked DROP CONSTRAINT no_low", "INSERT INTO checked VALUES (1, 'newer', 0)")
    report = await _retried(copier)

    assert report.landed == 2
    assert sink.value("SELECT note FROM checked WHERE id = 1") == "newer"
    assert sink.value("SELECT count(*) FROM checked") == 11


async def test_again_takes_the_place_of_what_was_written_again(
    copier: Copier, source: Database, sink: Database
) -> None:
    """The rows of a retry are the flow's own: a new run may remove them with the others, and no one else's."""
    await copier()
    sink.run("ALTER TABLE checked DROP CONSTRAINT no_low", "ALTER TABLE keyless DROP CONSTRAINT no_two")
    assert (await _retried(copier)).landed == 4
    source.run("UPDATE keyless SET note = 'changed'", "UPDATE checked SET note = 'changed'")
    again = await copier(again=True)

    assert again.exit_code == 0, again.explained()
    for table in ("checked", "keyless"):
        query = f"SELECT * FROM {table} ORDER BY id"
        assert sink.rows(query) == source.rows(query)


_ROWS = 3000
_REFUSED = (10, 11, 700)


@pytest.fixture
def flow(source: Database, sink: Database, tmp_path: Path) -> Iterator[Flow]:
    """A command in several lives over one table of many pages, three rows of which the sink refuses."""
    source.run(
        "DROP TABLE checked, keyless",
        "CREATE TABLE refusing (id int, filling text)",
        f"INSERT INTO refusing SELECT n, repeat(md5(n::text), 12) FROM generate_series(1, {_ROWS}) n",
        "VACUUM ANALYZE refusing",
    )
    sink.run(
        "DROP TABLE checked, keyless",
        f"CREATE TABLE refusing (id int CONSTRAINT listed CHECK (id NOT IN {_REFUSED}), filling text)",
    )
    with short_directory() as runtime:
        made = Flow(source=source, sink=sink, directory=tmp_path, runtime=runtime, parallel=1)
        yield made
        made.end()


def test_records_that_landed_later_are_no_change_of_the_source(flow: Flow) -> None:
    """Between two lives of a run: the recount after the lost snapshot knows that their rows were refused once."""
    flow.run_until_killed("coordinator.after_page:exit@4")
    flow.sink.run("ALTER TABLE refusing DROP CONSTRAINT listed")
    with Store.open(str(flow.state)) as store:
        (known,) = store.list_flows()
    report = asyncio.run(
        retry_letters(
            LettersRequest(flow=known.flow.flow, state=str(flow.state)),
            sink=flow.sink.uri,
            attach="inline",
            on_wait=lambda _: None,
        )
    )
    ending = flow.run()

    assert report.landed >= 2
    assert ending.exit_code in (0, 5), ending.log
    assert ending.events("namespace_restarted") == []
    assert flow.sink.value("SELECT count(*) FROM refusing") == _ROWS
    assert flow.sink.value("SELECT count(DISTINCT id) FROM refusing") == _ROWS
