"""An examined connector is reached by whatever a user writes."""

from __future__ import annotations

from pathlib import Path

import bson
import pytest

from dsync.app.conformance import ConformanceRequest, conformance
from dsync.conformance import CheckResult, Outcome
from dsync.protocol.errors import RetryableError, UnsupportedError
from dsync.protocol.interface import Transform
from dsync.sdk.serve import ServeOptions, serving
from tests.contract.conformance.honest import NAMESPACES, SCRATCH, Honest
from tests.contract.foreign import ForeignConnector, foreign_server


async def _examine(endpoint: str, *only: str, **more: str) -> list[str]:
    """What came of each check that was tried."""
    told: list[CheckResult] = []
    request = ConformanceRequest(endpoint=endpoint, namespaces=NAMESPACES, only=only, **more)
    examined = await conformance(request, told.append)
    assert tuple(told) == examined.report.results
    assert examined.report.of(Outcome.PASSED)
    return [f"{result.outcome.value} {result.check.id} {result.seen}{result.note}".rstrip() for result in told]


async def test_by_a_socket_and_by_an_address(tmp_path: Path) -> None:
    """With and without `grpc://` before the address."""
    expected = ["passed pages.repeat"]
    async with serving(Honest(), ServeOptions(address=f"unix:{tmp_path}/s", grace_s=0)) as socket:
        assert await _examine(socket, "pages.repeat") == expected
    async with serving(Honest(), ServeOptions(address="127.0.0.1:0", grace_s=0)) as address:
        assert await _examine(address, "pages.repeat") == expected
        assert await _examine(f"grpc://{address}", "pages.repeat") == expected


async def test_by_a_uri_that_starts_a_process() -> None:
    """Which ends with the examination."""
    request = ConformanceRequest(endpoint="random://?documents=20", only=("info", "pages.repeat"))
    examined = await conformance(request, lambda result: None)
    assert len(examined.report.of(Outcome.PASSED)) == 5
    assert examined.display == "random://?documents=20"


async def test_another_connector_reads_what_was_written(tmp_path: Path) -> None:
    """A sink alone is judged by what a source finds: here by one that always finds the same seven records."""
    options = ServeOptions(address=f"unix:{tmp_path}/s", grace_s=0)
    foreign = ForeignConnector([bson.encode({"_id": number}) for number in range(7)])
    async with serving(Honest(), options) as socket, foreign_server(foreign) as address:
        (found,) = await _examine_failed(socket, scratch=SCRATCH, reader=address)
    assert found.startswith("failed write.arrives it is not there")


async def _examine_failed(endpoint: str, **more: str) -> list[str]:
    request = ConformanceRequest(endpoint=endpoint, only=("write.arrives",), **more)
    examined = await conformance(request, lambda result: None)
    return [f"{one.outcome.value} {one.check.id} {one.seen}{one.note}" for one in examined.report.results]


async def test_what_is_no_connector_is_an_error_of_the_environment(tmp_path: Path) -> None:
    """And said so: somebody answers, and not as a connector."""
    async with serving(Transform(), ServeOptions(address=f"unix:{tmp_path}/s", grace_s=0)) as socket:
        with pytest.raises(UnsupportedError, match=r"no adiom\.v1\.ConnectorService"):
            await conformance(ConformanceRequest(endpoint=socket), lambda result: None)


async def test_nobody_there_is_an_error_of_the_environment() -> None:
    """And no failed check: nothing is known of the connector."""
    with pytest.raises(RetryableError):
        await conformance(ConformanceRequest(endpoint="127.0.0.1:1"), lambda result: None)
