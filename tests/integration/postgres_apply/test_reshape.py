"""Tables that change while they are followed: what the sink can do again it does, what it cannot is named."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import LiteralString

import pytest
from dsync_postgres.schema.columns import read_columns
from dsync_postgres.schema.names import TableName
from psycopg import sql

from dsync.protocol import frames
from dsync.sdk import errors, types
from tests.integration.postgres_apply.conftest import Applier, OpenApplier
from tests.integration.postgres_apply.frames import Changes, Op, relation
from tests.integration.stream.test_follow import MARK, followed, until
from tests.support.databases import Database, DatabaseFactory

pytestmark = pytest.mark.parametrize("pg", [15, 18], indirect=True)


async def refused(applier: Applier, changes: Changes, target: str = "public.t") -> errors.NamespaceChangedError:
    """The error with which a frame for another name of the table is refused."""
    with pytest.raises(errors.NamespaceChangedError) as caught:
        await applier.sink.side.write_changes(applier.request(changes, targets=(target,)))
    return caught.value


async def test_whoever_stops_a_table_is_told_which(database: DatabaseFactory, open_applier: OpenApplier) -> None:
    """By the source's name, since a frame has changes of many; the message says the way on."""
    db = database()
    db.run(
        "CREATE TABLE t (id int PRIMARY KEY, a text)",
        "CREATE TABLE tree (id int PRIMARY KEY, a text) PARTITION BY RANGE (id)",
        "CREATE TABLE computed (id int GENERATED ALWAYS AS (a) STORED, a int)",
    )
    applier = open_applier(db)
    await applier.open()
    source = "shop.theirs"
    lacking = await refused(applier, Changes(relations=[relation("id a b", namespace=source)]).insert(1, "x", "y"))
    absent = await refused(applier, Changes(relations=[relation("id a", namespace=source)]).insert(1, "x"), "public.no")
    emptied = await refused(applier, Changes(relations=[relation("id a", namespace=source)]).truncate(), "public.tree")
    computed = await refused(
        applier, Changes(relations=[relation("id a", namespace=source)]).insert(1, "2"), "public.computed"
    )
    known = Changes(relations=[relation("id a", namespace=source)]).insert(1, "x")
    request = applier.request(known, targets=("public.t",))
    await applier.sink.side.write_changes(request)
    applier.sink.units["lane-0"].seq = request.context.seq
    db.run("ALTER TABLE t RENAME a TO b")
    altered = await refused(applier, Changes(relations=[relation("id a", namespace=source)]).insert(2, "x"))
    assert {one.namespace for one in (lacking, absent, emptied, computed, altered)} == {source}
    for one in (lacking, emptied, computed, altered):
        assert "dsync resync FLOW --table" in str(one)


def told(database: Database, table: str = "t", *, key: str = "id", details: bool = True) -> types.ChangeRelation:
    """The relation of a source's table as its stream has it now."""
    rows = database.rows(
        "SELECT attname::text, format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = %s::regclass"
        " AND attnum > 0 AND NOT attisdropped AND attgenerated = '' ORDER BY attnum",
        [table],
    )
    name = TableName(schema="public", name=table)
    with database.connect() as connection:
        found = read_columns(connection, [name])
    return types.ChangeRelation(
        namespace=name.namespace,
        columns=tuple(
            types.ChangeColumn(name=column, type=kind, key_position=1 if column == key else 0) for column, kind in rows
        ),
        details=found[name] if details else b"",
    )


class Pair:
    """A source's table and the sink's copy of it, with two rows."""

    def __init__(self, database: DatabaseFactory, *definition: LiteralString) -> None:
        self.source, self.sink = database(), database()
        for one in (self.source, self.sink):
            one.run(*(definition or ("CREATE TABLE t (id int PRIMARY KEY, a text)",)))
            one.run("INSERT INTO t (id, a) VALUES (1, 'x'), (2, 'x')")

    async def follow(self, applier: Applier, *, details: bool = True) -> None:
        """Update one row at the source and apply that."""
        self.source.run("UPDATE t SET a = a || 'y' WHERE id = 1")
        relation = told(self.source, details=details)
        listed = sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(c.name)) for c in relation.columns)
        ((*values,),) = self.source.rows(sql.SQL("SELECT {} FROM t WHERE id = 1").format(listed))
        await applier.apply(Changes(relations=[relation]).update(*values))

    def content(self, database: Database) -> list[tuple[object, ...]]:
        return database.rows("SELECT * FROM t ORDER BY id")


