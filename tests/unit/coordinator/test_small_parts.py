"""Cursors, cycles, retries, the worst of several errors, fingerprints: what the coordinator is built from."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsync.coordinator.copier import CycleGuard
from dsync.coordinator.cursor import UnitCursor
from dsync.coordinator.ends import End, negotiate
from dsync.coordinator.events import CallRetried, Event, PartitionCopied
from dsync.coordinator.retries import Retries
from dsync.coordinator.spec import EndpointIdentity, FlowSpec
from dsync.coordinator.tasks import StoppedError, task_group
from dsync.protocol.channel import Target
from dsync.protocol.client import RemoteConnector
from dsync.protocol.errors import (
    FencedError,
    PermanentError,
    RecordError,
    RequestError,
    ServerUnavailableError,
    UnsupportedError,
)
from dsync.protocol.inline import InlineConnector
from dsync.protocol.interface import Connector
from dsync.protocol.types import Info, PageType, Role, SourceCapabilities
from dsync.sdk.serve import ServeOptions, serving
from dsync.sdk.testing.memory import MemoryConnector
from dsync.sdk.testing.memory_store import MemoryStore


@given(source=st.binary(max_size=50), skip=st.integers(0, 2**40))
def test_a_cursor_survives_the_ledger(source: bytes, skip: int) -> None:
    cursor = UnitCursor(source=source, skip_rows=skip)
    assert UnitCursor.decode(cursor.encode()) == cursor


@pytest.mark.parametrize("data", [b"\x00", b"\x93\x02\xc4\x00\x00", b"\xc1", b"not a cursor", b"\x91\x01"])
def test_bytes_that_are_no_cursor_are_a_named_error(data: bytes) -> None:
    """Damaged, or of a later release: never taken for the start, which would copy everything twice."""
    with pytest.raises(PermanentError, match="checkpoint"):
        UnitCursor.decode(data)


@given(lead=st.integers(0, 20), length=st.integers(1, 20))
def test_a_cycle_of_any_length_is_noticed(lead: int, length: int) -> None:
    """Not only the same cursor twice running: a source may go round in circles."""
    guard = CycleGuard(b"start")
    for step in range(10 * (lead + length) + 10):
        position = step if step < lead else lead + (step - lead) % length
        if not guard.step(b"%d" % position):
            return
    pytest.fail("the cycle was never noticed")


@given(count=st.integers(1, 500))
def test_cursors_that_go_on_are_no_cycle(count: int) -> None:
    guard = CycleGuard(b"start")
    assert all(guard.step(b"%d" % step) for step in range(count))


async def test_the_worst_error_of_a_group_is_raised() -> None:
    async def fail(error: Exception) -> None:
        raise error

    with pytest.raises(FencedError):
        async with task_group() as tasks:
            for error in (StoppedError(), RecordError("row"), FencedError("fence"), RequestError("bad")):
                tasks.create_task(fail(error))


async def test_a_bug_outranks_every_error_on_purpose() -> None:
    async def fail(error: Exception) -> None:
        raise error

    with pytest.raises(ZeroDivisionError):
        async with task_group() as tasks:
            tasks.create_task(fail(FencedError("fence")))
            tasks.create_task(fail(ZeroDivisionError()))


class _Flaky:
    def __init__(self, failures: int, error: Exception) -> None:
        self.failures, self.error, self.calls = failures, error, 0

    async def __call__(self) -> str:
        self.calls += 1
        if self.calls <= self.failures:
            raise self.error
        return "done"


async def test_only_what_may_succeed_later_is_repeated() -> None:
    events: list[Event] = []
    retries = Retries(retry_for_s=60, emit=events.append, is_stopping=lambda: False)
    flaky = _Flaky(1, ServerUnavailableError("restarting"))
    assert await retries.call("read", flaky) == "done"
    assert flaky.calls == 2
    assert [type(event) for event in events] == [CallRetried]

    broken = _Flaky(1, PermanentError("no"))
    with pytest.raises(PermanentError):
        await retries.call("read", broken)
    assert broken.calls == 1


async def test_nothing_is_repeated_once_the_run_stops() -> None:
    retries = Retries(retry_for_s=60, emit=lambda _: None, is_stopping=lambda: True)
    flaky = _Flaky(1, ServerUnavailableError("restarting"))
    with pytest.raises(ServerUnavailableError):
        await retries.call("read", flaky)
    assert flaky.calls == 1


async def test_a_plug_in_is_told_again_before_a_call_is_repeated() -> None:
    order: list[str] = []
    flaky = _Flaky(1, ServerUnavailableError("restarting"))

    async def call() -> str:
        order.append("call")
        return await flaky()

    async def tell() -> None:
        order.append("tell")

    retries = Retries(retry_for_s=60, emit=lambda _: None, is_stopping=lambda: False)
    await retries.call("read", call, before_repeat=tell)
    assert order == ["call", "tell", "call"]


def _spec(**changes: object) -> FlowSpec:
    ends = {
        "source": EndpointIdentity(reference="postgresql://a/shop", address="postgresql://a:5432/shop"),
        "sink": EndpointIdentity(reference="postgresql://b/shop", address="postgresql://b:5432/shop"),
    }
    return FlowSpec.model_validate(ends | changes)


def test_tuning_does_not_make_another_flow() -> None:
    assert _spec().fingerprint("x", "y") == _spec(parallel=7, page_bytes=1 << 20).fingerprint("x", "y")


def test_what_arrives_where_makes_another_flow() -> None:
    assert _spec().fingerprint("x", "y") != _spec(namespaces=("public.a",)).fingerprint("x", "y")


def test_an_address_beats_the_servers_own_id() -> None:
    """Another server behind the same name must be noticed, not taken for a new flow."""
    assert _spec().fingerprint("one", "y") == _spec().fingerprint("other", "y")


def test_where_only_the_plug_in_knows_the_address_its_id_counts() -> None:
    blind = EndpointIdentity(reference="env:URI", address="")
    assert _spec(source=blind).fingerprint("one", "y") != _spec(source=blind).fingerprint("other", "y")


def test_events_have_names_and_data_for_json() -> None:
    event = PartitionCopied(namespace="public.a", unit="p0.0.0", rows=3, size_bytes=30, elapsed_s=0.5)
    assert event.name == "partition_copied"
    assert event.data() == {"unit": "p0.0.0", "rows": 3, "size_bytes": 30, "elapsed_s": 0.5}


async def test_stopping_a_group_is_not_an_error_of_it() -> None:
    with pytest.raises(StoppedError):
        async with task_group():
            await asyncio.sleep(0)
            raise StoppedError


class _Plain(Connector):
    """What many write: adiom.v1, and nothing of dsync.v1."""

    async def get_info(self) -> Info:
        return Info(id="plain", db_type="plain", source=SourceCapabilities())


async def test_a_connector_of_adiom_alone_is_taken_to_serve_nothing_else(tmp_path: Path) -> None:
    """However it is reached: what stands in between overrides every method, and serves none of them by itself."""
    assert not (await End.meet(_Plain(), Role.SOURCE)).extensions.services
    assert not (await End.meet(InlineConnector(_Plain(), name="plain"), Role.SOURCE)).extensions.services
    async with serving(_Plain(), ServeOptions(address=f"unix:{tmp_path}/s", grace_s=0)) as address:
        remote = RemoteConnector(Target(address=address, name="plain"))
        try:
            assert not (await End.meet(remote, Role.SOURCE)).extensions.services
        finally:
            await remote.close()


async def test_the_form_that_is_asked_for_is_the_only_one() -> None:
    """Or the flow does not begin: another one in its place would be a silent change."""
    source = await End.meet(MemoryConnector(MemoryStore()), Role.SOURCE)
    sink = await End.meet(MemoryConnector(MemoryStore()), Role.SINK)
    assert negotiate(source, sink, _spec(data_type="bson")).page_types == (PageType.BSON,)
    with pytest.raises(UnsupportedError, match="--data-type pg-copy-text"):
        negotiate(source, sink, _spec(data_type="pg-copy-text"))
