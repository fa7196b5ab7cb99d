"""What every connector promises, asked in every way a connector can be reached."""

from __future__ import annotations

import asyncio
import time

import bson
import pytest

from dsync.protocol import errors
from dsync.protocol.channel import Deadlines
from dsync.protocol.interface import SERVICE_METHODS
from dsync.protocol.pages import join_records, split_records
from dsync.protocol.types import (
    BsonValue,
    CheckRequest,
    ChecksumRequest,
    CopiedPartition,
    DescribeRequest,
    FlowManifest,
    KeyRange,
    NamespaceMapping,
    OnExisting,
    Page,
    PageType,
    Partition,
    PlanRequest,
    PrepareRequest,
    ReadRequest,
    Role,
    RowsRequest,
    StreamRequest,
    UnitRef,
    Update,
    UpdateType,
    Verdict,
    WriteContext,
    WriteRequest,
    WriteUpdatesRequest,
)
from dsync.sdk.testing.faults import CRASH_TEXT
from tests.contract.rig import Rig, document

by_value_and_by_reference = pytest.mark.parametrize("passing", ["value", "reference"], indirect=True)


def context(fence: int, seq: int, *, cursor: bytes = b"c", done: bool = False, unit: str = "u") -> WriteContext:
    return WriteContext(flow="f", run="r", unit=unit, fence=fence, cursor=cursor, seq=seq, done=done)


def bson_page(*documents: bytes) -> Page:
    return Page(type=PageType.BSON, rows=len(documents), packed=b"".join(documents))


async def plan(rig: Rig, *namespaces: str) -> tuple[Partition, ...]:
    return (await rig.connector.generate_plan(PlanRequest(namespaces=namespaces))).partitions


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


@pytest.mark.setup(partition_rows=10)
async def test_partitions_are_read_independently(rig: Rig) -> None:
    """Each is a slice that can be read alone, several at a time."""
    expected = rig.fill("a", 25)
    partitions = await plan(rig, "a")
    assert [part.estimated_count for part in partitions] == [10, 10, 5]
    pages = await asyncio.gather(*(rig.read(part) for part in reversed(partitions)))
    assert b"".join(rig.body(page) for page in reversed(pages)) == b"".join(expected)


async def test_a_default_plan_covers_everything(rig: Rig) -> None:
    """No namespace means all of them, where the source declares `default_plan`."""
    rig.fill("a", 1)
    rig.fill("b", 1)
    assert {part.namespace for part in await plan(rig)} == {"a", "b"}


async def test_records_can_be_listed_one_by_one(rig: Rig) -> None:
    """adiom.v1's way works with a connector that has only packed pages."""
    expected = rig.fill("a", 5)
    (partition,) = await plan(rig, "a")
    page = await rig.connector.list_data(ReadRequest(partition=partition))
    assert list(page.records or ()) == expected
    assert (page.rows, page.next_cursor) == (5, b"")


async def test_documents_are_found_by_id_in_the_order_asked(rig: Rig) -> None:
    """Where there is none the answer has empty bytes in its place."""
    rig.fill("a", 3)
    ids = [(BsonValue(data=number.to_bytes(4, "little"), type=0x10),) for number in (2, 7, 0)]
    found = await rig.connector.get_by_ids("a", ids, PageType.BSON)
    assert [bson.decode(item)["_id"] if item else None for item in found] == [2, None, 0]


async def test_a_namespace_is_counted(rig: Rig) -> None:
    """For progress, before the copy."""
    rig.fill("a", 3)
    assert await rig.connector.count("a") == 3


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


async def test_writing_twice_is_writing_once(rig: Rig) -> None:
    """Without a ledger row the key alone sees to it."""
    page = bson_page(document(1), document(2))
    assert [await rig.write("a", page), await rig.write("a", page)] == [2, 2]
    assert rig.documents("a") == [document(1), document(2)]


async def test_single_records_can_be_written(rig: Rig) -> None:
    """adiom.v1's way, and a page of single records handed to a sink that takes packed ones."""
    records = [document(1), document(2)]
    page = Page(type=PageType.BSON, rows=2, records=records)
    await rig.connector.write_data(WriteRequest(namespace="a", page=page))
    assert await rig.write("b", page) == 2
    assert rig.documents("a") == rig.documents("b") == records


async def test_changes_are_applied_in_order(rig: Rig) -> None:
    """Insert, change, change in part, delete; applying them twice changes nothing."""

    def key(number: int) -> tuple[BsonValue, ...]:
        return (BsonValue(data=number.to_bytes(4, "little"), type=0x10),)

    updates = (
        Update(id=key(1), type=UpdateType.INSERT, data=document(1, a=1, b=1)),
        Update(id=key(2), type=UpdateType.INSERT, data=document(2)),
        Update(id=key(2), type=UpdateType.UPDATE, data=document(2, a=2)),
        Update(id=key(1), type=UpdateType.PARTIAL_UPDATE, data=bson.encode({"c": 3}), partial_update_unset=("b",)),
        Update(id=key(2), type=UpdateType.DELETE),
    )
    for _ in range(2):
        await rig.connector.write_updates(WriteUpdatesRequest(namespace="a", updates=updates))
        assert [bson.decode(item) for item in rig.documents("a")] == [{"_id": 1, "a": 1, "c": 3}]


