"""Plug-ins that misbehave: each ends in a repeat, a restart or a named error, never in a smaller copy or a hang."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote

import pytest

from dsync.app import ends as app_ends
from dsync.app.requests import SyncRequest
from dsync.app.sync import SyncOutcome, sync
from dsync.coordinator.events import Event
from dsync.plugins.manager import OpenOptions
from dsync.protocol.channel import Deadlines
from dsync.protocol.errors import (
    CapacityError,
    DeadlineError,
    DsyncError,
    PluginBugError,
    UnsupportedError,
)
from dsync.protocol.interface import Connector
from dsync.protocol.types import Extensions, Info, PageType, SinkCapabilities, SourceCapabilities, WriteRequest
from dsync.sdk.serve import ServeOptions, serving
from dsync.sdk.testing.faults import Faults
from dsync.sdk.testing.memory import MemoryConnector
from dsync.sdk.testing.memory_store import MemoryStore
from dsync.state import Phase
from tests.integration.wrong_input.guarded import CANARY, GuardedDsync, known_flows, leaks

ROWS = 600
QUICK = Deadlines(contact_s=2.0, session_s=2.0, data_s=1.0, work_s=2.0)


@pytest.fixture(autouse=True)
def memory_connector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`memory://` is installed, as any third party's connector would be."""
    package = tmp_path / "installed" / "memory_connector-1.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: memory-connector\nVersion: 1\n")
    (package / "entry_points.txt").write_text("[dsync.connectors]\nmemory = dsync.sdk.testing.memory_plugin:SPEC\n")
    monkeypatch.syspath_prepend(str(package.parent))
    # Children and commands look there too.
    monkeypatch.setenv("PYTHONPATH", str(package.parent), prepend=":")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes minutes in earnest takes a second, and is the same otherwise."""
    monkeypatch.setattr(app_ends, "OpenOptions", functools.partial(OpenOptions, deadlines=QUICK, grace_s=2.0))


def uri(path: Path, *, rows: int = 0, record_bytes: int = 2000, fault: str = "") -> str:
    parts = [f"record_bytes={record_bytes}", f"password={quote(CANARY, safe='')}"]
    parts += [f"fill=shop.orders:{rows}"] if rows else []
    parts += [f"fault={fault}"] if fault else []
    return f"memory://{path}?{'&'.join(parts)}"


async def copy(tmp_path: Path, *, source: str = "", sink: str = "", retry_for_s: float = 30.0) -> SyncOutcome:
    """One sync between two files of documents; `source` and `sink` are faults of the plug-ins."""
    events: list[Event] = []
    request = SyncRequest(
        source=uri(tmp_path / "source", rows=ROWS, fault=source),
        sink=uri(tmp_path / "sink", fault=sink),
        state=str(tmp_path / "state.db"),
        page_bytes=64 * 1024,
        retry_for_s=retry_for_s,
    )
    try:
        return await sync(request, events.append, asyncio.Event())
    finally:
        assert not leaks(repr(events))
        assert not leaks((tmp_path / "state.db").read_bytes())


def arrived(tmp_path: Path) -> int:
    store = MemoryStore(str(tmp_path / "sink"))
    try:
        return store.count("shop.orders")
    finally:
        store.close()


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("source", "sink"),
    [
        ("read_page@2:hang", ""),
        ("", "write_page@2:hang"),
        ("read_page@3:ServerUnavailableError", ""),
        ("", "write_page_answer@2:hang"),
    ],
)
async def test_a_call_that_hangs_or_fails_once_is_repeated(tmp_path: Path, source: str, sink: str) -> None:
    """Also where the write had been durable: every document is there once."""
    outcome = await copy(tmp_path, source=source, sink=sink)

    assert outcome.exit_code == 0
    assert outcome.result is not None
    assert outcome.result.rows == ROWS
    assert arrived(tmp_path) == ROWS


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(("source", "sink"), [("read_page@2+:hang", ""), ("", "write_page@2+:hang")])
async def test_a_plugin_that_always_hangs_ends_the_run_resumably(tmp_path: Path, source: str, sink: str) -> None:
    """Exit 3, naming the call and the plug-in; once it answers again, the same request goes on."""
    with pytest.raises(DeadlineError) as caught:
        await copy(tmp_path, source=source, sink=sink, retry_for_s=1.0)

    assert caught.value.exit_code == 3
    assert "memory" in str(caught.value)
    assert "within 1 s" in str(caught.value)
    assert 0 < arrived(tmp_path) < ROWS
    outcome = await copy(tmp_path)
    assert (outcome.exit_code, outcome.run.number) == (0, 1)
    assert arrived(tmp_path) == ROWS


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("source", "sink", "error", "said"),
    [
        ("read_page@2+:same-cursor", "", PluginBugError, "the same cursor again"),
        ("", "write_page@2+:partial", PluginBugError, "the sink says it wrote"),
        ("read_page@2+:crash", "", PluginBugError, "a bug of the plug-in, see its log"),
    ],
)
async def test_a_plugin_that_breaks_the_contract_is_stopped(
    tmp_path: Path, source: str, sink: str, error: type[DsyncError], said: str
) -> None:
    """A named error that says whose fault it is; the flow is not called done."""
    with pytest.raises(error) as caught:
        await copy(tmp_path, source=source, sink=sink)

    assert said in str(caught.value)
    assert not leaks(str(caught.value))
    (flow,) = known_flows(tmp_path / "state.db")
    assert flow.run is not None
    assert flow.run.phase is Phase.FAILED


async def test_a_page_over_the_limit_is_refused(tmp_path: Path) -> None:
    """Whatever the source thinks of it: the sizes, and what to lower, are named, and the page is not written."""
    request = SyncRequest(
        source=uri(tmp_path / "source", rows=70, record_bytes=1_000_000, fault="read_page@2+:over-limit"),
        sink=uri(tmp_path / "sink"),
        state=str(tmp_path / "state.db"),
        page_bytes=64 * 1024,
    )
    with pytest.raises(CapacityError) as caught:
        await sync(request, lambda _: None, asyncio.Event())

    assert caught.value.exit_code == 3
    for text in ("shop.orders", "over the agreed", "--page-bytes"):
        assert text in str(caught.value)
    assert arrived(tmp_path) == 1


@pytest.mark.parametrize(("source", "sink"), [("read_page@3:exit", ""), ("", "write_page@2:exit")])
def test_a_plugin_that_dies_is_replaced(dsync: GuardedDsync, tmp_path: Path, source: str, sink: str) -> None:
    """The command says so in its log and ends well: a new process counts its calls anew, and comes further."""
    ends = uri(tmp_path / "source", rows=ROWS, fault=source), uri(tmp_path / "sink", fault=sink)

    ended = dsync("sync", *ends, "--mode", "copy", "--page-bytes", "512KiB", "--json")

    assert (ended.exit_code, ended.result["rows"]) == (0, ROWS), ended.stderr
    assert "plugin_died" in ended.stderr
    assert arrived(tmp_path) == ROWS


class Stranger(Connector):
    """A connector of somebody else's, which speaks adiom.v1 and one type."""

    def __init__(self, kind: PageType) -> None:
        self._kind = kind

    async def get_info(self) -> Info:
        return Info(
            id="stranger",
            db_type="stranger",
            source=SourceCapabilities(data_types=(self._kind,), default_plan=True),
            sink=SinkCapabilities(data_types=(self._kind,)),
        )

    async def get_extensions(self) -> Extensions:
        return Extensions()


