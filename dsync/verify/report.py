"""What a verification has found: by namespace and class, with exact counts and the first differences by name."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

EXIT_EQUAL = 0
EXIT_DIFFERENT = 4


class Kind(enum.StrEnum):
    """The class of a difference."""

    MISSING = "missing"
    """A row of the source that the target does not have."""
    EXTRA = "extra"
    """A row of the target that the source does not have."""
    DIFFERENT = "different"
    """A row that both have, with unlike content."""
    TYPE = "type"
    """A column that the target lacks or keeps under another type."""
    COUNT = "count"
    """Unlike numbers of rows; what a quick verification finds."""
    NAMESPACE = "namespace"
    """A namespace that one end does not have."""


class Method(enum.StrEnum):
    """How rows were compared."""

    QUICK = "quick"
    PUSHED_DOWN = "pushed down"
    STREAMED = "streamed"
    NONE = "not compared"
    """There was nothing to compare: no rows of its own, or nothing on the other side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnDifference:
    """A column of a row that both ends have."""

    column: str
    source: str | None = None
    """The value as text; None also where values are not shown."""
    target: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One thing that is not alike."""

    kind: Kind
    key: tuple[str, ...] = ()
    """The row's key, in the order of the namespace's `key`; the row's hash where there is no key."""
    rows: int = 1
    """How many rows: more than one only without a key."""
    columns: tuple[ColumnDifference, ...] = ()
    detail: str = ""
    changed_since: bool = False
    """The row may have been written at the source since the copy, or is being written: no proof of a fault."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Differing rows by class, exact however many are listed."""

    missing: int = 0
    extra: int = 0
    different: int = 0
    changed_since: int = 0
    """Of any class, and in none of the counts above."""

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            missing=self.missing + other.missing,
            extra=self.extra + other.extra,
            different=self.different + other.different,
            changed_since=self.changed_since + other.changed_since,
        )

    @property
    def faults(self) -> int:
        """Rows that differ without an excuse."""
        return self.missing + self.extra + self.different


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceReport:
    """One namespace and its counterpart."""

    source: str
    target: str
    method: Method
    source_rows: int = 0
    target_rows: int = 0
    key: tuple[str, ...] = ()
    counts: Counts = Counts()
    differences: tuple[Difference, ...] = ()
    """The first ones; `counts` says how many there are."""
    notes: tuple[str, ...] = ()
    elapsed_s: float = 0.0
    stands_for: int = 1
    """How many of the namespaces that were to be compared this is: more for a tree that is compared as a whole."""

    @property
    def is_equal(self) -> bool:
        """No fault was found; rows that have changed since the copy are none."""
        return not self.counts.faults and all(difference.changed_since for difference in self.differences)

    @property
    def unlisted(self) -> int:
        """How many differing rows are counted but not listed."""
        listed = sum(d.rows for d in self.differences if d.kind in _ROW_KINDS)
        return max(0, self.counts.faults + self.counts.changed_since - listed)


_ROW_KINDS = frozenset({Kind.MISSING, Kind.EXTRA, Kind.DIFFERENT})


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """The result of a verification."""

    namespaces: tuple[NamespaceReport, ...]
    """In the order in which they were asked for."""
    live: bool
    """Compared as the ends were, not under the snapshot of a copy."""
    elapsed_s: float

    @property
    def exit_code(self) -> int:
        """0 where the ends agree, 4 where they differ."""
        return EXIT_EQUAL if self.is_equal else EXIT_DIFFERENT

    @property
    def is_equal(self) -> bool:
        return all(namespace.is_equal for namespace in self.namespaces)

    @property
    def source_rows(self) -> int:
        return sum(namespace.source_rows for namespace in self.namespaces)

    @property
    def target_rows(self) -> int:
        return sum(namespace.target_rows for namespace in self.namespaces)

    @property
    def counts(self) -> Counts:
        return sum((namespace.counts for namespace in self.namespaces), Counts())

    @property
    def methods(self) -> tuple[Method, ...]:
        """How rows were compared, each way once."""
        used = {namespace.method for namespace in self.namespaces} - {Method.NONE}
        return tuple(sorted(used)) or (Method.NONE,)

    def as_json(self) -> dict[str, Any]:
        """The report as what `json.dumps` takes."""
        return {
            "equal": self.is_equal,
            "source_rows": self.source_rows,
            "target_rows": self.target_rows,
            "counts": asdict(self.counts),
            "methods": [str(method) for method in self.methods],
            "view": "live" if self.live else "snapshot",
            "elapsed_s": round(self.elapsed_s, 3),
            "namespaces": [_namespace_json(namespace) for namespace in self.namespaces],
        }


def _namespace_json(report: NamespaceReport) -> dict[str, Any]:
    return {
        "source": report.source,
        "target": report.target,
        "equal": report.is_equal,
        "method": str(report.method),
        "source_rows": report.source_rows,
        "target_rows": report.target_rows,
        "counts": asdict(report.counts),
        "key": list(report.key),
        "differences": [_difference_json(difference) for difference in report.differences],
        "unlisted": report.unlisted,
        "notes": list(report.notes),
        "elapsed_s": round(report.elapsed_s, 3),
    }


def _difference_json(difference: Difference) -> dict[str, Any]:
    found = asdict(difference)
    found["kind"] = str(difference.kind)
    found["key"] = list(difference.key)
    found["columns"] = [asdict(column) for column in difference.columns]
    return found


def first_of(rows: Iterable[Difference], limit: int) -> tuple[Difference, ...]:
    """The first differing rows by class and key, so that the same differences make the same report."""
    order = list(Kind)
    ranked = sorted(rows, key=lambda d: (d.changed_since, order.index(d.kind), tuple(map(_natural, d.key))))
    return tuple(ranked[:limit])


def _natural(text: str) -> tuple[bool, float, str]:
    """Numbers before texts and by value, so that 9 comes before 10."""
    try:
        number = float(text)
    except ValueError:
        return True, 0.0, text
    return number != number, number if number == number else 0.0, text
