"""The connector that keeps every promise passes every check, however it is reached."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from dsync.conformance import CHECKS, Outcome, examine
from dsync.protocol.channel import Target
from dsync.protocol.client import RemoteConnector
from dsync.protocol.page_store import PageStore
from dsync.sdk.serve import ServeOptions, serving
from dsync.sdk.types import Plan, PlanRequest, StreamRequest, UnitRef, UnitState, UpdateBatch
from tests.contract.conformance.honest import CANARY, NAMESPACES, SCRATCH, Honest, JsonOnly, examined, quick

UNDECLARED = {"lookup.undeclared", "lsn.none"}
"""Tried where a capability is not declared."""

BY_REFERENCE = {"page.reference", "page.reference-taken"}


async def test_every_check_passes_in_process() -> None:
    """And nothing stays behind: neither records, nor what the ledger knows of the examination."""
    connector = Honest()
    before = {name: connector.documents(name) for name in NAMESPACES}
    report = await examined(connector)
    assert report.left_over == 0
    assert connector.documents(SCRATCH) == []
    assert {name: connector.documents(name) for name in NAMESPACES} == before
    assert connector.store.manifests() == []
    assert connector.begun == {}
    assert CANARY in str(before)
    assert {result.check.id: f"{result.seen}{result.note}" for result in report.of(Outcome.FAILED)} == {}
    # In one process a page is passed as the object that it is.
    assert {result.check.id for result in report.of(Outcome.SKIPPED)} == UNDECLARED | BY_REFERENCE
    assert [result.check.id for result in report.results] == list(CHECKS)
    assert report.exit_code == 0


async def test_every_check_passes_over_grpc(tmp_path: Path) -> None:
    """With pages by reference: both ends are on this machine."""
    tmp_path.chmod(0o700)
    async with serving(Honest(), ServeOptions(address=f"unix:{tmp_path}/s", grace_s=0)) as address:
        remote = RemoteConnector(Target(address=address, name="memory"))
        try:
            report = await examine(remote, quick(pages=PageStore(tmp_path)))
        finally:
            await remote.close()
    assert {result.check.id: result.seen for result in report.of(Outcome.FAILED)} == {}
    assert {result.check.id for result in report.of(Outcome.SKIPPED)} == UNDECLARED


async def test_an_answer_that_nobody_foresaw_costs_its_check_alone() -> None:
    """The others are tried all the same, and the report says where it happened, without the answer."""

    class Answers(Honest):
        async def open_units(self, flow: str, run: str, units: Sequence[UnitRef]) -> list[UnitState]:
            return []

    report = await examined(Answers(), only=frozenset({"ledger"}))
    failed = {result.check.id: result.seen for result in report.of(Outcome.FAILED)}
    assert failed["ledger.stands"].startswith("ValueError at ledger.py:")
    assert failed["ledger.stands"].endswith("after OpenUnits")
    assert [result.check.id for result in report.of(Outcome.PASSED)] == ["ledger.manifest"]


async def test_records_in_json_are_judged_like_any() -> None:
    """By a connector that serves adiom.v1 alone and speaks nothing else."""
    report = await examined(JsonOnly())
    assert {result.check.id: result.seen for result in report.of(Outcome.FAILED)} == {}
    assert {result.check.group for result in report.of(Outcome.PASSED)} == {
        *("info", "plan", "pages", "stream", "lsn", "write", "updates"),
    }
    lookups = {result.check.id for result in report.of(Outcome.SKIPPED) if "does not read BSON" in result.note}
    assert lookups == {"lookup.order", "lookup.absent", "lookup.type"}


async def test_a_source_of_several_streams_is_followed_by_each() -> None:
    """As sharded ones are: a change comes in one of them."""

    class Sharded(Honest):
        async def generate_plan(self, request: PlanRequest) -> Plan:
            plan = await super().generate_plan(request)
            shards = tuple(
                dataclasses.replace(part, header="x-shard", value=str(number))
                for part in plan.updates_partitions
                for number in range(2)
            )
            return dataclasses.replace(plan, updates_partitions=shards)

        async def stream_updates(self, request: StreamRequest) -> AsyncIterator[UpdateBatch]:
            async for batch in super().stream_updates(request):
                own = tuple(one for one in batch.updates if one.id[0].data[0] % 2 == int(request.value))
                yield dataclasses.replace(batch, updates=own)

    report = await examined(Sharded(), only=frozenset({"stream"}), wait_s=1)
    assert {result.check.id: result.seen for result in report.of(Outcome.FAILED)} == {}
    assert not report.of(Outcome.SKIPPED)


async def test_what_is_not_declared_is_tried_too() -> None:
    report = await examined(Honest(modest=True), only=frozenset(UNDECLARED))
    assert {result.outcome for result in report.results} == {Outcome.PASSED}
    assert {result.check.id for result in report.results} == UNDECLARED


async def test_without_a_scratch_namespace_nothing_is_written() -> None:
    connector = Honest()
    report = await examined(connector, scratch="", wait_s=0.2)
    assert connector.log == []
    assert {name: len(connector.documents(name)) for name in connector.store.namespaces()} == {
        **dict.fromkeys(NAMESPACES, 45),
        SCRATCH: 0,
    }
    skipped = {result.check.id for result in report.of(Outcome.SKIPPED)}
    assert {
        check.id for check in CHECKS.values() if check.group in ("write", "updates", "ids", "ledger", "changes")
    } <= skipped
    assert not report.of(Outcome.FAILED)
