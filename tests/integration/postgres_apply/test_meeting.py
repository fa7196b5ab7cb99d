"""Changes that meet on an index or a foreign key, and changes that the sink refuses."""

from __future__ import annotations

import psycopg
import pytest
from psycopg.sql import SQL

from dsync.sdk import errors
from tests.integration.postgres_apply.conftest import OpenApplier
from tests.integration.postgres_apply.frames import UNSENT, Changes, Op, relation
from tests.support.databases import Database, DatabaseFactory

pytestmark = pytest.mark.parametrize("pg", [15, 18], indirect=True)

T = relation("id a b")


async def test_what_meets_on_a_unique_index_is_applied_in_order(
    database: DatabaseFactory, open_applier: OpenApplier
) -> None:
    """Of two rows that swap a unique value a set knows the ends alone; in the source's order there is a way."""
    db = database()
    db.run("CREATE TABLE t (id int PRIMARY KEY, a text UNIQUE, b text)", "INSERT INTO t VALUES (1, 'x'), (2, 'y')")
    applier = open_applier(db)
    await applier.open()
    swap = Changes(relations=[T]).update(1, "z", None).update(2, "x", None).update(1, "y", None)
    with pytest.raises(errors.LanesMeetError, match="t_a_key"):
        await applier.apply(Changes(relations=[T]).insert(3, "new", None).update(2, "x", None).update(1, "y", None))
    assert db.rows("SELECT id, a FROM t ORDER BY id") == [(1, "x"), (2, "y")]
    await applier.apply(swap, in_order=True)
    assert db.rows("SELECT id, a FROM t ORDER BY id") == [(1, "y"), (2, "x")]


async def test_an_exclusion_constraint_is_such_an_index_too(
    database: DatabaseFactory, open_applier: OpenApplier
) -> None:
    db = database()
    db.run("CREATE TABLE t (id int PRIMARY KEY, a int4range, b text, EXCLUDE USING gist (a WITH &&))")
    applier = open_applier(db)
    await applier.open()
    with pytest.raises(errors.LanesMeetError, match="t_a_excl"):
        await applier.apply(Changes(relations=[T]).insert(1, "[1,5)", None).insert(2, "[3,7)", None))
    moves = Changes(relations=[T]).insert(1, "[1,5)", None).update(1, "[8,9)", None).insert(2, "[3,7)", None)
    await applier.apply(moves, in_order=True)
    assert db.value("SELECT count(*) FROM t") == 2


FAMILY = [relation("id a", namespace="public.child"), relation("id a", namespace="public.parent")]


def family(database: Database, uri: str) -> None:
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute("CREATE TABLE parent (id int PRIMARY KEY, a text)")
        connection.execute("CREATE TABLE child (id int PRIMARY KEY, a int REFERENCES parent)")


async def test_what_meets_on_a_foreign_key_is_applied_in_order(
    database: DatabaseFactory, open_applier: OpenApplier
) -> None:
    """Without the privilege to quiet foreign keys; a child whose parent another lane brings, and a parent that goes."""
    db = database()
    uri = db.owner_uri()
    family(db, uri)
    applier = open_applier(db, uri=uri)
    await applier.open()
    with pytest.raises(errors.LanesMeetError, match="child_a_fkey"):
        await applier.apply(Changes(relations=FAMILY).insert(1, 7, of=0))
    late = Changes(relations=FAMILY).update(1, 8, of=0).insert(7, "p", of=1).insert(8, "q", of=1)
    with pytest.raises(errors.LanesMeetError):
        await applier.apply(late)
    ordered = Changes(relations=FAMILY).insert(7, "p", of=1).insert(8, "q", of=1).insert(1, 7, of=0)
    ordered.update(1, 8, of=0).delete(7, None, of=1).update(9, "q", of=1, key=(8, None))
    with pytest.raises(errors.RecordError, match=r"public\.parent: ForeignKeyViolation \(23503\)") as caught:
        await applier.apply(ordered, in_order=True)
    assert caught.value.change == 5
    assert db.value("SELECT count(*) FROM parent") == 0
    ordered.operations.pop()
    ordered.relation_of.pop()
    ordered.records.pop()
    await applier.apply(ordered, in_order=True)
    assert db.rows("SELECT * FROM parent") == [(8, "q")]


@pytest.mark.parametrize("in_order", [False, True], ids=["sets", "in-order"])
@pytest.mark.parametrize("operation", [Op.UPDATE, Op.MOVE])
@pytest.mark.parametrize("lacks", [False, True], ids=["whole", "unsent"])
@pytest.mark.parametrize(
    "rule",
    ["ON UPDATE CASCADE", "ON UPDATE CASCADE ON DELETE CASCADE", "ON UPDATE CASCADE ON DELETE SET NULL"],
    ids=["refused", "cascade", "null"],
)
async def test_a_key_that_others_refer_to_changes_as_at_the_source(
    database: DatabaseFactory, open_applier: OpenApplier, in_order: bool, operation: Op, lacks: bool, rule: str
) -> None:
    """What refers to the row follows it; a DELETE and an INSERT would be refused, or take it along."""
    db = database()
    uri = db.owner_uri()
    family(db, uri)
    db.run(
        "ALTER TABLE child DROP CONSTRAINT child_a_fkey",
        SQL("ALTER TABLE child ADD FOREIGN KEY (a) REFERENCES parent {}").format(SQL(rule)),
        "INSERT INTO parent VALUES (1, 'p'), (3, 'q')",
        "INSERT INTO child VALUES (1, 1), (2, 3)",
    )
    applier = open_applier(db, uri=uri)
    await applier.open()
    value = UNSENT if lacks else "p"
    renamed = Changes(relations=FAMILY).insert(9, "x", of=1).update(2, value, of=1, key=(1, None)).update(3, "r", of=1)
    renamed.operations[1] = operation if not lacks else Op.MOVE
    assert not (await applier.apply(renamed, in_order=in_order)).incomplete
    assert db.rows("SELECT * FROM child ORDER BY id") == [(1, 2), (2, 3)]
    assert db.rows("SELECT * FROM parent ORDER BY id") == [(2, "p"), (3, "r"), (9, "x")]


