"""The ledger: units, fences, and who may write."""

from __future__ import annotations

import asyncio

import pytest

from dsync.sdk import errors, types
from tests.integration.postgres_sink.conftest import OpenSink
from tests.integration.postgres_sink.support import FLOW, page_of
from tests.support.databases import DatabaseFactory

pytestmark = pytest.mark.parametrize("pg", [15, 16, 18], indirect=True)


async def test_a_new_unit_starts_from_nothing_and_keeps_the_order_asked(
    database: DatabaseFactory, open_sink: OpenSink
) -> None:
    sink = open_sink(database())
    states = await sink.open("b", "a", "c")
    assert [state.unit for state in states] == ["b", "a", "c"]
    assert {(s.cursor, s.seq, s.rows, s.done) for s in states} == {(b"", 0, 0, False)}


async def test_each_opening_raises_the_fence_and_keeps_the_place(
    database: DatabaseFactory, open_sink: OpenSink
) -> None:
    """Also of a unit that is there already, and in the same call as a new one."""
    db = database()
    db.run("CREATE TABLE t (i int)")
    sink = open_sink(db)
    (before,) = await sink.open("u")
    await sink.write(sink.request(page_of(db, "SELECT 1"), cursor=b"\x00after"))
    after, other = await sink.open("u", "v")
    assert after.fence > before.fence
    assert (after.cursor, after.seq, after.rows, after.done) == (b"\x00after", 1, 1, False)
    assert other.seq == 0


async def test_reading_the_ledger_changes_nothing(database: DatabaseFactory, open_sink: OpenSink) -> None:
    """Not even where there is none, or where the sink takes no writes; logged and unlogged tables alike."""
    db = database()
    sink = open_sink(db)
    refs = [types.UnitRef(unit=unit, namespace="public.t") for unit in ("v", "u")]
    assert {state.fence for state in await sink.side.read_units(FLOW, sink.run, refs)} == {0}
    assert db.value("SELECT count(*) FROM pg_namespace WHERE nspname = '_dsync'") == 0

    db.run("CREATE UNLOGGED TABLE t (i int)")
    (opened,) = await sink.open("u")
    await sink.write(sink.request(page_of(db, "SELECT 1"), cursor=b"next"))
    db.run(f"ALTER DATABASE {db.name} SET default_transaction_read_only = on")
    unknown, known = await open_sink(db).side.read_units(FLOW, sink.run, refs)
    assert (unknown.unit, unknown.fence, unknown.seq) == ("v", 0, 0)
    assert (known.unit, known.fence, known.cursor, known.seq, known.rows) == ("u", opened.fence, b"next", 1, 1)


async def test_thousands_of_units_are_opened_in_one_round_trip(database: DatabaseFactory, open_sink: OpenSink) -> None:
    db = database()
    sink = open_sink(db)
    await sink.open("first")
    names = [f"p{number:05}" for number in reversed(range(5000))]
    async with asyncio.timeout(5):
        states = await sink.open(*names)
    assert [state.unit for state in states] == names
    assert len({state.fence for state in states}) == 5000


async def test_runs_and_flows_do_not_share_units(database: DatabaseFactory, open_sink: OpenSink) -> None:
    db = database()
    db.run("CREATE TABLE t (i int)")
    sink = open_sink(db)
    await sink.open("u")
    await sink.write(sink.request(page_of(db, "SELECT 1")))
    for flow, run in ((FLOW, "r2"), ("other", "r1")):
        (state,) = await sink.side.open_units(flow, run, [types.UnitRef(unit="u", namespace="public.t")])
        assert state.seq == 0


async def test_two_that_begin_at_once_make_one_ledger(database: DatabaseFactory, open_sink: OpenSink) -> None:
    db = database()
    first, second = open_sink(db), open_sink(db)
    await asyncio.gather(first.open("u"), second.open("v"))
    assert db.value("SELECT count(*) FROM _dsync.ledger") == 2


