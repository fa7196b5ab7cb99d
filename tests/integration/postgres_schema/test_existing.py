"""A sink that is not empty: what is there is used or in the way, and is never changed."""

from __future__ import annotations

import pytest
from dsync_postgres.schema import PlanOptions, SequencePosition, TableName

from tests.integration.postgres_schema.support import (
    Dumped,
    build,
    dump,
    nasty,
    plan_for,
    positions_of,
    schema_text,
    stops,
)
from tests.support.databases import Database, DatabaseFactory, PgPair


async def _dump(pair: PgPair, source: Database) -> Dumped:
    return await dump(source.uri, source_major=pair.source.major, sink_major=pair.sink.major)


async def test_a_table_that_exists_stops_unless_it_may_be_filled(
    pg_pair: PgPair, source_db: DatabaseFactory, sink_db: DatabaseFactory
) -> None:
    source, sink = source_db(nasty), sink_db()
    sink.run("CREATE SCHEMA shop", "CREATE TABLE shop.product (id integer)", "CREATE TABLE shop.v1 (id integer)")

    plan = plan_for(sink.uri, await _dump(pg_pair, source))

    assert [(f.code, f.object) for f in stops(plan.findings)] == [("table-exists", "shop.product")]
    # A view is not filled, so one that exists, or a table in its place, is only worth a warning.
    assert [(f.code, f.object, f.severity.name) for f in plan.findings if f.object == "VIEW shop.v1"] == [
        ("object-exists", "VIEW shop.v1", "WARNING")
    ]


async def test_a_table_that_may_be_filled_is_left_exactly_as_it_is(
    pg_pair: PgPair, source_db: DatabaseFactory, sink_db: DatabaseFactory
) -> None:
    """The source's keys, triggers and comments are not added; foreign keys of new tables may point to it."""
    source, sink = source_db(nasty), sink_db()
    sink.run(
        "CREATE SCHEMA shop",
        "CREATE TABLE shop.customer (id bigint PRIMARY KEY, note text)",
        "COMMENT ON TABLE shop.customer IS 'mine'",
    )
    dumped = await _dump(pg_pair, source)
    customer = TableName(schema="shop", name="customer")
    selection = dumped.select("shop.customer", "shop.product")

    plan = plan_for(sink.uri, dumped, selection, PlanOptions(usable_tables=frozenset({customer})))
    build(sink.uri, plan, positions=positions_of(source.uri))

    assert stops(plan.findings) == []
    assert customer not in plan.created
    assert TableName(schema="shop", name="product") in plan.created
    kept = next(f for f in plan.findings if f.code == "existing-table-kept")
    assert kept.object == "shop.customer"
    assert "2 × TRIGGER" in kept.message
    assert sink.value("SELECT obj_description('shop.customer'::regclass)") == "mine"
    assert sink.value("SELECT count(*) FROM pg_index WHERE indrelid = 'shop.customer'::regclass") == 1
    assert sink.value("SELECT confrelid::regclass::text FROM pg_constraint WHERE conname = 'champ'") == "shop.customer"


async def test_a_sequence_that_exists_is_moved_ahead_but_never_back(
    pg_pair: PgPair, source_db: DatabaseFactory, sink_db: DatabaseFactory
) -> None:
    """Numbers that the sink has given out must not be given out again."""
    source, sink = source_db(), sink_db()
    ddl = (
        "CREATE TABLE ahead (id serial PRIMARY KEY)",
        "CREATE TABLE behind (id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY)",
        "CREATE SEQUENCE falling INCREMENT -1 MAXVALUE 100 START 100",
        "CREATE SEQUENCE fallen INCREMENT -1 MAXVALUE 100 START 100",
        "CREATE SEQUENCE unused MINVALUE 10 START 10",
    )
    source.run(*ddl, "SELECT setval('ahead_id_seq', 5)", "SELECT setval('behind_id_seq', 50)")
    source.run("SELECT setval('falling', 20)", "SELECT setval('fallen', 90)", "SELECT setval('unused', 10, true)")
    sink.run(*ddl, "SELECT setval('ahead_id_seq', 9)", "SELECT setval('behind_id_seq', 7)")
    sink.run("SELECT setval('falling', 30)", "SELECT setval('fallen', 80)")
    usable = frozenset({TableName(schema="public", name=name) for name in ("ahead", "behind")})

    plan = plan_for(sink.uri, await _dump(pg_pair, source), options=PlanOptions(usable_tables=usable))
    build(sink.uri, plan, positions=positions_of(source.uri))

    assert {position.name.name: (position.last_value, position.is_called) for position in positions_of(sink.uri)} == {
        "ahead_id_seq": (9, True),
        "behind_id_seq": (50, True),
        "falling": (20, True),
        "fallen": (80, True),
        "unused": (10, True),
    }


async def test_two_flows_into_one_database_share_types_and_functions(
    pg_pair: PgPair, source_db: DatabaseFactory, sink_db: DatabaseFactory
) -> None:
    source, sink = source_db(nasty), sink_db()
    dumped = await _dump(pg_pair, source)
    build(sink.uri, plan_for(sink.uri, dumped, dumped.select("shop.event")))

    plan = plan_for(sink.uri, dumped, dumped.select("shop.customer"))
    build(sink.uri, plan)

    assert stops(plan.findings) == []
    assert {f.object for f in plan.findings if f.code == "object-exists"} == {
        "FUNCTION shop.touch()",
        "TYPE shop.mood",
    }


