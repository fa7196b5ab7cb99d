"""How a source table's columns meet the sink's: which are copied, in which page type, and what would be lost."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dsync.sdk import types
from dsync_postgres.schema.findings import Finding, info, stop, warn
from dsync_postgres.sink.targets import TargetColumn, TargetTable

BINARY = types.PageType.PG_COPY_BINARY
TEXT = types.PageType.PG_COPY_TEXT
BSON = types.PageType.BSON
JSON = types.PageType.JSON


class Loss(enum.IntEnum):
    """What a value goes through from one type to another, as text."""

    NONE = 0
    """The types are equal, modifiers too."""
    FORM = 1
    """Every value has a place, in another form: integer to bigint, anything to text."""
    VALUE = 2
    """Values may be rounded, cut or refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """How one namespace is to be loaded."""

    columns: tuple[str, ...]
    page_type: types.PageType
    reason: str
    findings: tuple[Finding, ...]


# Every value of the first has an exact text that the others, without modifier, read as the same value.
_ROOMIER: dict[str, frozenset[str]] = {
    "smallint": frozenset({"integer", "bigint", "numeric", "real", "double precision"}),
    "integer": frozenset({"bigint", "numeric", "double precision"}),
    "bigint": frozenset({"numeric"}),
    "real": frozenset({"double precision"}),
    "bit": frozenset({"bit varying"}),
    "date": frozenset({"timestamp without time zone"}),
}
# Without a modifier they take any text there is.
_TEXTS = frozenset({"text", "character varying"})
# The modifier is a number of places: more of them hold every value of fewer.
_LENGTHS = frozenset({"character varying", "bit varying"})
_PRECISIONS = frozenset(
    {
        "timestamp without time zone",
        "timestamp with time zone",
        "time without time zone",
        "time with time zone",
        "interval",
    }
)
_PRINTED = re.compile(
    r"(?P<head>[a-z][a-z ]*?)(?:\((?P<modifier>-?\d+(?:,-?\d+)?)\))?(?P<zone> with(?:out)? time zone)?(?P<array>\[\])?"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Printed:
    """A built-in type as format_type prints it."""

    name: str
    modifier: tuple[int, ...]
    is_array: bool


def _parse(text: str) -> _Printed | None:
    match = _PRINTED.fullmatch(text)
    if match is None:
        return None
    modifier = match.group("modifier")
    return _Printed(
        name=match.group("head") + (match.group("zone") or ""),
        modifier=tuple(map(int, modifier.split(","))) if modifier else (),
        is_array=bool(match.group("array")),
    )


def loss(source: str, sink: str) -> Loss:
    """What values go through from a type to another; both as format_type prints them."""
    if source == sink:
        return Loss.NONE
    if sink in _TEXTS:
        return Loss.FORM
    old, new = _parse(source), _parse(sink)
    if old is None or new is None or old.is_array != new.is_array:
        return Loss.VALUE
    if old.is_array and new.name in _TEXTS and not new.modifier and old.name in _TEXTS | {"character"}:
        return Loss.FORM
    if old.name != new.name:
        return Loss.FORM if new.name in _ROOMIER.get(old.name, ()) and not new.modifier else Loss.VALUE
    if not new.modifier:
        # For bit and character no modifier means length one.
        return Loss.VALUE if new.name in ("bit", "character") else Loss.FORM
    return Loss.FORM if _has_room(old, new) else Loss.VALUE


def _has_room(old: _Printed, new: _Printed) -> bool:
    if old.name == "numeric" and len(old.modifier) == len(new.modifier) == 2:
        (precision, scale), (new_precision, new_scale) = old.modifier, new.modifier
        return new_scale >= scale and new_precision - new_scale >= precision - scale
    if old.name in _LENGTHS:
        return bool(old.modifier) and new.modifier[0] >= old.modifier[0]
    if old.name in _PRECISIONS:
        # No modifier is six digits.
        return new.modifier[0] >= (old.modifier[0] if old.modifier else 6)
    return False


def fit(
    source: types.NamespaceDescription,
    sink: TargetTable | None,
    *,
    page_types: Sequence[types.PageType] = (),
    allow_lossy: bool = False,
    is_own: bool = False,
) -> Fit:
    """How the rows of `source` get into `sink`; None: a table that is created just like the source's.

    `page_types` are those that may be used; none given means all. What would lose data is a finding that stops; for a
    table that `is_own`, which the flow has filled before, it says what helps there.
    """
    allowed = tuple(page_types) or (BINARY, TEXT, BSON, JSON)
    copied = tuple(column for column in source.columns if not column.generated)
    findings = [] if sink is None else list(_shape(source, sink, allow_lossy=allow_lossy, is_own=is_own))
    page_type, reason = _choose(copied, sink, allowed)
    if page_type in (BSON, JSON):
        findings += _unlike_documents(source, sink)
    return Fit(
        columns=tuple(column.name for column in copied), page_type=page_type, reason=reason, findings=tuple(findings)
    )


def fit_documents(page_types: Sequence[types.PageType] = ()) -> Fit:
    """How the documents of a source of another kind get into a table: by the names of their fields."""
    page_type = JSON if page_types and BSON not in page_types else BSON
    return Fit(columns=(), page_type=page_type, reason="the source is no PostgreSQL", findings=())


def _choose(
    columns: Sequence[types.Column], sink: TargetTable | None, allowed: Sequence[types.PageType]
) -> tuple[types.PageType, str]:
    if BINARY in allowed:
        objection = next((why for column in columns if (why := _objection(column, sink))), "")
        if not objection:
            return BINARY, "both ends have the same types"
        if TEXT in allowed:
            return TEXT, objection
    if TEXT in allowed:
        return TEXT, "binary pages are not wanted or not offered"
    return (BSON if BSON in allowed else JSON), "pages of COPY rows are not wanted or not offered"


def _objection(column: types.Column, sink: TargetTable | None) -> str:
    """Why a column does not travel in binary; empty where it does."""
    if BINARY not in column.page_types:
        return f"column {column.name} ({column.type}) has no binary form that means the same at both ends"
    target = None if sink is None else sink.column(column.name)
    if target is None:
        return ""
    if target.type != column.type:
        # Binary never converts: bigint into timestamp goes in without a word.
        return f"column {column.name} is {column.type} at the source and {target.type} at the sink"
    return "" if target.has_binary_input else f"column {column.name} ({column.type}) cannot be read in binary there"


def _unlike_documents(source: types.NamespaceDescription, sink: TargetTable | None) -> Iterator[Finding]:
    """Columns that would take a value as text only: a document says what kind of value it has."""
    for column in source.columns:
        target = None if sink is None else sink.column(column.name)
        if target is None or column.generated or loss(column.type, target.type) is not Loss.FORM:
            continue
        old, new = _parse(column.type), _parse(target.type)
        if old is None or new is None or (new.name in _TEXTS and old.name not in _TEXTS | {"character"}):
            yield stop(
                "unlike-in-documents",
                sink.name.namespace if sink is not None else "",
                f"column {column.name} is {column.type} at the source and {target.type} at the sink, which takes it as "
                "text only, not out of a document",
                "let rows travel as text (--data-type auto), or make the column alike at both ends",
            )


def _shape(
    source: types.NamespaceDescription, sink: TargetTable, *, allow_lossy: bool, is_own: bool
) -> Iterator[Finding]:
    """What differs between the source's table and the one that exists."""
    name = sink.name.namespace
    there = {column.name: column for column in sink.columns}
    for column in source.columns:
        target = there.pop(column.name, None)
        if target is None:
            if not column.generated:
                yield stop(
                    "column-missing",
                    name,
                    f"the sink's table has no column {column.name}",
                    "add it there, or "
                    + ("`dsync reset` this flow and copy anew with" if is_own else "let dsync make the table with")
                    + " --on-existing drop",
                )
        elif target.generated != column.generated:
            end = "sink" if target.generated else "source"
            yield stop(
                "generated-at-one-end",
                name,
                f"column {column.name} is computed by the {end} alone, so its values cannot be copied",
                "make the column alike at both ends",
            )
        elif not column.generated and (how := loss(column.type, target.type)) is not Loss.NONE:
            yield _unlike(name, column, target, how, allow_lossy=allow_lossy)
        elif not column.generated and column.type == target.type and column.shape != target.shape:
            yield made_otherwise(name, column, target)
    for target in there.values():
        if target.not_null and not target.has_default and not target.generated:
            yield stop(
                "column-without-value",
                name,
                f"column {target.name} of the sink's table is NOT NULL, has no default and is not at the source",
                "give it a default, or drop it",
            )
        elif not target.generated:
            yield info("column-extra", name, f"column {target.name} is the sink's alone and gets its default")


def made_otherwise(name: str, column: types.Column, target: TargetColumn) -> Finding:
    """A composite type's fields have no names in a row: in another order they take each other's values."""
    return stop(
        "type-made-otherwise",
        name,
        f"column {column.name}: the type {column.type} is {column.shape or 'a plain type'} at the source and "
        f"{target.shape or 'a plain type'} at the sink, so its values would come to mean something else",
        "make the type alike at both ends (of a table's row type: its columns, in the same order), or leave the table "
        "out",
    )


def _unlike(name: str, column: types.Column, target: TargetColumn, how: Loss, *, allow_lossy: bool) -> Finding:
    what = f"column {column.name} is {column.type} at the source and {target.type} at the sink"
    if how is Loss.FORM:
        return info("type-differs", name, f"{what}; every value has a place there, rows travel as text")
    if allow_lossy:
        return warn("lossy-type", name, f"{what}; values may be rounded, cut or refused, as --allow-lossy permits")
    return stop(
        "lossy-type",
        name,
        f"{what}; values may be rounded, cut or refused",
        "alter the column, or accept it with --allow-lossy",
    )
