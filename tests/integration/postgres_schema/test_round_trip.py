"""A whole schema, built by our plan, is the schema that pg_restore builds from the same archive."""

from __future__ import annotations

import pytest
from dsync_postgres.schema import PlanOptions, TableName, rehearse, run_statements

from tests.integration.postgres_schema.support import (
    Dumped,
    build,
    codes,
    dump,
    filled_with,
    make_roles,
    nasty,
    pinned,
    plan_for,
    positions_of,
    restore,
    schema_text,
    shuffled,
    stops,
)
from tests.support.databases import Database, DatabaseFactory, PgPair

_POPULATED = "SELECT relname::text FROM pg_class WHERE relkind = 'm' AND relispopulated ORDER BY 1"


_WITHOUT_IDENTITY = ("ALTER TABLE shop.event ALTER COLUMN id DROP IDENTITY",)


async def _dump(pair: PgPair, source: Database) -> Dumped:
    return await dump(source.uri, source_major=pair.source.major, sink_major=pair.sink.major)


@pytest.mark.parametrize("pg_pair", [(15, 16), (16, 18), (18, 18), (15, 18)], indirect=True)
async def test_a_database_is_built_as_pg_restore_builds_it(
    pg_pair: PgPair, source_db: DatabaseFactory, sink_db: DatabaseFactory
) -> None:
    """Every object, owner, privilege and comment arrives, whichever of the allowed orders the steps are run in."""
    source, ours, theirs = source_db(nasty), sink_db(), sink_db()
    _make_roles(ours)
    dumped = await _dump(pg_pair, source)

    plan = plan_for(ours.uri, dumped)
    refused = build(ours.uri, plan, positions=positions_of(source.uri), order=shuffled(1))
    restore(dumped, theirs)

    assert [*plan.findings, *refused] == []
    assert schema_text(ours.uri, dumped.tool) == schema_text(theirs.uri, dumped.tool)
    assert positions_of(ours.uri) == positions_of(source.uri)
    assert ours.rows(_POPULATED) == source.rows(_POPULATED) == [("a_m2",), ("m1",), ("m_grouped",)]


async def test_a_copy_on_the_same_version_dumps_exactly_as_its_source(
    pg_pair: PgPair, source_db: DatabaseFactory, sink_db: DatabaseFactory
) -> None:
    """Down to the names of constraints, on 18 with everything that 18 brought."""
    source, sink = source_db(filled_with("nasty.sql", "nasty_18.sql")), sink_db()
    dumped = await _dump(pg_pair, source)

    plan = plan_for(sink.uri, dumped)
    build(sink.uri, plan, positions=positions_of(source.uri), order=shuffled(2))

    assert plan.findings == ()
    assert schema_text(sink.uri, dumped.tool) == schema_text(source.uri, dumped.tool)


@pytest.mark.parametrize("pg_pair", [(18, 16)], indirect=True)
async def test_an_older_sink_gets_what_it_can_express(
    pg_pair: PgPair, source_db: DatabaseFactory, sink_db: DatabaseFactory
) -> None:
    """18 writes NOT NULL of inherited columns and the privilege MAINTAIN in words that 16 does not know.

    pg_restore stops at them; the meaning is kept, except for the privilege, which is listed.
    """
    source, sink = source_db(nasty), sink_db()
    _make_roles(sink)
    dumped = await _dump(pg_pair, source)

    plan = plan_for(sink.uri, dumped)
    refused = build(sink.uri, plan, positions=positions_of(source.uri))

    assert refused == []
    assert codes(plan.findings) == {"privilege-unknown", "partition-identity"}
    # Before 17 only the partitioned table itself has an identity column; its partitions get their numbers from it.
    sink.run(*_WITHOUT_IDENTITY)
    source.run(*_WITHOUT_IDENTITY)
    assert _columns(sink) == _columns(source)
    assert _objects(sink) == _objects(source)


@pytest.mark.parametrize("pg_pair", [(18, 16)], indirect=True)
async def test_what_an_older_sink_cannot_express_stops_before_any_row_moves(
    pg_pair: PgPair, source_db: DatabaseFactory, sink_db: DatabaseFactory
) -> None:
    source, sink = source_db(filled_with("nasty.sql", "nasty_18.sql")), sink_db()
    dumped = await _dump(pg_pair, source)

    plan = plan_for(sink.uri, dumped)

    assert codes(stops(plan.findings)) == {"needs-newer-sink"}
    named = {(finding.object, finding.message.rpartition("know ")[2]) for finding in stops(plan.findings)}
    assert named == {
        ("TABLE shop.modern", "a virtual generated column (18)"),
        ("TABLE shop.modern", "NOT NULL NO INHERIT (18)"),
        ("CHECK CONSTRAINT shop.modern lenient", "a constraint that is NOT ENFORCED (18)"),
        ("CONSTRAINT shop.modern unchecked", "a NOT NULL constraint that is NOT VALID (18)"),
        ("CONSTRAINT shop.booked booked_pkey", "a key WITHOUT OVERLAPS (18)"),
        ("FK CONSTRAINT shop.visit visit_rooms_during_fkey", "a foreign key over a PERIOD (18)"),
        ("FK CONSTRAINT shop.loose loose_id_fkey", "a constraint that is NOT ENFORCED (18)"),
    }


