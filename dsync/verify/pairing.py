"""A namespace and its counterpart: which columns can be compared, by which key, and what already differs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dsync.protocol.types import Column, NamespaceDescription
from dsync.verify.report import Difference, Kind

_GUESSED_ROW_BYTES = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """What is compared with what."""

    source: str
    target: str
    columns: tuple[str, ...] = ()
    """What both have, in the source's order; empty also where columns are not known."""
    types: tuple[str, ...] = ()
    """Of these columns, at the source."""
    is_described: bool = False
    """Columns and key are known."""
    drops_columns: bool = False
    """One end has columns that the other one lacks."""
    key: tuple[str, ...] = ()
    """Empty: there is none that both have, or it is not known."""
    can_be_cut: bool = False
    """The key orders alike at both ends, is never NULL and is indexed at both."""
    estimated_rows: int = 0
    size_bytes: int = 0
    differences: tuple[Difference, ...] = ()
    """Of the definition, not of rows."""
    notes: tuple[str, ...] = ()

    @property
    def row_bytes(self) -> int:
        """About what a row weighs; 0: not known."""
        return self.size_bytes // self.estimated_rows if self.estimated_rows else 0


def pair_described(
    source: NamespaceDescription, target: NamespaceDescription, *, compare_types: bool, keep_generated: bool
) -> Pair:
    """A pair whose columns are known.

    `compare_types`: types have the same names at both ends. `keep_generated`: computed columns are compared as well;
    pages do not carry them.
    """
    theirs = {column.name: column for column in target.columns}
    wanted = [column for column in source.columns if keep_generated or not column.generated]
    common = [column for column in wanted if column.name in theirs]
    names = frozenset(column.name for column in common)
    key = source.key if set(source.key) <= names else ()
    extra = [column.name for column in target.columns if column.name not in {c.name for c in source.columns}]
    size_bytes = max(source.size_bytes, target.size_bytes)
    return Pair(
        source=source.namespace,
        target=target.namespace,
        columns=tuple(column.name for column in common),
        types=tuple(column.type for column in common),
        is_described=True,
        drops_columns=len(common) != len(wanted) or bool(extra),
        key=key,
        can_be_cut=bool(key) and target.key == key and _orders_alike(key, source.columns, theirs),
        # A table that was never analysed has no estimate, and may be large.
        estimated_rows=max(source.estimated_rows, target.estimated_rows) or size_bytes // _GUESSED_ROW_BYTES,
        size_bytes=size_bytes,
        differences=(
            *(_absent(column) for column in wanted if column.name not in names),
            *(_retyped(column, theirs[column.name]) for column in common if _differs(column, theirs, compare_types)),
        ),
        notes=(f"only the target has the column {', '.join(extra)}: not compared",) if extra else (),
    )


def _orders_alike(key: Sequence[str], columns: Sequence[Column], theirs: dict[str, Column]) -> bool:
    ours = {column.name: column for column in columns}
    return all(
        ours[name].type == theirs[name].type
        and all(column.orders_everywhere and column.not_null for column in (ours[name], theirs[name]))
        for name in key
    )


def _differs(column: Column, theirs: dict[str, Column], compare_types: bool) -> bool:
    other = theirs[column.name]
    return compare_types and (column.type, column.shape) != (other.type, other.shape)


def _absent(column: Column) -> Difference:
    return Difference(kind=Kind.TYPE, rows=0, detail=f"the target has no column {column.name} ({column.type})")


def _retyped(column: Column, other: Column) -> Difference:
    ours, theirs = (f"{each.type} {each.shape}".rstrip() for each in (column, other))
    detail = f"{column.name} is {ours} at the source and {theirs} at the target"
    return Difference(kind=Kind.TYPE, rows=0, detail=detail)