async def test_a_refused_record_takes_its_page_along(rig: Rig) -> None:
    """All of a page or nothing of it: the coordinator halves it and has to know where it stands."""
    (state,) = await rig.connector.open_units("f", "r", [UnitRef(unit="u", namespace="a")])
    page = bson_page(document(1), document(2, _refuse=1))
    with pytest.raises(errors.RecordError, match="constraint no_refuse"):
        await rig.write("a", page, context(state.fence, 1))
    assert rig.documents("a") == []
    (state,) = await rig.connector.open_units("f", "r", [UnitRef(unit="u", namespace="a")])
    assert (state.seq, state.rows) == (0, 0)


async def test_what_is_there_stays_where_only_an_insert_is_asked_for(rig: Rig) -> None:
    """A refused record that is written again may be older than what has its key by now."""
    assert (await rig.connector.get_extensions()).insert_only
    (state,) = await rig.connector.open_units("f", "r", [UnitRef(unit="u", namespace="a")])
    await rig.write("a", bson_page(document(1, a="newer")), context(state.fence, 1))

    def late(number: int) -> WriteRequest:
        record = bson_page(document(number, a="older"))
        return WriteRequest(namespace="a", page=record, context=context(state.fence, 2), insert_only=True)

    with pytest.raises(errors.RecordError):
        await rig.connector.write_page(late(1))
    assert [bson.decode(item) for item in rig.documents("a")] == [{"_id": 1, "a": "newer"}]
    assert await rig.connector.write_page(late(2)) == 1


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


async def test_the_ledger_can_be_read_without_taking_a_unit_over(rig: Rig) -> None:
    """Whoever holds the unit goes on writing; one that nobody has opened stands at the start."""
    (state,) = await rig.connector.open_units("f", "r", [UnitRef(unit="u", namespace="a")])
    await rig.write("a", bson_page(document(1)), context(state.fence, 1, cursor=b"next"))
    units = [UnitRef(unit="v", namespace="a"), UnitRef(unit="u", namespace="a")]
    unknown, known = await rig.connector.read_units("f", "r", units)
    assert (unknown.unit, unknown.fence, unknown.seq, unknown.done) == ("v", 0, 0, False)
    assert (known.unit, known.fence, known.cursor, known.seq, known.rows) == ("u", state.fence, b"next", 1, 1)
    assert await rig.write("a", bson_page(document(2)), context(state.fence, 2)) == 1


async def test_a_repeated_write_is_noticed_by_the_ledger(rig: Rig) -> None:
    """Its answer was lost, not its effect."""
    (state,) = await rig.connector.open_units("f", "r", [UnitRef(unit="u", namespace="a")])
    for _ in range(2):
        assert await rig.write("a", bson_page(document(1)), context(state.fence, 1)) == 1
    (again,) = await rig.connector.open_units("f", "r", [UnitRef(unit="u", namespace="a")])
    assert (again.seq, again.rows) == (1, 1)


async def test_an_old_fence_writes_nothing(rig: Rig) -> None:
    """A coordinator that was paused while another took over must not touch the data when it wakes."""
    units = [UnitRef(unit="u", namespace="a"), UnitRef(unit="v", namespace="a")]
    zombie, other = await rig.connector.open_units("f", "r", units)
    await rig.connector.open_units("f", "r", units[:1])
    with pytest.raises(errors.FencedError, match="another coordinator"):
        await rig.write("a", bson_page(document(1)), context(zombie.fence, 1))
    assert rig.documents("a") == []
    assert await rig.write("a", bson_page(document(1)), context(other.fence, 1, unit="v")) == 1


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


async def test_a_plan_names_its_snapshot(rig: Rig) -> None:
    """Asked about again while it is held, nothing has to change."""
    rig.fill("a", 3)
    opened = await rig.connector.open_plan(["a"])
    assert opened.snapshot
    resumed = await rig.connector.resume_plan(opened.snapshot, [])
    assert (resumed.snapshot, resumed.verdicts) == (opened.snapshot, ())


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


async def test_checksums_compare_and_narrow_down(rig: Rig) -> None:
    """Sums per bucket, then hashes of one bucket's rows, then the rows."""
    rig.fill("a", 1500)
    request = ChecksumRequest(namespace="a", columns=("text",), key=("_id",), buckets=4)
    buckets = await rig.connector.get_checksum(request)
    assert sum(bucket.count for bucket in buckets) == 1500 == await rig.connector.count_rows("a")
    assert await rig.connector.plan_ranges("a", ["_id"], 100) == [KeyRange()]

    only = ChecksumRequest(namespace="a", columns=("text",), key=("_id",), buckets=4, only_buckets=(2,))
    rows = [row async for batch in rig.connector.get_row_hashes(only) for row in batch]
    (bucket,) = [bucket for bucket in buckets if bucket.bucket == 2]
    assert len(rows) == bucket.count
    assert sum(int.from_bytes(row.hash, "big") for row in rows) % 2**128 == bucket.sum

    asked = RowsRequest(namespace="a", columns=("_id", "none"), key=("_id",), keys=(rows[0].key, ("10ffffff7f",)))
    ((key, number, nothing),) = await rig.connector.get_rows(asked)
    assert (key, nothing) == (rows[0].key[0], None)
    assert number is not None


async def test_a_source_without_positions_ends_their_stream_at_once(rig: Rig) -> None:
    """With success: a coordinator may ask without looking at the capability."""
    assert [position async for position in rig.connector.stream_lsn(StreamRequest())] == []


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
