"""Two schemas held against each other: in what the sink is unlike the source by now, and whether that loses data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from dsync.protocol.types import SchemaObject

_HOLDS_DATA = frozenset({"table", "partitioned table", "column", "sequence"})
"""What is missing of these at the sink is missing for whoever works there from now on."""
_QUERY = "query"


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """One thing in which the sink is unlike the source."""

    kind: str
    object: str
    what: str
    is_unsafe: bool = False
    """Data would be missing, or would not be what it was."""

    def __str__(self) -> str:
        return f"{self.kind} {self.object}: {self.what}"

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def compare_schemas(
    source: Iterable[SchemaObject],
    sink: Iterable[SchemaObject],
    targets: Mapping[str, str],
    *,
    same_version: bool,
) -> list[Drift]:
    """What differs, by kind and name; `targets`: the sink's name of each source namespace."""
    wanted = {_key(item, targets): item for item in source if _is_comparable(item, same_version)}
    there = {_key(item, {}): item for item in sink if _is_comparable(item, same_version)}
    found = []
    for key, item in sorted(wanted.items()):
        other = there.get(key)
        if other is None:
            # A query is part of a view that is missed by itself.
            if not item.kind.endswith(_QUERY):
                found.append(_drift(key, "missing at the sink", is_unsafe=item.kind in _HOLDS_DATA))
        elif _plain(item.definition, targets) != _plain(other.definition, {}):
            what = (
                "another query"
                if item.kind.endswith(_QUERY)
                else f"{_said(item)} at the source, {_said(other)} at the sink"
            )
            found.append(_drift(key, what, is_unsafe=item.kind == "column"))
    tables = {key[1] for key in wanted}
    for key in sorted(there.keys() - wanted.keys()):
        if key[1] in tables and not key[0].endswith(_QUERY):
            found.append(_drift(key, "only at the sink"))
    return found


def _is_comparable(item: SchemaObject, same_version: bool) -> bool:
    return same_version or not item.kind.endswith(_QUERY)


def _key(item: SchemaObject, targets: Mapping[str, str]) -> tuple[str, str, str]:
    return item.kind, targets.get(item.namespace, item.namespace), item.name


def _plain(definition: str, targets: Mapping[str, str]) -> str:
    """With the sink's names, and without the line breaks that versions set in their own ways."""
    for name, target in targets.items():
        if name != target:
            definition = definition.replace(name, target)
    return " ".join(definition.split())


def _said(item: SchemaObject) -> str:
    return " ".join(item.definition.split()) or "without"


def _drift(key: tuple[str, str, str], what: str, *, is_unsafe: bool = False) -> Drift:
    kind, namespace, name = key
    return Drift(kind=kind, object=".".join(filter(None, (namespace, name))), what=what, is_unsafe=is_unsafe)
