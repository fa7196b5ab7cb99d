"""The null sink: it counts, forgets, and fails when it is told to."""

from __future__ import annotations

from pathlib import Path

import bson
import pytest
from dsync_null.connector import NullConnector, make
from dsync_null.options import NullOptions, sink_name
from dsync_null.plugin import SPEC
from dsync_random.connector import RandomConnector
from dsync_random.options import RandomOptions

from dsync.sdk.errors import FencedError, RecordError, RequestError, SinkFullError
from dsync.sdk.options import describe_options, parse_options
from dsync.sdk.types import (
    BsonValue,
    Extensions,
    FlowManifest,
    Page,
    PageType,
    PlanRequest,
    ReadRequest,
    SessionRequest,
    UnitRef,
    Update,
    UpdateType,
    WriteContext,
    WriteRequest,
    WriteUpdatesRequest,
)


def _sink(uri: str = "null://") -> NullConnector:
    rest, options = parse_options(SPEC, uri)
    assert isinstance(options, NullOptions)
    return make(sink_name(rest), options)


def _page(*ids: object, page_type: PageType = PageType.BSON) -> Page:
    body = b"".join(bson.encode({"_id": number, "v": "x"}) for number in ids)
    return Page(type=page_type, rows=len(ids), packed=body)


def _context(fence: int, seq: int, cursor: bytes = b"c", *, done: bool = False) -> WriteContext:
    return WriteContext(flow="f", run="r", unit="u", fence=fence, cursor=cursor, seq=seq, done=done)


async def test_it_counts_rows_and_bytes_of_each_namespace() -> None:
    """Nothing is kept, so nothing is lost by writing twice; only the counts rise."""
    sink = _sink()
    page = _page(1, 2, 3)
    for _ in range(2):
        assert await sink.write_page(WriteRequest(namespace="a", page=page)) == 3
    await sink.write_page(WriteRequest(namespace="b", page=_page(1)))
    assert await sink.count("a") == 6
    assert await sink.count("never") == 0
    assert (sink.totals["a"].size_bytes, sink.totals["a"].pages) == (2 * page.size_bytes, 2)
    assert sink.totals["b"].rows == 1


async def test_changes_are_counted_apart() -> None:
    """Their number and the bytes of their data."""
    sink = _sink()
    key = (BsonValue(data=b"\1\0\0\0", type=0x10, name="_id"),)
    updates = (Update(id=key, type=UpdateType.INSERT, data=b"12345"), Update(id=key, type=UpdateType.DELETE))
    await sink.write_updates(WriteUpdatesRequest(namespace="a", updates=updates))
    assert (sink.totals["a"].updates, sink.totals["a"].size_bytes, sink.totals["a"].rows) == (2, 5, 0)


async def test_it_takes_every_type_unless_told_otherwise() -> None:
    """Fast types are offered in dsync.v1 alone."""
    sink = _sink()
    info, extensions = await sink.get_info(), await sink.get_extensions()
    assert info.source is None
    assert info.sink is not None
    assert info.sink.data_types == (PageType.BSON, PageType.JSON)
    assert extensions.write_types[0] is PageType.PG_COPY_BINARY
    bson_only = _sink("null://?data_types=bson")
    assert (await bson_only.get_extensions()).write_types == (PageType.BSON,)
    with pytest.raises(RequestError, match="PG_COPY_TEXT"):
        await bson_only.write_page(WriteRequest(namespace="a", page=_page(1, page_type=PageType.PG_COPY_TEXT)))


async def test_its_id_is_its_name() -> None:
    """A flow resumed against another name is refused by the coordinator."""
    assert (await _sink("null://a").get_info()).id == (await _sink("null://a?latency_ms=1").get_info()).id
    assert (await _sink("null://a").get_info()).id != (await _sink("null://b").get_info()).id


async def test_a_page_by_reference_is_read_from_its_file(tmp_path: Path) -> None:
    """Through the session's page directory, as any sink does."""
    directory = tmp_path / "pages"
    directory.mkdir(mode=0o700)
    (directory / ("probe-" + "0" * 32)).write_bytes(b"token")
    request = SessionRequest(page_directory=str(directory), page_probe="probe-" + "0" * 32)
    source, sink = RandomConnector("shop", RandomOptions(documents=10_000, partitions=1)), _sink()
    assert await source.open_session(request) == await sink.open_session(request) == b"token"
    (partition,) = (await source.generate_plan(PlanRequest(namespaces=()))).partitions
    page = await source.read_page(ReadRequest(partition=partition, by_reference=True))
    assert page.ref is not None
    assert await sink.write_page(WriteRequest(namespace="a", page=page)) == 10_000
    assert sink.totals["a"].size_bytes == 410_000


