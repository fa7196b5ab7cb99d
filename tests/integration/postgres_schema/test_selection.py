"""Any choice of tables builds: what it needs comes along, what it cannot have is named."""

from __future__ import annotations

import pytest
from dsync_postgres.schema import SchemaSelection, TableName, rehearse

from tests.integration.postgres_schema.support import Dumped, build, dump, filled_with, nasty, pinned, plan_for, stops
from tests.support.databases import Database, DatabaseFactory, PgPair


async def _dump(pair: PgPair, source: Database) -> Dumped:
    return await dump(source.uri, source_major=pair.source.major, sink_major=pair.sink.major)


def _rehearsed(sink: Database, dumped: Dumped, selection: SchemaSelection) -> list[tuple[str, str]]:
    plan = plan_for(sink.uri, dumped, selection)
    assert stops(plan.findings) == []
    with pinned(sink.uri) as connection:
        return [(finding.object, finding.message) for finding in rehearse(connection, plan)]


@pytest.mark.parametrize("pg_pair", [(18, 18)], indirect=True)
async def test_every_relation_can_be_chosen_alone(
    pg_pair: PgPair, source_db: DatabaseFactory, sink_db: DatabaseFactory
) -> None:
    """Its types, functions and sequences are found, however deep; nothing refers to what did not come along."""
    source, sink = source_db(filled_with("nasty.sql", "everything.sql")), sink_db()
    dumped = await _dump(pg_pair, source)

    refused = {
        str(name): problems
        for name in dumped.facts.tables
        if (problems := _rehearsed(sink, dumped, dumped.select(str(name))))
    }

    assert len(dumped.facts.tables) > 70
    assert refused == {}


@pytest.mark.parametrize("pg_pair", [(15, 16)], indirect=True)
async def test_every_relation_can_be_left_out(
    pg_pair: PgPair, source_db: DatabaseFactory, sink_db: DatabaseFactory
) -> None:
    source, sink = source_db(filled_with("nasty.sql", "everything.sql")), sink_db()
    dumped = await _dump(pg_pair, source)

    refused = {
        str(name): problems
        for name in dumped.facts.tables
        if (problems := _rehearsed(sink, dumped, dumped.select(excluded=[str(name)])))
    }

    assert refused == {}


async def test_a_chosen_table_brings_what_belongs_to_it_and_names_what_it_leaves(
    pg_pair: PgPair, source_db: DatabaseFactory, sink_db: DatabaseFactory
) -> None:
    source, sink = source_db(nasty), sink_db()
    dumped = await _dump(pg_pair, source)

    selection = dumped.select("shop.customer")
    plan = plan_for(sink.uri, dumped, selection)
    build(sink.uri, plan)

    assert sink.rows("SELECT relname FROM pg_class WHERE relkind = 'r' AND oid >= 16384") == [("customer",)]
    indexes = sink.rows("SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = 'shop.customer'::regclass")
    assert {name for (name,) in indexes} == {'shop."customer upper; idx"', "shop.customer_fn", "shop.customer_pk"}
    assert sink.value("SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal") == 2
    assert {(item.entry.desc, item.entry.tag, item.reason) for item in selection.left_out} == {
        ("FK CONSTRAINT", "customer fav", "it references shop.product, which is not selected"),
        ("POLICY", "customer strict", "it needs shop.product, which is not selected"),
    }
    assert {(f.code, f.severity.name) for f in plan.findings} == {("left-out", "INFO"), ("left-out", "WARNING")}


async def test_a_partitioned_table_brings_its_partitions(
    pg_pair: PgPair, source_db: DatabaseFactory, sink_db: DatabaseFactory
) -> None:
    """Its rows are in them; one that was excluded stays behind."""
    source, sink = source_db(nasty), sink_db()
    dumped = await _dump(pg_pair, source)

    selection = dumped.select("shop.event", excluded=["shop.event_2025_sad"])
    build(sink.uri, plan_for(sink.uri, dumped, selection))

    made = sink.rows("SELECT relid::text, isleaf FROM pg_partition_tree('shop.event') ORDER BY 1")
    assert made == [
        ("shop.event", False),
        ("shop.event_2024", True),
        ("shop.event_2025", False),
        ("shop.event_2025_rest", True),
        ("shop.event_default", True),
    ]
    assert {name.name for name in selection.tables} == {name.removeprefix("shop.") for name, _ in made}
    # Every index of the parent is valid: those of all partitions were attached to it.
    assert sink.value("SELECT bool_and(indisvalid) FROM pg_index WHERE indrelid = 'shop.event'::regclass") is True


async def test_a_parent_by_inheritance_comes_without_rows(
    pg_pair: PgPair, source_db: DatabaseFactory, sink_db: DatabaseFactory
) -> None:
    source, sink = source_db(nasty), sink_db()
    dumped = await _dump(pg_pair, source)

    selection = dumped.select("shop.dog")
    plan = plan_for(sink.uri, dumped, selection)

    assert selection.tables == {TableName(schema="shop", name="dog")}
    assert selection.structure_only == {TableName(schema="shop", name="animal")}
    assert [(f.code, f.object) for f in plan.findings] == [("structure-only", "shop.animal")]


async def test_what_depends_on_an_excluded_table_is_named(pg_pair: PgPair, source_db: DatabaseFactory) -> None:
    """A view that pg_dump writes in two parts goes as a whole: its first part alone would show nulls."""
    dumped = await _dump(pg_pair, source_db(nasty))

    selection = dumped.select(excluded=["shop.product"])

    assert {(item.entry.desc, item.entry.tag) for item in selection.left_out} == {
        ("VIEW", "v2"),
        ("VIEW", "grouped"),
        ("VIEW", "over_grouped"),
        ("FUNCTION", "of_grouped(shop.grouped)"),
        ("FUNCTION", "on_a_view()"),
        ("MATERIALIZED VIEW", "m_grouped"),
        ("FK CONSTRAINT", "customer fav"),
        ("POLICY", "customer strict"),
    }


async def test_a_materialised_view_over_rows_that_stay_behind_says_so(
    pg_pair: PgPair, source_db: DatabaseFactory, sink_db: DatabaseFactory
) -> None:
    dumped = await _dump(pg_pair, source_db(nasty))

    plan = plan_for(sink_db().uri, dumped, dumped.select("shop.m1"))

    assert {(f.code, f.object) for f in plan.findings} >= {("view-without-rows", "shop.m1")}