async def test_what_will_have_been_dropped_is_not_in_the_way(
    pg_pair: PgPair, source_db: DatabaseFactory, sink_db: DatabaseFactory
) -> None:
    """Nor are its indexes and sequences, whose names it takes along."""
    source, sink = source_db(), sink_db()
    ddl = ("CREATE TABLE public.t (id serial PRIMARY KEY, v text)", "CREATE INDEX t_v ON public.t (v)")
    source.run(*ddl)
    sink.run(*ddl)
    dumped = await _dump(pg_pair, source)

    dropped = frozenset({TableName(schema="public", name="t")})
    plan = plan_for(sink.uri, dumped, options=PlanOptions(dropped_tables=dropped))
    sink.run("DROP TABLE public.t")
    build(sink.uri, plan, positions=positions_of(source.uri))

    assert plan.findings == ()
    assert schema_text(sink.uri, dumped.tool) == schema_text(source.uri, dumped.tool)


async def test_a_name_that_an_index_will_need_is_found_before_the_load(
    pg_pair: PgPair, source_db: DatabaseFactory, sink_db: DatabaseFactory
) -> None:
    source, sink = source_db(), sink_db()
    source.run("CREATE TABLE public.t (id integer PRIMARY KEY, v text)", "CREATE INDEX by_v ON public.t (v)")
    sink.run(
        "CREATE TABLE public.other (v text)", "CREATE INDEX by_v ON public.other (v)", "CREATE VIEW t_pkey AS SELECT"
    )

    plan = plan_for(sink.uri, await _dump(pg_pair, source))

    found = sorted((f.code, f.object) for f in stops(plan.findings))
    assert found == [("name-taken", "public.by_v"), ("name-taken", "public.t_pkey")]


async def test_half_of_a_partitioned_table_stops(
    pg_pair: PgPair, source_db: DatabaseFactory, sink_db: DatabaseFactory
) -> None:
    source, sink = source_db(nasty), sink_db()
    sink.run("CREATE SCHEMA shop", "CREATE TABLE shop.hashed_0 (id uuid NOT NULL, v text)")
    usable = frozenset({TableName(schema="shop", name="hashed_0")})

    plan = plan_for(sink.uri, await _dump(pg_pair, source), options=PlanOptions(usable_tables=usable))

    assert [(f.code, f.object) for f in stops(plan.findings)] == [("partition-split", "shop.hashed_0")]


@pytest.mark.parametrize("pg_pair", [(15, 16)], indirect=True)
async def test_an_extension_that_the_sink_lacks_is_named_with_the_tables_that_need_it(
    pg_pair: PgPair, source_db: DatabaseFactory, sink_db: DatabaseFactory
) -> None:
    source, sink = source_db(), sink_db()
    source.run("CREATE EXTENSION citext", "CREATE TABLE mail (address citext)", "CREATE TABLE plain (id integer)")
    dumped = await _dump(pg_pair, source)

    whole = plan_for(sink.uri, dumped)
    without = plan_for(sink.uri, dumped, dumped.select("public.plain"))

    (finding,) = stops(whole.findings)
    assert (finding.code, finding.object) == ("extension-missing", "citext")
    assert "public.mail need" in finding.message
    assert stops(without.findings) == []


async def test_an_extension_in_another_schema_is_not_the_one_that_types_are_written_with(
    pg_pair: PgPair, source_db: DatabaseFactory, sink_db: DatabaseFactory
) -> None:
    source, sink = source_db(), sink_db()
    source.run("CREATE EXTENSION vector", "CREATE TABLE v (e vector(3))")
    sink.run("CREATE SCHEMA ext", "CREATE EXTENSION vector SCHEMA ext")
    dumped = await _dump(pg_pair, source)

    assert [(f.code, f.object) for f in stops(plan_for(sink.uri, dumped).findings)] == [("extension-schema", "vector")]
    sink.run("ALTER EXTENSION vector SET SCHEMA public")
    plan = plan_for(sink.uri, dumped)
    assert plan.findings == ()
    build(sink.uri, plan)


def test_a_position_of_a_sequence_that_is_gone_is_not_set() -> None:
    """Dropped at the source between plan and finish: nothing is known about it, and nothing is done."""
    from dsync_postgres.schema import BuildStep, SequenceTarget
    from dsync_postgres.schema.apply import _settings_of

    here, gone = TableName(schema="s", name="here"), TableName(schema="s", name="gone")
    step = BuildStep(
        id="sequences:positions",
        kind="sequences",
        name="positions",
        namespace="",
        statements=(),
        sequences=(SequenceTarget(name=here, only_forward=False), SequenceTarget(name=gone, only_forward=False)),
    )

    made = _settings_of(step, [SequencePosition(name=here, last_value=3, is_called=True)])

    assert [statement.object for statement in made] == ["SEQUENCE s.here"]
