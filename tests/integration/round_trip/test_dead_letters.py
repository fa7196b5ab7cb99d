"""Rows that the sink refuses: the others land, these are listed, and they do not count as a change of the source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from dsync.state import DeadLetterRow
from dsync.state.store import Store
from tests.crash.lives import Flow, short_directory
from tests.integration.round_trip.judge import contents
from tests.integration.round_trip.running import Copier
from tests.support.databases import Database

_ROWS = 3000
_REFUSED = {10, 11, 700, 1500, 1501}
"""Alone and side by side; of every table that a test of lost snapshots copies the first page has some."""


def _letters(state: Path) -> list[DeadLetterRow]:
    store = Store.open(str(state))
    try:
        (listed,) = store.list_flows()
        run = store.latest_run(listed.flow.flow)
        assert run is not None
        return list(store.list_dead_letters(run.flow, run.run))
    finally:
        store.close()


async def test_good_rows_land_and_bad_ones_are_listed(source: Database, sink: Database, copier: Copier) -> None:
    """Each constraint of the sink refuses rows of its own, and the reason names it and no value."""
    source.run(
        "CREATE TABLE checked (id int PRIMARY KEY, v text)",
        "CREATE TABLE required (id int PRIMARY KEY, v text)",
        "CREATE TABLE single (id int PRIMARY KEY, v text)",
        "CREATE TABLE fine (id int PRIMARY KEY, v text)",
        "INSERT INTO checked SELECT n, 'canary ' || n FROM generate_series(1, 100) n",
        "INSERT INTO required SELECT n, CASE WHEN n % 10 > 0 THEN 'v' || n END FROM generate_series(1, 100) n",
        "INSERT INTO single SELECT n, 'canary ' || n % 98 FROM generate_series(1, 100) n",
        "INSERT INTO fine SELECT n, 'v' || n FROM generate_series(1, 100) n",
    )
    sink.run(
        "CREATE TABLE checked (id int PRIMARY KEY, v text CONSTRAINT not_ninety CHECK (v !~ '9[0-9]$'))",
        "CREATE TABLE required (id int PRIMARY KEY, v text NOT NULL)",
        "CREATE TABLE single (id int PRIMARY KEY, v text CONSTRAINT only_one UNIQUE)",
    )

    copied = await copier(verify=False)

    assert copied.exit_code == 5, copied.explained()
    assert copied.rows == {
        "public.checked": 90,
        "public.required": 90,
        "public.single": 98,
        "public.fine": 100,
    }
    assert {name: item.dead_letters for name, item in copied.tables.items()} == {
        "public.checked": 10,
        "public.required": 10,
        "public.single": 2,
        "public.fine": 0,
    }
    assert sink.rows("SELECT id FROM required ORDER BY id") == [(n,) for n in range(1, 101) if n % 10]
    assert sink.value("SELECT count(*) FROM checked WHERE v ~ '9[0-9]$'") == 0
    assert sink.value("SELECT count(DISTINCT v) FROM single") == 98
    letters = _letters(copier.state)
    assert Counter(letter.namespace for letter in letters) == {
        "public.checked": 10,
        "public.required": 10,
        "public.single": 2,
    }
    reasons = {letter.namespace: letter.reason for letter in letters}
    assert "not_ninety" in reasons["public.checked"]
    assert "column v" in reasons["public.required"]
    assert "only_one" in reasons["public.single"]
    assert not any("canary" in letter.reason for letter in letters)


async def test_a_row_that_is_refused_is_missing_for_verify(source: Database, sink: Database, copier: Copier) -> None:
    """Differences outweigh dead letters: exit 4."""
    source.run("CREATE TABLE checked (id int PRIMARY KEY)", "INSERT INTO checked SELECT generate_series(1, 20)")
    sink.run("CREATE TABLE checked (id int PRIMARY KEY CHECK (id <> 7))")

    copied = await copier()

    assert (copied.exit_code, copied.result.exit_code) == (4, 5), copied.explained()
    assert copied.outcome.verify is not None
    assert copied.outcome.verify.counts.missing == 1


async def test_again_takes_up_what_was_refused_before(source: Database, sink: Database, copier: Copier) -> None:
    """Once the sink would take it; nothing else has to be done about it."""
    source.run("CREATE TABLE checked (id int PRIMARY KEY)", "INSERT INTO checked SELECT generate_series(1, 20)")
    sink.run("CREATE TABLE checked (id int PRIMARY KEY CONSTRAINT not_seven CHECK (id <> 7))")
    first = await copier(verify=False)
    assert first.exit_code == 5, first.explained()
    sink.run("ALTER TABLE checked DROP CONSTRAINT not_seven")

    again = await copier(again=True)

    assert again.exit_code == 0, again.explained()
    assert contents(sink, schema=False).rows == contents(source, schema=False).rows


@pytest.fixture
def flow(source: Database, sink: Database, tmp_path: Path) -> Iterator[Flow]:
    """A command in several lives over one table of many pages, five rows of which the sink refuses."""
    listed = ", ".join(map(str, sorted(_REFUSED)))
    source.run(
        "CREATE TABLE refusing (id int, filling text)",
        f"INSERT INTO refusing SELECT n, repeat(md5(n::text), 12) FROM generate_series(1, {_ROWS}) n",
        "VACUUM ANALYZE refusing",
    )
    sink.run(f"CREATE TABLE refusing (id int CHECK (id NOT IN ({listed})), filling text)")
    with short_directory() as runtime:
        made = Flow(source=source, sink=sink, directory=tmp_path, runtime=runtime, parallel=1)
        yield made
        made.end()


def _has_all_but_the_refused(flow: Flow) -> None:
    found = [row for (row,) in flow.sink.rows("SELECT id FROM refusing ORDER BY id")]
    assert found == [n for n in range(1, _ROWS + 1) if n not in _REFUSED]
    assert len(_letters(flow.state)) == len(_REFUSED)


@pytest.mark.parametrize("page", [2, 5])
def test_refused_rows_are_no_change_of_the_source(flow: Flow, page: int) -> None:
    """The coordinator dies with its snapshot when some are refused: the recount includes them, and it is gone on."""
    flow.run_until_killed(f"coordinator.after_page:exit@{page}")
    landed = flow.sink.value("SELECT count(*) FROM refusing")
    assert 0 < landed < _ROWS - len(_REFUSED)

    ending = flow.run()

    assert ending.exit_code == 5, ending.log
    assert ending.events("namespace_restarted") == []
    assert ending.result["moved_rows"] == _ROWS - len(_REFUSED) - landed
    _has_all_but_the_refused(flow)


def test_a_source_that_dies_after_refusals_goes_on_under_a_new_snapshot(flow: Flow) -> None:
    """Within one life of the coordinator: its plug-in is started again, and nothing counts as changed."""
    ending = flow.run(fail="source.before_copy:exit@6", once=True)

    assert ending.exit_code == 5, ending.log
    assert ending.events("snapshot_lost"), ending.log
    assert ending.events("namespace_restarted") == []
    _has_all_but_the_refused(flow)


def test_a_change_is_still_seen_beside_refused_rows(flow: Flow) -> None:
    """The recount forgives as many rows as were refused, and not one more."""
    flow.run_until_killed("coordinator.after_page:exit@5")
    flow.source.run("DELETE FROM refusing WHERE id = 20")

    ending = flow.run()

    assert ending.exit_code == 5, ending.log
    assert len(ending.events("namespace_restarted")) == 1
    found = {row for (row,) in flow.sink.rows("SELECT id FROM refusing")}
    assert found == set(range(1, _ROWS + 1)) - _REFUSED - {20}
    assert len(_letters(flow.state)) == len(_REFUSED)
