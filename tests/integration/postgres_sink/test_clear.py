"""Removing a flow's own rows, and the traces of a flow."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from dsync_postgres.sink.remembered import save_shape

from dsync.sdk import errors, types
from tests.integration.postgres_schema.support import make_roles, nasty
from tests.integration.postgres_sink.conftest import OpenSink
from tests.integration.postgres_sink.support import RUN, Sink, copy_tables, describe, finish_all, prepare_request
from tests.integration.postgres_sink.test_prepare import counts, names, shop
from tests.support.databases import Database, DatabaseFactory

both = pytest.mark.parametrize("pg_pair", [(16, 16), (18, 18)], indirect=True)


async def copied(source: Database, sink: Sink, **changes: Any) -> types.Prepared:
    """Prepare and copy everything, without finishing."""
    prepared = await sink.side.prepare(prepare_request(await describe(source), **changes))
    await copy_tables(sink, source, prepared)
    return prepared


def clearing(sink: Sink, unit: str) -> types.WriteContext:
    """The context of a clearing, as a coordinator gives it after it has opened the unit."""
    return replace(sink.context(unit, b""), seq=0)


@both
async def test_a_cleared_table_starts_again_from_nothing(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_sink: OpenSink
) -> None:
    source, target = source_db(shop), sink_db()
    sink = open_sink(target)
    await copied(source, sink)
    context = clearing(sink, "public.item")
    for _ in range(2):
        await sink.side.clear_namespace(context, "public.item", ["public.item"])
    assert counts(target) == [(10, 0, 50, 5)]
    (state,) = await sink.open("public.item", namespace="public.item")
    assert (state.seq, state.rows, state.cursor, state.done) == (0, 0, b"", False)


async def test_whoever_was_replaced_clears_nothing(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_sink: OpenSink
) -> None:
    source, target = source_db(shop), sink_db()
    zombie, heir = open_sink(target), open_sink(target)
    await copied(source, zombie)
    await heir.open("public.item", namespace="public.item")
    with pytest.raises(errors.FencedError):
        await zombie.side.clear_namespace(clearing(zombie, "public.item"), "public.item", ["public.item"])
    assert counts(target) == [(10, 100, 50, 5)]


@both
async def test_rows_that_changes_have_brought_are_the_flows(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_sink: OpenSink
) -> None:
    """A followed table can be copied anew, whatever has come and gone since it was copied."""
    source, target = source_db(shop), sink_db()
    sink = open_sink(target)
    await copied(source, sink)
    target.run("INSERT INTO item (id, customer) VALUES (4711, 1)")
    context = clearing(sink, "public.item")
    with pytest.raises(errors.SinkNotEmptyError, match="101 rows, of which it wrote 100"):
        await sink.side.clear_namespace(context, "public.item", ["public.item"])
    with target.connect() as connection:
        save_shape(connection, sink.flow, "public.item", {"id": "integer"})
    # Also by a run that begins anew.
    again = await describe(source)
    await sink.side.prepare(prepare_request(again, run="r2", on_existing=types.OnExisting.RESUME))
    await sink.side.clear_namespace(context, "public.item", ["public.item"])
    assert counts(target) == [(10, 0, 50, 5)]


async def test_rows_of_others_are_never_removed(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_sink: OpenSink
) -> None:
    """Neither those that were there before nor those that came since."""
    source, target = source_db(shop), sink_db(shop)
    target.run("DELETE FROM item", "DELETE FROM log", "DELETE FROM scratch")
    sink = open_sink(target)
    await copied(source, sink, on_existing=types.OnExisting.APPEND)
    target.run("INSERT INTO log VALUES (now(), 'theirs')")
    for name, reason in (("public.customer", "held rows before"), ("public.log", "51 rows, of which it wrote 50")):
        with pytest.raises(errors.SinkNotEmptyError, match=reason):
            await sink.side.clear_namespace(clearing(sink, name), name, [name])
    assert counts(target) == [(10, 100, 51, 5)]


async def test_a_table_made_anew_by_somebody_is_not_cleared(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_sink: OpenSink
) -> None:
    source, target = source_db(shop), sink_db()
    sink = open_sink(target)
    await copied(source, sink)
    target.run("DROP TABLE log", "CREATE TABLE log (at timestamptz, line text)", "INSERT INTO log VALUES (now(), 'x')")
    with pytest.raises(errors.NamespaceChangedError, match="made again"):
        await sink.side.clear_namespace(clearing(sink, "public.log"), "public.log", ["public.log"])
    assert target.value("SELECT count(*) FROM log") == 1


@both
@pytest.mark.parametrize("as_owner", [False, True], ids=["superuser", "owner"])
async def test_a_second_run_replaces_the_first_ones_rows(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_sink: OpenSink, as_owner: bool
) -> None:
    """By now the tables have triggers and foreign keys, our own; they neither fire nor stand in the way, and are
    there and checked again at the end."""
    source, target = source_db(shop), sink_db()
    uri = target.owner_uri() if as_owner else None
    first = open_sink(target, uri=uri)
    await finish_all(first, source, await copied(source, first))

    source.run(
        "ALTER TABLE item DISABLE TRIGGER refuse", "INSERT INTO item SELECT g, 1, 5 FROM generate_series(101, 107) g"
    )
    source.run("ALTER TABLE item ENABLE TRIGGER refuse")
    second = open_sink(target, uri=uri)
    second.run = "r2"
    request = prepare_request(await describe(source), on_existing=types.OnExisting.RESUME)
    prepared = await second.side.prepare(replace(request, run="r2"))
    assert {load.upsert for load in prepared.namespaces} == {False}
    assert [f.code for f in prepared.findings if f.severity is not types.Severity.INFO] == (
        ["triggers-disabled"] if as_owner else []
    )
    for load in prepared.namespaces:
        await second.open(load.target, namespace=load.target)
        await second.side.clear_namespace(clearing(second, load.target), load.target, [])
    # Truncated, not deleted row by row, since their foreign keys are set aside.
    assert target.value("SELECT pg_relation_size('customer')") == 0
    assert counts(target) == [(0, 0, 0, 0)]
    await copy_tables(second, source, prepared)
    await finish_all(second, source, prepared)
    assert counts(target) == counts(source)
    assert names(target) == names(source)
    assert target.value("SELECT tgenabled FROM pg_trigger WHERE tgname = 'refuse'") == "O"
    assert target.value("SELECT count(*) FROM pg_constraint WHERE contype = 'f' AND convalidated") == 1
    assert target.value("SELECT count(*) FROM _dsync.aside") == 0
    # The first run's rows are gone, and with them what the ledger knew of them.
    assert target.rows("SELECT DISTINCT run FROM _dsync.ledger WHERE rows > 0") == [("r2",)]


async def test_a_third_run_may_clear_what_the_second_kept(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_sink: OpenSink
) -> None:
    """Unchanged tables are carried over without units of their own; their rows are still the flow's."""
    source, target = source_db(shop), sink_db()
    sink = open_sink(target)
    await copied(source, sink)
    for run in ("r2", "r3"):
        await sink.side.prepare(replace(prepare_request(await describe(source)), run=run))
    sink.run = "r3"
    await sink.open("public.log", namespace="public.log")
    await sink.side.clear_namespace(clearing(sink, "public.log"), "public.log", [])
    assert target.value("SELECT count(*) FROM log") == 0


