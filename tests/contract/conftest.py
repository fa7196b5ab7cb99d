"""Fixtures of the contract tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.contract.rig import WAYS, Rig, Setup, Way, open_rig


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "setup(faults, partition_rows, deadlines): what the rig's connector is like")


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Way:
    """How the connector is reached."""
    found: Way = request.param
    return found


@pytest.fixture
def passing(request: pytest.FixtureRequest) -> str:
    """How pages travel: "value", or "reference" where a test is parametrised so."""
    return str(getattr(request, "param", "value"))


@pytest_asyncio.fixture
async def rig(request: pytest.FixtureRequest, way: Way, passing: str, tmp_path: Path) -> AsyncIterator[Rig]:
    """The memory connector, reached in every way; `@pytest.mark.setup(...)` says what is special about it."""
    mark = request.node.get_closest_marker("setup")
    setup = Setup(**(mark.kwargs if mark else {}), by_reference=passing == "reference")
    async with open_rig(way, tmp_path, setup) as opened:
        yield opened
