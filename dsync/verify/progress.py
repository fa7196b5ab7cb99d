"""What an interrupted verification has finished, so that the next one does not do it again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from dsync.protocol.types import KeyRange
from dsync.verify.pairing import Pair
from dsync.verify.tally import RangeResult, Room

_PLAN = -1
"""The ordinal under which the ranges themselves are kept, where there are several."""
_ONE_RANGE = [KeyRange()]


class ProgressStore(Protocol):
    """Keeps JSON objects by source namespace and ordinal, for one pair of ends."""

    async def load(self, namespace: str) -> Mapping[int, Mapping[str, Any]]:
        """Everything that was saved for a namespace."""
        ...

    async def save(self, namespace: str, ordinal: int, result: Mapping[str, Any]) -> None:
        """Keep it, in the place of what was saved under that ordinal; durable on return."""
        ...

    async def clear(self, namespace: str) -> None:
        """Forget a namespace."""
        ...


class NoProgress:
    """Keeps nothing: every verification begins at its beginning."""

    async def load(self, namespace: str) -> Mapping[int, Mapping[str, Any]]:
        return {}

    async def save(self, namespace: str, ordinal: int, result: Mapping[str, Any]) -> None:
        """Forgotten at once."""

    async def clear(self, namespace: str) -> None:
        """There is nothing to forget."""


def identity_of(pair: Pair, source_id: str, target_id: str) -> str:
    """The same for as long as finished ranges stay valid: the ends, the columns, the key and their types."""
    facts = [source_id, target_id, pair.source, pair.target, list(pair.columns), list(pair.types), list(pair.key)]
    facts += [[difference.detail for difference in pair.differences]]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


class NamespaceProgress:
    """The finished ranges of one namespace."""

    def __init__(self, store: ProgressStore, namespace: str, identity: str) -> None:
        self._store = store
        self._namespace = namespace
        self._identity = identity
        self._has_saved = False
        self._stored: Mapping[int, Mapping[str, Any]] = {}

    async def load(self) -> list[KeyRange] | None:
        """The ranges of an earlier life; None where there is none, or where it compared something else."""
        stored = await self._store.load(self._namespace)
        self._has_saved = bool(stored)
        if not stored or any(result.get("identity") != self._identity for result in stored.values()):
            return None
        self._stored = stored
        if _PLAN not in stored:
            return _ONE_RANGE
        return [KeyRange(lower=tuple(lower), upper=tuple(upper)) for lower, upper in stored[_PLAN]["ranges"]]

    def finished(self, room: Room) -> dict[int, RangeResult]:
        """The results of an earlier life by the ordinal of their range."""
        found = {ordinal: stored for ordinal, stored in self._stored.items() if ordinal != _PLAN}
        return {ordinal: RangeResult.from_json(found[ordinal], room) for ordinal in sorted(found)}

    async def begin(self, ranges: Sequence[KeyRange]) -> None:
        """Keep new ranges; whatever was kept before is forgotten."""
        await self.clear()
        if list(ranges) != _ONE_RANGE:
            await self._save(_PLAN, {"ranges": [[list(one.lower), list(one.upper)] for one in ranges]})

    async def save(self, ordinal: int, result: RangeResult) -> None:
        """Keep the result of a range."""
        await self._save(ordinal, result.as_json())

    async def _save(self, ordinal: int, facts: Mapping[str, Any]) -> None:
        await self._store.save(self._namespace, ordinal, {"identity": self._identity, **facts})
        self._has_saved = True

    async def clear(self) -> None:
        """Forget it all: the verification is complete, and the next one begins anew."""
        if self._has_saved:
            await self._store.clear(self._namespace)
        self._has_saved = False
        self._stored = {}