async def test_a_role_that_may_not_create_the_ledger_is_told_what_to_run(
    database: DatabaseFactory, open_sink: OpenSink
) -> None:
    """The statement in the message, run by an administrator, is all that is needed."""
    db = database()
    db.run("CREATE TABLE t (i int)")
    uri = db.reader_uri()
    sink = open_sink(db, uri=uri)
    with pytest.raises(errors.PrivilegeError, match="CREATE SCHEMA _dsync AUTHORIZATION") as caught:
        await sink.open("u")
    statement = str(caught.value).split("an administrator runs: ")[1]
    db.run(statement.encode())  # type: ignore[arg-type]
    assert len(await sink.open("u")) == 1


async def test_a_ledger_of_another_role_is_named_with_its_grants(
    database: DatabaseFactory, open_sink: OpenSink
) -> None:
    db = database()
    await open_sink(db).open("u")
    other = open_sink(db, uri=db.owner_uri())
    with pytest.raises(errors.PrivilegeError, match="GRANT USAGE, CREATE ON SCHEMA _dsync") as caught:
        await other.open("u")
    db.run(str(caught.value).split("an administrator runs: ")[1].encode())  # type: ignore[arg-type]
    assert len(await other.open("u")) == 1


async def test_a_ledger_from_the_future_is_refused(database: DatabaseFactory, open_sink: OpenSink) -> None:
    db = database()
    sink = open_sink(db)
    await sink.open("u")
    db.run("UPDATE _dsync.format SET version = 2")
    with pytest.raises(errors.PermanentError, match="format 2"):
        await sink.open("u")
    with pytest.raises(errors.PermanentError, match="format 2"):
        await sink.side.find_manifests()


async def test_a_unit_whose_table_changed_its_kind_is_refused(database: DatabaseFactory, open_sink: OpenSink) -> None:
    """Its ledger row would be looked for in the other twin, and the rows copied a second time."""
    db = database()
    db.run("CREATE TABLE t (i int)")
    sink = open_sink(db)
    await sink.open("u")
    await sink.write(sink.request(page_of(db, "SELECT 1")))
    db.run("ALTER TABLE t SET UNLOGGED")
    with pytest.raises(errors.NamespaceChangedError, match="unlogged"):
        await sink.open("u")


async def test_a_unit_of_nothing_and_one_of_an_absent_table_are_units_too(
    database: DatabaseFactory, open_sink: OpenSink
) -> None:
    sink = open_sink(database())
    await sink.open("finish:1", namespace="")
    await sink.open("finish:2", namespace="public.absent")
    await sink.open("finish:3", namespace='not."a table')
    assert len(sink.ledger()) == 3


MANIFEST = types.FlowManifest(flow=FLOW, fingerprint="p1", name="nightly", run="r1", plan=b"\x00plan")


async def test_manifests_are_found_by_what_is_given(database: DatabaseFactory, open_sink: OpenSink) -> None:
    sink = open_sink(database())
    other = types.FlowManifest(flow="f2", fingerprint="p2", name="", run="r1", plan=b"")
    again = types.FlowManifest(flow=FLOW, fingerprint="p1", name="nightly", run="r2", plan=b"new")
    for manifest in (MANIFEST, other, again):
        await sink.side.save_manifest(manifest)
    assert await sink.side.find_manifests(flow=FLOW) == [again]
    assert await sink.side.find_manifests(fingerprint="p2") == [other]
    assert await sink.side.find_manifests(flow=FLOW, fingerprint="p2") == []
    assert sorted(m.flow for m in await sink.side.find_manifests()) == sorted([FLOW, "f2"])


async def test_looking_for_manifests_creates_nothing(database: DatabaseFactory, open_sink: OpenSink) -> None:
    db = database()
    assert await open_sink(db).side.find_manifests() == []
    assert db.value("SELECT to_regnamespace('_dsync') IS NULL") is True
