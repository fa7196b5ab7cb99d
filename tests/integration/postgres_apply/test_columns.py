"""Columns and values of every kind."""

from __future__ import annotations

import asyncio

import pytest
from psycopg import sql

from dsync.sdk import errors, types
from tests.integration.postgres_apply.conftest import OpenApplier
from tests.integration.postgres_apply.frames import UNSENT, Changes, Op, relation
from tests.support.databases import DatabaseFactory

pytestmark = pytest.mark.parametrize("pg", [15, 18], indirect=True)

_KINDS = {
    "smallint": ["-32768"],
    "numeric(10,2)": ["1.50", "NaN"],
    "numeric": ["1.500", "Infinity", "1e400"],
    "float8": ["-0", "NaN", "1e-300"],
    "boolean": ["t", "f"],
    "text": ["", "NULL", "null", '"', "\\", "\\N", "{}", "a,b", "ü€😀", " x\t\n\r "],
    "varchar(5)": ["abcde"],
    "char(4)": ["ab  "],
    '"char"': ["x", "\\200"],
    "name": ["n"],
    "bytea": ["\\x00ff5c"],
    "date": ["infinity", "0044-03-15 BC"],
    "timestamp(3)": ["2026-01-01 00:00:00.123"],
    "timestamptz": ["2026-01-01 00:00:00.123456+00"],
    "interval day to second(2)": ["1 day 00:00:01.25"],
    "time": ["24:00:00"],
    "uuid": ["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"],
    "json": ['{"a":  [1, "x"]}'],
    "jsonb": ['{"a": 1.0, "b": "\\""}'],
    "xml": ["<a b='c'/>"],
    "inet": ["10.0.0.1/8"],
    "bit(3)": ["101"],
    "bit varying(5)": ["10"],
    "int4[]": ["{}", "{1,NULL,3}", "{{1,2},{3,4}}", "[0:1]={5,6}"],
    "text[]": ['{"a,b",NULL,"NULL","\\"\\\\"}'],
    "varchar(3)[]": ["{abc}"],
    "box": ["(3,4),(1,2)"],
    "box[]": ["{(3,4),(1,2);(1,1),(0,0)}"],
    "point": ["(1,2)"],
    "path": ["[(1,2),(3,4)]"],
    "int4range": ["[1,5)", "empty"],
    "int4multirange": ["{[1,5),[7,9)}"],
    "regclass": ["pg_class", "-"],
    "tsvector": ["'a':1 'b':2"],
    "tsquery": ["'a' & 'b'"],
    "pg_lsn": ["16/B374D848"],
    "money": ["$1,234.50"],
    "oidvector": ["1 2"],
    "mood": ["so, so", "it's"],
    "moods": ['{"so, so",it\'s}'],
    "positive": ["5"],
    "few": ["{1,2}"],
    "pair": ['(1,"a ""quoted"", b")', "(,)"],
    "couple": ['(1,"a ""quoted"", b")'],
    "pair[]": ['{"(1,\\"a, b\\")"}'],
}
_TYPES = (
    "CREATE TYPE mood AS ENUM ('so, so', 'it''s')",
    "CREATE DOMAIN moods AS mood[]",
    "CREATE DOMAIN positive AS int NOT NULL CHECK (VALUE > 0)",
    "CREATE DOMAIN few AS int[] CHECK (cardinality(VALUE) < 3)",
    "CREATE TYPE pair AS (a int, b text)",
    "CREATE DOMAIN couple AS pair",
)


@pytest.mark.parametrize("in_order", [False, True], ids=["sets", "in-order"])
async def test_values_of_every_type_go_through_their_input_functions(
    database: DatabaseFactory, open_applier: OpenApplier, in_order: bool
) -> None:
    """As whole rows, as some values of a row, and in rows that go."""
    db = database()
    db.run(*_TYPES)
    applier = open_applier(db)
    await applier.open()
    for number, (kind, values) in enumerate(_KINDS.items()):
        if kind == "xml" and db.server.installation.origin == "wheel":
            # These are built without libxml.
            continue
        table = f"t{number}"
        # The literal is read by the same input function, so that what it prints is what has to come out.
        db.run(
            sql.SQL("CREATE TABLE {} (id int PRIMARY KEY, a {}, b int)").format(sql.Identifier(table), sql.SQL(kind)),
            sql.SQL("CREATE TABLE {} (id int, a {})").format(sql.Identifier(f"x{number}"), sql.SQL(kind)),
        )
        changes = Changes(relations=[relation("id a b", namespace=f"public.{table}")])
        bare = Changes(relations=[relation("id a", namespace=f"public.x{number}", key="id a", full=True)])
        for place, value in enumerate(values):
            changes.insert(place, value, 1).insert(1000 + place, values[0], 1).update(1000 + place, value, UNSENT)
            changes.update(2000 + place, value, 2)
            bare.insert(place, value).insert(place, value)
        await applier.apply(changes, in_order=in_order)
        await applier.apply(bare, in_order=in_order)
        gone = Changes(relations=bare.relations)
        for place, value in enumerate(values):
            gone.delete(place, value, full=True)
        await applier.apply(gone, in_order=in_order)
        for place, value in enumerate(values):
            expected = db.value(sql.SQL("SELECT format('%s', {}::{})").format(sql.Literal(value), sql.SQL(kind)))
            for query in (
                sql.SQL("SELECT format('%s', a) FROM {} WHERE id % 1000 = {}").format(sql.Identifier(table), place),
                sql.SQL("SELECT format('%s', a) FROM {} WHERE id = {}").format(sql.Identifier(f"x{number}"), place),
            ):
                found = {text for (text,) in db.rows(query)}
                assert found == {expected}, kind