@pytest.mark.parametrize("pg_pair", [(15, 15)], indirect=True)
async def test_extensions_wrappers_and_event_triggers_come_along(
    pg_pair: PgPair, source_db: DatabaseFactory, sink_db: DatabaseFactory
) -> None:
    """The event trigger refuses all DDL, so it would break the build if it were not the last step."""
    source = source_db(filled_with("nasty.sql", "contrib_15.sql"))
    ours, theirs = sink_db(), sink_db()
    dumped = await _dump(pg_pair, source)

    plan = plan_for(ours.uri, dumped)
    build(ours.uri, plan, positions=positions_of(source.uri), order=shuffled(3))
    restore(dumped, theirs)

    assert plan.findings == ()
    assert plan.post_data[-1].kind == "event trigger"
    assert schema_text(ours.uri, dumped.tool) == schema_text(theirs.uri, dumped.tool)
    assert "mapped-secret-canary" not in repr(plan)


async def test_two_dumps_of_one_database_give_the_same_steps(
    pg_pair: PgPair, source_db: DatabaseFactory, sink_db: DatabaseFactory
) -> None:
    """Dump ids change when an unrelated object appears; the ids of steps, which the state keeps, do not."""
    source, sink = source_db(nasty), sink_db()
    first = plan_for(sink.uri, await _dump(pg_pair, source))
    source.run("CREATE TABLE public.aaa_unrelated (id integer)")

    second = plan_for(sink.uri, await _dump(pg_pair, source))

    assert [step.id for step in first.post_data] == [step.id for step in second.post_data]
    assert len({step.id for step in first.post_data}) == len(first.post_data)


async def test_a_rehearsal_leaves_nothing_behind(
    pg_pair: PgPair, source_db: DatabaseFactory, sink_db: DatabaseFactory
) -> None:
    source, sink = source_db(nasty), sink_db()
    dumped = await _dump(pg_pair, source)
    before = schema_text(sink.uri, dumped.tool)
    plan = plan_for(sink.uri, dumped)

    with pinned(sink.uri) as connection:
        findings = rehearse(connection, plan)

    assert findings == ()
    assert schema_text(sink.uri, dumped.tool) == before


@pytest.mark.parametrize("pg_pair", [(15, 16)], indirect=True)
async def test_a_rehearsal_finds_what_no_rule_of_ours_knows(
    pg_pair: PgPair, source_db: DatabaseFactory, sink_db: DatabaseFactory
) -> None:
    """A server built without ICU refuses an ICU collation, and says so before any row moves."""
    source, sink = source_db(), sink_db()
    source.run(
        "CREATE COLLATION public.german (provider = icu, locale = 'de')",
        "CREATE TABLE public.word (word text COLLATE public.german)",
    )
    plan = plan_for(sink.uri, await _dump(pg_pair, source))

    with pinned(sink.uri) as connection:
        findings = rehearse(connection, plan)

    assert findings[0].code == "sink-refuses"
    assert findings[0].object == "COLLATION public.german"
    assert "ICU is not supported" in findings[0].message


async def test_keys_can_be_there_before_the_load(
    pg_pair: PgPair, source_db: DatabaseFactory, sink_db: DatabaseFactory
) -> None:
    """A table written by upserts needs its key first; a partition takes only its own along."""
    source, sink = source_db(nasty), sink_db()
    dumped = await _dump(pg_pair, source)
    keyed = {
        TableName(schema="shop", name="customer"): None,
        TableName(schema="shop", name="scratch"): "scratch_k_key",
        TableName(schema="shop", name="event_2024"): None,
    }

    plan = plan_for(sink.uri, dumped, options=PlanOptions(keys_before=keyed))
    with pinned(sink.uri) as connection, connection.transaction():
        run_statements(connection, plan.pre_data)

    indexes = sink.rows(
        "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'i' AND oid >= 16384"
        " AND relnamespace <> 'pg_toast'::regnamespace ORDER BY 1"
    )
    assert [name for (name,) in indexes] == ["shop.customer_pk", "shop.event_2024_pkey", "shop.scratch_k_key"]
    assert not {'constraint:shop."customer customer_pk"'} & {step.id for step in plan.post_data}


def _make_roles(database: Database) -> None:
    with database.connect() as connection:
        make_roles(connection)


def _columns(database: Database) -> object:
    return database.rows(
        "SELECT attrelid::regclass::text, attname, format_type(atttypid, atttypmod), attnotnull, attgenerated,"
        " attidentity, pg_get_expr(adbin, adrelid)"
        " FROM pg_attribute LEFT JOIN pg_attrdef ON (adrelid, adnum) = (attrelid, attnum) JOIN pg_class c ON c.oid ="
        " attrelid WHERE attrelid >= 16384 AND attnum > 0 AND NOT attisdropped"
        " AND relnamespace <> 'pg_toast'::regnamespace ORDER BY 1, 2"
    )


def _objects(database: Database) -> object:
    return database.rows(
        "SELECT relkind, oid::regclass::text, pg_get_userbyid(relowner)::text FROM pg_class"
        " WHERE oid >= 16384 AND relnamespace <> 'pg_toast'::regnamespace"
        " UNION ALL SELECT contype, conrelid::regclass || ' ' || conname, pg_get_constraintdef(oid) FROM pg_constraint"
        " WHERE oid >= 16384 AND contype <> 'n' AND conparentid = 0"
        " UNION ALL SELECT 'z', tgrelid::regclass || ' ' || tgname, tgenabled::text FROM pg_trigger"
        " WHERE NOT tgisinternal"
        " UNION ALL SELECT 'y', polrelid::regclass || ' ' || polname, polcmd::text FROM pg_policy"
        " UNION ALL SELECT 'x', oid::regprocedure::text, prosrc FROM pg_proc WHERE oid >= 16384"
        " ORDER BY 1, 2"
    )
