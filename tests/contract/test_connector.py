"""What every connector promises, asked in every way a connector can be reached."""

from __future__ import annotations

import asyncio
import time

import pytest

from dsync.conformance import ExamineOptions, Outcome, examine
from dsync.protocol import errors
from dsync.protocol.channel import Deadlines
from dsync.protocol.interface import SERVICE_METHODS
from dsync.protocol.pages import join_records, split_records
from dsync.protocol.types import (
    CheckRequest,
    ChecksumRequest,
    CopiedPartition,
    DescribeRequest,
    FlowManifest,
    NamespaceMapping,
    OnExisting,
    Page,
    PageType,
    Partition,
    PlanRequest,
    PrepareRequest,
    ReadRequest,
    Role,
    StreamRequest,
    UnitRef,
    Verdict,
    WriteContext,
)
from dsync.sdk.testing.faults import CRASH_TEXT
from tests.contract.rig import Rig, Way, document

by_value_and_by_reference = pytest.mark.parametrize("passing", ["value", "reference"], indirect=True)


def context(fence: int, seq: int, *, cursor: bytes = b"c", done: bool = False, unit: str = "u") -> WriteContext:
    return WriteContext(flow="f", run="r", unit=unit, fence=fence, cursor=cursor, seq=seq, done=done)


def bson_page(*documents: bytes) -> Page:
    return Page(type=PageType.BSON, rows=len(documents), packed=b"".join(documents))


async def plan(rig: Rig, *namespaces: str) -> tuple[Partition, ...]:
    return (await rig.connector.generate_plan(PlanRequest(namespaces=namespaces))).partitions


async def test_it_keeps_what_the_protocol_promises(rig: Rig, way: Way) -> None:
    """However it is reached; the tests below are about what only this connector or this way of reaching it has."""
    names = ("shop.orders", "shop.people")
    for name in names:
        rig.fill(name, 40, record_bytes=5000)
    rig.store.create("kit.scratch")
    options = ExamineOptions(namespaces=names, scratch="kit.scratch", pause_s=0.1, pages=rig.pages)
    report = await examine(rig.connector, options)
    assert {result.check.id: result.seen for result in report.of(Outcome.FAILED)} == {}
    skipped = {result.check.group for result in report.of(Outcome.SKIPPED)}
    # Memory has no log of changes, and its ids are whole numbers of 32 bits; in one process nothing goes by reference.
    by_reference = {"page"} if way == "inline" else set()
    assert skipped == {"stream", "lsn", "lookup", "changes"} | by_reference


# ------------------------------------------------------------------ who it is


async def test_it_says_who_it_is_and_what_it_serves(rig: Rig) -> None:
    """The answer is the same however it is reached: the coordinator asks and never guesses."""
    info, extensions = await rig.connector.get_info(), await rig.connector.get_extensions()
    assert (info.id, info.db_type) == ("memory", "memory")
    assert info.source is not None
    assert info.sink is not None
    # Memory has no log of changes that could be followed.
    assert extensions.services == frozenset(SERVICE_METHODS) - {"ChangeService", "CutoverService"}
    assert extensions.transactional
    assert extensions.max_message_bytes == 64 * 1024 * 1024


async def test_findings_arrive(rig: Rig) -> None:
    """Nothing to say is an answer too."""
    assert await rig.connector.check(CheckRequest(role=Role.SOURCE)) == ()


# ------------------------------------------------------------------- reading


@by_value_and_by_reference
async def test_every_document_is_read_once_in_order(rig: Rig) -> None:
    """Pages of one partition follow each other by cursor until one comes with an empty cursor."""
    expected = rig.fill("shop.orders", 2500, record_bytes=1000)
    assert await rig.open_session() == (b"proof" if rig.by_reference else b"")
    found = []
    for partition in await plan(rig, "shop.orders"):
        pages = await rig.read_all(partition)
        assert len(pages) > 1
        assert all(page.size_bytes <= 256 * 1024 for page in pages)
        # Inside one process the object itself is passed, whatever the session says.
        assert all((page.ref is not None) == rig.by_reference for page in pages[:-1])
        for page in pages:
            records = split_records(PageType.BSON, rig.body(page))
            assert len(records) == page.rows
            found += records
    assert found == expected