@pytest.mark.parametrize("in_order", [False, True], ids=["sets", "in-order"])
async def test_rows_that_change_places_keep_what_refers_to_them(
    database: DatabaseFactory, open_applier: OpenApplier, in_order: bool
) -> None:
    """Also in the same table; and a row that is not there is written whole."""
    db = database()
    uri = db.owner_uri()
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE t (id int PRIMARY KEY, a text, b int REFERENCES t ON UPDATE CASCADE ON DELETE CASCADE)"
        )
        connection.execute("INSERT INTO t VALUES (1, 'one', NULL), (2, 'two', NULL), (3, 'child', 1)")
    applier = open_applier(db, uri=uri)
    await applier.open()
    changes = Changes(relations=[T])
    for before, after, text in ((1, 9, "one"), (2, 1, "two"), (9, 2, "one"), (7, 8, "new"), (2, 5, "one")):
        changes.update(after, text, None, key=(before, None, None))
    changes.operations[:] = [Op.MOVE] * len(changes.operations)
    await applier.apply(changes, in_order=in_order)
    expected = [(1, "two", None), (3, "child", 5), (5, "one", None), (8, "new", None)]
    assert db.rows("SELECT * FROM t ORDER BY id") == expected


async def test_where_the_role_may_nothing_fires(database: DatabaseFactory, open_applier: OpenApplier) -> None:
    """Neither foreign keys nor the user's triggers: what they have done at the source comes as changes of its own."""
    db = database()
    family(db, db.uri)
    db.run(
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'fired'; END$$",
        "CREATE TRIGGER g BEFORE INSERT OR UPDATE OR DELETE ON child FOR EACH ROW EXECUTE FUNCTION f()",
    )
    applier = open_applier(db)
    await applier.open()
    await applier.apply(Changes(relations=FAMILY).insert(1, 7, of=0).insert(2, 7, of=0).delete(2, None, of=0))
    assert db.rows("SELECT * FROM child") == [(1, 7)]


async def test_where_it_may_not_a_trigger_that_would_fire_stops(
    database: DatabaseFactory, open_applier: OpenApplier
) -> None:
    db = database()
    uri = db.owner_uri()
    family(db, uri)
    db.run(
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NULL; END$$",
        "CREATE TRIGGER g BEFORE DELETE ON parent FOR EACH ROW EXECUTE FUNCTION f()",
    )
    applier = open_applier(db, uri=uri)
    await applier.open()
    with pytest.raises(errors.PrivilegeError, match=r"trigger g would fire.*session_replication_role"):
        await applier.apply(Changes(relations=FAMILY).insert(1, "x", of=1))
    db.run("ALTER TABLE parent DISABLE TRIGGER g")
    await applier.apply(Changes(relations=FAMILY).insert(1, "x", of=1))
    assert db.value("SELECT count(*) FROM parent") == 1


@pytest.mark.parametrize("in_order", [False, True], ids=["sets", "in-order"])
async def test_a_change_that_is_refused_is_named_without_its_values(
    database: DatabaseFactory, open_applier: OpenApplier, in_order: bool
) -> None:
    db = database()
    db.run("CREATE TABLE t (id int PRIMARY KEY, a varchar(3) CHECK (a <> 'no'), b date)")
    applier = open_applier(db)
    await applier.open()
    for values, said in (
        (("no", None), r"CheckViolation \(23514\) constraint t_a_check"),
        (("canary", None), r"StringDataRightTruncation \(22001\)"),
        (("x", "2026-02-31canary"), r"\(22007\)|\(22008\)"),
    ):
        changes = Changes(relations=[T]).insert(1, "ok", None).delete(5, None, None).insert(2, *values)
        with pytest.raises(errors.RecordError, match=rf"public\.t: .*({said})") as caught:
            await applier.apply(changes, in_order=in_order)
        assert "canary" not in str(caught.value)
        assert caught.value.change == (2 if in_order else -1), "of a set nobody knows"
    assert db.value("SELECT count(*) FROM t") == 0


async def test_a_column_that_the_sink_lacks_is_named_until_it_is_there(
    database: DatabaseFactory, open_applier: OpenApplier
) -> None:
    """A value is never dropped silently; a column added meanwhile is found."""
    db = database()
    db.run("CREATE TABLE t (id int PRIMARY KEY, a text)")
    applier = open_applier(db)
    await applier.open()
    await applier.apply(Changes(relations=[relation("id a")]).insert(1, "x"))
    with pytest.raises(errors.NamespaceChangedError, match="column b was added at the source"):
        await applier.apply(Changes(relations=[T]).insert(2, "x", "y"))
    db.run("ALTER TABLE t ADD COLUMN b text")
    await applier.apply(Changes(relations=[T]).insert(2, "x", "y"))
    db.run("ALTER TABLE t DROP COLUMN b")
    with pytest.raises(errors.NamespaceChangedError, match="dropped or altered"):
        await applier.apply(Changes(relations=[T]).insert(3, "x", "y"))
    with pytest.raises(errors.NamespaceChangedError, match="column b was added at the source"):
        await applier.apply(Changes(relations=[T]).insert(3, "x", "y"))
