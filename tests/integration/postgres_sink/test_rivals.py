"""Two flows into one table: who has claimed it and not finished it has it, also while it is empty."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from dsync.sdk import errors, types
from tests.integration.postgres_sink.conftest import OpenSink
from tests.integration.postgres_sink.support import Sink, copy_tables, describe, page_of, prepare_request
from tests.support.databases import Database, DatabaseFactory
from tests.support.waiting import wait_for_async

Policy = types.OnExisting

both = pytest.mark.parametrize("pg_pair", [(16, 16), (18, 18)], indirect=True)

WAITING = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"


def tables(uri: str) -> None:
    """One table with a key, one without, one that has no rows."""
    with psycopg.connect(uri) as connection:
        connection.execute(
            """
            CREATE TABLE keyed (i int PRIMARY KEY);
            CREATE TABLE keyless (i int);
            CREATE TABLE bare (i int);
            INSERT INTO keyed SELECT generate_series(1, 100);
            INSERT INTO keyless SELECT generate_series(1, 100);
            """
        )


def empty(uri: str) -> None:
    """The same without rows."""
    tables(uri)
    with psycopg.connect(uri) as connection:
        connection.execute("TRUNCATE keyed, keyless")


def totals(database: Database) -> list[tuple[int, ...]]:
    return database.rows("SELECT (SELECT count(*) FROM keyed), (SELECT count(*) FROM keyless)")


async def request(source: Database, flow: str, *names: str, **changes: Any) -> types.PrepareRequest:
    return prepare_request(await describe(source), *names, flow=flow, **changes)


async def started(sink: Sink, source: Database, flow: str = "one", *names: str) -> types.Prepared:
    """A flow that has told its name, prepared, and opened its units."""
    sink.flow = flow
    await sink.side.save_manifest(
        types.FlowManifest(flow=flow, fingerprint="p", name=f"nightly {flow}", run="r1", plan=b"")
    )
    prepared = await sink.side.prepare(await request(source, flow, *names))
    for load in prepared.namespaces:
        await sink.open(load.target, namespace=load.target)
    return prepared


@both
@pytest.mark.parametrize("policy", [Policy.ERROR, Policy.RESUME])
async def test_a_table_that_another_flow_is_filling_is_occupied_though_it_is_empty(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_sink: OpenSink, policy: Policy
) -> None:
    """The message names the flow, the tables and the ways on; a dry run says the same."""
    source, target = source_db(tables), sink_db()
    await started(open_sink(target), source)
    second = await request(source, "two", on_existing=policy)
    for dry_run in (True, False):
        with pytest.raises(errors.SinkNotEmptyError) as caught:
            await open_sink(target).side.prepare(replace(second, dry_run=dry_run))
        message = str(caught.value)
        assert "flow nightly one is filling 3 table(s)" in message
        assert "public.bare, public.keyed, public.keyless" in message
        assert "Let it finish" in message
        assert "`dsync reset nightly one`" in message
        assert ("--on-existing" in message) is (policy is Policy.ERROR)
    assert target.value("SELECT count(*) FROM _dsync.target WHERE flow = 'two'") == 0


async def test_a_flow_that_is_finished_or_gone_leaves_its_empty_tables_free(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_sink: OpenSink
) -> None:
    source, target = source_db(tables), sink_db()
    one = open_sink(target)
    await copy_tables(one, source, await started(one, source))
    target.run("TRUNCATE keyed, keyless")
    two = open_sink(target)
    await started(two, source, "two")
    for flow in ("one", "two"):
        await two.side.forget_flow(flow)
    await started(open_sink(target), source, "three")


async def test_a_later_run_counts_from_its_preparing_on(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_sink: OpenSink
) -> None:
    """What it takes over from the run before has no ledger rows of its own: settled once the others were opened."""
    source, target = source_db(empty), sink_db()
    one = open_sink(target)
    await copy_tables(one, source, await started(one, source))
    await one.side.prepare(await request(source, "one", run="r2", on_existing=Policy.RESUME))
    second = await request(source, "two", "public.bare")
    with pytest.raises(errors.SinkNotEmptyError, match="nightly one"):
        await open_sink(target).side.prepare(second)
    one.run = "r2"
    await one.open("public.keyed", namespace="public.keyed")
    await one.write(
        one.request(page_of(source, "SELECT 1 LIMIT 0"), "public.keyed", namespace="public.keyed", done=True)
    )
    await open_sink(target).side.prepare(second)


async def test_an_unlogged_table_without_a_ledger_row_is_not_free(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_sink: OpenSink
) -> None:
    """A crash may have taken the row, and the flow will come back to the table."""
    source, target = source_db(tables), sink_db()
    source.run("ALTER TABLE bare SET UNLOGGED")
    one = open_sink(target)
    await copy_tables(one, source, await started(one, source))
    target.run("TRUNCATE _dsync.ledger_unlogged")
    with pytest.raises(errors.SinkNotEmptyError, match="nightly one"):
        await open_sink(target).side.prepare(await request(source, "two", "public.bare"))


@both
async def test_of_two_that_prepare_at_once_one_gets_the_table(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_sink: OpenSink
) -> None:
    """Both see it empty; the second sees the first one's claim too, because it waits for it."""
    source, target = source_db(tables), sink_db(empty)
    sinks = [open_sink(target), open_sink(target)]
    await sinks[0].open("x", namespace="")
    with psycopg.connect(target.uri) as holder:
        holder.execute("LOCK TABLE _dsync.target IN SHARE MODE")
        preparing = [
            asyncio.ensure_future(sink.side.prepare(await request(source, flow)))
            for sink, flow in zip(sinks, ("one", "two"), strict=True)
        ]
        await wait_for_async(lambda: len(target.rows(WAITING)) == 2)
        holder.rollback()
        results = await asyncio.gather(*preparing, return_exceptions=True)
    refused = [result for result in results if isinstance(result, BaseException)]
    assert [type(error) for error in refused] == [errors.SinkNotEmptyError]
    assert target.value("SELECT count(DISTINCT flow) FROM _dsync.target") == 1


