"""Reading differing rows again by key: whether they still differ, and in which columns."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import xxhash

from dsync.coordinator.tasks import task_group
from dsync.verify.join import Side
from dsync.verify.options import Key
from dsync.verify.report import ColumnDifference, Kind
from dsync.verify.tally import Found

Row = Mapping[str, str | None]
"""A row's values as text by column; NULL is None."""

TOO_LARGE = "the row is too large to be shown"
EQUAL_AGAIN = "it was equal when it was read again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """What one side has of the first keys that were asked for."""

    keys: int
    """So many: fewer than asked for where the rows are large."""
    rows: Mapping[Key, Row | None]
    """None for a row that is too large to travel."""


class RowReader(Protocol):
    """Reads rows of either side by key."""

    @property
    def keys_at_once(self) -> int:
        """How many keys to ask for in one call."""
        ...

    async def fetch(self, side: Side, keys: Sequence[Key]) -> Fetched:
        """The rows of at least one of these keys, as far as the side has them; not more than weigh a few MiB."""
        ...

    async def changed_since(self, keys: Sequence[Key], snapshot: bytes) -> frozenset[Key]:
        """Which of these rows of the source were written or deleted since, or may have been."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """A differing row as it was when it was read last."""

    kind: Kind
    key: Key
    rows: int = 1
    """More than one only without a key."""
    columns: tuple[ColumnDifference, ...] = ()
    is_moving: bool = False
    """The source has written it between the last two readings: nothing is known of what it will be."""
    detail: str = ""


@dataclass(slots=True, kw_only=True)
class _Candidate:
    kind: Kind
    source_digest: bytes | None = None
    is_moving: bool = False
    columns: tuple[ColumnDifference, ...] = ()
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settling:
    """How rows are read again."""

    reader: RowReader
    show_values: bool = False
    named_rows: int = 0
    """Of so many rows the differing columns are found out."""
    delay_s: float = 0.0
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    on_generation: Callable[[int, int], None] = lambda rows, generation: None

    async def settle(self, found: Sequence[Found], generations: int) -> list[Settled]:
        """The rows that differ each of so many times; those that were equal once have settled."""
        candidates = {row.key: _Candidate(kind=row.kind) for row in found}
        for generation in range(1, generations + 1):
            if not candidates:
                break
            await self.sleep(self.delay_s)
            self.on_generation(len(candidates), generation)
            candidates = await self._read_again(candidates, is_last=generation == generations)
        return [_settled(key, candidate) for key, candidate in candidates.items()]

    async def name(self, found: Sequence[Found]) -> list[Settled]:
        """The same rows with their differing columns; none is dropped, as the difference was seen in a snapshot."""
        candidates = {row.key: _Candidate(kind=row.kind) for row in found}
        shared = {key: candidate for key, candidate in candidates.items() if candidate.kind is Kind.DIFFERENT}
        still = await self._read_again(dict(list(shared.items())[: self.named_rows]), is_last=True)
        for key in list(shared)[: self.named_rows]:
            if key not in still:
                candidates[key].detail = EQUAL_AGAIN
        return [_settled(key, candidate) for key, candidate in candidates.items()]

    async def _read_again(self, candidates: dict[Key, _Candidate], *, is_last: bool) -> dict[Key, _Candidate]:
        keys = list(candidates)
        left: dict[Key, _Candidate] = {}
        done = 0
        while done < len(keys):
            some = keys[done : done + self.reader.keys_at_once]
            async with task_group() as group:
                asked = [group.create_task(self.reader.fetch(side, some)) for side in Side]
            source, target = (task.result() for task in asked)
            covered = min(source.keys, target.keys)
            done += covered
            for key in some[:covered]:
                if _is_equal(key, source.rows, target.rows):
                    continue
                left[key] = candidate = candidates[key]
                _update(candidate, key, source.rows, target.rows)
                if is_last and len(left) <= self.named_rows:
                    candidate.columns = self._columns(source.rows.get(key), target.rows.get(key))
        return left

    def _columns(self, source: Row | None, target: Row | None) -> tuple[ColumnDifference, ...]:
        if source is None or target is None:
            return ()
        names = [*source, *(name for name in target if name not in source)]
        return tuple(
            ColumnDifference(
                column=name,
                source=source.get(name) if self.show_values else None,
                target=target.get(name) if self.show_values else None,
            )
            for name in names
            if (name in source, source.get(name)) != (name in target, target.get(name))
        )


def _is_equal(key: Key, source: Mapping[Key, Row | None], target: Mapping[Key, Row | None]) -> bool:
    if key not in source or key not in target:
        return key not in source and key not in target
    # What cannot be read cannot be shown to be equal.
    return source[key] is not None and source[key] == target[key]


def _update(
    candidate: _Candidate, key: Key, source: Mapping[Key, Row | None], target: Mapping[Key, Row | None]
) -> None:
    if key in source and key in target:
        candidate.kind = Kind.DIFFERENT
        candidate.detail = TOO_LARGE if source[key] is None or target[key] is None else ""
    else:
        candidate.kind = Kind.MISSING if key in source else Kind.EXTRA
    digest = _digest(key in source, source.get(key))
    candidate.is_moving = candidate.source_digest is not None and candidate.source_digest != digest
    candidate.source_digest = digest


def _digest(is_there: bool, row: Row | None) -> bytes:
    """Of the source's row, remembered between two readings in place of its values."""
    if not is_there or row is None:
        return b"there" if is_there else b"absent"
    digest = xxhash.xxh3_128()
    for name, value in sorted(row.items()):
        # Lengths keep ("ab", "c") and ("a", "bc") apart; NULL has none.
        digest.update(f"{len(name)}:{name}{'-' if value is None else f'{len(value)}:{value}'}".encode())
    return digest.digest()


def _settled(key: Key, candidate: _Candidate) -> Settled:
    return Settled(
        kind=candidate.kind,
        key=key,
        columns=candidate.columns,
        is_moving=candidate.is_moving,
        detail=candidate.detail,
    )
