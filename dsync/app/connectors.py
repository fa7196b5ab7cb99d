"""`dsync connectors`: what is installed, and which options each connector has."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from dsync.plugins.registry import REMOTE_SCHEMES, Entry, Registry

if TYPE_CHECKING:
    from dsync.sdk.options import OptionInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectorStatus:
    """One connector of this installation."""

    name: str
    summary: str
    schemes: tuple[str, ...]
    is_source: bool
    is_sink: bool
    is_usable: bool
    hint: str
    """What to do where it is not usable: the line that installs what it lacks."""

    @property
    def roles(self) -> str:
        return ", ".join(name for name, plays in (("source", self.is_source), ("sink", self.is_sink)) if plays)

    def as_json(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectorDetails:
    """One connector with its options."""

    connector: ConnectorStatus
    options: tuple[OptionInfo, ...]
    """Empty where it is not usable: its options cannot be read then."""

    def as_json(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return {**self.connector.as_json(), "options": [asdict(option) for option in self.options]}


def list_connectors(registry: Registry | None = None) -> tuple[ConnectorStatus, ...]:
    """Every connector, usable or not, by name."""
    return tuple(_status(entry) for entry in (registry or Registry.installed()).entries)


def show_connector(name: str, registry: Registry | None = None) -> ConnectorDetails:
    """One connector, by its name or one of its schemes.

    Raises:
        RequestError: there is none.
    """
    registry = registry or Registry.installed()
    by_scheme = {scheme: entry for entry in registry.entries for scheme in entry.schemes}
    entry = by_scheme.get(name.removesuffix("://")) or registry.named(name)
    options = registry.options_of(entry.name) if entry.is_usable else ()
    return ConnectorDetails(connector=_status(entry), options=options)


def remote_schemes() -> tuple[str, ...]:
    """Schemes that reach a connector which somebody else runs."""
    return REMOTE_SCHEMES


def _status(entry: Entry) -> ConnectorStatus:
    spec = entry.spec
    return ConnectorStatus(
        name=entry.name,
        summary=spec.summary if spec else "",
        schemes=entry.schemes,
        is_source=spec.is_source if spec else False,
        is_sink=spec.is_sink if spec else False,
        is_usable=entry.is_usable,
        hint=entry.hint,
    )
