"""Which connectors are installed, found through the entry points of the group `dsync.connectors`.

An entry point names a `ConnectorSpec`, in a module that is cheap to import; whether the modules it needs are there is
looked up without importing them. A broken one is listed with its reason and hinders nobody else.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from dsync.protocol.errors import MissingObjectError, RequestError
from dsync.sdk.plugin import ConnectorSpec

if TYPE_CHECKING:
    from dsync.sdk.options import OptionInfo

GROUP = "dsync.connectors"
REMOTE_SCHEMES = ("grpc", "grpcs")
"""Not a connector's: they reach one that somebody else runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One entry point: a connector, or the reason why it is none."""

    name: str
    reference: str
    """`module:attribute`, for the process that is to load it."""
    spec: ConnectorSpec | None
    missing: tuple[str, ...] = ()
    """Modules it needs that are not installed."""
    problem: str = ""
    """Why it cannot be loaded; empty where it can."""

    @property
    def is_usable(self) -> bool:
        return self.spec is not None and not self.missing

    @property
    def schemes(self) -> tuple[str, ...]:
        return self.spec.schemes if self.spec else ()

    @property
    def hint(self) -> str:
        """What to do where it is not usable; empty where it is."""
        if self.spec is None:
            return self.problem
        if not self.missing:
            return ""
        return f"needs {', '.join(self.missing)}" + (f": {self.spec.install}" if self.spec.install else "")


class Registry:
    """The connectors of this installation."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self.entries = tuple(sorted(entries, key=lambda entry: entry.name))

    @classmethod
    def installed(cls, also: Iterable[tuple[str, str]] = ()) -> Registry:
        """All that are registered, and `also` these, given as (name, `module:attribute`)."""
        found = [(point.name, point.value) for point in entry_points(group=GROUP)]
        return cls(load_entry(name, reference) for name, reference in [*found, *also])

    @property
    def schemes(self) -> tuple[str, ...]:
        """Every scheme that a source or a sink may have."""
        own = {scheme for entry in self.entries for scheme in entry.schemes}
        return (*sorted(own), *REMOTE_SCHEMES)

    def for_scheme(self, scheme: str) -> Entry:
        """The connector that a URI with this scheme starts.

        Raises:
            RequestError: there is none; the message names those that are known.
            MissingObjectError: it is there but needs something that is not installed.
        """
        for entry in self.entries:
            if scheme in entry.schemes:
                return self._usable(entry)
        known = ", ".join(f"{name}://" for name in self.schemes)
        raise RequestError(f"no connector for {scheme}://; known are {known} (`dsync connectors list`)")

    def named(self, name: str) -> Entry:
        """The connector with this name, usable or not.

        Raises:
            RequestError: there is none.
        """
        for entry in self.entries:
            if entry.name == name:
                return entry
        known = ", ".join(entry.name for entry in self.entries) or "none"
        raise RequestError(f"no connector named {name!r}; installed are {known}")

    def options_of(self, name: str) -> tuple[OptionInfo, ...]:
        """The options of a connector, for `connectors show`."""
        # Imports pydantic, which a listing without options does not need.
        from dsync.sdk.options import describe_options

        spec = self._usable(self.named(name)).spec
        assert spec is not None
        return describe_options(spec.options())

    def _usable(self, entry: Entry) -> Entry:
        if not entry.is_usable:
            raise MissingObjectError(f"the connector {entry.name} cannot be used: {entry.hint}")
        return entry


def load_entry(name: str, reference: str) -> Entry:
    """Import the module of one entry point and see what its connector lacks."""
    try:
        spec = load_spec(reference)
    # Someone else's module: whatever its import raises must not take the other connectors along.
    except Exception as exc:  # noqa: BLE001
        return Entry(
            name=name, reference=reference, spec=None, problem=f"cannot be imported: {type(exc).__name__}: {exc}"
        )
    missing = tuple(module for module in spec.requires if not _is_installed(module))
    return Entry(name=name, reference=reference, spec=spec, missing=missing)


def load_spec(reference: str) -> ConnectorSpec:
    """The object behind `module:attribute`.

    Raises:
        TypeError: it is not a ConnectorSpec.
    """
    module, _, attribute = reference.partition(":")
    spec = getattr(importlib.import_module(module), attribute)
    if not isinstance(spec, ConnectorSpec):
        raise TypeError(f"{reference} is not a ConnectorSpec")
    return spec


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        # The parent of a dotted name is missing.
        return False