_ADDED: dict[str, LiteralString] = {
    "no default": "ALTER TABLE t ADD c numeric(8,2)",
    "constant": "ALTER TABLE t ADD c text DEFAULT 'it''s'",
    "required": "ALTER TABLE t ADD c varchar(9) NOT NULL DEFAULT 'new'",
    "array": "ALTER TABLE t ADD c text[] DEFAULT '{\"a,b\",NULL}'",
    "once": "ALTER TABLE t ADD c timestamptz DEFAULT now()",
    "odd name": 'ALTER TABLE t ADD "C d" int DEFAULT 7, ADD e jsonb DEFAULT \'{"a": 1.0}\'',
    "default later": "ALTER TABLE t ADD c int DEFAULT 5; ALTER TABLE t ALTER c SET DEFAULT 6",
    "default gone": "ALTER TABLE t ADD c int DEFAULT 5; ALTER TABLE t ALTER c DROP DEFAULT",
}


@pytest.mark.parametrize("statement", _ADDED.values(), ids=_ADDED)
@pytest.mark.parametrize("as_owner", [False, True], ids=["superuser", "owner"])
async def test_an_added_column_is_added_with_what_old_rows_have(
    database: DatabaseFactory, open_applier: OpenApplier, statement: LiteralString, as_owner: bool
) -> None:
    """And new rows get there what they get at the source."""
    pair = Pair(database)
    uri = pair.sink.owner_uri() if as_owner else None
    if as_owner:
        pair.sink.run(sql.SQL("ALTER TABLE t OWNER TO {}").format(sql.Identifier(f"owner_{pair.sink.name}")))
    applier = open_applier(pair.sink, uri=uri)
    await applier.open()
    await pair.follow(applier)
    pair.source.run(statement)
    await pair.follow(applier)
    assert pair.content(pair.sink) == pair.content(pair.source)
    defaults = "SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef WHERE adrelid = 't'::regclass ORDER BY adnum"
    assert pair.sink.rows(defaults) == pair.source.rows(defaults)
    assert told(pair.sink, details=False) == told(pair.source, details=False)


_COMPUTED: dict[str, LiteralString] = {
    "volatile": "ALTER TABLE t ADD c float DEFAULT random()",
    "identity": "ALTER TABLE t ADD c int GENERATED ALWAYS AS IDENTITY",
}


@pytest.mark.parametrize("statement", _COMPUTED.values(), ids=_COMPUTED)
async def test_values_that_were_computed_for_each_row_stop_the_table(
    database: DatabaseFactory, open_applier: OpenApplier, statement: LiteralString
) -> None:
    """Nobody has sent them. A table without rows has none to miss."""
    pair = Pair(database)
    applier = open_applier(pair.sink)
    await applier.open()
    pair.source.run(statement)
    with pytest.raises(errors.NamespaceChangedError, match=r"computed.*dsync resync FLOW --table") as caught:
        await pair.follow(applier)
    assert caught.value.namespace == "public.t"
    assert told(pair.sink).columns != told(pair.source).columns
    pair.sink.run("TRUNCATE t")
    await pair.follow(applier)
    assert pair.content(pair.sink) == pair.content(pair.source)[:1]


async def test_without_a_word_of_old_rows_only_an_empty_table_gets_the_column(
    database: DatabaseFactory, open_applier: OpenApplier
) -> None:
    pair = Pair(database)
    applier = open_applier(pair.sink)
    await applier.open()
    pair.source.run("ALTER TABLE t ADD c int")
    with pytest.raises(errors.NamespaceChangedError, match="is not known here"):
        await pair.follow(applier, details=False)
    pair.sink.run("TRUNCATE t")
    await pair.follow(applier, details=False)
    assert pair.content(pair.sink) == pair.content(pair.source)[:1]


async def test_a_column_that_is_computed_everywhere_is_no_news(
    database: DatabaseFactory, open_applier: OpenApplier
) -> None:
    """The stream does not have it, and so cannot say that it came; changes go on."""
    pair = Pair(database)
    applier = open_applier(pair.sink)
    await applier.open()
    await pair.follow(applier)
    pair.source.run("ALTER TABLE t ADD c int GENERATED ALWAYS AS (id * 2) STORED")
    await pair.follow(applier)
    assert pair.sink.rows("SELECT * FROM t ORDER BY id") == pair.source.rows("SELECT id, a FROM t ORDER BY id")


_OTHERWISE: dict[str, tuple[LiteralString, str]] = {
    "dropped": ("ALTER TABLE t DROP b", "column b was dropped or renamed"),
    "renamed": ("ALTER TABLE t RENAME b TO c", "column b was dropped or renamed"),
    "retyped": ("ALTER TABLE t ALTER b TYPE bigint", "column b is of type bigint at the source now and was integer"),
}


