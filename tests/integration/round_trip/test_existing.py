"""What becomes of rows that the sink has already, by `--on-existing`."""

from __future__ import annotations

import pytest

from dsync.protocol.errors import DsyncError
from tests.integration.round_trip.judge import contents, differences
from tests.integration.round_trip.running import Copier
from tests.support.databases import Database

_KEYED = "CREATE TABLE keyed (id int PRIMARY KEY, note text)"
_KEYLESS = "CREATE TABLE keyless (id int, note text)"


@pytest.fixture
def filled(source: Database) -> Database:
    """Rows 1 to 10 in both tables."""
    source.run(
        _KEYED,
        _KEYLESS,
        "INSERT INTO keyed SELECT n, 'new ' || n FROM generate_series(1, 10) n",
        "INSERT INTO keyless SELECT n, 'new ' || n FROM generate_series(1, 10) n",
    )
    return source


@pytest.fixture
def used(sink: Database) -> Database:
    """Rows 8 to 12, other ones, in both tables, with an index of its own."""
    sink.run(
        _KEYED,
        _KEYLESS,
        "CREATE INDEX own ON keyed (note)",
        "INSERT INTO keyed SELECT n, 'old ' || n FROM generate_series(8, 12) n",
        "INSERT INTO keyless SELECT n, 'old ' || n FROM generate_series(8, 12) n",
    )
    return sink


@pytest.mark.parametrize("policy", [None, "error", "resume"])
@pytest.mark.parametrize("table", ["keyed", "keyless"])
async def test_rows_of_others_are_not_touched_without_a_word(
    filled: Database, used: Database, copier: Copier, policy: str | None, table: str
) -> None:
    """`resume` is about the flow's own tables."""
    before = contents(used)

    with pytest.raises(DsyncError, match=rf"public\.{table}") as raised:
        await copier(namespaces=(table,), on_existing=policy)

    assert (type(raised.value).__name__, raised.value.exit_code) == ("SinkNotEmptyError", 2)
    assert contents(used) == before


async def test_append_writes_by_key_and_keeps_the_rest(filled: Database, used: Database, copier: Copier) -> None:
    """The source's row wins where both have one."""
    copied = await copier(namespaces=("keyed",), on_existing="append", verify=False)

    assert (copied.exit_code, copied.rows) == (0, {"public.keyed": 10}), copied.explained()
    assert used.rows("SELECT id, note FROM keyed ORDER BY id") == [
        *((n, f"new {n}") for n in range(1, 11)),
        (11, "old 11"),
        (12, "old 12"),
    ]


async def test_append_needs_a_key(filled: Database, used: Database, copier: Copier) -> None:
    """Without one a repeated page would be there twice."""
    before = contents(used)

    with pytest.raises(DsyncError, match=r"public\.keyless") as raised:
        await copier(namespaces=("keyless",), on_existing="append")

    assert raised.value.exit_code == 3
    assert contents(used) == before


async def test_append_to_an_empty_table_needs_none(filled: Database, sink: Database, copier: Copier) -> None:
    """Nothing can be in the way there."""
    sink.run(_KEYED, _KEYLESS)

    copied = await copier(on_existing="append")

    assert copied.exit_code == 0, copied.explained()
    assert differences(filled, sink) == []


async def test_truncate_keeps_the_tables_and_what_belongs_to_them(
    filled: Database, used: Database, copier: Copier
) -> None:
    """Their rows alone go."""
    oids = used.rows("SELECT relname, oid FROM pg_class WHERE relname IN ('keyed', 'keyless', 'own') ORDER BY 1")

    copied = await copier(on_existing="truncate")

    assert copied.exit_code == 0, copied.explained()
    assert contents(used, schema=False).rows == contents(filled, schema=False).rows
    found = used.rows("SELECT relname, oid FROM pg_class WHERE relname IN ('keyed', 'keyless', 'own') ORDER BY 1")
    assert found == oids


async def test_drop_makes_the_tables_as_the_source_has_them(filled: Database, used: Database, copier: Copier) -> None:
    """Another shape is no hindrance then, and what the sink had beside them stays."""
    used.run("ALTER TABLE keyed ADD COLUMN more int", "CREATE TABLE mine (id int)", "INSERT INTO mine VALUES (1)")

    copied = await copier(on_existing="drop")

    assert copied.exit_code == 0, copied.explained()
    assert used.rows("SELECT id FROM mine") == [(1,)]
    used.run("DROP TABLE mine")
    assert differences(filled, used) == []


@pytest.mark.parametrize("policy", [None, "resume", "truncate", "drop"])
async def test_a_finished_copy_moves_nothing_whatever_the_policy(
    filled: Database, sink: Database, copier: Copier, policy: str | None
) -> None:
    """Nor does it empty what it has brought."""
    first = await copier()
    assert first.exit_code == 0, first.explained()
    sink.run("INSERT INTO keyless VALUES (99, 'mine')")

    again = await copier(on_existing=policy, verify=False)

    assert again.outcome.result is None
    assert sink.value("SELECT count(*) FROM keyless") == 11


async def test_empty_tables_of_the_same_shape_are_simply_used(filled: Database, sink: Database, copier: Copier) -> None:
    """With more of them than the source has, and in another order of columns."""
    sink.run(
        "CREATE TABLE keyed (note text, id int PRIMARY KEY)",
        _KEYLESS,
        "ALTER TABLE keyless ADD COLUMN added timestamptz DEFAULT now()",
    )

    copied = await copier()

    assert copied.exit_code == 0, copied.explained()
    assert sink.rows("SELECT id, note FROM keyed ORDER BY 1") == filled.rows("SELECT id, note FROM keyed ORDER BY 1")
    assert sink.value("SELECT count(*) FROM keyless WHERE added IS NOT NULL") == 10
