"""The statements that build a schema, and the steps they form once the rows are there."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgpack

from dsync.sdk import types
from dsync_postgres.schema.errors import DefinitionError
from dsync_postgres.schema.names import TableName

_PAYLOAD_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """SQL to send as it is; may be several statements in one text."""

    sql: str = field(repr=False)
    """May hold a secret (a user mapping's password), so it is never logged."""
    object: str
    """What it makes or changes, for messages."""
    is_optional: bool = False
    """Refused for want of a privilege, or because of values where it only computes statistics, the rest goes on and
    the refusal is reported."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceTarget:
    """A sequence at the sink that is to stand where the source's does."""

    name: TableName
    only_forward: bool
    """It existed before, and may have been used: it is moved ahead, never back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildStep:
    """One item to build after the load, in a transaction of its own; running it twice is not safe by itself."""

    id: str
    """The same for the same schema, whichever dump it came from."""
    kind: str
    """Lower-case kind of the archive (`index`, `fk constraint`), or analyze, privileges, refresh, sequences."""
    name: str
    namespace: str
    """The written name of its table, empty where it has none."""
    statements: tuple[Statement, ...]
    depends_on: tuple[str, ...] = ()
    """Ids of steps that must be done first."""
    sequences: tuple[SequenceTarget, ...] = ()
    """For `sequences`: those to be set, whose positions come from the source when the step is run."""
    makes_key: bool = False
    """Changes and pages tell rows apart by what it makes."""

    def wire(self) -> types.FinishStep:
        """Return the step as the coordinator keeps it."""
        payload: bytes = msgpack.packb(
            {
                "v": _PAYLOAD_VERSION,
                "statements": [[s.sql, s.object, s.is_optional] for s in self.statements],
                "sequences": [[t.name.schema, t.name.name, t.only_forward] for t in self.sequences],
            }
        )
        return types.FinishStep(
            id=self.id,
            kind=self.kind,
            name=self.name,
            namespace=self.namespace,
            depends_on=self.depends_on,
            payload=payload,
            needs_source=bool(self.sequences),
            makes_key=self.makes_key,
        )

    @classmethod
    def from_wire(cls, step: types.FinishStep) -> BuildStep:
        """Return the inverse of `wire`.

        Raises:
            DefinitionError: the payload is not one of ours.
        """
        try:
            payload: Any = msgpack.unpackb(step.payload)
            if payload["v"] != _PAYLOAD_VERSION:
                raise DefinitionError(f"finish step {step.id}: another version of dsync planned it; plan again")
            return cls(
                id=step.id,
                kind=step.kind,
                name=step.name,
                namespace=step.namespace,
                statements=tuple(Statement(sql=q, object=o, is_optional=i) for q, o, i in payload["statements"]),
                depends_on=step.depends_on,
                makes_key=step.makes_key,
                sequences=tuple(
                    SequenceTarget(name=TableName(schema=schema, name=name), only_forward=only_forward)
                    for schema, name, only_forward in payload["sequences"]
                ),
            )
        except (ValueError, KeyError, TypeError, msgpack.UnpackException) as exc:
            raise DefinitionError(f"finish step {step.id}: its payload was not written by this connector") from exc


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A step whose place in the order is still to be found."""

    step: BuildStep
    """Its `depends_on` is filled by `ordered`."""
    key: int
    """Dump id."""
    needs: frozenset[int]
    """Dump ids of other drafts that must come first."""
    rank: int
    """Lower goes first where nothing else decides."""
    exclusive: frozenset[TableName]
    """Tables it locks so that nothing else can be built on them meanwhile."""
    shared: frozenset[TableName] = frozenset()
    """Tables it locks together with others of its kind."""


class LockOrder:
    """Turns locks on tables into dependencies, so that steps run side by side neither wait nor deadlock.

    As with readers and writers: an exclusive step follows everything before it on its tables, a shared one follows
    the last exclusive one.
    """

    def __init__(self) -> None:
        self._exclusive: dict[TableName, str] = {}
        self._shared: defaultdict[TableName, list[str]] = defaultdict(list)

    def add(self, step_id: str, *, exclusive: Iterable[TableName], shared: Iterable[TableName] = ()) -> dict[str, None]:
        """Note the next step; returns the ids it has to follow, in order."""
        before: dict[str, None] = {}
        alone = set(exclusive)
        for table in sorted(alone):
            last = self._exclusive.get(table)
            waiting = self._shared.pop(table, [])
            before |= dict.fromkeys(waiting or ([last] if last is not None else []))
            self._exclusive[table] = step_id
        for table in sorted(set(shared) - alone):
            if (last := self._exclusive.get(table)) is not None:
                before[last] = None
            self._shared[table].append(step_id)
        return before


def ordered(drafts: Sequence[Draft], locks: LockOrder) -> list[BuildStep]:
    """Return the steps so that what is needed comes first, keys before indexes before the rest, ids unique."""
    names = _unique_ids(drafts)
    result: list[BuildStep] = []
    for draft in _topological(drafts):
        step_id = names[draft.key]
        before = dict.fromkeys(names[other] for other in sorted(draft.needs) if other in names)
        before |= locks.add(step_id, exclusive=draft.exclusive, shared=draft.shared)
        result.append(replace(draft.step, id=step_id, depends_on=tuple(before)))
    return result


def _unique_ids(drafts: Sequence[Draft]) -> dict[int, str]:
    """A second object of one kind and name (an operator class of another method, say) is numbered."""
    seen: defaultdict[str, int] = defaultdict(int)
    names: dict[int, str] = {}
    for draft in drafts:
        seen[draft.step.id] += 1
        count = seen[draft.step.id]
        names[draft.key] = draft.step.id if count == 1 else f"{draft.step.id}#{count}"
    return names


def _topological(drafts: Sequence[Draft]) -> list[Draft]:
    by_key: Mapping[int, Draft] = {draft.key: draft for draft in drafts}
    places = {draft.key: place for place, draft in enumerate(drafts)}
    open_needs = {draft.key: {other for other in draft.needs if other in by_key} for draft in drafts}
    followers: defaultdict[int, list[int]] = defaultdict(list)
    for key, needs in open_needs.items():
        for other in needs:
            followers[other].append(key)
    ready = [(draft.rank, places[draft.key], draft.key) for draft in drafts if not open_needs[draft.key]]
    heapq.heapify(ready)
    result: list[Draft] = []
    while ready:
        key = heapq.heappop(ready)[2]
        result.append(by_key[key])
        for follower in followers[key]:
            open_needs[follower].discard(key)
            if not open_needs[follower]:
                heapq.heappush(ready, (by_key[follower].rank, places[follower], follower))
    if len(result) < len(drafts):
        # pg_dump breaks circles before it writes; what remains keeps the archive's own order, which it can be run in.
        done = {draft.key for draft in result}
        result += [draft for draft in drafts if draft.key not in done]
    return result