@asynccontextmanager
async def served(connector: Connector) -> AsyncIterator[str]:
    """The address at which somebody runs it."""
    async with serving(connector, ServeOptions(address="127.0.0.1:0", grace_s=0)) as address:
        yield f"grpc://{address}"


async def test_ends_that_share_no_type_are_told_apart_before_anything_is_made(tmp_path: Path) -> None:
    """Exit 3, with what each of them speaks."""
    request_sink = uri(tmp_path / "sink")
    async with served(Stranger(PageType.JSON)) as address:
        request = SyncRequest(source=address, sink=request_sink, state=str(tmp_path / "state.db"))
        with pytest.raises(UnsupportedError) as caught:
            await sync(request, lambda _: None, asyncio.Event())

    assert caught.value.exit_code == 3
    assert "speak no common type: the source offers JSON, the sink takes BSON" in str(caught.value)
    assert arrived(tmp_path) == 0


async def test_a_served_plugin_that_hangs_at_first_contact_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit 3 with its address: nobody waits for minutes to learn that nobody is there."""
    monkeypatch.setattr(app_ends, "FIRST_CONTACT_S", 1.0)
    hanging = MemoryConnector(faults=Faults(["get_info@*:hang"]))
    async with served(hanging) as address:
        request = SyncRequest(source=address, sink=uri(tmp_path / "sink"), state=str(tmp_path / "state.db"))
        with pytest.raises(DeadlineError) as caught:
            await sync(request, lambda _: None, asyncio.Event())

    assert caught.value.exit_code == 3
    assert address in str(caught.value)
    assert known_flows(tmp_path / "state.db") == ()


class Liar(MemoryConnector):
    """A sink that says of its third page that it was written, moves its ledger, and keeps nothing of it."""

    def __init__(self) -> None:
        super().__init__()
        self._pages = 0

    async def write_page(self, request: WriteRequest) -> int:
        self._pages += 1
        if self._pages != 3:
            return await super().write_page(request)
        with self.store.transaction():
            if request.context is not None:
                self.store.advance(request.context, rows=request.page.rows, size_bytes=request.page.size_bytes)
        return request.page.rows


async def test_a_sink_that_says_it_has_written_what_it_has_not_is_found_out_by_verify(tmp_path: Path) -> None:
    """Nobody can know it while copying: exit 4, with the number of documents that are missing."""
    async with served(Liar()) as address:
        request = SyncRequest(
            source=uri(tmp_path / "source", rows=ROWS),
            sink=address,
            state=str(tmp_path / "state.db"),
            page_bytes=64 * 1024,
            verify=True,
        )
        outcome = await sync(request, lambda _: None, asyncio.Event())

    assert outcome.exit_code == 4
    assert outcome.result is not None
    assert outcome.result.rows == ROWS
    assert outcome.verify is not None
    assert 0 < outcome.verify.counts.missing < ROWS