@by_value_and_by_reference
async def test_asking_twice_with_one_cursor_gives_the_same_page(rig: Rig) -> None:
    """A retry must not skip what was lost on its way."""
    rig.fill("a", 900, record_bytes=1000)
    await rig.open_session()
    (partition,) = await plan(rig, "a")
    first = await rig.read(partition)
    again, next_one = await rig.read(partition), await rig.read(partition, first.next_cursor)
    assert rig.body(again) == rig.body(first)
    assert again.next_cursor == first.next_cursor
    assert rig.body(await rig.read(partition, first.next_cursor)) == rig.body(next_one)


async def test_an_empty_namespace_is_one_empty_page(rig: Rig) -> None:
    """Otherwise the last rows come with the empty cursor, so that no round trip is wasted."""
    rig.store.create("empty")
    (partition,) = await plan(rig, "empty")
    page = await rig.read(partition)
    assert (page.rows, page.next_cursor, rig.body(page)) == (0, b"", b"")


# ------------------------------------------------------------------- writing


@by_value_and_by_reference
async def test_what_is_written_is_what_was_read(rig: Rig) -> None:
    """The coordinator passes bodies on untouched."""
    expected = rig.fill("a", 2000, record_bytes=1000)
    await rig.open_session()
    for partition in await plan(rig, "a"):
        for page in await rig.read_all(partition):
            assert await rig.write("b", page) == page.rows
    assert rig.documents("b") == expected


async def test_a_refused_record_takes_its_page_along(rig: Rig) -> None:
    """All of a page or nothing of it: the coordinator halves it and has to know where it stands."""
    (state,) = await rig.connector.open_units("f", "r", [UnitRef(unit="u", namespace="a")])
    page = bson_page(document(1), document(2, _refuse=1))
    with pytest.raises(errors.RecordError, match="constraint no_refuse"):
        await rig.write("a", page, context(state.fence, 1))
    assert rig.documents("a") == []
    (state,) = await rig.connector.open_units("f", "r", [UnitRef(unit="u", namespace="a")])
    assert (state.seq, state.rows) == (0, 0)


# -------------------------------------------------------------------- ledger


async def test_the_ledger_knows_where_a_unit_stands(rig: Rig) -> None:
    """Data and ledger row are one transaction, and opening the unit gives them back."""
    (state,) = await rig.connector.open_units("f", "r", [UnitRef(unit="u", namespace="a")])
    assert (state.cursor, state.seq, state.rows, state.done) == (b"", 0, 0, False)
    page = bson_page(document(1), document(2))
    await rig.write("a", page, context(state.fence, 1, cursor=b"next"))
    await rig.write("a", bson_page(), context(state.fence, 2, cursor=b"end", done=True))
    (again,) = await rig.connector.open_units("f", "r", [UnitRef(unit="u", namespace="a")])
    assert (again.cursor, again.seq, again.rows, again.size_bytes) == (b"end", 2, 2, page.size_bytes)
    assert again.done
    assert again.fence > state.fence


async def test_a_flow_is_found_again_from_the_sink_alone(rig: Rig) -> None:
    """Lost state is rebuilt from what the sink keeps."""
    manifests = [
        FlowManifest(flow="f", fingerprint="x", name="orders", run="r", plan=b"\x00\xff"),
        FlowManifest(flow="g", fingerprint="y", name="", run="s", plan=b""),
    ]
    for manifest in [*manifests, manifests[0]]:
        await rig.connector.save_manifest(manifest)
    assert await rig.connector.find_manifests() == manifests
    assert await rig.connector.find_manifests(flow="f") == manifests[:1]
    assert await rig.connector.find_manifests(fingerprint="y") == manifests[1:]
    assert await rig.connector.find_manifests(flow="f", fingerprint="y") == []


