"""What a distribution registers so that dsync finds its connector.

An entry point in the group `dsync.connectors` names a `ConnectorSpec`. The module that holds it stays cheap to
import: drivers are imported inside `create`, so that `dsync --help` and `connectors list` do not pay for them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from dsync.protocol.interface import Connector

if TYPE_CHECKING:
    from dsync.sdk.options import Options


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginContext:
    """What the process that runs a connector gives it."""

    private_directory: Path
    """Mode 0700, removed when the process ends: for files that hold data or secrets."""
    application_name: str = "dsync"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectorSpec:
    """How a connector is found, described and made."""

    name: str
    """As in `dsync connectors show NAME`."""
    schemes: tuple[str, ...]
    """The URI schemes that start it."""
    summary: str
    options: Callable[[], type[Options]]
    """The class of its options, behind a function so that listing connectors stays cheap."""
    create: Callable[[str, Options, PluginContext], Connector]
    """Make the connector for a URI (options of ours already removed from its query) without contacting a server."""
    is_source: bool = True
    is_sink: bool = True
    requires: tuple[str, ...] = ()
    """Modules that must be importable; where one is missing `connectors list` shows `install`."""
    install: str = ""
    passes_unknown_options: Callable[[str], bool] = field(default=lambda name: False)
    """Query parameters that are not options but belong to the URI (libpq's own)."""