async def test_what_the_sink_computes_is_not_written(database: DatabaseFactory, open_applier: OpenApplier) -> None:
    db = database()
    db.run("CREATE TABLE t (id int PRIMARY KEY, a int, b int GENERATED ALWAYS AS (a * 2) STORED)")
    applier = open_applier(db)
    await applier.open()
    t = relation("id a b")
    await applier.apply(Changes(relations=[t]).insert(1, 5, 99).update(2, 6, 99))
    assert db.rows("SELECT * FROM t ORDER BY id") == [(1, 5, 10), (2, 6, 12)]


@pytest.mark.parametrize("more", [0, 300], ids=["short", "long"])
async def test_identity_columns_get_the_sources_values(
    database: DatabaseFactory, open_applier: OpenApplier, more: int
) -> None:
    """GENERATED ALWAYS: in the key, and beside it, where no UPDATE can set it."""
    db = database()
    db.run(
        "CREATE TABLE t (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, a int)",
        "CREATE TABLE u (id int PRIMARY KEY, a int GENERATED ALWAYS AS IDENTITY, b text)",
    )
    applier = open_applier(db)
    await applier.open()
    both = [relation("id a", namespace="public.t"), relation("id a b", namespace="public.u")]
    await applier.apply(
        Changes(relations=both).insert(50, 1).insert(1, 70, "x", of=1).insert(2, 71, "x", of=1).insert(3, 72, "x", of=1)
    )
    changes = Changes(relations=both).update(50, 2).update(1, 70, "y", of=1).update(2, 99, "y", of=1)
    changes.update(3, 72, UNSENT, of=1)
    for number in range(more):
        changes.insert(1000 + number, 1)
    await applier.apply(changes)
    assert db.rows("SELECT * FROM t WHERE id < 1000") == [(50, 2)]
    assert db.rows("SELECT * FROM u ORDER BY id") == [(1, 70, "y"), (2, 99, "y"), (3, 72, "x")]
    unlike = Changes(relations=both).update(3, 5, UNSENT, of=1)
    assert [item.index for item in (await applier.apply(unlike)).incomplete] == [0]


async def test_a_table_without_columns_is_refused(database: DatabaseFactory, open_applier: OpenApplier) -> None:
    """Its rows cannot be told from anything, so nothing could be done with them."""
    db = database()
    db.run("CREATE TABLE t ()")
    applier = open_applier(db)
    await applier.open()
    with pytest.raises(errors.UnsupportedError, match="no column"):
        await applier.apply(Changes(relations=[relation("", key="")]).insert())


async def test_names_of_every_kind(database: DatabaseFactory, open_applier: OpenApplier) -> None:
    db = database()
    db.run('CREATE TABLE "T.{}%s" ("select" int, "c0" text, "a""b" text, "{x}" text, PRIMARY KEY ("select", "a""b"))')
    applier = open_applier(db)
    await applier.open()
    columns = ("select", "c0", 'a"b', "{x}")
    named = types.ChangeRelation(
        namespace='public."T.{}%s"',
        columns=tuple(
            types.ChangeColumn(name=name, key_position={"select": 2, 'a"b': 1}.get(name, 0)) for name in columns
        ),
    )
    changes = Changes(relations=[named]).insert(1, "x", "k", "y").insert(2, "x", "k", "y").update(1, "z", "k", UNSENT)
    changes.delete(2, None, "k", None).update(1, "z", "m", "w", key=(1, None, "k", None))
    await applier.apply(changes)
    assert db.rows('SELECT * FROM "T.{}%s"') == [(1, "z", "m", "w")]