async def test_refused_ids_break_the_page() -> None:
    """For tests of the search for one bad row: nothing of the page is counted."""
    sink = _sink("null://?refuse_ids=3,-5")
    for bad in (3, bson.Int64(-5)):
        with pytest.raises(RecordError):
            await sink.write_page(WriteRequest(namespace="a", page=_page(1, bad, "x")))
    assert await sink.count("a") == 0
    await sink.write_page(WriteRequest(namespace="a", page=_page(1, "3", 4, {"a": 3})))
    assert await sink.count("a") == 4


async def test_faults_come_when_they_are_ordered() -> None:
    sink = _sink("null://?fault=write_page@2:SinkFullError")
    await sink.write_page(WriteRequest(namespace="a", page=_page(1)))
    with pytest.raises(SinkFullError):
        await sink.write_page(WriteRequest(namespace="a", page=_page(1)))
    assert await sink.count("a") == 1


async def test_the_ledger_knows_a_repeated_write() -> None:
    """The same step of the same unit counts once, and the unit goes on where it stands."""
    sink = _sink("null://?ledger=true")
    assert "LedgerService" in (await sink.get_extensions()).services
    (state,) = await sink.open_units("f", "r", [UnitRef(unit="u", namespace="a")])
    assert (state.fence, state.cursor, state.rows) == (1, b"", 0)
    for _ in range(2):
        request = WriteRequest(namespace="a", page=_page(1, 2), context=_context(1, 1, b"next"))
        assert await sink.write_page(request) == 2
    await sink.write_page(WriteRequest(namespace="a", page=_page(3), context=_context(1, 2, b"", done=True)))
    assert await sink.count("a") == 3
    (state,) = await sink.open_units("f", "r", [UnitRef(unit="u", namespace="a")])
    assert (state.fence, state.cursor, state.seq, state.rows, state.done) == (2, b"", 2, 3, True)


async def test_a_zombie_is_fenced() -> None:
    """Opening a unit makes every earlier fence void; an unknown unit has none."""
    sink = _sink("null://?ledger=true")
    await sink.open_units("f", "r", [UnitRef(unit="u", namespace="a")])
    await sink.open_units("f", "r", [UnitRef(unit="u", namespace="a")])
    for context in (_context(1, 1), WriteContext(flow="g", run="r", unit="u", fence=1, cursor=b"", seq=1)):
        with pytest.raises(FencedError):
            await sink.write_page(WriteRequest(namespace="a", page=_page(1), context=context))
    assert await sink.count("a") == 0


async def test_a_flow_is_cleared_and_forgotten() -> None:
    """Its units begin again; then nothing of it is left."""
    sink = _sink("null://?ledger=true")
    units = [UnitRef(unit="u", namespace="a")]
    await sink.open_units("f", "r", units)
    await sink.write_page(WriteRequest(namespace="a", page=_page(1), context=_context(1, 1)))
    manifest = FlowManifest(flow="f", fingerprint="p", name="n", run="r", plan=b"plan")
    await sink.save_manifest(manifest)
    assert await sink.find_manifests(fingerprint="p") == [manifest]
    assert await sink.find_manifests(flow="f", fingerprint="q") == []
    await sink.clear_namespace(_context(1, 2), "a", ["u", "unknown"])
    assert await sink.count("a") == 0
    (state,) = await sink.open_units("f", "r2", units)
    assert (state.fence, state.cursor, state.seq, state.rows) == (2, b"", 0, 0)
    assert len(await sink.forget_flow("f")) == 2
    assert await sink.forget_flow("f") == []
    assert (await sink.open_units("f", "r", units))[0].fence == 1


async def test_without_a_ledger_it_says_so() -> None:
    """The coordinator then goes by its own checkpoints."""
    extensions: Extensions = await _sink().get_extensions()
    assert extensions.services == {"PageService"}
    assert not extensions.transactional


def test_every_option_has_a_description() -> None:
    """`dsync connectors show null` prints them."""
    assert all(option.description for option in describe_options(NullOptions))