async def test_what_a_flow_left_is_removed_and_named(rig: Rig) -> None:
    """`reset` says what it took away; the rows stay."""
    (state,) = await rig.connector.open_units("f", "r", [UnitRef(unit="u", namespace="a")])
    await rig.write("a", bson_page(document(1)), context(state.fence, 1))
    assert await rig.connector.forget_flow("f") == ["1 ledger rows of flow f"]
    assert await rig.connector.forget_flow("f") == []
    assert rig.documents("a") == [document(1)]


async def test_a_namespace_is_cleared_with_its_units(rig: Rig) -> None:
    """A table that is read again starts from nothing, in the data and in the ledger."""
    (state,) = await rig.connector.open_units("f", "r", [UnitRef(unit="u", namespace="a")])
    await rig.write("a", bson_page(document(1)), context(state.fence, 1))
    await rig.connector.clear_namespace(context(state.fence, 2), "a", ["u"])
    assert rig.documents("a") == []
    (again,) = await rig.connector.open_units("f", "r", [UnitRef(unit="u", namespace="a")])
    assert (again.cursor, again.seq, again.rows) == (b"", 0, 0)


# ---------------------------------------------------------- plan, schema, checksum


async def test_a_lost_snapshot_is_told_apart_by_namespace(rig: Rig) -> None:
    """What has not changed stays, what has comes with partitions to read it again."""
    rig.fill("a", 3)
    rig.fill("b", 3)
    opened = await rig.connector.open_plan(["a", "b"])
    lost = opened.snapshot.replace(b'"token": "', b'"token": "x')
    rig.fill("b", 4)
    copied = [CopiedPartition(partition=part, done=True, rows=3) for part in opened.partitions]
    resumed = await rig.connector.resume_plan(lost, copied)
    assert resumed.snapshot not in (b"", lost)
    verdicts = {verdict.namespace: verdict for verdict in resumed.verdicts}
    assert verdicts["a"].verdict is Verdict.UNCHANGED
    assert verdicts["b"].verdict is Verdict.CHANGED
    assert verdicts["b"].reason
    pages = [page for part in verdicts["b"].partitions for page in await rig.read_all(part)]
    assert sum(page.rows for page in pages) == 4


async def test_a_page_of_a_snapshot_that_is_gone_is_refused(rig: Rig) -> None:
    """Read under another snapshot it would be another page."""
    rig.fill("a", 3)
    (partition,) = (await rig.connector.open_plan(["a"])).partitions
    foreign = Partition(namespace="a", cursor=b"gone" + partition.cursor)
    with pytest.raises(errors.SnapshotLostError, match="plan again"):
        await rig.read(foreign)


async def test_a_schema_travels_from_source_to_sink(rig: Rig) -> None:
    """Described, prepared, finished; the steps come back to the sink with their payload as they were."""
    rig.fill("a", 3)
    description = await rig.connector.describe(DescribeRequest(namespaces=("a",), definition_for="memory"))
    assert description.namespaces[0].key == ("_id",)
    mappings = (NamespaceMapping(source="a", target="b"),)
    request = PrepareRequest(flow="f", run="r", mappings=mappings, description=description)
    prepared = await rig.connector.prepare(request)
    assert [(item.source, item.target, item.existed) for item in prepared.namespaces] == [("a", "b", False)]
    assert prepared.ddl == ("create b",)
    (step,) = prepared.steps
    data = await rig.connector.get_finish_data(step)
    (state,) = await rig.connector.open_units("f", "r", [UnitRef(unit=step.id, namespace="b")])
    for _ in range(2):
        await rig.connector.finish(context(state.fence, 1, unit=step.id, done=True), step, data)
    (again,) = await rig.connector.open_units("f", "r", [UnitRef(unit=step.id, namespace="b")])
    assert again.done


async def test_rows_of_others_are_not_touched(rig: Rig) -> None:
    """Without an order about them their presence is an error."""
    rig.fill("b", 1)
    description = await rig.connector.describe(DescribeRequest())
    mappings = (NamespaceMapping(source="a", target="b"),)
    request = PrepareRequest(
        flow="f", run="r", mappings=mappings, description=description, on_existing=OnExisting.ERROR
    )
    with pytest.raises(errors.SinkNotEmptyError, match="--on-existing"):
        await rig.connector.prepare(request)