# ------------------------------------------------------------------ reset


@both
async def test_reset_removes_every_trace_but_the_rows(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_sink: OpenSink
) -> None:
    source, target = source_db(shop), sink_db()
    sink = open_sink(target)
    await finish_all(sink, source, await copied(source, sink))
    manifest = types.FlowManifest(flow=sink.flow, fingerprint="p", name="", run=RUN, plan=b"")
    await sink.side.save_manifest(manifest)
    await sink.side.save_manifest(replace(manifest, flow="other"))
    said = await sink.side.forget_flow(sink.flow)
    assert any("ledger row" in line for line in said)
    assert any("manifest" in line for line in said)
    assert not any("schema" in line for line in said)
    assert [m.flow for m in await sink.side.find_manifests()] == ["other"]
    assert await sink.side.forget_flow("other") == [
        "1 manifest of flow other at the sink",
        "schema _dsync of the sink, which no other flow uses",
    ]
    assert target.value("SELECT to_regnamespace('_dsync') IS NULL")
    assert await sink.side.forget_flow("other") == []
    assert counts(target) == counts(source)


async def test_a_schema_of_an_administrator_stays(database: DatabaseFactory, open_sink: OpenSink) -> None:
    db = database()
    await open_sink(db).open("u")
    db.run("GRANT USAGE ON SCHEMA _dsync TO public", "GRANT ALL ON ALL TABLES IN SCHEMA _dsync TO public")
    db.run("GRANT CREATE ON SCHEMA _dsync TO public", "GRANT USAGE ON ALL SEQUENCES IN SCHEMA _dsync TO public")
    other = open_sink(db, uri=db.owner_uri())
    said = await other.side.forget_flow(other.flow)
    assert said[-1] == "nothing else: the empty schema _dsync of the sink belongs to another role and stays"
    assert db.value("SELECT count(*) FROM _dsync.ledger") == 0


