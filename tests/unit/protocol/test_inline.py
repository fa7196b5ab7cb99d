"""A connector in process and one behind gRPC can be asked for the same."""

from __future__ import annotations

import pytest

from dsync.protocol.client import RemoteConnector
from dsync.protocol.inline import InlineConnector
from dsync.protocol.interface import Connector

_NOT_HANDED_ON = {"close_session"}
"""Nothing to do for a connector that serves one coordinator; the one behind gRPC says it when it is closed."""


@pytest.mark.parametrize("way", [InlineConnector, RemoteConnector])
def test_every_call_is_handed_on(way: type[Connector]) -> None:
    """One that is not would be answered with \"does not serve\", whatever the connector does."""
    calls = {name for name, item in vars(Connector).items() if callable(item) and not name.startswith("_")}
    own = {name for name in calls if getattr(way, name) is not getattr(Connector, name)}
    assert calls - own == _NOT_HANDED_ON
