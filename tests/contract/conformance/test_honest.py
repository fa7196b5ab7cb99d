"""The connector that keeps every promise passes every check, however it is reached."""

from __future__ import annotations

from pathlib import Path

from dsync.conformance import CHECKS, Outcome, examine
from dsync.protocol.channel import Target
from dsync.protocol.client import RemoteConnector
from dsync.sdk.serve import ServeOptions, serving
from tests.contract.conformance.honest import CANARY, NAMESPACES, SCRATCH, Honest, examined, quick

UNDECLARED = {"lookup.undeclared", "lsn.none"}
"""Tried where a capability is not declared."""


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
    assert {result.check.id for result in report.of(Outcome.SKIPPED)} == UNDECLARED
    assert [result.check.id for result in report.results] == list(CHECKS)
    assert report.exit_code == 0


async def test_every_check_passes_over_grpc(tmp_path: Path) -> None:
    async with serving(Honest(), ServeOptions(address=f"unix:{tmp_path}/s", grace_s=0)) as address:
        remote = RemoteConnector(Target(address=address, name="memory"))
        try:
            report = await examine(remote, quick())
        finally:
            await remote.close()
    assert {result.check.id: result.seen for result in report.of(Outcome.FAILED)} == {}
    assert {result.check.id for result in report.of(Outcome.SKIPPED)} == UNDECLARED


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