@both
@pytest.mark.parametrize("as_owner", [False, True], ids=["superuser", "owner"])
async def test_rows_elsewhere_that_refer_to_ours_are_not_touched(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_sink: OpenSink, as_owner: bool
) -> None:
    """TRUNCATE is refused there, and DELETE would take them along."""
    source, target = source_db(shop), sink_db()
    sink = open_sink(target, uri=target.owner_uri() if as_owner else None)
    await finish_all(sink, source, await copied(source, sink))
    target.run(
        "CREATE TABLE theirs (customer int REFERENCES customer ON DELETE CASCADE)",
        "CREATE TABLE others (customer int REFERENCES customer)",
        "INSERT INTO theirs VALUES (1)",
        "ALTER TABLE item DROP CONSTRAINT item_customer_fkey",
    )
    await sink.open("public.customer", namespace="public.customer")
    context = clearing(sink, "public.customer")
    if not as_owner:
        await sink.side.clear_namespace(context, "public.customer", ["public.customer"])
        assert counts(target)[0][0] == 0
    else:
        with pytest.raises(errors.PermanentError, match=r"theirs_customer_fkey of public\.theirs would delete"):
            await sink.side.clear_namespace(context, "public.customer", ["public.customer"])
        target.run("DROP TABLE theirs", "CREATE TABLE theirs AS SELECT 1 AS customer", "INSERT INTO others VALUES (2)")
        with pytest.raises(errors.PermanentError, match="rows elsewhere refer to its rows"):
            await sink.side.clear_namespace(context, "public.customer", ["public.customer"])
        assert counts(target)[0][0] == 10
    assert target.value("SELECT count(*) FROM theirs") == 1


async def test_a_second_run_finds_what_the_first_has_made_of_every_kind(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_sink: OpenSink
) -> None:
    """Casts, operators and the like too, which no list of existing objects has; and what is new is made."""
    source, target = source_db(nasty), sink_db()
    with target.connect() as connection:
        make_roles(connection)
    sink = open_sink(target)
    await finish_all(sink, source, await copied(source, sink))
    source.run("CREATE TABLE shop.later (i int)", "INSERT INTO shop.later VALUES (1)")
    second = open_sink(target)
    second.run = "r2"
    request = replace(prepare_request(await describe(source)), run="r2")
    tried = await second.side.prepare(replace(request, dry_run=True))
    assert [f for f in tried.findings if f.severity is types.Severity.STOP] == []
    prepared = await second.side.prepare(request)
    assert [load.target for load in prepared.namespaces if not load.existed] == ["shop.later"]
    # Partitions by the hash of an enum are filled through their top and cannot be cleared one by one.
    prepared = replace(prepared, namespaces=tuple(load for load in prepared.namespaces if "by_mood" not in load.target))
    for load in prepared.namespaces:
        await second.open(load.target, namespace=load.target)
        await second.side.clear_namespace(clearing(second, load.target), load.target, [])
    await copy_tables(second, source, prepared)
    await finish_all(second, source, prepared)
    assert names(target) == names(source)