@pytest.mark.parametrize(("statement", "said"), _OTHERWISE.values(), ids=_OTHERWISE)
@pytest.mark.parametrize("another_life", [False, True], ids=["same", "another-life"])
async def test_what_else_is_altered_stops_the_table_until_the_sink_is_altered_too(
    database: DatabaseFactory, open_applier: OpenApplier, statement: LiteralString, said: str, another_life: bool
) -> None:
    """Also where the process that has seen the relation before is gone."""
    pair = Pair(database, "CREATE TABLE t (id int PRIMARY KEY, a text, b int)")
    applier = open_applier(pair.sink)
    await applier.open()
    await pair.follow(applier)
    pair.source.run(statement)
    if another_life:
        applier = open_applier(pair.sink)
        await applier.open()
    before = pair.content(pair.sink)
    for _ in range(2):
        with pytest.raises(errors.NamespaceChangedError, match=rf"{said}.*dsync resync FLOW --table") as caught:
            await pair.follow(applier)
    assert caught.value.namespace == "public.t"
    assert pair.content(pair.sink) == before
    pair.sink.run(statement)
    await pair.follow(applier)
    assert pair.content(pair.sink) == pair.content(pair.source)


async def test_a_column_that_the_sink_has_beside_is_nobodys_business(
    database: DatabaseFactory, open_applier: OpenApplier
) -> None:
    """Unless nobody remembers the relation: then it may be the old name of one that the sink lacks."""
    pair = Pair(database)
    pair.sink.run("ALTER TABLE t ADD own text DEFAULT 'theirs'")
    applier = open_applier(pair.sink)
    await applier.open()
    pair.source.run("ALTER TABLE t ADD c int")
    with pytest.raises(errors.NamespaceChangedError, match="column own was dropped or renamed"):
        await pair.follow(applier)
    pair.source.run("ALTER TABLE t DROP c")
    await pair.follow(applier)
    pair.source.run("ALTER TABLE t ADD d int")
    await pair.follow(applier)
    assert pair.sink.rows("SELECT id, a, d FROM t ORDER BY id") == pair.content(pair.source)


async def test_a_table_that_is_filled_anew_is_remembered_anew(
    database: DatabaseFactory, open_applier: OpenApplier
) -> None:
    pair = Pair(database, "CREATE TABLE t (id int PRIMARY KEY, a text, b int)")
    applier = open_applier(pair.sink)
    await applier.open()
    await pair.follow(applier)
    assert pair.sink.rows("SELECT columns FROM _dsync.shape") == [(["id", "a", "b"],)]
    pair.source.run("ALTER TABLE t ALTER b TYPE bigint")
    pair.sink.run("TRUNCATE t")
    oid = pair.sink.value("SELECT 't'::regclass::oid::int8")
    pair.sink.run(
        sql.SQL("INSERT INTO _dsync.target VALUES ({}, 'public.t', {}, true, true, '', {})").format(
            sql.Literal(applier.sink.flow), sql.Literal(oid), sql.Literal(applier.sink.run)
        )
    )
    await applier.sink.open("page")
    await applier.sink.side.clear_namespace(applier.sink.context("page"), "public.t", ["page"])
    await pair.follow(applier)
    assert pair.sink.rows("SELECT types FROM _dsync.shape") == [(["integer", "text", "bigint"],)]
    await applier.sink.side.forget_flow(applier.sink.flow)
    assert pair.sink.value("SELECT to_regnamespace('_dsync') IS NULL")


async def test_a_partition_gets_its_column_from_its_tree(database: DatabaseFactory, open_applier: OpenApplier) -> None:
    """Each partition is told by itself, and none can get a column alone."""
    pair = Pair(
        database,
        "CREATE TABLE root (id int, a text, PRIMARY KEY (id)) PARTITION BY RANGE (id)",
        "CREATE TABLE t PARTITION OF root FOR VALUES FROM (0) TO (10)",
        "CREATE TABLE other PARTITION OF root FOR VALUES FROM (10) TO (20)",
        "INSERT INTO root VALUES (11, 'x')",
    )
    applier = open_applier(pair.sink)
    await applier.open()
    pair.source.run("ALTER TABLE root ADD c int DEFAULT 5")
    await pair.follow(applier)
    await applier.apply(Changes(relations=[told(pair.source, "other")]).update(11, "y", 6))
    pair.source.run("UPDATE other SET a = 'y', c = 6")
    query: LiteralString = "SELECT * FROM root ORDER BY id"
    assert pair.sink.rows(query) == pair.source.rows(query)


async def test_what_may_not_be_added_is_named_with_the_way_on(
    database: DatabaseFactory, open_applier: OpenApplier
) -> None:
    pair = Pair(database)
    pair.source.run("CREATE TYPE mood AS ENUM ('sad')")
    uri = pair.sink.owner_uri()
    role = sql.Identifier(f"owner_{pair.sink.name}")
    pair.sink.run(sql.SQL("GRANT ALL ON t TO {}").format(role))
    applier = open_applier(pair.sink, uri=uri)
    await applier.open()
    pair.source.run("ALTER TABLE t ADD c mood")
    with pytest.raises(errors.NamespaceChangedError, match=r"type (public\.)?mood is not known.*dsync resync"):
        await pair.follow(applier)
    pair.source.run("ALTER TABLE t DROP c", "ALTER TABLE t ADD c int")
    with pytest.raises(errors.NamespaceChangedError, match=r"refused: .*dsync resync"):
        await pair.follow(applier)
    pair.sink.run("ALTER TABLE t ADD c int")
    await pair.follow(applier)
    assert pair.content(pair.sink) == pair.content(pair.source)