@pytest.mark.parametrize("in_order", [False, True], ids=["sets", "in-order"])
@pytest.mark.parametrize("more", [0, 300], ids=["short", "long"])
async def test_a_key_that_no_unique_index_of_the_sink_knows(
    database: DatabaseFactory, open_applier: OpenApplier, in_order: bool, more: int
) -> None:
    """REPLICA IDENTITY USING INDEX at the source, and another key at the sink."""
    db = database()
    db.run(
        "CREATE TABLE t (id int, a text, b text PRIMARY KEY)", "INSERT INTO t VALUES (1, 'old', 'k1'), (2, 'old', 'k2')"
    )
    applier = open_applier(db)
    await applier.open()
    changes = Changes(relations=[relation("id a b", key="id")]).update(1, "new", "k1").insert(3, "new", "k3")
    changes.delete(2, None, None).update(4, "new", "k4").update(3, "newer", UNSENT)
    for number in range(more):
        changes.update(1000 + number, "x", f"f{number}")
    await applier.apply(changes, in_order=in_order)
    assert db.rows("SELECT * FROM t WHERE id < 1000 ORDER BY id") == [
        (1, "new", "k1"),
        (3, "newer", "k3"),
        (4, "new", "k4"),
    ]
    assert db.value("SELECT count(*) FROM t") == 3 + more


async def test_rows_of_a_table_that_inherits_stay(database: DatabaseFactory, open_applier: OpenApplier) -> None:
    db = database()
    db.run(
        "CREATE TABLE t (id int PRIMARY KEY, a text)",
        "CREATE TABLE heir () INHERITS (t)",
        "INSERT INTO heir VALUES (1, 'heir'), (2, 'heir')",
        "INSERT INTO t VALUES (1, 't'), (2, 't')",
    )
    applier = open_applier(db)
    await applier.open()
    t = relation("id a")
    await applier.apply(Changes(relations=[t]).update(1, "new").delete(2, None))
    assert db.rows("SELECT * FROM ONLY t") == [(1, "new")]
    await applier.apply(Changes(relations=[t]).truncate())
    assert db.rows("SELECT * FROM t ORDER BY id") == [(1, "heir"), (2, "heir")]


async def test_another_shape_of_a_table_ends_a_set(database: DatabaseFactory, open_applier: OpenApplier) -> None:
    """Two relations of one table in one frame: their keys are the same keys."""
    db = database()
    db.run("CREATE TABLE t (id int PRIMARY KEY, a text, b text DEFAULT 'd')")
    applier = open_applier(db)
    await applier.open()
    changes = Changes(relations=[relation("id a"), relation("id a b")])
    changes.insert(1, "x").insert(2, "x").add(Op.RESHAPE, b"", 1).update(1, "y", "new", of=1).delete(
        2, None, None, of=1
    )
    changes.insert(2, "again", "b", of=1)
    await applier.apply(changes)
    assert db.rows("SELECT * FROM t ORDER BY id") == [(1, "y", "new"), (2, "again", "b")]


async def test_a_large_value_passes(database: DatabaseFactory, open_applier: OpenApplier) -> None:
    db = database()
    db.run("CREATE TABLE t (id int PRIMARY KEY, a text)")
    applier = open_applier(db)
    await applier.open()
    await applier.apply(Changes(relations=[relation("id a")]).insert(1, b'"\\' * (16 << 20)).insert(2, "x"))
    assert db.rows("SELECT id, length(a) FROM t ORDER BY id") == [(1, 32 << 20), (2, 1)]


async def test_a_frame_that_is_not_what_it_says_is_refused(
    database: DatabaseFactory, open_applier: OpenApplier
) -> None:
    db = database()
    db.run("CREATE TABLE t (id int PRIMARY KEY, a text)")
    applier = open_applier(db)
    await applier.open()
    t = relation("id a")
    for operation, record in (
        (Op.DELETE, b"N\0\2nn"),
        (Op.INSERT, b"K\0\2nnN\0\2nn"),
        (Op.UPDATE, b"K\0\2nn"),
        (Op.TRUNCATE, b"\0\0"),
        (77, b""),
    ):
        with pytest.raises(errors.PluginBugError):
            await applier.apply(Changes(relations=[t]).add(operation, record))
    with pytest.raises(errors.PluginBugError):
        await applier.apply(Changes(relations=[t]).insert(1, "x", of=3))


async def test_a_table_that_was_empty_is_still_looked_up_by_its_key_when_it_is_large(
    database: DatabaseFactory, open_applier: OpenApplier
) -> None:
    """Plans are kept, and one that reads all of a small table would be used on the large one, for every frame."""
    db = database()
    db.run("CREATE TABLE t (id int PRIMARY KEY, a text) WITH (autovacuum_enabled = off)")
    applier = open_applier(db)
    await applier.open()
    t = relation("id a")

    async def change(first: int) -> None:
        changes = Changes(relations=[t])
        for number in range(first, first + 300):
            changes.update(number, "new")
        await applier.apply(changes.delete(first, None))

    for _ in range(7):
        await change(1)
    db.run("INSERT INTO t SELECT g, 'old' FROM generate_series(1000, 9000) g")
    for _ in range(3):
        await change(2000)
    scans = "SELECT coalesce(sum(seq_tup_read), 0), coalesce(sum(idx_scan), 0) FROM pg_stat_user_tables"
    # Counted when the session is idle, or has gone.
    await applier.sink.side.close()
    while sum(db.rows(scans)[0]) < 3000:
        await asyncio.sleep(0.05)
    assert db.rows(scans)[0][0] == 0
