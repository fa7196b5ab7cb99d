"""`--again`: a new run reads what has changed since the one before, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dsync.protocol.errors import DsyncError
from tests.integration.round_trip.judge import contents, differences
from tests.integration.round_trip.running import Copier
from tests.support.databases import Database

_SHOP = (
    "CREATE TABLE customer (id int PRIMARY KEY, name text, touched int DEFAULT 0)",
    "CREATE TABLE orders (id serial PRIMARY KEY, customer int NOT NULL REFERENCES customer ON DELETE CASCADE)",
    "CREATE TABLE line (orders int REFERENCES orders DEFERRABLE INITIALLY DEFERRED, item text)",
    "CREATE TABLE log (at int, what text)",
    "CREATE TABLE quiet (id int PRIMARY KEY, customer int REFERENCES customer)",
    "CREATE TABLE part (id int, v text) PARTITION BY LIST (id)",
    "CREATE TABLE part_1 PARTITION OF part FOR VALUES IN (1)",
    "CREATE TABLE part_2 PARTITION OF part FOR VALUES IN (2)",
    "CREATE SEQUENCE ticket START 100",
    # Would it fire in the copy, every name would be another one.
    "CREATE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql AS"
    " $$ BEGIN NEW.name := 'spoilt'; NEW.touched := NEW.touched + 1; RETURN NEW; END $$",
    "INSERT INTO customer SELECT n, 'customer ' || n FROM generate_series(1, 100) n",
    "INSERT INTO orders (customer) SELECT 1 + n % 100 FROM generate_series(1, 200) n",
    "INSERT INTO line SELECT 1 + n % 200, 'item ' || n FROM generate_series(1, 300) n",
    "INSERT INTO log SELECT n, 'line ' || n FROM generate_series(1, 400) n",
    "INSERT INTO quiet SELECT n, n FROM generate_series(1, 50) n",
    "INSERT INTO part SELECT 1 + n % 2, 'v ' || n FROM generate_series(1, 60) n",
    "CREATE TRIGGER spoils BEFORE INSERT OR UPDATE ON customer FOR EACH ROW EXECUTE FUNCTION spoil()",
    "CREATE TRIGGER spoils_not BEFORE INSERT ON customer FOR EACH ROW EXECUTE FUNCTION spoil()",
    "ALTER TABLE customer DISABLE TRIGGER spoils_not",
)
_ROWS = {
    "public.customer": 100,
    "public.orders": 200,
    "public.line": 300,
    "public.log": 400,
    "public.quiet": 50,
    "public.part_1": 30,
    "public.part_2": 30,
}


@pytest.fixture
def shop(source: Database) -> Database:
    source.run(*_SHOP)
    return source


_AS_BOTH = pytest.mark.parametrize("copier", ["superuser", "owner"], indirect=True)
"""Into a sink that may set session_replication_role, and into one as managed services give."""


@pytest.fixture
def copier(request: pytest.FixtureRequest, copier: Copier) -> Copier:
    """As superuser, or as the owner of the sink."""
    as_owner = getattr(request, "param", "superuser") == "owner"
    return replace(copier, sink_uri=copier.sink.owner_uri()) if as_owner else copier


async def _first(copier: Copier) -> None:
    first = await copier()
    assert first.exit_code == 0, first.explained()
    assert first.rows == _ROWS


def _alike(copier: Copier) -> list[str]:
    """Differences; where roles differ, owners do."""
    return differences(copier.source, copier.sink, schema=not copier.sink_uri)


async def test_nothing_changed_and_nothing_is_read(shop: Database, sink: Database, copier: Copier) -> None:
    """The run counts all rows as its own all the same."""
    await _first(copier)

    again = await copier(again=True)

    assert again.exit_code == 0, again.explained()
    assert (again.moved, again.rows) == ({}, _ROWS)
    assert _alike(copier) == []


@pytest.mark.parametrize(
    ("changes", "read"),
    [
        (["INSERT INTO log VALUES (401, 'new')"], {"public.log": 401}),
        (["DELETE FROM line WHERE orders = 7"], {"public.line": 298}),
        (["UPDATE quiet SET customer = 3 WHERE id = 4"], {"public.quiet": 50}),
        (["TRUNCATE log"], {}),
        (["TRUNCATE log", "INSERT INTO log SELECT n, '' FROM generate_series(1, 400) n"], {"public.log": 400}),
        (["INSERT INTO part VALUES (2, 'more')"], {"public.part_2": 31}),
        (["UPDATE part SET id = 2 WHERE v = 'v 2'"], {"public.part_1": 29, "public.part_2": 31}),
        (["VACUUM FULL log"], {"public.log": 400}),
    ],
    ids=lambda value: "; ".join(value) if isinstance(value, list) else "",
)
async def test_changed_tables_alone_are_read(
    shop: Database, sink: Database, copier: Copier, changes: list[str], read: dict[str, int]
) -> None:
    """Whatever the change was: rows that came, went, changed or moved, and files that are others."""
    await _first(copier)
    with shop.connect() as connection:
        for change in changes:
            connection.execute(change.encode())

    again = await copier(again=True)

    assert again.exit_code == 0, again.explained()
    assert {name: rows for name, rows in again.moved.items() if rows} == read
    assert _alike(copier) == []


@_AS_BOTH
async def test_keys_triggers_and_sequences_come_through(shop: Database, sink: Database, copier: Copier) -> None:
    """A referenced table is read again, one that refers to it is not; both are bound to one another afterwards."""
    await _first(copier)
    shop.run(
        "ALTER TABLE customer DISABLE TRIGGER spoils",
        "UPDATE customer SET name = 'changed' WHERE id <= 10",
        "INSERT INTO customer VALUES (101, 'new')",
        "ALTER TABLE customer ENABLE TRIGGER spoils",
        "INSERT INTO orders (customer) VALUES (101)",
        "SELECT nextval('ticket') FROM generate_series(1, 5)",
    )

    again = await copier(again=True)

    assert again.exit_code == 0, again.explained()
    assert again.moved == {"public.customer": 101, "public.orders": 201}
    assert _alike(copier) == []
    keys = "SELECT conrelid::regclass::text, convalidated FROM pg_constraint WHERE contype = 'f' ORDER BY 1"
    assert sink.rows(keys) == shop.rows(keys) == [("line", True), ("orders", True), ("quiet", True)]
    triggers = "SELECT tgname, tgenabled FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1"
    assert sink.rows(triggers) == shop.rows(triggers) == [("spoils", "O"), ("spoils_not", "D")]
    assert sink.value("SELECT nextval('ticket')") == 105
    assert sink.value("SELECT count(*) FROM customer WHERE name = 'spoilt'") == 0


@_AS_BOTH
async def test_a_row_that_nothing_refers_to_any_more_goes(shop: Database, sink: Database, copier: Copier) -> None:
    """With what referred to it, in circles of foreign keys too."""
    shop.run(
        "ALTER TABLE customer ADD COLUMN best int REFERENCES orders DEFERRABLE",
        "ALTER TABLE customer DISABLE TRIGGER spoils",
        "UPDATE customer SET best = id",
    )
    await _first(copier)
    shop.run(
        "UPDATE customer SET best = NULL WHERE id = 5",
        "DELETE FROM quiet WHERE customer = 5",
        "DELETE FROM line WHERE orders IN (SELECT id FROM orders WHERE customer = 5)",
        "UPDATE customer SET best = NULL WHERE best IN (SELECT id FROM orders WHERE customer = 5)",
        "DELETE FROM customer WHERE id = 5",
    )

    again = await copier(again=True)

    assert again.exit_code == 0, again.explained()
    assert set(again.moved) == {"public.customer", "public.orders", "public.line", "public.quiet"}
    assert _alike(copier) == []


async def test_tables_that_came_and_went(shop: Database, sink: Database, copier: Copier) -> None:
    """A new one is made and filled; one that is gone at the source stays at the sink."""
    await _first(copier)
    shop.run("CREATE TABLE new (id int PRIMARY KEY)", "INSERT INTO new SELECT generate_series(1, 9)", "DROP TABLE log")

    again = await copier(again=True)

    assert again.exit_code == 0, again.explained()
    assert again.moved == {"public.new": 9}
    assert sink.value("SELECT count(*) FROM log") == 400
    sink.run("DROP TABLE log")
    assert _alike(copier) == []


async def test_a_new_column_is_not_copied_past(shop: Database, sink: Database, copier: Copier) -> None:
    """The sink's table has no place for it: the table is made anew, being the flow's own."""
    await _first(copier)
    shop.run("ALTER TABLE log ADD COLUMN more text DEFAULT 'x'")

    again = await copier(again=True)

    assert again.exit_code == 0, again.explained()
    assert again.moved == {"public.log": 400}
    assert _alike(copier) == []


@_AS_BOTH
async def test_rows_of_others_stay(shop: Database, sink: Database, copier: Copier) -> None:
    """In a table that has changed they cannot be told from ours without a key: refused, and nothing is removed."""
    await _first(copier)
    shop.run("INSERT INTO log VALUES (401, 'new')")
    sink.run("INSERT INTO log VALUES (-1, 'mine')")
    before = contents(sink).rows

    with pytest.raises(DsyncError, match=r"public\.log"):
        await copier(again=True)

    assert contents(sink).rows == before


async def test_again_and_again(shop: Database, sink: Database, copier: Copier) -> None:
    """Each run starts from the one before it, not from the first."""
    await _first(copier)
    for number in range(1, 4):
        shop.run("INSERT INTO log VALUES (0, 'again')")
        again = await copier(again=True)
        assert again.exit_code == 0, again.explained()
        assert again.moved == {"public.log": 400 + number}

    idle = await copier(again=True)

    assert idle.moved == {}
    assert _alike(copier) == []
