"""What the tests of whole commands share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.cli.running import Dsync


@pytest.fixture
def dsync(tmp_path: Path) -> Iterator[Dsync]:
    """The installed `dsync`, with a state that no other test sees."""
    directory = tmp_path / "home"
    directory.mkdir()
    started = Dsync(directory=directory)
    yield started
    started.close()