# -------------------------------------------------------------------- errors


@pytest.mark.setup(faults=("read_page@1:CursorExpiredError", "write_page@1:SinkFullError", "count@1:PrivilegeError"))
async def test_an_error_arrives_with_its_class_and_its_text(rig: Rig) -> None:
    """The class says what to do next; the call after it works."""
    rig.fill("a", 1)
    (partition,) = await plan(rig, "a")
    with pytest.raises(errors.CursorExpiredError, match="read_page: ordered to fail at call 1"):
        await rig.read(partition)
    with pytest.raises(errors.SinkFullError, match="write_page"):
        await rig.write("a", bson_page(document(1)))
    with pytest.raises(errors.PrivilegeError):
        await rig.connector.count("a")
    assert (await rig.read(partition)).rows == 1


@pytest.mark.setup(faults=("read_page@1:crash", "get_row_hashes@1:crash"))
async def test_an_unexpected_exception_keeps_its_text_to_itself(rig: Rig) -> None:
    """It is the plug-in's bug; what it says may be a record."""
    rig.fill("a", 1)
    (partition,) = await plan(rig, "a")
    with pytest.raises(errors.PluginBugError, match="ValueError") as caught:
        await rig.read(partition)
    assert CRASH_TEXT not in str(caught.value)
    with pytest.raises(errors.PluginBugError, match="ValueError"):
        async for _ in rig.connector.get_row_hashes(ChecksumRequest(namespace="a", columns=())):
            pytest.fail("no row was to come")


@pytest.mark.setup(faults=("read_page@1:hang",), deadlines=Deadlines(data_s=0.5))
async def test_a_call_that_hangs_ends_with_its_deadline(rig: Rig) -> None:
    """A plug-in that keeps silent is an error that names it, in time, and the next call may work."""
    rig.fill("a", 1)
    (partition,) = await plan(rig, "a")
    started = time.monotonic()
    with pytest.raises(errors.DeadlineError, match=r"(?i)memory.*read_?page within 0.5 s") as caught:
        await rig.read(partition)
    assert 0.4 < time.monotonic() - started < 3
    assert caught.value.status.name == "DEADLINE_EXCEEDED"
    assert (await rig.read(partition)).rows == 1


async def test_a_method_nobody_serves_is_unsupported(rig: Rig) -> None:
    """The coordinator asks for what was declared; asking for more is answered, not crashed upon."""
    with pytest.raises(errors.UnsupportedError):
        async for _ in rig.connector.stream_updates(StreamRequest(namespaces=("a",))):
            pytest.fail("no change was to come")


@pytest.mark.parametrize("page_type", [PageType.UNKNOWN, PageType.PG_COPY_BINARY])
async def test_a_type_that_was_not_agreed_upon_is_refused(rig: Rig, page_type: PageType) -> None:
    """The request is wrong, and says which namespace it was about."""
    rig.fill("a", 1)
    (partition,) = await plan(rig, "a")
    with pytest.raises(errors.RequestError, match=r"\ba\b"):
        await rig.connector.read_page(ReadRequest(partition=partition, type=page_type))


@pytest.mark.setup(faults=("count@1:hang",))
async def test_a_caller_that_gives_up_ends_the_call(rig: Rig) -> None:
    """Cancellation passes through: it is not turned into an error of the connector."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await rig.connector.count("a")
    assert await rig.connector.count("a") == 0


async def test_joined_records_are_what_pages_hold(rig: Rig) -> None:
    """A packed page is its records, one after the other."""
    records = rig.fill("a", 4)
    (partition,) = await plan(rig, "a")
    assert rig.body(await rig.read(partition)) == join_records(PageType.BSON, records)


async def test_closing_is_repeatable(rig: Rig) -> None:
    """Cleaning up after an error closes what may be closed already."""
    await rig.connector.close()
    await rig.connector.close()
