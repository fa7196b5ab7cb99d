"""The connectors of this repository without a server take the exam, and so does a peer that knows adiom.v1 alone.

PostgreSQL's is tests/integration/conformance.
"""

from __future__ import annotations

from typing import Any

import bson
from dsync_null.connector import make as make_null
from dsync_null.options import NullOptions
from dsync_random.connector import RandomConnector
from dsync_random.options import RandomOptions

from dsync.conformance import Outcome, Report, examine
from dsync.protocol.channel import Target
from dsync.protocol.client import RemoteConnector
from tests.contract.conformance.honest import examined, quick
from tests.contract.foreign import ForeignConnector, foreign_server
from tests.integration.cli.documented import ROOT, blocks


def _failed(report: Report) -> dict[str, str]:
    return {result.check.id: result.seen for result in report.of(Outcome.FAILED)}


def _passed(report: Report) -> set[str]:
    return {result.check.group for result in report.of(Outcome.PASSED)}


async def test_random_keeps_its_promises() -> None:
    """With changes, and without them by id."""
    content = {"namespaces": 2, "documents": 40, "partitions": 2, "document_bytes": 200_000}
    changing = RandomConnector("random", RandomOptions(**content, changes=30, changes_per_s=100))
    report = await examined(changing, namespaces=())
    assert _failed(report) == {}
    assert _passed(report) == {"info", "plan", "pages", "lookup", "stream", "lsn", "page"}
    assert report.result("stream.resume").outcome is Outcome.PASSED
    still = await examined(RandomConnector("random", RandomOptions(**content)), namespaces=(), only={"lookup"})
    assert _failed(still) == {}
    assert {result.check.id for result in still.of(Outcome.PASSED)} == {"lookup.order", "lookup.absent", "lookup.type"}


async def test_null_keeps_its_promises_but_one() -> None:
    """It looks at no record, so it cannot tell a whole one from one that is cut off."""
    report = await examined(make_null("null", NullOptions(ledger=True)), namespaces=())
    assert set(_failed(report)) == {"write.garbage", "ledger.atomic"}
    assert _passed(report) >= {"info", "write", "updates", "ledger"}


async def test_a_peer_that_knows_adiom_alone_is_examined() -> None:
    """Its faults are found: it counts nothing, and has the same records whatever it is asked for."""
    records = [bson.encode({"_id": number}) for number in range(7)]
    async with foreign_server(ForeignConnector(records)) as address:
        remote = RemoteConnector(Target(address=address, name="foreign"))
        try:
            options = quick(namespaces=("a",), scratch="", only=frozenset({"info", "plan", "pages"}))
            report = await examine(remote, options)
        finally:
            await remote.close()
    found = _failed(report)
    assert found.pop("plan.counts") == "GetNamespaceMetadata was answered with ABORTED (ConflictError)"
    assert found == {"plan.unknown": "2 records", "pages.unknown-type": "a page of 2 records"}


async def test_the_connector_of_the_manual_keeps_its_promises() -> None:
    """The one that authors begin with."""
    (block,) = [block for block in blocks(ROOT / "docs/connectors.md") if block.language == "python"]
    made: dict[str, Any] = {}
    exec(compile(block.text, block.place, "exec"), made)
    report = await examined(made["Numbers"](), namespaces=("numbers",), scratch="")
    assert _failed(report) == {}
    assert _passed(report) >= {"info", "plan", "pages"}