async def test_a_default_that_cannot_be_had_costs_no_row(database: DatabaseFactory, open_applier: OpenApplier) -> None:
    pair = Pair(database)
    pair.source.run("CREATE FUNCTION five() RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT 5'")
    applier = open_applier(pair.sink)
    await applier.open()
    pair.source.run("ALTER TABLE t ADD c int DEFAULT public.five()")
    await pair.follow(applier)
    assert pair.content(pair.sink) == pair.content(pair.source)
    assert pair.sink.value("SELECT count(*) FROM pg_attrdef WHERE adrelid = 't'::regclass") == 0


async def test_lanes_that_meet_a_new_column_together_add_it_once(
    database: DatabaseFactory, open_applier: OpenApplier
) -> None:
    """The one that comes second finds rows in a table that was empty to the first."""
    pair = Pair(database)
    pair.sink.run("TRUNCATE t")
    pair.source.run("ALTER TABLE t ADD c int")
    applier = open_applier(pair.sink)
    lanes = [f"lane-{number}" for number in range(4)]
    await applier.open(*lanes)
    relation = told(pair.source, details=False)

    async def write(number: int) -> None:
        changes = Changes(relations=[relation]).insert(number, "x", number)
        request = replace(applier.request(changes), context=applier.sink.context(lanes[number]))
        await applier.sink.side.write_changes(request)

    await asyncio.gather(*map(write, range(4)))
    assert pair.sink.rows("SELECT id, c FROM t ORDER BY id") == [(n, n) for n in range(4)]


async def test_a_coordinator_that_was_replaced_alters_nothing(
    database: DatabaseFactory, open_applier: OpenApplier
) -> None:
    pair = Pair(database)
    zombie, heir = open_applier(pair.sink), open_applier(pair.sink)
    await zombie.open()
    await heir.open()
    pair.source.run("ALTER TABLE t ADD c int")
    with pytest.raises(errors.FencedError):
        await pair.follow(zombie)
    assert told(pair.sink).columns != told(pair.source).columns


_HISTORY: tuple[LiteralString, ...] = (
    "INSERT INTO t SELECT g, 'x' FROM generate_series(3, 20) g",
    "ALTER TABLE t ADD c text NOT NULL DEFAULT 'new'",
    "UPDATE t SET a = 'y' WHERE id % 3 = 0",
    "BEGIN; UPDATE t SET c = 'other' WHERE id = 5; ALTER TABLE t ADD d numeric(8,2), ADD e timestamptz DEFAULT now();"
    " INSERT INTO t (id, a) VALUES (21, 'z'); UPDATE t SET id = 22 WHERE id = 7; COMMIT",
    "ALTER TABLE t ALTER c SET DEFAULT 'newer'",
    "INSERT INTO t (id, a) VALUES (23, 'z')",
    "ANALYZE t",
    "UPDATE t SET d = 1.5 WHERE id < 4",
)


async def test_a_stream_tells_what_it_takes(
    database: DatabaseFactory, open_applier: OpenApplier, tmp_path: Path
) -> None:
    """From a server's own history to the sink, with nothing but frames in between."""
    pair = Pair(database)
    applier = open_applier(pair.sink)
    await applier.open()

    async def apply(stream: AsyncIterator[types.ChangeFrame]) -> None:
        pair.source.run(MARK)
        for frame in await until(stream, lambda some: any(Op.MARK in frame.operations for frame in some)):
            for piece in cut(frame):
                request = replace(applier.request(Changes(relations=frame.relations)), frame=piece)
                await applier.sink.side.write_changes(request)
                applier.sink.units["lane-0"].seq = request.context.seq

    async with followed(pair.source, tmp_path, "t") as following, following.stream() as (_, stream):
        pair.source.run(*_HISTORY)
        await apply(stream)
        expected = pair.content(pair.source)
        assert pair.content(pair.sink) == expected
        pair.source.run("ALTER TABLE t ADD f float DEFAULT random()", "UPDATE t SET a = 'w' WHERE id = 1")
        with pytest.raises(errors.NamespaceChangedError, match="computed"):
            await apply(stream)
    assert pair.content(pair.sink) == expected


def cut(frame: types.ChangeFrame) -> list[types.ChangeFrame]:
    """As a coordinator cuts it: what reshapes a table stands alone."""
    return [frames.cut(frame, start, end) for start, end, _ in frames.runs(frame)]
