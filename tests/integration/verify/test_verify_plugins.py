"""Verification through the connector itself: as processes of their own, and in ours."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Literal

import pytest

from dsync.plugins.manager import OpenEndpoint, OpenOptions, open_endpoint
from dsync.plugins.registry import Registry
from dsync.plugins.runtime import runtime_directory
from dsync.protocol.types import Extensions, Role, SessionRequest
from dsync.verify import Kind, Method, VerifyOptions, verify
from tests.integration.verify.every_type import fill_every
from tests.integration.verify.support import MILLION, rows_of
from tests.support.databases import Database, DatabaseFactory
from tests.support.waiting import wait_for_async

Attach = Literal["process", "inline"]

REGISTRY = Registry.installed()


@asynccontextmanager
async def opened(
    source: Database, target: Database, attach: Attach
) -> AsyncIterator[tuple[OpenEndpoint, OpenEndpoint]]:
    """Both connectors, with their sessions."""
    async with AsyncExitStack() as stack:
        runtime = stack.enter_context(runtime_directory())
        ends = []
        for role, database in ((Role.SOURCE, source), (Role.SINK, target)):
            endpoint = await stack.enter_async_context(
                open_endpoint(
                    database.uri,
                    registry=REGISTRY,
                    runtime=runtime,
                    label=role.name.lower(),
                    settings=OpenOptions(attach=attach),
                )
            )
            await endpoint.connector.open_session(SessionRequest(flow="f", role=role))
            ends.append(endpoint)
        yield ends[0], ends[1]


@pytest.mark.parametrize("attach", ["process", "inline"])
@pytest.mark.parametrize("pg_pair", [(16, 18)], indirect=True)
async def test_the_connector_serves_what_verification_asks(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, attach: Attach
) -> None:
    """Everything crosses gRPC as it does within a process: sums, hashes, keys, texts and NULLs."""
    source, target = source_db(fill_every), sink_db(fill_every)
    source.run(
        "CREATE SCHEMA shop",
        "CREATE TABLE shop.parts (id int, note text, PRIMARY KEY (id)) PARTITION BY RANGE (id)",
        "CREATE TABLE shop.low PARTITION OF shop.parts FOR VALUES FROM (0) TO (10)",
        "INSERT INTO shop.parts VALUES (1, 'x')",
    )
    target.run("UPDATE every SET t = NULL, n = n + 1 WHERE id = 17", "DELETE FROM every WHERE id = -3")
    names = {"public.every": "public.every", "shop.parts": "shop.parts", "shop.low": "shop.low"}
    options = VerifyOptions(settle_delay_s=0.01, show_values=True)
    async with opened(source, target, attach) as (first, second):
        report = await verify(first.connector, second.connector, names, options)
        equal = await verify(first.connector, first.connector, names, options)
        quick = await verify(first.connector, second.connector, names, VerifyOptions(quick=True))
    every, parts, low = report.namespaces
    assert every.method is Method.PUSHED_DOWN
    found = {d.key: (d.kind, [(c.column, c.target) for c in d.columns]) for d in every.differences}
    assert found == {
        ("-3",): (Kind.MISSING, []),
        ("17",): (Kind.DIFFERENT, [("n", "3.4285714285714286"), ("t", None)]),
    }
    assert [d.detail for d in (*parts.differences, *low.differences)] == [
        "the target has no shop.parts",
        "the target has no shop.low",
    ]
    assert equal.exit_code == 0
    assert equal.source_rows == 304
    assert [n.is_equal for n in quick.namespaces] == [False, False, False]
    assert quick.namespaces[0].differences[0].detail == "303 rows at the source, 302 at the target"


async def test_what_the_copys_snapshot_saw_is_what_counts(source_db: DatabaseFactory, sink_db: DatabaseFactory) -> None:
    """Rows that the source has written since the plan was made are no differences while its snapshot is held."""
    source, target = source_db(), sink_db()
    for database in (source, target):
        database.run(MILLION.format(rows=3_000), "ANALYZE big")
    target.run("DELETE FROM big WHERE id = 2000")
    names = {"public.big": "public.big"}
    async with opened(source, target, "inline") as (first, second):
        plan = await first.connector.open_plan(["public.big"])
        source.run("UPDATE big SET note = 'later' WHERE id < 100", "INSERT INTO big VALUES (9999, 1, 'later')")
        held = await verify(first.connector, second.connector, names, VerifyOptions(live=False))
    assert rows_of(held) == {("2000",): (Kind.MISSING, ())}

    # Once it is gone, the source still knows which rows are older than it.
    options = VerifyOptions(settle_delay_s=0, generations=1, snapshot_lost=True, lost_snapshot=plan.snapshot)
    async with opened(source, target, "process") as (first, second):
        lost = await verify(first.connector, second.connector, names, options)
    assert (lost.counts.missing, lost.counts.faults, lost.counts.changed_since) == (1, 1, 100)
    assert lost.exit_code == 4


async def test_a_holder_that_ends_meanwhile_leaves_a_live_verification(
    source_db: DatabaseFactory, sink_db: DatabaseFactory
) -> None:
    """The rows that the source has written since are told apart; the fault that no write explains is one."""
    source, target = source_db(), sink_db()
    for database in (source, target):
        database.run(MILLION.format(rows=3_000), "ANALYZE big")
    target.run("DELETE FROM big WHERE id = 2000")
    async with opened(source, target, "process") as (first, second):
        plan = await first.connector.open_plan(["public.big"])
        source.run("UPDATE big SET note = 'later' WHERE id < 100")
        # With a timeout it waits until the session is gone.
        ended = source.rows(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name LIKE '%holder%'"
        )
        assert ended == [(True,)]
        options = VerifyOptions(live=False, settle_delay_s=0, generations=1, lost_snapshot=plan.snapshot)
        names = {"public.big": "public.big"}
        report = await verify(first.connector, second.connector, names, options)
    assert report.live
    assert (report.counts.missing, report.counts.faults, report.counts.changed_since) == (1, 1, 99)


async def test_a_connector_that_dies_is_asked_again(source_db: DatabaseFactory, sink_db: DatabaseFactory) -> None:
    """Its process is started anew and the range compared once more; nothing is counted twice."""
    source, target = source_db(), sink_db()
    for database in (source, target):
        database.run(MILLION.format(rows=60_000), "ANALYZE big")
    target.run("DELETE FROM big WHERE id = 30000")
    async with opened(source, target, "process") as (first, second):
        victims = [second.pid]

        def kill_once(event: object) -> None:
            if victims and (victim := victims.pop()) is not None:
                os.kill(victim, signal.SIGKILL)

        options = VerifyOptions(rows_per_range=5_000, parallel=1, settle_delay_s=0.01, generations=1)
        report = await verify(first.connector, second.connector, {"public.big": "public.big"}, options, emit=kill_once)
        await wait_for_async(lambda: second.restarts == 1, what="the connector was started anew")
    assert rows_of(report) == {("30000",): (Kind.MISSING, ())}
    assert (report.source_rows, report.target_rows) == (60_000, 59_999)


async def test_without_common_checksums_documents_are_compared(
    source_db: DatabaseFactory, sink_db: DatabaseFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connector's documents tell the same differences as its checksums, with a key and without."""
    source, target = source_db(), sink_db()
    for database in (source, target):
        database.run(MILLION.format(rows=2_000), "CREATE TABLE bag AS SELECT a, note FROM big", "ANALYZE")
    target.run("UPDATE big SET note = 'wrong' WHERE id = 5", "DELETE FROM big WHERE id = 6")
    target.run("INSERT INTO bag VALUES (1, 'twice'), (1, 'twice')")
    names = {"public.big": "public.big", "public.bag": "public.bag"}
    async with opened(source, target, "inline") as (first, second):
        whole = first.connector.get_extensions

        async def other_dialect() -> Extensions:
            found = await whole()
            return Extensions(services=found.services or frozenset({"SchemaService"}), schema_dialect="postgres")

        monkeypatch.setattr(first.connector, "get_extensions", other_dialect)
        options = VerifyOptions(settle_delay_s=0, generations=1)
        report = await verify(first.connector, second.connector, names, options)
    big, bag = report.namespaces
    assert report.methods == (Method.STREAMED,)
    found = {d.key: (d.kind, [c.column for c in d.columns]) for d in big.differences}
    assert found == {("5",): (Kind.DIFFERENT, ["note"]), ("6",): (Kind.MISSING, [])}
    assert (bag.counts.missing, bag.counts.extra, bag.source_rows) == (0, 2, 2_000)
