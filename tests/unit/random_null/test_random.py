"""The random source: documents and changes follow from the options and from nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import pairwise

import bson
import pytest
from bson import Int64
from dsync_random.connector import RandomConnector
from dsync_random.options import RandomOptions, source_name
from dsync_random.plugin import SPEC
from hypothesis import given, settings
from hypothesis import strategies as st

from dsync.sdk.errors import CapacityError, OptionError, RequestError, ServerUnavailableError
from dsync.sdk.options import describe_options, parse_options
from dsync.sdk.types import (
    BsonValue,
    Page,
    PageType,
    Partition,
    PlanRequest,
    ReadRequest,
    SessionRequest,
    StreamRequest,
    Update,
    UpdateType,
)


def _source(uri: str = "random://shop") -> RandomConnector:
    rest, options = parse_options(SPEC, uri)
    assert isinstance(options, RandomOptions)
    return RandomConnector(source_name(rest), options)


async def _pages(source: RandomConnector, partition: Partition, *, page_bytes: int = 0) -> list[Page]:
    pages: list[Page] = []
    cursor = b""
    while not pages or cursor:
        request = ReadRequest(partition=partition, cursor=cursor, page_bytes=page_bytes)
        page = await source.read_page(request)
        assert page == await source.read_page(request)
        pages.append(page)
        cursor = page.next_cursor
    return pages


async def _documents(source: RandomConnector, namespaces: Sequence[str] = (), *, page_bytes: int = 0) -> list[bytes]:
    plan = await source.generate_plan(PlanRequest(namespaces=tuple(namespaces)))
    found: list[bytes] = []
    for partition in plan.partitions:
        for page in await _pages(source, partition, page_bytes=page_bytes):
            assert page.packed is not None
            documents = bson.decode_all(bytes(page.packed))
            assert len(documents) == page.rows
            found += [bson.encode(document) for document in documents]
    return found


@pytest.mark.parametrize(("shape", "size"), [("small", 41), ("kib", 1024)])
async def test_the_shapes_have_the_sizes_they_promise(shape: str, size: int) -> None:
    """41 bytes and 1 KiB are what other implementations were measured with."""
    documents = await _documents(_source(f"random://shop?shape={shape}&documents=100"))
    assert {len(document) for document in documents} == {size}
    assert [bson.decode(document)["_id"] for document in documents] == list(range(100))
    assert len({document[17:] for document in documents}) > 90


async def test_typed_documents_have_a_field_of_each_type() -> None:
    """All of them, or those that were named, in that order."""
    (document, *_) = await _documents(_source("random://shop?shape=typed&documents=3"))
    assert len(bson.decode(document)) == 14
    named = await _documents(_source("random://shop?shape=typed&types=uuid,int32&documents=3&document_bytes=200"))
    assert list(bson.decode(named[0])) == ["_id", "uuid", "int32", "v"]
    assert {len(document) for document in named} == {200}


@settings(deadline=None, max_examples=40)
@given(
    documents=st.integers(0, 400),
    partitions=st.integers(1, 7),
    page_bytes=st.integers(1, 5000),
    other_bytes=st.integers(1, 5000),
)
def test_partitions_and_pages_cut_the_same_documents(
    documents: int, partitions: int, page_bytes: int, other_bytes: int
) -> None:
    """Wherever a page begins, a document is a function of its id."""

    async def read() -> None:
        source = _source(f"random://shop?documents={documents}&partitions={partitions}")
        first = await _documents(source, page_bytes=page_bytes)
        assert [bson.decode(document)["_id"] for document in first] == list(range(documents))
        whole = _source(f"random://shop?documents={documents}&partitions=1")
        assert first == await _documents(whole, page_bytes=other_bytes)

    asyncio.run(read())


async def test_only_an_empty_partition_gives_an_empty_page() -> None:
    """The last documents come with an empty cursor (protocol)."""
    source = _source("random://shop?documents=10&partitions=2")
    for partition in (await source.generate_plan(PlanRequest(namespaces=()))).partitions:
        pages = await _pages(source, partition, page_bytes=100)
        assert [page.rows for page in pages] == [2, 2, 1]
    empty = _source("random://shop?documents=0")
    (partition,) = (await empty.generate_plan(PlanRequest(namespaces=()))).partitions
    assert [page.rows for page in await _pages(empty, partition)] == [0]


async def test_list_data_gives_the_same_documents_as_read_page() -> None:
    """A coordinator that knows adiom.v1 alone reads single records."""
    source = _source("random://shop?documents=50&partitions=1&shape=typed")
    (partition,) = (await source.generate_plan(PlanRequest(namespaces=()))).partitions
    listed = await source.list_data(ReadRequest(partition=partition))
    paged = await source.read_page(ReadRequest(partition=partition))
    assert listed.records is not None
    assert paged.packed is not None
    assert b"".join(listed.records) == bytes(paged.packed)
    assert listed.rows == len(listed.records) == 50


async def test_seeds_and_namespaces_differ_and_repeat() -> None:
    """The same options are the same endpoint, also in another process; other content is another one."""
    one, same, other = _source("random://a?seed=1"), _source("random://a?seed=1"), _source("random://a?seed=2")
    assert await _documents(one) == await _documents(same)
    assert await _documents(one) != await _documents(other)
    assert (await one.get_info()).id == (await same.get_info()).id != (await other.get_info()).id
    two = _source("random://odd%20name?namespaces=2")
    plan = await two.generate_plan(PlanRequest(namespaces=()))
    names = list(dict.fromkeys(partition.namespace for partition in plan.partitions))
    assert names == ['"odd name".c1', '"odd name".c2']
    assert await two.count(names[1]) == 1000
    assert await _documents(two, names[:1]) != await _documents(two, names[1:])


async def test_documents_are_found_by_id() -> None:
    """In the order asked, nothing where there is none; type and bytes of an id count."""
    source = _source("random://shop?documents=20")
    documents = await _documents(source)

    def key(number: int, kind: int = 0x12) -> tuple[BsonValue, ...]:
        return (BsonValue(data=number.to_bytes(8, "little", signed=True), type=kind, name="_id"),)

    found = await source.get_by_ids("shop.c1", [key(7), key(20), key(-1), key(3, kind=0x09), key(0)], PageType.BSON)
    assert found == [documents[7], b"", b"", b"", documents[0]]


async def _changes(source: RandomConnector, count: int, cursor: bytes = b"") -> tuple[list[Update], bytes]:
    updates: list[Update] = []
    stream = source.stream_updates(StreamRequest(namespaces=("shop.c1",), cursor=cursor))
    async with asyncio.timeout(10):
        async for batch in stream:
            updates += batch.updates
            cursor = batch.next_cursor
            if len(updates) >= count:
                break
    await stream.aclose()  # type: ignore[attr-defined]  # an async generator, behind the interface
    return updates, cursor


def _apply(state: dict[bytes, bytes], updates: Sequence[Update]) -> None:
    for update in updates:
        (key,) = update.id
        if update.type is UpdateType.DELETE:
            assert key.data in state
            del state[key.data]
        else:
            assert (key.data in state) == (update.type is UpdateType.UPDATE)
            assert state.get(key.data) != update.data
            assert bson.decode(update.data)["_id"] == Int64(int.from_bytes(key.data, "little"))
            state[key.data] = update.data


async def test_changes_fit_the_documents_and_each_other() -> None:
    """Inserts are new, updates change something, deletes hit what is there; in the shares that were asked for."""
    source = _source("random://shop?documents=100&changes=2000&change_mix=1,2,1")
    state = {document[9:17]: document for document in await _documents(source)}
    updates, _ = await _changes(source, 2000)
    _apply(state, updates)
    kinds = [update.type for update in updates]
    shares = [kinds.count(kind) / 2000 for kind in (UpdateType.INSERT, UpdateType.UPDATE, UpdateType.DELETE)]
    assert shares == pytest.approx([0.25, 0.5, 0.25], abs=0.05)
    ids = sorted(int.from_bytes(key, "little") for key in state)
    assert all(after - before == 1 for before, after in pairwise(ids))


async def test_a_stream_goes_on_after_its_cursor() -> None:
    """Any cursor, in any process."""
    uri = "random://shop?documents=10&changes=500"
    whole, end = await _changes(_source(uri), 500)
    head, cursor = await _changes(_source(uri), 200)
    tail, _ = await _changes(_source(uri), 500 - len(head), cursor)
    assert head + tail == whole
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            async for batch in _source(uri).stream_updates(StreamRequest(namespaces=("shop.c1",), cursor=end)):
                pytest.fail(f"{len(batch.updates)} changes after the last one")


async def test_deletes_alone_end_in_inserts() -> None:
    """Where nothing is left to delete or update, a change has to be an insert."""
    source = _source("random://shop?documents=2&changes=6&change_mix=0,0,1")
    updates, _ = await _changes(source, 6)
    assert [update.type.name for update in updates] == ["DELETE", "DELETE", "INSERT", "DELETE", "INSERT", "DELETE"]


async def test_faults_come_when_they_are_ordered() -> None:
    """For tests of retries, of sources that loop and of pages that are too large."""
    source = _source(
        "random://shop?fault=read_page@1:ServerUnavailableError,read_page@3:same-cursor,read_page@4:over-limit"
    )
    await source.open_session(SessionRequest(page_bytes=4100, max_message_bytes=8200))
    (partition, *_) = (await source.generate_plan(PlanRequest(namespaces=()))).partitions
    with pytest.raises(ServerUnavailableError):
        await source.read_page(ReadRequest(partition=partition))
    first = await source.read_page(ReadRequest(partition=partition))
    assert (first.rows, bool(first.next_cursor)) == (100, True)
    again = await source.read_page(ReadRequest(partition=partition, cursor=first.next_cursor))
    assert again.next_cursor == first.next_cursor
    assert (await source.read_page(ReadRequest(partition=partition))).size_bytes > 8200


async def test_what_cannot_be_read_is_refused_by_name() -> None:
    """Foreign cursors, foreign types, strange namespaces, documents over the limit."""
    source = _source()
    (first, second) = (await source.generate_plan(PlanRequest(namespaces=()))).partitions
    end = (await source.read_page(ReadRequest(partition=first, page_bytes=41))).next_cursor
    for request in (
        ReadRequest(partition=Partition(namespace="shop.c9")),
        ReadRequest(partition=Partition(namespace="shop.c1", cursor=b"x")),
        ReadRequest(partition=first, cursor=b"x"),
        ReadRequest(partition=second, cursor=end),
        ReadRequest(partition=first, type=PageType.JSON),
    ):
        with pytest.raises(RequestError):
            await source.read_page(request)
    with pytest.raises(RequestError):
        await _changes(source, 1, cursor=b"x")
    large = _source("random://shop?document_bytes=5000000")
    (partition, *_) = (await large.generate_plan(PlanRequest(namespaces=()))).partitions
    with pytest.raises(CapacityError, match="5,000,000 bytes"):
        await large.read_page(ReadRequest(partition=partition))


@pytest.mark.parametrize(
    "query", ["shape=odd", "types=int32,int32", "change_mix=1,2", "change_mix=0,0,0", "seed=-1", "size=3", "fault=x"]
)
def test_a_wrong_option_is_refused(query: str) -> None:
    """Before anything runs, with the option's name."""
    with pytest.raises(OptionError):
        _source(f"random://shop?{query}")


def test_a_document_that_cannot_be_so_small_says_how_small_it_can_be() -> None:
    with pytest.raises(OptionError, match="at least 26 bytes"):
        asyncio.run(_documents(_source("random://shop?document_bytes=20")))


def test_every_option_has_a_description() -> None:
    """`dsync connectors show random` prints them."""
    assert all(option.description for option in describe_options(RandomOptions))