@both
async def test_append_beside_another_flow_writes_by_key(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_sink: OpenSink
) -> None:
    source, target = source_db(tables), sink_db(empty)
    one, two = open_sink(target), open_sink(target)
    await started(one, source, "one", "public.keyed")
    two.flow = "two"
    prepared = await two.side.prepare(await request(source, "two", "public.keyed", on_existing=Policy.APPEND))
    assert [load.upsert for load in prepared.namespaces] == [True]
    page = page_of(source, "SELECT i FROM keyed")
    await one.write(one.request(page, "public.keyed", namespace="public.keyed", columns=["i"]))
    await copy_tables(two, source, prepared)
    assert totals(target) == [(100, 0)]


@both
@pytest.mark.parametrize("policy", [Policy.TRUNCATE, Policy.DROP])
@pytest.mark.parametrize("wrote", [False, True], ids=["before its first page", "after its first page"])
async def test_who_takes_a_table_over_fences_the_flow_that_had_it(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_sink: OpenSink, policy: Policy, wrote: bool
) -> None:
    """Neither its next page lands, nor does it ever get to open the unit again."""
    source, target = source_db(tables), sink_db()
    one, two = open_sink(target), open_sink(target)
    await started(one, source)
    page = page_of(source, "SELECT i FROM keyless")
    if wrote:
        await one.write(one.request(page, "public.keyless", namespace="public.keyless"))
    two.flow = "two"
    await copy_tables(two, source, await two.side.prepare(await request(source, "two", on_existing=policy)))
    assert totals(target) == [(100, 100)]
    with pytest.raises((errors.FencedError, errors.NamespaceChangedError)):
        await one.write(one.request(page, "public.keyless", namespace="public.keyless"))
    with pytest.raises(errors.NamespaceChangedError, match="another flow has taken it over"):
        await one.open("public.keyless", namespace="public.keyless")
    assert totals(target) == [(100, 100)]
    assert target.rows("SELECT DISTINCT flow FROM _dsync.ledger") == [("two",)]


async def test_what_a_flow_began_with_counts_also_against_its_own_next_run(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_sink: OpenSink
) -> None:
    """It may clear and fill its own tables, but not while somebody else fills them."""
    source, target = source_db(tables), sink_db()
    one = open_sink(target)
    await copy_tables(one, source, await started(one, source))
    target.run("TRUNCATE keyed, keyless")
    await started(open_sink(target), source, "two")
    again = await request(source, "one", run="r2", on_existing=Policy.RESUME)
    with pytest.raises(errors.SinkNotEmptyError, match="nightly two"):
        await open_sink(target).side.prepare(again)


async def test_a_tree_and_its_partitions_are_one_to_two_flows(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_sink: OpenSink
) -> None:
    """Who is given the rows of a tree fills its partitions, and the other way round."""
    source, target = source_db(tables), sink_db()
    source.run("CREATE TABLE part (i int)")
    target.run(
        "CREATE TABLE tree (i int) PARTITION BY RANGE (i)",
        "CREATE TABLE part PARTITION OF tree FOR VALUES FROM (0) TO (1000)",
    )
    whole = await request(source, "one", "public.keyless", to={"public.keyless": "public.tree"}, create=False)
    piece = await request(source, "two", "public.part", create=False)
    for first, second in ((whole, piece), (piece, whole)):
        await open_sink(target).side.prepare(first)
        with pytest.raises(errors.SinkNotEmptyError, match=f"flow {first.flow} is filling"):
            await open_sink(target).side.prepare(second)
        await open_sink(target).side.forget_flow(first.flow)


# ------------------------------------------------------------------ opening units


async def test_a_table_made_anew_is_not_gone_on_with(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_sink: OpenSink
) -> None:
    """The rows that the ledger counts are not in it. Neither is one that is not there any more."""
    source, target = source_db(tables), sink_db()
    one = open_sink(target)
    await started(one, source)
    target.run("DROP TABLE keyless", "DROP TABLE keyed", "CREATE TABLE keyless (i int)")
    for name in ("public.keyless", "public.keyed"):
        with pytest.raises(errors.NamespaceChangedError, match=r"dropped or made again"):
            await one.open(name, namespace=name)
    await one.open("public.bare", namespace="public.bare")


async def test_opening_waits_for_a_flow_that_is_taking_the_table_over(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, open_sink: OpenSink
) -> None:
    """Else the unit would be there again just after it was taken away."""
    source, target = source_db(tables), sink_db()
    one = open_sink(target)
    await started(one, source)
    with psycopg.connect(target.uri) as rival:
        rival.execute("UPDATE _dsync.target SET relation = 0 WHERE namespace = 'public.keyless'")
        opening = asyncio.ensure_future(one.open("public.keyless", namespace="public.keyless"))
        await wait_for_async(lambda: opening.done() or target.rows(WAITING))
        rival.commit()
        with pytest.raises(errors.NamespaceChangedError, match="taken it over"):
            await opening


async def test_units_of_a_flow_without_claims_are_opened(sink_db: DatabaseFactory, open_sink: OpenSink) -> None:
    """A coordinator whose source serves no schema prepares nothing, and writes by key."""
    sink = open_sink(sink_db(tables))
    states = await sink.open("u", namespace="public.keyed")
    states += await sink.open("finish:1", namespace="")
    assert [state.seq for state in states] == [0, 0]
