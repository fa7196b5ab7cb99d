"""What the fixed cases share: two databases and a state of their own."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

from tests.integration.round_trip.running import Copier
from tests.support.databases import Database, DatabaseFactory

# `pytest tests/integration/round_trip --hypothesis-profile=thorough`: new examples every time, for some minutes.
settings.register_profile("thorough", max_examples=150, deadline=None, print_blob=True)


@pytest.fixture
def source(source_db: DatabaseFactory) -> Database:
    """An empty database at the source."""
    return source_db()


@pytest.fixture
def sink(sink_db: DatabaseFactory) -> Database:
    """An empty database at the sink."""
    return sink_db()


@pytest.fixture
def copier(source: Database, sink: Database, tmp_path: Path) -> Copier:
    """Copies from one to the other."""
    return Copier(source=source, sink=sink, state=tmp_path / "state.db")
