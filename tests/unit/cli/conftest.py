"""Commands that are run here see no state of the developer's own."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default place of the state is the test's."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
